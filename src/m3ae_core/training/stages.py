"""The two stages from a folder of cases to a bundle: cache, task, loop, and the run folder.

A run folder holds ``recipe.json``, ``log.jsonl``, ``checkpoint.pt``, the ``cache`` and, at the end, the ``bundle``.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from filelock import FileLock, Timeout

from m3ae_core.bundle import Bundle, load_bundle, save_bundle
from m3ae_core.config import Recipe
from m3ae_core.data.case import CaseFiles
from m3ae_core.data.dataset import CachedCase, Samples, cache_case
from m3ae_core.errors import BundleError, ConfigError, OutputError
from m3ae_core.events import Progress, Saved, Validated
from m3ae_core.files import write_json
from m3ae_core.model.m3ae import Segmenter
from m3ae_core.model.substitute import SubstituteImage
from m3ae_core.regions import BRATS_2023, LabelScheme
from m3ae_core.training.loop import Event, train
from m3ae_core.training.tasks import FinetuneTask, PretrainTask
from m3ae_core.training.validate import Validation

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def pretrain(
    recipe: Recipe,
    cases: Sequence[CaseFiles],
    folder: Path,
    *,
    scheme: LabelScheme = BRATS_2023,
    device: str = "auto",
    precision: str = "32-true",
) -> Iterator[Event | Progress]:
    """Stage 1: learn the masked autoencoder and the substitute image; ends with `folder`/bundle.

    Raises
    ------
    InputError, ConfigError, OutputError, BundleError
        If a case, the recipe or the run folder cannot be used; nothing is trained then.
    """
    with run_folder(folder, recipe, "pretrain"):
        cached = yield from _cache(cases, recipe, scheme, folder)
        torch.manual_seed(recipe.pretrain.seed)
        task = PretrainTask(recipe.model, recipe.pretrain, starting_substitute(recipe, cached))
        fabric = make_fabric(device, precision)
        samples = Samples(cached, recipe.pretrain, task.draw)
        yield from train(task, samples, recipe.pretrain, fabric, folder)
        substitute = task.substitute.image.detach().cpu()
        card = _card("pretrained", recipe, cases, precision)
        bundle = Bundle(recipe.model, substitute, task.autoencoder.cpu(), None, card)
        yield Saved(str(save_bundle(bundle, folder / "bundle")), recipe.pretrain.epochs)


def finetune(
    recipe: Recipe,
    cases: Sequence[CaseFiles],
    pretrained: Path,
    folder: Path,
    *,
    validation: Sequence[CaseFiles] = (),
    scheme: LabelScheme = BRATS_2023,
    device: str = "auto",
    precision: str = "32-true",
) -> Iterator[Event | Progress]:
    """Stage 2: start from the bundle `pretrained`, learn to segment; ends with `folder`/bundle, which holds both.

    Raises
    ------
    InputError, ConfigError, OutputError, BundleError
        If a case, the recipe, the bundle or the run folder cannot be used; nothing is trained then.
    """
    start = load_bundle(pretrained)
    if start.autoencoder is None:
        raise BundleError(
            "This bundle holds no masked autoencoder to start from.",
            "Run `m3ae pretrain` first.",
            path=pretrained,
        )
    if start.config != recipe.model:
        raise ConfigError(
            "The recipe describes another model than the pretrained bundle.",
            "Use the recipe the bundle was pretrained with.",
            path=pretrained,
            code="other-recipe",
        )
    with run_folder(folder, recipe, "finetune"):
        cached = yield from _cache(cases, recipe, scheme, folder)
        held_out = yield from _cache(validation, recipe, scheme, folder)
        torch.manual_seed(recipe.finetune.seed)
        substitute = SubstituteImage.fixed(start.substitute)
        segmenter = Segmenter(recipe.model)
        if recipe.finetune.pretrained:
            segmenter = Segmenter.from_pretrained(recipe.model, start.autoencoder)
        task = FinetuneTask(recipe.model, recipe.finetune, segmenter, substitute)
        checks = Validation(recipe.model, recipe.finetune, held_out)

        def validate(epoch: int) -> Validated | None:
            return checks.run(epoch, task.deployed, substitute) if checks.due(epoch) else None

        samples = Samples(cached, recipe.finetune, task.draw)
        yield from train(task, samples, recipe.finetune, make_fabric(device, precision), folder, validate)
        card = _card("segmenter", recipe, cases, precision)
        bundle = Bundle(recipe.model, start.substitute, start.autoencoder, task.deployed.cpu(), card)
        yield Saved(str(save_bundle(bundle, folder / "bundle")), recipe.finetune.epochs)


def starting_substitute(recipe: Recipe, cases: Sequence[CachedCase]) -> SubstituteImage:
    """Return the substitute that stage 1 starts from: noise to be learned from, or one that stays as it is."""
    config, shape = recipe.pretrain.substitute, recipe.model.grid.shape
    if config.kind == "learned":
        return SubstituteImage(len(recipe.model.modalities), shape, config)
    image = torch.zeros(len(recipe.model.modalities), *shape)
    if config.kind == "mean":
        for case in cases:
            image += torch.from_numpy(np.array(case.image)) / len(cases)
    return SubstituteImage.fixed(image)


@contextmanager
def run_folder(folder: Path, recipe: Recipe, stage: Literal["pretrain", "finetune"]) -> Iterator[None]:
    """Make and lock a run folder and store the recipe in it; a folder of another recipe is left as it is.

    Raises
    ------
    OutputError
        If the folder cannot be made, another run is using it (code ``locked``), or it belongs to a run with another
        model or other settings of this stage (``other-recipe``).
    """
    try:
        (folder / "cache").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        problem = f"The run folder cannot be made: {error.strerror}."
        raise OutputError(problem, "Choose another one.", path=folder, code="not-writable") from error
    try:
        with FileLock(folder / ".lock", timeout=0):
            _keep_recipe(folder / "recipe.json", recipe, stage)
            yield
    except Timeout as error:
        problem = "Another run is using this folder."
        raise OutputError(
            problem, "Wait for it, or choose another folder.", path=folder, code="locked"
        ) from error


def make_fabric(device: str, precision: str) -> Fabric:
    """Return a launched Fabric for one process; the multi-process launchers of Fabric set it up themselves.

    Raises
    ------
    ConfigError
        If the extra ``train`` is not installed.
    """
    try:
        from lightning_fabric import Fabric
    except ImportError as error:
        raise ConfigError(
            "Training needs Lightning Fabric, which is not installed.",
            "Run: pip install 'napari-m3ae[train]'.",
            code="no-fabric",
        ) from error
    fabric = Fabric(accelerator=device, devices=1, precision=precision)  # type: ignore[arg-type]
    fabric.launch()
    return fabric


def _keep_recipe(path: Path, recipe: Recipe, stage: str) -> None:
    content = recipe.model_dump(mode="json")
    if path.exists():
        stored = json.loads(path.read_text("utf-8"))
        if any(stored.get(part) != content[part] for part in ("model", stage)):
            raise OutputError(
                "The run in this folder was started with other settings.",
                "Choose another output folder, or use the recipe stored in this one.",
                path=path,
                code="other-recipe",
            )
    write_json(path, content)


def _cache(
    cases: Sequence[CaseFiles], recipe: Recipe, scheme: LabelScheme, folder: Path
) -> Generator[Progress, None, list[CachedCase]]:
    cached: list[CachedCase] = []
    for case in cases:
        cached.append(cache_case(case, recipe.model, scheme, folder / "cache"))
        yield Progress("cases read", len(cached), len(cases))
    return cached


def _card(stage: str, recipe: Recipe, cases: Sequence[CaseFiles], precision: str) -> dict[str, Any]:
    return {
        "name": f"{recipe.model.preset} {stage}",
        "stage": stage,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "precision": precision,
        "training_cases": [case.name for case in cases],
        "recipe": recipe.model_dump(mode="json"),
    }
