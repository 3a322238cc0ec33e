"""What each part of the method and of the recipe is worth: the recipe with one thing changed, at equal budget.

    python benchmarks/ablation.py --train DIR --validation DIR … --scheme RULE … --output DIR \\
        [--only full a teacher] [--seeds 0 1 2] [--epochs 65] [--pretrain-epochs 20]

Rows (a) to (e) are those of the paper's Table 3; the others are settings of the recipe `long-2mm`, which all rows share
on a template of 4 mm, so that a row costs minutes on one CPU core. Runs resume, and finished ones are not repeated:
start it again with more rows, or start one process per seed. Prints, for every folder of validation cases, Dice over
all 15 subsets after the last epoch, and in how many subsets a row is better than the full method.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from m3ae_core.bundle import load_bundle
from m3ae_core.config import Recipe, load_recipe, parse_recipe
from m3ae_core.data.dataset import cache_case
from m3ae_core.files import write_json
from m3ae_core.hardware import Hardware
from m3ae_core.io.case import CaseFiles, find_cases
from m3ae_core.io.folders.schemes import schemes_of, weights_of
from m3ae_core.memory import keep_freed_memory
from m3ae_core.modalities import ModalitySet
from m3ae_core.regions import LabelScheme
from m3ae_core.training.folder import cache_folder
from m3ae_core.training.launch import launch
from m3ae_core.training.run import Plan, stage_named
from m3ae_core.training.run import train as train_stage
from m3ae_core.training.validate import Validation

#: Row -> what it stands for, and the settings that it changes.
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "full": ("the full method", {}),
    "a": ("no pretraining", {"finetune.pretrained": False}),
    "b": ("modality dropout alone, no patches masked", {"pretrain.masking.patches": False}),
    "c": ("zero instead of the substitute", {"pretrain.substitute.kind": "zero"}),
    "d": ("the mean image instead of the substitute", {"pretrain.substitute.kind": "mean"}),
    "e": ("no self distillation", {"finetune.consistency_weight": 0.0}),
    "dropout": (
        "modality dropout alone: zero fill, no pretraining, no distillation",
        {
            "pretrain.substitute.kind": "zero",
            "pretrain.epochs": 1,
            "finetune.pretrained": False,
            "finetune.consistency_weight": 0.0,
        },
    ),
    "rough": ("the substitute's gradient as it is", {"pretrain.substitute.gradient_sd": 0.0}),
    "scanner": ("no other scanners", {"finetune.scanner": None}),
    "still": ("no turns and zooms, none of nnU-Net's intensities", {"finetune.nnunet": False}),
    "count": ("numbers of sequences alike, not subsets", {"finetune.situations": "count"}),
    "teacher": ("a mean teacher that sees all sequences", {"finetune.teacher": 1.0}),
    "whole": ("the whole template in stage 2, no crops", {"finetune.crop": (40, 48, 40)}),
    "anywhere": ("crops anywhere, not onto the tumour", {"finetune.foreground": 0.0}),
    "transplant": ("half of the samples with another case's lesion", {"finetune.transplant": 0.5}),
    "third": ("a third of the cohort's images taken away", {}),
}
COARSE = {
    "model.grid.shape": (40, 48, 40),
    "model.grid.affine": ((0, 0, -4, -39.5), (0, -4, 0, 205.5), (4, 0, 0, -0.5), (0, 0, 0, 1)),
    "pretrain.crop": (32, 40, 32),
    "pretrain.masking.patch": 4,
    "pretrain.substitute.gradient_sd": 1.0,
    "finetune.crop": (32, 40, 32),
    "finetune.ema": 0.995,
    "finetune.validate_on": "all",
    "finetune.validate_every": 10_000,
}


@dataclass(frozen=True)
class Setup:
    """What all rows share: folders, label schemes, weights and epochs."""

    train: Path
    validation: tuple[Path, ...]
    scheme: tuple[str, ...]
    weight: tuple[str, ...]
    output: Path
    epochs: int
    pretrain_epochs: int

    def schemes(self, modalities: ModalitySet) -> dict[str, LabelScheme]:
        """Return the label scheme of every case of all folders."""
        folders = (self.train, *self.validation)
        return schemes_of(
            [case for folder in folders for case in find_cases(folder, modalities)], self.scheme
        )


def recipe(row: str, seed: int, setup: Setup) -> Recipe:
    content = load_recipe("long-2mm").model_dump()
    budget = {"pretrain.epochs": setup.pretrain_epochs, "finetune.epochs": setup.epochs}
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
    return row if row == "third" or any(name.startswith("pretrain") for name in ROWS[row][1]) else "full"


def without_a_third(cases: Sequence[CaseFiles], seed: int) -> tuple[CaseFiles, ...]:
    """Take a third of all images away, at random; every case keeps one."""
    rng = np.random.default_rng(seed)
    kept = {(case.name, str(rng.choice(list(case.images)))) for case in cases}
    rest = [(case.name, image) for case in cases for image in case.images if (case.name, image) not in kept]
    count = sum(len(case.images) for case in cases)
    gone = {rest[n] for n in rng.choice(len(rest), count // 3, replace=False)}
    return tuple(
        replace(
            case, images={name: path for name, path in case.images.items() if (case.name, name) not in gone}
        )
        for case in cases
    )


def run(row: str, seed: int, setup: Setup, hardware: Hardware) -> dict[str, dict[str, dict[str, float]]]:
    """Return Dice by folder of validation cases, subset and region."""
    settings = recipe(row, seed, setup)
    measured = setup.output / f"finetune-{row}-{seed}" / "measured.json"
    if not measured.exists():
        bundle = train(row, seed, settings, setup, hardware)
        write_json(
            measured, {folder.name: dice(bundle, folder, setup, hardware) for folder in setup.validation}
        )
    result: dict[str, dict[str, dict[str, float]]] = json.loads(measured.read_text("utf-8"))
    return result


def train(row: str, seed: int, settings: Recipe, setup: Setup, hardware: Hardware) -> Path:
    cases = find_cases(setup.train, settings.model.modality_set)
    if row == "third":
        cases = without_a_third(cases, seed)
    schemes, weights = setup.schemes(settings.model.modality_set), weights_of(cases, setup.weight)
    one = setup.output / f"pretrain-{first_stage(row)}-{seed}"
    two = setup.output / f"finetune-{row}-{seed}"
    for folder in (one, two):
        plan = Plan(settings, cases, folder, schemes=schemes, weights=weights, hardware=hardware)
        if not (folder / "bundle/bundle.json").exists():
            name, start = ("pretrain", None) if folder == one else ("finetune", one / "bundle")
            for _ in train_stage(plan, stage_named(settings, name), pretrained=start):
                pass
    return two / "bundle"


def dice(path: Path, folder: Path, setup: Setup, hardware: Hardware) -> dict[str, dict[str, float]]:
    bundle, fabric = load_bundle(path), launch(hardware)
    cases = find_cases(folder, bundle.config.modality_set)
    schemes = setup.schemes(bundle.config.modality_set)
    cached = [
        cache_case(case, bundle.config, schemes[case.name], cache_folder(path.parent)) for case in cases
    ]
    config = Recipe(model=bundle.config).finetune.model_copy(update={"validate_on": "all"})
    check = Validation(bundle.config, config, cached, fabric)
    return check.run(0, bundle.model).by_subset


def table(results: dict[str, list[dict[str, dict[str, dict[str, float]]]]], folder: str) -> str:
    """Means over the subsets, with the standard deviation over the seeds where there are several."""
    regions = list(next(iter(results["full"][0][folder].values())))
    lines = [
        f"| {folder} | | {' | '.join(regions)} | mean | better in |",
        f"|---|---|{'---|' * (len(regions) + 2)}",
    ]
    arrays = {
        row: np.array([[[*by.values()] for by in one[folder].values()] for one in runs])
        for row, runs in results.items()
    }
    for row, values in arrays.items():  # (seeds, subsets, regions)
        of_seeds = values.mean(1)
        means = [*of_seeds.mean(0), of_seeds.mean()]
        spread = of_seeds.mean(1).std(ddof=1) if len(values) > 1 else None
        cells = [f"{value:.3f}" for value in means]
        cells[-1] += f" ± {spread:.3f}" if spread is not None else ""
        better = int((values.mean((0, 2)) > arrays["full"].mean((0, 2))).sum())
        lines.append(f"| {row} | {ROWS[row][0]} | {' | '.join(cells)} | {better if row != 'full' else ''} |")
    return "\n".join(lines)


def main(
    train: Path,
    validation: tuple[Path, ...],
    scheme: tuple[str, ...],
    output: Path,
    weight: tuple[str, ...] = (),
    seeds: Sequence[int] = (0,),
    only: Sequence[str] = tuple(ROWS),
    epochs: int = 65,
    pretrain_epochs: int = 20,
    precision: str = "32-true",
) -> None:
    keep_freed_memory(4 * 2 * 8 * 40 * 48 * 40)
    torch.set_num_threads(1)
    setup = Setup(train, validation, scheme, weight, output, epochs, pretrain_epochs)
    hardware = Hardware(device="cpu", workers=0, precision=precision)
    results: dict[str, list[dict[str, dict[str, dict[str, float]]]]] = {}
    for seed in seeds:
        for row in dict.fromkeys(("full", *only)):
            results.setdefault(row, []).append(run(row, seed, setup, hardware))
            print(f"seed {seed} row {row} done", flush=True)
    for folder in validation:
        print(table(results, folder.name))


if __name__ == "__main__":
    tyro.cli(main)
