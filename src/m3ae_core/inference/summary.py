"""What came of every folder of a cohort: ``summary.csv``, and the closing lines on screen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from m3ae_core.errors import printable
from m3ae_core.files import csv_text, write_text

SUMMARY = "summary.csv"
#: What can come of a folder, in the order in which it is counted.
STATES = ("done", "done before", "edited", "stale", "damaged", "refused", "asked", "empty")
_GOOD = ("done", "done before")
_COLUMNS = ("case", "state", "subset", "warnings", "message")


@dataclass(frozen=True)
class Record:
    """What came of one folder.

    Attributes
    ----------
    case
        Name of the case, or of a folder that is none.
    state
        One of :data:`STATES`.
    subset
        The sequences that were used, such as ``FLAIR+T1``; empty if none were.
    warnings
        What was said about the case.
    message
        Why there is no new result.

    Raises
    ------
    ValueError
        If there is no such state.
    """

    case: str
    state: str
    subset: str = ""
    warnings: tuple[str, ...] = ()
    message: str = ""

    def __post_init__(self) -> None:
        """Refuse a state that would not be counted."""
        if self.state not in STATES:
            raise ValueError(f"There is no state {self.state!r}.")


def write_summary(folder: Path, records: Sequence[Record]) -> Path:
    """Write ``summary.csv``, a row for each record in order of its case; return its path.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    rows = [
        (record.case, record.state, record.subset, " | ".join(record.warnings), record.message)
        for record in sorted(records, key=lambda record: record.case)
    ]
    return write_text(folder / SUMMARY, csv_text(_COLUMNS, rows))


def closing_lines(records: Sequence[Record]) -> list[str]:
    """Return what is said at the end: how many folders in which state, each warning, each case that is not done."""
    counts = Counter(record.state for record in records)
    counted = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    lines = [f"{len(records)} folders: {counted or 'nothing to do'}"]
    warned = [record for record in records if record.warnings]
    if warned:
        lines.append(f"{sum(len(record.warnings) for record in warned)} warnings in {len(warned)} cases:")
        lines += [f"  {record.case}: {warning}" for record in warned for warning in record.warnings]
    lines += [f"{r.state}: {r.case}: {r.message}" for r in records if r.state not in _GOOD]
    return [printable(line) for line in lines]
