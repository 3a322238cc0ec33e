"""Group normalisation against torch's own in float64, on contiguous data, where nothing is lost."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor, nn

from m3ae_core.nn.norm import GroupNorm

LAST = torch.channels_last_3d


def both_passes(
    x: Tensor, groups: int, layout: torch.memory_format, dtype: torch.dtype, kind: type[nn.GroupNorm]
) -> list[Tensor]:
    """Output, and gradients of x, weight and bias, of a norm whose parameters and incoming gradient are fixed."""
    generator = torch.Generator().manual_seed(1)
    weight, bias = torch.rand(2, x.shape[1], generator=generator) + 0.5
    grad = torch.randn(x.shape, generator=generator).to(dtype).contiguous(memory_format=layout)
    norm = kind(groups, x.shape[1])
    norm.load_state_dict({"weight": weight, "bias": bias})
    norm.to(dtype)
    x = x.to(dtype).contiguous(memory_format=layout).requires_grad_()
    y = norm(x)
    y.backward(grad)
    assert y.is_contiguous(memory_format=layout)
    return [y.detach(), x.grad, norm.weight.grad, norm.bias.grad]


def errors(x: Tensor, groups: int, kind: type[nn.GroupNorm] = GroupNorm) -> list[float]:
    """Largest errors of channels-last float32, relative to the size of the values.

    Of output and gradient of x that is the largest value. Each parameter's gradient sums one term of size 1 per voxel,
    n in all: its size is √n, since the terms of a few voxels may cancel and leave nothing but their rounding.
    """
    exact = both_passes(x, groups, torch.contiguous_format, torch.float64, nn.GroupNorm)
    found = both_passes(x, groups, LAST, torch.float32, kind)
    terms = x[:, 0].numel() ** 0.5
    sizes = (exact[0].abs().max().item(), exact[1].abs().max().item(), terms, terms)
    return [(a - b).abs().max().item() / size for a, b, size in zip(found, exact, sizes, strict=True)]


def noise(*shape: int, mean: float = 0, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) + mean


def test_it_is_exact_where_torchs_own_is_not() -> None:
    """torch 2.13's own, on the same tensor: 3e-5 in output and gradient, 3e-5 in the weight's."""
    assert max(errors(noise(2, 8, 40, 64, 64), 4)) < 1e-6


@given(
    st.integers(0, 99),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 3),
    st.tuples(*[st.integers(2, 6)] * 3),
)
@example(26, 1, 1, 1, (2, 2, 2))  # whose weight has a gradient of nearly nothing
def test_any_shape(seed: int, batch: int, groups: int, width: int, size: tuple[int, int, int]) -> None:
    assert max(errors(noise(batch, groups * width, *size, seed=seed), groups)) < 1e-5


@pytest.mark.parametrize(("mean", "tolerance"), [(3, 1e-6), (10, 2e-5), (100, 2e-3)])
def test_a_mean_far_from_zero_costs_digits_but_not_the_result(mean: float, tolerance: float) -> None:
    """The variance is a difference of squares: its error grows with (mean / deviation)²."""
    assert max(errors(noise(1, 8, 32, 32, 32, mean=mean), 4)) < tolerance


@pytest.mark.parametrize("value", [0.3, 7.3, 73.7, 731.9, 7319.1])
def test_a_constant_image_has_no_negative_variance(value: float) -> None:
    """By rounding it would, and its root be no number."""
    x = torch.full((1, 4, 8, 8, 8), value).contiguous(memory_format=LAST)
    norm = GroupNorm(2, 4)
    nn.init.constant_(norm.bias, 0.25)
    y = norm(x)
    assert y.isfinite().all()
    torch.testing.assert_close(y, torch.full_like(x, 0.25), atol=1e-4 * value, rtol=0)


def test_contiguous_images_are_torchs_own() -> None:
    x = noise(2, 6, 4, 5, 6)
    own, torchs = (
        both_passes(x, 3, torch.contiguous_format, torch.float32, kind) for kind in (GroupNorm, nn.GroupNorm)
    )
    assert all(torch.equal(a, b) for a, b in zip(own, torchs, strict=True))


def test_a_gradient_of_another_layout() -> None:
    x = noise(1, 4, 3, 4, 5).contiguous(memory_format=LAST)
    found = []
    for layout in (LAST, torch.contiguous_format):
        leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
        GroupNorm(2, 4)(leaf).backward(noise(1, 4, 3, 4, 5, seed=1).contiguous(memory_format=layout))
        found.append(leaf.grad)
    torch.testing.assert_close(*found)


def test_activations_may_work_in_place_on_the_output() -> None:
    x = noise(1, 4, 3, 4, 5).contiguous(memory_format=LAST)
    grads = []
    for inplace in (False, True):
        leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
        nn.functional.relu(GroupNorm(2, 4)(leaf), inplace=inplace).square().sum().backward()
        grads.append(leaf.grad)
    assert torch.equal(*grads)


@pytest.mark.parametrize("mean", [0, 3])
def test_bfloat16_is_normalised_with_statistics_of_float32(mean: float) -> None:
    """Each image by itself; what is left is the rounding of the output, 2⁻⁸ at most."""
    x = noise(2, 8, 9, 10, 11, mean=mean).bfloat16()
    norm = GroupNorm(4, 8)
    nn.init.normal_(norm.weight, generator=torch.Generator().manual_seed(2))
    expected = nn.functional.group_norm(x.double(), 4, norm.weight.double(), norm.bias.double())
    with torch.no_grad():
        y = norm(x.contiguous(memory_format=LAST))
    assert y.dtype == torch.bfloat16
    assert y.is_contiguous(memory_format=LAST)
    torch.testing.assert_close(y.double(), expected, rtol=2**-8, atol=1e-5)


@pytest.mark.parametrize("mean", [0, 3])
def test_bfloat16_learns_with_statistics_of_float32(mean: float) -> None:
    """Both passes, in the mixed precision of training: weights in float32, images and gradients in bfloat16."""
    x = noise(2, 8, 9, 10, 11, mean=mean).bfloat16()
    grad = noise(2, 8, 9, 10, 11, seed=1).bfloat16()
    passes = []
    for kind, dtype, layout in (
        (GroupNorm, torch.bfloat16, LAST),
        (nn.GroupNorm, torch.float64, torch.contiguous_format),
    ):
        norm = kind(4, 8)
        nn.init.normal_(norm.weight, generator=torch.Generator().manual_seed(2))
        norm.to(torch.promote_types(dtype, torch.float32))
        leaf = x.to(dtype).contiguous(memory_format=layout).requires_grad_()
        y = norm(leaf)
        y.backward(grad.to(dtype))
        passes.append([y.detach(), leaf.grad, norm.weight.grad, norm.bias.grad])
    for found, exact in zip(*passes, strict=True):
        torch.testing.assert_close(found.double(), exact.double(), rtol=2**-8, atol=1e-3)
