"""Labels laid into the template's orientation and back are the same labels, in the same file, at the same place."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from m3ae_core.config import SRI24_AFFINE
from m3ae_core.io.grid import Grid, resample
from m3ae_core.io.volume import Volume, read_labels, write_labels
from published import Figures, Trials

SEED = 20_230_209
#: All ways to lay three axes along three others: an order, and a direction for each.
ORIENTATIONS = [(order, flips) for order in permutations(range(3)) for flips in product((1, -1), repeat=3)]

Laid = Callable[[np.ndarray, Grid, Grid], np.ndarray]


def single(matrix: np.ndarray) -> np.ndarray:
    """An affine as NIfTI stores it."""
    return matrix.astype(np.float32).astype(float)


def turned(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


def template_case(rng: np.random.Generator) -> tuple[np.ndarray, Grid]:
    """Labels on a grid that lies as the template does, of random sides, spacings, origin and (half of them) turn."""
    shape = tuple(int(side) for side in rng.integers(2, 25, 3))
    spacing, origin = rng.uniform(0.3, 4, 3), rng.uniform(-300, 300, 3)
    turn = turned(rng.uniform(-0.5, 0.5) if rng.integers(2) else 0)
    affine = turn @ np.array(SRI24_AFFINE) @ np.diag([*spacing, 1])
    affine[:3, 3] = origin
    return rng.integers(0, 256, shape).astype(np.uint8), Grid(shape, affine)


def stored(
    labels: np.ndarray, grid: Grid, order: tuple[int, ...], flips: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """The same labels with other axes, by numpy's own transpose and flip, and their affine."""
    index = np.zeros((4, 4))
    index[3, 3] = 1
    moved = labels.transpose(order)
    for axis, (source, flip) in enumerate(zip(order, flips, strict=True)):
        index[source, axis], index[source, 3] = flip, 0 if flip == 1 else labels.shape[source] - 1
        moved = np.flip(moved, axis) if flip == -1 else moved
    return np.ascontiguousarray(moved), single(grid.affine @ index)


def window(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """A part of the grid, or more than it: where it starts and ends, in voxels."""
    low = rng.integers(-3, np.maximum(np.array(shape) // 2, 1))
    return low, low + 1 + rng.integers(0, np.array(shape) + 3)


def expected(labels: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The window's content, zero outside the image, by plain slices."""
    room = int(np.abs(low).max() + high.max())
    padded = np.pad(labels, room)
    return padded[tuple(slice(a + room, b + room) for a, b in zip(low, high, strict=True))]


def round_trip(
    case: tuple[np.ndarray, Grid], orientation: tuple, rng: np.random.Generator, path: Path, laid: Laid
) -> bool:
    """Whether a file of this orientation goes to the template's orientation (cropped, padded) and back exactly."""
    labels, grid = case
    data, affine = stored(labels, grid, *orientation)
    write_labels(path, data, affine)
    image = nib.load(path)
    found = read_labels(path)
    if not (
        np.array_equal(np.asanyarray(image.dataobj), data)
        and np.array_equal(image.affine, affine)
        and np.array_equal(found.data, data)
        and np.array_equal(found.affine, affine)
    ):
        return False
    low, high = window(rng, labels.shape)
    own, template = Grid(found.shape, found.affine), grid.cropped(low, tuple(int(n) for n in high - low))
    there = laid(found.data, own, template)
    back = laid(there, template, own)
    inside = expected(np.ones_like(labels), np.zeros(3, int), np.array(labels.shape))
    for axis in range(3):
        place = np.arange(labels.shape[axis])
        outside = (place < low[axis]) | (place >= high[axis])
        inside[(slice(None),) * axis + (outside,)] = 0
    kept = stored(labels * inside, grid, *orientation)[0]
    if not (np.array_equal(there, expected(labels, low, high)) and np.array_equal(back, kept)):
        return False
    whole = laid(laid(found.data, own, grid), grid, own)
    write_labels(path, np.rint(whole).astype(np.uint8), found.affine)
    again: Volume = read_labels(path)
    return np.array_equal(again.data, data) and again.affine.tobytes() == found.affine.tobytes()


def failures(count: int, path: Path, laid: Laid) -> list[tuple[int, tuple]]:
    failed = []
    for index in range(count):
        rng = np.random.default_rng([SEED, index])
        case = template_case(rng)
        failed += [(index, each) for each in ORIENTATIONS if not round_trip(case, each, rng, path, laid)]
    return failed


def test_every_orientation_comes_back(tmp_path: Path, trials: Trials, figures: Figures) -> None:
    assert len(set(ORIENTATIONS)) == 48
    count = trials(ci=2, long=20)
    failed = failures(count, tmp_path / "labels.nii", resample)
    figures.add(
        "orientation round trips",
        goal="all of 48 × 20, exact",
        tried=48 * count,
        failed=len(failed),
        note="each: a file of random sides, spacings, origin and turn, written, read, cropped or padded, laid back",
    )
    assert not failed


# --- this test can fail ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "broken",
    [
        lambda data, source, target: np.flip(resample(data, source, target), 2),
        lambda data, source, target: resample(data, source, target.moved((0.6 * target.spacing[0], 0, 0))),
        lambda data, source, target: resample(np.minimum(data, 254), source, target),
    ],
    ids=["mirrored", "half a voxel aside", "one label lost"],
)
def test_a_wrong_way_there_is_found_out(broken: Laid, tmp_path: Path) -> None:
    assert failures(1, tmp_path / "labels.nii", broken)
