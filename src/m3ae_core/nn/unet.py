"""The backbone: a residual 3-D U-Net with group normalisation (paper, "Implementation"; supplement, Fig. S1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from m3ae_core.errors import ConfigError
from m3ae_core.nn.norm import GroupNorm
from m3ae_core.nn.pointwise import PointwiseConv3d

if TYPE_CHECKING:
    from m3ae_core.config import NetworkConfig

#: Input sides must be multiples of this: the encoder halves the resolution three times.
STRIDE = 8


class Features(NamedTuple):
    """What the backbone computes from an input (B, N, D, H, W), with C base channels.

    Attributes
    ----------
    bottleneck
        (B, 8C, D/8, H/8, W/8), the latent space of self distillation (Eqn. 2).
    quarter, half, full
        Decoder features (B, 4C, D/4, …), (B, 2C, D/2, …) and (B, C, D, H, W): the three scales α of Eqn. 5.
    """

    bottleneck: Tensor
    quarter: Tensor
    half: Tensor
    full: Tensor


class ResidualBlock(nn.Module):
    """Pre-activation residual block: twice (group norm, ReLU, 3³ convolution), plus the input."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm1 = GroupNorm(groups, channels)
        self.conv1 = nn.Conv3d(channels, channels, 3, padding=1)
        self.norm2 = GroupNorm(groups, channels)
        self.conv2 = nn.Conv3d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the shape of `x`."""
        y: Tensor = self.conv1(F.relu(self.norm1(x), inplace=True))
        y = self.conv2(F.relu(self.norm2(y), inplace=True))
        return y.add_(x)  # in place: no pass needs the convolution's own output again


class ResidualUNet(nn.Module):
    """Encoder with 1, 2, 2 and 4 residual blocks on four levels; decoder with one block a level; skips are added.

    Parameters
    ----------
    in_channels
        Number of modalities N.
    config
        Base channels C, groups of the normalisation, and how the decoder doubles the resolution.

    Attributes
    ----------
    widths
        Channels of the four levels, C to 8C.
    checkpointing
        Whether training computes the residual blocks twice to save memory.

    Raises
    ------
    ConfigError
        If C is not a multiple of the groups.
    """

    BLOCKS = (1, 2, 2, 4)
    #: The fastest layout for convolutions on the CPU and on tensor cores; everything downstream inherits it.
    LAYOUT = torch.channels_last_3d

    def __init__(self, in_channels: int, config: NetworkConfig) -> None:
        super().__init__()
        if config.base_channels % config.norm_groups:
            raise ConfigError(
                f"network.base_channels {config.base_channels} is no multiple of norm_groups {config.norm_groups}.",
                "Change one of the two.",
                code="network",
            )
        widths = [config.base_channels * 2**level for level in range(4)]
        self.widths = tuple(widths)
        self.upsample = config.upsample
        self.checkpointing = False

        def blocks(width: int, count: int) -> nn.Sequential:
            return nn.Sequential(*(ResidualBlock(width, config.norm_groups) for _ in range(count)))

        self.down = nn.ModuleList(
            nn.Conv3d(a, b, 3, stride=1 if level == 0 else 2, padding=1)
            for level, (a, b) in enumerate(zip([in_channels, *widths[:3]], widths, strict=True))
        )
        self.encoder = nn.ModuleList(blocks(w, n) for w, n in zip(widths, self.BLOCKS, strict=True))
        self.reduce = nn.ModuleList(PointwiseConv3d(widths[i + 1], widths[i]) for i in (2, 1, 0))
        self.decoder = nn.ModuleList(blocks(widths[i], 1) for i in (2, 1, 0))
        self.to(memory_format=self.LAYOUT)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> Features:
        """Return the features of `x` (B, N, D, H, W); D, H and W are multiples of 8."""
        x = x.contiguous(memory_format=self.LAYOUT)
        skips = []
        for down, encode in zip(self.down, self.encoder, strict=True):
            x = self._blocks(encode, down(x))
            skips.append(x)
        bottleneck = skips.pop()
        scales = []
        for reduce, decode in zip(self.reduce, self.decoder, strict=True):
            x = self._blocks(decode, self._double(reduce(x)).add_(skips.pop()))
            scales.append(x)
        return Features(bottleneck, *scales)

    def _blocks(self, blocks: nn.Module, x: Tensor) -> Tensor:
        """Apply residual blocks; with `checkpointing`, a backward pass computes them again instead of storing them."""
        if self.checkpointing and torch.is_grad_enabled():
            for block in cast(nn.Sequential, blocks):
                x = checkpoint(block, x, use_reentrant=False)
            return x
        result: Tensor = blocks(x)
        return result

    def _double(self, x: Tensor) -> Tensor:
        if self.upsample == "nearest":
            return F.interpolate(x, scale_factor=2, mode="nearest")
        return F.interpolate(x, scale_factor=2, mode="trilinear", align_corners=False)
