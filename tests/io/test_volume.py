"""What is read is what was stored, and what is written comes back."""

from __future__ import annotations

import gzip
import hashlib
import logging
import os
import struct
from itertools import pairwise, permutations, product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from m3ae_core.errors import InputError, OutputError
from m3ae_core.io.affine import contradict, describe, flaw, largest_shift, tells_nothing
from m3ae_core.io.volume import Volume, read_labels, read_volume, voxel_sha256, write_image, write_labels

SHAPE = (5, 6, 7)
LPS = np.array([[-1.0, -0.0, -0.0, -0.0], [-0.0, -1.0, -0.0, 239.0], [0.0, 0.0, 1.0, 0.0], [0, 0, 0, 1]])
AFRICA = np.array([[1.0, 0.0, -0.0, -0.0], [0.0, 1.0, -0.0, 239.0], [0.0, 0.0, 1.0, 0.0], [0, 0, 0, 1]])
COARSE = np.array([[-2.0, 0, 0, 0.5], [0, -2, 0, 238.5], [0, 0, 2, 0.5], [0, 0, 0, 1]])
AFFINES = {"BraTS": LPS, "BraTS-Africa": AFRICA, "2 mm": COARSE, "identity": np.eye(4)}


def voxels(dtype: Any = "int16") -> np.ndarray:
    """Values 0 to 99; no two neighbours agree, so that no permutation of axes goes unnoticed."""
    return (np.arange(np.prod(SHAPE)).reshape(SHAPE) % 100).astype(dtype)


def save(path: Path, data: np.ndarray, affine: np.ndarray = LPS, kind: Any = nib.Nifti1Image) -> Path:
    """Write with nibabel, i.e. not with the code under test."""
    nib.save(kind(data, affine, dtype=data.dtype), path)
    return path


def oblique(
    angles: tuple[float, ...] = (0.3, -0.2, 0.1), spacing: tuple[float, ...] = (1, 0.9, 2.5)
) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = nib.eulerangles.euler2mat(*angles) @ np.diag(spacing)
    affine[:3, 3] = (-90.3, 126.7, -71.9)
    return affine


# --- reading ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize(
    "dtype", ["i1", "u1", "<i2", ">i2", "u2", "<i4", "u4", "i8", "u8", "<f4", ">f4", "<f8", ">f8"]
)
def test_reads_every_real_type(dtype: str, kind: Any, ending: str, tmp_path: Path) -> None:
    path = save(tmp_path / f"a{ending}", voxels(dtype), kind=kind)
    volume = read_volume(path)
    assert volume.data.dtype == np.float32
    assert volume.path == path
    np.testing.assert_array_equal(volume.data, voxels())
    np.testing.assert_array_equal(volume.affine, LPS)
    np.testing.assert_array_equal(read_labels(path).data, voxels())


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [nib.Nifti1Header, nib.Nifti2Header])
def test_reads_both_byte_orders(kind: Any, order: str, tmp_path: Path) -> None:
    header = kind(endianness=order)
    image_kind = nib.Nifti1Image if kind is nib.Nifti1Header else nib.Nifti2Image
    image = image_kind(voxels(), LPS, header=header)
    path = tmp_path / "a.nii"
    path.write_bytes(image.to_bytes())
    stored_size = struct.unpack(order + "i", path.read_bytes()[:4])[0]
    assert stored_size in {348, 540}
    np.testing.assert_array_equal(read_volume(path).data, voxels())


@pytest.mark.parametrize(
    ("slope", "inter", "expected"),
    [(2.0, 5.0, (2, 5)), (-1.0, 0.0, (-1, 0)), (0.5, 0.0, (0.5, 0)), (0.0, 7.0, (1, 0)), (np.nan, 7.0, (1, 0)),
     (np.inf, 0.0, (1, 0)), (np.nan, np.nan, (1, 0)), (1.0, 0.0, (1, 0))],
)  # fmt: skip
def test_scaling(slope: float, inter: float, expected: tuple[float, float], tmp_path: Path) -> None:
    content = bytearray(nib.Nifti1Image(voxels(), LPS).to_bytes())
    struct.pack_into("<2f", content, 112, slope, inter)
    path = tmp_path / "a.nii"
    path.write_bytes(content)
    data = read_volume(path).data
    assert data.dtype == np.float32
    np.testing.assert_allclose(data, voxels("f8") * expected[0] + expected[1])


def test_agrees_with_nibabel(tmp_path: Path) -> None:
    """An independent reading of an oblique, anisotropic, scaled image."""
    image = nib.Nifti1Image(np.random.default_rng(0).normal(200, 50, SHAPE), oblique())
    image.set_data_dtype(np.int16)
    nib.save(image, tmp_path / "a.nii.gz")
    theirs, ours = nib.load(tmp_path / "a.nii.gz"), read_volume(tmp_path / "a.nii.gz")
    np.testing.assert_allclose(ours.data, theirs.get_fdata(), rtol=1e-6)
    np.testing.assert_array_equal(ours.affine, theirs.affine)
    assert ours.shape == SHAPE
    assert ours.spacing == pytest.approx((1, 0.9, 2.5))


@pytest.mark.parametrize("unused", [9, 0])
@pytest.mark.parametrize("count", range(3, 8))
def test_trailing_axes_of_length_one_are_dropped(count: int, unused: int, tmp_path: Path) -> None:
    content = bytearray(nib.Nifti1Image(voxels(), LPS).to_bytes())
    struct.pack_into("<8h", content, 40, count, *SHAPE, *[1] * (count - 3), *[unused] * (7 - count))
    (tmp_path / "a.nii").write_bytes(content)
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nii").data, voxels())


def test_the_content_decides_whether_a_file_is_compressed(tmp_path: Path) -> None:
    content = nib.Nifti1Image(voxels(), LPS).to_bytes()
    for name, stored in {"a.nii.gz": content, "b.nii": gzip.compress(content), "c": content}.items():
        (tmp_path / name).write_bytes(stored)
        np.testing.assert_array_equal(read_volume(tmp_path / name).data, voxels())


@pytest.mark.parametrize("padding", [bytes(1000), bytes(2**20)], ids=["short", "long"])
def test_padding_after_the_voxels_is_legal(padding: bytes, tmp_path: Path) -> None:
    content = nib.Nifti1Image(voxels(), LPS).to_bytes()
    variants = (
        content + padding,
        gzip.compress(content + padding),
        gzip.compress(content) + padding,
        gzip.compress(content) + b"garbage",
    )
    for stored in variants:
        (tmp_path / "a.nii").write_bytes(stored)
        np.testing.assert_array_equal(read_volume(tmp_path / "a.nii").data, voxels())


@pytest.mark.parametrize("members", [2, 7])
def test_concatenated_gzip_members(members: int, tmp_path: Path) -> None:
    """bgzip and some scanners write a file in several gzip members."""
    content = nib.Nifti1Image(voxels(), LPS).to_bytes()
    cuts = np.linspace(0, len(content), members + 1).astype(int)
    parts = [gzip.compress(content[start:stop]) for start, stop in pairwise(cuts)]
    (tmp_path / "a.nii.gz").write_bytes(b"".join(parts))
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nii.gz").data, voxels())


def test_a_stream_larger_than_the_reader_s_chunks(tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(0, 1000, (96, 96, 96)).astype(np.int32)  # 3.4 MiB
    data[40:60] = 0  # and a part that inflates a hundredfold
    for name in ("a.nii", "a.nii.gz"):
        save(tmp_path / name, data)
        np.testing.assert_array_equal(read_volume(tmp_path / name).data, data)


def test_a_file_that_is_all_padding_after_inflation_of_zeros(tmp_path: Path) -> None:
    """4 MiB of zeros in 4 kB: everything comes out of zlib after the last byte went in."""
    data = np.zeros((128, 128, 256), np.uint8)
    data[-1, -1, -1] = 1
    path = save(tmp_path / "a.nii.gz", data)
    np.testing.assert_array_equal(read_labels(path).data, data)


def test_extensions_are_skipped(tmp_path: Path) -> None:
    image = nib.Nifti1Image(voxels(), LPS)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"PATIENT NAME"))
    nib.save(image, tmp_path / "a.nii")
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nii").data, voxels())


def test_unknown_units_mean_millimetres(tmp_path: Path) -> None:
    for units in (0, 2, 4, 5, 7, 2 + 8):
        content = bytearray(nib.Nifti1Image(voxels(), LPS).to_bytes())
        content[123] = units
        (tmp_path / "a.nii").write_bytes(content)
        assert read_volume(tmp_path / "a.nii").spacing == (1, 1, 1)


@pytest.mark.parametrize(("sform", "qform"), [(1, 0), (0, 1), (2, 1), (4, 4)])
def test_either_form_gives_the_affine(sform: int, qform: int, tmp_path: Path) -> None:
    image = nib.Nifti1Image(voxels(), None)
    image.set_sform(oblique(), sform)
    image.set_qform(oblique(), qform)
    nib.save(image, tmp_path / "a.nii")
    np.testing.assert_allclose(read_volume(tmp_path / "a.nii").affine, oblique(), atol=1e-4)


def test_the_sform_wins_where_the_head_was_registered(tmp_path: Path) -> None:
    moved = LPS.copy()
    moved[:3, 3] += (3, -2, 8)
    image = nib.Nifti1Image(voxels(), LPS)
    image.set_sform(moved, 2)
    image.set_qform(LPS, 1)
    nib.save(image, tmp_path / "a.nii")
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nii").affine, moved)


def test_flawed_voxel_sizes_do_not_matter_beside_an_sform(tmp_path: Path) -> None:
    """pixdim[0] (qfac) is 0 in many files, and sizes may be negative; the affine is what counts."""
    content = bytearray(nib.Nifti1Image(voxels(), LPS).to_bytes())
    struct.pack_into("<4f", content, 76, 0, -1, 1, 0)
    (tmp_path / "a.nii").write_bytes(content)
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nii").affine, LPS)


def test_reading_prints_and_logs_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """nibabel reports repaired headers on stderr."""
    content = bytearray(nib.Nifti1Image(voxels(), LPS).to_bytes())
    struct.pack_into("<2f", content, 76, 0, -1)
    (tmp_path / "a.nii").write_bytes(content)
    with caplog.at_level(logging.WARNING, "nibabel"):
        read_volume(tmp_path / "a.nii")
    assert capfd.readouterr() == ("", "")
    assert not [record for record in caplog.records if record.name.startswith("nibabel")]


@pytest.mark.parametrize(
    "name", ["with space.nii", "ünï→中文🧠.nii.gz", "a'b\"$(x);&.nii", "-rf.nii", "x.NII.GZ"]
)
def test_odd_names(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(nib.Nifti1Image(voxels(), LPS).to_bytes())
    np.testing.assert_array_equal(read_volume(path).data, voxels())
    assert read_volume(str(path)).path == path


@pytest.mark.skipif(os.name != "posix", reason="file names are bytes on POSIX alone")
def test_a_name_that_is_not_unicode(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.nii"))
    try:
        path.write_bytes(nib.Nifti1Image(voxels(), LPS).to_bytes())
    except OSError:
        pytest.skip("this file system wants Unicode")
    np.testing.assert_array_equal(read_volume(path).data, voxels())
    path.write_bytes(b"x")
    with pytest.raises(InputError, match=r"caf.*not a NIfTI image") as caught:
        read_volume(path)
    str(caught.value).encode("utf-8")


# --- one good field beside a bad one -----------------------------------------------------------------


def patched(tmp_path: Path, position: int, form: str, *values: float) -> Volume:
    """A file whose sform and qform agree, with some fields of the header replaced."""
    image = nib.Nifti1Image(voxels(), LPS)
    image.set_qform(LPS, 1)
    content = bytearray(image.to_bytes())
    struct.pack_into(form, content, position, *values)
    (tmp_path / "a.nii").write_bytes(content)
    np.testing.assert_array_equal(read_labels(tmp_path / "a.nii").data, voxels())
    return read_volume(tmp_path / "a.nii")


@pytest.mark.parametrize(
    ("position", "form", "values", "note"),
    [
        (256, "<3f", (0.9, 0.9, 0.9), "The header's qform is not valid. Its sform was taken."),
        (
            280,
            "<12f",
            (0,) * 12,
            "The header's sform is not usable: voxels would measure 0 × 0 × 0 mm. Its qform was",
        ),
        (
            108,
            "<f",
            (0,),
            "The header's position of the first voxel (vox_offset) is 0; just after the header was",
        ),
        (72, "<h", (0,), "The header's bits per voxel (bitpix) are 0; those of its data type were taken."),
    ],
    ids=["qform", "sform", "vox_offset", "bitpix"],
)
def test_a_good_field_stands_in_for_a_bad_one_and_that_is_noted(
    position: int, form: str, values: tuple[float, ...], note: str, tmp_path: Path
) -> None:
    volume = patched(tmp_path, position, form, *values)
    (said,) = volume.notes
    assert said.startswith(note)
    np.testing.assert_array_equal(volume.data, voxels())
    np.testing.assert_allclose(volume.affine, LPS, atol=1e-4)


@pytest.mark.parametrize("codes", [(0, 0), (-1, -2), (77, 99)])
def test_without_codes_the_voxel_sizes_are_all_that_is_known(codes: tuple[int, int], tmp_path: Path) -> None:
    affine = patched(tmp_path, 252, "<2h", *codes).affine
    np.testing.assert_array_equal(affine, np.eye(4))
    assert tells_nothing(affine)
    assert not tells_nothing(LPS)
    assert not tells_nothing(AFRICA)


def test_a_sound_header_leaves_no_note(tmp_path: Path) -> None:
    assert read_volume(save(tmp_path / "a.nii", voxels())).notes == ()


# --- what is said of a file that cannot be read ------------------------------------------------------


def said(path: Path, read: Any = read_volume) -> tuple[str, str]:
    with pytest.raises(InputError) as caught:
        read(path)
    assert caught.value.path == path
    return caught.value.problem, caught.value.fix


def test_what_is_said_of_things_that_are_no_image(tmp_path: Path) -> None:
    (tmp_path / "empty.nii").touch()
    save(tmp_path / "flat.nii", np.full(SHAPE, 7, "i2"))
    assert said(tmp_path / "gone.nii") == ("There is no such file.", "Check the path.")
    assert said(tmp_path) == ("This is a folder.", "Choose a .nii or .nii.gz file.")
    assert said(tmp_path / "empty.nii") == ("The file is empty.", "Copy or download it again.")
    assert said(tmp_path / "flat.nii") == ("All voxels have the value 7.", "Choose an image with content.")


@pytest.mark.skipif(os.name != "posix", reason="POSIX files")
def test_what_is_said_of_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.nii")
    assert said(tmp_path / "a.nii") == ("This is not a regular file.", "Choose a .nii or .nii.gz file.")


@pytest.mark.parametrize(
    ("error", "problem", "fix"),
    [
        (OSError(5, "Input/output error"), "The file cannot be read (Input/output error).", "Check the path, "),
        (TimeoutError(), "The file cannot be read (TimeoutError).", "Check the path, the permissions and the"),
        (MemoryError(), "The memory does not suffice for this image.", "Close other programs or crop"),
        (KeyError(5), "The file cannot be interpreted (KeyError).", "Save the image again with a program"),
    ],
)  # fmt: skip
def test_what_is_said_of_other_failures(
    error: Exception, problem: str, fix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise error

    path = save(tmp_path / "a.nii", voxels())
    monkeypatch.setattr("m3ae_core.io.volume.read_stream", fail)
    found = said(path)
    assert found[0] == problem
    assert found[1].startswith(fix)


def test_what_is_said_of_a_header(tmp_path: Path) -> None:
    content = bytes(nib.Nifti1Image(voxels(), LPS).to_bytes())
    path = tmp_path / "a.nii"

    def of(position: int, form: str, *values: float) -> tuple[str, str]:
        changed = bytearray(content)
        struct.pack_into(form, changed, position, *values)
        path.write_bytes(changed)
        return said(path)

    assert of(112, "<2f", 2, np.inf)[0] == "The intensity scaling is not usable (intercept inf)."
    assert (
        of(280, "<4f", 0, 0, 0, 0)[0]
        == "The header's sform is not usable: voxels would measure 0 × 1 × 1 mm."
    )
    image = nib.Nifti1Image(voxels(), LPS)
    image.set_qform(LPS, 1)
    content = bytes(image.to_bytes())
    assert of(80, "<f", 2)[0] == (
        "The header holds two contradicting geometries: LPS, 1 × 1 × 1 mm, origin (0, 239, 0) (sform) and "
        "LPS, 2 × 1 × 1 mm, origin (0, 239, 0) (qform)."
    )


def test_what_is_said_of_labels(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", voxels("i2") - 1)
    assert said(path, read_labels)[0] == "The label values reach from -1 to 98; allowed are 0 to 255."
    assert said(path, read_labels)[1] == "Choose a label map, not an image, or renumber its labels."
    data = voxels("f4")
    data[2, 3, 4] += 0.25
    problem, fix = said(save(path, data), read_labels)
    value = data[2, 3, 4]
    assert problem == f"1 label values are not integers, the first is {value:g} at index (2, 3, 4)."
    assert fix == "Choose a label map, and resample label maps with nearest neighbours only."
    data[1, 2, 3] = np.nan
    problem, fix = said(save(path, data))
    assert problem == "1 voxels are not finite numbers, the first at index (1, 2, 3)."
    assert fix == "Replace them (for example by 0) or obtain the image again."


def test_voxels_are_known_by_their_bytes_in_the_file(tmp_path: Path) -> None:
    """So that the sum tells the same image however it lies in memory, and another whatever differs."""
    path = save(tmp_path / "a.nii", voxels("u1"))
    expected = hashlib.sha256(path.read_bytes()[352:]).hexdigest()
    assert read_labels(path).sha256 == expected
    for order in "CF":
        assert voxel_sha256(np.array(voxels("u1"), order=order)) == expected
    assert voxel_sha256(voxels("u1")[::-1]) != expected


# --- label maps ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["u1", "i2", "i4", "i8", "f4", "f8"])
def test_labels_become_uint8(dtype: str, tmp_path: Path) -> None:
    data = np.zeros(SHAPE, dtype)
    data[1:4, 1:4, 1:4] = 4
    data[2, 2, 2] = 255
    labels = read_labels(save(tmp_path / "a.nii.gz", data))
    assert labels.data.dtype == np.uint8
    np.testing.assert_array_equal(labels.data, data)


def test_nearly_integers_are_rounded_not_cut(tmp_path: Path) -> None:
    data = np.zeros(SHAPE, "f4")
    data[0, 0, :4] = (0.9995, 2.0005, 3.9999, -0.0001)
    labels = read_labels(save(tmp_path / "a.nii", data)).data
    assert labels[0, 0, :4].tolist() == [1, 2, 4, 0]


@pytest.mark.parametrize("values", [(1, 2, 4), (1, 2, 3), (1, 0, 25)])
def test_labels_that_nibabel_rescaled_on_saving(values: tuple[int, ...], tmp_path: Path) -> None:
    """A float array saved with a uint8 header comes back as 1.0039, 1.9922, 4."""
    labels = np.zeros(SHAPE)
    labels[0, 0, :3] = values
    image = nib.Nifti1Image(labels, LPS)
    image.set_data_dtype(np.uint8)
    nib.save(image, tmp_path / "a.nii")
    assert read_labels(tmp_path / "a.nii").data[0, 0, :3].tolist() == list(values)


@pytest.mark.parametrize("largest", [4, 40])
def test_interpolated_labels_in_scaled_integers_are_no_labels(largest: float, tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.linspace(0, largest, np.prod(SHAPE)).reshape(SHAPE), LPS)
    image.set_data_dtype(np.uint8)
    nib.save(image, tmp_path / "a.nii")
    with pytest.raises(InputError, match="not integers"):
        read_labels(tmp_path / "a.nii")


def test_an_empty_label_map_is_legal(tmp_path: Path) -> None:
    assert not read_labels(save(tmp_path / "a.nii", np.zeros(SHAPE, "u1"))).data.any()


# --- writing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_labels_come_back_exactly(affine: np.ndarray, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{ending}"
    assert write_labels(path, voxels("u1"), affine) == path
    back = read_labels(path)
    np.testing.assert_array_equal(back.data, voxels("u1"))
    np.testing.assert_array_equal(back.affine, affine)
    theirs = nib.load(path)
    np.testing.assert_array_equal(np.asanyarray(theirs.dataobj), voxels("u1"))
    np.testing.assert_array_equal(theirs.affine, affine)
    np.testing.assert_allclose(theirs.get_qform(), affine, atol=1e-4)


@pytest.mark.parametrize("axes", list(permutations(range(3))))
def test_all_orientations_come_back_exactly(axes: tuple[int, ...], tmp_path: Path) -> None:
    """48 ways to store a head: 6 orders of the axes, 8 choices of direction."""
    for signs in product((1, -1), repeat=3):
        affine = np.eye(4)
        affine[:3, :3] = (np.diag(signs) * np.array([1.0, 1.5, 3.0]))[:, list(axes)]
        affine[:3, 3] = (-90, 126.5, -72)
        back = read_labels(write_labels(tmp_path / "a.nii", voxels("u1"), affine))
        np.testing.assert_array_equal(back.affine, affine)
        np.testing.assert_array_equal(back.data, voxels("u1"))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    angles=st.tuples(*[st.floats(-3, 3)] * 3),
    spacing=st.tuples(*[st.floats(0.3, 6)] * 3),
    origin=st.tuples(*[st.floats(-500, 500)] * 3),
)
def test_oblique_affines_survive_within_a_ten_thousandth_of_a_millimetre(
    angles: Any, spacing: Any, origin: Any, tmp_path: Path
) -> None:
    affine = oblique(angles, spacing)
    affine[:3, 3] = origin
    once = read_labels(write_labels(tmp_path / "a.nii", voxels("u1"), affine)).affine
    np.testing.assert_allclose(once, affine, atol=1e-4)
    again = read_labels(write_labels(tmp_path / "a.nii", voxels("u1"), once)).affine
    np.testing.assert_array_equal(again, once)


@pytest.mark.parametrize("dtype", [bool, "u1", "i4", "i8"])
def test_any_integer_type_is_written_as_uint8(dtype: Any, tmp_path: Path) -> None:
    labels = voxels("u1") > 50 if dtype is bool else voxels(dtype)
    path = write_labels(tmp_path / "a.nii", labels, LPS)
    assert nib.load(path).get_data_dtype() == np.uint8
    np.testing.assert_array_equal(read_labels(path).data, labels)


def test_memory_order_does_not_matter(tmp_path: Path) -> None:
    for labels in (np.asfortranarray(voxels("u1")), np.ascontiguousarray(voxels("u1")), voxels("u1")[::-1]):
        np.testing.assert_array_equal(read_labels(write_labels(tmp_path / "a.nii", labels, LPS)).data, labels)


def test_the_header_is_fresh(tmp_path: Path) -> None:
    """Nothing that a source header may hold about a patient can be in a result."""
    source = nib.Nifti1Image(voxels(), LPS)
    source.header["descrip"], source.header["db_name"], source.header["aux_file"] = (
        b"DOE",
        b"JOHN",
        b"1950-01-01",
    )
    source.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"DOE, JOHN"))
    nib.save(source, tmp_path / "source.nii")
    volume = read_volume(tmp_path / "source.nii")
    content = write_labels(tmp_path / "DOE.nii", volume.data.astype(np.uint8), volume.affine).read_bytes()
    assert b"DOE" not in content
    assert b"JOHN" not in content
    header = nib.Nifti1Header(content[:348])
    slope_and_intercept = struct.unpack("<2f", content[112:120])
    assert slope_and_intercept == (1.0, 0.0)
    assert header.get_xyzt_units()[0] == "mm"
    assert (int(header["qform_code"]), int(header["sform_code"])) == (2, 2)
    assert content[348:352] == bytes(4)
    assert len(content) == 352 + voxels().size
    assert not (bytes(header["descrip"]) + bytes(header["aux_file"]) + bytes(header["db_name"])).strip(b"\0")


def test_the_same_labels_give_the_same_bytes(tmp_path: Path) -> None:
    first = write_labels(tmp_path / "a.nii.gz", voxels("u1"), LPS).read_bytes()
    second = write_labels(tmp_path / "b.nii.gz", voxels("u1"), LPS).read_bytes()
    assert first == second


def test_compressed_labels_say_not_when_they_were_made(tmp_path: Path) -> None:
    """Nor under which name: gzip's header has room for both."""
    content = write_labels(tmp_path / "DOE.nii.gz", voxels("u1"), LPS).read_bytes()
    assert content[:4] == b"\x1f\x8b\x08\0"
    assert content[4:8] == bytes(4)


def test_images_are_written_in_single_precision(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.nii", voxels("f8") + 0.1, LPS)
    image = nib.load(path)
    assert image.get_data_dtype() == np.float32
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), (voxels("f8") + 0.1).astype(np.float32))


def test_images_come_back_exactly(tmp_path: Path) -> None:
    data = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    back = read_volume(write_image(tmp_path / "a.nii.gz", data, LPS))
    np.testing.assert_array_equal(back.data, data)
    np.testing.assert_array_equal(back.affine, LPS)


@pytest.mark.parametrize(
    "labels",
    [
        voxels("f4"),
        voxels("i2") - 1,
        voxels("i2") + 157,
        np.full(SHAPE, 2**32, "i8"),
        np.zeros((0, 2, 2), "u1"),
    ],
    ids=["float", "negative", "256", "would wrap to 0", "no voxels"],
)
def test_refuses_what_is_no_label_map(labels: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"a\.nii") as caught:
        write_labels(tmp_path / "a.nii", labels, LPS)
    assert (caught.value.code, caught.value.path) == ("labels", tmp_path / "a.nii")
    assert str(caught.value).endswith("Labels must be integers from 0 to 255. Renumber them.")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "affine",
    [np.full((4, 4), np.nan), np.zeros((4, 4)), np.eye(3), np.diag([1, 1, 1, 2.0]), np.diag([1e9, 1, 1, 1])],
    ids=["nan", "zero", "3 x 3", "projective", "huge"],
)
def test_refuses_an_affine_that_could_not_be_read_back(affine: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(OutputError) as caught:
        write_labels(tmp_path / "a.nii", voxels("u1"), affine)
    assert (caught.value.code, caught.value.path) == ("affine", tmp_path / "a.nii")
    assert str(caught.value).endswith(f"This cannot be a volume: {flaw(affine)}. Correct it.")
    assert not list(tmp_path.iterdir())


def test_refuses_other_dimensions_and_endings(tmp_path: Path) -> None:
    for data, name, code, said in (
        (voxels("u1")[0], "a.nii", "affine", "The array has 2 dimensions, not 3"),
        (voxels("u1")[None], "a.nii", "affine", "The array has 4 dimensions, not 3"),
        (voxels("u1"), "a.mha", "suffix", "another ending. Use .nii or .nii.gz."),
        (voxels("u1"), "a.gz", "suffix", "another ending"),
    ):
        with pytest.raises(OutputError, match=said) as caught:
            write_labels(tmp_path / name, data, LPS)
        assert (caught.value.code, caught.value.path) == (code, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_labels(tmp_path / "a.nii.gz", voxels("u1"), LPS)
    old = path.read_bytes()

    def full(self: Path, content: bytes) -> None:
        with self.open("wb") as stream:
            stream.write(content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match=r"a\.nii\.gz.*No space left"):
        write_labels(path, np.zeros(SHAPE, "u1"), LPS)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


# --- affines ---------------------------------------------------------------------------------------


def moved(x: float) -> np.ndarray:
    affine = np.eye(4)
    affine[0, 3] = x
    return affine


def sheared(cosine: float) -> np.ndarray:
    affine = np.eye(4)
    affine[0, 1] = cosine
    return affine


@pytest.mark.parametrize(
    ("affine", "said"),
    [
        (sheared(0.006), "its axes are not at right angles (shear)"),
        (np.diag([0.001, 1, 20, 1]), "voxels would measure 0.001 × 1 × 20 mm"),
        (np.diag([1, 1, 100.5, 1]), "voxels would measure 1 × 1 × 100.5 mm"),
        (np.full((4, 4), np.inf), "it holds values that are not numbers"),
        (np.eye(3), "it holds values that are not numbers"),
        (np.diag([1, 1, 1, 2.0]), "its last row is not (0, 0, 0, 1)"),
        (moved(2e5), "the image would lie 200 m from the origin"),
        (moved(-150_500), "the image would lie 150.5 m from the origin"),
    ],
)
def test_flaws_are_told_apart(affine: np.ndarray, said: str) -> None:
    assert flaw(affine) == said


@pytest.mark.parametrize(
    "affine",
    [LPS, oblique(), np.diag([0.01, 100, 1, 1]), moved(1e5), moved(-1e5), sheared(0.004)],
    ids=["LPS", "oblique", "smallest and largest", "far", "far left", "rounded"],
)
def test_the_limits_themselves_are_legal(affine: np.ndarray) -> None:
    assert flaw(affine) == ""


def test_contradictions() -> None:
    assert not contradict(LPS, LPS)
    assert not contradict(LPS, LPS @ np.diag([1.005, 1, 1, 1]))
    assert contradict(LPS, LPS @ np.diag([1.02, 1, 1, 1]))
    assert contradict(LPS, AFRICA)


def test_the_largest_shift_is_that_of_the_worst_voxel() -> None:
    indices = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1).reshape(-1, 3)
    homogeneous = np.c_[indices, np.ones(len(indices))]
    rng = np.random.default_rng(0)
    for _ in range(20):  # among them some whose worst voxel is the first
        other = oblique() + np.vstack([rng.normal(0, 0.01, (3, 4)) * (1, 1, 1, 5), np.zeros(4)])
        shifts = np.linalg.norm(homogeneous @ (oblique() - other).T, axis=1)
        assert largest_shift(oblique(), other, SHAPE) == pytest.approx(shifts.max())
    assert largest_shift(LPS, LPS, SHAPE) == 0


def test_geometry_in_words() -> None:
    assert describe(LPS) == "LPS, 1 × 1 × 1 mm, origin (0, 239, 0)"
    assert describe(COARSE) == "LPS, 2 × 2 × 2 mm, origin (0.5, 238.5, 0.5)"
    volume = Volume(voxels("f4"), COARSE)
    assert volume.spacing == (2, 2, 2)
    assert volume.shape == SHAPE
    assert volume.path is None
