"""Training with label maps, as most methods need it: a case, some of its modalities, its regions, and the loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from m3ae_core.config import Recipe
from m3ae_core.data.augment import Augmentation
from m3ae_core.data.dataset import CachedCase, Crop, Draw
from m3ae_core.data.scanner import Scanner
from m3ae_core.intensity import Step
from m3ae_core.methods.method import Method, Stage, Task
from m3ae_core.methods.situations import BoolArray, drop_existing
from m3ae_core.stage_config import Shape, SupervisedConfig


class SupervisedSample(NamedTuple):
    """One crop (N, D, H, W), its regions (R, D, H, W), and the situations drawn for it (S, N; True = dropped).

    `exists` (N,) tells which modalities were acquired, `start` the crop's first template voxel, `weight` how much the
    labels count. `seed` makes what else is random about a step, such as dropout, a function of the sample.
    """

    image: Tensor
    regions: Tensor
    start: Shape
    dropped: Tensor
    exists: Tensor
    augmentation: Augmentation
    scanner: Scanner | None
    weight: float
    seed: int = 0


@dataclass(frozen=True)
class SupervisedDraw:
    """Draws what is random about a sample: its missing modalities and its augmentation."""

    config: SupervisedConfig
    steps: tuple[Step, ...]

    def situations(self, rng: np.random.Generator, exists: BoolArray) -> BoolArray:
        """Draw which modalities are dropped, among those that `exists` (N,): (S, N), one situation by default."""
        uniform = self.config.situations == "uniform"
        return drop_existing(rng, exists, self.config.max_dropped, uniform=uniform)[None]

    def __call__(self, crop: Crop, rng: np.random.Generator) -> SupervisedSample:
        """Draw the situations and the augmentation of one crop."""
        dropped = self.situations(rng, crop.exists)
        spans = [step.span for step in self.steps]
        augmentation = Augmentation.draw(rng, self.config.augment, spans, self.config.crop[0])
        scanner = Scanner.draw(rng, self.config.scanner, len(spans)) if self.config.scanner else None
        return SupervisedSample(
            crop.image,
            crop.regions,
            crop.start,
            torch.from_numpy(dropped),
            torch.from_numpy(crop.exists),
            augmentation,
            scanner,
            crop.weight,
            int(rng.integers(2**32)),
        )


class AveragedTask(Task):
    """A task whose network may have a moving average of its weights (`ema`), which is then validated and kept."""

    def __init__(self, network: nn.Module, config: SupervisedConfig) -> None:
        super().__init__()
        self.network, self.config = network, config
        self.average: AveragedModel | None = None
        if config.ema:
            average = get_ema_multi_avg_fn(config.ema)  # type: ignore[no-untyped-call]
            self.average = AveragedModel(network, multi_avg_fn=average)
            self.average.requires_grad_(False)

    @property
    def trained(self) -> nn.Module:
        """The network that learns."""
        return self.network

    @property
    def deployed(self) -> nn.Module:
        """The network to validate and to keep: the moving average where there is one."""
        return self.network if self.average is None else self.average.module

    def parameter_groups(self) -> list[dict[str, object]]:
        """All parameters of the network, with one learning rate."""
        return [{"params": list(self.network.parameters()), "lr": self.config.learning_rate}]

    def after_step(self) -> None:
        """Move the average towards the weights."""
        if self.average is not None:
            self.average.update_parameters(self.network)


class Learns(Protocol):
    """What a method needs besides :class:`Method` to be trained by :class:`Supervised`."""

    def losses(
        self, network: nn.Module, x: Tensor, regions: Tensor, missing: Tensor, weights: Sequence[float] | None
    ) -> dict[str, Tensor]:
        """Return named loss terms of one batch; their sum is the loss.

        `x` (B, N, D, H, W) is augmented and complete as far as the case is; what was never acquired is zero
        (:func:`acquired`). `missing` (B, N) is to be taken from it.
        `regions` (B, R, D, H, W) is boolean, `weights` (B) how much each image's labels count, None: all the same.
        """
        ...


class SupervisedTask(AveragedTask):
    """Segment every sample from the modalities that are left of it."""

    def __init__(self, method: type[Method], recipe: Recipe, network: nn.Module) -> None:
        super().__init__(network, recipe.train)
        self.method, self.recipe = method, recipe

    @property
    def model(self) -> Method:
        """The model as it is now."""
        (name,) = self.method.NETWORKS
        return self.method.restored(self.recipe.model, {name: self.deployed})

    def forward(self, batch: Sequence[SupervisedSample]) -> dict[str, Tensor]:
        """Return the method's losses of a batch; what is random in them follows from its first sample's seed."""
        torch.manual_seed(batch[0].seed)
        device = next(self.network.parameters()).device
        with torch.autocast(device.type, enabled=False):  # images are made in float32
            x = torch.stack([self._image(sample, device) for sample in batch])
        regions = torch.stack([sample.augmentation.space(sample.regions) for sample in batch]).to(device)
        missing = torch.stack([sample.dropped[0] for sample in batch]).to(device)
        learner = cast(Learns, self.model)
        return learner.losses(self.network, x, regions, missing, label_weights(batch))

    def _image(self, sample: SupervisedSample, device: torch.device) -> Tensor:
        image = sample.image.to(device, non_blocking=True)
        if sample.scanner is not None:
            image = sample.scanner.apply(image, self.recipe.model.steps)
        image = sample.augmentation.space(sample.augmentation.intensity(image))
        return torch.where(sample.exists.to(device)[:, None, None, None], image, 0)


def acquired(x: Tensor) -> Tensor:
    """Return which modalities (B, N) of the images `x` (B, N, D, H, W) that :class:`Learns` gets exist."""
    return (x != 0).flatten(2).any(2)


def label_weights(batch: Sequence[SupervisedSample]) -> list[float] | None:
    """Return how much the labels of each image count; None where all count the same, 1."""
    weights = [sample.weight for sample in batch]
    return None if set(weights) == {1.0} else weights


@dataclass(frozen=True)
class Supervised(Stage):
    """The one training of a method that learns to segment from random weights."""

    method: type[Method]
    name: str = "train"
    makes: str = "segmenter"
    labelled: bool = True

    def draw(self, recipe: Recipe) -> Draw[Any]:
        """Return what draws one situation and an augmentation."""
        return SupervisedDraw(recipe.train, recipe.model.steps)

    def task(self, recipe: Recipe, start: Method | None, cases: Sequence[CachedCase]) -> Task:
        """Return the task of the recipe's method, going on from the network of `start` if there is one."""
        del cases
        ((name, build),) = self.method.NETWORKS.items()
        network = build(recipe.model)
        if start is not None:
            network.load_state_dict(start.networks[name].state_dict())
        return SupervisedTask(self.method, recipe, network)
