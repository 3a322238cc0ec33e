"""Sequences that lie on different grids, brought onto the grid of the first one. Resampled, never registered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from m3ae_core.errors import InputError
from m3ae_core.io.affine import largest_shift
from m3ae_core.io.grid import Grid, resample
from m3ae_core.io.volume import Volume

#: Least share of an image's content that must lie in the first image's field of view.
LEAST_INSIDE = 0.5
#: Largest distance in mm between two headers' ideas of where a voxel is that goes without saying.
SAME_MM = 1e-3
#: Sample points along each side of the box around the content.
_POINTS = 16


def on_other_grid(volumes: Mapping[str, Volume]) -> tuple[str, ...]:
    """Return the names of the volumes that do not lie on the grid of the first one, within a tenth of a voxel."""
    grids = {name: Grid(volume.shape, volume.affine) for name, volume in volumes.items()}
    first = next(iter(grids.values()))
    return tuple(name for name, grid in grids.items() if not first.is_like(grid))


def to_one_grid(volumes: Mapping[str, Volume]) -> tuple[dict[str, Volume], tuple[str, ...]]:
    """Bring all volumes onto the grid of the first one.

    Interpolation is linear; where two grids differ by whole voxels, flips or the order of axes, slices are copied
    exactly. Volumes that lie on that grid already are returned as they are, all keep their `path`. What was done, and
    where headers differ by a rounding error that was passed over, is among the notes of each.

    Returns
    -------
    tuple
        The volumes by name, in their order, and the names of those that were resampled.

    Raises
    ------
    InputError
        If less than half of a volume's content lies in the field of view of the first one (``no-overlap``).
    """
    moved = on_other_grid(volumes)
    for name in moved:
        require_overlap(volumes, name)
    reference, first = next(iter(volumes.items()))
    aligned = {
        name: _resampled(v, first, reference) if name in moved else _noted(v, first, reference)
        for name, v in volumes.items()
    }
    return aligned, moved


def _resampled(volume: Volume, first: Volume, reference: str) -> Volume:
    """Return a volume on the grid of the first one, which is called `reference`."""
    data = resample(volume.data, Grid(volume.shape, volume.affine), Grid(first.shape, first.affine))
    notes = (*volume.notes, f"resampled to the grid of {reference}.")
    return replace(volume, data=data, affine=first.affine, notes=notes)


def _noted(volume: Volume, first: Volume, reference: str) -> Volume:
    """Return a volume that counts as on the grid of the first one, on that grid, with a note if its header differs."""
    shift = largest_shift(volume.affine, first.affine, first.shape)
    if shift <= SAME_MM:
        return volume
    note = f"The header places it {shift:.1g} mm from {reference}; that was taken for rounding."
    return replace(volume, affine=first.affine, notes=(*volume.notes, note))


def require_overlap(volumes: Mapping[str, Volume], name: str) -> None:
    """Check that at least half of the content of a volume lies in the field of view of the first one.

    Raises
    ------
    InputError
        If it does not (``no-overlap``).
    """
    reference, first = next(iter(volumes.items()))
    inside = _share_inside(volumes[name], first)
    if inside < LEAST_INSIDE:
        raise InputError(
            f"Only {100 * inside:.0f} % of {name} lies within the field of view of {reference}.",
            f"Check that both show the same patient in the same position, or leave {name} out.",
            path=volumes[name].path,
            code="no-overlap",
        )


def _share_inside(volume: Volume, first: Volume) -> float:
    """Return the share of the box around a volume's non-zero voxels that lies within the voxels of `first`."""
    low, high = _box(volume.data)
    steps = (np.arange(_POINTS) + 0.5) / _POINTS
    sides = [start - 0.5 + steps * (stop - start) for start, stop in zip(low, high, strict=True)]
    points = np.stack([*(axis.ravel() for axis in np.meshgrid(*sides)), np.ones(_POINTS**3)])
    places = (np.linalg.inv(first.affine) @ volume.affine @ points)[:3].T
    inside = ((places >= -0.5) & (places <= np.array(first.shape) - 0.5)).all(axis=1)
    return float(inside.mean())


def _box(data: npt.NDArray[np.generic]) -> tuple[list[int], list[int]]:
    """Return where the voxels that are not zero begin and end (exclusive) along each axis; the whole if none is."""
    content = data != 0
    low, high = [], []
    for axis in range(3):
        used = np.flatnonzero(content.any(axis=tuple({0, 1, 2} - {axis})))
        low.append(int(used[0]) if used.size else 0)
        high.append(int(used[-1]) + 1 if used.size else data.shape[axis])
    return low, high
