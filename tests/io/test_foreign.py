"""A folder of images in another format is told what they are and what converts them."""

import gzip
from pathlib import Path

import pytest

from m3ae_core.errors import InputError
from m3ae_core.io.case import find_case, scan_cases
from m3ae_core.io.volume import read_volume

DICOM = bytes(128) + b"DICM" + bytes(500)


def placed(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return folder


@pytest.mark.parametrize("find", [find_case, scan_cases])
@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("IM1.dcm", DICOM, "DICOM dcm2niix"),
        ("IM1", DICOM, "DICOM dcm2niix"),
        ("study/series/IM1", DICOM, "DICOM dcm2niix"),
        ("p1/T1.mha", b"x", "MetaImage Slicer"),
        ("T1.NRRD", b"x", "NRRD Slicer"),
        ("T1.mgz", b"x", "FreeSurfer mri_convert"),
    ],
)
def test_a_folder_of_other_images_names_the_converter(find, name, content, words, tmp_path):
    with pytest.raises(InputError) as caught:
        find(placed(tmp_path, name, content))
    assert caught.value.code == ("dicom" if content == DICOM else "not-nifti")
    assert all(word in str(caught.value) for word in words.split())


def test_a_folder_of_nothing_known_is_told_what_is_looked_for(tmp_path):
    with pytest.raises(InputError, match=r"No sequence was found here\.") as caught:
        find_case(placed(tmp_path, "notes.txt", b"x"))
    assert caught.value.code == "no-sequence"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"ObjectType = Image\nNDims = 3\n", "MetaImage Slicer"),
        (b"NRRD0004\ntype: short\n", "NRRD Slicer"),
        (gzip.compress(b"\0\0\0\x01\0\0\x01\0" + bytes(500)), "FreeSurfer mri_convert"),
    ],
)
def test_a_single_file_names_the_converter(content, words, tmp_path):
    with pytest.raises(InputError) as caught:
        read_volume(placed(tmp_path, "T1", content) / "T1")
    assert all(word in str(caught.value) for word in words.split())
