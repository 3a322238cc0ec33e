"""Random files for the reader, and what must hold of the answer. Execution `index` of a seed is always the same."""

from __future__ import annotations

import gzip
import io
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from damage import Rng, damaged
from nibabel.nifti1 import Nifti1Extension
from nibabel.nifti1 import header_dtype as nifti1_fields
from nibabel.nifti2 import header_dtype as nifti2_fields

from m3ae_core.errors import InputError
from m3ae_core.io.nifti import read_stream
from m3ae_core.io.volume import Volume, read_labels, read_volume

SEED = 20_230_208
#: Longest time for one execution, in seconds.
LIMIT = 2.0
SHAPE = (4, 3, 5)
AFFINE = np.array([[-1.0, 0, 0, 3], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1]])

#: The fields that decide how bytes become voxels; the others are mutated too, but less often.
DECISIVE = (
    "sizeof_hdr", "dim", "datatype", "bitpix", "pixdim", "vox_offset", "scl_slope", "scl_inter", "xyzt_units",
    "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "srow_x", "srow_y", "srow_z",
    "magic",
)  # fmt: skip
INTEGERS = (0, 1, -1, 2, 3, 4, 5, 7, 8, 16, 64, 127, 128, 255, 256, 348, 352, 512, 540, 544, 768, 1280, 1792)
LARGE = (32767, -32768, 65536, 2**31 - 1, -(2**31), 2**62, 2**63 - 1, -(2**63))
FLOATS = (
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    2.0,
    352.0,
    544.0,
    348.5,
    1e-30,
    1e-38,
    1e30,
    3e38,
    np.nan,
    np.inf,
    -np.inf,
)

Read = Callable[[Path], Volume]


@dataclass
class Summary:
    """What came of a number of executions."""

    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    slowest: float = 0.0

    def add(self, other: Summary) -> None:
        self.outcomes += other.outcomes
        self.wrong += other.wrong
        self.slowest = max(self.slowest, other.slowest)


@cache
def seeds() -> tuple[bytes, ...]:
    """Small valid files: both versions, both byte orders, several types, with and without extensions."""
    found = []
    kinds = ((nib.Nifti1Image, nib.Nifti1Header), (nib.Nifti2Image, nib.Nifti2Header))
    for (image_kind, header_kind), order, dtype in product(kinds, "<>", ("u1", "i2", "f4", "f8")):
        voxels = (np.arange(np.prod(SHAPE)) % 5).reshape(SHAPE).astype(dtype)
        image = image_kind(voxels, AFFINE, header_kind(endianness=order), dtype=dtype)
        image.set_sform(AFFINE, 1)
        image.set_qform(AFFINE, 1)
        found.append(bytes(image.to_bytes()))
        image.header.extensions.append(Nifti1Extension("comment", b"seen on a Monday"))
        found.append(bytes(image.to_bytes()))
    return tuple(found)


def mutant(rng: Rng) -> bytes:
    """A file that may or may not be readable."""
    seed = seeds()[rng.integers(len(seeds()))]
    way = rng.integers(10)
    if way == 0:
        return rng.bytes(int(rng.integers(700)))
    content = seed if way < 4 else with_mutated_header(seed, rng)
    if rng.integers(4) == 0:
        content = gzip.compress(content, 1, mtime=0)
    return damaged(content, rng)[1] if way < 5 else content


def with_mutated_header(content: bytes, rng: Rng) -> bytes:
    """One to four header fields (or one place in the extensions) replaced by odd values."""
    result = bytearray(content)
    order = "<" if content[1] else ">"
    layout = (nifti2_fields if b"n+2" in content[4:8] else nifti1_fields).newbyteorder(order)
    for _ in range(rng.integers(1, 5)):
        name = DECISIVE[rng.integers(len(DECISIVE))] if rng.integers(5) else _any_name(layout, rng)
        kind, position = layout.fields[name][:2]
        one = kind.base
        position += one.itemsize * int(rng.integers(max(1, kind.itemsize // one.itemsize)))
        result[position : position + one.itemsize] = _odd(one, rng)
    if rng.integers(8) == 0:
        start = layout.itemsize
        position = start + int(rng.integers(min(40, len(content) - start)))
        result[position] = int(rng.integers(256))
    return bytes(result)


def execute(content: bytes, read: Read, path: Path) -> str:
    """Hand `content` to a reader; return ``read`` or the code of the refusal.

    Raises
    ------
    AssertionError
        If something else than an InputError came out, or a volume that must not be.
    """
    path.write_bytes(content)
    try:
        volume = read(path)
    except InputError as refused:
        if refused.path != path or not refused.fix:
            raise AssertionError(f"the file or the remedy is not named: {refused}") from refused
        return refused.code
    except Exception as error:
        raise AssertionError(f"{type(error).__name__} escaped: {error}") from error
    assert volume.data.ndim == 3, "not three axes"
    assert np.isfinite(volume.data).all(), "voxels that are not finite"
    assert np.isfinite(volume.affine).all(), "an affine that is not finite"
    assert abs(np.linalg.det(volume.affine)) > 0, "an affine without an inverse"
    return "read"


def execute_stream(content: bytes) -> str:
    """Hand `content` to the stream reader alone, which is where bytes are first believed."""
    try:
        declared, whole = read_stream(io.BytesIO(content))
    except InputError as error:
        return error.code
    except Exception as error:
        raise AssertionError(f"{type(error).__name__} escaped: {error}") from error
    assert len(whole) >= declared.end, "fewer bytes than declared"
    return "read"


def fuzz(start: int, count: int, folder: Path, read: Read | None = None) -> Summary:
    """Run the executions `start` to `start + count`: half on the stream reader, a quarter each on the two readers.

    With `read`, all of them on that reader.
    """
    found, path = Summary(), folder / f"fuzz-{start}.nii"
    for index in range(start, start + count):
        content = mutant(np.random.default_rng([SEED, index]))
        reader = read or (None, read_volume, None, read_labels)[index % 4]
        before = time.process_time()
        try:
            outcome = execute_stream(content) if reader is None else execute(content, reader, path)
        except AssertionError as error:
            outcome = "wrong"
            found.wrong.append(f"execution {index}: {error}")
        spent = time.process_time() - before
        if spent > LIMIT:
            found.wrong.append(f"execution {index}: took {spent:.1f} s")
        found.outcomes[outcome] += 1
        found.slowest = max(found.slowest, spent)
    path.unlink(missing_ok=True)
    return found


def _any_name(layout: np.dtype[Any], rng: Rng) -> str:
    return layout.names[rng.integers(len(layout.names))]


def _odd(kind: np.dtype[Any], rng: Rng) -> bytes:
    """A value of one element of a header field, as bytes: a notable one, or any."""
    if kind.kind == "S" or rng.integers(3) == 0:
        return rng.bytes(kind.itemsize)
    if kind.kind == "f":
        return np.array(FLOATS[rng.integers(len(FLOATS))]).astype(kind).tobytes()
    value = (*INTEGERS, *LARGE)[rng.integers(len(INTEGERS) + len(LARGE))]
    order = "little" if kind.byteorder in "<|=" else "big"
    return (value % 2 ** (8 * kind.itemsize)).to_bytes(kind.itemsize, order)
