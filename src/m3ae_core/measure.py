"""What is read off a label map: volumes of tissues and regions, and the two diameters of the RANO criteria.

Arrays are (X, Y, Z); `affine` is the 4×4 matrix from their voxel indices to RAS world millimetres, its axes at
right angles to each other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from m3ae_core.regions import REGIONS, LabelScheme

Labels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Matrix = npt.NDArray[np.floating]
Point = tuple[int, int, int]
Line = tuple[Point, Point]

#: Both diameters of a measurable lesion reach this (mm; Wen et al. 2010).
MEASURABLE_MM = 10.0
#: How far from a right angle the second diameter may lie (degrees).
ANGLE = 5.0
#: Squared lengths closer than this share are one length.
TIE = 1e-9


@dataclass(frozen=True)
class Diameters:
    """The longest diameter of a section of a lesion, and the longest one perpendicular to it.

    Attributes
    ----------
    long_mm, perpendicular_mm
        Their lengths in mm, between voxel centres.
    axis, slice_index
        The section is voxel `slice_index` along array axis `axis`.
    lines
        The two ends of the long and of the perpendicular diameter, as voxel indices (2 lines × 2 ends × 3 axes).
    """

    long_mm: float
    perpendicular_mm: float
    axis: int
    slice_index: int
    lines: tuple[Line, Line]

    @property
    def product_mm2(self) -> float:
        """The product of the two diameters in mm²."""
        return self.long_mm * self.perpendicular_mm

    @property
    def measurable(self) -> bool:
        """Whether both diameters reach 10 mm.

        The criteria also ask for clear margins and for two slices that show the lesion; a reader judges those.
        """
        # Voxel sizes come from affines in single precision.
        return round(min(self.long_mm, self.perpendicular_mm), 3) >= MEASURABLE_MM


def voxel_ml(affine: Matrix) -> float:
    """Return the volume of one voxel in mL."""
    return abs(float(np.linalg.det(affine[:3, :3]))) / 1000


def tissue_volumes(labels: Labels, scheme: LabelScheme, affine: Matrix) -> dict[str, float]:
    """Return the volume of each tissue of `scheme` in `labels` (X, Y, Z), in mL to three digits.

    Values that the scheme does not know count for nothing.
    """
    size = voxel_ml(affine)
    return {tissue: round(count * size, 3) for tissue, count in _voxels(labels, scheme).items()}


def region_volumes(labels: Labels, scheme: LabelScheme, affine: Matrix) -> dict[str, float]:
    """Return the volumes of WT, TC and ET in `labels` (X, Y, Z), in mL to three digits.

    Values that the scheme does not know count for nothing.
    """
    size, voxels = voxel_ml(affine), _voxels(labels, scheme)
    return {
        region.name: round(sum(voxels.get(tissue, 0) for tissue in region.tissues) * size, 3)
        for region in REGIONS
    }


def axial_axis(affine: Matrix) -> int:
    """Return the array axis that runs closest to superior-inferior; axial slices lie across it."""
    sides = affine[:3, :3]
    return int(np.argmax(np.abs(sides[2]) / np.linalg.norm(sides, axis=0)))


def rano_diameters(mask: Mask, affine: Matrix, axis: int) -> Diameters | None:
    """Return the pair of perpendicular diameters with the largest product; None if `mask` (X, Y, Z) is empty.

    The RANO criteria (Wen et al. 2010, doi:10.1200/JCO.2009.26.3541; 2017, doi:10.1200/JCO.2017.72.7511) measure
    *enhancing* tumour by the product of its largest perpendicular diameters on one axial slice. All slices
    along array axis `axis` (0, 1 or 2; see :func:`axial_axis`) are searched, and in each slice every 8-connected
    component by itself; of equal products the one with the larger bounding box, then the first slice, is taken.
    Slices are the array's own: an oblique image is not turned.

    Diameters end on the outline, the first and last voxels of each row and column of a component, so they may cross
    necrosis, a cavity or a bay. Perpendicular means within 5 degrees; of several longest diameters the one
    with the longest perpendicular is taken. Lengths are distances between voxel centres, with nothing added for the
    outer halves of the end voxels: n voxels in a row measure n - 1 voxel sides, and a row of single voxels has a
    perpendicular diameter of 0.
    """
    if not mask.any():
        return None
    numbered, start = _sections(np.moveaxis(mask, axis, 0))
    sides = np.delete(np.linalg.norm(affine[:3, :3], axis=0), axis)
    boxes = ndimage.find_objects(numbered)
    corners = np.array([[side.stop - side.start - 1 for side in box[1:]] for box in boxes])
    limit = ((corners * sides) ** 2).sum(axis=1)
    best: Diameters | None = None
    for index in np.argsort(-limit, kind="stable"):
        # No line is longer than the diagonal of its bounding box, and from here on boxes only get smaller.
        if best is not None and limit[index] <= best.product_mm2:
            break
        box = boxes[index]
        outline = _outline(numbered[box][0] == index + 1)
        ends, lengths = _longest_pairs(outline * sides)
        if best is None or lengths.prod() > best.product_mm2:
            low = start + [side.start for side in box]
            voxels = np.insert(outline[ends] + low[1:], axis, low[0], axis=-1)
            long, perpendicular = lengths.tolist()
            best = Diameters(long, perpendicular, axis, int(low[0]), _lines(voxels))
    return best


def _voxels(labels: Labels, scheme: LabelScheme) -> dict[str, int]:
    """Count the voxels of each tissue."""
    return {tissue: int(np.count_nonzero(labels == value)) for tissue, value in scheme.values}


def _sections(mask: Mask) -> tuple[npt.NDArray[np.integer], npt.NDArray[np.int_]]:
    """Number the 8-connected components of each slice of `mask` (slices, rows, columns), not empty, from 1 on.

    Only the mask's bounding box is returned, with the index (3,) of its first voxel.
    """
    within_slices = np.zeros((3, 3, 3), bool)
    within_slices[1] = True
    box = ndimage.find_objects(mask.view(np.uint8), max_label=1)[0]
    numbered: npt.NDArray[np.integer] = ndimage.label(mask[box], within_slices)[0]
    return numbered, np.array([side.start for side in box])


def _outline(section: Mask) -> npt.NDArray[np.int_]:
    """Return the indices (P, 2) of the first and last voxels of each row and column of one component.

    `section` is the component's bounding box, so no row or column is empty. All corners of the convex hull are
    among them.
    """
    outline = np.zeros_like(section)
    for lines, ends in ((section, outline), (section.T, outline.T)):
        every = np.arange(len(lines))
        ends[every, lines.argmax(axis=1)] = True
        ends[every, lines.shape[1] - 1 - lines[:, ::-1].argmax(axis=1)] = True
    return np.argwhere(outline)


def _longest_pairs(points: Matrix) -> tuple[npt.NDArray[np.int_], npt.NDArray[np.float64]]:
    """Find the two farthest of `points` (P, 2), in mm, and the two farthest across that line.

    Returns the indices of both pairs (2 lines, 2 ends) and the lengths (2,). If no pair lies across, one point stands
    for both ends of the second line, and its length is 0.
    """
    delta = points[:, None] - points
    squared = (delta**2).sum(axis=-1)
    longest = np.argwhere(np.triu(squared >= squared.max() * (1 - TIE)))
    candidates = []
    for first, second in longest:
        along = (delta @ delta[first, second]) ** 2
        across = along <= np.sin(np.radians(ANGLE)) ** 2 * squared[first, second] * squared
        pair = np.unravel_index(np.where(across, squared, 0).argmax(), squared.shape)
        candidates.append(((first, second), pair))
    ends = np.array(max(candidates, key=lambda lines: squared[lines[1]]))
    return ends, np.sqrt(squared[ends[:, 0], ends[:, 1]])


def _lines(voxels: npt.NDArray[np.int_]) -> tuple[Line, Line]:
    """Turn indices (2 lines, 2 ends, 3 axes) into tuples."""
    long, perpendicular = (((a, b, c), (d, e, f)) for (a, b, c), (d, e, f) in voxels.tolist())
    return long, perpendicular
