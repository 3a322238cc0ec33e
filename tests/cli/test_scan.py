"""``m3ae scan``: what it shows, and the manifest that it writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from m3ae_core.cli import main
from m3ae_core.errors import ConfigError, InputError
from m3ae_core.io.case import find_cases, scan_cases


def run(*arguments: object) -> int:
    return main(["scan", *(str(argument) for argument in arguments)])


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """One case that is clear, one with a question, one that is refused."""
    return touch(
        tmp_path / "cohort",
        *("a/a_t1.nii", "a/a_t2.nii", "a/a_seg.nii", "a/a_ADC.nii"),
        *("b/post_T1.nii", "b/T2.nii"),
        *("c/t1.nii", "c/t1n.nii"),
    )


def test_json(cohort: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(cohort, "--json") == 2
    found = json.loads(capsys.readouterr().out)
    first, second = found["cases"]
    assert first == {
        "case": "a",
        "folder": str(cohort / "a"),
        "images": {"T1": "a_t1.nii", "T2": "a_t2.nii"},
        "labels": "a_seg.nii",
        "scheme": None,
        "unused": [{"file": "a_ADC.nii", "why": "'adc' says that it is no image of a sequence"}],
        "questions": [],
        "warnings": [],
    }
    assert "--image T1c=post_T1.nii" in second["questions"][0]
    assert [(bad["path"], bad["code"]) for bad in found["refused"]] == [(str(cohort / "c"), "ambiguous")]


def test_the_table_says_everything(cohort: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(cohort) == 2
    shown, problem = capsys.readouterr()
    for words in (
        "T1=a_t1.nii",
        "left out  a_ADC.nii",
        "asked ",
        "[ambiguous]",
        "2 cases, 1 asked, 1 refused",
    ):
        assert words in shown
    assert "1 cases have questions, 1 are refused" in problem


def test_what_is_clear_ends_well(cohort: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(cohort / "a") == 0
    assert "1 cases, 0 asked, 0 refused" in capsys.readouterr().out


def test_nothing_is_refused_as_json_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "--json") == 2
    found = json.loads(capsys.readouterr().out)
    assert found["cases"] == []
    assert found["refused"][0]["code"] == "no-case"


def test_a_manifest_asks_until_it_is_corrected(cohort: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "cases.csv"
    assert run(cohort, "--csv", manifest) == 2
    first, second = scan_cases(manifest)[0]
    assert first.images == {"T1": cohort / "a/a_t1.nii", "T2": cohort / "a/a_t2.nii"}
    assert first.labels == cohort / "a/a_seg.nii"
    assert second.questions
    with pytest.raises(InputError) as caught:
        find_cases(manifest)
    assert caught.value.code == "unclear"
    line = f"b,{cohort / 'b'},,,,T2.nii,,,post_T1.nii"
    assert line in manifest.read_text()
    manifest.write_text(
        manifest.read_text().replace(line, f"b,{cohort / 'b'},,,post_T1.nii,T2.nii,,,post_T1.nii")
    )
    _, answered = find_cases(manifest)
    assert answered.images == {"T1c": cohort / "b/post_T1.nii", "T2": cohort / "b/T2.nii"}
    assert run(manifest) == 0


def test_a_manifest_states_label_schemes(cohort: Path, tmp_path: Path) -> None:
    (cohort / "a/a_seg.json").write_text('{"labels": {"scheme": "brats2021"}}')
    manifest = tmp_path / "cases.csv"
    assert run(cohort / "a", "--csv", manifest) == 0
    (case,) = find_cases(manifest)
    assert case.scheme == "brats2021"
    manifest.write_text(manifest.read_text().replace("brats2021", "msd"))
    (case,) = find_cases(manifest)
    assert case.scheme == "msd"
    manifest.write_text(manifest.read_text().replace("msd", "brats1999"))
    with pytest.raises(ConfigError) as caught:
        find_cases(manifest)
    assert caught.value.code == "scheme"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "manifest"),
        ("case,folder\na,b\n", "manifest"),
        ("case,T1\n../a,x.nii\n", "manifest"),
        (None, "missing"),
    ],
)
def test_what_is_no_manifest(tmp_path: Path, text: str | None, code: str) -> None:
    if text is not None:
        (tmp_path / "x.csv").write_text(text)
    with pytest.raises(InputError) as caught:
        find_cases(tmp_path / "x.csv")
    assert caught.value.code == code


def test_a_folder_of_two_names_is_warned_of_and_of_two_names_and_folders_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One kind of evidence warns, two refuse."""
    one = touch(tmp_path / "x", "BraTS-GLI-00012-000-t2f.nii.gz", "BraTS-GLI-00034-000-t1c.nii.gz")
    assert run(one, "--json") == 0
    (case,) = json.loads(capsys.readouterr().out)["cases"]
    assert (
        "The file names speak of two patients: BraTS-GLI-00012-000-t2f.nii.gz (FLAIR)" in case["warnings"][0]
    )
    touch(tmp_path, "p1/p1_flair.nii", "p2/p2_t1c.nii")
    manifest = tmp_path / "cases.csv"
    manifest.write_text("case,folder,FLAIR,T1c\nx,.,p1/p1_flair.nii,p2/p2_t1c.nii\ny,p1,p1_flair.nii,\n")
    assert run(manifest, "--json") == 2
    found = json.loads(capsys.readouterr().out)
    assert [(case["case"], case["warnings"]) for case in found["cases"]] == [("y", [])]
    assert [bad["code"] for bad in found["refused"]] == ["two-patients"]
    assert "p2_t1c.nii (T1c). The folders speak" in found["refused"][0]["why"]


def test_images_below_the_folder_of_a_case_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    touch(tmp_path / "p1", "flair.nii", "with contrast/t1.nii", "without contrast/t1.nii")
    for folder in (tmp_path, tmp_path / "p1"):
        assert run(folder, "--json") == 0
        (case,) = json.loads(capsys.readouterr().out)["cases"]
        assert [left["file"] for left in case["unused"]] == [
            "with contrast/t1.nii",
            "without contrast/t1.nii",
        ]
        assert "below the case's" in case["unused"][0]["why"]


def test_visits_numbered_twice_are_named_with_their_patient(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    touch(
        tmp_path,
        "Patient-001/week-000-1/CT1.nii",
        "Patient-001/week-000-2/CT1.nii",
        "Patient-002/week-044/T1.nii",
    )
    assert run(tmp_path, "--json") == 0
    assert [case["case"] for case in json.loads(capsys.readouterr().out)["cases"]] == [
        "Patient-001_week-000-1",
        "Patient-001_week-000-2",
        "Patient-002_week-044",
    ]
