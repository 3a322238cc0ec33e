"""Metrics of binary masks, and the label maps they are computed from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from m3ae_core.errors import InputError
from m3ae_core.io.case import require_same_grid
from m3ae_core.io.sidecar import saved_scheme
from m3ae_core.io.volume import Volume, read_labels
from m3ae_core.regions import REGIONS, LabelScheme, detect_scheme, encode, scheme_named

Mask = npt.NDArray[np.bool_]


def bounding_box(mask: Mask) -> tuple[slice, ...]:
    """Return the box around a mask, as slices; all of it if it is empty."""
    box: tuple[slice, ...] | None = ndimage.find_objects(mask.view(np.uint8), max_label=1)[0]
    return box or (slice(None),) * mask.ndim


def dice(prediction: Mask, reference: Mask) -> float:
    """Dice similarity 2|P∩G| / (|P| + |G|) of two masks of one shape; 1 if both are empty."""
    total = np.count_nonzero(prediction) + np.count_nonzero(reference)
    return 2 * np.count_nonzero(prediction & reference) / total if total else 1.0


def hd95_mm(prediction: Mask, reference: Mask, spacing: Sequence[float]) -> float | None:
    """95 % Hausdorff distance in mm between two masks (X, Y, Z); None if either is empty.

    The larger of the two directed 95th percentiles (linear between ranks) of the distances from the boundary voxels
    of one mask to the nearest boundary voxel of the other. A boundary voxel has a face neighbour outside its mask;
    beyond the image all is outside. `spacing` is the voxel size along the three axes in mm.
    """
    if not (prediction.any() and reference.any()):
        return None
    box = bounding_box(prediction | reference)  # exact: both boundaries lie within it
    ours, theirs = _boundary(prediction[box]), _boundary(reference[box])
    there = ndimage.distance_transform_edt(~theirs, sampling=spacing)[ours]
    back = ndimage.distance_transform_edt(~ours, sampling=spacing)[theirs]
    return float(max(np.percentile(there, 95), np.percentile(back, 95)))


def dice_by_region(
    prediction: npt.NDArray[np.uint8],
    reference: npt.NDArray[np.uint8],
    scheme: LabelScheme,
    reference_scheme: LabelScheme | None = None,
) -> dict[str, float]:
    """Return the Dice similarity of WT, TC and ET between two label maps on one grid.

    Raises
    ------
    InputError
        If a map holds values its scheme does not know.
    """
    masks = zip(encode(prediction, scheme), encode(reference, reference_scheme or scheme), strict=True)
    return {region.name: dice(p, g) for region, (p, g) in zip(REGIONS, masks, strict=True)}


def compare_files(
    prediction: Path, reference: Path, scheme: str | None = None, reference_scheme: str | None = None
) -> dict[str, float]:
    """Return the Dice similarity per region of two label files.

    A scheme left out is taken from the file's sidecar, or from its values where they allow only one.

    Raises
    ------
    InputError
        If a file cannot be used, its scheme is ambiguous, or the two lie on different grids.
    """
    predicted, truth = read_labels(prediction), read_labels(reference)
    require_same_grid({"prediction": predicted, "reference": truth})
    schemes = (_scheme(predicted, scheme), _scheme(truth, reference_scheme))
    return dice_by_region(predicted.data, truth.data, *schemes)


def file_scheme(path: Path, name: str | None) -> LabelScheme:
    """Return the scheme of a label map: the one called `name`, else as :func:`compare_files` finds it."""
    return _scheme(read_labels(path), name)


def _scheme(labels: Volume, name: str | None) -> LabelScheme:
    if name is not None:
        return scheme_named(name)
    assert labels.path is not None  # noqa: S101  it was read from a file
    if saved := saved_scheme(labels.path, labels.sha256):
        return saved
    try:
        return detect_scheme(np.unique(labels.data).tolist())
    except InputError as error:
        raise InputError(error.problem, error.fix, path=labels.path, code=error.code) from error


def _boundary(mask: Mask) -> Mask:
    inner: Mask = ndimage.binary_erosion(mask)  # face neighbours; beyond the array nothing is set
    return mask & ~inner
