"""A calibration fitted on labelled cases that the model was not trained on.

Expected Dice and log ratio of volumes are straight lines through the evidence, one a region for all subsets. The ranges
are conformal: quantiles of the errors on cases left out of the fit, over subsets with as many sequences.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from m3ae_core.errors import InputError
from m3ae_core.modalities import Subset
from m3ae_core.trust.calibration import LEAST_ML, LEVEL, Calibration, Fit, Line, Range
from m3ae_core.trust.enhancement import Enhancement, fit_enhancement, share
from m3ae_core.trust.evidence import Evidence

Array = npt.NDArray[np.floating]
Ends = tuple[float, float]

#: Fewer cases allow no 80 % range: its ends are the least and the greatest of nine errors.
LEAST_CASES = 9

_TEMPERATURES = np.geomspace(0.5, 4, 25)
_LOGITS = np.linspace(-12, 12, 481)  # edges of the histogram
_SUBSETS_ALIKE = 3  # from so many sequences on, subsets share their errors


@dataclass(frozen=True, eq=False)
class Measurement:
    """One labelled case segmented from S subsets of its sequences, R regions from the outermost to the innermost.

    Attributes
    ----------
    sha256
        Identity of the case's files.
    figures
        (S, R, 3) the fields of each :class:`Evidence`.
    dice
        (S, R) with the reference; 1 where both are empty.
    true_ml
        (R,) volumes of the reference in mL.
    probabilities
        (S, R, V) float16 at a sample of the brain's voxels.
    truth
        (V,) how many regions deep the reference lies there, 0 for background.
    """

    case: str
    sha256: str
    subsets: tuple[Subset, ...]
    regions: tuple[str, ...]
    figures: Array
    dice: Array
    true_ml: Array
    probabilities: npt.NDArray[np.float16]
    truth: npt.NDArray[np.uint8]

    @property
    def features(self) -> Array:
        """(S, R, F) :attr:`Evidence.features`."""
        return np.array([[Evidence(*own).features for own in row] for row in self.figures.tolist()])

    @property
    def log_ratio(self) -> Array:
        """(S, R) logarithm of true over summed volume, both :data:`LEAST_ML` larger."""
        return np.asarray(np.log((self.true_ml + LEAST_ML) / (self.figures[..., 2] + LEAST_ML)))

    @cached_property
    def histograms(self) -> Array:
        """(S, R, 2, B) voxels outside and inside each region, by logit."""
        return np.array(
            [
                [
                    [
                        np.histogram(logits[(self.truth > row) == inside], _LOGITS)[0]
                        for inside in (False, True)
                    ]
                    for row, logits in enumerate(map(_logit, regions))
                ]
                for regions in self.probabilities
            ],
            float,
        )


def fit_calibration(measurements: Sequence[Measurement], *, least: int = LEAST_CASES) -> Calibration:
    """Fit temperatures, expected Dice and volumes on cases measured from the same subsets.

    Raises
    ------
    InputError
        If there are fewer than `least` cases (``too-few-cases``).
    """
    if len(measurements) < least:
        raise InputError(
            f"{len(measurements)} cases are too few for an 80 % range.",
            f"Give {least} or more labelled cases that the model was not trained on.",
            code="too-few-cases",
        )
    subsets, regions = measurements[0].subsets, measurements[0].regions
    voxels = np.sum([m.histograms for m in measurements], axis=0)
    features = np.stack([m.features for m in measurements])
    dice = fit_lines(features, np.stack([m.dice for m in measurements]), subsets)
    ratio = fit_lines(features, np.stack([m.log_ratio for m in measurements]), subsets)
    fits = {
        str(subset): {
            region: Fit(
                temperature=_temperature(*voxels[row, column]),
                dice=dice[row][column],
                log_ratio=ratio[row][column],
                measured=_measured([m.dice[row, column] for m in measurements]),
            )
            for column, region in enumerate(regions)
        }
        for row, subset in enumerate(subsets)
    }
    hashes = "\n".join(sorted(m.sha256 for m in measurements))
    return Calibration(
        cases=len(measurements),
        cases_sha256=hashlib.sha256(hashes.encode()).hexdigest(),
        fits=fits,
        enhancement=_enhancement(measurements),
    )


def fit_lines(features: Array, values: Array, subsets: Sequence[Subset]) -> list[list[Line]]:
    """Fit `values` (cases, S, R) on `features` (cases, S, R, F); return a line for each of S subsets and R regions."""
    columns = [
        _lines(features[:, :, column], values[:, :, column], subsets) for column in range(values.shape[2])
    ]
    return [list(row) for row in zip(*columns, strict=True)]


def conformal_ends(errors: Array, level: float = LEVEL) -> Ends:
    """Return the two order statistics between which a further error lies with at least the chance `level`."""
    ordered, count = np.sort(errors, axis=None), errors.size
    tail = (1 - level) / 2
    low = max(math.floor(tail * (count + 1) + 1e-9) - 1, 0)
    return round(float(ordered[low]), 6), round(float(ordered[count - 1 - low]), 6)


def _lines(features: Array, values: Array, subsets: Sequence[Subset]) -> list[Line]:
    """Return one region's lines, from features (cases, S, F) and values (cases, S)."""
    design = np.concatenate([np.ones((*values.shape, 1)), features], axis=2)
    others = ~np.eye(len(values), dtype=bool)
    errors = np.stack(
        [
            values[case] - design[case] @ _weights(design[kept], values[kept])
            for case, kept in enumerate(others)
        ]
    )
    weights = tuple(_weights(design, values).round(6).tolist())
    size = np.array([min(len(subset), _SUBSETS_ALIKE) for subset in subsets])
    return [Line(weights=weights, errors=conformal_ends(errors[:, size == own])) for own in size]


def _weights(design: Array, values: Array) -> Array:
    """Return the least-squares weights (1 + F,) of `design` (cases, S, 1 + F) for `values` (cases, S)."""
    return np.asarray(np.linalg.lstsq(design.reshape(-1, design.shape[2]), values.ravel(), rcond=None)[0])


def _measured(dice: Sequence[float]) -> Range:
    low, middle, high = (round(float(value), 3) for value in np.quantile(dice, (0.1, 0.5, 0.9)))
    return Range(estimate=middle, low=low, high=high)


def _enhancement(measurements: Sequence[Measurement]) -> Enhancement | None:
    subsets, regions = measurements[0].subsets, measurements[0].regions
    if not {"WT", "ET"} <= {*regions}:
        return None
    whole, enhancing = regions.index("WT"), regions.index("ET")
    soft = np.stack([m.figures[..., 2] for m in measurements])
    shares = np.vectorize(share, otypes=[float])(soft[..., whole], soft[..., enhancing])
    return fit_enhancement(shares, np.array([m.true_ml[enhancing] for m in measurements]), subsets)


def _logit(probabilities: npt.NDArray[np.float16]) -> Array:
    clipped = np.clip(probabilities.astype(np.float32), 1e-5, 1 - 1e-5)
    return np.asarray(np.log(clipped / (1 - clipped)))


def _temperature(outside: Array, inside: Array) -> float:
    """Return the temperature with the least log loss on voxels (B,) outside and inside a region, by logit."""
    middle = (_LOGITS[1:] + _LOGITS[:-1]) / 2 / _TEMPERATURES[:, None]
    losses = np.logaddexp(0, middle) @ outside + np.logaddexp(0, -middle) @ inside
    return round(float(_TEMPERATURES[losses.argmin()]), 3)
