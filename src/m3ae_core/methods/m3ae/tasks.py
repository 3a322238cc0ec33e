"""What one training step computes, for each stage. A task turns a batch into named loss terms; their sum is the loss.

The loop knows nothing of the method, and these know nothing of devices, optimisers or files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from m3ae_core.config import FinetuneConfig, ModelConfig, PretrainConfig, Shape
from m3ae_core.data.augment import Augmentation
from m3ae_core.data.dataset import Crop
from m3ae_core.data.scanner import Scanner
from m3ae_core.events import Validated
from m3ae_core.intensity import Step
from m3ae_core.methods.m3ae.losses import (
    finetuning_loss,
    reconstruction_loss,
    substitute_regulariser,
    teacher_loss,
)
from m3ae_core.methods.m3ae.masking import patches_to_voxels, sample_mask, two_situations
from m3ae_core.methods.m3ae.networks import MaskedAutoencoder, Segmenter
from m3ae_core.methods.m3ae.substitute import SubstituteImage, fill
from m3ae_core.nn.heads import ScaledLogits
from m3ae_core.training.loop import Task
from m3ae_core.training.validate import Validation


class PretrainSample(NamedTuple):
    """One crop (N, D, H, W), its first template voxel, and its patch mask (N, d, h, w; True = replaced).

    `exists` (N,) tells which modalities were acquired.
    """

    image: Tensor
    start: Shape
    masked: Tensor
    exists: Tensor


class FinetuneSample(NamedTuple):
    """One crop, its regions (R, D, H, W), and the two situations drawn for it (2, N; True = dropped).

    `exists` (N,) tells which modalities were acquired.
    """

    image: Tensor
    regions: Tensor
    start: Shape
    dropped: Tensor
    exists: Tensor
    augmentation: Augmentation
    scanner: Scanner | None
    weight: float


@dataclass(frozen=True)
class PretrainDraw:
    """Draws what is random about a sample of stage 1: its mask. Pretraining never looks at the labels."""

    config: PretrainConfig

    def __call__(self, crop: Crop, rng: np.random.Generator) -> PretrainSample:
        """Draw the mask of one crop."""
        masked = sample_mask(rng, crop.exists, self.config.crop, self.config.masking)
        return PretrainSample(crop.image, crop.start, torch.from_numpy(masked), torch.from_numpy(crop.exists))


@dataclass(frozen=True)
class FinetuneDraw:
    """Draws what is random about a sample of stage 2: the two situations and the augmentation they share."""

    config: FinetuneConfig
    steps: tuple[Step, ...]

    def __call__(self, crop: Crop, rng: np.random.Generator) -> FinetuneSample:
        """Draw the situations and the augmentation of one crop."""
        dropped = two_situations(rng, crop.exists, self.config)
        spans = [step.span for step in self.steps]
        augmentation = Augmentation.draw(rng, self.config.augment, spans, self.config.crop[0])
        scanner = Scanner.draw(rng, self.config.scanner, len(spans)) if self.config.scanner else None
        return FinetuneSample(
            crop.image,
            crop.regions,
            crop.start,
            torch.from_numpy(dropped),
            torch.from_numpy(crop.exists),
            augmentation,
            scanner,
            crop.weight,
        )


class PretrainTask(Task):
    """Stage 1 (Eqn. 3): reconstruct an image whose masked content the substitute fills; learn both."""

    def __init__(self, model: ModelConfig, config: PretrainConfig, substitute: SubstituteImage) -> None:
        super().__init__()
        self.config = config
        self.autoencoder = MaskedAutoencoder(model)
        self.substitute = substitute
        if self.learns_substitute:
            substitute.smooth_gradients(config.substitute.gradient_sd)

    @property
    def learns_substitute(self) -> bool:
        """Whether the substitute is learned, or stays as it is."""
        return self.substitute.image.requires_grad

    def parameter_groups(self) -> list[dict[str, object]]:
        """The substitute, where it is learned, has a learning rate of its own."""
        groups: list[dict[str, object]] = [
            {"params": list(self.autoencoder.parameters()), "lr": self.config.learning_rate}
        ]
        if self.learns_substitute:
            rate = self.config.substitute.learning_rate
            groups.append({"params": list(self.substitute.parameters()), "lr": rate, "weight_decay": 0.0})
        return groups

    def forward(self, batch: Sequence[PretrainSample]) -> dict[str, Tensor]:
        """Return the terms of Eqn. 3; a substitute that is not learned is not regularised."""
        device = self.substitute.image.device
        x = torch.stack([sample.image for sample in batch]).to(device, non_blocking=True)
        voxels = np.stack([patches_to_voxels(sample.masked.numpy(), self.config.crop) for sample in batch])
        masked = torch.from_numpy(voxels).to(device, non_blocking=True)
        exists = torch.stack([sample.exists for sample in batch]).to(device)
        content = self.substitute.crop([sample.start for sample in batch], self.config.crop)
        reconstruction = self.autoencoder(fill(x, content, masked)).float()
        terms = {"reconstruction": reconstruction_loss(x, reconstruction, exists)}
        if self.learns_substitute:
            config = self.config.substitute
            terms["regulariser"] = config.gamma * substitute_regulariser(
                self.substitute.image, config.regulariser
            )
        return terms


class InversionTask(PretrainTask):
    """Eqn. 1 alone: the substitute that a trained autoencoder reconstructs best from; only the substitute learns."""

    def __init__(
        self, autoencoder: MaskedAutoencoder, model: ModelConfig, config: PretrainConfig, image: Tensor
    ) -> None:
        super().__init__(model, config, SubstituteImage.of(image))
        self.autoencoder.load_state_dict(autoencoder.state_dict())
        self.autoencoder.requires_grad_(False)

    def parameter_groups(self) -> list[dict[str, object]]:
        """The network stays as it is."""
        return super().parameter_groups()[1:]


class FinetuneTask(Task):
    """Stage 2 (Eqns. 2, 4, 5): segment two missing-modality situations of each case and keep their features alike."""

    def __init__(
        self,
        model: ModelConfig,
        config: FinetuneConfig,
        segmenter: Segmenter,
        substitute: SubstituteImage,
        validation: Validation | None = None,
    ) -> None:
        super().__init__()
        self.steps, self.config, self.validation = model.steps, config, validation
        self.segmenter = segmenter
        self.substitute = substitute.requires_grad_(False)
        self.average: AveragedModel | None = None
        if config.ema:
            average = get_ema_multi_avg_fn(config.ema)  # type: ignore[no-untyped-call]
            self.average = AveragedModel(segmenter, multi_avg_fn=average)
            self.average.requires_grad_(False)

    @property
    def deployed(self) -> Segmenter:
        """The segmenter to validate and to keep: the moving average of the weights where there is one."""
        return self.segmenter if self.average is None else cast(Segmenter, self.average.module)

    def parameter_groups(self) -> list[dict[str, object]]:
        """The substitute is frozen in stage 2."""
        return [{"params": list(self.segmenter.parameters()), "lr": self.config.learning_rate}]

    def after_step(self) -> None:
        """Move the average towards the weights."""
        if self.average is not None:
            self.average.update_parameters(self.segmenter)

    def validate(self, epoch: int) -> Validated | None:
        """Measure the deployed segmenter in the recipe's situations, every so many epochs."""
        if self.validation is None or not self.validation.due(epoch):
            return None
        return self.validation.run(epoch, self.deployed, self.substitute)

    def forward(self, batch: Sequence[FinetuneSample]) -> dict[str, Tensor]:
        """Return the terms of Eqn. 4; both situations of all samples go through the network as one batch."""
        with torch.autocast(self.substitute.image.device.type, enabled=False):  # images are made in float32
            views = torch.stack([self._views(sample) for sample in batch], dim=1)
        x = views[:2].flatten(0, 1)
        target = torch.stack([sample.augmentation.space(sample.regions) for sample in batch]).to(x.device)
        logits, features = self.segmenter(x)
        logits = ScaledLogits(*(scale.float() for scale in logits))  # mixed precision ends before the losses
        compared = features.bottleneck if self.config.consistency_at == "bottleneck" else logits.quarter
        terms = finetuning_loss(
            logits,
            target.repeat(2, 1, 1, 1, 1),
            compared.float(),
            self.config.consistency_weight,
            self.config.segmentation_loss,
            _weights(batch),
        )
        if self.config.teacher:
            terms["teacher"] = self.config.teacher * teacher_loss(logits.full, self._taught(views[2]))
        return terms

    @torch.no_grad()
    def _taught(self, x: Tensor) -> Tensor:
        """Return the average's logits for `x`; before the first step it is the network itself."""
        return self.deployed.predict(x).float()

    def _views(self, sample: FinetuneSample) -> Tensor:
        """Fill both situations at their place on the template first, then augment them alike: (2, N, D, H, W).

        With a teacher there is a third view, of all modalities that exist.
        """
        content = self.substitute.crop([sample.start], self.config.crop)
        image = sample.image.to(content.device, non_blocking=True)
        if sample.scanner is not None:
            image = sample.scanner.apply(image, self.steps)
        dropped = sample.dropped
        if self.config.teacher:
            dropped = torch.cat([dropped, ~sample.exists[None]])
        views = fill(image[None], content, dropped[:, :, None, None, None].to(content.device))
        return sample.augmentation.space(sample.augmentation.intensity(views))


def _weights(batch: Sequence[FinetuneSample]) -> list[float] | None:
    """Return how much the labels of each image of both situations count; None where all count the same, 1."""
    weights = [sample.weight for sample in batch]
    return None if set(weights) == {1.0} else 2 * weights
