"""Turn a finished run into the built-in model: write its card from what was measured, put it into the package.

    m3ae benchmark --cases VALIDATION_DIR --scheme brats2023 --bundle RUN/bundle --output RESULTS
    python benchmarks/ship_model.py --run RUN --pretrain-run RUN --results RESULTS

The networks and the substitute are copied as training left them; only the card and the golden mask of the self-test are
new. Learning curves of both stages go into docs/images.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import tyro

from m3ae_core.bundle import load_bundle, save_bundle
from m3ae_core.data.builtin import builtin_bundle
from m3ae_core.evaluation.conventions import BRATS_LEGACY
from m3ae_core.evaluation.registry import DICE
from m3ae_core.evaluation.statistics import reliability, summaries
from m3ae_core.evaluation.store import load_results
from m3ae_core.files import write_text
from m3ae_core.report.curves import save_curves
from m3ae_core.report.tables import score_table
from m3ae_core.report.template import render
from m3ae_core.selftest.golden import write_golden
from m3ae_core.training.record import TIMES

DATA = (
    "BraTS-Africa (BraTS 2023 Sub-Saharan Africa), The Cancer Imaging Archive, https://doi.org/10.7937/v8h6-8x67, "
    "CC BY 4.0. Cite Adewole et al., arXiv:2305.19369."
)
CARD = Path(__file__).with_name("model_card.md")
PICTURES = Path(__file__).parents[1] / "docs/images"


def minutes(run: Path) -> tuple[float, int]:
    """Return the minutes all epochs of a run took together, and their number."""
    epochs = [json.loads(line)["seconds"] for line in (run / TIMES).read_text("utf-8").splitlines()]
    return sum(epochs) / 60, len(epochs)


def main(run: Path, pretrain_run: Path, results: Path) -> None:
    bundle, measured = load_bundle(run / "bundle"), load_results(results)
    cells = summaries(measured.scores(BRATS_LEGACY), "dice")
    table = render("table.md", table=score_table(cells, measured.subsets, DICE, BRATS_LEGACY.name))
    (first, first_epochs), (second, second_epochs) = minutes(pretrain_run), minutes(run)
    card = {
        **bundle.card,
        "name": "demo-2mm",
        "intended_use": "Research use only. Not a medical device.",
        "data": DATA,
        "licence": "CC BY 4.0",
        "training_minutes": {"pretrain": round(first), "finetune": round(second)},
        "validation_cases": [case["name"] for case in measured.record["cases"]],
        "reliability": reliability(measured, bundle),
    }
    folder = save_bundle(replace(bundle, card=card), builtin_bundle())
    text = CARD.read_text("utf-8").format(
        name=card["name"],
        preset=bundle.config.preset,
        channels=bundle.config.network.base_channels,
        count=card["training_case_count"],
        data=DATA,
        precision=card["precision"],
        pretrain_minutes=first,
        pretrain_epochs=first_epochs,
        finetune_minutes=second,
        finetune_epochs=second_epochs,
        spread=bundle.model.substitute.std().item(),
        table=table,
    )
    save_curves(pretrain_run, PICTURES / "curves-pretrain.png")
    save_curves(run, PICTURES / "curves-finetune.png")
    write_text(folder / "MODEL_CARD.md", text)
    write_golden()
    print(table)


if __name__ == "__main__":
    tyro.cli(main)
