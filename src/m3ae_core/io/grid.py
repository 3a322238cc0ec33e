"""Grids in space, and the way from a case's grid to the model's template grid and back.

A :class:`Grid` is a shape and an affine; axis orientation (RAS, LPS, the template's SPL, …) lives in the affine alone,
so reorienting, cropping, padding and resampling are one operation. Where both grids have parallel axes every axis is
handled on its own; flips, transpositions and shifts by whole voxels are then exact copies.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from m3ae_core.config import GridConfig
from m3ae_core.io.affine import largest_shift, spacing_of

FloatArray = npt.NDArray[np.float32]
Matrix = npt.NDArray[np.floating]

#: Voxel indices closer than this are the same place (NIfTI stores affines in single precision).
TOLERANCE = 1e-3
#: Largest distance, in voxels, between two files' ideas of where a voxel is.
GRID_TOLERANCE = 0.1


@dataclass(frozen=True, eq=False)
class Grid:
    """Voxels in space: `shape`, and the 4×4 `affine` from voxel indices to RAS world millimetres."""

    shape: tuple[int, int, int]
    affine: Matrix

    @classmethod
    def of(cls, config: GridConfig) -> Grid:
        """Return the grid a configuration describes."""
        return cls(config.shape, np.array(config.affine))

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size in mm along the grid's own axes."""
        return spacing_of(self.affine)

    def is_like(self, other: Grid) -> bool:
        """Whether both have one shape and lie, within :data:`GRID_TOLERANCE` at every voxel, in the same place."""
        if self.shape != other.shape:
            return False
        shift = largest_shift(self.affine, other.affine, self.shape)
        return shift <= GRID_TOLERANCE * min(*self.spacing, *other.spacing)

    def corners(self, low: npt.ArrayLike = (0, 0, 0), high: npt.ArrayLike | None = None) -> Matrix:
        """Return the 8 outer corners (8, 3), in world mm, of the voxel box from `low` to `high` (exclusive)."""
        bounds = np.array([np.asarray(low), self.shape if high is None else high]) - 0.5
        index = np.array(list(product(*bounds.T)))
        return index @ self.affine[:3, :3].T + self.affine[:3, 3]

    def moved(self, offset: npt.ArrayLike) -> Grid:
        """Return this grid translated by `offset` (mm)."""
        affine = self.affine.copy()
        affine[:3, 3] += np.asarray(offset)
        return Grid(self.shape, affine)

    def cropped(self, low: npt.ArrayLike, shape: tuple[int, int, int]) -> Grid:
        """Return the part of this grid that starts at voxel `low`."""
        return Grid(shape, self.affine @ _translation(np.asarray(low, float)))


@dataclass(frozen=True)
class Placement:
    """Where a case lies on the template: world(case) = world(template) + `offset` (mm), and how that was found.

    `method` is ``world`` (the headers agree), ``frame`` (a known other world of the same space), ``field of view``
    (the same field of view under another origin) or ``brain centre`` (a guess, worth a warning). `inside` is the
    share of the brain box that the template covers.
    """

    offset: tuple[float, float, float]
    method: str
    inside: float


def resample(data: npt.NDArray[np.generic], source: Grid, target: Grid) -> FloatArray:
    """Resample `data` from `source` to `target`; zero outside.

    Along axes that get coarser, target voxels average what they cover; otherwise interpolation is linear. Grids with
    oblique axes relative to each other are interpolated linearly. The result's axes lie in memory as the source's do.
    """
    mapping = np.linalg.inv(source.affine) @ target.affine
    linear = mapping[:3, :3]
    axes = np.abs(linear).argmax(axis=1)
    parallel = sorted(axes) == [0, 1, 2] and (np.abs(linear) > TOLERANCE / max(target.shape)).sum() == 3
    if not parallel:
        moved: FloatArray = ndimage.affine_transform(
            data.astype(np.float32), linear, mapping[:3, 3], target.shape, order=1, mode="constant"
        )
        return moved
    # Row r of the mapping gives source axis r as a function of the one target axis axes[r]. Source axes are taken as
    # they lie in memory, the slowest first, so that no step below has to copy.
    order = np.argsort(data.strides)[::-1]
    result: npt.NDArray[np.generic] = np.ascontiguousarray(data.transpose(order))
    for axis, row in enumerate(order):
        column = axes[row]
        result = _resample_axis(result, axis, target.shape[column], linear[row, column], mapping[row, 3])
    return np.asarray(result.transpose(np.argsort(axes[order])), np.float32)


def locate(case: Grid, low: npt.ArrayLike, high: npt.ArrayLike, template: GridConfig) -> Placement:
    """Find where a case lies on the template, from the box `low` to `high` (voxels of `case`) around its brain.

    Headers of one space disagree about its origin, so four readings are tried in turn; the first that puts at least
    nine tenths of the brain box on the template is taken, and failing all, the brain is centred.
    """
    grid = Grid.of(template)
    brain = case.corners(low, high)
    box = np.array([brain.min(axis=0), brain.max(axis=0)])
    extent = case.corners()
    view = np.array(template.field_of_view)
    candidates = [("world", np.zeros(3)), *(("frame", np.array(frame)) for frame in template.frames)]
    if np.allclose(np.ptp(extent, axis=0), view[1] - view[0], atol=1):
        candidates.append(("field of view", extent.min(axis=0) - view[0]))
    for method, offset in candidates:
        inside = _share_inside(box, grid.moved(offset))
        if inside >= 0.9:
            return Placement(_triple(offset), method, inside)
    offset = box.mean(axis=0) - grid.corners().mean(axis=0)
    return Placement(_triple(offset), "brain centre", _share_inside(box, grid.moved(offset)))


def _resample_axis(
    data: npt.NDArray[np.generic], axis: int, count: int, scale: float, start: float
) -> npt.NDArray[np.generic]:
    """Resample one axis: target voxel i lies at source position ``start + scale * i``."""
    position = start + scale * np.arange(count)
    if abs(abs(scale) - 1) * count < TOLERANCE and abs(position[0] - round(position[0])) < TOLERANCE:
        return _take(data, axis, np.rint(position).astype(int))
    weights = _weights(position, data.shape[axis], abs(scale))
    values, before, after = data.astype(np.float32, copy=False), data.shape[:axis], data.shape[axis + 1 :]
    if not after:
        return (values.reshape(-1, data.shape[axis]) @ weights.T).reshape(*before, count)
    moved: FloatArray = weights @ values.reshape(*before, data.shape[axis], -1)
    return moved.reshape(*before, count, *after)


def _take(data: npt.NDArray[np.generic], axis: int, index: npt.NDArray[np.int_]) -> npt.NDArray[np.generic]:
    """Copy whole slices; slices outside are zero."""
    outside = (index < 0) | (index >= data.shape[axis])
    taken = np.take(data, np.where(outside, 0, index), axis=axis)
    if outside.any():
        taken[(slice(None),) * axis + (outside,)] = 0
    return taken


def _weights(position: Matrix, count: int, scale: float) -> FloatArray:
    """Return interpolation weights (targets, `count`): linear, or the covered share where targets are coarser."""
    source = np.arange(count)
    if scale <= 1:
        weights = np.clip(1 - np.abs(position[:, None] - source), 0, 1)
    else:
        low = np.maximum(position[:, None] - scale / 2, source - 0.5)
        high = np.minimum(position[:, None] + scale / 2, source + 0.5)
        weights = np.clip(high - low, 0, None) / scale
    return np.asarray(weights, np.float32)


def _share_inside(box: Matrix, grid: Grid) -> float:
    """Return the share of a world box (2, 3) that lies within the bounds of `grid`."""
    corners = grid.corners()
    low = np.maximum(box[0], corners.min(axis=0))
    high = np.minimum(box[1], corners.max(axis=0))
    return float(np.prod(np.clip(high - low, 0, None)) / np.prod(box[1] - box[0]))


def _translation(offset: Matrix) -> Matrix:
    matrix = np.eye(4)
    matrix[:3, 3] = offset
    return matrix


def _triple(values: Matrix) -> tuple[float, float, float]:
    x, y, z = (round(float(value), 3) for value in values)
    return x, y, z
