"""What `m3ae calibrate` found about a model: the entry ``calibration`` of its card, and the ranges it gives."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from m3ae_core.card import card_entry
from m3ae_core.modalities import Subset
from m3ae_core.trust.enhancement import Enhancement
from m3ae_core.trust.evidence import Evidence

#: The key of a card.
KEY = "calibration"
#: How often the truth should lie within a range.
LEVEL = 0.8
#: Volumes are compared as ratios of so many mL more, so that a region that is not there has a ratio too.
LEAST_ML = 1.0


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Range(_Frozen):
    """An estimate within the closed range that should hold the truth in 80 % of cases."""

    estimate: float
    low: float
    high: float


class Line(_Frozen):
    """A straight line through :attr:`Evidence.features`: intercept and slopes, and where 80 % of the errors lie."""

    weights: tuple[float, ...]
    errors: tuple[float, float]

    def at(self, evidence: Evidence) -> tuple[float, float, float]:
        """Return the estimate, and the lower and upper end of the range."""
        terms = zip(self.weights, (1.0, *evidence.features), strict=True)
        estimate = sum(weight * feature for weight, feature in terms)
        low, high = self.errors
        return estimate, estimate + low, estimate + high


class Fit(_Frozen):
    """One region seen from one subset of the sequences.

    Attributes
    ----------
    temperature
        Divides the region's logits.
    dice
        The expected Dice.
    log_ratio
        The logarithm of the true over the summed volume, both :data:`LEAST_ML` larger.
    measured
        Median and 10 and 90 % quantiles of the Dice of the cases; None if calibrated before they were kept.
    """

    temperature: float
    dice: Line
    log_ratio: Line
    measured: Range | None = None

    def expected_dice(self, evidence: Evidence) -> Range:
        """Return what Dice a region with this `evidence` should have, within [0, 1]."""
        return _range(*self.dice.at(evidence), most=1.0)

    def volume_ml(self, evidence: Evidence) -> Range:
        """Return what volume in mL a region with this `evidence` should have."""
        summed = evidence.soft_ml + LEAST_ML
        return _range(
            *(summed * math.exp(ratio) - LEAST_ML for ratio in self.log_ratio.at(evidence)), most=math.inf
        )


class Calibration(_Frozen):
    """A model's calibration: `fits` by subset and region, and the labelled cases that they come from.

    Attributes
    ----------
    cases, cases_sha256
        How many, and the SHA-256 of the list of their hashes.
    fits
        Subset -> region -> fit.
    enhancement
        What is told of enhancing tumour without contrast; None if too few cases allow that.
    """

    cases: int
    cases_sha256: str
    fits: dict[str, dict[str, Fit]]
    enhancement: Enhancement | None = None

    @classmethod
    def of(cls, card: Mapping[str, Any]) -> Calibration | None:
        """Return the calibration on a bundle's `card`; None if there is none.

        Raises
        ------
        BundleError
            If it is damaged.
        """
        return card_entry(card, KEY, cls, ("calibration", "m3ae calibrate"))

    def of_subset(self, subset: Subset) -> dict[str, Fit]:
        """Return the fit of each region with these sequences; empty if they took no part."""
        return subset.entry(self.fits) or {}


def _range(estimate: float, low: float, high: float, *, most: float) -> Range:
    kept = (round(min(max(value, 0.0), most), 3) for value in (estimate, low, high))
    estimate, low, high = kept
    return Range(estimate=min(max(estimate, low), high), low=low, high=high)
