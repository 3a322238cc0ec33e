"""Residual blocks without gradients on the CPU: slab by slab, and with half of the multiplications.

Four planes of a 3³ convolution take twelve 2-D convolutions. Winograd's minimal filtering F(4, 3) along the depth makes
do with six (Lavin and Gray, "Fast algorithms for convolutional neural networks", CVPR 2016, section 4: products of
polynomials by Toom and Cook, at the points 0, 1, -1, 2, -2 and infinity). Errors grow from 4e-7 to 7e-7 in outputs of
order 1. The additions that it costs, normalisation, ReLU and the sum at the end happen while a slab of planes is in the
cache.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m3ae_core.model.norm import GroupNorm, moments

#: With fewer channels a value takes part in too few multiplications for its additions to pay.
_CHANNELS = 32

#: Bytes of a slab. Less leaves the cores little to do between two meetings; more outgrows their caches.
_SLAB = 4 << 20

#: From the filter's three taps (columns) to its values at the six points (rows), over the divisors of all other steps.
_AT_POINTS = torch.tensor(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ]
)


def suit(x: Tensor) -> bool:
    """Whether `x` (B, C, D, H, W) is float32 on the CPU, channels last, of enough channels, and wants no gradient."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.shape[1] >= _CHANNELS
        and x.is_contiguous(memory_format=torch.channels_last_3d)
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def residual_block(
    x: Tensor, norm1: GroupNorm, conv1: nn.Conv3d, norm2: GroupNorm, conv2: nn.Conv3d
) -> Tensor:
    """Return x + conv2(relu(norm2(conv1(relu(norm1(x)))))) of an `x` (B, C, D, H, W) that slabs :func:`suit`.

    The convolutions are 3³, padded with zeros, and keep the number of channels.
    """
    result = torch.empty_like(x)
    between = x.new_empty(_planes(x).shape[1:])
    voxels = x[0, 0].numel()
    for image, out in zip(_planes(x), _planes(result), strict=True):
        sums = torch.zeros(2, x.shape[1], dtype=torch.float64)
        for where, slab in _convolved(image, norm1.affine_map(moments(image.flatten(1, 2)), voxels), conv1):
            between[where] = slab
            sums += moments(slab.flatten(1, 2))
        for where, slab in _convolved(between, norm2.affine_map(sums, voxels), conv2):
            torch.add(image[where], slab, out=out[where])
    return result


def _planes(x: Tensor) -> Tensor:
    """View channels-last `x` (B, C, D, H, W) as (B, D, H, W, C)."""
    return x.movedim(1, -1)


def _convolved(x: Tensor, norm: tuple[Tensor, Tensor], conv: nn.Conv3d) -> Iterator[tuple[slice, Tensor]]:
    """Yield slabs (d, H, W, C) of conv(relu(scale · x + shift)) for `x` (D, H, W, C), each with where along D it lies.

    `norm` is scale and shift, (C,) each. The next slab overwrites the last.
    """
    scale, shift = norm
    filters = _at_points(conv.weight)
    fours = max(1, min(-(-len(x) // 4), _SLAB // (4 * 4 * x[0].numel())))
    slab = x.new_empty(4 * fours, *x.shape[1:])
    padded = x.new_zeros(
        len(slab) + 2, *x.shape[1:]
    )  # its first plane lies before the slab, its last behind it
    known = 0  # planes of x that have been normalised
    for first in range(0, len(x), len(slab)):
        new = x[known : first + len(slab) + 1]
        known += len(new)
        end = known - first + 1
        torch.addcmul(shift, new, scale, out=padded[end - len(new) : end]).relu_()
        padded[end:] = 0
        _convolve(padded, filters, conv.bias, slab)
        yield slice(first, first + len(slab)), slab[: len(x) - first]
        padded[:2] = padded[-2:]


def _at_points(weight: Tensor) -> Tensor:
    """Return a filter (O, C, 3, 3, 3) at the six points, as filters (6, O, C, 3, 3) of planes, channels last."""
    first, second, third = weight.permute(2, 0, 3, 4, 1)
    of_first, of_second, of_third = _AT_POINTS[:, :, None, None, None, None].unbind(1)
    # A matrix product would round by threads.
    values: Tensor = of_first * first + of_second * second + of_third * third
    return values.movedim(-1, 2)


def _convolve(padded: Tensor, filters: Tensor, bias: Tensor | None, out: Tensor) -> None:
    """Convolve `padded` (d + 2, H, W, C) to `out` (d, H, W, C), every four planes of it from six."""
    d0, d1, d2, d3, d4, d5 = (padded[i : i + len(out) - 3 : 4] for i in range(6))

    def product(point: int, planes: Tensor) -> Tensor:
        added = bias if point == 1 else None  # this product is added to all four planes
        return F.conv2d(planes.movedim(-1, 1), filters[point], added, padding=1).movedim(1, -1)

    even, odd = torch.sub(d4, d2, alpha=4), torch.sub(d3, d1, alpha=4)
    m0 = product(0, torch.sub(even, d2).add_(d0, alpha=4))
    m1, m2 = product(1, even + odd), product(2, even - odd)
    even, odd = d4 - d2, d3 - d1
    m3, m4 = product(3, torch.add(even, odd, alpha=2)), product(4, torch.sub(even, odd, alpha=2))
    m5 = product(5, torch.sub(d5, d3).sub_(odd, alpha=4))

    even1, odd1, even2, odd2 = m1 + m2, m1 - m2, m3 + m4, m3 - m4
    torch.add(m0, even1, out=out[0::4]).add_(even2)
    torch.add(odd1, odd2, alpha=2, out=out[1::4])
    torch.add(even1, even2, alpha=4, out=out[2::4])
    torch.add(m5, odd1, out=out[3::4]).add_(odd2, alpha=8)
