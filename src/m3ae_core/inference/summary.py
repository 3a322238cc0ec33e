"""What came of every folder of a cohort: ``summary.csv``, and the closing lines on screen."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from m3ae_core.errors import printable
from m3ae_core.events import CaseFailed, CaseSegmented
from m3ae_core.files import csv_text, plain_text, write_text

_BETWEEN = " | "  # two warnings in one cell
#: What can come of a folder, in the order in which it is counted.
STATES = ("done", "done before", "edited", "stale", "damaged", "refused", "asked", "empty")
_GOOD = ("done", "done before")
#: What a run must not end with.
FAILED = ("stale", "damaged", "refused", "asked")
#: The codes of errors that are another state than refused.
_STATE_OF_CODE = {
    "edited": "edited",
    "stale": "stale",
    "exists": "stale",
    "damaged": "damaged",
    "asked": "asked",
    "unclear": "asked",
}
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


def record_of(event: CaseSegmented | CaseFailed) -> Record:
    """Return what an event says."""
    if isinstance(event, CaseFailed):
        state = _STATE_OF_CODE.get(event.error.code, "refused")
        return Record(event.case, state, message=str(event.error))
    state = "edited" if event.edited else "done before" if event.reused else "done"
    return Record(event.case, state, event.present, event.warnings)


def empty_folders(folder: Path, used: Collection[Path]) -> Iterator[Record]:
    """Yield a record for each folder below `folder` that neither is one of those `used` nor holds one.

    A manifest in the place of a folder has none.
    """
    if not folder.is_dir():
        return
    above = {parent for path in used for parent in path.parents}
    for child in sorted(folder.iterdir()):
        if child.name.startswith((".", "__MACOSX")) or not child.is_dir() or child in used:
            continue
        if child in above:
            yield from empty_folders(child, used)
        else:
            yield Record(child.name, "empty", message="No image of a known sequence was found here.")


def write_summary(path: Path, records: Sequence[Record]) -> Path:
    """Write a summary, a row for each record in order of its case; return its path.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    rows = [
        (record.case, record.state, record.subset, _BETWEEN.join(record.warnings), record.message)
        for record in sorted(records, key=lambda record: record.case)
    ]
    return write_text(path, csv_text(_COLUMNS, rows))


def read_summary(path: Path) -> list[Record]:
    """Return the records of a file that :func:`write_summary` wrote."""
    rows = csv.DictReader(io.StringIO(path.read_text("utf-8")))
    plain = ({name: plain_text(cell) for name, cell in row.items()} for row in rows)
    return [
        Record(
            row["case"],
            row["state"],
            row["subset"],
            tuple(row["warnings"].split(_BETWEEN)) if row["warnings"] else (),
            row["message"],
        )
        for row in plain
    ]


def closing_lines(records: Sequence[Record]) -> list[str]:
    """Return what is said at the end: how many folders in which state, each warning, and which cases are not done."""
    counts = Counter(record.state for record in records)
    counted = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    lines = [f"{len(records)} folders: {counted or 'nothing to do'}"]
    warned = [record for record in records if record.warnings]
    if warned:
        lines.append(f"{sum(len(record.warnings) for record in warned)} warnings in {len(warned)} cases:")
        lines += [f"  {record.case}: {warning}" for record in warned for warning in record.warnings]
    lines += [f"{record.state}: {record.case}" for record in records if record.state not in _GOOD]
    return [printable(line) for line in lines]
