"""Whether one pass is as good as windows: Dice of a model applied to real cases in each way.

    python benchmarks/extent.py --cases DIR [--bundle DIR] [--side 64] [--subsets FLAIR+T1+T1c+T2 ...]

Group normalisation takes its statistics over all that a pass sees, so each extent is another answer. Mean Dice over
cases and subsets (all that the cases have, if none are named), per region, for one pass over the template, one over the
brain box, and windows of `side` voxels, half overlapping. The first row is what the model was trained with.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tyro

from m3ae_core.bundle import load_bundle
from m3ae_core.config import Window
from m3ae_core.data.builtin import builtin_bundle
from m3ae_core.data.preprocess import Standardiser
from m3ae_core.evaluation.metrics import dice_by_region
from m3ae_core.inference.predictor import Predictor
from m3ae_core.io.case import find_cases, read_case, read_case_labels
from m3ae_core.regions import BRATS_2023


def main(cases: Path, bundle: Path | None = None, side: int = 64, subsets: tuple[str, ...] = ()) -> None:
    model = load_bundle(bundle or builtin_bundle())
    ways: dict[str, Window] = {
        "template": "template",
        "brain": "brain",
        f"windows of {side}³": (side, side, side),
    }
    predictors = {name: Predictor(model, "cpu", window=window) for name, window in ways.items()}
    chosen = [s for s in model.config.modality_set.subsets() if not subsets or str(s) in subsets]
    dice: dict[str, list[list[float]]] = {name: [] for name in ways}
    for files in find_cases(cases, model.config.modality_set):
        case = read_case(files, model.config.modality_set)
        reference, shared = read_case_labels(files, case).data, Standardiser(case, model.config)
        for subset in chosen:
            for name, predictor in predictors.items():
                labels = predictor.predict(case.only(*subset.present), BRATS_2023, shared).labels
                dice[name].append(list(dice_by_region(labels, reference, BRATS_2023).values()))
    print(f"{len(chosen)} subsets; trained with {model.config.inference.window}.\n")
    print("| way | WT | TC | ET | mean | against the first |\n|---|---|---|---|---|---|")
    means = {name: np.mean(values, axis=0) for name, values in dice.items()}
    first = next(iter(means.values())).mean()
    for name, mean in means.items():
        regions = " | ".join(f"{value:.3f}" for value in mean)
        print(f"| {name} | {regions} | {mean.mean():.3f} | {mean.mean() - first:+.4f} |")


if __name__ == "__main__":
    tyro.cli(main)
