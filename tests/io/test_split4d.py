"""4-D files, split by an order that is stated."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from m3ae_core.cli import main
from m3ae_core.errors import ConfigError, InputError, M3AEError, OutputError
from m3ae_core.io.case import find_case, read_case
from m3ae_core.io.split4d import split_4d

AFFINE = np.array([[-1.0, 0, 0, 5], [0, -1, 0, 6], [0, 0, 2, 7], [0, 0, 0, 1]])
ORDER = ("FLAIR", "T1", "T1c", "T2")


def write(path: Path, volumes: int = 4, slope: float = 1) -> np.ndarray:
    stored = np.random.default_rng(0).integers(1, 999, (8, 9, 10, volumes)).astype(np.int16)
    image = nib.Nifti1Image(stored, AFFINE)
    image.header.set_slope_inter(slope, 0)
    nib.save(image, path)
    return stored * slope


def test_each_volume_becomes_its_sequence(tmp_path: Path) -> None:
    voxels = write(tmp_path / "BRATS_001.nii.gz", slope=0.5)
    order = ("T2", "FLAIR", "T1c", "T1")
    assert main(
        ["split-4d", str(tmp_path / "BRATS_001.nii.gz"), "--order", ",".join(order), "--output", str(tmp_path / "c")]
    ) == 0  # fmt: skip
    case = read_case(find_case(tmp_path / "c"))
    for channel, name in enumerate(order):
        np.testing.assert_array_equal(case.volumes[name].data, voxels[..., channel])
    np.testing.assert_array_equal(case.affine, AFFINE)
    assert nib.load(tmp_path / "c/BRATS_001_T2.nii.gz").get_data_dtype() == np.int16


@pytest.mark.parametrize(
    ("volumes", "order", "kind", "code"),
    [
        (3, ORDER, InputError, "not-4d"),
        (1, ("T1",), InputError, "not-4d"),
        (4, ("T1", "T1", "T2", "FLAIR"), ConfigError, "modalities"),
        (4, ("T1", "PD", "T2", "FLAIR"), ConfigError, "modalities"),
        (0, ORDER, InputError, "missing"),
        (-1, ORDER, InputError, "damaged"),
    ],
)
def test_what_cannot_be_split(
    tmp_path: Path, volumes: int, order: tuple[str, ...], kind: type[M3AEError], code: str
) -> None:
    path = tmp_path / "x.nii"
    if volumes > 0:
        write(path, volumes)
        if volumes == 1:
            nib.save(nib.Nifti1Image(np.ones((4, 4, 4), np.int16), AFFINE), path)
    elif volumes < 0:
        write(path)
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(kind) as caught:
        split_4d(path, order, tmp_path / "out")
    assert caught.value.code == code
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    write(tmp_path / "x.nii")
    split_4d(tmp_path / "x.nii", ORDER, tmp_path)
    with pytest.raises(OutputError) as caught:
        split_4d(tmp_path / "x.nii", ORDER, tmp_path)
    assert caught.value.code == "exists"


def test_free_text_of_the_header_stays_behind(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.ones((8, 9, 10, 1), np.int16), AFFINE)
    for field in ("descrip", "aux_file", "intent_name", "db_name"):
        image.header[field] = b"Doe^Jane"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"Doe^Jane"))
    nib.save(nib.Nifti1Image(np.ones((8, 9, 10, 2), np.int16), AFFINE, image.header), tmp_path / "x.nii")
    assert b"Doe" in (tmp_path / "x.nii").read_bytes()
    for path in split_4d(tmp_path / "x.nii", ("T1", "T2"), tmp_path / "c"):
        assert b"Doe" not in gzip.decompress(path.read_bytes())
