"""What empty masks count and what is removed, under each convention by its published rule."""

import numpy as np
import pytest

from m3ae_core.evaluation.conventions import (
    BRATS_LEGACY,
    BRATS_LESIONS,
    CONVENTIONS,
    M3AE_PAPER,
    RFNET_PP500,
)
from m3ae_core.evaluation.registry import Overlap, overlap


def measured(predicted: int, reference: int, *, voxel_mm3: float = 1.0) -> Overlap:
    """What masks of so many voxels might give on the BraTS grid."""
    both = predicted > 0 and reference > 0
    shared = 0.4 * (predicted + reference) if both else 0  # a Dice of 0.8
    lesions = 0.4 if both else 0.0 if predicted or reference else None
    diagonal = (240**2 + 240**2 + 155**2) ** 0.5
    of_masks = {"lesion_dice": lesions, "hd95_mm": 4.0 if both else None}
    return Overlap(predicted, reference, shared, voxel_mm3, diagonal, of_masks)


def score(convention, region, overlap):
    found = convention.scores(convention.applied(region, overlap))
    return found.pop("dice"), found.pop("hd95_mm", None)


CASES = [  # convention, predicted voxels, reference voxels -> Dice, HD95
    (BRATS_LEGACY, 900, 900, 0.8, 4.0),
    (BRATS_LEGACY, 0, 0, 1.0, 0.0),
    (BRATS_LEGACY, 900, 0, 0.0, 373.12866),
    (BRATS_LEGACY, 0, 900, 0.0, 373.12866),
    (M3AE_PAPER, 900, 900, 0.8, 4.0),
    (M3AE_PAPER, 0, 0, 1.0, 0.0),
    (M3AE_PAPER, 900, 0, 0.0, 0.0),
    (M3AE_PAPER, 0, 900, 0.0, 0.0),
    (RFNET_PP500, 900, 900, 0.8, None),
    (RFNET_PP500, 0, 0, 1.0, None),
    (RFNET_PP500, 900, 0, 0.0, None),
    (RFNET_PP500, 0, 900, 0.0, None),
    (BRATS_LESIONS, 900, 900, 0.4, None),
    (BRATS_LESIONS, 0, 0, 1.0, None),
    (BRATS_LESIONS, 900, 0, 0.0, None),
    (BRATS_LESIONS, 0, 900, 0.0, None),
]


@pytest.mark.parametrize(("convention", "predicted", "reference", "dice", "hd95"), CASES)
@pytest.mark.parametrize("region", ["WT", "TC", "ET"])
def test_empty_masks(convention, region, predicted, reference, dice, hd95):
    found = score(convention, region, measured(predicted, reference))
    assert found == (pytest.approx(dice), hd95 if hd95 is None else pytest.approx(hd95, abs=1e-5))


def test_the_penalty_is_the_diagonal_of_any_image():
    some, empty = np.ones((3, 4, 1), bool), np.zeros((3, 4, 1), bool)
    assert score(BRATS_LEGACY, "WT", overlap(some, empty, (10, 10, 0.001)))[1] == pytest.approx(50)


@pytest.mark.parametrize(
    ("region", "predicted", "voxel_mm3", "kept"),
    [
        ("ET", 499, 1.0, False),
        ("ET", 500, 1.0, True),
        ("WT", 499, 1.0, True),
        ("TC", 499, 1.0, True),
        ("ET", 62, 8.0, False),  # 496 mm³
        ("ET", 63, 8.0, True),  # 504 mm³
    ],
)
def test_small_enhancing_tumour_is_removed_by_its_volume(region, predicted, voxel_mm3, kept):
    found = RFNET_PP500.applied(region, measured(predicted, 700, voxel_mm3=voxel_mm3))
    assert found.predicted == (predicted if kept else 0)
    assert RFNET_PP500.scores(found) == {"dice": pytest.approx(0.8) if kept else 0.0}


def test_removing_a_small_false_positive_is_a_success():
    assert score(RFNET_PP500, "ET", measured(499, 0))[0] == 1
    assert score(BRATS_LEGACY, "ET", measured(499, 0))[0] == 0


def test_each_convention_is_named_and_described():
    assert len({convention.name for convention in CONVENTIONS}) == len(CONVENTIONS) == 4
    assert all("empty" in convention.description for convention in CONVENTIONS)
