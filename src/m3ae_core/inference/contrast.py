"""Two images of one brain beside each other: where either is the brighter one tells which sequences they are.

Fluid, vessels, oedema and contrast agent make bright tails: few voxels in which one image stands far above the other.
Each sign counts them on one side less those on the other, so that it turns around when the two are exchanged.
"""

from __future__ import annotations

from itertools import combinations
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from m3ae_core.data.preprocess import StandardCase

Pair = tuple[str, str]
FloatArray = npt.NDArray[np.floating]
#: The signs (4,) of every two sequences of a case, in the order of the model's sequences.
Signs = dict[Pair, FloatArray]

_DETAIL_MM = 10.0  # what is finer than this is detail
_DEEP_MM = 20.0  # beneath the cortex
_FAR = 3.0  # standard deviations; of detail
_BRIGHT = 2.0  # standard deviations; of intensities


class _View(NamedTuple):
    """What one image shows of V voxels of the brain: z-scores, centred ranks in (-.5, .5), and detail (V,) each."""

    values: FloatArray
    ranks: FloatArray
    detail: FloatArray


def compare(standard: StandardCase) -> Signs:
    """Return the signs of every two MRI sequences present."""
    low, high = standard.brain
    box = (slice(None), *(slice(a, b) for a, b in zip(low, high, strict=True)))
    image, spacing = standard.image[box], standard.grid.spacing
    brain: npt.NDArray[np.bool_] = np.asarray(image.any(axis=0))
    deep = ndimage.distance_transform_edt(brain, sampling=spacing)[brain] > _DEEP_MM
    side = [2 * round(_DETAIL_MM / mm / 2) + 1 for mm in spacing]
    views = {
        modality.name: _view(channel, brain, side)
        for modality, channel in zip(standard.modalities, image, strict=True)
        if modality.name in standard.subset and modality.kind == "MRI"
    }
    return {(a, b): _signs(views[a], views[b], deep) for a, b in combinations(views, 2)}


def exchanged(signs: Signs, pair: Pair) -> Signs:
    """Return the signs of a case of which two sequences were given in each other's place."""
    first, second = pair
    names = {first: second, second: first}

    def of(a: str, b: str) -> FloatArray:
        a, b = names.get(a, a), names.get(b, b)
        return signs[a, b] if (a, b) in signs else -signs[b, a]

    return {own: of(*own) for own in signs}


def _view(image: FloatArray, brain: npt.NDArray[np.bool_], side: list[int]) -> _View:
    values = _scaled(image[brain])
    even = np.zeros(brain.shape, np.float32)
    even[brain] = values
    ranks = np.empty(values.size, np.float32)
    ranks[np.argsort(values, kind="stable")] = (np.arange(values.size) + 0.5) / values.size - 0.5
    return _View(values, ranks, (even - ndimage.uniform_filter(even, side))[brain])


def _signs(one: _View, other: _View, deep: npt.NDArray[np.bool_]) -> FloatArray:
    """Return (4,): skewness between the ranks, tails of detail, tails of detail deep, tails of intensity deep."""
    detail = _scaled(one.detail - other.detail)
    values = _scaled(one.values - other.values)
    a, b = one.ranks, other.ranks
    return np.array(
        [
            np.mean(a * b * (a - b)),
            _tails(detail, _FAR),
            _tails(detail[deep], _FAR),
            _tails(values[deep], _BRIGHT),
        ]
    )


def _tails(values: FloatArray, limit: float) -> float:
    """Return the share of values above `limit` less that of values below -`limit`; 0 where there are none."""
    above = np.count_nonzero(values > limit) - np.count_nonzero(values < -limit)
    return above / max(values.size, 1)


def _scaled(values: FloatArray) -> FloatArray:
    centred = values - values.mean()
    return np.asarray(centred / max(float(centred.std()), 1e-6))
