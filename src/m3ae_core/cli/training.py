"""The sub-commands that train."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import OmitArgPrefixes, Positional

from m3ae_core.cli.arguments import OptionalFolder, OptionalPath
from m3ae_core.cli.printed import print_doubts
from m3ae_core.cli.progress import follow
from m3ae_core.errors import printable
from m3ae_core.extras import require_extra
from m3ae_core.hardware import Hardware
from m3ae_core.modalities import ModalitySet

if TYPE_CHECKING:
    from m3ae_core.config import ModelConfig, Recipe
    from m3ae_core.events import Event
    from m3ae_core.io.case import CaseFiles
    from m3ae_core.methods.method import Stage
    from m3ae_core.stage_config import StageConfig
    from m3ae_core.training.schedule import Budget

HardwareOptions = Annotated[Hardware, OmitArgPrefixes]
HARDWARE = Hardware()


def pretrain(
    recipe: Positional[str],
    *,
    cases: Path,
    output: Path,
    split: OptionalPath = None,
    name_cases: bool = False,
    minutes: float | None = None,
    hardware: HardwareOptions = HARDWARE,
) -> None:
    """Stage 1: learn the masked autoencoder and the substitute image. Resumes if the run folder holds a checkpoint.

    Args:
        recipe: A built-in recipe (paper, official, demo-2mm, long-2mm) or a TOML file.
        cases: Folder of cases, each with whichever sequences it has, or a manifest of `m3ae scan`; labels are not read.
        output: The run folder.
        split: Split folder (its train.txt), or a text file with one name a line; all cases if left out.
        name_cases: Name the training cases in the bundle; else it holds their number and a hash of the list.
        minutes: Minutes that the run may take, all its starts together, instead of epochs; the learning rate follows.
        hardware: Where and how to compute.
    """
    require_extra("train")
    from m3ae_core.config import load_recipe
    from m3ae_core.training.run import Plan, stage_named, train

    settings = load_recipe(recipe)
    _tune_memory(settings.model, settings.pretrain, 1)
    chosen = chosen_cases(cases, split, settings.model.modality_set)
    plan = Plan(settings, chosen, output, hardware=hardware, name_cases=name_cases, budget=_budget(minutes))
    _finish(train(plan, stage_named(settings, "pretrain")), output)


def invert(
    bundle: Positional[Path],
    *,
    cases: Path,
    output: Path,
    epochs: int = 6,
    learning_rate: float = 0.01,
    split: OptionalPath = None,
    minutes: float | None = None,
    hardware: HardwareOptions = HARDWARE,
) -> None:
    """Learn a bundle's substitute image anew against its frozen autoencoder (Eqn. 1). Resumes like stage 1.

    Args:
        bundle: A bundle that holds the masked autoencoder.
        cases: Folder of case folders, each with whichever sequences it has; labels are not read.
        output: The run folder.
        epochs: Passes over the cases.
        learning_rate: Of the substitute.
        split: Split folder (its train.txt), or a text file with one name a line; all cases if left out.
        minutes: Minutes that the run may take, all its starts together, instead of epochs; the learning rate follows.
        hardware: Where and how to compute.
    """
    require_extra("train")
    from m3ae_core.bundle import load_bundle
    from m3ae_core.methods.m3ae.stages import Invert, inversion_recipe
    from m3ae_core.training.run import Plan, train

    start = load_bundle(bundle)
    settings = inversion_recipe(start.config, start.card, epochs, learning_rate)
    _tune_memory(settings.model, settings.pretrain, 1)
    chosen = chosen_cases(cases, split, settings.model.modality_set)
    plan = Plan(settings, chosen, output, hardware=hardware, budget=_budget(minutes))
    _finish(train(plan, Invert(), pretrained=bundle), output)


@dataclass(frozen=True)
class LabelledCases:
    """Cases with label maps to learn from, and others to validate with.

    Attributes
    ----------
    cases
        Folder of cases, or a manifest of `m3ae scan`, with label maps.
    split
        Split folder (train.txt trains, val.txt validates), or a text file of training cases; all if left out.
    validation
        Folder of validation cases, if they are not in the folder of cases.
    validation_split
        Split folder or text file with the names of the validation cases; if left out, those of the split, or all of the
        folder of validation cases.
    scheme
        Label scheme of the cases, which must be stated here or in the manifest; PATTERN=SCHEME after it for those whose
        name or folder matches, as in brats2023 'BraTS2021_*=brats2021'.
    weight
        PATTERN=WEIGHT for cases whose labels count less, such as those that no expert drew.
    name_cases
        Name the training cases in the bundle; else it holds their number and a hash of the list.
    """

    cases: Path
    split: OptionalPath = None
    validation: OptionalFolder = None
    validation_split: OptionalPath = None
    scheme: tuple[str, ...] = ()
    weight: tuple[str, ...] = ()
    name_cases: bool = False

    def held_out(self, modalities: ModalitySet) -> tuple[CaseFiles, ...]:
        """Return the validation cases: of the folder and list given, else of the split's val.txt, else none."""
        split = self.split if self.validation is None and self.split and self.split.is_dir() else None
        names = self.validation_split or split
        if not (self.validation or names):
            return ()
        return chosen_cases(self.validation or self.cases, names, modalities, "val")


LabelledOptions = Annotated[LabelledCases, OmitArgPrefixes]


def finetune(
    recipe: Positional[str],
    *,
    pretrained: Path,
    data: LabelledOptions,
    output: Path,
    minutes: float | None = None,
    hardware: HardwareOptions = HARDWARE,
) -> None:
    """Stage 2: learn to segment with any subset, starting from stage 1. Resumes like stage 1.

    Args:
        recipe: The recipe that stage 1 used.
        pretrained: The bundle that stage 1 made, or one that segments already, to go on from; builtin is ours.
        data: The cases.
        output: The run folder.
        minutes: Minutes that the run may take, all its starts together, instead of epochs; the learning rate follows.
        hardware: Where and how to compute.
    """
    require_extra("train")
    from m3ae_core.config import load_recipe
    from m3ae_core.training.run import stage_named

    settings = load_recipe(recipe)
    _tune_memory(settings.model, settings.finetune, 2)
    _train(
        Asked(settings, data, output, minutes, hardware),
        stage_named(settings, "finetune"),
        _bundle(pretrained),
    )


def train(
    method: Positional[str],
    *,
    recipe: str = "paper",
    data: LabelledOptions,
    output: Path,
    minutes: float | None = None,
    hardware: HardwareOptions = HARDWARE,
) -> None:
    """Train a method from random weights through all of its stages, each in a folder of its own. Resumes.

    Args:
        method: unet-dropout, rfnet, u-hved, segresnet-vae, m3ae-vl, models-genesis, cmjp, m3ae, or one that an
            installed package registers.
        recipe: A built-in recipe or a TOML file; a method with one stage obeys its [model] and [train].
        data: The cases.
        output: The run folder; with several stages, the folder of one run folder each.
        minutes: Minutes that all may take, all starts together, instead of epochs; the learning rate follows.
        hardware: Where and how to compute.
    """
    require_extra("train")
    from m3ae_core.config import load_recipe
    from m3ae_core.methods.registry import method_named

    settings, stages = load_recipe(recipe).for_method(method), method_named(method).stages()
    _tune_memory(settings.model, stages[-1].settings(settings), 2)
    start, share = None, minutes and minutes / len(stages)
    for stage in stages:
        folder = output if len(stages) == 1 else output / stage.name
        if not _train(Asked(settings, data, folder, share, hardware), stage, start):
            return
        start = folder / "bundle"


@dataclass(frozen=True)
class Asked:
    """A training as it was asked for."""

    recipe: Recipe
    data: LabelledCases
    output: Path
    minutes: float | None
    hardware: Hardware


def _train(asked: Asked, stage: Stage, pretrained: Path | None = None) -> bool:
    """Run a stage, following it; return whether it came to its end. Labels are asked for where the stage needs them."""
    from m3ae_core.io.folders.schemes import scheme_words, schemes_of, weights_of
    from m3ae_core.training.run import Plan, train

    data, modalities = asked.data, asked.recipe.model.modality_set
    chosen = chosen_cases(data.cases, data.split, modalities)
    held_out = data.held_out(modalities) if stage.labelled else ()
    schemes = schemes_of((*chosen, *held_out), data.scheme) if stage.labelled else {}
    if stage.labelled:
        print(scheme_words(schemes))
    plan = Plan(
        asked.recipe,
        chosen,
        asked.output,
        schemes=schemes,
        weights=weights_of(chosen, data.weight),
        hardware=asked.hardware,
        name_cases=data.name_cases,
        budget=_budget(asked.minutes),
    )
    return _finish(train(plan, stage, pretrained=pretrained, validation=held_out), asked.output)


def curves(run: Positional[Path], *, output: Path) -> None:
    """Draw the learning curves of a run, finished or not: losses, validations, and the substitute as it evolves.

    Args:
        run: The output folder of pretrain or finetune.
        output: Where to write the figure (.png).
    """
    require_extra("report")
    from m3ae_core.report.curves import save_curves

    print(f"figure {printable(save_curves(run, output))}")


def _finish(events: Iterator[Event], output: Path) -> bool:
    """Show a training as it goes, and say where its bundle is; return whether this process has seen it."""
    if follow(events) is None:
        return False
    print(f"bundle {printable(output / 'bundle')}")
    return True


def _bundle(path: Path) -> Path:
    """Return a bundle's folder; ``builtin`` is the built-in model, unless a folder has that name."""
    from m3ae_core.data.builtin import builtin_bundle

    return builtin_bundle() if path == Path("builtin") and not path.exists() else path


def _budget(minutes: float | None) -> Budget | None:
    from m3ae_core.training.schedule import Budget

    return None if minutes is None else Budget(minutes)


def _tune_memory(model: ModelConfig, stage: StageConfig, views: int) -> None:
    from m3ae_core.memory import keep_freed_memory

    floats = views * stage.batch_size * model.network.base_channels * prod(stage.crop)
    keep_freed_memory(4 * floats)


def chosen_cases(
    folder: Path, split: Path | None, modalities: ModalitySet, part: Literal["train", "val"] = "train"
) -> tuple[CaseFiles, ...]:
    """Return the cases of a folder or manifest that the lists of a `split` name, all without one; print doubts."""
    from m3ae_core.data.splits import read_part, select
    from m3ae_core.io.case import find_cases

    cases = find_cases(folder, modalities)
    chosen = select(cases, read_part(split, part)) if split else cases
    print_doubts(chosen)
    return chosen
