"""The stages of M3AE: pretraining, fine-tuning, and inversion as a step of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from m3ae_core.config import ModelConfig, Recipe
from m3ae_core.data.dataset import CachedCase, Draw
from m3ae_core.errors import BundleError
from m3ae_core.methods.m3ae.method import M3AE
from m3ae_core.methods.m3ae.networks import Segmenter
from m3ae_core.methods.m3ae.substitute import SubstituteImage
from m3ae_core.methods.m3ae.tasks import FinetuneDraw, FinetuneTask, InversionTask, PretrainDraw, PretrainTask
from m3ae_core.methods.method import Method, Stage, Task, require_start
from m3ae_core.stage_config import PretrainConfig

#: What was measured with the former substitute, and does not hold with another one.
MEASURED = ("reliability", "calibration", "validation_dice", "epoch")


@dataclass(frozen=True)
class Pretrain(Stage):
    """Stage 1 (Eqn. 3): learn the masked autoencoder and the substitute image; labels are never looked at."""

    name: str = "pretrain"
    makes: str = "pretrained"
    labelled: bool = False

    def draw(self, recipe: Recipe) -> Draw[Any]:
        """Return what draws the mask of a sample."""
        return PretrainDraw(recipe.pretrain)

    def task(self, recipe: Recipe, start: Method | None, cases: Sequence[CachedCase]) -> Task:
        """Start from random weights."""
        del start
        return PretrainTask(recipe.model, recipe.pretrain, starting_substitute(recipe, cases))


@dataclass(frozen=True)
class Finetune(Stage):
    """Stage 2 (Eqn. 4): learn to segment, from what stage 1 has learned or from a model that segments already."""

    name: str = "finetune"
    makes: str = "segmenter"
    labelled: bool = True

    def require(self, start: Method | None) -> None:
        """Refuse to start without an autoencoder."""
        require_start(start, "autoencoder", "Run `m3ae pretrain` first.")

    def draw(self, recipe: Recipe) -> Draw[Any]:
        """Return what draws the two situations of a sample and its augmentation."""
        return FinetuneDraw(recipe.finetune, recipe.model.steps)

    def task(self, recipe: Recipe, start: Method | None, cases: Sequence[CachedCase]) -> Task:
        """Start from the segmenter, or the autoencoder, of `start`."""
        del cases
        assert isinstance(start, M3AE)  # noqa: S101  require() has seen to it
        return FinetuneTask(recipe.finetune, starting_segmenter(recipe, start), start)


@dataclass(frozen=True)
class Invert(Pretrain):
    """Eqn. 1 with F frozen: learn the substitute of a model on. What was measured with the former one is dropped."""

    def require(self, start: Method | None) -> None:
        """Refuse to start without an autoencoder, or with one of a method that has no substitute."""
        require_start(start, "autoencoder", "Run `m3ae pretrain` first.")
        if start is not None and (reason := start.lacks("substitute")):
            raise BundleError("This model has no substitute to learn on.", reason, code="stage")

    def task(self, recipe: Recipe, start: Method | None, cases: Sequence[CachedCase]) -> Task:
        """Start from the substitute of `start`."""
        del cases
        assert isinstance(start, M3AE)  # noqa: S101  require() has seen to it
        return InversionTask(start, recipe.pretrain)

    def card(self, fresh: dict[str, Any], start: Mapping[str, Any] | None) -> dict[str, Any]:
        """Keep the card of the model that it started from, and say that it was inverted."""
        kept = {name: value for name, value in (start or {}).items() if name not in MEASURED}
        done = {"epochs": fresh["epoch"], "training_cases": fresh["training_case_count"]}
        return kept | {"inversion": done}


def inversion_recipe(
    model: ModelConfig, card: Mapping[str, Any], epochs: int, learning_rate: float
) -> Recipe:
    """Return the recipe of an inversion: stage 1 as the model's card tells it, with another schedule."""
    recipe = card.get("recipe") or {}
    stage = PretrainConfig.model_validate(recipe.get("pretrain", {}))
    substitute = stage.substitute.model_copy(update={"kind": "learned", "learning_rate": learning_rate})
    stage = stage.model_copy(update={"epochs": epochs, "substitute": substitute})
    return Recipe(model=model, pretrain=stage)


def starting_segmenter(recipe: Recipe, start: M3AE) -> Segmenter:
    """Return the segmenter that stage 2 starts from: the model's own, its autoencoder's weights, or random ones."""
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
