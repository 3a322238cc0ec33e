"""Our re-implementation of U-HVED: a multimodal variational autoencoder on every level of a U-Net.

It follows a specification in our words, not the paper: results are those of "our re-implementation of U-HVED".
Marks: *known*; *doubtful*, known but perhaps not in this value or form; *our choice*. Known are one encoder a modality,
whose features on each level are a Gaussian a voxel, the product of the present ones with the prior N(0, I), a sample of
which (its mean at inference) is all that the decoders see, and a decoder a modality beside the one that segments.
Doubtful are two 3³ convolutions a level, instance norms, leaky ReLU and max pooling. Our choice are a linear 1³
convolution that yields mean and log variance on each level, and decoders of one convolution a level.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar, NamedTuple, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from m3ae_core.config import ModelConfig, options_of
from m3ae_core.methods.method import Method, Stage
from m3ae_core.methods.supervised import Supervised, acquired
from m3ae_core.methods.tissues import class_masks, memberships, region_logits
from m3ae_core.nn.norm import GroupNorm
from m3ae_core.nn.pointwise import PointwiseConv3d
from m3ae_core.stage_config import Frozen

EPSILON = 1e-5  # our choice
LIMIT = 10.0  # of the log variances, our choice


class UHVEDOptions(Frozen):
    """The options of U-HVED.

    Attributes
    ----------
    channels
        Doubtful: channels of the first of four levels; they double on each.
    weight
        Doubtful: λ of the reconstruction loss and of the divergence.
    """

    channels: int = Field(8, ge=1)
    weight: float = Field(0.1, ge=0)


class Gaussian(NamedTuple):
    """Means and log variances of a diagonal Gaussian, of one shape."""

    mean: Tensor
    log_variance: Tensor


def product(experts: Gaussian, missing: Tensor, *, prior: bool = True) -> Gaussian:
    """Return the product (B, C, D, H, W) of experts (B, N, C, D, H, W) that are not `missing` (B, N), and the prior.

    T = 1 + Σ_i δ_i / v_i, v = 1 / T, μ = v Σ_i δ_i μ_i / v_i (known). Without the `prior` N(0, I) there is no 1 in T.
    """
    gone = missing[:, :, None, None, None, None]
    precision = torch.where(gone, 0, (-experts.log_variance).exp())
    total = precision.sum(1) + float(prior)
    mean = (precision * torch.where(gone, 0, experts.mean)).sum(1) / total
    return Gaussian(mean, -total.log())


def divergence(gaussian: Gaussian) -> Tensor:
    """Return KL(N(μ, v) ‖ N(0, I)) = ½ (μ² + v - log v - 1), averaged over all but the batch (our choice): (B,)."""
    mean, log_variance = gaussian
    return (mean.square() + log_variance.exp() - log_variance - 1).flatten(1).mean(1) / 2


def convolution(inputs: int, outputs: int) -> nn.Sequential:
    """Return a 3³ convolution, instance norm and leaky ReLU."""
    conv = nn.Conv3d(inputs, outputs, 3, padding=1)
    return nn.Sequential(conv, GroupNorm(outputs, outputs), nn.LeakyReLU())


class Encoder(nn.Module):
    """The encoder of one modality."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            nn.Sequential(convolution(above, width), convolution(width, width))
            for above, width in pairwise((1, *widths))
        )
        self.gaussians = nn.ModuleList(PointwiseConv3d(width, 2 * width) for width in widths)

    def forward(self, x: Tensor) -> list[Gaussian]:
        """Return the Gaussians (B, C, D, H, W), (B, 2C, D/2, …), … of all levels of one modality (B, 1, D, H, W)."""
        gaussians = []
        for depth, (level, gaussian) in enumerate(zip(self.levels, self.gaussians, strict=True)):
            x = level(F.max_pool3d(x, 2) if depth else x)
            mean, log_variance = gaussian(x).float().chunk(2, 1)
            gaussians.append(Gaussian(mean, log_variance.clamp(-LIMIT, LIMIT)))
        return gaussians


class Decoder(nn.Module):
    """Upsamples, concatenates the latent variables of the level, and convolves."""

    def __init__(self, widths: Sequence[int], outputs: int) -> None:
        super().__init__()
        up = list(pairwise(widths))[::-1]
        self.levels = nn.ModuleList(convolution(deep + width, width) for width, deep in up)
        self.head = PointwiseConv3d(widths[0], outputs)

    def forward(self, latents: Sequence[Tensor]) -> Tensor:
        """Return (B, outputs, D, H, W) of the latent variables of all levels, the finest first."""
        *skips, x = latents
        for level, skip in zip(self.levels, skips[::-1], strict=True):
            x = F.interpolate(x, size=skip.shape[2:], mode="trilinear")
            x = level(torch.cat([x, skip], 1))
        result: Tensor = self.head(x)
        return result


class UHVEDNetwork(nn.Module):
    """Encoders, the decoder that segments, and one that reconstructs each modality.

    `draws` counts the samples drawn so far and seeds the next, so that a training that was stopped draws on alike.
    """

    members: Tensor
    draws: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        options, count = options_of(config, UHVEDOptions), len(config.modalities)
        widths = [options.channels * 2**level for level in range(4)]
        self.register_buffer("members", memberships(config.region_set), persistent=False)
        self.register_buffer("draws", torch.zeros((), dtype=torch.int64))
        self.encoders = nn.ModuleList(Encoder(widths) for _ in range(count))
        self.segment = Decoder(widths, len(self.members))
        self.reconstruct = nn.ModuleList(Decoder(widths, 1) for _ in range(count))

    def encode(self, x: Tensor, missing: Tensor) -> list[Gaussian]:
        """Return the posterior of each level given what of `x` (B, N, D, H, W) is not `missing` (B, N)."""
        x = torch.where(missing[:, :, None, None, None], 0, x)
        each = [encoder(x[:, i : i + 1]) for i, encoder in enumerate(self.encoders)]
        levels = [Gaussian(*map(_stacked, zip(*level, strict=True))) for level in zip(*each, strict=True)]
        return [product(experts, missing) for experts in levels]

    def sample(self, posteriors: Sequence[Gaussian]) -> list[Tensor]:
        """Draw z = μ + √v ε with ε of N(0, I) (known)."""
        device = posteriors[0].mean.device
        generator = torch.Generator(device).manual_seed(int(self.draws))
        self.draws += 1
        return [
            mean + (log_variance / 2).exp() * torch.randn(mean.shape, generator=generator, device=device)
            for mean, log_variance in posteriors
        ]

    def forward(self, x: Tensor, missing: Tensor) -> Tensor:
        """Return the class logits (B, K, D, H, W) from the means of the posteriors."""
        logits: Tensor = self.segment([posterior.mean for posterior in self.encode(x, missing)])
        return logits


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(tensors), 1)


def segmentation_loss(logits: Tensor, y: Tensor) -> Tensor:
    """Return CE plus the mean over the K classes of V-Net's Dice loss, of each image (B,) (doubtful: which Dice).

    D(p, y) = 1 - 2 Σ p y / (Σ p² + Σ y² + ε), for one-hot `y` (B, K, D, H, W); background counts.
    """
    p, entropy = logits.softmax(1), -(y * logits.log_softmax(1)).sum(1).mean((1, 2, 3))
    sums = p.square().sum((2, 3, 4)) + y.square().sum((2, 3, 4))
    return entropy + (1 - 2 * (p * y).sum((2, 3, 4)) / (sums + EPSILON)).mean(1)


def reconstruction_loss(x: Tensor, reconstruction: Tensor, exists: Tensor) -> Tensor:
    """Return Σ_i mean (x_i - x̂_i)² over all modalities that exist (B, N), also those dropped, of each image (B,)."""
    return (exists * (x - reconstruction).square().mean((2, 3, 4))).sum(1)


class UHVED(Method):
    """What is missing is no expert of the product (known)."""

    NETWORKS: ClassVar = {"segmenter": UHVEDNetwork}

    @classmethod
    def stages(cls) -> tuple[Stage, ...]:
        """One training."""
        return (Supervised(cls),)

    @torch.no_grad()
    def predict(self, x: Tensor, missing: Tensor) -> Tensor:
        """Return the region logits (B, R, D, H, W) from the means of the product of what is there."""
        network = cast(UHVEDNetwork, self.networks["segmenter"])
        return region_logits(network(x, missing.expand(len(x), -1)), network.members)

    def losses(
        self, network: nn.Module, x: Tensor, regions: Tensor, missing: Tensor, weights: Sequence[float] | None
    ) -> dict[str, Tensor]:
        """L_seg + λ (L_rec + L_KL) (known; λ is doubtful), with the divergence of the drawn subset's product alone."""
        assert isinstance(network, UHVEDNetwork)  # noqa: S101  it is what NETWORKS makes
        weight = options_of(self.config, UHVEDOptions).weight
        y = class_masks(regions, network.members).float()
        posteriors = network.encode(x, missing)
        latents = network.sample(posteriors)
        shown = torch.cat([decoder(latents) for decoder in network.reconstruct], 1).float()
        segmentation = segmentation_loss(network.segment(latents).float(), y)
        if weights is not None:
            segmentation = segmentation * segmentation.new_tensor(weights)
        return {
            "segmentation": segmentation.mean(),
            "reconstruction": weight * reconstruction_loss(x, shown, acquired(x)).mean(),
            "divergence": weight * torch.stack([divergence(level).mean() for level in posteriors]).sum(),
        }
