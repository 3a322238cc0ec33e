"""Our re-implementation of SegResNet-VAE (§11; winner of BraTS 2018), with §10's modality dropout and zero fill.

The encoder-decoder and the parts of the variational branch are MONAI's. As published, and other than in MONAI's
`SegResNetVAE`, the branch has a decoder of its own, μ and σ are both estimated, and the two terms are weighed
(known). The branch learns beside the segmenter and is thrown away: a bundle holds the segmenter alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from m3ae_core.config import ModelConfig, Recipe, options_of
from m3ae_core.data.dataset import CachedCase
from m3ae_core.methods.m3ae.losses import reconstruction_loss
from m3ae_core.methods.method import Method, Stage, Task
from m3ae_core.methods.supervised import Supervised, SupervisedTask, acquired
from m3ae_core.nn.monai import monai_network
from m3ae_core.stage_config import Frozen, Shape

#: Sides of the branch's input are halved four times: by the encoder, and once more before μ and σ.
STRIDE = 16
EPSILON = 1e-5


class SegResNetVAEOptions(Frozen):
    """What is published of the method, and what is open.

    Attributes
    ----------
    dropout
        Of whole channels after the first convolution, as MONAI has it (known: 0.2).
    latent
        Length of z (known: 128; MONAI has 256).
    reconstruction_weight, kl_weight
        Of L_L2 and L_KL (known: 0.1 each).
    target
        What the branch rebuilds: all that was acquired, or only what the network was ``given`` (our choice: complete).
    """

    dropout: float = Field(0.2, ge=0, lt=1)
    latent: PositiveInt = 128
    reconstruction_weight: float = Field(0.1, ge=0)
    kl_weight: float = Field(0.1, ge=0)
    target: Literal["complete", "given"] = "complete"


def segmenter(config: ModelConfig) -> nn.Module:
    """Return MONAI's SegResNet of `network.base_channels` (published: 32) and `network.norm_groups` (8)."""
    network: nn.Module = monai_network("SegResNet", out_channels=len(config.regions), **_settings(config))
    return network


def _settings(config: ModelConfig) -> dict[str, Any]:
    """Return what both networks share."""
    return {
        "in_channels": len(config.modalities),
        "init_filters": config.network.base_channels,
        "norm": ("group", {"num_groups": config.network.norm_groups}),
        "dropout_prob": options_of(config, SegResNetVAEOptions).dropout,
    }


class Rebuilt(NamedTuple):
    """What the branch makes of a bottleneck: the image x̂ (B, N, D, H, W), μ and σ (B, latent)."""

    image: Tensor
    mean: Tensor
    std: Tensor


class Branch(nn.Module):
    """The variational branch: (GN, ReLU, conv ½, FC) → μ, σ → z → (FC, ReLU, 1³ conv, ×2) → three levels → x̂."""

    def __init__(self, config: ModelConfig, crop: Shape) -> None:
        super().__init__()
        self.size = crop
        own = options_of(config, SegResNetVAEOptions)
        padded = [-(-side // STRIDE) * STRIDE for side in crop]
        parts = monai_network("SegResNetVAE", input_image_size=padded, vae_nz=own.latent, **_settings(config))
        self.down, self.mean, self.std = parts.vae_down, parts.vae_fc1, parts.vae_fc2
        self.start = (parts.smallest_filters, *parts.fc_insize)
        self.expand, self.up = parts.vae_fc3, parts.vae_fc_up_sample
        self.levels = nn.Sequential(
            *(layer for pair in zip(parts.up_samples, parts.up_layers, strict=True) for layer in pair)
        )
        self.last = parts.vae_conv_final

    def forward(self, bottleneck: Tensor) -> Rebuilt:
        """Rebuild the image of a `bottleneck` (B, 8C, D/8, H/8, W/8); z is drawn from N(μ, σ²)."""
        hidden = self.down(bottleneck).flatten(1)
        mean, std = self.mean(hidden).float(), F.softplus(self.std(hidden).float())
        z = mean + std * torch.randn_like(std)
        image = self.last(self.levels(self.up(F.relu(self.expand(z)).view(-1, *self.start))))
        return Rebuilt(image[:, :, *(slice(side) for side in self.size)], mean, std)


class Regularised(nn.Module):
    """The segmenter and, while it is trained, the branch that its bottleneck must also serve."""

    def __init__(self, config: ModelConfig, crop: Shape) -> None:
        super().__init__()
        self.segmenter = segmenter(config)
        self.branch = Branch(config, crop)

    def forward(self, x: Tensor) -> tuple[Tensor, Rebuilt]:
        """Return the region logits (B, R, D, H, W) of `x` (B, N, D, H, W), and what the branch rebuilds."""
        network: Any = self.segmenter
        bottleneck, levels = network.encode(x)
        return network.decode(bottleneck, levels[::-1]), self.branch(bottleneck)


def dice_loss(logits: Tensor, regions: Tensor, weights: Sequence[float] | None = None) -> Tensor:
    """L_dice = Σ_r [1 − 2Σpy / (Σp² + Σy² + ε)] (known), the mean over the batch (our choice), weighted."""
    p, y = logits.sigmoid(), regions.to(logits.dtype)
    dims = (-3, -2, -1)
    overlap = 2 * (p * y).sum(dims) / (p.square().sum(dims) + y.square().sum(dims) + EPSILON)
    each = (1 - overlap).sum(1)
    return each.mean() if weights is None else (each * each.new_tensor(weights)).mean()


def kl_loss(mean: Tensor, std: Tensor, voxels: int) -> Tensor:
    """L_KL = (1/N) Σ (μ² + σ² − log σ² − 1) of μ and σ (B, latent) for images of N voxels (known); mean over B."""
    variance = std.square()
    total: Tensor = (mean.square() + variance - variance.clamp_min(1e-8).log() - 1).sum(1).mean()
    return total / voxels


class SegResNetVAE(Method):
    """MONAI's SegResNet, trained with a variational branch; zeros stand for what is missing, as in unet-dropout."""

    NETWORKS: ClassVar = {"segmenter": segmenter}

    @classmethod
    def stages(cls) -> tuple[Stage, ...]:
        """One training."""
        return (WithBranch(cls),)

    @torch.no_grad()
    def predict(self, x: Tensor, missing: Tensor) -> Tensor:
        """Return the region logits (B, R, D, H, W); there is no branch any more."""
        del missing
        logits: Tensor = self.networks["segmenter"](x)
        return logits

    def losses(
        self, network: nn.Module, x: Tensor, regions: Tensor, missing: Tensor, weights: Sequence[float] | None
    ) -> dict[str, Tensor]:
        """L = L_dice + 0.1 L_L2 + 0.1 L_KL; L_L2 is a mean over the modalities that there are (known: over all)."""
        own = options_of(self.config, SegResNetVAEOptions)
        given = torch.where(missing[:, :, None, None, None], x.new_zeros(()), x)
        logits, rebuilt = network(given)
        target = x if own.target == "complete" else given
        squared = reconstruction_loss(target, rebuilt.image.float(), acquired(target))
        divergence = kl_loss(rebuilt.mean, rebuilt.std, prod(x.shape[-3:]))
        return {
            "dice": dice_loss(logits.float(), regions, weights),
            "reconstruction": own.reconstruction_weight * squared,
            "divergence": own.kl_weight * divergence,
        }


class RegularisedTask(SupervisedTask):
    """Segment and rebuild; only the segmenter is validated and kept."""

    @property
    def model(self) -> Method:
        """The model as it is now, without the branch."""
        deployed: Any = self.deployed
        return self.method.restored(self.recipe.model, {"segmenter": deployed.segmenter})


@dataclass(frozen=True)
class WithBranch(Supervised):
    """Training beside the branch, which always starts from random weights."""

    def task(self, recipe: Recipe, start: Method | None, cases: Sequence[CachedCase]) -> Task:
        """Return the task, going on from the segmenter of `start` if there is one."""
        del cases
        network = Regularised(recipe.model, recipe.train.crop)
        if start is not None:
            network.segmenter.load_state_dict(start.networks["segmenter"].state_dict())
        return RegularisedTask(self.method, recipe, network)
