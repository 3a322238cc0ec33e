"""A damaged file is refused, or its voxels and its place in space are still those of the whole one."""

from __future__ import annotations

import gzip
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from damage import DAMAGES, damaged, flipped, truncated

from m3ae_core.data.builtin import builtin_case
from m3ae_core.errors import InputError
from m3ae_core.io import nifti, volume
from m3ae_core.io.volume import Volume, read_volume
from published import Figures, Trials

SEED = 20_230_207
HEADER = 352
PROPERTY = "randomly corrupted copies of a real volume"
GOAL = "10,000, 0 silently wrong"

Read = Callable[[Path], Volume]


@pytest.fixture(scope="module")
def real() -> nib.Nifti1Image:
    """A part of the built-in case's T1c, as nibabel reads it."""
    image = nib.load(builtin_case().images["T1c"])
    in_memory = nib.Nifti1Image(np.asanyarray(image.dataobj), image.affine, image.header)
    return in_memory.slicer[90:154, 80:144, 50:98]


@pytest.fixture(scope="module")
def plain(real: nib.Nifti1Image) -> bytes:
    return bytes(real.to_bytes())


@pytest.fixture(scope="module")
def packed(plain: bytes) -> bytes:
    return gzip.compress(plain, compresslevel=6, mtime=0)


def is_whole(found: Volume, real: nib.Nifti1Image) -> bool:
    """Whether a volume is, bit by bit, what nibabel reads from the undamaged file."""
    expected = np.asanyarray(real.dataobj).astype(np.float32)
    return (
        found.data.shape == expected.shape
        and found.data.tobytes("F") == expected.tobytes("F")
        and found.affine.tobytes() == real.affine.tobytes()
    )


def outcomes(
    packed: bytes, real: nib.Nifti1Image, read: Read, path: Path, count: int
) -> Iterator[tuple[str, str]]:
    """What was done to each copy, and what came of it: refused, harmless or wrong."""
    for index in range(count):
        kind, content = damaged(packed, np.random.default_rng([SEED, index]))
        path.write_bytes(content)
        try:
            yield kind, "harmless" if is_whole(read(path), real) else "wrong"
        except InputError:
            yield kind, "refused"


def test_no_damaged_copy_is_read_with_other_voxels(
    packed: bytes, real: nib.Nifti1Image, tmp_path: Path, trials: Trials, figures: Figures
) -> None:
    found = Counter(outcomes(packed, real, read_volume, tmp_path / "t1c.nii.gz", trials(ci=200, long=10_000)))
    total = Counter[str]()
    for (_, outcome), count in found.items():
        total[outcome] += count
    harmless = {kind: count for (kind, outcome), count in sorted(found.items()) if outcome == "harmless"}
    figures.add(
        PROPERTY,
        goal=GOAL,
        tried=sum(total.values()),
        failed=total["wrong"],
        note=f".nii.gz: {total['refused']} refused; {total['harmless']} harmless (the same voxels): {harmless}",
    )
    assert {kind for kind, _ in found} == {damage.__name__ for damage in DAMAGES}
    assert not total["wrong"], found
    assert total["refused"] > 0.9 * sum(total.values())


def test_no_cut_uncompressed_copy_is_read(
    plain: bytes, tmp_path: Path, trials: Trials, figures: Figures
) -> None:
    path, count, refused = tmp_path / "t1c.nii", trials(ci=50, long=1_000), 0
    for index in range(count):
        path.write_bytes(truncated(plain, np.random.default_rng([SEED, index])))
        try:
            read_volume(path)
        except InputError:
            refused += 1
    figures.add(PROPERTY, goal=GOAL, tried=count, failed=count - refused, note=".nii cut short: all refused")
    assert refused == count


def test_a_changed_header_is_refused_or_taken_at_its_word(
    plain: bytes, real: nib.Nifti1Image, tmp_path: Path, trials: Trials, figures: Figures
) -> None:
    """An uncompressed file has no checksum, so no reader can notice every change: the limit, measured.

    What is read must then be exactly what the changed header says, as nibabel understands it.
    """
    path, count, found = tmp_path / "t1c.nii", trials(ci=100, long=5_000), Counter[str]()
    for index in range(count):
        path.write_bytes(flipped(plain[:HEADER], np.random.default_rng([SEED, index])) + plain[HEADER:])
        try:
            seen = read_volume(path)
        except InputError:
            found["refused"] += 1
            continue
        told = nib.load(path)
        same_voxels = np.array_equal(seen.data, told.get_fdata(dtype=np.float32).reshape(seen.shape))
        same_place = np.array_equal(seen.affine, told.affine)
        found["unlike its header" if not (same_voxels and same_place) else _kind(seen, real)] += 1
    figures.add(
        "changed header bytes of an uncompressed .nii, which has no checksum",
        goal="0 read otherwise than the header says",
        tried=count,
        failed=found["unlike its header"],
        note=f"{found['refused']} refused, {found['harmless']} harmless, {found['changed']} read as the changed "
        "header says",
    )
    assert not found["unlike its header"]
    assert found["refused"]


def _kind(seen: Volume, real: nib.Nifti1Image) -> str:
    return "harmless" if is_whole(seen, real) else "changed"


# --- these tests can fail --------------------------------------------------------------------------


def wrong(packed: bytes, real: nib.Nifti1Image, read: Read, path: Path) -> int:
    return sum(outcome == "wrong" for _, outcome in outcomes(packed, real, read, path, 100))


def read_by_nibabel(path: Path) -> Volume:
    try:
        image = nib.load(path)
        return Volume(image.get_fdata(dtype=np.float32), image.affine, path)
    except Exception as error:
        raise InputError("Unreadable.", "Choose another.", path=path) from error


def test_plain_nibabel_is_found_out(packed: bytes, real: nib.Nifti1Image, tmp_path: Path) -> None:
    assert wrong(packed, real, read_by_nibabel, tmp_path / "t1c.nii.gz") > 10


def test_a_reader_without_the_checksum_is_found_out(
    packed: bytes, real: nib.Nifti1Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unchecked(stream: object, compressed: bytes) -> Iterator[bytes]:
        inflater = zlib.decompressobj(wbits=-15)
        try:
            yield inflater.decompress(compressed[10:])
        except zlib.error as error:
            raise InputError("Damaged.", "Copy it again.", code="damaged") from error

    monkeypatch.setattr(nifti, "_inflated", unchecked)
    assert wrong(packed, real, read_volume, tmp_path / "t1c.nii.gz") > 10


def test_a_reader_that_makes_up_the_geometry_is_found_out(
    packed: bytes, real: nib.Nifti1Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "whole.nii.gz").write_bytes(packed)
    assert is_whole(read_volume(tmp_path / "whole.nii.gz"), real)
    monkeypatch.setattr(volume, "_affine", lambda header: (np.eye(4), ()))
    assert not is_whole(read_volume(tmp_path / "whole.nii.gz"), real)
