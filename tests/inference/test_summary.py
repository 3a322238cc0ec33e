"""Every folder of a cohort is accounted for, on screen and in a table."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from m3ae_core.errors import InputError
from m3ae_core.events import CaseFailed, CaseSegmented
from m3ae_core.inference.summary import (
    STATES,
    Record,
    closing_lines,
    empty_folders,
    record_of,
    write_summary,
)

RECORDS = (
    Record("p3", "refused", message="The file is cut short."),
    Record("p1", "done", "FLAIR+T1", ("T1 looks like T1c.", "The grids differ.")),
    Record("p2", "done before", "FLAIR"),
    Record("=p4", "asked", message='Which is "T1"?'),
)


def test_the_table_has_a_row_for_every_folder(tmp_path: Path) -> None:
    path = write_summary(tmp_path / "summary.csv", RECORDS)
    assert path == tmp_path / "summary.csv"
    with path.open(encoding="utf-8", newline="") as stream:
        assert list(csv.reader(stream)) == [
            ["case", "state", "subset", "warnings", "message"],
            ["'=p4", "asked", "", "", 'Which is "T1"?'],
            ["p1", "done", "FLAIR+T1", "T1 looks like T1c. | The grids differ.", ""],
            ["p2", "done before", "FLAIR", "", ""],
            ["p3", "refused", "", "", "The file is cut short."],
        ]


def test_the_end_counts_states_and_names_warnings() -> None:
    assert closing_lines(RECORDS) == [
        "4 folders: 1 done, 1 done before, 1 refused, 1 asked",
        "2 warnings in 1 cases:",
        "  p1: T1 looks like T1c.",
        "  p1: The grids differ.",
        "refused: p3",
        "asked: =p4",
    ]


@pytest.mark.parametrize("state", STATES)
def test_every_state_is_counted(state: str) -> None:
    assert closing_lines([Record("p", state)])[0] == f"1 folders: 1 {state}"


def test_nothing_at_all(tmp_path: Path) -> None:
    assert closing_lines([]) == ["0 folders: nothing to do"]
    assert write_summary(tmp_path / "summary.csv", []).read_text() == "case,state,subset,warnings,message\n"


def test_a_name_that_is_not_utf_8(tmp_path: Path) -> None:
    record = Record("caf\udce9", "refused", message="No.")
    assert (
        write_summary(tmp_path / "summary.csv", [record]).read_text().endswith("caf\\udce9,refused,,,No.\n")
    )
    assert closing_lines([record])[1] == "refused: caf\\udce9"


def test_an_unknown_state_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="no state 'lost'"):
        Record("p", "lost")


@pytest.mark.parametrize(("reused", "state"), [(False, "done"), (True, "done before")])
def test_a_result_carries_its_warnings(reused: bool, state: str) -> None:
    event = CaseSegmented("p", 1, 1, "FLAIR", reused, ("T1 looks like T1c.",))
    assert record_of(event) == Record("p", state, "FLAIR", ("T1 looks like T1c.",))


@pytest.mark.parametrize(
    ("code", "state"),
    [("exists", "stale"), ("edited", "edited"), ("asked", "asked"), ("truncated", "refused")],
)
def test_an_error_s_code_tells_the_state(code: str, state: str) -> None:
    event = CaseFailed("p", 1, 1, InputError("It is so.", "Do this.", code=code))
    assert record_of(event) == Record("p", state, message="It is so. Do this.")


def test_folders_without_a_case_are_found(tmp_path: Path) -> None:
    for name in ("HGG/p1", "HGG/p2", "LGG/p3", "out", ".hidden"):
        (tmp_path / name).mkdir(parents=True)
    used = {tmp_path / "HGG/p1", tmp_path / "out"}
    assert [(record.case, record.state) for record in empty_folders(tmp_path, used)] == [
        ("p2", "empty"),
        ("LGG", "empty"),
    ]
