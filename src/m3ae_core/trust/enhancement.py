"""Without the sequence after contrast: what cannot be assessed, and whether there is enhancing tumour at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from m3ae_core.modalities import Subset
from m3ae_core.regions import ENHANCING, LabelScheme
from m3ae_core.trust.evidence import NOTHING_ML, Evidence

Array = npt.NDArray[np.floating]

#: Only this sequence shows enhancement.
CONTRAST = "T1c"
#: A verdict with a lower balanced accuracy is hardly better than guessing, which has 1/2, and is not given.
LEAST_ACCURACY = 0.6


class Enhancement(BaseModel):
    """How "enhancing tumour: likely" is told from other sequences, and how often that is right.

    Attributes
    ----------
    least_share
        By subset: share of the whole tumour's summed probabilities that the enhancing tumour's must exceed.
    balanced_accuracy
        By subset: mean of the shares that are told right of cases with and of cases without enhancing tumour, each case
        left out of the choice of the share.
    cases, enhancing
        How many were measured, and how many of them have enhancing tumour.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    least_share: dict[str, float]
    balanced_accuracy: dict[str, float]
    cases: int
    enhancing: int

    def words(self, subset: Subset, whole: Evidence, enhancing: Evidence) -> dict[str, Any] | None:
        """Return the JSON-ready verdict on one case seen from `subset`; None if it would be a guess."""
        accuracy, least = subset.entry(self.balanced_accuracy), subset.entry(self.least_share)
        if accuracy is None or least is None or accuracy < LEAST_ACCURACY:
            return None
        return {
            "likely": share(whole.soft_ml, enhancing.soft_ml) > least,
            "balanced_accuracy": accuracy,
            "cases": self.cases,
        }


def share(whole_ml: float, enhancing_ml: float) -> float:
    """Return the share of enhancing tumour in the whole, of summed probabilities in mL; 0 where there is no tumour."""
    return enhancing_ml / whole_ml if whole_ml > 0 else 0.0


def unassessable(
    subset: Subset, scheme: LabelScheme, verdict: dict[str, Any] | None
) -> dict[str, Any] | None:
    """Return what a sidecar says of a result without contrast; None if there is nothing to say."""
    if CONTRAST not in subset.missing:
        return None
    return {
        "regions": ["ET"],
        "label_values": [scheme.value(ENHANCING)],
        "why": f"Without {CONTRAST} enhancing tumour, and what of the tumour core enhances, can only be guessed.",
        "enhancement": verdict,
    }


def fit_enhancement(shares: Array, true_ml: Array, subsets: Sequence[Subset]) -> Enhancement | None:
    """Fit on the shares (cases, S) of enhancing tumour and its true volumes (cases,) in mL.

    None unless two or more cases have enhancing tumour and two or more have none, and a subset lacks contrast.
    """
    there = true_ml >= NOTHING_ML
    without = [row for row, subset in enumerate(subsets) if CONTRAST in subset.missing]
    if min(there.sum(), (~there).sum()) < 2 or not without:
        return None
    return Enhancement(
        least_share={str(subsets[row]): round(_least_share(shares[:, row], there), 6) for row in without},
        balanced_accuracy={str(subsets[row]): round(_left_out(shares[:, row], there), 3) for row in without},
        cases=len(shares),
        enhancing=int(there.sum()),
    )


def _left_out(shares: Array, there: npt.NDArray[np.bool_]) -> float:
    """Return the balanced accuracy on cases (N,) left out of the choice of the share one by one."""
    others = ~np.eye(len(shares), dtype=bool)
    least = [_least_share(shares[kept], there[kept]) for kept in others]
    return _balanced_accuracy(shares > np.array(least), there)


def _least_share(shares: Array, there: npt.NDArray[np.bool_]) -> float:
    """Return the share with the greatest balanced accuracy over cases (N,)."""
    ordered = np.unique(shares)
    middles = (ordered[1:] + ordered[:-1]) / 2
    return float(max(middles, key=lambda least: _balanced_accuracy(shares > least, there), default=0.0))


def _balanced_accuracy(said: npt.NDArray[np.bool_], there: npt.NDArray[np.bool_]) -> float:
    return float(said[there].mean() + (~said[~there]).mean()) / 2
