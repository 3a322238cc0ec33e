"""A stage of any method, from cases to a bundle: cache, task, loop, and the run folder.

A run folder holds ``recipe.json``, ``cases.json`` (what it learns from, by name and content), the record
(:mod:`m3ae_core.training.record`), ``checkpoint.pt`` (the last state, to resume from), ``best`` (the bundle of the best
validation) and, at the end, ``bundle``. The cache of decoded cases lies beside the run folders, so that all stages
share it.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from m3ae_core.bundle import Bundle, load_bundle, save_bundle
from m3ae_core.config import Recipe
from m3ae_core.data.dataset import CachedCase, Samples, cache_case
from m3ae_core.data.protocols import list_sha256
from m3ae_core.errors import ConfigError, InputError
from m3ae_core.events import EpochDone, Event, Progress, Resumed, Saved
from m3ae_core.hardware import Hardware
from m3ae_core.io.case import CaseFiles
from m3ae_core.methods.method import Stage, Task
from m3ae_core.methods.registry import method_named
from m3ae_core.regions import BRATS_2023, LabelScheme
from m3ae_core.training.folder import cache_folder, run_folder
from m3ae_core.training.identity import keep_identity
from m3ae_core.training.launch import launch, prepare
from m3ae_core.training.loop import Setting, fit
from m3ae_core.training.record import BUNDLE, recorded
from m3ae_core.training.schedule import Budget, most_epochs
from m3ae_core.training.validate import Validation

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class Plan:
    """What a stage is given: the recipe, the cases, the folder of the run, and the hardware.

    `schemes` names the label scheme of single cases, by name; the others follow `scheme`. `weights` says how much the
    labels of single cases count (1). The cases are named in the run folder, in its bundles only with `name_cases`. A
    `budget` of minutes takes the place of the recipe's epochs.

    Examples
    --------
    >>> from pathlib import Path
    >>> from m3ae_core import Plan
    >>> from m3ae_core.config import load_recipe
    >>> plan = Plan(load_recipe("demo-2mm"), cases=[], folder=Path("run"))
    >>> plan.recipe.finetune.epochs
    80
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

    Examples
    --------
    One epoch of the baseline on a synthetic case, far too small to be of use:

    >>> from pathlib import Path
    >>> from m3ae_core import Plan, find_cases, train
    >>> from m3ae_core.config import parse_recipe
    >>> from m3ae_core.data.phantom import write_phantom
    >>> from m3ae_core.hardware import Hardware
    >>> _ = write_phantom("cases", "phantom", shape=(24, 24, 24))
    >>> network = {"base_channels": 2, "norm_groups": 1}
    >>> recipe = parse_recipe({
    ...     "model": {"method": "unet-dropout", "network": network},
    ...     "train": {"crop": (16, 16, 16), "epochs": 1},
    ... })
    >>> plan = Plan(recipe, find_cases("cases"), Path("run"), hardware=Hardware(device="cpu", workers=0))
    >>> *_, last = train(plan)
    >>> last
    Saved(path='run/bundle', epoch=1)
    """
    stage = stage or only_stage(plan.recipe)
    start = None if pretrained is None else starting_bundle(pretrained, plan.recipe)
    begun_with = start.model if start else None
    stage.require(begun_with)
    _refuse_incomplete(validation, plan.recipe)
    fabric, settings = launch(plan.hardware), stage.settings(plan.recipe)
    with run_folder(plan.folder, plan.recipe, stage.name, fabric):
        cached = yield from cached_cases(plan.cases, plan, fabric, labelled=stage.labelled)
        held_out = yield from cached_cases(validation, plan, fabric)
        identity = run_identity(plan, stage, fabric, (cached, held_out), start)
        torch.manual_seed(settings.seed)
        task = stage.task(plan.recipe, begun_with, cached)
        prepare(task.trained, plan.hardware)
        checks = Validation(plan.recipe.model, settings, held_out, fabric)

        def keep(name: str, measured: dict[str, Any]) -> Saved | None:
            if not fabric.is_global_zero:
                return None
            bundle = Bundle(task.model, plan.card(stage, start, measured))
            return Saved(str(save_bundle(bundle, plan.folder / name)), measured["epoch"])

        setting = Setting(
            plan.folder,
            plan.hardware,
            identity,
            plan.budget,
            lambda epoch: checks.run(epoch, task.model) if checks.due(epoch) else None,
            lambda found: keep("best", {"epoch": found.epoch, "validation_dice": found.by_subset}),
        )
        events = fit(task, plan.samples(cached, stage), settings, fabric, setting)
        epochs = yield from record_run(events, plan, fabric, task)
        if saved := keep(BUNDLE, {"epoch": epochs}):
            yield from task.finished()
            yield saved


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
