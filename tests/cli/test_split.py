"""Splits on the command line: made, checked, and used by both training stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from m3ae_core.cli import main
from m3ae_core.cli.training import LabelledCases, chosen_cases
from m3ae_core.data.splits import PARTS, read_names, read_split
from m3ae_core.methods.method import Stage
from m3ae_core.modalities import BRATS
from m3ae_core.training import run as runs


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


@pytest.fixture
def cases(tmp_path: Path) -> Path:
    """Ten cases by name alone, in two folders as BraTS 2018 has them."""
    for number in range(10):
        case = tmp_path / "cases" / ("HGG" if number % 2 else "LGG") / f"case-{number}"
        case.mkdir(parents=True)
        (case / f"case-{number}_t2.nii.gz").touch()
    return tmp_path / "cases"


def write_lists(folder: Path, **lists: list[str]) -> Path:
    folder.mkdir(exist_ok=True)
    for part, names in lists.items():
        (folder / f"{part}.txt").write_text("\n".join(names))
    return folder


def test_a_split_is_made_and_passes_its_check(
    cases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("split", cases, "--output", tmp_path / "split") == 0
    made = capsys.readouterr().out
    split = read_split(tmp_path / "split")
    assert [len(split.part(part)) for part in PARTS] == [7, 1, 2]
    assert run("check-split", tmp_path / "split", "--cases", cases) == 0
    checked = capsys.readouterr().out
    assert f"sha256 {split.sha256}" in made
    assert f"sha256 {split.sha256}" in checked


def test_the_seed_and_the_fractions_decide(cases: Path, tmp_path: Path) -> None:
    common = ("split", cases, "--validation", 0.2, "--test", 0.3)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert run(*common, "--seed", seed, "--output", tmp_path / name) == 0
    a, b, c = (read_split(tmp_path / name) for name in "abc")
    assert a == b != c
    assert [len(a.part(part)) for part in PARTS] == [5, 2, 3]


def test_a_split_is_not_overwritten(cases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_lists(tmp_path / "split", train=["mine"])
    assert run("split", cases, "--output", folder) == 2
    assert "There is a split here already" in capsys.readouterr().err
    assert read_names(folder / "train.txt") == ("mine",)


def test_check_says_what_is_wrong(cases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_lists(tmp_path / "split", train=["case-1", "case-2"], val=["case-2"])
    assert run("check-split", folder) == 2
    assert "case-2" in capsys.readouterr().err
    write_lists(folder, val=["case-11"])
    assert run("check-split", folder) == 0
    assert run("check-split", folder, "--cases", cases) == 2
    assert "'case-11'" in capsys.readouterr().err
    assert run("check-split", folder, "--protocol", "brats2018-rfnet3") == 2
    assert "train 2 instead of 199" in capsys.readouterr().err


def test_lists_of_the_right_length_are_not_yet_the_published_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"case-{number}" for number in range(285)]
    folder = write_lists(tmp_path / "split", train=names[:199], val=names[199:228], test=names[228:])
    monkeypatch.setattr(
        "m3ae_core.data.protocols.list_md5", lambda names: {29: "82bf3b1b"}.get(len(names), "0")
    )
    assert run("check-split", folder, "--protocol", "brats2018-rfnet3") == 0
    train, val, test, _ = capsys.readouterr().out.splitlines()
    assert val == "val   29  the published list"
    assert "199  NOT the published list" in train
    assert "57  NOT the published list" in test


# --- training --------------------------------------------------------------------------------------


def test_a_split_folder_trains_and_validates(cases: Path, tmp_path: Path) -> None:
    lists = {"train": ["case-3", "case-1"], "val": ["case-2"], "test": ["case-9"]}
    split = write_lists(tmp_path / "split", **lists)
    assert [case.name for case in chosen_cases(cases, split, BRATS)] == lists["train"]
    held_out = LabelledCases(cases, split).held_out(BRATS)
    assert [case.name for case in held_out] == lists["val"]


def test_without_a_validation_list_nothing_validates(cases: Path, tmp_path: Path) -> None:
    split = write_lists(tmp_path / "split", train=["case-3"])
    for chosen in (split, split / "train.txt", None):
        assert LabelledCases(cases, chosen).held_out(BRATS) == ()


def test_what_is_given_goes_before_the_split(cases: Path, tmp_path: Path) -> None:
    split = write_lists(tmp_path / "split", train=["case-3"], val=["case-2"])
    own = write_lists(tmp_path / "own", val=["case-5"]) / "val.txt"
    (other := tmp_path / "other" / "x").mkdir(parents=True)
    (other / "x_t2.nii.gz").touch()
    for given, names in (
        ((None, own), ["case-5"]),
        ((None, split), ["case-2"]),
        ((other.parent, None), ["x"]),
    ):
        assert [case.name for case in LabelledCases(cases, split, *given).held_out(BRATS)] == names


def test_finetune_hands_on_both_parts(cases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = write_lists(tmp_path / "split", train=["case-3", "case-1"], val=["case-2"])
    seen: dict[str, list[str]] = {}

    def fake(
        plan: runs.Plan, stage: Stage, pretrained: Path | None = None, validation: Any = ()
    ) -> list[str]:
        seen[stage.name] = [case.name for case in (*plan.cases, *validation)]
        return []

    monkeypatch.setattr(runs, "train", fake)
    common = ("paper", "--cases", cases, "--split", split, "--output", tmp_path / "run")
    assert run("pretrain", *common) == 0
    assert run("finetune", *common, "--pretrained", tmp_path, "--scheme", "brats2023") == 0
    assert seen == {"pretrain": ["case-3", "case-1"], "finetune": ["case-3", "case-1", "case-2"]}
