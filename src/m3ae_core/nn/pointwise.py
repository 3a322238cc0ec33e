"""1³ convolutions whose answer does not depend on the number of threads."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class PointwiseConv3d(nn.Conv3d):
    """A 1³ convolution that oneDNN computes on the CPU with one thread as with several.

    With one thread torch takes another kernel for float32, which rounds otherwise, unless the filter is dilated; a
    filter of one tap may be.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, O, D, H, W) from `x` (B, C, D, H, W)."""
        return F.conv3d(x, self.weight, self.bias, dilation=2 if x.device.type == "cpu" else 1)
