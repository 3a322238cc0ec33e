"""A whole image through the network: filled first, then in one pass or window by window, which carry no coordinates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from m3ae_core.config import InferenceConfig, Shape
from m3ae_core.model.substitute import SubstituteImage, fill
from m3ae_core.model.unet import STRIDE

Network = Callable[[Tensor], Tensor]


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
    network: Network,
    image: Tensor,
    missing: Tensor,
    extent: Extent,
    substitute: SubstituteImage,
    inference: InferenceConfig,
) -> Iterator[tuple[int, int, Tensor | None]]:
    """Segment the `extent` of an image on the template, filled where modalities are missing.

    Parameters
    ----------
    network
        Maps (1, N, d, h, w) to logits (1, R, d, h, w).
    image
        (N, D, H, W) on the template.
    missing
        (N,) boolean, True = filled from the substitute.

    Yields
    ------
    Windows done, windows in all, and None; with the last window, the logits (R, *extent.size).
    """
    filled, before = fill_extent(image, missing, extent, substitute, inference)
    depth, height, width = filled.shape[-3:]
    window = (depth, height, width) if isinstance(inference.window, str) else inference.window
    inside = (slice(None), *(slice(b, b + side) for b, side in zip(before, extent.size, strict=True)))
    turns = (False, True) if inference.mirror else (False,)
    whole: Tensor | None = None
    for turn, turned in enumerate(turns):
        # What is filled in is mirrored too, as in training; W runs from right to left.
        seen = filled.flip(-1) if turned else filled
        for done, total, logits in sliding_logits(network, seen, window, inference.overlap):
            if logits is not None:
                logits = logits.flip(-1) if turned else logits
                whole = logits if whole is None else (whole + logits) / len(turns)
            finished = turn * total + done == len(turns) * total
            yield (
                turn * total + done,
                len(turns) * total,
                whole[inside] if finished and whole is not None else None,
            )


def fill_extent(
    image: Tensor, missing: Tensor, extent: Extent, substitute: SubstituteImage, inference: InferenceConfig
) -> tuple[Tensor, Shape]:
    """Cut the extent out of an image (N, D, H, W), pad it to what the network takes, and fill what is missing.

    Returns the filled image and the voxels that padding added on the low sides. The substitute is read at the
    corresponding place of the template, or, for released models, from its corner.
    """
    low, size = extent
    where = (slice(None), *(slice(first, first + side) for first, side in zip(low, size, strict=True)))
    if isinstance(inference.window, str):
        d, h, w = (-(-side // STRIDE) * STRIDE for side in size)
    else:  # as published: windows fit the network whatever lies beside them
        d, h, w = (max(side, window) for side, window in zip(size, inference.window, strict=True))
    cut, before = pad_to(image[where], (d, h, w))
    start = [first - b for first, b in zip(low, before, strict=True)]
    if inference.substitute_origin == "window":
        start = [0, 0, 0]
    content = substitute.crop([start], (d, h, w))[0]
    return fill(cut, content, missing[:, None, None, None]), before


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
