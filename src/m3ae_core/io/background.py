"""The background of an image: 0 outside the brain, whatever scanner or program put there."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from m3ae_core.modalities import Kind

#: Hounsfield units up to which a CT shows air, or what lies outside the field of view.
AIR = -900.0
#: Least positive value, for voxels of the brain that would be taken for background.
_TINY = np.finfo(np.float32).tiny


def without_background(
    data: npt.NDArray[Any], kind: Kind = "MRI"
) -> tuple[npt.NDArray[Any], tuple[str, ...]]:
    """Make the background of an image (X, Y, Z) 0 if it is another constant or NaN; return it, and a note if it was.

    Background is the one value that fills all eight corners, each a tenth of each side wide. It is subtracted, so that
    the order of the other values stays and none of them becomes 0. Where it is NaN, voxels of 0 become tiny instead.
    An image whose corners hold several values, or 0, is returned as it is. In a CT, background is air too, and tissue
    keeps its Hounsfield units; that goes without saying.
    """
    value = _corner_value(data)
    if kind == "CT":
        return _without_air(data, value), ()
    if value is None or value == 0:
        return data, ()
    if np.isnan(value):
        brain = np.where(data == 0, _TINY, data)
        clean = np.where(np.isnan(data), np.float32(0), brain)
    else:
        clean = data.astype(np.float32, copy=False) - value
    return clean, (f"The background was {value:g} instead of 0; it was set to 0.",)


def _without_air(data: npt.NDArray[Any], value: np.float32 | None) -> npt.NDArray[Any]:
    """Make air, NaN and the corners' `value` 0 in a CT, and tissue of 0 HU tiny; a CT without them is left alone."""
    outside = np.isnan(data) | (data <= AIR) | (False if value is None else data == value)
    if not (outside & (data != 0)).any():
        return data
    return np.where(outside, np.float32(0), np.where(data == 0, _TINY, data)).astype(np.float32, copy=False)


def corners(data: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """Return the voxels in the eight corners of (X, Y, Z), each a tenth of each side wide."""
    for axis, side in enumerate(data.shape):
        width = max(1, side // 10)
        data = np.take(data, [*range(width), *range(side - width, side)], axis=axis)
    return data


def _corner_value(data: npt.NDArray[Any]) -> np.float32 | None:
    """Return the one value of all corners, which may be NaN; None if there are several, or the image holds no other."""
    values = np.unique(corners(data))  # all NaN count as one
    if len(values) > 1 or np.isinf(values[0]):
        return None
    same = np.isnan(data) if np.isnan(values[0]) else data == values[0]
    return None if same.all() else np.float32(values[0])
