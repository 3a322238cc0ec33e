"""A prediction judged: the map on the case's grid, the evidence in the brain, the ranges of a calibration."""

import numpy as np
import pytest

from m3ae_core.errors import BundleError
from m3ae_core.modalities import BRATS
from m3ae_core.trust.calibration import Calibration, Fit, Line
from m3ae_core.trust.evidence import Evidence, weigh
from m3ae_core.trust.judge import brain_of, judge

SUBSET = BRATS.subset(("FLAIR", "T2"))
FIT = Fit(
    temperature=2.0,
    dice=Line(weights=(0.1, 0.8, 0.0), errors=(-0.3, 0.05)),
    log_ratio=Line(weights=(0.0, 0.0, 0.0), errors=(-0.5, 0.5)),
)
CALIBRATION = Calibration(
    cases=7, cases_sha256="ab" * 32, fits={str(SUBSET): dict.fromkeys(("WT", "TC", "ET"), FIT)}
)


def maps(order="C"):
    rng = np.random.default_rng(0)
    return {name: np.asarray(rng.random((4, 5, 6)), np.float32, order=order) for name in ("WT", "TC", "ET")}


def brain():
    inside = np.zeros((4, 5, 6), bool)
    inside[1:, 2:, :4] = True
    return inside


@pytest.mark.parametrize("order", ["C", "F"])
def test_each_voxel_of_the_brain_is_judged_by_its_own_probabilities(order):
    given, inside = maps(order), brain()
    found = judge(given, inside, 0.001, SUBSET, None).uncertainty
    assert found.shape == inside.shape
    assert found.dtype == np.float32
    assert (found[~inside] == 0).all()
    for voxel in zip(*np.nonzero(inside), strict=True):
        wt, tc, et = (float(given[name][voxel]) for name in ("WT", "TC", "ET"))
        tc, et = max(tc, et), et
        wt = max(wt, tc)
        chance = et if given["ET"][voxel] > 0.5 else tc - et if given["TC"][voxel] > 0.5 else None
        if chance is None:
            chance = wt - tc if given["WT"][voxel] > 0.5 else 1 - wt
        assert found[voxel] == pytest.approx(1 - chance, abs=1e-6)


def test_without_calibration_no_claim():
    record = judge(maps(), brain(), 0.001, SUBSET, None).record
    assert record["expected_dice"] is None
    assert record["volume_ml"] is None
    assert "not calibrated" in record["calibrated_on"]
    other = judge(maps(), brain(), 0.001, BRATS.subset(("T1",)), CALIBRATION)
    assert other.expected_dice is None


def test_with_calibration_ranges_and_tempered_map():
    plain, judged = (judge(maps(), brain(), 0.001, SUBSET, c) for c in (None, CALIBRATION))
    assert not np.allclose(plain.uncertainty, judged.uncertainty)
    assert set(judged.expected_dice) == {"WT", "TC", "ET"}
    assert "7 labelled cases" in judged.calibrated_on
    for found in (*judged.expected_dice.values(), *judged.volume_ml.values()):
        assert 0 <= found.low <= found.estimate <= found.high


def test_ranges_by_hand():
    expected = FIT.expected_dice(Evidence(0.9, 20.0, 21.0))
    assert (expected.estimate, expected.low, expected.high) == (0.82, 0.52, 0.87)
    assert FIT.expected_dice(Evidence(0.0, 0.0, 0.0)).low == 0
    volume = FIT.volume_ml(Evidence(0.9, 20.0, 19.0))
    assert volume.estimate == 19.0
    assert volume.low == pytest.approx(20 * np.exp(-0.5) - 1, abs=1e-3)
    assert FIT.volume_ml(Evidence(0.0, 0.0, 0.0)).low == 0


def test_soft_dice_confidence_by_hand():
    found = weigh(np.array([0.9, 0.6, 0.3, 0.0], np.float32), 0.5)
    assert found.confidence == pytest.approx(2 * 1.5 / (1.8 + 2))
    assert (found.ml, found.soft_ml) == (1.0, pytest.approx(0.9))
    assert weigh(np.array([0.4], np.float32), 1.0).confidence == 0


def test_the_brain_is_where_any_image_is_not_zero():
    first, second = np.array([[[0, -1, 0]]]), np.array([[[0, 0, 2]]])
    assert brain_of([first, second]).tolist() == [[[False, True, True]]]


def test_a_damaged_calibration_is_refused():
    assert Calibration.of({}) is None
    with pytest.raises(BundleError) as refused:
        Calibration.of({"calibration": {"cases": 3}})
    assert refused.value.code == "calibration"
    assert Calibration.of({"calibration": CALIBRATION.model_dump(mode="json")}) == CALIBRATION
