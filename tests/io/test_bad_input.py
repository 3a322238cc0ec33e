"""Nothing but `InputError` may come out of a bad file: which file, what is wrong, what to do.

Every file is generated here. The table holds one row per way in which a file (or a set of files) can be bad.
"""

from __future__ import annotations

import gzip
import os
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import refused
from m3ae_core.data.phantom import write_phantom
from m3ae_core.errors import InputError
from m3ae_core.io.case import CaseFiles, find_case, find_cases, read_case, read_case_labels
from m3ae_core.io.volume import read_labels, read_volume, write_image
from published import Figures
from refused import GOAL, PROPERTY

SHAPE = (5, 6, 7)
AFFINE = np.array([[-1.0, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1]])

#: Fields of the NIfTI-1 header: position and struct format.
FIELDS = {
    "sizeof_hdr": (0, "i"), "dim": (40, "8h"), "datatype": (70, "h"), "bitpix": (72, "h"),
    "pixdim": (76, "8f"), "vox_offset": (108, "f"), "scl_slope": (112, "f"), "scl_inter": (116, "f"),
    "xyzt_units": (123, "B"), "qform_code": (252, "h"), "sform_code": (254, "h"),
    "quatern": (256, "3f"), "qoffset": (268, "3f"), "srow_x": (280, "4f"), "srow_y": (296, "4f"),
    "srow_z": (312, "4f"), "magic": (344, "4s"), "extension": (348, "4B"),
}  # fmt: skip


def voxels(dtype: str = "int16") -> np.ndarray:
    return (np.arange(np.prod(SHAPE)).reshape(SHAPE) % 100).astype(dtype)


def nifti(data: np.ndarray | None = None, affine: np.ndarray = AFFINE, kind: Any = nib.Nifti1Image) -> bytes:
    """A valid file."""
    data = voxels() if data is None else data
    image = kind(data, affine, dtype=data.dtype)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    return bytes(image.to_bytes())


def patched(content: bytes | None = None, **fields: Any) -> bytes:
    """A valid file with some header fields replaced."""
    result = bytearray(nifti() if content is None else content)
    for name, value in fields.items():
        position, form = FIELDS[name]
        struct.pack_into(
            "<" + form, result, position, *(value if isinstance(value, (tuple, list)) else (value,))
        )
    return bytes(result)


def rows(matrix: Any, **others: Any) -> bytes:
    """A valid file with another sform and no qform."""
    x, y, z = np.asarray(matrix, float)[:3].tolist()
    return patched(**{"srow_x": x, "srow_y": y, "srow_z": z, "qform_code": 0, **others})


def scaled(factors: Any) -> np.ndarray:
    return np.diag([*factors, 1.0])


def with_value(value: float, dtype: str = "float32") -> bytes:
    data = voxels(dtype)
    data[1, 2, 3] = value
    return nifti(data)


def four_d(count: int) -> bytes:
    return nifti(np.stack([voxels() + n for n in range(count)], axis=-1))


def flipped(content: bytes, position: int) -> bytes:
    return content[:position] + bytes([content[position] ^ 0x10]) + content[position + 1 :]


def zeroed(content: bytes, start: int, count: int) -> bytes:
    return content[:start] + bytes(count) + content[start + count :]


def without(content: bytes, start: int, count: int) -> bytes:
    return content[:start] + content[start + count :]


def doubled(content: bytes, start: int, count: int) -> bytes:
    return content[: start + count] + content[start:]


def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 100, SHAPE).astype("int16")


def swapped(value: bytes = b"", position: int = 0) -> bytes:
    """A valid file of the other byte order, with some bytes replaced."""
    image = nib.Nifti1Image(voxels(), AFFINE, nib.Nifti1Header(endianness=">"), dtype=np.int16)
    image.set_sform(AFFINE, 1)
    content = bytes(image.to_bytes())
    return content[:position] + value + content[position + len(value) :]


def dicom() -> bytes:
    return b"\0" * 128 + b"DICM" + b"\x02\0\0\0UL\x04\0" + b"\0" * 600


def bomb(extra: int) -> bytes:
    """A small header, then zeros without end."""
    squeeze = zlib.compressobj(1, zlib.DEFLATED, 31)
    return squeeze.compress(nifti() + bytes(extra)) + squeeze.flush()


@dataclass(frozen=True)
class Bad:
    """One bad file: its id, what it holds, the code that must come back, its name and how it is read."""

    id: str
    content: Callable[[], bytes]
    code: str
    name: str = "bad.nii"
    read: Callable[[Path], Any] = read_volume


def labels(identifier: str, content: Callable[[], bytes], code: str) -> Bad:
    return Bad(identifier, content, code, read=read_labels)


shear, infinite, tiny = np.eye(4), np.eye(4), scaled((1e-30,) * 3)
shear[0, 1], infinite[1, 1] = 0.2, np.inf
GZ = "bad.nii.gz"
FILES = [
    # the bytes
    Bad("empty", lambda: b"", "empty"),
    Bad("empty-gz", lambda: b"", "empty", GZ),
    Bad("gzip-of-nothing", lambda: gzip.compress(b""), "not-nifti", GZ),
    Bad("one-byte", lambda: b"\x5c", "not-nifti"),
    Bad("text", lambda: b"patient 7, seen in May\n", "not-nifti"),
    Bad("text-gz", lambda: gzip.compress(b"hello"), "not-nifti", GZ),
    Bad("html", lambda: b"\n<!DOCTYPE html><html><body>Log in</body></html>", "not-nifti", GZ),
    Bad("html-old", lambda: b"<HTML><HEAD>", "not-nifti"),
    Bad("git-lfs", lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "not-nifti", GZ),
    Bad("git-annex", lambda: b"/annex/objects/MD5E-s123--0.nii.gz\n", "not-nifti", GZ),
    Bad("zip", lambda: b"PK\x03\x04" + bytes(400), "not-nifti", GZ),
    Bad("png", lambda: b"\x89PNG\r\n\x1a\n" + bytes(400), "not-nifti"),
    Bad("jpeg", lambda: b"\xff\xd8\xff\xe0" + bytes(400), "not-nifti"),
    Bad("nrrd", lambda: b"NRRD0004\ntype: short\n", "not-nifti"),
    Bad("hdf5", lambda: b"\x89HDF\r\n\x1a\n" + bytes(400), "not-nifti"),
    Bad("dicom", dicom, "dicom", "IM0001.dcm"),
    Bad("dicom-renamed", dicom, "dicom"),
    Bad("dicom-gz", lambda: gzip.compress(dicom()), "dicom", GZ),
    Bad("dicom-with-odd-preamble", lambda: b"\x5c\x01\0\0" + dicom()[4:], "dicom"),
    Bad("double-gzip", lambda: gzip.compress(gzip.compress(nifti())), "not-nifti", GZ),
    Bad("zeros", lambda: bytes(1000), "not-nifti"),
    Bad("random", lambda: np.random.default_rng(0).bytes(2000), "not-nifti"),
    # cut and damaged
    Bad("cut-in-size", lambda: nifti()[:4], "truncated"),
    Bad("cut-in-header", lambda: nifti()[:200], "truncated"),
    Bad("header-only", lambda: nifti()[:352], "truncated"),
    Bad("cut-in-voxels", lambda: nifti()[:500], "truncated"),
    Bad("one-byte-short", lambda: nifti()[:-1], "truncated"),
    Bad("nifti2-cut-in-header", lambda: nifti(kind=nib.Nifti2Image)[:400], "truncated"),
    Bad("nifti2-one-byte-short", lambda: nifti(kind=nib.Nifti2Image)[:-1], "truncated"),
    Bad("gz-cut-in-gzip-header", lambda: gzip.compress(nifti())[:6], "truncated", GZ),
    Bad("gz-cut-in-voxels", lambda: gzip.compress(nifti())[:-40], "truncated", GZ),
    Bad("gz-without-trailer", lambda: gzip.compress(nifti())[:-8], "truncated", GZ),
    Bad("gz-one-byte-short", lambda: gzip.compress(nifti())[:-1], "truncated", GZ),
    Bad("gz-of-a-cut-file", lambda: gzip.compress(nifti()[:-1]), "truncated", GZ),
    Bad(
        "gz-second-member-cut", lambda: gzip.compress(nifti()) + gzip.compress(b"more")[:-4], "truncated", GZ
    ),
    Bad(
        "gz-bad-crc", lambda: flipped(gzip.compress(nifti()), -8 + len(gzip.compress(nifti()))), "damaged", GZ
    ),
    Bad(
        "gz-bad-length",
        lambda: flipped(gzip.compress(nifti()), -1 + len(gzip.compress(nifti()))),
        "damaged",
        GZ,
    ),
    Bad("gz-bad-method", lambda: b"\x1f\x8b\x07" + gzip.compress(nifti())[3:], "damaged", GZ),
    Bad("gz-bad-block", lambda: gzip.compress(nifti())[:10] + b"\xff" * 50, "damaged", GZ),
    Bad(
        "gz-second-member-bad", lambda: gzip.compress(nifti()) + b"\x1f\x8b\x08" + b"\xff" * 40, "damaged", GZ
    ),
    Bad("bomb", lambda: bomb(2**25), "oversized", GZ),
    Bad("trailing-megabytes", lambda: nifti() + bytes(2**21 + 1), "oversized"),
    Bad("two-images-in-one", lambda: gzip.compress(nifti()) + gzip.compress(bytes(2**21)), "oversized", GZ),
    Bad("utf16-text", lambda: "case 7".encode("utf-16"), "not-nifti"),
    Bad("json", lambda: b'{"Modality": "MR"}', "not-nifti"),
    Bad("tar", lambda: b"scan.nii" + bytes(504), "not-nifti"),
    Bad("bzip2", lambda: b"BZh91AY&SY" + bytes(90), "not-nifti", GZ),
    Bad("xz", lambda: b"\xfd7zXZ\0" + bytes(90), "not-nifti", GZ),
    Bad("zstd", lambda: b"\x28\xb5\x2f\xfd" + bytes(90), "not-nifti", GZ),
    Bad("half-a-gzip-magic", lambda: b"\x1f" + gzip.compress(nifti())[2:], "not-nifti", GZ),
    Bad("gzip-behind-a-line-break", lambda: b"\n" + gzip.compress(nifti()), "not-nifti", GZ),
    Bad("header-moved-by-a-byte", lambda: b"\0" + nifti(), "not-nifti"),
    Bad("gz-zeroed-block", lambda: zeroed(gzip.compress(nifti(noise())), 200, 40), "damaged", GZ),
    Bad("gz-block-lost", lambda: without(gzip.compress(nifti(noise())), 200, 40), "damaged", GZ),
    Bad("gz-block-twice", lambda: doubled(gzip.compress(nifti(noise())), 200, 40), "damaged", GZ),
    Bad("gz-reserved-flag", lambda: b"\x1f\x8b\x08\xe0" + gzip.compress(nifti())[4:], "damaged", GZ),
    Bad("gz-deflate-alone", lambda: zlib.compress(nifti()), "not-nifti", GZ),
    Bad("big-endian-one-byte-short", lambda: swapped()[:-1], "truncated"),
    Bad("nifti2-cut-at-magic", lambda: nifti(kind=nib.Nifti2Image)[:6], "truncated"),
    # the header
    Bad("analyze", lambda: patched(magic=b"\0\0\0\0"), "not-nifti"),
    Bad("pair-header", lambda: patched(magic=b"ni1\0"), "not-nifti", "bad.hdr"),
    Bad("pair-header-2", lambda: nifti(kind=nib.Nifti2Image).replace(b"n+2\0", b"ni2\0", 1), "not-nifti"),
    Bad("magic-of-the-other-version", lambda: patched(magic=b"n+2\0"), "not-nifti"),
    Bad("bad-magic", lambda: patched(magic=b"n+1x"), "not-nifti"),
    Bad("bad-sizeof", lambda: patched(sizeof_hdr=347), "not-nifti"),
    Bad("dim-0", lambda: patched(dim=(0, 5, 6, 7, 1, 1, 1, 1)), "not-3d"),
    Bad("dim-1", lambda: patched(dim=(1, 210, 1, 1, 1, 1, 1, 1)), "not-3d"),
    Bad("dim-2", lambda: patched(dim=(2, 30, 7, 1, 1, 1, 1, 1)), "not-3d"),
    Bad("dim-8", lambda: patched(dim=(8, 5, 6, 7, 1, 1, 1, 1)), "not-3d"),
    Bad("dim-negative", lambda: patched(dim=(-3, 5, 6, 7, 1, 1, 1, 1)), "not-3d"),
    Bad("side-0", lambda: patched(dim=(3, 5, 0, 7, 1, 1, 1, 1)), "not-3d"),
    Bad("first-side-0", lambda: patched(dim=(3, 0, 6, 7, 1, 1, 1, 1)), "not-3d"),
    Bad("last-side-0", lambda: patched(dim=(3, 5, 6, 0, 1, 1, 1, 1)), "not-3d"),
    Bad("first-side-1", lambda: patched(dim=(3, 1, 30, 7, 1, 1, 1, 1)), "not-3d"),
    Bad("last-axis-0", lambda: patched(dim=(7, 5, 6, 7, 1, 1, 1, 0)), "not-3d"),
    Bad("7d", lambda: patched(dim=(7, 5, 6, 7, 1, 1, 1, 2)), "not-3d"),
    Bad("side-negative", lambda: patched(dim=(3, 5, -6, 7, 1, 1, 1, 1)), "not-3d"),
    Bad("one-slice", lambda: patched(dim=(3, 30, 7, 1, 1, 1, 1, 1)), "not-3d"),
    Bad("time-0", lambda: patched(dim=(4, 5, 6, 7, 0, 1, 1, 1)), "not-3d"),
    Bad("4d", lambda: four_d(4), "not-3d"),
    Bad("4d-gz", lambda: gzip.compress(four_d(4)), "not-3d", GZ),
    Bad("4d-two", lambda: four_d(2), "not-3d"),
    Bad("5d", lambda: patched(dim=(5, 5, 6, 7, 1, 3, 1, 1)), "not-3d"),
    Bad("7d-huge", lambda: patched(dim=(7, *(32767,) * 7)), "not-3d"),
    Bad("huge", lambda: patched(dim=(3, 32767, 32767, 32767, 1, 1, 1, 1)), "too-large"),
    Bad("huge-gz", lambda: gzip.compress(patched(dim=(3, 2000, 2000, 2000, 1, 1, 1, 1))), "too-large", GZ),
    Bad("just-too-large", lambda: patched(dim=(3, 513, 512, 512, 1, 1, 1, 1)), "too-large"),
    Bad("large-but-absent", lambda: patched(dim=(3, 512, 512, 512, 1, 1, 1, 1)), "truncated"),
    Bad("rgb", lambda: patched(datatype=128, bitpix=24), "dtype"),
    Bad("rgba", lambda: patched(datatype=2304, bitpix=32), "dtype"),
    Bad("complex64", lambda: nifti(voxels("complex64")), "dtype"),
    Bad("complex128", lambda: nifti(voxels("complex128")), "dtype"),
    Bad("binary", lambda: patched(datatype=1, bitpix=1), "dtype"),
    Bad("float128", lambda: patched(datatype=1536, bitpix=128), "dtype"),
    Bad("dtype-0", lambda: patched(datatype=0), "dtype"),
    Bad("dtype-unknown", lambda: patched(datatype=12345), "dtype"),
    Bad("dtype-flipped", lambda: patched(datatype=2), "dtype"),
    Bad("offset-348", lambda: patched(vox_offset=348.0), "offset"),
    Bad("offset-fraction", lambda: patched(vox_offset=352.5), "offset"),
    Bad("offset-nan", lambda: patched(vox_offset=np.nan), "offset"),
    Bad("offset-inf", lambda: patched(vox_offset=np.inf), "offset"),
    Bad("offset-huge", lambda: patched(vox_offset=1e12), "offset"),
    Bad("offset-too-large", lambda: patched(vox_offset=2.0**24 + 16), "offset"),
    Bad("offset-largest", lambda: patched(vox_offset=2.0**24), "truncated"),
    Bad("offset-negative", lambda: patched(vox_offset=-352.0), "offset"),
    Bad("offset-beyond-the-end", lambda: patched(vox_offset=4096.0), "truncated"),
    Bad("bitpix-negative", lambda: patched(bitpix=-16), "dtype"),
    Bad("dtype-negative", lambda: patched(datatype=-4), "dtype"),
    Bad("dim-beyond-7", lambda: patched(dim=(32767, 5, 6, 7, 1, 1, 1, 1)), "not-3d"),
    Bad("dim-of-the-other-order", lambda: patched(dim=(768, 1280, 1536, 1792, 256, 256, 256, 256)), "not-3d"),
    Bad("third-side-1", lambda: patched(dim=(3, 5, 42, 1, 1, 1, 1, 1)), "not-3d"),
    Bad("time-negative", lambda: patched(dim=(4, 5, 6, 7, -1, 1, 1, 1)), "not-3d"),
    Bad("sixth-axis", lambda: patched(dim=(6, 5, 6, 7, 1, 1, 2, 1)), "not-3d"),
    Bad("one-row-missing", lambda: patched(dim=(3, 5, 6, 8, 1, 1, 1, 1)), "truncated"),
    Bad("twice-the-bits", lambda: nifti()[:70] + b"\x40\0\x40\0" + nifti()[74:], "truncated"),
    Bad("micrometres", lambda: patched(xyzt_units=3), "units"),
    Bad("metres-big-endian", lambda: swapped(b"\x01", 123), "units"),
    Bad("metres", lambda: patched(xyzt_units=1), "units"),
    Bad("micrometres-and-seconds", lambda: patched(xyzt_units=3 + 8), "units"),
    Bad("intercept-nan", lambda: patched(scl_slope=2.0, scl_inter=np.nan), "scaling"),
    Bad("intercept-inf", lambda: patched(scl_slope=1.0, scl_inter=-np.inf), "scaling"),
    Bad("slope-overflows", lambda: patched(scl_slope=3e38, scl_inter=0.0), "nonfinite"),
    # the geometry
    Bad(
        "sizes-alone-bad",
        lambda: patched(qform_code=0, sform_code=0, pixdim=(1, 1, 1, 1e9, 0, 0, 0, 0)),
        "affine",
    ),
    Bad("both-forms-bad", lambda: patched(quatern=(0.9, 0.9, 0.9), srow_y=(0, 0, 0, 0)), "affine"),
    Bad("sform-zero", lambda: rows(np.zeros((4, 4))), "affine"),
    Bad("sform-singular", lambda: rows(np.ones((4, 4))), "affine"),
    Bad("sform-flat", lambda: rows(scaled((1, 1, 0))), "affine"),
    Bad("sform-nan", lambda: rows(np.full((4, 4), np.nan)), "affine"),
    Bad("sform-inf", lambda: rows(infinite), "affine"),
    Bad("sform-huge", lambda: rows(scaled((1e30,) * 3)), "affine"),
    Bad("sform-tiny", lambda: rows(tiny), "affine"),
    Bad("sform-shear", lambda: rows(shear), "affine"),
    Bad("sform-far-away", lambda: patched(srow_x=(-1, 0, 0, 1e9), qform_code=0), "affine"),
    Bad("sform-nan-offset", lambda: patched(srow_x=(-1, 0, 0, np.nan), qform_code=0), "affine"),
    Bad("quaternion-too-long", lambda: patched(quatern=(0.9, 0.9, 0.9), sform_code=0), "affine"),
    Bad("quaternion-nan", lambda: patched(quatern=(np.nan, 0, 0), sform_code=0), "affine"),
    Bad("pixdim-nan", lambda: patched(pixdim=(1, np.nan, 1, 1, 0, 0, 0, 0), sform_code=0), "affine"),
    Bad("pixdim-inf", lambda: patched(pixdim=(1, np.inf, 1, 1, 0, 0, 0, 0), sform_code=0), "affine"),
    Bad("qoffset-inf", lambda: patched(qoffset=(np.inf, 0, 0), sform_code=0), "affine"),
    Bad("qform-mirrors-sform", lambda: patched(srow_x=(1, 0, 0, 0)), "qform-sform"),
    Bad("qform-other-size", lambda: patched(pixdim=(1, 2, 1, 1, 0, 0, 0, 0)), "qform-sform"),
    Bad("sform-minus-inf", lambda: rows(-infinite), "affine"),
    Bad("sform-slightly-sheared", lambda: rows(shear * 0.5 + np.eye(4) * 0.5), "affine"),
    Bad("sform-voxel-of-a-metre", lambda: rows(scaled((1, 1, 1000))), "affine"),
    Bad("sform-voxel-of-a-micrometre", lambda: rows(scaled((1e-3, 1, 1))), "affine"),
    Bad("sform-two-axes-alike", lambda: rows([[1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]), "affine"),
    Bad("sform-far-below", lambda: patched(srow_z=(0, 0, 1, -2e5), qform_code=0), "affine"),
    Bad("qoffset-far-away", lambda: patched(qoffset=(0, 1e7, 0), sform_code=0), "affine"),
    Bad("qoffset-nan", lambda: patched(qoffset=(0, 0, np.nan), sform_code=0), "affine"),
    Bad("pixdim-huge", lambda: patched(pixdim=(1, 1, 1e9, 1, 0, 0, 0, 0), sform_code=0), "affine"),
    Bad("quaternion-inf", lambda: patched(quatern=(0, np.inf, 0), sform_code=0), "affine"),
    Bad("qform-turned-from-sform", lambda: patched(quatern=(0.5, 0.5, 0.5)), "qform-sform"),
    # the voxels
    Bad("nan", lambda: with_value(np.nan), "nonfinite"),
    Bad("inf", lambda: with_value(-np.inf), "nonfinite"),
    Bad("too-big-for-float32", lambda: with_value(1e300, "float64"), "nonfinite"),
    Bad("nan-gz", lambda: gzip.compress(with_value(np.nan)), "nonfinite", GZ),
    Bad("all-zero", lambda: nifti(np.zeros(SHAPE, "int16")), "constant"),
    Bad("all-equal", lambda: nifti(np.full(SHAPE, -3.5, "float32")), "constant"),
    Bad("nan-everywhere", lambda: nifti(np.full(SHAPE, np.nan, "float32")), "nonfinite"),
    Bad("minus-inf-double", lambda: with_value(-np.inf, "float64"), "nonfinite"),
    Bad("scaled-to-one-value", lambda: patched(scl_slope=1e-38, scl_inter=7.0), "constant"),
    Bad("all-zero-gz", lambda: gzip.compress(nifti(np.zeros(SHAPE, "float64"))), "constant", GZ),
    # label maps
    labels("labels-inf", lambda: with_value(np.inf), "nonfinite"),
    labels("labels-1000", lambda: with_value(1000.0), "labels-range"),
    labels("labels-int8-negative", lambda: with_value(-128, "int8"), "labels-range"),
    labels("labels-uint64", lambda: with_value(2**63, "uint64"), "labels-range"),
    labels("labels-double-fraction", lambda: with_value(3.25, "float64"), "labels-not-integer"),
    labels("labels-probabilities", lambda: nifti(voxels("float32") / 100), "labels-not-integer"),
    labels(
        "labels-shifted-by-a-third", lambda: patched(scl_slope=1.0, scl_inter=1 / 3), "labels-not-integer"
    ),
    labels("labels-shifted-below-0", lambda: patched(scl_slope=1.0, scl_inter=-5.0), "labels-range"),
    labels("labels-rgb", lambda: patched(datatype=128, bitpix=24), "dtype"),
    labels("labels-sheared", lambda: rows(shear), "affine"),
    labels("labels-metres", lambda: patched(xyzt_units=1), "units"),
    labels("labels-bomb", lambda: bomb(2**23), "oversized"),
    labels("labels-damaged", lambda: zeroed(gzip.compress(nifti(noise())), 200, 40), "damaged"),
    labels("labels-empty-file", lambda: b"", "empty"),
    labels("labels-halves", lambda: with_value(0.5), "labels-not-integer"),
    labels("labels-an-image", lambda: nifti(voxels("float32") * 1.37), "labels-not-integer"),
    labels("labels-almost", lambda: with_value(2.002), "labels-not-integer"),
    labels("labels-nan", lambda: with_value(np.nan), "nonfinite"),
    labels("labels-negative", lambda: with_value(-1, "int16"), "labels-range"),
    labels("labels-negative-float", lambda: with_value(-1.0), "labels-range"),
    labels("labels-256", lambda: with_value(256, "int16"), "labels-range"),
    labels("labels-int64", lambda: with_value(2**62, "int64"), "labels-range"),
    labels("labels-rescaled", lambda: patched(scl_slope=0.0157, scl_inter=0.0), "labels-not-integer"),
    labels("labels-4d", lambda: four_d(3), "not-3d"),
    labels("labels-cut", lambda: nifti()[:-1], "truncated"),
    labels("labels-dicom", dicom, "dicom"),
]


refusal = partial(refused.refusal, InputError)


@pytest.mark.parametrize("bad", FILES, ids=lambda bad: bad.id)
def test_bad_file(bad: Bad, tmp_path: Path, figures: Figures) -> None:
    path = tmp_path / bad.name
    path.write_bytes(bad.content())
    with figures.trial(PROPERTY, goal=GOAL):
        error = refusal(tmp_path, lambda: bad.read(path), bad.code, bad.name)
        assert error.path == path


def test_the_message_shows_the_constant_value(tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_bytes(nifti(np.full(SHAPE, -3.5, "float32")))
    with pytest.raises(InputError, match=r"value -3\.5\."):
        read_volume(tmp_path / "a.nii")


def test_the_message_counts_and_places_what_is_wrong(tmp_path: Path) -> None:
    data = voxels("float32")
    data[1, 2, 3], data[4, 0, 0] = np.nan, np.inf
    (tmp_path / "a.nii").write_bytes(nifti(data))
    for read in (read_volume, read_labels):
        with pytest.raises(InputError, match=r"2 voxels .* first at index \(1, 2, 3\)"):
            read(tmp_path / "a.nii")
    (tmp_path / "a.nii").write_bytes(with_value(0.5))
    with pytest.raises(InputError, match=r"1 label .* 0\.5 at index \(1, 2, 3\)"):
        read_labels(tmp_path / "a.nii")


def test_the_message_shows_the_dimensions(tmp_path: Path) -> None:
    for dims, shown in (((2, 30, 7), "2 dimensions (30×7)"), ((0, 5, 6), "0 dimensions (none)")):
        (tmp_path / "a.nii").write_bytes(patched(dim=(*dims, 1, 1, 1, 1, 1)))
        assert shown in str(refusal(tmp_path, lambda: read_volume(tmp_path / "a.nii"), "not-3d", "a.nii"))


def test_the_good_file_is_good(tmp_path: Path) -> None:
    """The table proves nothing if the file that it mutates is refused anyway."""
    for name, content in (("good.nii", nifti()), ("good.nii.gz", gzip.compress(nifti()))):
        (tmp_path / name).write_bytes(content)
        np.testing.assert_array_equal(read_volume(tmp_path / name).data, voxels())
        np.testing.assert_array_equal(read_labels(tmp_path / name).data, voxels())


# --- not a file at all


def place_missing(path: Path) -> None:
    pass


def place_folder(path: Path) -> None:
    path.mkdir()


def place_pipe(path: Path) -> None:
    os.mkfifo(path)


def place_dangling_link(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere.nii"))


def place_looping_link(path: Path) -> None:
    path.symlink_to(path)


def place_device_link(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.skipif(os.name != "posix", reason="POSIX files")
@pytest.mark.parametrize(
    ("place", "code"),
    [
        (place_missing, "missing"),
        (place_folder, "not-a-file"),
        (place_pipe, "not-a-file"),
        (place_dangling_link, "missing"),
        (place_looping_link, "unreadable"),
        (place_device_link, "not-a-file"),
    ],
)
@pytest.mark.parametrize("read", [read_volume, read_labels])
def test_not_a_regular_file(
    place: Callable[[Path], None], code: str, read: Any, tmp_path: Path, figures: Figures
) -> None:
    path = tmp_path / "odd.nii.gz"
    place(path)
    with figures.trial(PROPERTY, goal=GOAL):
        refusal(tmp_path, lambda: read(path), code, "odd.nii.gz")


@pytest.mark.parametrize(
    ("name", "code"),
    [("a\0b.nii", "missing"), ("x" * 5000 + ".nii", "unreadable"), ("f.nii/t1.nii", "unreadable")],
)
def test_impossible_names(name: str, code: str, tmp_path: Path, figures: Figures) -> None:
    (tmp_path / "f.nii").write_bytes(nifti())
    with figures.trial(PROPERTY, goal=GOAL):
        refusal(tmp_path, lambda: read_volume(tmp_path / name), code, name)


def test_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secret.nii"
    path.write_bytes(nifti())

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputError, match=r"secret\.nii.*Permission denied") as caught:
        read_volume(path)
    assert caught.value.code == "unreadable"


@pytest.mark.parametrize("error", [MemoryError(), ValueError("x"), KeyError(5), OverflowError("y")])
def test_anything_unforeseen_becomes_an_input_error(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "odd.nii"
    path.write_bytes(nifti())

    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr("m3ae_core.io.volume.apply_read_scaling", fail)
    refused = refusal(
        tmp_path,
        lambda: read_volume(path),
        "memory" if isinstance(error, MemoryError) else "damaged",
        "odd.nii",
    )
    assert refused.__cause__ is error


# --- what is promised


@pytest.mark.parametrize("name", ["huge", "huge-gz", "large-but-absent", "bomb", "7d-huge"])
def test_refusing_takes_little_memory(name: str, tmp_path: Path) -> None:
    bad = next(bad for bad in FILES if bad.id == name)
    path = tmp_path / bad.name
    path.write_bytes(bad.content())
    tracemalloc.start()
    try:
        with pytest.raises(InputError):
            read_volume(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16 * 2**20


def test_every_flipped_byte_of_a_compressed_file_is_noticed(tmp_path: Path) -> None:
    """nibabel reads three out of four of these without a word, with wrong voxels.

    A few flips do no harm: gzip's time stamp, or another way to code the same bytes.
    """
    content = gzip.compress(nifti(), mtime=0)
    path = tmp_path / "flipped.nii.gz"
    refused = 0
    for position in range(len(content)):
        path.write_bytes(flipped(content, position))
        try:
            volume = read_volume(path)
        except InputError:
            refused += 1
        else:
            np.testing.assert_array_equal(volume.data, voxels())
            np.testing.assert_array_equal(volume.affine, AFFINE)
    assert refused > 0.95 * len(content)


@pytest.mark.parametrize("compress", [gzip.compress, bytes], ids=["gz", "plain"])
def test_every_truncation_is_noticed(compress: Callable[[bytes], bytes], tmp_path: Path) -> None:
    content = compress(nifti())
    path = tmp_path / "cut"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(InputError):
            read_volume(path)


def test_no_text_of_the_file_reaches_the_message(tmp_path: Path) -> None:
    for content in (b"JOHN DOE born 1950", dicom() + b"JOHN DOE", patched(magic=b"JOHN")):
        path = tmp_path / "named.nii"
        path.write_bytes(content)
        with pytest.raises(InputError) as caught:
            read_volume(path)
        assert "JOHN" not in str(caught.value)


SPECIAL = [0, 1, -1, 2, 5, 255, 256, 32767, -32768, 348, 352]
FLOATS = st.one_of(st.sampled_from([0.0, 1.0, -1.0, 1e30, 1e-30, np.nan, np.inf, 352.0]), st.floats(width=32))


def field_values(name: str) -> st.SearchStrategy[Any]:
    form = FIELDS[name][1]
    count, kind = int(form[:-1] or 1), form[-1]
    if kind == "s":
        return st.binary(min_size=count, max_size=count)
    limits = {"h": (-(2**15), 2**15 - 1), "i": (-(2**31), 2**31 - 1), "B": (0, 255)}
    if kind == "f":
        one: st.SearchStrategy[Any] = FLOATS
    else:
        low, high = limits[kind]
        one = st.one_of(st.sampled_from([v for v in SPECIAL if low <= v <= high]), st.integers(low, high))
    return st.lists(one, min_size=count, max_size=count)


MUTATIONS = st.sets(st.sampled_from(sorted(FIELDS)), min_size=1, max_size=4).flatmap(
    lambda names: st.fixed_dictionaries({name: field_values(name) for name in sorted(names)})
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fields=MUTATIONS, compress=st.booleans(), read=st.sampled_from([read_volume, read_labels]))
@example(fields={"xyzt_units": [5]}, compress=False, read=read_volume)
@example(fields={"extension": [1, 255, 255, 255]}, compress=False, read=read_volume)
def test_mutated_headers_never_escape(
    fields: dict[str, Any], compress: bool, read: Any, tmp_path: Path
) -> None:
    content = patched(**fields)
    path = tmp_path / "mutated.nii"
    path.write_bytes(gzip.compress(content, 1) if compress else content)
    with suppress(InputError):
        volume = read(path)
        assert np.isfinite(volume.data).all()
        assert np.isfinite(volume.affine).all()
        assert abs(np.linalg.det(volume.affine)) > 0


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.one_of(st.binary(max_size=600), st.binary(max_size=300).map(gzip.compress)))
def test_arbitrary_bytes_never_escape(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bytes.nii"
    path.write_bytes(data)
    with pytest.raises(InputError):
        read_volume(path)


# --- sets of files


def good(folder: Path) -> Path:
    (folder / "good.nii").write_bytes(nifti())
    return folder / "good.nii"


def touched(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def linked(folder: Path) -> CaseFiles:
    """A data set whose content was never fetched."""
    (folder / "t1c.nii.gz").symlink_to(folder / "annex" / "gone")
    return find_case(folder)


def half_bad(folder: Path) -> CaseFiles:
    (folder / "x_t1.nii").write_bytes(nifti())
    (folder / "x_t2.nii").write_bytes(nifti()[:-1])
    return find_case(folder)


def moved(delta: float) -> np.ndarray:
    affine = AFFINE.copy()
    affine[0, 3] += delta
    return affine


def pair(folder: Path, affine: np.ndarray = AFFINE, data: np.ndarray | None = None) -> CaseFiles:
    """Two sequences, of which the second differs as told."""
    write_image(folder / "t1.nii", voxels(), AFFINE)
    write_image(folder / "t2.nii", noise() if data is None else data, affine)
    return find_case(folder)


def linked_pair(folder: Path) -> CaseFiles:
    write_image(folder / "t1.nii", voxels(), AFFINE)
    (folder / "t2.nii").symlink_to(folder / "t1.nii")
    return find_case(folder)


def with_labels_elsewhere(folder: Path) -> CaseFiles:
    files = write_phantom(folder, "p", shape=(16, 16, 16), present=("T1",))
    other = write_phantom(folder, "q", shape=(16, 16, 17), present=("T1",))
    return CaseFiles("p", files.images, other.labels)


def case_and_labels(files: CaseFiles) -> Any:
    return read_case_labels(files, read_case(files))


SETS: list[tuple[str, Callable[[Path], Any], Callable[[Any], Any], str, str]] = [
    # id, what is there, what is done with it, code, what the message must name
    ("no-folder", lambda f: f / "gone", find_case, "missing", "gone"),
    ("no-folder-of-cases", lambda f: f / "gone", find_cases, "missing", "gone"),
    ("file-for-a-folder", lambda f: touched(f, "t1.nii") / "t1.nii", find_case, "not-a-folder", "t1.nii"),
    ("nul-in-folder", lambda f: f / "a\0b", find_cases, "unreadable", "a\0b"),
    ("empty-folder", touched, find_case, "no-sequence", "flair"),
    ("empty-folder-of-cases", touched, find_cases, "no-case", "flair"),
    ("labels-only", lambda f: touched(f, "x_seg.nii.gz"), find_case, "no-sequence", "t1ce"),
    ("labels-only-among-cases", lambda f: touched(f, "a/x_seg.nii"), find_cases, "no-case", "t1ce"),
    (
        "other-formats",
        lambda f: touched(f, "t1.mha", "t2.dcm", "t1.nii.txt"),
        find_case,
        "not-nifti",
        "t1.mha",
    ),
    ("too-deep", lambda f: touched(f, "a/b/c/d/e/f/x_t1.nii"), find_cases, "no-case", "t1n"),
    (
        "two-t1",
        lambda f: touched(f, "a_t1.nii", "b_t1n.nii"),
        find_case,
        "ambiguous",
        "a_t1.nii and b_t1n.nii",
    ),
    ("t1c-twice", lambda f: touched(f, "a_t1ce.nii", "a_t1gd.nii"), find_case, "ambiguous", "a_t1gd.nii"),
    ("plain-and-gz", lambda f: touched(f, "t2.nii", "t2.nii.gz"), find_case, "ambiguous", "t2.nii.gz"),
    (
        "two-label-maps",
        lambda f: touched(f, "t1.nii", "seg.nii", "mask.nii"),
        find_case,
        "ambiguous",
        "mask.nii",
    ),
    (
        "one-bad-case",
        lambda f: touched(f, "a/t1.nii", "b/t1.nii", "b/t1n.nii"),
        find_cases,
        "ambiguous",
        "t1n",
    ),
    ("no-images", lambda f: CaseFiles("x", {}, None), read_case, "no-sequence", "case x"),
    (
        "missing-image",
        lambda f: CaseFiles("x", {"T1": f / "gone.nii"}, None),
        read_case,
        "missing",
        "gone.nii",
    ),
    ("dangling-link", linked, read_case, "missing", "t1c.nii.gz"),
    ("one-of-two-bad", half_bad, read_case, "truncated", "x_t2.nii"),
    (
        "same-file",
        lambda f: CaseFiles("x", dict.fromkeys(("T1", "T2"), good(f)), None),
        read_case,
        "duplicate",
        "T2",
    ),
    ("same-file-by-link", linked_pair, read_case, "duplicate", "t1.nii and t2.nii"),
    ("same-voxels", lambda f: pair(f, data=voxels()), read_case, "duplicate", "t1.nii and t2.nii"),
    ("elsewhere", lambda f: pair(f, moved(100)), read_case, "no-overlap", "T2"),
    ("mirrored", lambda f: pair(f, AFFINE @ scaled((-1, 1, 1))), read_case, "no-overlap", "T2"),
    ("rescaled-copy", lambda f: pair(f, data=3 * voxels() + 1), read_case, "duplicate", "T1 and T2"),
    ("labels-on-another-grid", with_labels_elsewhere, case_and_labels, "grids-differ", "q-seg.nii.gz"),
    ("no-label-map", pair, case_and_labels, "no-labels", "seg"),
    ("nothing-left", pair, lambda files: read_case(files).without("T1", "T2"), "no-sequence", "without any"),
    ("only-nothing", pair, lambda files: read_case(files).only(), "no-sequence", "without any"),
    (
        "only-what-is-not-there",
        pair,
        lambda files: read_case(files).only("T1", "FLAIR"),
        "no-sequence",
        "FLAIR",
    ),
]


@pytest.mark.parametrize(
    ("build", "act", "code", "names"), [row[1:] for row in SETS], ids=[row[0] for row in SETS]
)
def test_bad_set(
    build: Callable[[Path], Any],
    act: Callable[[Any], Any],
    code: str,
    names: str,
    tmp_path: Path,
    figures: Figures,
) -> None:
    subject = build(tmp_path)
    with figures.trial(PROPERTY, goal=GOAL):
        refusal(tmp_path, lambda: act(subject), code, names)


def test_the_tables_have_no_rows_twice() -> None:
    ids = [bad.id for bad in FILES] + [row[0] for row in SETS]
    assert len(ids) == len(set(ids)) >= 200
