"""Dice and HD95 by definition, and label files whose scheme is stated, recorded, evident or a question."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3ae_core.errors import ConfigError, InputError
from m3ae_core.evaluation.metrics import bounding_box, compare_files, dice, dice_by_region, hd95_mm
from m3ae_core.evaluation.registry import DICE, overlap
from m3ae_core.io.volume import write_labels
from m3ae_core.regions import BRATS_2021, BRATS_2023, MSD

AFFINE = np.diag([1.0, 1.0, 1.0, 1.0])


def test_dice_by_hand():
    a = np.array([True, True, True, False])
    b = np.array([True, False, False, True])
    assert dice(a, b) == pytest.approx(2 * 1 / (3 + 2))
    assert dice(a, a) == 1
    assert dice(a, ~a) == 0


def test_empty_masks_are_never_dropped():
    empty, some = np.zeros(4, bool), np.ones(4, bool)
    assert dice(empty, empty) == 1
    assert dice(some, empty) == dice(empty, some) == 0


def test_regions_of_label_maps():
    prediction = np.array([[[0, 1, 2, 3, 3, 0]]], np.uint8)
    reference = np.array([[[0, 1, 2, 2, 3, 3]]], np.uint8)
    scores = dice_by_region(prediction, reference, BRATS_2023)
    assert scores == pytest.approx({"WT": 2 * 4 / 9, "TC": 2 * 2 / 6, "ET": 2 * 1 / 4})


def test_schemes_may_differ():
    new = np.array([[[0, 1, 2, 3]]], np.uint8)
    assert dice_by_region(new, np.array([[[0, 1, 2, 4]]], np.uint8), BRATS_2023, BRATS_2021)["ET"] == 1
    assert dice_by_region(new, np.array([[[0, 2, 1, 3]]], np.uint8), BRATS_2023, MSD) == {
        "WT": 1,
        "TC": 1,
        "ET": 1,
    }
    assert dice_by_region(new, np.array([[[0, 2, 1, 3]]], np.uint8), BRATS_2023)["TC"] < 1


@pytest.fixture
def old(tmp_path):
    return write_labels(tmp_path / "old.nii.gz", np.array([[[0, 1, 2, 4]] * 2] * 2, np.uint8), AFFINE)


@pytest.fixture
def new(tmp_path):
    return write_labels(tmp_path / "new.nii.gz", np.array([[[0, 1, 2, 3]] * 2] * 2, np.uint8), AFFINE)


def test_label_4_is_asked_about_too(old):
    with pytest.raises(InputError, match="ambiguous") as caught:
        compare_files(old, old, "brats2021")
    assert "brats2021, brats2024" in caught.value.fix
    assert compare_files(old, old, "brats2021", "brats2021") == {"WT": 1, "TC": 1, "ET": 1}


def test_ambiguous_labels_are_a_question_that_names_the_file(old, new):
    with pytest.raises(InputError) as caught:
        compare_files(old, new, "brats2021")
    assert caught.value.code == "scheme-ambiguous"
    assert "new.nii.gz" in str(caught.value)
    assert compare_files(old, new, "brats2021", "brats2023")["ET"] == 1


@pytest.mark.parametrize(
    ("record", "known"), [({"labels": {"scheme": "brats2023"}}, True), ({"labels": {}}, False)]
)
def test_the_sidecar_answers(old, new, record, known):
    (new.parent / "new.json").write_text(json.dumps(record))
    if known:
        assert compare_files(new, old, reference_scheme="brats2021")["ET"] == 1
    else:
        with pytest.raises(InputError):
            compare_files(new, old, reference_scheme="brats2021")


def test_a_scheme_that_does_not_fit(old):
    with pytest.raises(InputError) as caught:
        compare_files(old, old, "brats2023", "brats2021")
    assert caught.value.code == "labels-unknown"
    with pytest.raises(ConfigError):
        compare_files(old, old, scheme="brats1999")


def test_other_grids_are_refused(old, tmp_path):
    shifted = AFFINE.copy()
    shifted[0, 3] = 1
    other = write_labels(tmp_path / "other.nii.gz", np.array([[[0, 1, 2, 4]] * 2] * 2, np.uint8), shifted)
    with pytest.raises(InputError) as caught:
        compare_files(old, other)
    assert caught.value.code == "grids-differ"


# --- the 95 % Hausdorff distance -------------------------------------------------------------------


def slab(axis: int, position: int) -> np.ndarray:
    """One layer of voxels across a small volume: all distances between two of them are the same."""
    mask = np.zeros((12, 13, 14), bool)
    mask[(slice(None),) * axis + (position,)] = True
    return mask


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_hd95_of_parallel_slabs_is_their_distance_in_mm(axis):
    spacing = (1.0, 0.5, 3.0)
    assert hd95_mm(slab(axis, 2), slab(axis, 9), spacing) == pytest.approx(7 * spacing[axis])
    assert hd95_mm(slab(axis, 2), slab(axis, 2), spacing) == 0


def test_hd95_is_the_larger_of_the_two_directions():
    line, far = np.zeros((40, 1, 1), bool), np.zeros((40, 1, 1), bool)
    line[:10] = far[:10] = True
    far[30] = (
        True  # 21 voxels from the line's end; all voxels are boundary, for beyond the image all is outside
    )
    expected = np.percentile([0] * 10 + [21], 95)
    assert hd95_mm(line, far, (1, 1, 1)) == hd95_mm(far, line, (1, 1, 1)) == pytest.approx(expected)
    assert expected > 0


@given(seed=st.integers(0, 10_000), spacing=st.tuples(*[st.sampled_from((0.5, 1.0, 2.5))] * 3))
def test_hd95_agrees_with_all_pairs_of_boundary_voxels(seed, spacing):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 8, 3))
    masks = [rng.random(shape) < rng.uniform(0.05, 0.9) for _ in range(2)]
    for mask in masks:
        mask[tuple(rng.integers(0, shape))] = True

    def boundary(mask):
        padded = np.pad(mask, 1)
        inner = np.ones(shape, bool)
        for axis in range(3):
            for step in (-1, 1):
                inner &= np.roll(padded, step, axis)[1:-1, 1:-1, 1:-1]
        return np.argwhere(mask & ~inner) * spacing

    a, b = (boundary(mask) for mask in masks)
    distances = np.linalg.norm(a[:, None] - b[None], axis=-1)
    expected = max(np.percentile(distances.min(axis=1), 95), np.percentile(distances.min(axis=0), 95))
    assert hd95_mm(*masks, spacing) == pytest.approx(expected)


def test_hd95_of_an_empty_mask_is_a_question_of_convention():
    some, empty = slab(0, 1), np.zeros((12, 13, 14), bool)
    assert [hd95_mm(*masks, (1, 1, 1)) for masks in ((some, empty), (empty, some), (empty, empty))] == [
        None
    ] * 3


@pytest.mark.parametrize("order", ["C", "F"])
def test_the_box_around_a_mask(order):
    mask = np.zeros((5, 6, 7), bool, order=order)
    assert mask[bounding_box(mask)].shape == mask.shape
    mask[1, 2:4, 3] = mask[3, 3, 6] = True
    assert bounding_box(mask) == (slice(1, 4), slice(2, 4), slice(3, 7))


def test_overlap_says_what_is_empty():
    some, empty = slab(0, 2), np.zeros((12, 13, 14), bool)
    both = overlap(some, slab(0, 3), (1, 2, 3))
    assert (both.predicted, both.reference, both.shared, both.measured["hd95_mm"]) == (182, 182, 0, 1)
    assert both.voxel_mm3 == 6
    assert both.diagonal_mm == pytest.approx(np.sqrt(12**2 + 26**2 + 42**2))
    one = overlap(some, empty, (1, 2, 3))
    assert (one.predicted, one.reference, one.shared) == (182, 0, 0)
    assert one.measured == {"lesion_dice": 0, "hd95_mm": None}
    assert overlap(empty, empty, (1, 2, 3)).measured == {"lesion_dice": None, "hd95_mm": None}


@given(seed=st.integers(0, 10_000))
def test_dice_from_counts_is_that_of_the_masks(seed):
    rng = np.random.default_rng(seed)
    masks = [rng.random((4, 5, 3)) < rng.uniform(0, 0.9) for _ in range(2)]
    assert DICE.score(overlap(*masks, (1, 1, 1), ())) == dice(*masks)
