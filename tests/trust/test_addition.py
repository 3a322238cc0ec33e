"""Which sequence would add most, on made-up figures of a calibration."""

from m3ae_core.modalities import BRATS
from m3ae_core.trust.addition import best_addition
from m3ae_core.trust.calibration import Calibration, Fit, Line, Range

LINE = Line(weights=(0.5, 0.0, 0.0), errors=(-0.1, 0.1))


def fits(dice: float) -> dict[str, Fit]:
    own = Range(estimate=dice, low=dice - 0.1, high=dice + 0.1)
    return {"WT": Fit(temperature=1, dice=LINE, log_ratio=LINE, measured=own)}


def calibration(**dice: float) -> Calibration:
    named = {name.replace("_", "+"): fits(value) for name, value in dice.items()}
    return Calibration(cases=9, cases_sha256="a" * 64, fits=named)


def test_the_sequence_that_adds_most_is_named_with_both_figures():
    found = best_addition(BRATS.subset(["T1"]), calibration(T1=0.4, T1_T1c=0.5, T1_T2=0.7, FLAIR_T1=0.6))
    assert (found["sequence"], found["cases"]) == ("T2", 9)
    assert found["without"]["WT"] == {"estimate": 0.4, "low": 0.4 - 0.1, "high": 0.5}
    assert found["with"]["WT"]["estimate"] == 0.7


def test_nothing_is_said_where_nothing_is_missing_or_known():
    assert best_addition(BRATS.full, calibration(FLAIR_T1_T1c_T2=0.9)) is None
    assert best_addition(BRATS.subset(["T1"]), None) is None
    assert best_addition(BRATS.subset(["T1"]), calibration(T1=0.4)) is None
    assert best_addition(BRATS.subset(["T2"]), calibration(T1_T2=0.4)) is None


def test_a_calibration_of_before_tells_nothing():
    old = {name: {"WT": Fit(temperature=1, dice=LINE, log_ratio=LINE)} for name in ("T1", "T1+T2")}
    assert best_addition(BRATS.subset(["T1"]), Calibration(cases=9, cases_sha256="a" * 64, fits=old)) is None
