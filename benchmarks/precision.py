"""What bfloat16 changes: Dice of a model applied to real cases in either arithmetic, from every subset.

    python benchmarks/precision.py --cases DIR [--bundle DIR]

Processors with AMX or AVX512-BF16 compute in bfloat16, others in float32 (elsewhere this script emulates bfloat16,
slowly, with the same result). Seconds are of a prediction whose images are in memory.
"""

from __future__ import annotations

import time
from pathlib import Path
from unittest.mock import patch

import numpy as np
import tyro

from m3ae_core.bundle import load_bundle
from m3ae_core.data.builtin import builtin_bundle
from m3ae_core.data.preprocess import Standardiser
from m3ae_core.evaluation.metrics import dice_by_region
from m3ae_core.inference import device
from m3ae_core.inference.predictor import Predictor
from m3ae_core.io.case import find_cases, read_case, read_case_labels
from m3ae_core.regions import BRATS_2023

WAYS = {"float32": False, "bfloat16": True}


def main(cases: Path, bundle: Path | None = None) -> None:
    model = load_bundle(bundle or builtin_bundle())
    predictor = Predictor(model, "cpu")
    dice: dict[str, list[list[float]]] = {name: [] for name in WAYS}
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    agreement: list[list[float]] = []
    for files in find_cases(cases, model.config.modality_set):
        case = read_case(files, model.config.modality_set)
        reference, shared = read_case_labels(files, case).data, Standardiser(case, model.config)
        for subset in model.config.modality_set.subsets():
            masks = []
            for name, in_half in WAYS.items():
                with patch.object(device, "cpu_has_bfloat16", lambda in_half=in_half: in_half):
                    started = time.perf_counter()
                    masks.append(predictor.predict(case.only(*subset.present), BRATS_2023, shared).labels)
                    seconds[name].append(time.perf_counter() - started)
                dice[name].append(list(dice_by_region(masks[-1], reference, BRATS_2023).values()))
            agreement.append(list(dice_by_region(masks[1], masks[0], BRATS_2023).values()))
    change = np.abs(np.subtract(*dice.values()))
    print("| arithmetic | WT | TC | ET | mean | s a prediction |\n|---|---|---|---|---|---|")
    for name, values in dice.items():
        regions = " | ".join(f"{value:.4f}" for value in np.mean(values, axis=0))
        print(f"| {name} | {regions} | {np.mean(values):.4f} | {np.median(seconds[name]):.2f} |")
    print(
        f"\n{len(change)} predictions: Dice against the reference changes by {change.max():.4f} at most and by "
        f"{change.mean():.5f} in the mean; the two masks agree with Dice {np.min(agreement):.4f} at least."
    )


if __name__ == "__main__":
    tyro.cli(main)
