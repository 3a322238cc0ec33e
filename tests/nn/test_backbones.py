"""Backbones by name: our own is registered like anybody else's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from m3ae_core.config import ModelConfig, NetworkConfig
from m3ae_core.errors import ConfigError
from m3ae_core.nn.backbones import build_backbone
from m3ae_core.nn.unet import ResidualUNet
from m3ae_core.plugins import hook_implementation, plugin_manager, registered

TINY = NetworkConfig(base_channels=4, norm_groups=2)


class Impostor:
    @hook_implementation
    def m3ae_backbones(self):
        return {"residual-unet": object}


@pytest.fixture
def impostor() -> Iterator[None]:
    manager = plugin_manager()
    manager.register(Impostor(), name="impostor")
    yield
    manager.unregister("impostor")


def test_the_papers_network_is_the_default() -> None:
    backbone = build_backbone(ModelConfig(modalities=("T1", "T2"), network=TINY))
    assert isinstance(backbone, ResidualUNet)
    assert backbone.down[0].in_channels == 2
    assert backbone.widths[0] == 4


def test_building_twice_registers_once() -> None:
    first, second = (build_backbone(ModelConfig(network=TINY)) for _ in range(2))
    assert first is not second
    assert (first.down[0].weight != second.down[0].weight).any()
    assert registered("backbones")["residual-unet"] is ResidualUNet


def test_an_unknown_backbone_is_refused_with_what_there_is() -> None:
    config = ModelConfig(network=NetworkConfig(name="swin"))
    with pytest.raises(ConfigError, match=r"'swin'.*residual-unet") as caught:
        build_backbone(config)
    assert caught.value.code == "no-backbone"


def test_nobody_takes_our_name(impostor: None) -> None:
    with pytest.raises(ConfigError, match="residual-unet") as caught:
        build_backbone(ModelConfig(network=TINY))
    assert caught.value.code == "plugins"
