"""What a file claims to hold, checked before a single voxel is allocated.

The readers in common use accept damaged `.nii.gz` files silently: they stop before the checksum at the end of
the gzip stream. Here the stream is always read to its end, though never far past the size that the header
declares, and a header is accepted only if every field that decides how the bytes are read is valid.

Errors raised here do not know the file's name; :mod:`m3ae_core.io.volume` adds it.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import BinaryIO, Literal

import numpy as np
from nibabel.nifti1 import header_dtype as nifti1_fields
from nibabel.nifti2 import header_dtype as nifti2_fields

from m3ae_core.errors import InputError

#: Largest number of voxels accepted in one volume.
MAX_VOXELS = 512**3
#: Largest header with its extensions, in bytes.
MAX_OFFSET = 2**24
#: Bytes tolerated after the last voxel (some writers pad their files).
PADDING = 2**20

_CHUNK = 2**20
_GZIP = b"\x1f\x8b"
_REAL_TYPES = {
    2: "u1",
    4: "i2",
    8: "i4",
    16: "f4",
    64: "f8",
    256: "i1",
    512: "u2",
    768: "u4",
    1024: "i8",
    1280: "u8",
}
_OTHER_TYPES = {32: "complex numbers", 1792: "complex numbers", 128: "RGB colours", 2304: "RGBA colours"}
_NO_BITS = "The header's bits per voxel (bitpix) are 0; those of its data type were taken."
_NO_OFFSET = "The header's position of the first voxel (vox_offset) is 0; just after the header was taken."
_CONVERT = "Convert it to a NIfTI file (.nii or .nii.gz)."
_SLICER = "Convert it to a NIfTI file with 3D Slicer or SimpleITK."
_FETCH = "Download the file itself; this is only a pointer to it."
_WEB = "Download the file again; the server sent a page instead of the image."
_FOREIGN = (
    (_GZIP, "a file that was compressed twice", "Decompress it once (gunzip)."),
    (b"pk\x03\x04", "a zip archive", "Unpack it and choose the .nii or .nii.gz file inside."),
    (b"version https://git-lfs", "a Git LFS pointer", _FETCH),
    (b"/annex/objects/", "a git-annex pointer", _FETCH),
    (b"<!doctype html", "a web page", _WEB),
    (b"<html", "a web page", _WEB),
    (b"nrrd000", "an NRRD image", _SLICER),
    (b"objecttype", "a MetaImage file", _SLICER),
    (b"\0\0\0\x01\0\0", "a FreeSurfer image", "Convert it to a NIfTI file with FreeSurfer's mri_convert."),
    (b"\x89hdf", "an HDF5 or MINC file", _CONVERT),
    (b"\x89png", "a PNG picture", _CONVERT),
    (b"\xff\xd8\xff", "a JPEG picture", _CONVERT),
)


@dataclass(frozen=True)
class Declared:
    """What a NIfTI header declares.

    Attributes
    ----------
    version
        1 or 2.
    order
        Byte order, ``"<"`` or ``">"``.
    block
        The header's own bytes (348 or 540), without extensions.
    shape
        Voxels along the file's three axes (X, Y, Z).
    dtype
        Type of the stored voxels, byte order included.
    offset
        Position of the first voxel in the file, in bytes.
    notes
        A sentence for each field that said nothing and was filled in.
    """

    version: int
    order: Literal["<", ">"]
    block: bytes
    shape: tuple[int, int, int]
    dtype: np.dtype[np.generic]
    offset: int
    notes: tuple[str, ...] = ()

    @property
    def end(self) -> int:
        """Position just after the last voxel, in bytes."""
        return self.offset + prod(self.shape) * self.dtype.itemsize


def read_stream(stream: BinaryIO) -> tuple[Declared, bytearray]:
    """Read a plain or gzip-compressed NIfTI file to its end.

    Returns the parsed header and the decompressed bytes of the whole file.

    Raises
    ------
    InputError
        If this is not a single-file NIfTI (``not-nifti``, ``dicom``), its header is unusable (see
        :func:`parse_header`), bytes are missing (``truncated``), the checksum is wrong (``damaged``) or far
        more arrives than was declared (``oversized``).
    """
    chunks = _chunks(stream)
    content = bytearray()
    while len(content) < nifti2_fields.itemsize and (chunk := next(chunks, b"")):
        content += chunk
    declared = parse_header(bytes(content[: nifti2_fields.itemsize]))
    for chunk in chunks:
        content += chunk
        if len(content) > declared.end + PADDING:
            raise InputError(
                f"The file goes on after the {declared.end} bytes that its header declares.",
                "It is damaged or not what it claims to be; obtain it again.",
                code="oversized",
            )
    if len(content) < declared.end:
        raise _truncated(f"the header declares {declared.end} bytes and only {len(content)} are there")
    return declared, content


def parse_header(head: bytes) -> Declared:
    """Parse the first bytes of a (decompressed) file strictly.

    Raises
    ------
    InputError
        ``not-nifti``, ``dicom``, ``truncated``, ``not-3d``, ``too-large``, ``dtype``, ``offset``, ``units``.
    """
    version, order = _recognise(head)
    layout = (nifti1_fields if version == 1 else nifti2_fields).newbyteorder(order)
    if len(head) < layout.itemsize:
        raise _truncated("it ends within the header")
    fields = np.frombuffer(head, layout, count=1)[0]
    _check_units(int(fields["xyzt_units"]))
    bits, offset = int(fields["bitpix"]), float(fields["vox_offset"])
    return Declared(
        version=version,
        order=order,
        block=head[: layout.itemsize],
        shape=_shape([int(size) for size in fields["dim"]]),
        dtype=_dtype(int(fields["datatype"]), bits).newbyteorder(order),
        offset=_offset(offset, minimum=layout.itemsize + 4),
        notes=(*[_NO_BITS] * (bits == 0), *[_NO_OFFSET] * (offset == 0)),
    )


def _chunks(stream: BinaryIO) -> Iterator[bytes]:
    """Yield the decompressed bytes of a plain or gzip file, a bounded piece at a time."""
    start = stream.read(_CHUNK)
    if start.startswith(_GZIP):
        yield from _inflated(stream, start)
        return
    while start:
        yield start
        start = stream.read(_CHUNK)


def _inflated(stream: BinaryIO, compressed: bytes) -> Iterator[bytes]:
    """Yield the content of all gzip members; zlib verifies the checksum and length that end each of them."""
    inflater = zlib.decompressobj(wbits=31)
    while True:
        try:
            piece = inflater.decompress(compressed, _CHUNK)
        except zlib.error as error:
            raise InputError(
                "The compressed data are damaged (checksum or coding error).",
                "Obtain the file again; its voxels cannot be trusted.",
                code="damaged",
            ) from error
        if piece:
            yield piece
        if inflater.eof:
            compressed = (inflater.unused_data + stream.read(_CHUNK)).lstrip(b"\0")
            if not compressed.startswith(_GZIP):
                return
            inflater = zlib.decompressobj(wbits=31)
            continue
        compressed = inflater.unconsumed_tail or stream.read(_CHUNK)
        if not compressed and not piece:
            raise _truncated("the compressed stream breaks off")


def _recognise(head: bytes) -> tuple[int, Literal["<", ">"]]:
    """Return NIfTI version and byte order, or say what the file is instead."""
    order: Literal["<", ">"] = "<" if head[1:2] != b"\0" else ">"  # 348 and 540 both need their second byte
    size = int.from_bytes(head[:4], "little" if order == "<" else "big")
    version = {348: 1, 540: 2}.get(size)
    if version is None:
        raise _foreign(head)
    magic = head[344:348] if version == 1 else head[4:8]
    if len(magic) < 4:
        raise _truncated("it ends within the header")
    if magic == f"n+{version}\0".encode():
        return version, order
    if magic == f"ni{version}\0".encode():
        raise InputError(
            "This is the header of a two-file image (.hdr with .img).", _CONVERT, code="not-nifti"
        )
    if head[128:132] == b"DICM":
        raise _foreign(head)
    raise InputError(
        "The NIfTI signature is missing; this may be an Analyze image, which does not tell left from right.",
        _CONVERT,
        code="not-nifti",
    )


def _foreign(head: bytes) -> InputError:
    """Say what a file that is not NIfTI looks like."""
    if head[128:132] == b"DICM":
        return InputError("This is a DICOM file.", "Convert the series with dcm2niix first.", code="dicom")
    start = head.lstrip().lower()
    for prefix, kind, fix in _FOREIGN:
        if start.startswith(prefix):
            return InputError(f"This is {kind}, not a NIfTI image.", fix, code="not-nifti")
    return InputError("This is not a NIfTI image.", "Choose a .nii or .nii.gz file.", code="not-nifti")


def _shape(dim: list[int]) -> tuple[int, int, int]:
    """Return the three sides from the header's `dim` field; trailing axes of length 1 are dropped."""
    count = dim[0]
    if not 3 <= count <= 7 or min(dim[1 : 1 + count]) < 1 or min(dim[1:4]) < 2:
        shown = "×".join(map(str, dim[1 : 1 + max(0, min(count, 7))]))
        raise InputError(
            f"The header declares {count} dimensions ({shown or 'none'}).",
            "Choose a 3-D image with at least 2 voxels along each axis.",
            code="not-3d",
        )
    if (volumes := prod(dim[4 : 1 + count])) > 1:
        raise InputError(
            f"The file holds {volumes} volumes (4-D).",
            "Split it into one file per sequence: `m3ae split-4d FILE --order FLAIR,T1,T1c,T2 --output FOLDER` "
            "(that is the order of the Medical Segmentation Decathlon).",
            code="not-3d",
        )
    shape = (dim[1], dim[2], dim[3])
    if prod(shape) > MAX_VOXELS:
        raise InputError(
            f"The header declares {'×'.join(map(str, shape))} voxels, more than {MAX_VOXELS}.",
            "Crop or resample the image, or obtain it again if it should be smaller.",
            code="too-large",
        )
    return shape


def _dtype(datatype: int, bits: int) -> np.dtype[np.generic]:
    """Return the voxel type of a NIfTI `datatype` code; only real numbers are accepted. No bits: those of the type."""
    if datatype not in _REAL_TYPES:
        kind = _OTHER_TYPES.get(datatype, f"values of the unsupported type {datatype}")
        problem, fix = f"The voxels are {kind}, not real numbers.", "Save the image as int16 or float32."
        raise InputError(problem, fix, code="dtype")
    dtype: np.dtype[np.generic] = np.dtype(_REAL_TYPES[datatype])
    if bits not in (0, 8 * dtype.itemsize):
        raise InputError(
            f"The header contradicts itself: {dtype} voxels of {bits} bits.",
            "The file is damaged or badly written; obtain it again or re-save it.",
            code="dtype",
        )
    return dtype


def _offset(value: float, minimum: int) -> int:
    """Return the position of the first voxel in bytes; 0 stands for the first possible one."""
    if value == 0:
        return minimum
    if not (minimum <= value <= MAX_OFFSET and value == int(value)):
        raise InputError(
            f"The header places the first voxel at byte {value:g}; expected {minimum} to {MAX_OFFSET}.",
            "The file is damaged or badly written; obtain it again or re-save it.",
            code="offset",
        )
    return int(value)


def _check_units(code: int) -> None:
    """Refuse sizes in metres or micrometres, which readers interpret differently; unknown units mean mm."""
    unit = {1: "metres", 3: "micrometres"}.get(code & 7)
    if unit:
        raise InputError(
            f"The header gives sizes in {unit}, which programs interpret differently.",
            "Save the image with sizes in millimetres.",
            code="units",
        )


def _truncated(detail: str) -> InputError:
    return InputError(f"The file is incomplete: {detail}.", "Copy or download it again.", code="truncated")
