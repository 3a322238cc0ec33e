"""Model inversion as a step of its own (Eqn. 1): a new substitute image for an autoencoder that stays as it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from m3ae_core.bundle import Bundle, save_bundle
from m3ae_core.config import ModelConfig, PretrainConfig, Recipe
from m3ae_core.events import Event, Inverted, Saved
from m3ae_core.methods.m3ae.tasks import InversionTask, PretrainDraw
from m3ae_core.training.launch import launch
from m3ae_core.training.loop import train
from m3ae_core.training.record import BUNDLE
from m3ae_core.training.stages import (
    Plan,
    cached_cases,
    pretrained_bundle,
    record_run,
    run_folder,
    run_identity,
)

#: What was measured with the former substitute, and does not hold with another one.
MEASURED = ("reliability", "calibration", "validation_dice", "epoch")


def inversion_recipe(bundle: Bundle, epochs: int, learning_rate: float) -> Recipe:
    """Return the recipe of an inversion: stage 1 as the bundle's card tells it, with another schedule."""
    recipe = bundle.card.get("recipe") or {}
    stage = PretrainConfig.model_validate(recipe.get("pretrain", {}))
    substitute = stage.substitute.model_copy(update={"kind": "learned", "learning_rate": learning_rate})
    stage = stage.model_copy(update={"epochs": epochs, "substitute": substitute})
    return Recipe(model=bundle.config, pretrain=stage)


def invert(plan: Plan, pretrained: Path) -> Iterator[Event]:
    """Learn the substitute of the bundle `pretrained` on, with its autoencoder frozen; ends with ``bundle``.

    A segmenter in the bundle is kept, what was measured of it with the former substitute is not. Resumes like stage 1;
    :class:`Inverted` says what changed.

    Raises
    ------
    InputError, ConfigError, OutputError, BundleError
        If a case, the recipe, the run folder or the bundle cannot be used; nothing is learned then.
    """
    recipe, config, start = plan.recipe, plan.recipe.pretrain, pretrained_bundle(pretrained, plan.recipe)
    fabric = launch(plan.hardware)
    with run_folder(plan, "pretrain", fabric):
        cached = yield from cached_cases(plan.cases, plan, fabric, labelled=False)
        identity = run_identity(plan, "pretrain", fabric, cached, pretrained=start.fingerprint)
        torch.manual_seed(config.seed)
        assert start.autoencoder is not None  # noqa: S101  pretrained_bundle() has seen to it
        task = InversionTask(start.autoencoder, recipe.model, config, start.substitute)
        samples = plan.samples(cached, config, PretrainDraw(config))
        events = train(
            task,
            samples,
            config,
            fabric,
            plan.folder,
            hardware=plan.hardware,
            budget=plan.budget,
            identity=identity,
        )
        epochs = yield from record_run(events, plan, fabric, task.substitute)
        if fabric.is_global_zero:
            image = task.substitute.image.detach().cpu()
            yield change(recipe.model, start.substitute, image)
            card = {name: value for name, value in start.card.items() if name not in MEASURED}
            card |= {"inversion": {"epochs": epochs, "training_cases": len(plan.cases)}}
            bundle = Bundle(recipe.model, image, start.autoencoder, start.segmenter, card)
            yield Saved(str(save_bundle(bundle, plan.folder / BUNDLE)), epochs)


def change(model: ModelConfig, before: Tensor, after: Tensor) -> Inverted:
    """Say how a substitute (N, D, H, W) differs from what it was."""
    pairs = {
        name: (one.flatten(), two.flatten())
        for name, one, two in zip(model.modalities, before, after, strict=True)
    }
    return Inverted(
        {name: one.std().item() for name, (one, _) in pairs.items()},
        {name: two.std().item() for name, (_, two) in pairs.items()},
        {name: torch.corrcoef(torch.stack(pair))[0, 1].item() for name, pair in pairs.items()},
    )
