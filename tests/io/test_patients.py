"""Evidence that the images of one case belong to two patients."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from m3ae_core.errors import InputError
from m3ae_core.io.patients import (
    find_names_of_two_patients,
    find_two_patients,
    folders_evidence,
    names_evidence,
    outline_dice,
    outline_evidence,
)
from m3ae_core.io.volume import Volume
from m3ae_core.modalities import BRATS, ModalitySet

SPACING = 4.0
NAMES = ("FLAIR", "T1", "T1c", "T2")


def brain(radii=(60.0, 80.0, 64.0), path=None, fill=0.0) -> Volume:
    """An ellipsoid of these half axes (mm) in the middle of (48, 56, 40) voxels of 4 mm."""
    shape = (48, 56, 40)
    places = np.indices(shape).T * SPACING - np.array(shape) * SPACING / 2
    inside = ((places / radii) ** 2).sum(axis=-1).T < 1
    return Volume(np.where(inside, 100.0, fill).astype(np.float32), np.diag([SPACING] * 3 + [1]), path)


def paths(*names: str) -> dict[str, Path]:
    return {sequence: Path("/data") / name for sequence, name in zip(NAMES, names, strict=False)}


@pytest.mark.parametrize(
    "names",
    [
        ("sub-01_FLAIR.nii.gz", "sub-02_T1w.nii.gz"),
        ("sub-control_FLAIR.nii.gz", "sub-patient_T1w.nii.gz"),
        ("BraTS2021_00001_flair.nii.gz", "BraTS2021_00002_t1.nii.gz"),
        ("BraTS2021_00001.nii.gz", "BraTS2021_00002.nii.gz"),
        ("patient_0000.nii.gz", "patient_0001.nii.gz", "patient_0002.nii.gz"),
        ("BraTS-SSA-00002-000-t2f.nii.gz", "BraTS-SSA-00007-000-t1n.nii.gz"),
        ("BraTS-SSA-00002-000-t2f.nii.gz", "BraTS2021_01476-t1n.nii.gz"),
        ("UPENN-GBM-00055_11_FLAIR.nii.gz", "UPENN-GBM-00086_11_T1.nii.gz"),
        ("Brats18_CBICA_AAB_1_flair.nii.gz", "Brats18_CBICA_AAG_1_t1.nii.gz"),
        ("Brats18_TCIA01_147_1_flair.nii.gz", "Brats18_TCIA02_151_1_t1.nii.gz"),
        ("TCGA-02-0003_flair.nii.gz", "TCGA-02-0006_t1.nii.gz"),
        ("BRATS_001_0000.nii.gz", "BRATS_002_0001.nii.gz"),
        ("p1_flair.nii", "p1_t1.nii", "p2_t1c.nii"),
        ("a_1_flair.nii", "a_2_t1.nii"),
    ],
)
def test_names_of_two_patients(names):
    said = names_evidence(paths(*names), BRATS)
    assert said.startswith("The file names speak of two patients")
    assert names[0] in said
    assert names[-1] in said or names[1] in said


@pytest.mark.parametrize(
    "names",
    [
        ("005_FLAIR.nii.gz", "007_T1_MPRAGE.nii.gz", "1001_T1c.nii.gz"),
        ("20200101_101500_FLAIR.nii.gz", "20200101_102030_T1.nii.gz"),
        ("20200101101500_5_FLAIR.nii.gz", "20200101102030_7_T1.nii.gz"),
        ("t2_tse_tra_p3.nii.gz", "t1_mprage_sag_p2_iso.nii.gz"),
        ("2D_FLAIR.nii.gz", "3D_T1.nii.gz"),
        ("sub-01_ses-1_FLAIR.nii.gz", "sub-01_ses-2_T1w.nii.gz"),
        ("sub-01_run-1_FLAIR.nii.gz", "sub-01_ce-gadolinium_acq-2_T1w.nii.gz"),
        ("sub-1_FLAIR.nii.gz", "sub-1_T1w.nii.gz"),
        ("x_run-1_FLAIR.nii.gz", "x_run-2_T1w.nii.gz"),
        ("BraTS-GLI-00012-000-t2f.nii.gz", "BraTS-GLI-00012-001-t1n.nii.gz"),
        ("UPENN-GBM-00055_11_FLAIR.nii.gz", "UPENN-GBM-00055_21_T1.nii.gz"),
        ("BRATS_001_0000.nii.gz", "BRATS_001_0001.nii.gz"),
        ("vol0000.nii.gz", "vol0001.nii.gz"),
        ("FLAIR.nii.gz", "T1.nii.gz", "t1_mprage_sag_KM.nii.gz", "t2_tse_tra_512.nii.gz"),
        ("unknown.nii.gz", "scan 7.nii"),
        ("t2_tirm_tra_dark-fluid.nii.gz", "x_12_T1.nii.gz"),
    ],
)
def test_names_that_tell_no_two_patients(names):
    assert names_evidence(paths(*names), BRATS) == ""


@pytest.mark.parametrize(
    "names",
    [
        ("p1/flair.nii", "p2/t1.nii"),
        ("mueller/flair.nii", "meier/t1.nii"),
        ("001/flair.nii", "002/t1.nii"),
        ("sub-01/ses-1/anat/flair.nii", "sub-02/ses-1/anat/t1.nii"),
        ("p1/FLAIR/x.nii", "p2/T1/x.nii"),
        ("BraTS-SSA-00002-000/flair.nii", "BraTS-SSA-00007-000/t1.nii"),
    ],
)
def test_folders_of_two_patients(names):
    said = folders_evidence(paths(*names), BRATS)
    assert said.startswith("The folders speak of two patients")
    assert all(str((Path("/data") / name).parent) in said for name in names)


@pytest.mark.parametrize(
    "names",
    [
        ("p1/flair.nii", "p1/t1.nii"),
        ("p1/FLAIR/x.nii", "p1/T1/x.nii"),
        ("p1/005_T2_FLAIR/x.nii", "p1/007_T1_MPRAGE/x.nii"),
        ("p1/ses-1/anat/flair.nii", "p1/ses-2/anat/t1.nii"),
        ("p1/visit 1/flair.nii", "p1/visit 2/t1.nii"),
        ("p1/2020-01-31/flair.nii", "p1/20210205/t1.nii"),
        ("p1/p1_flair.nii/p1_flair.nii", "p1/p1_t1.nii/p1_t1.nii"),
        ("p1/flair.nii", "p1/preprocessed/t1.nii"),
        ("UPENN-GBM-00055_11/flair.nii", "UPENN-GBM-00055_21/t1.nii"),
    ],
)
def test_folders_that_tell_no_two_patients(names):
    assert folders_evidence(paths(*names), BRATS) == ""


def test_outlines_of_two_brains_are_refused():
    volumes = {"T1": brain(), "T2": brain((64.0, 72.0, 60.0))}
    with pytest.raises(InputError, match=r"T1 and T2 have different outlines") as caught:
        find_two_patients(volumes)
    assert caught.value.code == "two-patients"
    assert "--same-patient" in caught.value.fix
    assert find_two_patients(volumes, same_patient=True) == ()


def test_outlines_of_one_brain():
    """A rim of a voxel more, and a field of view that ends within the brain, are no other patient."""
    cut = brain()
    cut.data[:, :, 27:] = 0
    assert outline_evidence({"T1": brain(), "T2": brain((62.0, 82.0, 66.0)), "FLAIR": cut}) == ""


@pytest.mark.parametrize(
    "other",
    [
        brain((64.0, 72.0, 60.0), fill=3.0),
        brain((90.0, 105.0, 78.0)),
        replace(brain(), data=np.zeros((48, 56, 40))),
    ],
    ids=["background", "head", "empty"],
)
def test_what_is_no_stripped_brain_has_no_outline(other):
    assert outline_evidence({"T1": brain(), "T2": other}) == ""


def test_outline_dice():
    first, second = np.zeros((2, 8, 8, 8), bool)
    first[2:6, 2:6, 2:6] = second[2:6, 2:6, 2:6] = True
    assert outline_dice(first, second) == 1
    second[2:4] = False  # a cut end
    assert outline_dice(first, second) == 1
    second[4, 2:4, 2:4] = False  # 32 of 32 against 28
    assert outline_dice(first, second) == pytest.approx(56 / 60)
    second[:], second[0, 0, 0] = False, True
    assert outline_dice(first, second) == 0


def test_one_kind_warns_and_two_refuse():
    names = {"T1": Path("/d/a/p1_t1.nii"), "T2": Path("/d/a/p2_t2.nii")}
    (said,) = find_two_patients({name: brain(path=path) for name, path in names.items()})
    assert "p1_t1.nii (T1) and p2_t2.nii (T2)" in said
    folders = {"T1": Path("/d/p1/t1.nii"), "T2": Path("/d/p2/t2.nii")}
    (said,) = find_two_patients({name: brain(path=path) for name, path in folders.items()})
    assert "/d/p1 (T1) and /d/p2 (T2)" in said
    both = {"T1": Path("/d/p1/p1_t1.nii"), "T2": Path("/d/p2/p2_t2.nii")}
    with pytest.raises(InputError, match=r"file names speak.*folders speak") as caught:
        find_two_patients({name: brain(path=path) for name, path in both.items()})
    assert caught.value.code == "two-patients"


def test_two_names_in_one_folder_warn_and_with_another_outline_refuse():
    paths = {"T1": Path("/d/x/BraTS2021_00001_t1.nii"), "T2": Path("/d/x/BraTS2021_00002_t2.nii")}
    (said,) = find_two_patients({name: brain(path=path) for name, path in paths.items()})
    assert said == find_names_of_two_patients(paths)[0]
    other = {"T1": brain(path=paths["T1"]), "T2": brain((64.0, 72.0, 60.0), paths["T2"])}
    with pytest.raises(InputError, match=r"file names speak of two patients.*different outlines") as caught:
        find_two_patients(other)
    assert caught.value.code == "two-patients"


def test_names_and_folders_alone_refuse_unread():
    with pytest.raises(InputError, match=r"file names speak.*folders speak"):
        find_names_of_two_patients({"T1": Path("/d/p1/p1_t1.nii"), "T2": Path("/d/p2/p2_t2.nii")})


def test_one_patient_is_not_objected_to():
    volumes = {name: brain(path=Path(f"/d/p1/p1_{name}.nii")) for name in NAMES}
    assert find_two_patients(volumes) == ()


def test_outlines_are_those_of_mri_alone():
    """A skull is stripped from CT by other means, to another outline."""
    modalities = ModalitySet.named(["T1", "T2", "CT"])
    volumes = {"T1": brain(), "CT": brain((64.0, 72.0, 60.0))}
    assert find_two_patients(volumes, modalities) == ()
    with pytest.raises(InputError):
        find_two_patients({"T1": volumes["T1"], "T2": volumes["CT"]}, modalities)
