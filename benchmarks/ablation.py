"""The ablation of the paper's Table 3 at equal budget: rows (a) to (e) against the full method, over several seeds.

    python benchmarks/ablation.py --train DIR --validation DIR --output DIR [--seeds 0 1] [--only full a]

Each row is the same recipe with one setting changed. The recipe is the built-in model's on a template of 4 mm, so that
a row costs minutes on one CPU core. Runs resume, and finished ones are not repeated: start it again, or start one
process per seed. Prints Dice, averaged over the validation cases and all 15 subsets, after the last epoch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from m3ae_core.config import Recipe, load_recipe, parse_recipe
from m3ae_core.data.case import find_cases
from m3ae_core.hardware import Hardware
from m3ae_core.memory import keep_freed_memory
from m3ae_core.training.record import LOG
from m3ae_core.training.stages import Plan, finetune, pretrain

#: Row -> what it stands for, and the one setting that it changes.
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "full": ("the full method", {}),
    "a": ("no pretraining", {"finetune.pretrained": False}),
    "b": ("modality dropout alone, no patches masked", {"pretrain.masking.patches": False}),
    "c": ("zero instead of the substitute", {"pretrain.substitute.kind": "zero"}),
    "d": ("the mean image instead of the substitute", {"pretrain.substitute.kind": "mean"}),
    "e": ("no self distillation", {"finetune.consistency_weight": 0.0}),
}
COARSE = {
    "model.grid.shape": (40, 48, 40),
    "model.grid.affine": ((0, 0, -4, -39.5), (0, -4, 0, 205.5), (4, 0, 0, -0.5), (0, 0, 0, 1)),
    "pretrain.crop": (40, 48, 40),
    "pretrain.batch_size": 2,
    "pretrain.masking.patch": 4,
    "finetune.crop": (40, 48, 40),
    "finetune.validate_on": "all",
    "finetune.validate_every": 1000,
}


def recipe(row: str, seed: int, epochs: int) -> Recipe:
    content = load_recipe("demo-2mm").model_dump()
    budget = {"pretrain.epochs": epochs, "finetune.epochs": epochs}
    seeds = {"pretrain.seed": seed, "finetune.seed": seed}
    for name, value in {**COARSE, **budget, **seeds, **ROWS[row][1]}.items():
        *path, last = name.split(".")
        part = content
        for key in path:
            part = part[key]
        part[last] = value
    return parse_recipe(content)


def first_stage(row: str) -> str:
    """Rows that change stage 2 alone share the first stage of the full method."""
    return row if any(name.startswith("pretrain") for name in ROWS[row][1]) else "full"


def run(row: str, seed: int, folders: tuple[Path, Path, Path], epochs: int) -> dict[str, float]:
    train, validation, output = folders
    settings, hardware = recipe(row, seed, epochs), Hardware(device="cpu", workers=0)
    modalities = settings.model.modality_set
    cases = find_cases(train, modalities)
    one = output / f"pretrain-{first_stage(row)}-{seed}"
    if not (one / "bundle/bundle.json").exists():
        for _ in pretrain(Plan(settings, cases, one, hardware=hardware)):
            pass
    two = output / f"finetune-{row}-{seed}"
    if not (two / "bundle/bundle.json").exists():
        plan = Plan(settings, cases, two, hardware=hardware)
        for _ in finetune(plan, one / "bundle", find_cases(validation, modalities)):
            pass
    validated = [
        line for line in map(json.loads, (two / LOG).read_text("utf-8").splitlines()) if "dice" in line
    ]
    dice: dict[str, float] = validated[-1]["dice"]
    return dice


def table(results: dict[str, list[dict[str, float]]]) -> str:
    regions = list(next(iter(results.values()))[0])
    lines = [f"| | | {' | '.join(regions)} | mean |", f"|---|---|{'---|' * (len(regions) + 1)}"]
    for row, runs in results.items():
        values = np.array([[*dice.values(), np.mean(list(dice.values()))] for dice in runs])
        cells = [
            f"{m:.3f} ({', '.join(f'{x:.3f}' for x in xs)})"
            for m, xs in zip(values.mean(0), values.T, strict=True)
        ]
        lines.append(f"| {'' if row == 'full' else f'({row})'} | {ROWS[row][0]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(
    train: Path,
    validation: Path,
    output: Path,
    seeds: Sequence[int] = (0, 1),
    only: Sequence[str] = tuple(ROWS),
    epochs: int = 40,
) -> None:
    keep_freed_memory(4 * 2 * 8 * 40 * 48 * 40)
    torch.set_num_threads(1)
    results: dict[str, list[dict[str, float]]] = {}
    for seed in seeds:
        for row in only:
            results.setdefault(row, []).append(run(row, seed, (train, validation, output), epochs))
            print(f"seed {seed} row {row}: {results[row][-1]}", flush=True)
    print(table(results))


if __name__ == "__main__":
    tyro.cli(main)
