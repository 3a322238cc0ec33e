"""A stage of any method, from cases to a bundle: cache, task, loop, and the run folder.

A run folder holds ``recipe.json``, ``cases.json`` (what it learns from, by name and content), the record
(:mod:`m3ae_core.training.record`), ``checkpoint.pt`` (the last state, to resume from), ``best`` (the bundle of the best
validation) and, at the end, ``bundle``. The cache of decoded cases lies beside the run folders, so that all stages
share it.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from filelock import FileLock, Timeout

from m3ae_core.bundle import Bundle, load_bundle, save_bundle
from m3ae_core.config import Recipe
from m3ae_core.data.dataset import CachedCase, Samples, cache_case
from m3ae_core.data.protocols import list_sha256
from m3ae_core.errors import ConfigError, InputError, OutputError
from m3ae_core.events import EpochDone, Event, Progress, Resumed, Saved, Validated
from m3ae_core.files import ensure_writable, make_folder, remove_left_over, write_json
from m3ae_core.hardware import Hardware
from m3ae_core.io.case import CaseFiles
from m3ae_core.methods.method import Stage, Task
from m3ae_core.methods.registry import method_named
from m3ae_core.regions import BRATS_2023, LabelScheme
from m3ae_core.training.checkpoint import CHECKPOINT
from m3ae_core.training.identity import keep_identity
from m3ae_core.training.launch import launch, prepare
from m3ae_core.training.loop import fit
from m3ae_core.training.record import BUNDLE, LOCK, RECIPE, recorded
from m3ae_core.training.schedule import Budget, most_epochs
from m3ae_core.training.validate import Validation

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class Plan:
    """What a stage is told: the recipe, the cases, where results go, and what computes them.

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

    def settings(self, stage: Stage) -> dict[str, Any]:
        """Return what a stage obeys; defaults are left out, so that a setting added later makes no other run of it."""
        content = self.recipe.model_dump(mode="json", exclude_defaults=True)
        return {part: content.get(part) for part in ("model", stage.name)}

    def samples(self, cases: Sequence[CachedCase], stage: Stage) -> Samples[Any]:
        """Return the samples of a stage, for as many epochs as there can be."""
        settings = stage.settings(self.recipe)
        epochs = most_epochs(settings.epochs, self.budget)
        return Samples(cases, settings.model_copy(update={"epochs": epochs}), stage.draw(self.recipe))

    def card(self, stage: Stage, start: Bundle | None, measured: Mapping[str, Any]) -> dict[str, Any]:
        """Return the card of a bundle made by this plan: how many cases and a hash of their list, names if asked."""
        names = [case.name for case in self.cases]
        fresh = {
            "name": f"{self.recipe.model.preset} {stage.makes}",
            "stage": stage.makes,
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
            "precision": self.hardware.precision,
            "training_case_count": len(names),
            "training_cases_sha256": list_sha256(names),
            **({"training_cases": names} if self.name_cases else {}),
            "recipe": self.recipe.model_dump(mode="json"),
            **measured,
        }
        return stage.card(fresh, start.card if start else None)


def train(
    plan: Plan,
    stage: Stage | None = None,
    *,
    pretrained: Path | None = None,
    validation: Sequence[CaseFiles] = (),
) -> Iterator[Event]:
    """Run one stage of the recipe's method; ends with ``bundle`` in the run folder, and goes on where it was stopped.

    Training cases may lack modalities. With `validation` cases, which must be complete, the bundle of the best
    validation is kept as ``best``.

    Parameters
    ----------
    stage
        The method's only one if left out.
    pretrained
        Folder of the bundle to start from, for stages that need one.

    Raises
    ------
    InputError, ConfigError, OutputError, BundleError
        If a case, the recipe, the bundle or the run folder cannot be used; nothing is trained then.
    """
    stage = stage or only_stage(plan.recipe)
    start = None if pretrained is None else starting_bundle(pretrained, plan.recipe)
    begun_with = start.model if start else None
    stage.require(begun_with)
    _refuse_incomplete(validation, plan.recipe)
    fabric = launch(plan.hardware)
    with run_folder(plan, stage, fabric):
        cached = yield from cached_cases(plan.cases, plan, fabric, labelled=stage.labelled)
        held_out = yield from cached_cases(validation, plan, fabric)
        identity = run_identity(plan, stage, fabric, (cached, held_out), start)
        torch.manual_seed(stage.settings(plan.recipe).seed)
        task = stage.task(plan.recipe, begun_with, cached)
        prepare(task.trained, plan.hardware)
        checks = Validation(plan.recipe.model, stage.settings(plan.recipe), held_out, fabric)

        def keep(name: str, measured: dict[str, Any]) -> Path:
            return save_bundle(Bundle(task.model, plan.card(stage, start, measured)), plan.folder / name)

        def keep_best(validated: Validated) -> None:
            if fabric.is_global_zero:
                keep("best", {"epoch": validated.epoch, "validation_dice": validated.by_subset})

        events = fit(
            task,
            plan.samples(cached, stage),
            stage.settings(plan.recipe),
            fabric,
            plan.folder,
            hardware=plan.hardware,
            budget=plan.budget,
            validate=lambda epoch: checks.run(epoch, task.model) if checks.due(epoch) else None,
            keep_best=keep_best,
            identity=identity,
        )
        epochs = yield from record_run(events, plan, fabric, task)
        if fabric.is_global_zero:
            yield from task.finished()
            yield Saved(str(keep(BUNDLE, {"epoch": epochs})), epochs)


def stage_named(recipe: Recipe, name: str) -> Stage:
    """Return a stage of the recipe's method.

    Raises
    ------
    ConfigError
        If the method has no such stage (``no-stage``).
    """
    stages = method_named(recipe.model.method).stages()
    for stage in stages:
        if stage.name == name:
            return stage
    raise ConfigError(
        f"The method {recipe.model.method} has no stage {name!r}.",
        f"It is trained by {' and '.join(f'm3ae {stage.name}' for stage in stages)}.",
        code="no-stage",
    )


def only_stage(recipe: Recipe) -> Stage:
    """Return the only stage of the recipe's method.

    Raises
    ------
    ConfigError
        If it has several (``no-stage``).
    """
    stages = method_named(recipe.model.method).stages()
    return stages[0] if len(stages) == 1 else stage_named(recipe, "train")


def run_identity(
    plan: Plan,
    stage: Stage,
    fabric: Fabric,
    cases: tuple[Sequence[CachedCase], Sequence[CachedCase]],
    start: Bundle | None,
) -> str:
    """Do what :func:`keep_identity` does in the first process, which alone writes checkpoints; the others have none."""
    if not fabric.is_global_zero:
        return ""
    pretrained = None if start is None else start.fingerprint
    return keep_identity(plan.folder, *cases, pretrained, plan.settings(stage))


@contextmanager
def run_folder(plan: Plan, stage: Stage, fabric: Fabric) -> Iterator[None]:
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
            _keep_recipe(folder / RECIPE, plan.recipe, stage.name)
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


def starting_bundle(path: Path, recipe: Recipe) -> Bundle:
    """Read the bundle to go on from.

    Raises
    ------
    BundleError, ConfigError
        If it cannot be read, or is of another model than the recipe's.
    """
    start = load_bundle(path)
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
    events: Iterable[Event], plan: Plan, fabric: Fabric, task: Task
) -> Generator[Event, None, int]:
    """Pass on the events of the first process, recorded; the others only take part. Returns the epochs done."""
    epochs = 0
    if fabric.is_global_zero:
        events = recorded(events, plan.folder, lambda: task.watched)
    for event in events:
        if isinstance(event, Resumed | EpochDone):
            epochs = event.epoch
        if fabric.is_global_zero:
            yield event
    return epochs


def _keep_recipe(path: Path, recipe: Recipe, stage: str) -> None:
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
