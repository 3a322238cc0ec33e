"""The one family of errors a user can meet.

Every message says three things: which file (or setting), what is wrong, and what to do.
"""

from __future__ import annotations

from pathlib import Path


class M3AEError(Exception):
    """A problem the user can act on.

    Parameters
    ----------
    problem
        What is wrong, as one sentence without the file's name.
    fix
        What to do about it, as one sentence.
    path
        The file or folder concerned, if there is one.
    code
        A stable identifier such as ``"truncated"``, for tests, logs and documentation.
    """

    def __init__(
        self, problem: str, fix: str, *, path: Path | str | None = None, code: str = "invalid"
    ) -> None:
        self.problem = problem
        self.fix = fix
        self.path = None if path is None else Path(path)
        self.code = code
        where = "" if path is None else f"{printable(path)}: "
        super().__init__(f"{where}{problem} {fix}")


class InputError(M3AEError):
    """An image, a label map or a set of them cannot be used."""


class BundleError(M3AEError):
    """A model bundle or a checkpoint cannot be used."""


class ConfigError(M3AEError):
    """A recipe or an argument is not valid."""


class OutputError(M3AEError):
    """A result cannot be written."""


def printable(path: Path | str) -> str:
    """Return `path` as text that every terminal can show (undecodable bytes are escaped)."""
    return str(path).encode("utf-8", "backslashreplace").decode("utf-8")
