"""The backbone: shapes at every size it accepts, and the parts its configuration names."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from m3ae_core.config import NetworkConfig
from m3ae_core.errors import ConfigError
from m3ae_core.nn.unet import STRIDE, Features, ResidualBlock, ResidualUNet

TINY = NetworkConfig(base_channels=4, norm_groups=2)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("modalities", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("size", [(8, 8, 8), (16, 24, 8), (8, 16, 32)])
def test_shapes(modalities: int, size: tuple[int, int, int]) -> None:
    network = ResidualUNet(modalities, TINY)
    with torch.no_grad():
        features = network(torch.randn(2, modalities, *size))
    assert network.widths == (4, 8, 16, 32)
    for name, width, scale in (("bottleneck", 32, 8), ("quarter", 16, 4), ("half", 8, 2), ("full", 4, 1)):
        assert getattr(features, name).shape == (2, width, *(side // scale for side in size))
    assert isinstance(features, Features)
    assert STRIDE == 8


def test_the_published_backbone_has_the_published_parts() -> None:
    """Residual blocks 1, 2, 2, 4 down and 1, 1, 1 up; widths 16 to 128; 8 groups; additive skips."""
    network = ResidualUNet(4, NetworkConfig())
    assert network.widths == (16, 32, 64, 128)
    assert [len(level) for level in network.encoder] == [1, 2, 2, 4]
    assert [len(level) for level in network.decoder] == [1, 1, 1]
    assert [conv.stride[0] for conv in network.down] == [1, 2, 2, 2]
    assert {m.num_groups for m in network.modules() if isinstance(m, nn.GroupNorm)} == {8}
    encoder = [p.numel() for part in (network.down, network.encoder) for p in part.parameters()]
    assert sum(encoder) == 4_402_320


def test_a_block_is_its_input_plus_a_change() -> None:
    block = ResidualBlock(4, 2)
    nn.init.zeros_(block.conv2.weight)
    nn.init.zeros_(block.conv2.bias)
    x = torch.randn(1, 4, 6, 6, 6)
    before = x.clone()
    torch.testing.assert_close(block(x), before)
    torch.testing.assert_close(x, before)  # the activations work in place, but not on the input


def test_skips_are_added() -> None:
    """With nothing coming up from below, and blocks that change nothing, a scale is what the encoder saw."""
    network = ResidualUNet(2, TINY)
    for part in (*network.reduce, *(level[0].conv2 for level in network.decoder)):
        nn.init.zeros_(part.weight)
        nn.init.zeros_(part.bias)
    x = torch.randn(1, 2, 16, 16, 16)
    with torch.no_grad():
        features = network(x)
        for level, name in enumerate(("full", "half", "quarter", "bottleneck")):
            x = network.encoder[level](network.down[level](x))
            torch.testing.assert_close(getattr(features, name), x)


def test_cases_of_a_batch_do_not_meet() -> None:
    """Both situations of fine-tuning go through as one batch: no normalisation couples them."""
    network = ResidualUNet(2, TINY).eval()
    x = torch.randn(3, 2, 8, 8, 8)
    with torch.no_grad():
        together, alone = network(x), network(x[1:2])
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a[1:2], b, rtol=1e-4, atol=1e-5)


def test_the_two_ways_to_upsample_differ() -> None:
    """They share every parameter, so a wrong choice would be silent."""
    linear = ResidualUNet(2, TINY)
    nearest = ResidualUNet(2, TINY.model_copy(update={"upsample": "nearest"}))
    nearest.load_state_dict(linear.state_dict())
    x = torch.randn(1, 2, 16, 16, 16)
    with torch.no_grad():
        a, b = linear(x), nearest(x)
    torch.testing.assert_close(a.bottleneck, b.bottleneck)
    for scale in ("quarter", "half", "full"):
        assert (getattr(a, scale) - getattr(b, scale)).abs().max() > 1e-3
    step = torch.tensor([0.0, 1.0]).reshape(1, 1, 2, 1, 1)
    assert linear._double(step)[0, 0, :, 0, 0].tolist() == [0, 0.25, 0.75, 1]
    assert nearest._double(step)[0, 0, :, 0, 0].tolist() == [0, 0, 1, 1]


def test_every_parameter_learns() -> None:
    network = ResidualUNet(3, TINY)
    sum(features.square().mean() for features in network(torch.randn(1, 3, 16, 16, 16))).backward()
    assert not [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]


def test_groups_must_divide_the_channels() -> None:
    with pytest.raises(ConfigError, match=r"base_channels 4 .* norm_groups 8") as caught:
        ResidualUNet(4, NetworkConfig(base_channels=4))
    assert caught.value.code == "network"
