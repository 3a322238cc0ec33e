"""Augmentation by lesion transplants: a case gets the tumour of another one, where that lay on the template.

Both cases lie on the template with standardised intensities, so voxels can be exchanged as they are. After CarveMix
(Zhang et al., NeuroImage 2023), whose carved region is the lesion and a margin drawn at random.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_dilation

#: The widest margin around a lesion that comes along, in voxels.
MARGIN = 3


def can_give(exists: Sequence[bool], wanted: Sequence[bool], regions: npt.NDArray[np.bool_]) -> bool:
    """Tell whether a case has every modality that is `wanted` of it, and a lesion in its `regions` (R, D, H, W)."""
    return bool(regions.any()) and not (np.array(wanted) & ~np.array(exists)).any()


def transplant(
    rng: np.random.Generator,
    case: tuple[npt.NDArray[Any], npt.NDArray[Any]],
    donor: tuple[npt.NDArray[Any], npt.NDArray[Any]],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Return image (N, D, H, W) and regions (R, D, H, W) of `case` with the lesion of `donor`, given likewise.

    The lesion and a margin of zero to :data:`MARGIN` voxels come along, inside the brain of `case` only. What the case
    does not have stays zero.
    """
    (image, regions), (other, theirs) = case, donor
    lesion: npt.NDArray[np.bool_] = np.asarray(theirs.any(axis=0))
    margin = int(rng.integers(MARGIN + 1))
    carved = np.asarray(binary_dilation(lesion, iterations=margin)) if margin else lesion
    carved = carved & image.any(axis=0) & other.any(axis=0)
    acquired = image.any(axis=(1, 2, 3), keepdims=True)
    return np.where(carved & acquired, other, image), np.where(carved, theirs, regions)
