"""Slices for people: the right one, the right way up."""

import numpy as np
import pytest

from m3ae_core.evaluation.slices import cut, read_slices, to_axial, write_slices
from m3ae_core.io.case import Case
from m3ae_core.io.volume import Volume
from m3ae_core.modalities import BRATS


def in_world(affine: np.ndarray, shape: tuple[int, int, int], point: tuple[int, int, int]) -> np.ndarray:
    """A volume with one bright voxel at a world position."""
    volume = np.zeros(shape, np.uint8)
    x, y, z = np.rint(np.linalg.inv(affine) @ (*point, 1))[:3].astype(int)
    volume[x, y, z] = 1
    return volume


RAS = np.diag([1.0, 1, 1, 1])
LPS = np.array([[-1.0, 0, 0, 4], [0, -1, 0, 5], [0, 0, 1, 0], [0, 0, 0, 1]])
ASL = np.array([[0.0, 0, -1, 4], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])


@pytest.mark.parametrize(("affine", "shape"), [(RAS, (5, 6, 7)), (LPS, (5, 6, 7)), (ASL, (6, 7, 5))])
def test_superior_last_front_on_top_patients_right_on_the_left(affine, shape):
    # 4 mm towards the patient's right, 5 mm to the front, 6 mm up: the far corner of a 5 × 6 × 7 field.
    turned = to_axial(in_world(affine, shape, (4, 5, 6)), affine)
    assert turned.shape == (7, 6, 5)
    assert np.argwhere(turned).tolist() == [[6, 0, 0]]


def test_the_slice_with_most_reference(tmp_path):
    image = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    labels = np.zeros((3, 4, 5), np.uint8)
    labels[:, 0, 1], labels[0, 0, 3] = 2, 1
    case = Case("case", BRATS, {"T1": Volume(image, RAS)})
    slices = cut(case, labels, {"T1": 3 * labels})
    assert np.count_nonzero(slices.reference == 2) == 3
    assert not (slices.reference == 1).any()
    read = read_slices(write_slices(tmp_path / "s.npz", slices))
    np.testing.assert_array_equal(read.predictions["T1"], 3 * slices.reference)
    np.testing.assert_array_equal(read.images["T1"], slices.images["T1"])
    assert read.images["T1"].max() == 255
    empty = cut(case, np.zeros_like(labels), {})
    assert empty.images["T1"].shape == (4, 3)
