"""One folder per sequence, and files that say none; BIDS without `anat`; one folder whose files carry two names."""

from __future__ import annotations

from pathlib import Path

import pytest

from m3ae_core.errors import InputError
from m3ae_core.io.case import find_case, find_cases, scan_cases


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def test_a_cohort_of_one_folder_per_sequence(tmp_path: Path) -> None:
    names = [f"{kind}/P{n}.nii" for kind in ("T1", "FLAIR", "T1_post", "seg", "adc") for n in (1, 2)]
    first, second = find_cases(touch(tmp_path, *names, "FLAIR/P3.nii.gz"))[:2]
    assert (first.name, second.name) == ("P1", "P2")
    assert first.images == {
        "FLAIR": tmp_path / "FLAIR/P1.nii",
        "T1": tmp_path / "T1/P1.nii",
        "T1c": tmp_path / "T1_post/P1.nii",
    }
    assert first.labels == tmp_path / "seg/P1.nii"
    assert [path for path, _ in second.unused] == [tmp_path / "adc/P2.nii"]


def test_a_patient_of_one_folder_per_sequence(tmp_path: Path) -> None:
    touch(tmp_path, *(f"P{n}/{kind}/scan.nii" for n in (1, 2) for kind in ("T1", "T2")))
    assert [case.name for case in find_cases(tmp_path)] == ["P1", "P2"]
    assert set(find_case(tmp_path / "P1").images) == {"T1", "T2"}


@pytest.mark.parametrize(
    ("names", "code"),
    [
        (("T1/P1.nii", "T1/P1.nii.gz", "FLAIR/P1.nii"), "ambiguous"),
        (("T1/P1.nii", "FLAIR/P1.nii", "gado/P1.nii", "T1_kontrast_ohne_mit/P1.nii"), "unclear"),
        (("p1_flair.nii", "p1_t1.nii", "p2_t1c.nii", "p2_t2.nii"), "unclear"),
    ],
)
def test_what_is_asked(tmp_path: Path, names: tuple[str, ...], code: str) -> None:
    cases, refused = scan_cases(touch(tmp_path / "case", *names))
    assert cases == ()
    assert [error.code for error in refused.values()] == [code]


@pytest.mark.parametrize("names", [("T1/a.nii", "FLAIR/b.nii", "T2/c.nii"), ("T1/P1.nii", "T1/P2.nii")])
def test_what_is_no_such_layout(tmp_path: Path, names: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as caught:
        find_cases(touch(tmp_path, *names))
    assert caught.value.code == "no-case"


def test_two_patients_of_a_flat_cohort_are_two(tmp_path: Path) -> None:
    found = find_cases(touch(tmp_path, "p1_flair.nii", "p1_t1.nii", "p2_t1.nii", "p2_t2.nii"))
    assert [case.name for case in found] == ["p1", "p2"]


@pytest.mark.parametrize("place", ["sub-01", "sub-01/anat"])
def test_a_subject_of_bids_is_a_case(tmp_path: Path, place: str) -> None:
    touch(tmp_path, *(f"{place}/sub-01_{name}.nii.gz" for name in ("FLAIR", "T1w", "ce-GAD_T1w")))
    for found in (find_case(tmp_path / "sub-01"), *find_cases(tmp_path / "sub-01")):
        assert found.name == "sub-01"
        assert set(found.images) == {"FLAIR", "T1", "T1c"}
