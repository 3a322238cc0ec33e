"""What a missing sequence costs: what results were worth with it and without it, on the cases of a calibration."""

from __future__ import annotations

from typing import Any

from m3ae_core.modalities import Subset
from m3ae_core.trust.calibration import Calibration, Range


def best_addition(subset: Subset, calibration: Calibration | None) -> dict[str, Any] | None:
    """Return, JSON-ready, which missing sequence would add most to the Dice, and Dice without and with it by region.

    None if none is missing, or the calibration does not tell.
    """
    now = _measured(subset, calibration)
    gains = {
        name: then
        for name in subset.missing
        if (then := _measured(Subset(subset.of, (*subset.present, name)), calibration))
    }
    if calibration is None or not now or not gains:
        return None
    best = max(gains, key=lambda name: sum(found.estimate for found in gains[name].values()))
    return {
        "sequence": best,
        "cases": calibration.cases,
        "without": {region: found.model_dump() for region, found in now.items()},
        "with": {region: found.model_dump() for region, found in gains[best].items()},
    }


def _measured(subset: Subset, calibration: Calibration | None) -> dict[str, Range]:
    fits = calibration.of_subset(subset) if calibration else {}
    return {region: fit.measured for region, fit in fits.items() if fit.measured}
