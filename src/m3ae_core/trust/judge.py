"""One prediction judged: its uncertainty map, and the ranges of Dice and volume that its sidecar quotes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from m3ae_core.modalities import Subset
from m3ae_core.regions import REGIONS
from m3ae_core.trust.addition import best_addition
from m3ae_core.trust.calibration import LEVEL, Calibration, Range
from m3ae_core.trust.evidence import Evidence, weigh
from m3ae_core.trust.uncertainty import chance_of_error, temper

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

NOT_CALIBRATED = (
    "This model was not calibrated with these sequences and this window; "
    "`m3ae calibrate` does that from labelled cases."
)


@dataclass(frozen=True, eq=False)
class Judgement:
    """How far a prediction can be trusted.

    Attributes
    ----------
    uncertainty
        (X, Y, Z) float32 in [0, 1]: the chance that a voxel's tissue is wrong; 0 outside the brain.
    expected_dice, volume_ml
        Per region name; None without calibration.
    calibrated_on
        One sentence: what the ranges come from, or why there are none.
    enhancement
        Without contrast: whether there is enhancing tumour at all (:meth:`Enhancement.words`), None if not known.
    addition
        Which further sequence would help most (:func:`~m3ae_core.trust.addition.best_addition`).
    """

    uncertainty: FloatArray
    expected_dice: dict[str, Range] | None
    volume_ml: dict[str, Range] | None
    calibrated_on: str
    enhancement: dict[str, Any] | None = None
    addition: dict[str, Any] | None = None

    @property
    def record(self) -> dict[str, Any]:
        """The JSON-ready entries of the sidecar."""
        return {
            "expected_dice": _plain(self.expected_dice),
            "volume_ml": _plain(self.volume_ml),
            "calibrated_on": self.calibrated_on,
            "one_more_sequence": self.addition,
        }


def judge(
    maps: Mapping[str, FloatArray],
    brain: BoolArray,
    voxel_ml: float,
    subset: Subset,
    calibration: Calibration | None,
) -> Judgement:
    """Judge the region probabilities `maps` (X, Y, Z each) of a prediction from `subset` within `brain` (X, Y, Z)."""
    names = [region.name for region in REGIONS if region.name in maps]  # from the outermost to the innermost
    where, inside = brain_values(brain, [maps[name] for name in names])
    fits = calibration.of_subset(subset) if calibration else {}
    evidence = {name: weigh(inside[row], voxel_ml) for row, name in enumerate(names)}
    calm = [temper(inside[row], fits[name].temperature if fits else 1.0) for row, name in enumerate(names)]
    flat = np.zeros(brain.size, np.float32)
    flat[where] = chance_of_error(np.stack(calm))
    uncertainty = flat.reshape(brain.shape, order="F")
    if calibration is None or not fits:
        return Judgement(uncertainty, None, None, NOT_CALIBRATED)
    return Judgement(
        uncertainty,
        {name: fits[name].expected_dice(evidence[name]) for name in names},
        {name: fits[name].volume_ml(evidence[name]) for name in names},
        f"{LEVEL:.0%} ranges from {calibration.cases} labelled cases that the model was not trained on "
        f"(list {calibration.cases_sha256[:12]}).",
        _enhancement(evidence, subset, calibration),
        best_addition(subset, calibration),
    )


def _enhancement(
    evidence: Mapping[str, Evidence], subset: Subset, calibration: Calibration
) -> dict[str, Any] | None:
    if calibration.enhancement is None or not {"WT", "ET"} <= evidence.keys():
        return None
    return calibration.enhancement.words(subset, evidence["WT"], evidence["ET"])


def brain_of(images: Iterable[npt.NDArray[np.generic]]) -> BoolArray:
    """Return where any of the images (X, Y, Z) is not zero."""
    first, *others = images
    brain: BoolArray = np.asarray(first != 0)
    for image in others:
        brain |= image != 0
    return brain


def brain_values(brain: BoolArray, maps: Iterable[FloatArray]) -> tuple[npt.NDArray[np.intp], FloatArray]:
    """Return the flat indices (V,) of the brain, X fastest as files store it, and the maps' values there (R, V)."""
    where = np.flatnonzero(brain.ravel(order="F"))
    return where, np.stack([values.ravel(order="F")[where] for values in maps])


def _plain(ranges: Mapping[str, Range] | None) -> dict[str, dict[str, float]] | None:
    return None if ranges is None else {name: found.model_dump() for name, found in ranges.items()}
