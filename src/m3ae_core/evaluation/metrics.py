"""Metrics of binary masks, and the label maps they are computed from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from m3ae_core.data.case import require_same_grid
from m3ae_core.data.sidecar import saved_scheme
from m3ae_core.data.volume import Volume, read_labels
from m3ae_core.errors import InputError
from m3ae_core.regions import REGIONS, LabelScheme, detect_scheme, encode, scheme_named


def dice(prediction: npt.NDArray[np.bool_], reference: npt.NDArray[np.bool_]) -> float:
    """Dice similarity 2|P∩G| / (|P| + |G|) of two masks of one shape; 1 if both are empty."""
    total = np.count_nonzero(prediction) + np.count_nonzero(reference)
    return 2 * np.count_nonzero(prediction & reference) / total if total else 1.0


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


def _scheme(labels: Volume, name: str | None) -> LabelScheme:
    if name is not None:
        return scheme_named(name)
    assert labels.path is not None  # noqa: S101  it was read from a file
    if saved := saved_scheme(labels.path):
        return saved
    try:
        return detect_scheme(np.unique(labels.data).tolist())
    except InputError as error:
        raise InputError(error.problem, error.fix, path=labels.path, code=error.code) from error
