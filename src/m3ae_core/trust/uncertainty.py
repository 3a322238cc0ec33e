"""The chance, voxel by voxel, that the tissue of a segmentation is wrong."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

_LEAST = np.float32(1e-6)


def temper(probabilities: FloatArray, temperature: float) -> FloatArray:
    """Divide the logits of `probabilities` (any shape) by `temperature`: above 1 they become less sure.

    1/2 stays 1/2, so no voxel changes sides.
    """
    if temperature == 1:
        return probabilities
    clipped = np.clip(probabilities, _LEAST, 1 - _LEAST)
    logit = np.log(clipped / (1 - clipped))
    return np.asarray(1 / (1 + np.exp(-logit / np.float32(temperature))), np.float32)


def chance_of_error(regions: FloatArray) -> FloatArray:
    """Return the chance (V,) that the tissue decoded from region probabilities (R, V) is wrong.

    Regions come from the outermost to the innermost. Each holds those within it, so it is at least as probable as they
    are; a tissue is as probable as its region without the next one. The decoded tissue is that of the innermost region
    above 1/2, as in :func:`~m3ae_core.regions.decode`.
    """
    nested = np.maximum.accumulate(regions[::-1])[::-1]
    right = 1 - nested[0]
    for row, region in enumerate(regions):
        tissue = nested[row] - nested[row + 1] if row + 1 < len(regions) else nested[row]
        right = np.where(region > 0.5, tissue, right)
    return np.asarray(1 - right, np.float32)


def decoded_depth(regions: npt.NDArray[np.floating]) -> npt.NDArray[np.intp]:
    """Return how many regions deep the decoded tissue of (R, V) lies (V,): 0 for background, R for the innermost."""
    depths = np.arange(1, len(regions) + 1)[:, None]
    return np.asarray(np.max(depths * (regions > 0.5), axis=0), np.intp)
