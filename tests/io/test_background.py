"""The background becomes 0, the brain stays what it was, and what is no background is left alone."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from m3ae_core.data.phantom import AFFINE, phantom
from m3ae_core.io.background import without_background
from m3ae_core.io.volume import read_volume

IMAGE = phantom()[0]["T1"]


@pytest.mark.parametrize("value", [-1, 1e-3, -1024, 5000])
def test_a_constant_is_subtracted(value):
    data, notes = without_background(np.where(IMAGE == 0, np.float32(value), IMAGE))
    assert notes == (f"The background was {value:g} instead of 0; it was set to 0.",)
    np.testing.assert_array_equal(data == 0, IMAGE == 0)
    np.testing.assert_allclose(data[IMAGE > 0], IMAGE[IMAGE > 0] - value, rtol=1e-6)


def test_a_whole_image_that_was_standardised_is_the_image_again():
    data, _ = without_background((IMAGE - IMAGE.mean()) / IMAGE.std())
    np.testing.assert_array_equal(data == 0, IMAGE == 0)
    np.testing.assert_allclose(data * IMAGE.std(), IMAGE, atol=1e-3)


def test_brain_of_value_0_stays_brain():
    for outside in (-1, np.nan):
        image = np.where(IMAGE == 0, np.float32(outside), IMAGE)
        image[24, 28, 20] = 0
        assert without_background(image)[0][24, 28, 20] != 0


def test_nan_outside_the_brain_of_a_file(tmp_path: Path):
    nib.save(nib.Nifti1Image(np.where(IMAGE == 0, np.float32(np.nan), IMAGE), AFFINE), tmp_path / "t1.nii")
    volume = read_volume(tmp_path / "t1.nii")
    np.testing.assert_array_equal(volume.data, IMAGE)
    assert volume.notes == ("The background was nan instead of 0; it was set to 0.",)


def test_what_is_no_constant_or_everything_is_left_alone():
    noise = np.where(IMAGE == 0, np.random.default_rng(0).random(IMAGE.shape, np.float32), IMAGE)
    for image in (IMAGE, noise, np.full_like(IMAGE, 3), np.full_like(IMAGE, np.nan)):
        data, notes = without_background(image)
        assert data is image
        assert notes == ()


# --- CT --------------------------------------------------------------------------------------------


def hounsfield(outside: float) -> np.ndarray:
    """The phantom's head as a CT of -40 to 60 HU."""
    return np.where(IMAGE == 0, np.float32(outside), np.round(IMAGE / 10) - 40)


@pytest.mark.parametrize("outside", [-1000, -1024, -3024, 0, np.nan])
def test_air_and_padding_of_a_ct_become_0_and_tissue_keeps_its_units(outside):
    image = hounsfield(outside)
    image[24, 28, 20] = 0 if outside else 1
    data, notes = without_background(image, "CT")
    assert notes == ()
    assert data.dtype == np.float32
    brain = (IMAGE > 0) & (image != 0)
    np.testing.assert_array_equal(data[IMAGE == 0], 0)
    np.testing.assert_array_equal(data[brain], image[brain])
    assert data[24, 28, 20] != 0
    assert data[24, 28, 20] == pytest.approx(image[24, 28, 20])
    again, _ = without_background(data, "CT")
    np.testing.assert_array_equal(again, data)


def test_noisy_air_around_a_head_that_reaches_the_corner():
    image = hounsfield(-1000) + np.random.default_rng(0).uniform(-30, 30, IMAGE.shape).astype(np.float32)
    image[:3, :3, :3] = 25
    data, _ = without_background(image, "CT")
    np.testing.assert_array_equal(data == 0, (IMAGE == 0) & (image != 25))
    assert without_background(data, "CT")[0] is data
