"""MONAI's networks as backbones: SegResNet, DynUNet and SwinUNETR, without their own last layers.

`network.base_channels` is the width C of the finest level, `network.options` are the settings of the network's own
options class here; whatever else MONAI lets one set keeps MONAI's default. They need the extra ``train``.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar, cast

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from m3ae_core.config import NetworkConfig, options_of
from m3ae_core.errors import ConfigError
from m3ae_core.extras import require_extra
from m3ae_core.nn.unet import Features
from m3ae_core.stage_config import Frozen

Probability = Annotated[float, Field(ge=0, lt=1)]
Four = tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt]
Options = TypeVar("Options", bound=Frozen)


class SegResNetOptions(Frozen):
    """Residual blocks of each level on the way down (published ones), and dropout after the first convolution."""

    blocks_down: Four = (1, 2, 2, 4)
    dropout_prob: Probability | None = None


class DynUNetOptions(Frozen):
    """Whether the convolutions of a level are bridged by a residual connection, and dropout in its blocks."""

    res_block: bool = False
    dropout: Probability | None = None


class SwinUNETROptions(Frozen):
    """Transformer blocks and attention heads of each stage, the side of an attention window, and stochastic depth.

    `use_v2` begins each stage with a residual convolution.
    """

    depths: Four = (2, 2, 2, 2)
    num_heads: Four = (3, 6, 12, 24)
    window_size: PositiveInt = 7
    dropout_path_rate: Probability = 0.0
    use_v2: bool = False


def monai_network(name: str, **settings: Any) -> Any:
    """Return a new network of MONAI's.

    Raises
    ------
    ConfigError
        If MONAI is not installed (``missing-extra``), or refuses the settings (``network``).
    """
    require_extra("train")
    from monai.networks import nets

    try:
        return getattr(nets, name)(**settings)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"MONAI cannot build this {name}: {error}", "Change [model.network].", code="network"
        ) from error


class SegResNet(nn.Module):
    """Myronenko's residual encoder-decoder of four levels, C to 8C; skips are added."""

    def __init__(self, in_channels: int, config: NetworkConfig) -> None:
        super().__init__()
        own, width = options_of(config, SegResNetOptions), config.base_channels
        self.widths = (width, 2 * width, 4 * width, 8 * width)
        norm = ("group", {"num_groups": config.norm_groups})
        self.net = monai_network(
            "SegResNet", in_channels=in_channels, init_filters=width, norm=norm, **own.model_dump()
        )
        self.net.conv_final = nn.Identity()

    def forward(self, x: Tensor) -> Features:
        """Return the features of `x` (B, N, D, H, W); D, H and W are multiples of 8."""
        bottleneck, levels = self.net.encode(x)
        x, scales = bottleneck, list[Tensor]()
        for double, blocks, skip in zip(self.net.up_samples, self.net.up_layers, levels[-2::-1], strict=True):
            x = blocks(double(x) + skip)
            scales.append(x)
        return Features(bottleneck, *scales)


class DynUNet(nn.Module):
    """nnU-Net's plain U-Net (instance norm, leaky ReLU, strided and transposed convolutions), cut to four levels."""

    def __init__(self, in_channels: int, config: NetworkConfig) -> None:
        super().__init__()
        own, width = options_of(config, DynUNetOptions), config.base_channels
        self.widths = (width, 2 * width, 4 * width, 8 * width)
        net = monai_network(
            "DynUNet",
            spatial_dims=3,
            in_channels=in_channels,
            out_channels=1,
            kernel_size=[3] * 4,
            strides=[1, 2, 2, 2],
            upsample_kernel_size=[2] * 3,
            filters=self.widths,
            **own.model_dump(),
        )
        self.encoder = nn.ModuleList([net.input_block, *net.downsamples, net.bottleneck])
        self.decoder = cast(nn.ModuleList, net.upsamples)

    def forward(self, x: Tensor) -> Features:
        """Return the features of `x` (B, N, D, H, W); D, H and W are multiples of 8."""
        levels = []
        for encode in self.encoder:
            x = encode(x)
            levels.append(x)
        scales = []
        for decode, skip in zip(self.decoder, levels[-2::-1], strict=True):
            x = decode(x, skip)
            scales.append(x)
        return Features(levels[-1], *scales)


class SwinUNETR(nn.Module):
    """A hierarchical transformer with shifted windows as encoder, and a convolutional decoder.

    Its widths are C, C, 2C at full, half and quarter scale, and its bottleneck is 16C at 1/32: what is no multiple of
    32 is padded with zeros, and the three scales are cut back. C must be a multiple of 12.
    """

    STRIDE = 32

    def __init__(self, in_channels: int, config: NetworkConfig) -> None:
        super().__init__()
        own, width = options_of(config, SwinUNETROptions), config.base_channels
        self.widths = (width, width, 2 * width, 16 * width)
        with _RatesAsNumbers():
            self.net = monai_network(
                "SwinUNETR", in_channels=in_channels, out_channels=1, feature_size=width, **own.model_dump()
            )
        self.net.out = nn.Identity()

    def forward(self, x: Tensor) -> Features:
        """Return the features of `x` (B, N, D, H, W); D, H and W are multiples of 8."""
        size = x.shape[-3:]
        x = F.pad(x, [amount for side in reversed(size) for amount in (0, -side % self.STRIDE)])
        net = self.net
        half, quarter, eighth, sixteenth, deepest = net.swinViT(x, net.normalize)
        bottleneck = net.encoder10(deepest)
        decoded = net.decoder5(bottleneck, sixteenth)
        decoded = net.decoder4(decoded, net.encoder4(eighth))
        at_quarter = net.decoder3(decoded, net.encoder3(quarter))
        at_half = net.decoder2(at_quarter, net.encoder2(half))
        full = net.decoder1(at_half, net.encoder1(x))
        scales = ((at_quarter, 4), (at_half, 2), (full, 1))
        return Features(bottleneck, *(_cut(scale, size, factor) for scale, factor in scales))


class _RatesAsNumbers(TorchFunctionMode):
    """Lets SwinUNETR read its dropout rates off a tensor while it is planned on the device ``meta``, as bundles do."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        on_cpu = {"device": "cpu"} if func is torch.linspace else {}
        return func(*args, **{**(kwargs or {}), **on_cpu})


def _cut(x: Tensor, size: tuple[int, ...], factor: int) -> Tensor:
    """Return the part of `x` (B, C, …) that lies over an image of `size`, `factor` times as fine."""
    return x[:, :, *(slice(side // factor) for side in size)]
