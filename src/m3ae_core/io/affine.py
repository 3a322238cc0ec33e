"""What an affine (voxel indices to RAS world millimetres) means, and whether it can be used at all."""

# mypy: allow-untyped-calls
# (nibabel's functions carry no annotations)
from __future__ import annotations

from itertools import product

import nibabel as nib
import numpy as np
import numpy.typing as npt

#: Plausible voxel sides, and distances from the world's origin, in mm.
SPACING_LIMITS = (0.01, 100.0)
ORIGIN_LIMIT = 1e5
#: Largest cosine between two axes that still counts as a right angle (0.3 degrees; headers are rounded).
SHEAR_TOLERANCE = 5e-3

Affine = npt.NDArray[np.float64]


def spacing_of(affine: npt.NDArray[np.floating]) -> tuple[float, float, float]:
    """Return the voxel size along the three axes in mm."""
    x, y, z = np.linalg.norm(affine[:3, :3], axis=0).tolist()
    return x, y, z


def axis_codes(affine: Affine) -> str:
    """Return towards which side of the body each axis runs, e.g. ``LPS``."""
    return "".join(str(code) for code in nib.aff2axcodes(affine))


def describe(affine: Affine) -> str:
    """Say in words what an affine means, e.g. ``LPS, 1 × 1 × 1 mm, origin (0, 239, 0)``."""
    size = " × ".join(f"{side:.4g}" for side in spacing_of(affine))
    origin = ", ".join(f"{value + 0.0:.6g}" for value in affine[:3, 3])
    return f"{axis_codes(affine)}, {size} mm, origin ({origin})"


def flaw(affine: Affine) -> str:
    """Say why an affine cannot be used; empty if it can. Oblique axes are fine, sheared ones are not."""
    if affine.shape != (4, 4) or not np.isfinite(affine).all():
        return "it holds values that are not numbers"
    if affine[3].tolist() != [0, 0, 0, 1]:
        return "its last row is not (0, 0, 0, 1)"
    spacing = spacing_of(affine)
    if min(spacing) < SPACING_LIMITS[0] or max(spacing) > SPACING_LIMITS[1]:
        return f"voxels would measure {' × '.join(f'{side:g}' for side in spacing)} mm"
    distance = float(np.abs(affine[:3, 3]).max())
    if distance > ORIGIN_LIMIT:
        return f"the image would lie {distance / 1e3:g} m from the origin"
    directions = affine[:3, :3] / spacing
    if np.abs(directions.T @ directions - np.eye(3)).max() > SHEAR_TOLERANCE:
        return "its axes are not at right angles (shear)"
    return ""


def tells_nothing(affine: Affine) -> bool:
    """Tell whether an affine holds voxel sizes alone, as a program writes that knows neither directions nor origin."""
    return bool(np.array_equal(affine, np.diag([*np.diag(affine)[:3], 1])) and affine.diagonal().min() > 0)


def contradict(first: Affine, second: Affine) -> bool:
    """Tell whether two affines name the axes differently or give voxel sizes that differ by more than 1 %.

    They may place the head differently: native and registered space are often stored side by side.
    """
    sizes_agree = np.allclose(spacing_of(first), spacing_of(second), rtol=0.01, atol=0)
    return axis_codes(first) != axis_codes(second) or not sizes_agree


def largest_shift(
    first: npt.NDArray[np.floating], second: npt.NDArray[np.floating], shape: tuple[int, int, int]
) -> float:
    """Return by how many mm two affines disagree, at most, about any voxel of a grid of `shape`.

    The largest disagreement of two linear maps over a box is at one of its corners.
    """
    corners = np.array([(*corner, 1.0) for corner in product(*((0.0, side - 1.0) for side in shape))])
    return float(np.linalg.norm(corners @ (first - second).T, axis=1).max())
