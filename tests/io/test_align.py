"""Sequences on different grids come onto the first one's, exactly where that is possible, and never by guessing."""

from pathlib import Path

import numpy as np
import pytest

from m3ae_core.errors import InputError
from m3ae_core.io.align import on_other_grid, to_one_grid
from m3ae_core.io.volume import Volume

SHAPE = (10, 12, 8)


def affine(spacing=(1, 1, 1), origin=(0, 0, 0)):
    matrix = np.diag([*spacing, 1]).astype(float)
    matrix[:3, 3] = origin
    return matrix


def volume(matrix=None, shape=SHAPE, name="x.nii.gz"):
    """A random image, non-zero everywhere."""
    data = np.random.default_rng(0).uniform(1, 2, shape).astype(np.float32)
    return Volume(data, affine() if matrix is None else matrix, Path(name))


def test_volumes_on_one_grid_are_left_as_they_are():
    volumes = {"FLAIR": volume(), "T1": volume(affine(origin=(5e-4, 0, 0)))}
    aligned, moved = to_one_grid(volumes)
    assert moved == ()
    assert all(aligned[name] is volumes[name] for name in volumes)


def test_grid_counts_as_another_beyond_the_tolerance_and_with_another_shape():
    others = {
        "T1": volume(affine(origin=(0.2, 0, 0))),
        "T1c": volume(shape=(10, 12, 9)),
        "T2": volume(affine(spacing=(1, 1, 1.02))),
    }
    assert on_other_grid({"FLAIR": volume(), **others}) == ("T1", "T1c", "T2")


def test_rounding_of_a_header_is_passed_over_and_said():
    rounded = volume(affine(origin=(0.005, 0, 0)))
    aligned, moved = to_one_grid({"FLAIR": volume(), "T2": rounded})
    assert moved == ()
    assert aligned["T2"].data is rounded.data
    assert aligned["T2"].notes == ("The header places it 0.005 mm from FLAIR; that was taken for rounding.",)


def test_shift_by_whole_voxels_copies_slices():
    moved = volume(affine(origin=(2, 0, -1)), name="t2.nii.gz")
    aligned, names = to_one_grid({"FLAIR": volume(), "T2": moved})
    assert names == ("T2",)
    assert aligned["T2"].notes == ("resampled to the grid of FLAIR.",)
    np.testing.assert_array_equal(aligned["T2"].data[2:, :, :7], moved.data[:8, :, 1:])
    assert not aligned["T2"].data[:2].any()
    assert not aligned["T2"].data[:, :, 7:].any()
    np.testing.assert_array_equal(aligned["T2"].affine, affine())
    assert aligned["T2"].path == Path("t2.nii.gz")


def test_other_orientation_of_the_same_voxels_is_exact():
    first = volume()
    turned = Volume(
        first.data.transpose(2, 1, 0)[:, ::-1],
        np.array([[0, 0, 1, 0], [0, -1, 0, 11], [1, 0, 0, 0], [0, 0, 0, 1.0]]),
    )
    aligned, names = to_one_grid({"T1": first, "T2": turned})
    assert names == ("T2",)
    np.testing.assert_array_equal(aligned["T2"].data, first.data)


def test_interpolation_between_voxels_is_linear():
    ramp = np.broadcast_to(np.arange(1, 11, dtype=np.float32)[:, None, None], SHAPE)
    aligned, _ = to_one_grid({"T1": volume(), "T2": Volume(ramp, affine(origin=(-0.25, 0, 0)))})
    np.testing.assert_allclose(aligned["T2"].data[:9], ramp[:9] + 0.25, rtol=1e-6)


@pytest.mark.parametrize(("shift", "share"), [(5, None), (6, 40), (40, 0)])
def test_less_than_half_in_view_is_refused(shift, share):
    volumes = {"FLAIR": volume(), "T2": volume(affine(origin=(shift, 0, 0)), name="folder/t2.nii.gz")}
    if share is None:
        assert to_one_grid(volumes)[1] == ("T2",)
        return
    with pytest.raises(InputError, match=r"% of T2 lies within the field of view of FLAIR\.") as caught:
        to_one_grid(volumes)
    assert caught.value.code == "no-overlap"
    assert caught.value.path == Path("folder/t2.nii.gz")
    assert "leave T2 out" in caught.value.fix
    assert abs(float(caught.value.problem.split()[1]) - share) < 7


def test_only_content_counts_not_the_empty_border():
    wide = np.zeros((40, 12, 8), np.float32)
    wide[15:25] = 1
    aligned, names = to_one_grid({"T1": volume(), "T2": Volume(wide, affine(origin=(-15, 0, 0)))})
    assert names == ("T2",)
    assert (aligned["T2"].data == 1).all()


def test_rotated_image_is_judged_by_its_own_box():
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.5), -np.sin(0.5)], [np.sin(0.5), np.cos(0.5)]]
    centre = np.eye(4)
    centre[:3, 3] = (4.5, 5.5, 3.5)
    oblique = centre @ turn @ np.linalg.inv(centre)
    aligned, names = to_one_grid({"T1": volume(), "T2": Volume(np.ones(SHAPE, np.float32), oblique)})
    assert names == ("T2",)
    assert aligned["T2"].data[5, 6, 4] == pytest.approx(1)


def test_empty_volume_is_no_fault_here():
    assert to_one_grid(
        {"T1": volume(), "T2": Volume(np.zeros(SHAPE, np.float32), affine(origin=(0.5, 0, 0)))}
    )[1]
