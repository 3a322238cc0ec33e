"""Images that were not prepared, made from phantoms, each told by its own sentence; prepared ones are not accused."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from m3ae_core.data.builtin import builtin_case
from m3ae_core.data.phantom import AFFINE, phantom
from m3ae_core.inference.unprepared import corner_share, find_unprepared, rim_contrast
from m3ae_core.io.case import Case, read_case
from m3ae_core.io.folders.naming import names_disagree
from m3ae_core.io.volume import Volume
from m3ae_core.modalities import BRATS


@pytest.fixture(scope="module")
def case() -> Case:
    images, _ = phantom()
    return Case("phantom", BRATS, {name: Volume(data, AFFINE) for name, data in images.items()})


def changed(case: Case, name: str, data: np.ndarray, affine: np.ndarray = AFFINE) -> Case:
    return replace(case, volumes={**case.volumes, name: Volume(data.astype(np.float32), affine)})


def with_skull(data: np.ndarray) -> np.ndarray:
    """A dark and around it a bright shell, one voxel (4 mm) each."""
    brain = ndimage.binary_erosion(data != 0, iterations=3)
    bone = ndimage.binary_dilation(brain) & ~brain
    skin = ndimage.binary_dilation(brain | bone) & ~brain & ~bone
    return np.select([brain, bone, skin], [data, 20.0, 900.0], 0.0)


def sentence(case: Case, name: str) -> str:
    (said,) = find_unprepared(case)
    assert said.startswith(f"{name}: ")
    return said


def test_prepared_cases_are_not_accused(case):
    assert find_unprepared(case) == ()
    assert find_unprepared(read_case(builtin_case())) == ()


@pytest.mark.parametrize("name", BRATS.names)
def test_a_skull_is_seen_in_each_sequence(case, name):
    data = with_skull(case.volumes[name].data)
    assert "skull" in sentence(changed(case, name, data), name)


def test_a_background_that_is_not_zero(case):
    data = case.volumes["T2"].data
    noise = np.random.default_rng(0).rayleigh(5, data.shape)
    assert "background" in sentence(changed(case, "T2", data + noise), "T2")


def test_a_background_that_is_another_constant_is_repaired(case):
    data = case.volumes["T2"].data
    standardised = changed(case, "T2", (data - data.mean()) / data.std())
    assert find_unprepared(standardised) == ()
    assert standardised.notes[0].startswith("T2: The background was")


def test_intensities_do_not_matter(case):
    """Any scale will do, and so will a z-score of the brain alone: percentiles follow."""
    data = case.volumes["T1"].data
    brain = data != 0
    for other in (
        data * 1e-3,
        data * 1e4,
        np.where(brain, (data - data[brain].mean()) / data[brain].std(), 0),
    ):
        assert find_unprepared(changed(case, "T1", other)) == ()


def test_few_values_are_no_image(case):
    data = case.volumes["T1"].data
    assert "only 1 different values" in sentence(changed(case, "T1", data != 0), "T1")
    assert "only 4 different values" in sentence(changed(case, "T1", np.ceil(data / data.max() * 4)), "T1")


@pytest.mark.parametrize(("factor", "word"), [(10, "smaller"), (0.5, "larger"), (0.1, "larger")])
def test_a_wrong_voxel_size(case, factor, word):
    affine = AFFINE @ np.diag([factor, factor, factor, 1])
    scaled = replace(case, volumes={name: Volume(v.data, affine) for name, v in case.volumes.items()})
    (said,) = find_unprepared(scaled)  # one sentence for all four
    assert said.startswith("FLAIR, T1, T1c, T2: ")
    assert f"a brain is {word}" in said.replace("whole ", "")


def test_corners_of_a_cut_brain_are_empty(case):
    brain = case.volumes["T1"].data != 0
    box = ndimage.find_objects(brain.astype(int))[0]
    assert corner_share(brain[box]) == 0
    assert corner_share(np.ones((5, 20, 20))) == 1


def test_the_rim_is_compared_with_what_lies_below():
    data = np.zeros((20, 20, 20), np.float32)
    data[3:17, 3:17, 3:17] = 30
    data[4:16, 4:16, 4:16] = 10
    assert rim_contrast(Volume(data, np.diag([4.0, 4, 4, 1]))) == pytest.approx(3, rel=1e-3)
    assert rim_contrast(Volume(np.zeros((9, 9, 9), np.float32), np.eye(4))) == 0


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ({"T1": "x_t1c.nii.gz"}, ["x_t1c.nii.gz was given as T1 but is called T1c"]),
        ({"T2": "x_seg.nii.gz"}, ["given as T2 but is called a label map"]),
        ({"T1": "a_1_t2.nii.gz", "FLAIR": "a_2_flair.nii.gz"}, ["called T2"]),
    ],
)
def test_names_that_disagree(tmp_path, images, words):
    said = names_disagree({name: tmp_path / path for name, path in images.items()})
    assert said is not None
    assert all(word in said for word in words)


@pytest.mark.parametrize(
    "images",
    [
        {"T1": "x_t1.nii.gz", "T1c": "x_t1ce.nii.gz"},
        {"T1": "unknown.nii.gz", "T2": "scan 7.nii"},
        {"T1": "p/T1/t1.nii.gz", "T2": "p/T2/t2.nii.gz"},
        {"T1": "sub-01_run-1_T1w.nii.gz", "FLAIR": "sub-01_run-2_FLAIR.nii.gz"},
        {
            "T1": "sub-01_T1w.nii.gz",
            "T1c": "sub-01_ce-gadolinium_T1w.nii.gz",
            "T2": "sub-01_acq-2_T2w.nii.gz",
        },
        {"FLAIR": "BRATS_001_0000.nii.gz", "T1c": "BRATS_001_0002.nii.gz"},
    ],
)
def test_names_that_agree(tmp_path, images):
    assert names_disagree({name: tmp_path / path for name, path in images.items()}) is None
