"""Edits that a reader asks of a finished label map: drop what lies apart, close cavities, take out islands, smooth.

A label map is uint8 (X, Y, Z) of any scheme: 0 is background, every other value a tissue. Nothing here changes its
argument or brings in a value that the map did not hold. Neighbours that share a corner (26-connected) belong
together in tissue, neighbours that share a face (6-connected) in background: the usual pair of opposites in digital
topology (Kong and Rosenfeld 1989, doi:10.1016/0734-189X(89)90147-3), by which a surface that is closed separates.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Labels = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.integer]

CORNERS = np.ones((3, 3, 3), bool)
#: Voxel sizes come from affines in single precision; a component of exactly the limit stays all the same.
TOLERANCE = 1e-5


def largest_component(labels: Labels) -> Labels:
    """Return only the largest 26-connected component of the whole tumour (X, Y, Z), its tissues unchanged.

    The voxels of all tissues together count. Of components of one size the first in array order stays.
    """
    box = _box(labels)
    numbered = _components(labels[box] != 0)
    sizes = np.bincount(numbered.ravel(), minlength=1)
    sizes[0] = 0
    kept = np.zeros_like(labels)
    kept[box] = np.where(numbered == sizes.argmax(), labels[box], 0)
    return kept


def fill_holes(labels: Labels) -> Labels:
    """Return the label map (X, Y, Z) with the cavities of the tumour filled.

    A hole is a 6-connected component of background that does not reach the border of the array: tumour encloses it in
    3-D. It takes the label that most of the tumour voxels around it hold (26-neighbourhood, each voxel counts
    once); of equals, the smaller value.
    """
    filled = labels.copy()
    inside = filled[_box(labels)]
    # Whatever reaches a face of the tumour's bounding box goes on to the border of the array, or is there already.
    holes = _without_outer(ndimage.label(inside == 0)[0])
    inside[holes > 0] = _commonest_around(holes, inside)[holes[holes > 0]]
    return filled


def remove_islands(labels: Labels, spacing: Sequence[float], smallest_mm3: float) -> Labels:
    """Return the label map (X, Y, Z) without the islands of each tissue that are smaller than `smallest_mm3` (mm³).

    An island is a 26-connected component of one label value. It takes the label that most of the tissue voxels around
    it hold (26-neighbourhood; of equals, the smaller value), and becomes background if no tissue touches it.
    All islands are judged at once on the map as given, so the order of labels or axes plays no part. For the
    same reason tissue that is itself an island does not count as touching: two small neighbours would else swap
    their labels. So no island is left, and a second pass changes nothing.

    `spacing` is the voxel size along the three axes in mm.
    """
    cleaned = labels.copy()
    inside = cleaned[_box(labels)]
    islands = _islands(inside, smallest_mm3 / float(np.prod(spacing)))
    stays = np.where(islands > 0, 0, inside).astype(np.uint8)
    inside[islands > 0] = _commonest_around(islands, stays)[islands[islands > 0]]
    return cleaned


def smooth(labels: Labels, spacing: Sequence[float], radius_mm: float) -> Labels:
    """Return the label map (X, Y, Z) with every voxel given to the label that prevails around it.

    The indicator of each label, background included, is filtered by a Gaussian (standard deviation `radius_mm` in mm,
    cut off at four of them), and the label of the highest value wins; of equals, the smaller one. At the border of
    the array the outermost voxels are taken to go on. `spacing` is the voxel size along the three axes in mm.

    What is thinner than about the radius vanishes, so volumes of small or thin tissues shrink.
    """
    smoothed = labels.copy()
    # Beyond one voxel around the tumour all is background, which the filter's own border ("nearest") stands for.
    inside = smoothed[_box(labels, margin=1)]
    sigma = [radius_mm / side for side in spacing]
    given = inside.copy()
    best = np.full(inside.shape, -1, np.float32)
    for value in np.unique(given):
        share = ndimage.gaussian_filter((given == value).astype(np.float32), sigma, mode="nearest")
        wins = share > best
        inside[wins] = value
        best[wins] = share[wins]
    return smoothed


def _box(labels: Labels, margin: int = 0) -> tuple[slice, ...]:
    """Return the bounding box of what is not 0, `margin` voxels wider where the array goes on."""
    tumour = labels != 0
    if not tumour.any():
        return (slice(0, 0),) * labels.ndim
    found = ndimage.find_objects(tumour.view(np.uint8), max_label=1)[0]
    return tuple(slice(max(side.start - margin, 0), side.stop + margin) for side in found)


def _components(mask: npt.NDArray[np.bool_]) -> Numbers:
    """Number the 26-connected components of a mask from 1 on, in array order."""
    numbered: Numbers = ndimage.label(mask, CORNERS)[0]
    return numbered


def _without_outer(numbered: Numbers) -> Numbers:
    """Set components that reach a face of the array to 0."""
    inner = np.ones(numbered.max(initial=0) + 1, bool)
    for axis, side in enumerate(numbered.shape):
        inner[np.take(numbered, [0, side - 1][: 2 * side], axis)] = False
    return np.where(inner[numbered], numbered, 0)


def _islands(labels: Labels, voxels: float) -> Numbers:
    """Number the 26-connected components of each label that hold fewer than `voxels`; everything else is 0."""
    islands, total = np.zeros(labels.shape, np.int32), 0
    for value in np.unique(labels[labels > 0]):
        numbered = _components(labels == value)
        sizes = np.bincount(numbered.ravel())
        small = sizes < voxels * (1 - TOLERANCE)
        small[0] = False
        chosen = small[numbered]
        islands[chosen] = numbered[chosen] + total
        total += len(sizes) - 1
    return islands


def _commonest_around(parts: Numbers, tissue: Labels) -> Labels:
    """Return, for each number in `parts` (X, Y, Z), the value that most voxels around that part hold in `tissue`.

    Around is the 26-neighbourhood. `tissue` (X, Y, Z) is 0 within all parts; what is 0 has no vote, and a voxel has one
    however many voxels of the part it touches. Entry k of the result is for part k: of equals the smaller value,
    and 0 if no tissue touches the part.
    """
    parts, tissue = np.pad(parts, 1), np.pad(tissue, 1)
    numbers, values = parts.ravel(), tissue.ravel()
    members = np.flatnonzero(numbers)
    strides = np.array([parts.shape[1] * parts.shape[2], parts.shape[2], 1])
    touching = []
    for step in product((-1, 0, 1), repeat=3):
        beside = members + int(strides @ step)
        votes = values[beside] > 0
        touching.append(numbers[members[votes]].astype(np.int64) * values.size + beside[votes])
    part, voxel = np.divmod(np.unique(np.concatenate(touching)), values.size)
    width, count = int(values.max()) + 1, int(numbers.max()) + 1
    table = np.bincount(part * width + values[voxel], minlength=count * width).reshape(count, width)
    commonest: Labels = np.argmax(table, axis=1).astype(np.uint8)
    return commonest
