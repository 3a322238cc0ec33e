"""Sliding windows over a filled image. Filling comes first, so windows carry no coordinates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

import torch.nn.functional as F
from torch import Tensor

from m3ae_core.config import Shape

Network = Callable[[Tensor], Tensor]


def pad_to(x: Tensor, size: Shape) -> tuple[Tensor, Shape]:
    """Zero-pad x (…, D, H, W) on both sides to at least `size`; return it and the voxels added on the low sides."""
    extra = [max(0, side - have) for side, have in zip(size, x.shape[-3:], strict=True)]
    before: Shape = (extra[0] // 2, extra[1] // 2, extra[2] // 2)
    pads = [amount for low, both in zip(before, extra, strict=True) for amount in (both - low, low)]
    return F.pad(x, pads[::-1]), before


def window_starts(length: int, side: int, overlap: float) -> list[int]:
    """Return where windows of `side` start along an axis of `length`: evenly stepped, the last one flush."""
    step = max(1, int(side * (1 - overlap)))
    return sorted({min(start, length - side) for start in range(0, length - side + step, step)})


def sliding_logits(
    network: Network, filled: Tensor, size: Shape, overlap: float
) -> Iterator[tuple[int, int, Tensor | None]]:
    """Apply `network` window by window and average the logits with equal weights, as published.

    Parameters
    ----------
    network
        Maps (1, N, *size) to logits (1, R, *size).
    filled
        Image (N, D, H, W), no side shorter than the window's.

    Yields
    ------
    Windows done, windows in all, and None; with the last window, the averaged logits (R, D, H, W).
    """
    space = filled.shape[-3:]
    starts = list(product(*(window_starts(n, side, overlap) for n, side in zip(space, size, strict=True))))
    total, count = filled.new_zeros(()), filled.new_zeros(space)
    for done, start in enumerate(starts, 1):
        where = (slice(None), *(slice(first, first + side) for first, side in zip(start, size, strict=True)))
        logits = network(filled[where][None])[0]
        if done == 1:
            total = filled.new_zeros((len(logits), *space))
        total[where] += logits
        count[where[1:]] += 1
        yield done, len(starts), (total / count if done == len(starts) else None)
