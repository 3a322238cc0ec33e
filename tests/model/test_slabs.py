"""Residual blocks slab by slab against the same blocks as written, in double precision."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from m3ae_core.model import slabs
from m3ae_core.model.unet import ResidualBlock

LAST = torch.channels_last_3d
CHANNELS = 32


def block(seed: int = 0) -> ResidualBlock:
    """A block whose norms and biases do something."""
    torch.manual_seed(seed)
    block = ResidualBlock(CHANNELS, 8)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return block.to(memory_format=LAST)


def image(*shape: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).contiguous(memory_format=LAST)


def exactly(block: ResidualBlock, x: Tensor) -> Tensor:
    return copy.deepcopy(block).double()(x.double().contiguous()).float()


@given(
    st.integers(1, 2),
    st.integers(1, 19),
    st.integers(1, 6),
    st.integers(1, 6),
    st.integers(1, 3),
    st.integers(0, 9),
)
@torch.no_grad()
def test_any_depth_and_number_of_slabs(
    batch: int, depth: int, height: int, width: int, fours: int, seed: int
) -> None:
    x, of = image(batch, CHANNELS, depth, height, width, seed=seed), block(seed)
    bytes_of_plane = 4 * CHANNELS * height * width
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slabs, "_SLAB", fours * 4 * bytes_of_plane)
        assert slabs.suit(x)
        y = of(x)
    assert y.is_contiguous(memory_format=LAST)
    torch.testing.assert_close(y, exactly(of, x), rtol=1e-5, atol=2e-5)


def test_the_gradient_needs_no_slabs_and_the_answer_is_the_same() -> None:
    x, of = image(1, CHANNELS, 10, 12, 14), block()
    with torch.no_grad():
        in_slabs = of(x)
    torch.testing.assert_close(of(x).detach(), in_slabs, rtol=1e-5, atol=2e-5)


def test_the_input_is_left_as_it_is() -> None:
    x, of = image(1, CHANNELS, 9, 4, 4), block()
    before = x.clone()
    with torch.no_grad():
        of(x)
    assert torch.equal(x, before)


@torch.no_grad()
def test_what_does_not_suit() -> None:
    x = image(1, CHANNELS, 4, 4, 4)
    assert slabs.suit(x)
    assert not slabs.suit(x[:, :16].contiguous(memory_format=LAST))
    assert not slabs.suit(x.contiguous())
    assert not slabs.suit(x.bfloat16())
    assert not slabs.suit(x.to("meta"))
    with torch.autocast("cpu", torch.bfloat16):
        assert not slabs.suit(x)
    with torch.enable_grad():
        assert not slabs.suit(x)
