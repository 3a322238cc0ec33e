"""A calibration fitted on made-up measurements whose law is known."""

from dataclasses import replace

import numpy as np
import pytest

from m3ae_core.errors import InputError
from m3ae_core.modalities import BRATS
from m3ae_core.trust.evidence import Evidence
from m3ae_core.trust.fit import Measurement, conformal_ends, fit_calibration

SUBSETS = BRATS.subsets()
VOXELS = 2000


def measurement(case: int) -> Measurement:
    """Dice is .1 + .8 × confidence, the true volume twice the summed one, but for noise; logits are twice too large."""
    rng = np.random.default_rng(case)
    confidence = rng.uniform(0.2, 0.9, (15, 3))
    inside = rng.random(VOXELS) < 0.5
    logit = np.where(inside, 1.0, -1.0) + rng.normal(0, np.sqrt(2), (15, 3, VOXELS))  # its own log odds
    return Measurement(
        f"case-{case}",
        f"{case:064x}",
        SUBSETS,
        ("WT", "TC", "ET"),
        np.stack([confidence, np.full((15, 3), 9.0), np.full((15, 3), 9.0)], axis=-1),
        0.1 + 0.8 * confidence + rng.normal(0, 0.02, (15, 3)),
        np.exp(np.log(19.0) + rng.normal(0, 0.1, 3)),
        (1 / (1 + np.exp(-2 * logit))).astype(np.float16),
        np.where(inside, 3, 0).astype(np.uint8),
    )


@pytest.fixture(scope="module")
def measurements():
    return [measurement(case) for case in range(12)]


@pytest.fixture(scope="module")
def calibration(measurements):
    return fit_calibration(measurements)


@pytest.mark.parametrize("subset", ["T1", "FLAIR+T2", "FLAIR+T1+T1c+T2"])
@pytest.mark.parametrize("region", ["WT", "TC", "ET"])
def test_the_law_is_found(calibration, subset, region):
    fit = calibration.fits[subset][region]
    assert fit.temperature == pytest.approx(2.0, rel=0.1)
    expected = fit.expected_dice(Evidence(0.5, 9.0, 9.0))
    assert expected.estimate == pytest.approx(0.5, abs=0.02)
    assert 0.02 < expected.high - expected.low < 0.1  # 80 % of a normal law of SD .02 are .051 wide
    volume = fit.volume_ml(Evidence(0.5, 9.0, 9.0))
    assert volume.estimate == pytest.approx(19.0, abs=1.5)
    assert volume.low < volume.estimate < volume.high


def test_unseen_cases_lie_within_the_range_as_often_as_said(calibration):
    hits = [
        fit.expected_dice(Evidence(*figures)).low <= dice <= fit.expected_dice(Evidence(*figures)).high
        for case in map(measurement, range(100, 110))
        for row, subset in enumerate(map(str, SUBSETS))
        for fit, figures, dice in zip(
            calibration.fits[subset].values(), case.figures[row].tolist(), case.dice[row], strict=True
        )
    ]
    assert 0.74 < np.mean(hits) < 0.88


def test_the_cases_are_named_by_their_hashes_in_any_order(measurements, calibration):
    assert calibration.cases == 12
    assert fit_calibration(measurements[::-1]).cases_sha256 == calibration.cases_sha256
    assert fit_calibration(measurements[1:]).cases_sha256 != calibration.cases_sha256


def test_too_few_cases(measurements):
    with pytest.raises(InputError) as refused:
        fit_calibration(measurements[:8])
    assert refused.value.code == "too-few-cases"


@pytest.mark.parametrize(("count", "ends"), [(9, (0, 8)), (19, (1, 17)), (99, (9, 89))])
def test_conformal_ends_by_hand(count, ends):
    """The k-th of n errors is exceeded with the chance k / (n + 1): a tenth on each side."""
    assert conformal_ends(np.arange(count)[::-1]) == ends


def test_what_the_cases_were_worth_is_kept(measurements, calibration):
    dice = [m.dice[SUBSETS.index(BRATS.subset(["T1"])), 1] for m in measurements]
    found = calibration.fits["T1"]["TC"].measured
    assert (found.low, found.estimate, found.high) == pytest.approx(
        np.quantile(dice, (0.1, 0.5, 0.9)), abs=1e-3
    )


def test_enhancement_is_told_where_some_cases_have_none(measurements, calibration):
    """Of half of the cases the enhancing tumour is taken away, from truth and probabilities."""
    assert calibration.enhancement is None
    scarce = []
    for m in measurements[::2]:
        figures = m.figures.copy()
        figures[:, 2, 2] = 0.1
        scarce.append(replace(m, figures=figures, true_ml=np.array([19.0, 19.0, 0.0])))
    found = fit_calibration([*scarce, *measurements[1::2]]).enhancement
    assert found.cases == 12
    assert found.enhancing == 6
    assert set(found.balanced_accuracy.values()) == {1.0}
    assert set(found.balanced_accuracy) == {str(s) for s in SUBSETS if "T1c" in s.missing}
