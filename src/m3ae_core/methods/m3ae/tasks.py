"""What one training step of each stage computes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from m3ae_core.config import ModelConfig
from m3ae_core.data.dataset import Crop
from m3ae_core.events import Event, Inverted
from m3ae_core.methods.m3ae.losses import (
    finetuning_loss,
    reconstruction_loss,
    substitute_regulariser,
    teacher_loss,
)
from m3ae_core.methods.m3ae.masking import patches_to_voxels, sample_mask, two_situations
from m3ae_core.methods.m3ae.method import M3AE
from m3ae_core.methods.m3ae.networks import MaskedAutoencoder, Segmenter
from m3ae_core.methods.m3ae.substitute import SubstituteImage, fill
from m3ae_core.methods.method import Method, Task
from m3ae_core.methods.situations import BoolArray
from m3ae_core.methods.supervised import AveragedTask, SupervisedDraw, SupervisedSample, label_weights
from m3ae_core.nn.heads import ScaledLogits
from m3ae_core.stage_config import FinetuneConfig, PretrainConfig, Shape


class PretrainSample(NamedTuple):
    """One crop (N, D, H, W), its first template voxel, and its patch mask (N, d, h, w; True = replaced).

    `exists` (N,) tells which modalities were acquired.
    """

    image: Tensor
    start: Shape
    masked: Tensor
    exists: Tensor


@dataclass(frozen=True)
class PretrainDraw:
    """Draws what is random about a sample of stage 1: its mask. Pretraining never looks at the labels."""

    config: PretrainConfig

    def __call__(self, crop: Crop, rng: np.random.Generator) -> PretrainSample:
        """Draw the mask of one crop."""
        masked = sample_mask(rng, crop.exists, self.config.crop, self.config.masking)
        return PretrainSample(crop.image, crop.start, torch.from_numpy(masked), torch.from_numpy(crop.exists))


class FinetuneDraw(SupervisedDraw):
    """Draws what is random about a sample of stage 2: the two situations and the augmentation they share."""

    def situations(self, rng: np.random.Generator, exists: BoolArray) -> BoolArray:
        """Draw the two situations (2, N), True = dropped."""
        return two_situations(rng, exists, cast(FinetuneConfig, self.config))


class PretrainTask(Task):
    """Stage 1 (Eqn. 3): reconstruct an image whose masked content the substitute fills; learn both."""

    def __init__(self, model: ModelConfig, config: PretrainConfig, substitute: SubstituteImage) -> None:
        super().__init__()
        self.model_config, self.config = model, config
        self.autoencoder = MaskedAutoencoder(model)
        self.substitute = substitute
        if self.learns_substitute:
            substitute.smooth_gradients(config.substitute.gradient_sd)

    @property
    def learns_substitute(self) -> bool:
        """Whether the substitute is learned, or stays as it is."""
        return self.substitute.image.requires_grad

    @property
    def trained(self) -> nn.Module:
        """The autoencoder."""
        return self.autoencoder

    @property
    def model(self) -> Method:
        """The autoencoder and the substitute as they are now."""
        return M3AE.of(self.model_config, self.substitute.image.detach().cpu(), self.autoencoder)

    @property
    def watched(self) -> Tensor | None:
        """The substitute, where it is learned."""
        return self.substitute.image if self.learns_substitute else None

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
        terms = {"reconstruction": self.compared(x, reconstruction, masked, exists)}
        if self.learns_substitute:
            config = self.config.substitute
            terms["regulariser"] = config.gamma * substitute_regulariser(
                self.substitute.image, config.regulariser
            )
        return terms

    def compared(self, x: Tensor, reconstruction: Tensor, masked: Tensor, exists: Tensor) -> Tensor:
        """Return L_mse of what was `masked` (B, N, D, H, W) and what was visible, of the modalities that `exists`."""
        del masked
        return reconstruction_loss(x, reconstruction, exists)


class InversionTask(PretrainTask):
    """Eqn. 1 alone: the substitute that a trained autoencoder reconstructs best from; only the substitute learns.

    A segmenter of the model is kept.
    """

    def __init__(self, start: M3AE, config: PretrainConfig) -> None:
        super().__init__(start.config, config, SubstituteImage.of(start.substitute))
        self.start = start
        self.autoencoder.load_state_dict(start.networks["autoencoder"].state_dict())
        self.autoencoder.requires_grad_(False)

    @property
    def model(self) -> Method:
        """The model that it started from, with the substitute as it is now."""
        image = self.substitute.image.detach().cpu()
        return M3AE.restored(self.start.config, self.start.networks, {"substitute": image})

    def parameter_groups(self) -> list[dict[str, object]]:
        """The network stays as it is."""
        return super().parameter_groups()[1:]

    def finished(self) -> Iterable[Event]:
        """Say how the substitute has changed."""
        return [change(self.model_config, self.start.substitute, self.substitute.image.detach().cpu())]


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


class FinetuneTask(AveragedTask):
    """Stage 2 (Eqns. 2, 4, 5): segment two missing-modality situations of each case and keep their features alike."""

    config: FinetuneConfig

    def __init__(self, config: FinetuneConfig, segmenter: Segmenter, start: M3AE) -> None:
        super().__init__(segmenter, config)
        self.start = start
        self.substitute = SubstituteImage.fixed(start.substitute)

    @property
    def model(self) -> Method:
        """The segmenter to keep, beside the autoencoder and the substitute that it started from."""
        networks = {**self.start.networks, "segmenter": self.deployed}
        return M3AE.restored(self.start.config, networks, self.start.images)

    def forward(self, batch: Sequence[SupervisedSample]) -> dict[str, Tensor]:
        """Return the terms of Eqn. 4; both situations of all samples go through the network as one batch."""
        with torch.autocast(self.substitute.image.device.type, enabled=False):  # images are made in float32
            views = torch.stack([self._views(sample) for sample in batch], dim=1)
        x = views[:2].flatten(0, 1)
        target = torch.stack([sample.augmentation.space(sample.regions) for sample in batch]).to(x.device)
        logits, features = self.network(x)
        logits = ScaledLogits(*(scale.float() for scale in logits))  # mixed precision ends before the losses
        compared = features.bottleneck if self.config.consistency_at == "bottleneck" else logits.quarter
        weights = label_weights(batch)
        terms = finetuning_loss(
            logits,
            target.repeat(2, 1, 1, 1, 1),
            compared.float(),
            self.config.consistency_weight,
            self.config.segmentation_loss,
            None if weights is None else 2 * weights,
        )
        if self.config.teacher:
            terms["teacher"] = self.config.teacher * teacher_loss(logits.full, self._taught(views[2]))
        return terms

    @torch.no_grad()
    def _taught(self, x: Tensor) -> Tensor:
        """Return the average's logits for `x`; before the first step it is the network itself."""
        return cast(Segmenter, self.deployed).predict(x).float()

    def _views(self, sample: SupervisedSample) -> Tensor:
        """Fill both situations at their place on the template first, then augment them alike: (2, N, D, H, W).

        With a teacher there is a third view, of all modalities that exist.
        """
        content = self.substitute.crop([sample.start], self.config.crop)
        image = sample.image.to(content.device, non_blocking=True)
        if sample.scanner is not None:
            image = sample.scanner.apply(image, self.start.config.steps)
        dropped = sample.dropped
        if self.config.teacher:
            dropped = torch.cat([dropped, ~sample.exists[None]])
        views = fill(image[None], content, dropped[:, :, None, None, None].to(content.device))
        return sample.augmentation.space(sample.augmentation.intensity(views))
