"""Dice of a model on every case of a folder, from each of the 2^N - 1 subsets of its sequences.

    python benchmarks/subsets.py --cases DIR [--bundle DIR] [--scheme brats2023] [--json-file FILE]

Prints a Markdown table: one row per subset, the mean over the cases per region. The masks compared are those a user
gets, on each case's own grid.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Literal

import numpy as np
import tyro

from m3ae_core.bundle import Bundle, load_bundle
from m3ae_core.data.builtin import builtin_bundle
from m3ae_core.data.case import CaseFiles, find_cases, read_case, read_case_labels
from m3ae_core.evaluation.metrics import dice_by_region
from m3ae_core.files import write_json
from m3ae_core.inference.predictor import Predictor
from m3ae_core.regions import REGIONS, LabelScheme, scheme_named

#: subset -> case -> region -> Dice
Table = dict[str, dict[str, dict[str, float]]]


def measure(bundle: Bundle, cases: tuple[CaseFiles, ...], scheme: LabelScheme) -> Table:
    predictor = Predictor(bundle)
    table: Table = {str(subset): {} for subset in predictor.config.modality_set.subsets()}
    for files in cases:
        case, started = read_case(files, predictor.config.modality_set), time.monotonic()
        reference = read_case_labels(files, case).data
        for subset in predictor.config.modality_set.subsets():
            labels = predictor.predict(case.only(*subset.present), scheme).labels
            table[str(subset)][files.name] = dice_by_region(labels, reference, scheme)
        print(f"{files.name}: {len(table)} subsets in {time.monotonic() - started:.0f} s", file=sys.stderr)
    return table


def values(table: Table, subset: str, region: str) -> list[float]:
    return [dice[region] for dice in table[subset].values()]


def reliability(table: Table) -> dict[str, dict[str, dict[str, float]]]:
    """Median, quartiles and n per subset and region: what a bundle's card keeps."""
    card = {}
    for subset in table:
        card[subset] = {}
        for region in REGIONS:
            q1, median, q3 = np.percentile(values(table, subset, region.name), (25, 50, 75))
            numbers = {"median": median, "q1": q1, "q3": q3}
            card[subset][region.name] = {name: round(float(x), 3) for name, x in numbers.items()}
            card[subset][region.name]["n"] = len(table[subset])
    return card


def markdown(table: Table) -> str:
    names = [region.name for region in REGIONS]
    lines = [f"| Present | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    means = {subset: [float(np.mean(values(table, subset, name))) for name in names] for subset in table}
    lines += [f"| {subset} | {' | '.join(f'{x:.3f}' for x in row)} |" for subset, row in means.items()]
    overall = np.mean(list(means.values()), axis=0)
    lines.append(f"| **mean of {len(table)}** | {' | '.join(f'**{x:.3f}**' for x in overall)} |")
    return "\n".join(lines)


def main(
    cases: Path,
    bundle: Path | None = None,
    scheme: Literal["brats2021", "brats2023", "msd"] = "brats2023",
    json_file: Path | None = None,
) -> None:
    model = load_bundle(bundle or builtin_bundle())
    table = measure(model, find_cases(cases), scheme_named(scheme))
    print(markdown(table))
    if json_file:
        write_json(json_file, {"model": model.name, "sha256": model.sha256, "dice": table})


if __name__ == "__main__":
    tyro.cli(main)
