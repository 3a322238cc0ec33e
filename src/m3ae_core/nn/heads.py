"""Heads: 1×1×1 convolutions on the backbone's features ("Implementation"; Eqn. 5 for deep supervision)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from m3ae_core.nn.pointwise import PointwiseConv3d
from m3ae_core.nn.unet import Features


class ScaledLogits(NamedTuple):
    """Region logits (B, R, D, H, W) from the three scales α of Eqn. 5, all upsampled to the input's size."""

    full: Tensor
    half: Tensor
    quarter: Tensor


class ReconstructionHead(PointwiseConv3d):
    """Linear regression of the N modalities from the full-resolution features (stage 1)."""

    def __init__(self, widths: Sequence[int], modalities: int) -> None:
        super().__init__(widths[0], modalities)


class SegmentationHeads(nn.Module):
    """f_s on the full-resolution features, and f_d at scales 1/2 and 1/4 for deep supervision (Eqn. 5)."""

    def __init__(self, widths: Sequence[int], regions: int) -> None:
        super().__init__()
        self.at_full = PointwiseConv3d(widths[0], regions)
        self.at_half = PointwiseConv3d(widths[1], regions)
        self.at_quarter = PointwiseConv3d(widths[2], regions)

    def forward(self, features: Features) -> ScaledLogits:
        """Return logits of all three scales; only training needs the two coarse ones."""
        return ScaledLogits(
            self.at_full(features.full),
            enlarge(self.at_half(features.half), 2),
            enlarge(self.at_quarter(features.quarter), 4),
        )


def enlarge(x: Tensor, factor: int) -> Tensor:
    """Upsample trilinearly with aligned corners, as the published network does."""
    return F.interpolate(x, scale_factor=factor, mode="trilinear", align_corners=True)
