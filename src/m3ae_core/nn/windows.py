"""A whole image through the network: filled first, then in one pass or window by window, which carry no coordinates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from m3ae_core.config import InferenceConfig
from m3ae_core.nn.unet import STRIDE
from m3ae_core.stage_config import Shape

Network = Callable[[Tensor], Tensor]
#: Maps an image (N, d, h, w) and the voxel of the template that it begins at to one of the same shape.
Fill = Callable[[Tensor, Shape], Tensor]

#: The logit where no window was computed: a probability of 1e-13.
NO_BRAIN = -30.0


class Extent(NamedTuple):
    """The part of the template that is segmented: its first voxel and its size."""

    low: Shape
    size: Shape

    @classmethod
    def of(cls, inference: InferenceConfig, template: Shape, brain: tuple[Shape, Shape]) -> Extent:
        """Return the whole template, or the box around the brain, as the model wants it."""
        if inference.window == "template":
            return cls((0, 0, 0), template)
        (z, y, x), (z_end, y_end, x_end) = brain
        return cls((z, y, x), (z_end - z, y_end - y, x_end - x))


def whole_logits(
    network: Network, fill: Fill, image: Tensor, extent: Extent, inference: InferenceConfig
) -> Iterator[tuple[int, int, Tensor | None]]:
    """Segment the `extent` of an `image` (N, D, H, W) on the template.

    Parameters
    ----------
    network
        Maps (B, N, d, h, w) to logits (B, R, d, h, w); B is 2 where the model wants both mirror images, else 1.
    fill
        Puts something in the place of the modalities that are missing.

    Yields
    ------
    Windows done, windows in all, and None; with the last window, the logits (R, *extent.size).
    """
    filled = fill_extent(fill, image, extent, inference)
    views, brain = filled.image[None], filled.brain
    if inference.mirror:  # what is filled in is mirrored too, as in training; W runs from right to left
        views, brain = torch.cat([views, views.flip(-1)]), brain | brain.flip(-1)
    depth, height, width = brain.shape
    window = (depth, height, width) if isinstance(inference.window, str) else inference.window
    inside = tuple(slice(low, low + side) for low, side in zip(filled.before, extent.size, strict=True))
    for done, total, logits in sliding_logits(network, views, brain, window, inference.overlap):
        if logits is None:
            yield done, total, None
        else:
            mean = (logits[0] + logits[1].flip(-1)) / 2 if inference.mirror else logits[0]
            yield done, total, mean[:, *inside]


class Filled(NamedTuple):
    """What the network is given: the filled `image` (N, D, H, W), where there is `brain` (D, H, W, boolean: a modality
    that is present is not zero), and the voxels that padding added on the low sides (`before`)."""

    image: Tensor
    brain: Tensor
    before: Shape


def fill_extent(fill: Fill, image: Tensor, extent: Extent, inference: InferenceConfig) -> Filled:
    """Cut the extent out of an image (N, D, H, W), pad it to what the network takes, and fill what is missing."""
    low, size = extent
    where = (slice(None), *(slice(first, first + side) for first, side in zip(low, size, strict=True)))
    if isinstance(inference.window, str):
        d, h, w = (-(-side // STRIDE) * STRIDE for side in size)
    else:  # as published: windows fit the network whatever lies beside them
        d, h, w = (max(side, window) for side, window in zip(size, inference.window, strict=True))
    cut, before = pad_to(image[where], (d, h, w))
    start = (low[0] - before[0], low[1] - before[1], low[2] - before[2])
    return Filled(fill(cut, start), (cut != 0).any(0), before)


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
    network: Network, views: Tensor, brain: Tensor, size: Shape, overlap: float
) -> Iterator[tuple[int, int, Tensor | None]]:
    """Apply `network` window by window and average the logits with equal weights, as published.

    Windows without brain are skipped; voxels that no other window covers get :data:`NO_BRAIN` (the published procedure
    computes those windows too; at voxels with brain the answers are the same).

    Parameters
    ----------
    network
        Maps (B, N, *size) to logits (B, R, *size).
    views
        Images (B, N, D, H, W), no side shorter than the window's.
    brain
        (D, H, W), boolean.

    Yields
    ------
    Windows done, windows in all, and None; with the last window, the averaged logits (B, R, D, H, W).
    """
    space = tuple(brain.shape)
    if size == space:
        yield 1, 1, network(views)
        return
    starts = product(*(window_starts(n, side, overlap) for n, side in zip(space, size, strict=True)))
    windows = [tuple(slice(first, first + side) for first, side in zip(s, size, strict=True)) for s in starts]
    windows = [where for where in windows if brain[where].any()] or windows[:1]
    total, count = views.new_zeros(()), views.new_zeros(space)
    for done, where in enumerate(windows, 1):
        logits = network(views[:, :, *where])
        if done == 1:
            total = views.new_zeros((*logits.shape[:2], *space))
        total[:, :, *where] += logits
        count[where] += 1
        if done < len(windows):
            yield done, len(windows), None
    yield len(windows), len(windows), torch.where(count > 0, total / count, NO_BRAIN)
