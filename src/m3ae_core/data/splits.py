"""Split lists: one case name per line, as the published BraTS splits are stored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from m3ae_core.data.case import CaseFiles
from m3ae_core.errors import InputError


def read_split(path: Path) -> tuple[str, ...]:
    """Read case names from a text file, one a line; blank lines are skipped.

    Raises
    ------
    InputError
        If the file cannot be read, is empty, or repeats a name.
    """
    try:
        names = tuple(line.strip() for line in path.read_text("utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"The list of cases cannot be read: {error}.", "Give a text file.", path=path, code="split"
        ) from error
    if not names or len(set(names)) < len(names):
        problem = "The list of cases repeats a name." if names else "The list of cases is empty."
        raise InputError(problem, "Write each case name once, one a line.", path=path, code="split")
    return names


def select(cases: Sequence[CaseFiles], names: Sequence[str]) -> tuple[CaseFiles, ...]:
    """Return the cases with exactly these names, in that order.

    Raises
    ------
    InputError
        If a name is not among the cases.
    """
    known = {case.name: case for case in cases}
    if absent := [name for name in names if name not in known]:
        raise InputError(
            f"{len(absent)} of {len(names)} listed cases are not in the folder, the first being {absent[0]!r}.",
            "Check the folder and the list.",
            code="split",
        )
    return tuple(known[name] for name in names)
