"""Our re-implementation of RFNet: region maps first, then modalities fused with weights of each region's own.

It follows a specification in our words, not the paper's text, so results are those of "our re-implementation of RFNet".
Marks: *known*; *doubtful*, known but perhaps not in this value or form; *our choice*. Known are one encoder a modality,
a decoder of the fused features, one decoder that all modalities share, a region-aware fusion module on each of four
levels, and the loss. Doubtful are three convolutions a level, instance norms, leaky ReLU and the widths, 16 to 128
(C = `network.base_channels`); the parameters, 8.2 M, are near the published 8.4 M. Our choice is the network of the
maps: it sees the features of its level alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar, Literal, NamedTuple, cast

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
SLOPE = 0.2  # doubtful


class RFNetOptions(Frozen):
    """The options of RFNet.

    Attributes
    ----------
    weight_norm
        Doubtful: each modality's weight in a region is a ``sigmoid``, or all present ones are a ``softmax``.
    separate_weight
        Doubtful: weight of the losses of the single modalities (the shared decoder).
    map_weight
        Doubtful: weight of the losses of the region maps of all levels.
    """

    weight_norm: Literal["sigmoid", "softmax"] = "sigmoid"
    separate_weight: float = Field(1.0, ge=0)
    map_weight: float = Field(1.0, ge=0)


def convolution(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Return a convolution, instance norm and leaky ReLU."""
    first = (
        PointwiseConv3d(inputs, outputs)
        if kernel == 1
        else nn.Conv3d(inputs, outputs, kernel, stride, kernel // 2)
    )
    return nn.Sequential(first, GroupNorm(outputs, outputs), nn.LeakyReLU(SLOPE))


def enlarge(x: Tensor, size: Sequence[int]) -> Tensor:
    """Return `x` (B, C, …) interpolated trilinearly to (B, C, *size)."""
    return F.interpolate(x, size=tuple(size), mode="trilinear")


class Level(nn.Module):
    """One level of an encoder: a convolution, of stride 2 but on the first level, and two more with a residual."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = convolution(inputs, outputs, stride=stride)
        self.rest = nn.Sequential(convolution(outputs, outputs), convolution(outputs, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Return the level's features of those of the level above."""
        x = self.first(x)
        y: Tensor = x + self.rest(x)
        return y


class Encoder(nn.Module):
    """The encoder of one modality."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        deeper = (Level(above, width, stride=2) for above, width in pairwise(widths))
        self.levels = nn.ModuleList([Level(1, widths[0], stride=1), *deeper])

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the features (B, C, D, H, W), (B, 2C, D/2, …), … of all levels of one modality (B, 1, D, H, W)."""
        features = []
        for level in self.levels:
            x = level(x)
            features.append(x)
        return features


class Decoder(nn.Module):
    """Upsamples, concatenates the features of the level, and segments."""

    def __init__(self, widths: Sequence[int], classes: int) -> None:
        super().__init__()
        up = list(pairwise(widths))[::-1]
        self.rise = nn.ModuleList(convolution(deep, width) for width, deep in up)
        self.join = nn.ModuleList(
            nn.Sequential(convolution(2 * width, width), convolution(width, width, 1)) for width, _ in up
        )
        self.head = PointwiseConv3d(widths[0], classes)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return the class logits (B, K, D, H, W) of the features of all levels, as :class:`Encoder` returns them."""
        *skips, x = features
        for rise, join, skip in zip(self.rise, self.join, skips[::-1], strict=True):
            x = join(torch.cat([rise(enlarge(x, skip.shape[2:])), skip], 1))
        logits: Tensor = self.head(x)
        return logits


def pool(features: Tensor, maps: Tensor) -> Tensor:
    """Step 3: the mean (B, K, N, C) of `features` (B, N, C, D, H, W) over each class of `maps` (B, K, D, H, W).

    g_m^k = Σ_v p_k f_m / (Σ_v p_k + ε). Doubtful: that the mean is weighted by p_k.
    """
    with torch.autocast(features.device.type, enabled=False):  # sums over voxels exceed float16
        sums = torch.einsum("bkdhw,bncdhw->bknc", maps.float(), features.float())
        return sums / (maps.float().sum((2, 3, 4))[:, :, None, None] + EPSILON)


def normalise(scores: Tensor, missing: Tensor, weight_norm: str) -> Tensor:
    """Step 4: turn scores (B, K, N) into weights of the modalities; those `missing` (B, N) get 0 (our choice)."""
    scores = scores.masked_fill(missing[:, None], -torch.inf)
    return scores.sigmoid() if weight_norm == "sigmoid" else scores.softmax(2)


def fuse(features: Tensor, maps: Tensor, weights: Tensor) -> Tensor:
    """Steps 2 and 5: h^k = Σ_m w_m^k p_k f_m, (B, K, C, D, H, W), of `features` (B, N, C, D, H, W)."""
    return maps[:, :, None] * torch.einsum("bkn,bncdhw->bkcdhw", weights, features)


class RegionFusion(nn.Module):
    """The region-aware fusion module (RFM) of one level with C channels.

    Known: maps from all features, features weighted by them and pooled, weights of each region's own. Doubtful: the
    fully connected layers (two, C wide) and that all h^k are concatenated and convolved.
    """

    def __init__(self, channels: int, modalities: int, classes: int, weight_norm: str) -> None:
        super().__init__()
        together = modalities * channels
        self.weight_norm = weight_norm
        self.maps = nn.Sequential(
            convolution(together, channels, 1),
            convolution(channels, channels),
            PointwiseConv3d(channels, classes),
        )
        self.scores = nn.ModuleList(
            nn.Sequential(nn.Linear(together, channels), nn.LeakyReLU(SLOPE), nn.Linear(channels, modalities))
            for _ in range(classes)
        )
        self.merge = convolution(classes * channels, channels, 1)

    def forward(self, features: Tensor, missing: Tensor) -> tuple[Tensor, Tensor]:
        """Return the fused features (B, C, D, H, W) and the maps (B, K, D, H, W) of `features` (B, N, C, D, H, W)."""
        features = torch.where(missing[:, :, None, None, None, None], 0, features)
        maps = self.maps(features.flatten(1, 2)).softmax(1)
        pooled = pool(features, maps).flatten(2)
        scores = torch.stack([score(pooled[:, k]) for k, score in enumerate(self.scores)], 1)
        weights = normalise(scores, missing, self.weight_norm)
        fused: Tensor = self.merge(fuse(features, maps, weights).flatten(1, 2))
        return fused, maps


class Fused(NamedTuple):
    """What the network computes: class logits (B, K, D, H, W), and of each level the region maps (B, K, D, …) and the
    modalities' features (B, N, C, D, …)."""

    logits: Tensor
    maps: list[Tensor]
    features: list[Tensor]


class RegionFusionNetwork(nn.Module):
    """Encoders, a fusion module on each level, the decoder D_fuse, and D_sep, which all modalities share."""

    members: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        options = options_of(config, RFNetOptions)
        count, widths = (
            len(config.modalities),
            [config.network.base_channels * 2**level for level in range(4)],
        )
        self.register_buffer("members", memberships(config.region_set), persistent=False)
        classes = len(self.members)
        self.encoders = nn.ModuleList(Encoder(widths) for _ in range(count))
        self.fusions = nn.ModuleList(RegionFusion(w, count, classes, options.weight_norm) for w in widths)
        self.fused, self.separate = Decoder(widths, classes), Decoder(widths, classes)

    def forward(self, x: Tensor, missing: Tensor) -> Fused:
        """Segment `x` (B, N, D, H, W) from what is not `missing` (B, N): its features are zero after the encoder."""
        each = [encoder(x[:, m : m + 1]) for m, encoder in enumerate(self.encoders)]
        features = [torch.stack(level, 1) for level in zip(*each, strict=True)]
        levels = [fusion(level, missing) for fusion, level in zip(self.fusions, features, strict=True)]
        logits = self.fused([fused for fused, _ in levels])
        return Fused(logits, [maps for _, maps in levels], features)


def class_weights(y: Tensor) -> Tensor:
    """Return ω_k = 1 - Σ_v y_k / Σ_v Σ_k y_k of one-hot `y` (B, K, D, H, W), (B, K) (known)."""
    return 1 - y.mean((2, 3, 4))


def cross_entropy(log_q: Tensor, y: Tensor) -> Tensor:
    """Return WCE = -(1/V) Σ_v Σ_k ω_k y_k log q_k of each image, (B,) (known)."""
    return -(class_weights(y) * (y * log_q).mean((2, 3, 4))).sum(1)


def dice_loss(q: Tensor, y: Tensor) -> Tensor:
    """Return 1 - (2/K) Σ_k Σ_v q_k y_k / (Σ_v q_k + Σ_v y_k + ε) of each image, (B,); background counts (known)."""
    overlap = 2 * (q * y).sum((2, 3, 4)) / (q.sum((2, 3, 4)) + y.sum((2, 3, 4)) + EPSILON)
    return 1 - overlap.mean(1)


def segmentation_loss(log_q: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    """Return the sum over the images of L(q) = WCE + Dice, each times its weight (B,)."""
    return (weights * (cross_entropy(log_q, y) + dice_loss(log_q.exp(), y))).sum()


class RFNet(Method):
    """Features of what is missing are zeros, after the encoder (known)."""

    NETWORKS: ClassVar = {"segmenter": RegionFusionNetwork}

    @classmethod
    def stages(cls) -> tuple[Stage, ...]:
        """One training."""
        return (Supervised(cls),)

    @torch.no_grad()
    def predict(self, x: Tensor, missing: Tensor) -> Tensor:
        """Return the region logits (B, R, D, H, W): p_WT = p1 + p2 + p3 and so on; D_sep is not used."""
        network = cast(RegionFusionNetwork, self.networks["segmenter"])
        return region_logits(network(x, missing.expand(len(x), -1)).logits, network.members)

    def losses(
        self, network: nn.Module, x: Tensor, regions: Tensor, missing: Tensor, weights: Sequence[float] | None
    ) -> dict[str, Tensor]:
        """L(q_fuse) + Σ_m L(q_sep,m) + Σ_l L(up(p^l)) (known; the weights are doubtful).

        q_sep,m is computed for all modalities that a case has, also for those masked in the fusion.
        """
        assert isinstance(network, RegionFusionNetwork)  # noqa: S101  it is what NETWORKS makes
        options = options_of(self.config, RFNetOptions)
        result, exists, count = network(x, missing), acquired(x), len(x)
        y = class_masks(regions, network.members).float()
        counts = y.new_tensor([1.0] * count if weights is None else weights)
        owner = exists.nonzero()[:, 0]
        separate = network.separate([level[exists] for level in result.features]).float().log_softmax(1)
        terms = {
            "fused": segmentation_loss(result.logits.float().log_softmax(1), y, counts),
            "separate": options.separate_weight * segmentation_loss(separate, y[owner], counts[owner]),
            "maps": options.map_weight * map_loss(result.maps, y, counts),
        }
        return {name: term / count for name, term in terms.items()}


def map_loss(maps: Sequence[Tensor], y: Tensor, weights: Tensor) -> Tensor:
    """Return Σ_l L(up(p^l)) of the region maps of all levels, upsampled to the size of `y` (B, K, D, H, W)."""
    enlarged = [enlarge(level.float(), y.shape[2:]).clamp(min=EPSILON) for level in maps]
    return torch.stack([segmentation_loss(level.log(), y, weights) for level in enlarged]).sum()
