"""The orientation of images whose headers tell none."""

import json

import nibabel as nib
import numpy as np
import pytest

from m3ae_core.errors import ConfigError, InputError
from m3ae_core.io.case import NO_ORIENTATION, CaseFiles, read_case
from m3ae_core.io.orientation import SWAPPED, oriented, require_orientation, was_told
from m3ae_core.io.volume import Volume

SHAPE, SPACING = (4, 5, 6), (1.0, 2.0, 3.0)
BARE = np.diag([*SPACING, 1.0])


def volume(affine=BARE) -> Volume:
    return Volume(np.random.default_rng(0).random(SHAPE, np.float32), affine)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "LAS", "ASL", "PIR", "SLA"])
def test_axes_run_where_they_are_said_to(codes):
    before = volume()
    after = oriented(before, codes)
    assert "".join(nib.aff2axcodes(after.affine)) == codes
    assert after.spacing == SPACING
    np.testing.assert_array_equal(after.data, before.data)
    corners = np.array([[0, 0, 0], np.array(SHAPE) - 1]) @ after.affine[:3, :3].T + after.affine[:3, 3]
    assert corners.min(0).tolist() == [0, 0, 0], "the least coordinates are 0"
    assert was_told(after.notes)
    assert codes in after.notes[-1]


def test_left_and_right_alone_are_swapped():
    after = oriented(volume(), SWAPPED)
    np.testing.assert_array_equal(after.affine[:3, :3], np.diag([-1.0, 2.0, 3.0]))
    assert after.affine[0, 3] == 3.0


@pytest.mark.parametrize("affine", [np.diag([-1.0, 2, 3, 1]), BARE + np.eye(4)[:, [3, 0, 1, 2]] * 5])
def test_file_that_tells_its_orientation_is_refused(affine):
    with pytest.raises(InputError, match="The header tells the orientation") as caught:
        oriented(volume(affine), "LPS")
    assert caught.value.code == "orientation"


@pytest.mark.parametrize("codes", ["", "RA", "RAL", "ras", "RLS", "RASP", "XYZ", "RRR"])
def test_what_is_no_orientation_is_refused(codes):
    with pytest.raises(ConfigError) as caught:
        require_orientation(codes)
    assert caught.value.code == "orientation"


@pytest.mark.parametrize("given", [None, "RAS", "LPS"])
def test_case_says_either_that_sides_are_as_stored_or_what_was_given(tmp_path, given):
    paths = {}
    for seed, name in enumerate(("T1", "T2")):
        image = nib.Nifti1Image(np.random.default_rng(seed).random(SHAPE, np.float32), None)
        image.header.set_zooms(SPACING)
        paths[name] = tmp_path / f"{name}.nii.gz"
        nib.save(image, paths[name])
    case = read_case(CaseFiles("x", paths, None), orientation=given)
    assert "".join(nib.aff2axcodes(case.affine)) == (given or "RAS")
    assert (NO_ORIENTATION in case.notes) is (given is None)
    assert any(f"the user gave {given}" in note for note in case.notes) is (given is not None)
    json.dumps(case.notes)
