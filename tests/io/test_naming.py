"""What names say: known, not ours, or a question; another sequence in silence never."""

from __future__ import annotations

from pathlib import Path

import pytest

from m3ae_core.io.folders.layouts import find_case
from m3ae_core.io.folders.naming import names_disagree
from m3ae_core.io.folders.recognition import recognise
from m3ae_core.modalities import ModalitySet

#: Names as people write them, and the sequence they show (none: no sequence of ours, or a mask of something else).
NAMES = """
AX_T1_FLAIR=T1 AX_T1_FS_POST=T1c BRATS_485_0001=T1 CE_T1=T1c FLAIR_T2=FLAIR FLAIR_lesion=none FLAIR_to_T1=FLAIR
FLAIR_to_T1c=FLAIR P_0000=none T1+C=T1c T1_C+=T1c T1_FLAIR=T1 T1_MPRAGE_Gd=T1c T1_brain_mask=none T1_contrast=T1c
T1_map=none T1_post_contrast=T1c T1_postcontrast=T1c T1_warp=none T1c_reg_to_T1=T1c T2_GRE=none T2_coreg_T1c=T2
T2_map=none cT1=T1c flair_prob=none perf_T2=none postcontrast_T1=T1c sub-01_acq-ce_T1w=T1c
sub-01_ce-Gd_run-1_T1w=T1c sub-01_ce-gadolinium_T1w=T1c sub-01_ses-1_ce-gadolinium_acq-mprage_T1w=T1c t1_post=T1c
t1c_sub_t1=none
t1_mprage_sag_KM=T1c sub-01_ce-Gadovist_T1w=T1c sub-01_ce-GADOLINIUM_run-1_T1w=T1c
t2_tirm_tra_dark-fluid=FLAIR t2_spc_da-fl_sag=FLAIR sub-01_acq-FLAIR_T2w=FLAIR T2_registered_to_T1=T2
FLAIR_in_T1_space=FLAIR T2_star=none T1_subtraction=none sub-01_T1w_brainmask=none CT1=T1c FL_to_SRI_brain=FLAIR
T1_avec_injection=T1c T1_sans_injection=T1 T1_nach_KM=T1c T1_vor_KM=T1 T1_ohne_KM=T1 T1_non-contrast=T1
T1_pre_contrast=T1 T1_nativ=T1 T1_dotarem=T1c T1_post_op=T1 t1_preop=T1 T1KM=T1c T1_con_contraste=T1c
T1_после_контраста=T1c T1增强=T1c T1平扫=T1 sub-01_ce-none_T1w=T1 sub-01_ses-post_T1w=T1
sub-01_space-T1w_FLAIR=FLAIR FLAIR2T1=FLAIR T2_FLAIR_SPACE=FLAIR T2_FLAIR_to_T1=FLAIR T2_SPACE=T2 T1_injecté=T1c
T1_Kontr=T1c T1_utan_kontrast=T1
T1_gd_sub=none T1divT2=none control_001_T1=T1 T1_to_atlas=T1 T1WI+C=T1c
"""
WRITTEN = dict(pair.split("=") for pair in NAMES.split())
#: Of these alone the words do not tell; a question is right for any.
ASKED = {"BRATS_485_0001", "P_0000"}


@pytest.mark.parametrize("name", WRITTEN)
def test_a_name_is_known_not_ours_or_asked(name: str) -> None:
    found = recognise(f"{name}.nii.gz")
    assert bool(found.candidates) == (name in ASKED)
    if name not in ASKED:
        assert (found.kind or "none") == WRITTEN[name]
        assert bool(found.why) == (not found.kind)


@pytest.mark.parametrize(
    ("name", "candidates"),
    [
        ("T1w_with_and_without_contrast", ("T1", "T1c")),
        ("T1_nach", ("T1", "T1c")),
        ("C_T1", ("T1", "T1c")),
        ("t1ce_pre", ("T1", "T1c")),
        ("FLAIR_post", ("FLAIR", "T1c")),
        ("FLAIR_T1", ("FLAIR", "T1")),
        ("T1c-T1", ("T1", "T1c")),
        ("T1_GRE", ("T1",)),
        ("T1_KB", ("T1", "T1c")),
        ("T1_GAD_NO", ("T1", "T1c")),
        ("t2_spc_ir_sag_DF", ("T2",)),
        ("FLAIR_edema", ("FLAIR",)),
        ("r_T1c_FLAIR", ("FLAIR", "T1c")),
    ],
)
def test_words_that_contradict(name: str, candidates: tuple[str, ...]) -> None:
    assert recognise(f"{name}.nii").candidates == candidates


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("patient_tumor_mask", "labels"),
        ("brain_tumor_seg", "labels"),
        ("lesion_mask", "labels"),
        ("T1_bet_mask", ""),
        ("brain_segmentation", ""),
        ("tumor_seg_prob", ""),
        ("t1_mask", ""),
    ],
)
def test_masks_of_something_else_are_no_labels(name: str, kind: str) -> None:
    assert recognise(f"{name}.nii").kind == kind


@pytest.mark.parametrize(
    "names",
    [
        ("005_T1_MPRAGE.nii.gz", "007_T2_FLAIR.nii.gz"),
        ("20200101_101500_T1.nii.gz", "20200101_102030_FLAIR.nii.gz"),
        ("3D_T1.nii.gz", "2D_FLAIR.nii.gz"),
        ("FL_0001.nii.gz", "whatever.nii.gz"),
    ],
)
def test_numbers_of_series_are_no_patients(names: tuple[str, str]) -> None:
    kinds = [recognise(name).kind for name in names]
    images = {kind or other: Path("c") / name for kind, name, other in zip(kinds, names, SPARE, strict=True)}
    assert names_disagree(images) is None


SPARE = ("T1", "T2")


def test_what_was_asked_may_be_answered_but_not_with_anything() -> None:
    assert names_disagree({"T1c": Path("c/post_T1.nii")}) is None
    assert "called T1 or T1c" in (names_disagree({"T2": Path("c/post_T1.nii")}) or "")
    assert "'map'" in (names_disagree({"T1": Path("c/T1_map.nii")}) or "")


MRI_AND_CT = ModalitySet.named(["T1c", "T2", "CT"])


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("sub-01_ct", "CT"),
        ("sub-01_ses-2_acq-brain_ct", "CT"),
        ("P1_CT", "CT"),
        ("P1_CT_brain_to_T1", "CT"),
        ("P1_NCCT", "CT"),
        ("head ct scan", "CT"),
        ("T2_to_CT", "T2"),
        ("P1_T1", ""),
        ("P1_CT_perfusion", ""),
        ("P1_PET_CT", ""),
        ("ct1", "T1c"),
    ],
)
def test_a_ct_is_told_by_its_name(name: str, kind: str) -> None:
    assert recognise(f"{name}.nii.gz", MRI_AND_CT).kind == kind


@pytest.mark.parametrize("name", ["sub-01_ct", "P1_CT", "P1_NCCT", "head ct scan", "P1_CT_to_T1"])
def test_a_ct_is_none_of_a_model_of_mri(name: str) -> None:
    found = recognise(f"{name}.nii.gz")
    assert not found.kind
    assert not found.candidates
    assert found.why


def test_the_channels_of_a_dataset_may_be_ct(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text('{"channel_names": {"0": "CT", "1": "T2"}}')
    for channel in ("0000", "0001"):
        (tmp_path / f"P1_{channel}.nii.gz").touch()
    files = find_case(tmp_path, MRI_AND_CT)
    assert {name: path.name for name, path in files.images.items()} == {
        "T2": "P1_0001.nii.gz",
        "CT": "P1_0000.nii.gz",
    }
