"""Builds the backbone a configuration names; our own network is registered like anybody else's."""

from __future__ import annotations

from typing import Any

from m3ae_core.config import ModelConfig
from m3ae_core.errors import ConfigError
from m3ae_core.nn.monai import DynUNet, SegResNet, SwinUNETR
from m3ae_core.nn.unet import ResidualUNet
from m3ae_core.plugins import BackboneFactory, hook_implementation, register_own, registered


class OwnModels:
    """The plugin of this package itself."""

    @hook_implementation  # type: ignore[untyped-decorator]
    def m3ae_backbones(self) -> dict[str, BackboneFactory]:
        """Return the paper's network, and three of MONAI's."""
        return {
            "residual-unet": ResidualUNet,
            "segresnet": SegResNet,
            "dynunet": DynUNet,
            "swin-unetr": SwinUNETR,
        }


def build_backbone(config: ModelConfig) -> Any:
    """Return a new backbone with random weights.

    Raises
    ------
    ConfigError
        If no installed package registers `config.network.name`.
    """
    register_own("m3ae-core", OwnModels)
    known = registered("backbones")
    if config.network.name not in known:
        raise ConfigError(
            f"No installed package registers the backbone {config.network.name!r}.",
            f"Install it, or choose from {', '.join(sorted(known))}.",
            code="no-backbone",
        )
    return known[config.network.name](len(config.modalities), config.network)
