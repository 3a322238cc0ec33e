"""The two stages from a folder of cases to a bundle: cache, task, loop, and the run folder.

A run folder holds ``recipe.json``, ``cases.json`` (what it learns from, by name and content), the record
(:mod:`m3ae_core.training.record`), ``checkpoint.pt`` (the last state, to resume from), ``best`` (the bundle of the best
validation) and, at the end, ``bundle``. The cache of decoded cases lies beside the run folders, so that both stages
share it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from filelock import FileLock, Timeout

from m3ae_core.bundle import Bundle, load_bundle, save_bundle
from m3ae_core.config import Recipe, StageConfig
from m3ae_core.data.dataset import CachedCase, Crop, Sample, Samples, cache_case
from m3ae_core.data.protocols import list_sha256
from m3ae_core.errors import BundleError, ConfigError, InputError, OutputError
from m3ae_core.events import EpochDone, Event, Progress, Resumed, Saved, Validated
from m3ae_core.files import ensure_writable, make_folder, remove_left_over, write_json
from m3ae_core.hardware import Hardware
from m3ae_core.io.case import CaseFiles
from m3ae_core.methods.m3ae.networks import Segmenter
from m3ae_core.methods.m3ae.substitute import SubstituteImage
from m3ae_core.methods.m3ae.tasks import FinetuneDraw, FinetuneTask, PretrainDraw, PretrainTask
from m3ae_core.regions import BRATS_2023, LabelScheme
from m3ae_core.training.checkpoint import CHECKPOINT
from m3ae_core.training.identity import keep_identity
from m3ae_core.training.launch import launch, prepare
from m3ae_core.training.loop import train
from m3ae_core.training.record import BUNDLE, LOCK, RECIPE, recorded
from m3ae_core.training.schedule import Budget, most_epochs
from m3ae_core.training.validate import Validation

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class Plan:
    """What both stages are told: the recipe, the cases, where results go, and what computes them.

    `schemes` names the label scheme of single cases, by name; the others follow `scheme`. `weights` says
    how much the labels of single cases count (1). The cases
    are named in the run folder, in its bundles only with `name_cases`. A `budget` of minutes takes the place of the
    recipe's epochs.
    """

    recipe: Recipe
    cases: Sequence[CaseFiles]
    folder: Path
    scheme: LabelScheme = BRATS_2023
    schemes: Mapping[str, LabelScheme] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    hardware: Hardware = field(default_factory=Hardware)
    name_cases: bool = False
    budget: Budget | None = None

    def settings(self, stage: Literal["pretrain", "finetune"]) -> dict[str, Any]:
        """Return what a stage obeys; defaults are left out, so that a setting added later makes no other run of it."""
        content = self.recipe.model_dump(mode="json", exclude_defaults=True)
        return {part: content.get(part) for part in ("model", stage)}

    def samples(
        self,
        cases: Sequence[CachedCase],
        stage: StageConfig,
        draw: Callable[[Crop, np.random.Generator], Sample],
    ) -> Samples[Sample]:
        """Return the samples of a stage, for as many epochs as there can be."""
        epochs = most_epochs(stage.epochs, self.budget)
        return Samples(cases, stage.model_copy(update={"epochs": epochs}), draw)

    def card(self, stage: str) -> dict[str, Any]:
        """Return the card of a bundle made by this plan: how many cases and a hash of their list, names if asked."""
        names = [case.name for case in self.cases]
        return {
            "name": f"{self.recipe.model.preset} {stage}",
            "stage": stage,
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
            "precision": self.hardware.precision,
            "training_case_count": len(names),
            "training_cases_sha256": list_sha256(names),
            **({"training_cases": names} if self.name_cases else {}),
            "recipe": self.recipe.model_dump(mode="json"),
        }


def pretrain(plan: Plan) -> Iterator[Event]:
    """Stage 1: learn the masked autoencoder and the substitute image; ends with ``bundle`` in the run folder.

    Cases need no labels, and may lack modalities.

    Raises
    ------
    InputError, ConfigError, OutputError
        If a case, the recipe or the run folder cannot be used; nothing is trained then.
    """
    recipe, config, fabric = plan.recipe, plan.recipe.pretrain, launch(plan.hardware)
    with run_folder(plan, "pretrain", fabric):
        cached = yield from cached_cases(plan.cases, plan, fabric, labelled=False)
        identity = run_identity(plan, "pretrain", fabric, cached)
        torch.manual_seed(config.seed)
        task = PretrainTask(recipe.model, config, starting_substitute(recipe, cached))
        prepare(task.autoencoder, plan.hardware)
        events = train(
            task,
            plan.samples(cached, config, PretrainDraw(config)),
            config,
            fabric,
            plan.folder,
            hardware=plan.hardware,
            budget=plan.budget,
            identity=identity,
        )
        learned = task.substitute if task.learns_substitute else None
        epochs = yield from record_run(events, plan, fabric, learned)
        if fabric.is_global_zero:
            image = task.substitute.image.detach().cpu()
            bundle = Bundle(recipe.model, image, task.autoencoder.cpu(), None, plan.card("pretrained"))
            yield Saved(str(save_bundle(bundle, plan.folder / BUNDLE)), epochs)


def finetune(plan: Plan, pretrained: Path, validation: Sequence[CaseFiles] = ()) -> Iterator[Event]:
    """Stage 2: start from the bundle `pretrained`, learn to segment; ends with ``bundle``, which holds both networks.

    A bundle of stage 1 gives its autoencoder's weights, one that segments already gives its segmenter's.
    Training cases may lack modalities: situations are drawn among those that they have. With `validation` cases, which
    must be complete, the bundle of the best validation is kept as ``best``.

    Raises
    ------
    InputError, ConfigError, OutputError, BundleError
        If a case, the recipe, the bundle or the run folder cannot be used; nothing is trained then.
    """
    recipe, config, start = plan.recipe, plan.recipe.finetune, pretrained_bundle(pretrained, plan.recipe)
    _refuse_incomplete(validation, recipe)
    fabric = launch(plan.hardware)
    with run_folder(plan, "finetune", fabric):
        cached = yield from cached_cases(plan.cases, plan, fabric)
        held_out = yield from cached_cases(validation, plan, fabric)
        identity = run_identity(plan, "finetune", fabric, cached, held_out, start.fingerprint)
        torch.manual_seed(config.seed)
        segmenter = starting_segmenter(recipe, start)
        checks = Validation(recipe.model, config, held_out, fabric)
        task = FinetuneTask(recipe.model, config, segmenter, SubstituteImage.fixed(start.substitute), checks)
        prepare(segmenter, plan.hardware)

        def keep(name: str, measured: dict[str, Any]) -> Path:
            card = {**plan.card("segmenter"), **measured}
            return save_bundle(
                Bundle(recipe.model, start.substitute, start.autoencoder, task.deployed, card),
                plan.folder / name,
            )

        def keep_best(validated: Validated) -> None:
            if fabric.is_global_zero:
                keep("best", {"epoch": validated.epoch, "validation_dice": validated.by_subset})

        events = train(
            task,
            plan.samples(cached, config, FinetuneDraw(config, recipe.model.steps)),
            config,
            fabric,
            plan.folder,
            hardware=plan.hardware,
            budget=plan.budget,
            keep_best=keep_best,
            identity=identity,
        )
        epochs = yield from record_run(events, plan, fabric)
        if fabric.is_global_zero:
            yield Saved(str(keep(BUNDLE, {"epoch": epochs})), epochs)


def run_identity(
    plan: Plan,
    stage: Literal["pretrain", "finetune"],
    fabric: Fabric,
    cases: Sequence[CachedCase],
    validation: Sequence[CachedCase] = (),
    pretrained: str | None = None,
) -> str:
    """Do what :func:`keep_identity` does in the first process, which alone writes checkpoints; the others have none."""
    if not fabric.is_global_zero:
        return ""
    return keep_identity(plan.folder, cases, validation, pretrained, plan.settings(stage))


def starting_segmenter(recipe: Recipe, start: Bundle) -> Segmenter:
    """Return the segmenter that stage 2 starts from: the bundle's own, its autoencoder's weights, or random ones."""
    segmenter = Segmenter(recipe.model)
    if recipe.finetune.pretrained and start.segmenter is not None:
        segmenter.load_state_dict(start.segmenter.state_dict())
    elif recipe.finetune.pretrained and start.autoencoder is not None:
        segmenter = Segmenter.from_pretrained(recipe.model, start.autoencoder)
    return segmenter


def starting_substitute(recipe: Recipe, cases: Sequence[CachedCase]) -> SubstituteImage:
    """Return the substitute that stage 1 starts from: noise to be learned from, or one that stays as it is."""
    config, shape = recipe.pretrain.substitute, recipe.model.grid.shape
    if config.kind == "learned":
        return SubstituteImage(len(recipe.model.modalities), shape, config.init_std)
    image = torch.zeros(len(recipe.model.modalities), *shape)
    if config.kind == "mean":
        counts = np.sum([case.exists for case in cases], axis=0).clip(1)
        for case in cases:
            image += torch.from_numpy(np.array(case.image) / counts[:, None, None, None].astype(np.float32))
    return SubstituteImage.fixed(image)


@contextmanager
def run_folder(plan: Plan, stage: Literal["pretrain", "finetune"], fabric: Fabric) -> Iterator[None]:
    """Make and lock a run folder and store the recipe in it; a folder of another recipe is left as it is.

    The first process does so, the others wait for it.

    Raises
    ------
    OutputError
        If the folder cannot be made, another run is using it (code ``locked``), or it belongs to a run with another
        model or other settings of this stage (``other-recipe``).
    """
    if not fabric.is_global_zero:
        fabric.barrier()
        yield
        return
    folder = plan.folder
    for needed in (folder, cache_folder(folder)):
        ensure_writable(make_folder(needed) / LOCK)
    try:
        with FileLock(folder / LOCK, timeout=0):
            _keep_recipe(folder / RECIPE, plan.recipe, stage)
            remove_left_over(folder)
            fabric.barrier()
            yield
    except Timeout as error:
        problem = "Another run is using this folder."
        raise OutputError(
            problem, "Wait for it, or choose another folder.", path=folder, code="locked"
        ) from error


def cache_folder(folder: Path) -> Path:
    """Return where the decoded cases of a run folder are kept: beside it, for other runs to use."""
    return folder.absolute().parent / "cache"


def pretrained_bundle(path: Path, recipe: Recipe) -> Bundle:
    """Read the bundle of stage 1 to go on from.

    Raises
    ------
    BundleError, ConfigError
        If it cannot be read or holds no autoencoder, or is of another model than the recipe's.
    """
    start = load_bundle(path)
    if start.autoencoder is None:
        problem = "This bundle holds no masked autoencoder to start from."
        raise BundleError(problem, "Run `m3ae pretrain` first.", path=path)
    if start.config != recipe.model:
        raise ConfigError(
            "The recipe describes another model than the pretrained bundle.",
            "Use the recipe the bundle was pretrained with.",
            path=path,
            code="other-recipe",
        )
    return start


def _refuse_incomplete(validation: Sequence[CaseFiles], recipe: Recipe) -> None:
    """Validation drops modalities itself, so it needs them all."""
    for case in validation:
        if absent := [name for name in recipe.model.modalities if name not in case.images]:
            raise InputError(
                f"The validation case {case.name} lacks {', '.join(absent)}.",
                "Validate on complete cases; incomplete ones can be trained on.",
                code="incomplete",
            )


def record_run(
    events: Iterable[Event], plan: Plan, fabric: Fabric, substitute: SubstituteImage | None = None
) -> Generator[Event, None, int]:
    """Pass on the events of the first process, recorded; the others only take part. Returns the epochs done."""
    epochs = 0
    if fabric.is_global_zero:
        events = recorded(events, plan.folder, None if substitute is None else lambda: substitute.image)
    for event in events:
        if isinstance(event, Resumed | EpochDone):
            epochs = event.epoch
        if fabric.is_global_zero:
            yield event
    return epochs


def _keep_recipe(path: Path, recipe: Recipe, stage: Literal["pretrain", "finetune"]) -> None:
    """Store the recipe of a run; where the run has begun, refuse to go on with another.

    One that lacks a setting is another: an older version may have computed otherwise where nothing could be set.
    """
    own = recipe.model_dump(mode="json")
    begun = path.with_name(CHECKPOINT).exists()
    stored = _stored_recipe(path)
    problem = ""
    if stored is None and begun:
        problem, code = "The recipe of this run is missing or damaged.", "damaged"
    elif stored is not None and any(stored.get(part) != own[part] for part in ("model", stage)):
        problem, code = "The run in this folder was started with other settings.", "other-recipe"
        if unknown := [
            name for part in ("model", stage) for name in _unknown(stored.get(part), own[part], f"{part}.")
        ]:
            problem = f"The run was started by another version, which had no {', '.join(unknown)}."
    if problem:
        fix = "Choose another output folder, or use the recipe stored in this one."
        raise OutputError(problem, fix, path=path, code=code)
    write_json(path, own)


def _stored_recipe(path: Path) -> dict[str, Any] | None:
    """Return the recipe in a run folder; None if there is none that can be read."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _unknown(stored: Any, own: Any, name: str = "") -> list[str]:
    """Return the settings of a recipe, by their dotted names, that a stored one does not have."""
    if not isinstance(stored, dict) or not isinstance(own, dict):
        return []
    missing = [f"{name}{key}" for key in own if key not in stored]
    return missing + [
        deeper for key in own if key in stored for deeper in _unknown(stored[key], own[key], f"{name}{key}.")
    ]


def cached_cases(
    cases: Sequence[CaseFiles], plan: Plan, fabric: Fabric, *, labelled: bool = True
) -> Generator[Progress, None, list[CachedCase]]:
    """Decode the cases, a few at a time; the first process does, the others find them done."""
    folder, model = cache_folder(plan.folder), plan.recipe.model

    def prepare_one(case: CaseFiles) -> CachedCase:
        scheme = plan.schemes.get(case.name, plan.scheme)
        cached = cache_case(case, model, scheme, folder, labelled=labelled)
        return replace(cached, weight=plan.weights.get(case.name, 1.0))

    if not fabric.is_global_zero:
        fabric.barrier()
        return [prepare_one(case) for case in cases]
    cached: list[CachedCase] = []
    with ThreadPoolExecutor(max(1, plan.hardware.workers)) as pool:
        for one in pool.map(prepare_one, cases):
            cached.append(one)
            yield Progress("cases read", len(cached), len(cases))
    fabric.barrier()
    return cached
