"""Which file holds which sequence, and what belongs together."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from m3ae_core.data.phantom import AFFINE, LABELS, phantom, write_phantom
from m3ae_core.data.phantom import AFFINE as PHANTOM_AFFINE
from m3ae_core.errors import ConfigError, InputError
from m3ae_core.io.case import (
    Case,
    CaseFiles,
    find_case,
    find_cases,
    match_files,
    read_case,
    read_case_labels,
    require_same_grid,
    scan_cases,
)
from m3ae_core.io.volume import Volume, read_labels, read_volume
from m3ae_core.modalities import BRATS, Modality, ModalitySet

SMALL = (16, 18, 17)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> CaseFiles:
    return write_phantom(tmp_path_factory.mktemp("phantoms"), "case-1", shape=SMALL)


# --- names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        # releases of BraTS
        ("BraTS-SSA-00080-000-t1c.nii.gz", "T1c"),
        ("BraTS-SSA-00080-000-t1n.nii.gz", "T1"),
        ("BraTS-GLI-00001-000-t2f.nii.gz", "FLAIR"),
        ("BraTS-GLI-00001-000-t2w.nii.gz", "T2"),
        ("BraTS-GLI-00001-000-seg.nii.gz", "labels"),
        ("Brats18_TCIA08_105_1_t1ce.nii.gz", "T1c"),
        ("Brats18_TCIA08_105_1_t1.nii.gz", "T1"),
        ("Brats18_2013_0_1_seg.nii.gz", "labels"),
        ("BraTS20_Training_001_flair.nii", "FLAIR"),
        ("BraTS20_Training_001_t2.nii", "T2"),
        ("BraTS2021_00000_t1ce.nii.gz", "T1c"),
        # other collections
        ("UPENN-GBM-00001_11_T1GD.nii.gz", "T1c"),
        ("UPENN-GBM-00001_11_T1.nii.gz", "T1"),
        ("UPENN-GBM-00001_11_FLAIR.nii.gz", "FLAIR"),
        ("UPENN-GBM-00001_11_segm.nii.gz", "labels"),
        ("UPENN-GBM-00001_11_automated_approx_segm.nii.gz", "labels"),
        ("UCSF-PDGM-0004_T1c_bias.nii.gz", "T1c"),
        ("UCSF-PDGM-0004_T2_bias.nii.gz", "T2"),
        ("UCSF-PDGM-0004_SWI.nii.gz", ""),
        ("BRATS_001_0004.nii.gz", ""),
        ("BraTS-GLI-0001.nii.gz", ""),
        # BIDS
        ("sub-01_ses-1_T1w.nii.gz", "T1"),
        ("sub-01_T2w.nii.gz", "T2"),
        ("sub-01_FLAIR.nii.gz", "FLAIR"),
        ("sub-01_ce-gadolinium_T1w.nii.gz", "T1c"),
        ("sub-01_ce-gd_T1w.nii.gz", "T1c"),
        ("sub-01_space-T1w_desc-tumour_dseg.nii.gz", "labels"),
        # by hand
        ("patient t1gd.nii.gz", "T1c"),
        ("T1_CE.NII.GZ", "T1c"),
        ("T1-post.nii", "T1c"),
        ("ax T2 FLAIR.nii", "FLAIR"),
        ("t1.nii", "T1"),
        ("ünï_中文_t2.nii.gz", "T2"),
        ("患者t1ce.nii", "T1c"),
        # label maps win, but a brain mask is none
        ("patient_t1c_seg.nii.gz", "labels"),
        ("mask.nii.gz", "labels"),
        ("mask_of_t2.nii.gz", ""),
        ("brain_mask.nii.gz", ""),
        ("t1_brain_mask.nii.gz", ""),
        ("patient t1c segmentation.nii.gz", "labels"),
        # our own results are neither input nor reference
        ("M3AE segmentation [FLAIR+T2].nii.gz", ""),
        ("patient_t2_m3ae.nii.gz", ""),
        # not a token
        ("t1cat.nii", ""),
        ("patientt1.nii", ""),
        ("segment.nii", ""),
        ("t10.nii.gz", ""),
        ("readme.nii", ""),
        # not a NIfTI name
        ("t1.mha", ""),
        ("t1.nii.txt", ""),
        ("t1", ""),
        (".nii", ""),
        ("t1.img", ""),
    ],
)
def test_names(name: str, kind: str) -> None:
    found = match_files([Path("somewhere") / name])
    assert [*found.images, *(["labels"] if found.labels else [])] == ([kind] if kind else [])


def test_every_token_of_the_set_is_recognised() -> None:
    for modality in BRATS:
        for token in modality.tokens:
            for spelling in (token, token.upper()):
                assert list(match_files([f"x_{spelling}.nii"]).images) == [modality.name]


def test_order_does_not_matter_and_the_set_s_order_results() -> None:
    names = ["c-t1n.nii", "c-t2f.nii", "c-seg.nii", "c-t2w.nii", "c-t1c.nii", "notes.txt", "c-dwi.nii"]
    expected = match_files(names)
    assert tuple(expected.images) == BRATS.names
    assert expected.labels == Path("c-seg.nii")
    for seed in range(5):
        random.Random(seed).shuffle(names)
        assert match_files(names) == expected


@pytest.mark.parametrize(
    ("names", "case"),
    [
        (["BraTS-SSA-00080-000-t1c.nii.gz", "BraTS-SSA-00080-000-seg.nii.gz"], "BraTS-SSA-00080-000"),
        (["patient t1gd.nii.gz"], "patient"),
        (["patient_T1_CE.nii", "patient_T2.nii", "other_words_seg.nii"], "patient"),
        (["t1.nii", "t2.nii"], "folder"),
        (["a_t1.nii", "b_t2.nii"], "folder"),
    ],
)
def test_the_case_s_name(names: list[str], case: str) -> None:
    assert match_files([Path("folder") / name for name in names]).name == case


def test_other_modality_sets() -> None:
    both = ModalitySet((Modality("CT", ("ct1",)), *ModalitySet.named(["T2"])))
    found = match_files(["x_ct.nii", "x_t2.nii", "x_t1.nii", "x_0001.nii"], both)
    assert list(found.images) == ["CT", "T2"]
    assert list(match_files(["x_0001.nii"], both, {"0001": "T2"}).images) == ["T2"]


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("BRATS_001_0001.nii.gz", ["--image FLAIR=", "--image T1c=", "split-4d", "dataset.json"]),
        ("vol0002.nii", ["--image T2=", "split-4d"]),
        ("T1_study_004_t2.nii.gz", ["--image T1=", "--image T2="]),
        ("FLAIR-trial_17_t1c.nii.gz", ["--image FLAIR=", "--image T1c="]),
        ("post_T1.nii.gz", ["--image T1=", "--image T1c="]),
        ("GD_001_T1.nii.gz", ["--image T1=", "--image T1c="]),
        ("T1_pre_and_post_gd.nii.gz", ["--image T1=", "--image T1c="]),
    ],
)
def test_words_that_contradict_each_other_are_asked(name: str, flags: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        match_files([Path("somewhere") / name])
    assert caught.value.code == "unclear"
    assert all(word in str(caught.value) for word in [name, "manifest", *flags])


def test_what_the_other_files_answer_is_not_asked() -> None:
    found = match_files(["t1.nii", "t1c.nii", "post_t1.nii", "scan_0002.nii"])
    assert list(found.images) == ["T1", "T1c"]
    assert [path.name for path, _ in found.unused] == ["post_t1.nii", "scan_0002.nii"]


def test_a_corrected_twin_gives_way_and_is_named() -> None:
    found = match_files(["u_T1.nii", "u_T1_bias.nii", "u_T2_bias.nii", "u_ADC.nii"])
    assert {key: path.name for key, path in found.images.items()} == {"T1": "u_T1.nii", "T2": "u_T2_bias.nii"}
    assert {path.name: why for path, why in found.unused} == {
        "u_T1_bias.nii": "u_T1.nii was taken for T1",
        "u_ADC.nii": "'adc' says that it is no image of a sequence",
    }


def test_two_files_for_one_sequence_are_both_named() -> None:
    with pytest.raises(InputError, match=r"a_t1\.nii and b_t1\.nii look like T1\.") as caught:
        match_files(["b_t1.nii", "a_t1.nii", "a_t2.nii"])
    assert caught.value.code == "ambiguous"


# --- folders ---------------------------------------------------------------------------------------


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_find_case(files: CaseFiles) -> None:
    assert files.labels is not None
    assert find_case(files.labels.parent) == files
    assert find_case(str(files.labels.parent)) == files


def test_find_case_skips_what_is_hidden_and_folders(tmp_path: Path) -> None:
    touch(tmp_path, "x_t1.nii", "._x_t1.nii", ".tmp-12-x_t1.nii.gz", "x_t2.nii/x_t2.nii")
    assert find_case(tmp_path).images == {"T1": tmp_path / "x_t1.nii"}


def test_find_cases_in_a_folder_of_cases(tmp_path: Path) -> None:
    touch(tmp_path, "b/b-t1n.nii.gz", "a/a-t1c.nii.gz", "a/a-seg.nii.gz", "notes.txt", "c/readme.md")
    found = find_cases(tmp_path)
    assert [case.name for case in found] == ["a", "b"]
    assert found[0].labels == tmp_path / "a" / "a-seg.nii.gz"
    assert found == find_cases(str(tmp_path))


def test_find_cases_in_nested_folders(tmp_path: Path) -> None:
    """BraTS 2018 sorts its cases into HGG and LGG."""
    touch(tmp_path, "LGG/Brats18_A_1/Brats18_A_1_t1.nii.gz", "HGG/Brats18_B_1/Brats18_B_1_t1.nii.gz")
    touch(tmp_path, "HGG/.hidden/x_t1.nii", "__MACOSX/HGG/x/x_t1.nii")
    assert [case.name for case in find_cases(tmp_path)] == ["Brats18_A_1", "Brats18_B_1"]


SEQUENCES = ("flair", "t1", "t1c", "t2")


@pytest.mark.parametrize(
    ("files", "cases"),
    [
        (["sub-01/anat/sub-01_T1w.nii.gz", "sub-02/anat/sub-02_FLAIR.nii.gz"], ["sub-01", "sub-02"]),
        (
            [f"sub-01/ses-{n}/anat/sub-01_ses-{n}_T1w.nii.gz" for n in (1, 2)],
            ["sub-01_ses-1", "sub-01_ses-2"],
        ),
        (
            [f"P{p}/visit{v}/t1.nii" for p in (1, 2) for v in (1, 2)],
            [f"P{p}_visit{v}" for p in (1, 2) for v in (1, 2)],
        ),
        ([f"A/{s}/{s}.nii.gz" for s in SEQUENCES], ["A"]),
        ([f"A/{s}/{s}.nii.gz" for s in (*SEQUENCES, "ADC", "other")], ["A"]),
        ([f"A/A_{s}.nii/A_{s}.nii" for s in SEQUENCES], ["A"]),
        ([f"M/M/HGG/B{n}/B{n}_t1.nii" for n in (1, 2)], ["B1", "B2"]),
        ([f"C{n}_{s}.nii" for n in (1, 2, 3) for s in SEQUENCES], ["C1", "C2", "C3"]),
        (["A/005_T1.nii", "A/007_T2_FLAIR.nii", "A/009_ADC.nii"], ["A"]),
        ([f"{half}/x/t1.nii" for half in ("HGG", "LGG")], ["HGG_x", "LGG_x"]),
    ],
    ids=[
        "bids",
        "sessions",
        "visits",
        "per-sequence",
        "with-others",
        "per-file",
        "archive",
        "flat",
        "series",
        "repeated",
    ],
)
def test_layouts(tmp_path: Path, files: list[str], cases: list[str]) -> None:
    found = find_cases(touch(tmp_path, *files))
    assert [case.name for case in found] == cases
    used = [path for case in found for path in case.images.values()]
    assert len(used) == len([name for name in files if "ADC" not in name and "other" not in name])


def test_nnunet_s_channels_are_read(tmp_path: Path) -> None:
    names = [f"imagesTr/C{n}_000{k}.nii.gz" for n in (1, 2) for k in range(4)]
    touch(tmp_path, *names, "labelsTr/C1.nii.gz", "labelsTr/C2.nii.gz")
    asked, refused = scan_cases(tmp_path)
    assert [(case.name, len(case.questions)) for case in asked] == [("C1", 4), ("C2", 4)]
    assert not refused
    with pytest.raises(InputError) as caught:
        find_cases(tmp_path)
    assert caught.value.code == "unclear"
    channels = '{"channel_names": {"0": "T1", "1": "T1ce", "2": "T2w", "3": "FLAIR"}}'
    (tmp_path / "dataset.json").write_text(channels)
    for place in (tmp_path, tmp_path / "imagesTr"):
        first, _ = find_cases(place)
        assert [path.name[3:7] for path in first.images.values()] == ["0003", "0000", "0001", "0002"]
        assert first.labels is not None
        assert first.labels.resolve() == (tmp_path / "labelsTr" / "C1.nii.gz").resolve()


def test_a_case_that_is_asked_does_not_stop_the_others(tmp_path: Path) -> None:
    touch(tmp_path, "a/t1.nii", "b/post_T1.nii", "b/t2.nii")
    first, second = scan_cases(tmp_path)[0]
    assert not first.questions
    assert list(second.images) == ["T2"]
    with pytest.raises(InputError) as caught:
        read_case(second)
    assert caught.value.code == "unclear"


def test_images_of_other_formats_are_named(tmp_path: Path) -> None:
    found = find_case(touch(tmp_path, "t1.nii", "t2.mha", "notes.txt"))
    assert [path.name for path, _ in found.unused] == ["t2.mha"]


def test_two_images_in_a_sequence_s_folder_are_not_dropped(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        find_cases(touch(tmp_path, "A/T1/a_T1.nii", "A/T1/b_T1.nii", "A/T2/T2.nii"))
    assert caught.value.code == "ambiguous"


def test_two_series_are_not_two_patients(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        find_cases(touch(tmp_path, "P/005_T1.nii", "P/007_T1.nii"))
    assert caught.value.code == "ambiguous"


def test_find_cases_takes_a_single_case(tmp_path: Path) -> None:
    touch(tmp_path, "t1.nii", "t2.nii", "sub/t1.nii")
    (found,) = find_cases(tmp_path)
    assert found.name == tmp_path.name
    assert list(found.images) == ["T1", "T2"]


# --- reading ---------------------------------------------------------------------------------------


def test_read_case(files: CaseFiles) -> None:
    case = read_case(files)
    assert case.name == "case-1"
    assert tuple(case.volumes) == BRATS.names
    assert case.subset == BRATS.full
    assert case.shape == SMALL
    np.testing.assert_array_equal(case.affine, AFFINE)
    images, labels = phantom(SMALL)
    for name, image in images.items():
        np.testing.assert_array_equal(case.volumes[name].data, image)
        assert case.volumes[name].path == files.images[name]
    np.testing.assert_array_equal(read_case_labels(files, case).data, labels)


@pytest.mark.parametrize("subset", BRATS.subsets(), ids=str)
def test_any_subset_can_be_read(subset: object, files: CaseFiles) -> None:
    present = subset.present  # type: ignore[attr-defined]
    some = CaseFiles("x", {name: files.images[name] for name in reversed(present)}, None)
    case = read_case(some)
    assert tuple(case.volumes) == present
    assert case.subset == subset


def test_a_sequence_that_the_set_does_not_know(files: CaseFiles) -> None:
    with pytest.raises(ConfigError, match="T1c"):
        read_case(files, ModalitySet.named(["FLAIR", "T1", "T2"]))


def test_without_and_only(files: CaseFiles) -> None:
    case = read_case(files)
    assert case.without("T1", "T2").subset.present == ("FLAIR", "T1c")
    assert case.only("T2", "FLAIR").subset.present == ("FLAIR", "T2")
    assert case.without().subset == case.subset
    assert case.without("T1").without("T1").subset.missing == ("T1",), "what is missing can be left out again"
    assert case.subset == BRATS.full, "the case itself stays as it is"
    assert case.only("T1").volumes["T1"] is case.volumes["T1"]
    for act in (case.without, case.only):
        with pytest.raises(ConfigError, match="CT"):
            act("CT")


def test_grids_within_the_tolerance_are_one(files: CaseFiles) -> None:
    volume = read_volume(files.images["T1"])
    for voxels, accepted in ((0.09, True), (0.11, False)):
        affine = volume.affine.copy()
        affine[1, 3] += voxels * min(volume.spacing)
        pair = {"T1": volume, "T2": Volume(volume.data, affine)}
        if accepted:
            require_same_grid(pair)
        else:
            with pytest.raises(InputError, match="T2: 16 × 18 × 17"):
                require_same_grid(pair)


def test_volumes_without_files_can_be_compared() -> None:
    small, large = (Volume(np.zeros(shape, np.float32), AFFINE) for shape in ((2, 2, 2), (2, 2, 3)))
    with pytest.raises(InputError, match=r"^The images do not lie on one grid:\n  T1: 2 × 2 × 2") as caught:
        require_same_grid({"T1": small, "T2": large})
    assert caught.value.path is None


def test_a_tilt_that_moves_only_distant_voxels_is_noticed(files: CaseFiles) -> None:
    volume = read_volume(files.images["T1"])
    affine = volume.affine.copy()
    affine[0, 1] += 0.2 * min(volume.spacing) / volume.shape[1]  # a fifth of a voxel at the far end
    with pytest.raises(InputError):
        require_same_grid({"T1": volume, "T2": Volume(volume.data, affine)})


# --- what a case made in Python must be ------------------------------------------------------------


def made(**changes: Any) -> Case:
    """A phantom of two sequences, of which some were replaced; None leaves one out."""
    images = {name: Volume(phantom()[0][name], PHANTOM_AFFINE) for name in ("FLAIR", "T2")}
    return Case("x", BRATS, {name: v for name, v in {**images, **changes}.items() if v is not None})


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"FLAIR": None, "T2": None}, "no-sequence"),
        ({"T2": Volume(np.zeros((4, 4), np.float32), PHANTOM_AFFINE)}, "not-3d"),
        ({"T2": Volume(np.zeros((4, 4, 4, 2), np.float32), PHANTOM_AFFINE)}, "not-3d"),
        ({"T2": Volume(phantom()[0]["T2"], np.zeros((4, 4)))}, "affine"),
        ({"T1": Volume(2.5 * phantom()[0]["T2"] - 40, PHANTOM_AFFINE)}, "duplicate"),
        ({"T1": Volume(300 - phantom()[0]["T2"], PHANTOM_AFFINE)}, "duplicate"),
        ({"T2": Volume(phantom()[0]["T2"], np.diag([4.0, 4, 4, 1]) + 1e4 * np.eye(4, k=3))}, "no-overlap"),
    ],
)
def test_a_case_that_cannot_be(changes: dict[str, Volume | None], code: str) -> None:
    with pytest.raises(InputError) as caught:
        made(**changes)
    assert caught.value.code == code


def test_an_unknown_sequence_is_refused() -> None:
    with pytest.raises(ConfigError, match="CT"):
        made(CT=Volume(phantom(seed=1)[0]["T1"], PHANTOM_AFFINE))


def test_every_volume_is_laid_by_its_own_affine() -> None:
    """The same image, its axes stored in another order and direction, is the same case."""
    data = phantom()[0]["T2"].transpose(2, 0, 1)[:, ::-1]
    turn = np.array([[0, -1, 0, data.shape[1] - 1], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]])
    case = made(T2=Volume(data, PHANTOM_AFFINE @ turn))
    np.testing.assert_array_equal(case.volumes["T2"].data, phantom()[0]["T2"])
    np.testing.assert_array_equal(case.volumes["T2"].affine, PHANTOM_AFFINE)
    assert case.notes == ("T2: resampled to the grid of FLAIR.",)


def test_volumes_come_in_the_order_of_the_set_and_a_sound_case_has_no_notes() -> None:
    volumes = {name: Volume(phantom()[0][name], PHANTOM_AFFINE) for name in ("T2", "T1", "FLAIR")}
    case = Case("x", BRATS, volumes)
    assert list(case.volumes) == ["FLAIR", "T1", "T2"]
    assert all(case.volumes[name] is volumes[name] for name in volumes)
    assert case.notes == ()


def test_one_note_names_all_sequences_that_it_holds_for() -> None:
    volumes = {name: Volume(phantom()[0][name] - 1, np.diag([4.0, 4, 4, 1])) for name in ("FLAIR", "T2")}
    background, orientation = Case("x", BRATS, volumes).notes
    assert background == "FLAIR, T2: The background was -1 instead of 0; it was set to 0."
    assert "orientation" in orientation


# --- the synthetic case ----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_phantom(seed: int) -> None:
    images, labels = phantom(seed=seed)
    assert tuple(images) == BRATS.names
    assert set(np.unique(labels)) == {0, *LABELS.values()}
    assert labels.dtype == np.uint8
    brain = images["T1"] > 0
    assert 0.2 < brain.mean() < 0.6
    assert not brain[[0, -1]].any()
    for image in images.values():
        assert image.dtype == np.float32
        assert image.shape == labels.shape == (48, 56, 40)
        np.testing.assert_array_equal(image > 0, brain)
    assert brain[labels > 0].all()


def test_phantom_contrasts() -> None:
    """What a radiologist would look for is there: the rim on T1c, the oedema on FLAIR."""
    images, labels = phantom()
    healthy = (labels == 0) & (images["T1"] > 0)
    rim, oedema = labels == LABELS["rim"], labels == LABELS["oedema"]
    assert images["T1c"][rim].mean() > 1.5 * images["T1"][rim].mean()
    assert images["FLAIR"][oedema].mean() > 1.4 * images["FLAIR"][healthy].mean()
    assert abs(images["T1c"][healthy].mean() / images["T1"][healthy].mean() - 1) < 0.1


def test_phantoms_repeat_and_differ() -> None:
    first, second, other = phantom(SMALL, 1), phantom(SMALL, 1), phantom(SMALL, 2)
    np.testing.assert_array_equal(first[0]["T2"], second[0]["T2"])
    np.testing.assert_array_equal(first[1], second[1])
    assert not np.array_equal(first[1], other[1])


def test_write_phantom(tmp_path: Path) -> None:
    affine = np.diag([2.0, 2, 3, 1])
    found = write_phantom(tmp_path, "p", shape=SMALL, seed=3, affine=affine, present=("T2", "T1c"))
    assert sorted(path.name for path in (tmp_path / "p").iterdir()) == [
        "p-seg.nii.gz",
        "p-t1c.nii.gz",
        "p-t2w.nii.gz",
    ]
    assert find_case(tmp_path / "p") == found
    case = read_case(found)
    assert isinstance(case, Case)
    assert case.subset.present == ("T1c", "T2")
    assert case.volumes["T2"].spacing == (2, 2, 3)
    assert found.labels is not None
    np.testing.assert_array_equal(read_labels(found.labels).data, phantom(SMALL, 3)[1])
