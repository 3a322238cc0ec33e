"""Dice by definition, and label files whose scheme is stated, recorded, evident or a question."""

import json

import numpy as np
import pytest

from m3ae_core.data.volume import write_labels
from m3ae_core.errors import ConfigError, InputError
from m3ae_core.evaluation.metrics import compare_files, dice, dice_by_region
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


def test_label_4_leaves_no_doubt(old):
    assert compare_files(old, old) == {"WT": 1, "TC": 1, "ET": 1}


def test_ambiguous_labels_are_a_question_that_names_the_file(old, new):
    with pytest.raises(InputError) as caught:
        compare_files(old, new)
    assert caught.value.code == "scheme-ambiguous"
    assert "new.nii.gz" in str(caught.value)
    assert compare_files(old, new, reference_scheme="brats2023")["ET"] == 1


@pytest.mark.parametrize(
    ("record", "known"), [({"labels": {"scheme": "brats2023"}}, True), ({"labels": {}}, False)]
)
def test_the_sidecar_answers(old, new, record, known):
    (new.parent / "new.json").write_text(json.dumps(record))
    if known:
        assert compare_files(new, old)["ET"] == 1
    else:
        with pytest.raises(InputError):
            compare_files(new, old)


def test_a_scheme_that_does_not_fit(old):
    with pytest.raises(InputError) as caught:
        compare_files(old, old, scheme="brats2023")
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
