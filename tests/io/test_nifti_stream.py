"""The bytes of a NIfTI file at their limits: the last that counts, the first that does not, and what is said."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from m3ae_core.errors import InputError
from m3ae_core.io.nifti import MAX_OFFSET, PADDING, parse_header, read_stream

CHUNK = 2**20
AFFINE = np.diag([1.0, 1, 1, 1])


def stored(data: np.ndarray, kind: Any = nib.Nifti1Image) -> bytes:
    return bytes(kind(data, AFFINE, dtype=data.dtype).to_bytes())


def tiny(kind: Any = nib.Nifti1Image) -> bytes:
    """2 × 2 × 2 voxels: as NIfTI-1 the whole file is shorter than a header of NIfTI-2."""
    return stored(np.arange(8, dtype=np.uint8).reshape(2, 2, 2), kind)


def changed(position: int, value: np.ndarray | bytes, content: bytes | None = None) -> bytes:
    content = tiny() if content is None else content
    patch = value if isinstance(value, bytes) else value.tobytes()
    return content[:position] + patch + content[position + len(patch) :]


def shorts(*values: int) -> np.ndarray:
    return np.array(values, "<i2")


def refused(content: bytes) -> InputError:
    with pytest.raises(InputError) as caught:
        read_stream(io.BytesIO(content))
    return caught.value


class Metered(io.BytesIO):
    """A stream that gives no more than a megabyte at a time, and only to who asks for so much."""

    def read(self, size: int | None = -1, /) -> bytes:
        assert size is not None
        assert 0 < size <= CHUNK
        return super().read(size)


# --- where a file ends -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_the_smallest_image_lacks_no_byte(kind: Any, pack: Callable[[bytes], bytes]) -> None:
    """Nothing may be made up for what is missing, however short the file."""
    content = tiny(kind)
    declared, found = read_stream(io.BytesIO(pack(content)))
    assert bytes(found) == content
    assert declared.shape == (2, 2, 2)
    for length in range(8, len(content)):
        assert refused(pack(content[:length])).code in {"truncated", "not-nifti"}
    for length in range(len(declared.block), len(content)):
        assert refused(pack(content[:length])).code == "truncated"


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_files_are_read_in_bounded_pieces(pack: Callable[[bytes], bytes]) -> None:
    content = stored(np.random.default_rng(0).integers(0, 256, (128, 128, 200)).astype(np.uint8))
    cuts = [0, 1000, CHUNK, len(content)]
    whole = pack(content) if pack is bytes else b"".join(pack(content[a:b]) for a, b in pairwise(cuts))
    assert len(whole) > 3 * CHUNK
    assert bytes(read_stream(Metered(whole))[1]) == content


def test_padding_is_measured_from_the_last_voxel() -> None:
    content = stored(np.random.default_rng(0).integers(0, 256, (128, 128, 200)).astype(np.uint8))
    assert len(read_stream(io.BytesIO(content + bytes(PADDING)))[1]) == len(content) + PADDING
    error = refused(content + bytes(PADDING + 1))
    assert error.code == "oversized"
    assert error.problem == f"The file goes on after the {len(content)} bytes that its header declares."


def test_zeros_may_lie_between_two_gzip_members() -> None:
    """Tapes pad what is written to them in blocks."""
    content = tiny()
    packed = gzip.compress(content[:355]) + bytes(512) + gzip.compress(content[355:])
    assert bytes(read_stream(io.BytesIO(packed))[1]) == content


def test_a_gzip_header_may_fill_more_than_a_piece() -> None:
    """It may hold a comment of any length, before the first voxel comes."""
    packed = gzip.compress(tiny(), mtime=0)
    commented = packed[:3] + b"\x10" + packed[4:10] + b"c" * CHUNK + b"\0" + packed[10:]
    assert bytes(read_stream(io.BytesIO(commented))[1]) == tiny()


# --- what a header declares ------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("version", "size"), [(1, 348), (2, 540)])
def test_a_header_says_how_the_bytes_are_cut_up(version: int, size: int, order: str) -> None:
    header = (nib.Nifti1Header if version == 1 else nib.Nifti2Header)(endianness=order)
    image = nib.Nifti1Image if version == 1 else nib.Nifti2Image
    content = image(np.zeros((2, 3, 4), np.int16), AFFINE, header, dtype=np.int16).to_bytes()
    declared = parse_header(content)
    assert (declared.version, declared.order, declared.shape) == (version, order, (2, 3, 4))
    assert declared.dtype == np.dtype("i2").newbyteorder(order)
    assert (declared.offset, declared.end) == (size + 4, size + 4 + 48)
    assert declared.block == content[:size]


def test_the_largest_image_is_legal() -> None:
    declared = parse_header(changed(40, shorts(3, 512, 512, 512)))
    assert declared.end == 352 + 512**3
    assert parse_header(changed(108, np.float32(MAX_OFFSET))).offset == MAX_OFFSET


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (changed(40, shorts(4, 2, 2, 2, 4)), "The file holds 4 volumes (4-D)."),
        (changed(40, shorts(2, 30, 7)), "The header declares 2 dimensions (30×7)."),
        (changed(40, shorts(3, 2, 2, 1)), "The header declares 3 dimensions (2×2×1)."),
        (changed(40, shorts(-1)), "The header declares -1 dimensions (none)."),
        (changed(40, shorts(8, 2, 2, 2, 1, 1, 1, 1)), "The header declares 8 dimensions (2×2×2×1×1×1×1)."),
        (
            changed(40, shorts(3, 513, 512, 512)),
            "The header declares 513×512×512 voxels, more than 134217728.",
        ),
        (changed(70, shorts(128, 24)), "The voxels are RGB colours, not real numbers."),
        (changed(70, shorts(1)), "The voxels are values of the unsupported type 1, not real numbers."),
        (changed(72, shorts(16)), "The header contradicts itself: uint8 voxels of 16 bits."),
        (
            changed(108, np.float32(351.5)),
            "The header places the first voxel at byte 351.5; expected 352 to 16777216.",
        ),
        (
            changed(123, b"\x01"),
            "The header gives sizes in metres, which programs interpret differently.",
        ),
        (
            changed(123, b"\x0b"),
            "The header gives sizes in micrometres, which programs interpret differently.",
        ),
        (tiny()[:347], "The file is incomplete: it ends within the header."),
        (tiny()[:345], "The file is incomplete: it ends within the header."),
        (tiny(nib.Nifti2Image)[:539], "The file is incomplete: it ends within the header."),
        (
            tiny()[:348],
            "The file is incomplete: the header declares 360 bytes and only 348 are there.",
        ),
        (gzip.compress(tiny(), mtime=0)[:-1], "The file is incomplete: the compressed stream breaks off."),
        (
            changed(-1, b"\xff", gzip.compress(tiny(), mtime=0)),
            "The compressed data are damaged (checksum or coding error).",
        ),
        (changed(344, b"ni1\0"), "This is the header of a two-file image (.hdr with .img)."),
        (
            changed(344, b"\0\0\0\0"),
            "The NIfTI signature is missing; this may be an Analyze image, which does not tell left from right.",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_numbers(content: bytes, problem: str) -> None:
    assert refused(content).problem == problem


@pytest.mark.parametrize(
    ("start", "kind", "fix"),
    [
        (b"PK\x03\x04", "a zip archive", "Unpack it"),
        (b"version https://git-lfs.github.com", "a Git LFS pointer", "only a pointer"),
        (b"/annex/objects/MD5", "a git-annex pointer", "only a pointer"),
        (b" \n<!DOCTYPE HTML>", "a web page", "sent a page"),
        (b"<HTML>", "a web page", "sent a page"),
        (b"NRRD0004", "an NRRD image", "Convert it"),
        (b"\x89HDF\r\n", "an HDF5 or MINC file", "Convert it"),
        (b"\x89PNG\r\n", "a PNG picture", "Convert it"),
        (b"\xff\xd8\xff\xe0", "a JPEG picture", "Convert it"),
    ],
)
def test_files_of_other_kinds_are_recognised(start: bytes, kind: str, fix: str) -> None:
    error = refused(start + bytes(400))
    assert error.problem == f"This is {kind}, not a NIfTI image."
    assert fix in error.fix


def test_a_file_compressed_twice_and_dicom_are_recognised() -> None:
    assert "compressed twice" in refused(gzip.compress(gzip.compress(tiny()))).problem
    for start in (bytes(128), b"\x5c\x01\0\0" + bytes(124)):
        error = refused(start + b"DICM" + bytes(600))
        assert (error.code, error.problem) == ("dicom", "This is a DICOM file.")
        assert "dcm2niix" in error.fix
    error = refused(b"anything")
    assert (error.problem, error.fix) == ("This is not a NIfTI image.", "Choose a .nii or .nii.gz file.")
