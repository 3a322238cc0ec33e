"""The same input, the same answer to the bit, on whatever number of threads."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from m3ae_core.methods.m3ae.networks import Segmenter
from m3ae_core.nn.norm import GroupNorm
from m3ae_core.nn.pointwise import PointwiseConv3d
from m3ae_core.nn.unet import ResidualBlock
from tiny import random_bundle


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def answers(network: torch.nn.Module, size: tuple[int, ...], dtype: torch.dtype) -> list[torch.Tensor]:
    """What a network makes of one input on one, two and four threads."""
    x = torch.randn(size, generator=torch.Generator().manual_seed(0))
    x, found = x.to(dtype).contiguous(memory_format=torch.channels_last_3d), []
    for threads in (1, 2, 4):
        torch.set_num_threads(threads)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            found.append(network(x.clone(memory_format=torch.preserve_format)))
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("part", "channels"),
    [(GroupNorm(4, 8), 8), (PointwiseConv3d(8, 3), 8), (ResidualBlock(32, 4), 32)],
    ids=["norm", "pointwise", "block"],
)
def test_a_part_answers_alike_on_any_number_of_threads(part, channels, dtype):
    first, *others = answers(part, (1, channels, 56, 56, 24), dtype)
    assert first.dtype == dtype
    assert all(torch.equal(first, other) for other in others)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_network_answers_alike_on_any_number_of_threads(dtype):
    network = Segmenter(random_bundle().config)
    network.forward = network.predict
    first, *others = answers(network, (1, 4, 56, 56, 40), dtype)
    assert all(torch.equal(first, other) for other in others)
