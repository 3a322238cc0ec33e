"""Every folder of a cohort is accounted for, on screen and in a table."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from m3ae_core.inference.summary import STATES, Record, closing_lines, write_summary

RECORDS = (
    Record("p3", "refused", message="The file is cut short."),
    Record("p1", "done", "FLAIR+T1", ("T1 looks like T1c.", "The grids differ.")),
    Record("p2", "done before", "FLAIR"),
    Record("=p4", "asked", message='Which is "T1"?'),
)


def test_the_table_has_a_row_for_every_folder(tmp_path: Path) -> None:
    path = write_summary(tmp_path, RECORDS)
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
        "refused: p3: The file is cut short.",
        'asked: =p4: Which is "T1"?',
    ]


@pytest.mark.parametrize("state", STATES)
def test_every_state_is_counted(state: str) -> None:
    assert closing_lines([Record("p", state)])[0] == f"1 folders: 1 {state}"


def test_nothing_at_all(tmp_path: Path) -> None:
    assert closing_lines([]) == ["0 folders: nothing to do"]
    assert write_summary(tmp_path, []).read_text() == "case,state,subset,warnings,message\n"


def test_a_name_that_is_not_utf_8(tmp_path: Path) -> None:
    record = Record("caf\udce9", "refused", message="No.")
    assert write_summary(tmp_path, [record]).read_text().endswith("caf\\udce9,refused,,,No.\n")
    assert closing_lines([record])[1] == "refused: caf\\udce9: No."


def test_an_unknown_state_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="no state 'lost'"):
        Record("p", "lost")
