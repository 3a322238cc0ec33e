"""Dice lesion by lesion, on boxes whose values are known by hand."""

import numpy as np
import pytest
from scipy import ndimage

from m3ae_core.evaluation.lesionwise import lesionwise_dice
from m3ae_core.evaluation.metrics import dice
from m3ae_core.evaluation.registry import DICE, LESION_DICE, overlap

MM = (1.0, 1.0, 1.0)


def mask(*boxes, shape=(60, 30, 30)) -> np.ndarray:
    """True in boxes of (start, side) along each axis alike, or in the slices given."""
    found = np.zeros(shape, bool)
    for box in boxes:
        found[box] = True
    return found


LARGE, SMALL = np.s_[2:12, 2:12, 2:12], np.s_[30:34, 2:6, 2:6]  # 1,000 and 64 voxels
TINY = np.s_[30:33, 2:6, 2:6]  # 48 voxels
AWAY = np.s_[50:52, 20:22, 20:22]


def test_every_lesion_counts_alike():
    reference = mask(LARGE, SMALL)
    half = mask(np.s_[2:7, 2:12, 2:12], SMALL)
    assert lesionwise_dice(half, reference, MM) == pytest.approx((2 * 500 / 1500 + 1) / 2)
    assert lesionwise_dice(mask(LARGE), reference, MM) == pytest.approx(1 / 2)  # the plain one is .97
    assert dice(mask(LARGE), reference) > 0.9


def test_false_positives_count_0_however_small():
    assert lesionwise_dice(mask(LARGE, AWAY), mask(LARGE), MM) == pytest.approx(1 / 2)
    assert lesionwise_dice(mask(LARGE, AWAY, np.s_[59, 29, 29]), mask(LARGE), MM) == pytest.approx(1 / 3)


def test_lesions_below_50_mm3_are_not_scored_and_finding_them_is_no_mistake():
    for prediction in (mask(LARGE), mask(LARGE, TINY)):
        assert lesionwise_dice(prediction, mask(LARGE, TINY), MM) == 1
    assert lesionwise_dice(mask(), mask(TINY), MM) is None
    assert lesionwise_dice(mask(), mask(TINY), (1, 1, 2)) == 0  # 96 mm³
    assert lesionwise_dice(mask(), mask(np.s_[:5, :5, :2]), MM) is None  # 50 mm³
    assert lesionwise_dice(mask(), mask(np.s_[:17, :3, :1]), MM) == 0  # 51 mm³


@pytest.mark.parametrize(("gap", "lesions"), [(6, 1), (7, 2)])
def test_parts_within_twice_3_mm_are_one_lesion(gap, lesions):
    second = np.s_[12 + gap : 22 + gap, 2:12, 2:12]
    whole, first = mask(LARGE, second), mask(LARGE)
    assert lesionwise_dice(first, whole, MM) == pytest.approx({1: 2 * 1000 / 3000, 2: 1 / 2}[lesions])


def test_the_dilation_is_in_millimetres():
    second = np.s_[14:24, 2:12, 2:12]  # 2 voxels apart
    assert lesionwise_dice(mask(LARGE), mask(LARGE, second), (2, 1, 1)) == pytest.approx(2 / 3)  # one lesion
    assert lesionwise_dice(mask(LARGE), mask(LARGE, second), (4, 1, 1)) == pytest.approx(1 / 2)


def test_a_component_beside_a_lesion_belongs_to_it():
    """It touches the dilated lesion, so it is no false positive, but its voxels count against the lesion."""
    beside = np.s_[14:16, 2:12, 2:12]
    assert lesionwise_dice(mask(LARGE, beside), mask(LARGE), MM) == pytest.approx(2 * 1000 / 2200)
    assert lesionwise_dice(mask(beside), mask(LARGE), MM) == 0


def test_corners_touch():
    corner = np.s_[12:22, 12:22, 12:22]
    assert lesionwise_dice(mask(LARGE, corner), mask(LARGE), MM) == pytest.approx(2 * 1000 / 3000)


def test_empty_masks():
    assert lesionwise_dice(mask(), mask(), MM) is None
    assert lesionwise_dice(mask(LARGE), mask(), MM) == 0
    assert lesionwise_dice(mask(), mask(LARGE), MM) == 0


def test_a_benchmark_measures_it_beside_the_plain_one():
    found = overlap(mask(LARGE, AWAY), mask(LARGE), MM)
    assert LESION_DICE.score(found) == pytest.approx(1 / 2)
    assert DICE.score(found) == pytest.approx(2000 / 2008)


def test_lesions_too_small_to_be_scored_agree():
    small = np.s_[2:4, 2:4, 2:4]
    assert lesionwise_dice(mask(), mask(small), MM) is None
    assert LESION_DICE.score(overlap(mask(), mask(small), MM)) == 1


def by_the_definition(prediction: np.ndarray, reference: np.ndarray) -> float | None:
    """Dice by lesions of two masks (X, Y, Z) with voxels of 1 mm, lesion after lesion on the whole image."""
    dilate = ndimage.generate_binary_structure(3, 2)
    touch = ndimage.generate_binary_structure(3, 3)
    near, lesions = ndimage.label(ndimage.binary_dilation(reference, dilate, iterations=3), touch)
    components, count = ndimage.label(prediction, touch)
    unmatched, scores = set(range(1, count + 1)), []
    for number in range(1, lesions + 1):
        lesion, found = reference & (near == number), np.zeros_like(prediction)
        for one in range(1, count + 1):
            if np.any((components == one) & (near == number)):
                found |= components == one
                unmatched.discard(one)
        if lesion.sum() > 50:
            scores.append(2 * (found & lesion).sum() / (found.sum() + lesion.sum()))
    scores += [0.0] * len(unmatched)
    return sum(scores) / len(scores) if scores else None


def balls(rng: np.random.Generator, count: int) -> np.ndarray:
    """`count` balls of 1 to 6 voxels across, of which some touch, in (28, 24, 20) voxels."""
    found = np.zeros((28, 24, 20), bool)
    places = np.indices(found.shape)
    for _ in range(count):
        middle, radius = rng.uniform(0, found.shape), rng.uniform(0.8, 5)
        found |= radius**2 >= ((places.T - middle) ** 2).sum(-1).T
    return found


@pytest.mark.parametrize("lesions", range(5))
def test_a_slow_computation_by_the_definition_agrees(lesions):
    """45 phantoms each of no to four lesions, predicted moved, in part, elsewhere, or not at all."""
    rng, seen = np.random.default_rng(lesions), set()
    for number in range(45):
        reference = balls(rng, lesions)
        prediction = np.roll(reference, rng.integers(-3, 4, 3), (0, 1, 2)) & (rng.random() < 0.8)
        prediction = (prediction & (rng.random(reference.shape) < 0.97)) | balls(rng, int(rng.integers(3)))
        ours, theirs = lesionwise_dice(prediction, reference, MM), by_the_definition(prediction, reference)
        assert ours == (None if theirs is None else pytest.approx(theirs, abs=1e-12)), number
        seen.add(theirs)
    assert len(seen) >= (25 if lesions > 1 else 2)


def test_a_gap_across_a_corner_parts_lesions():
    """The dilation has no corners: 5 voxels apart along every axis are not bridged, along two they are."""
    across = np.s_[17:27, 17:27, 17:27]
    assert lesionwise_dice(mask(LARGE), mask(LARGE, across), MM) == pytest.approx(1 / 2)
    edge = np.s_[17:27, 17:27, 2:12]
    assert lesionwise_dice(mask(LARGE), mask(LARGE, edge), MM) == pytest.approx(2 / 3)
