"""The one way out to disk: every file this package writes goes through :func:`atomic_write`."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from m3ae_core.errors import OutputError, printable

_TEMPORARY = ".tmp-"


def atomic_write(path: Path, write: Callable[[Path], object]) -> Path:
    """Write a file so that `path` always holds either the old content or the whole new one.

    `write` receives a temporary path in the same folder (with the same suffixes); the temporary file is
    synced to disk and then renamed over `path`. After any failure the old file is untouched and the temporary
    one is gone.

    Raises
    ------
    OutputError
        If the folder does not exist (``not-writable``) or the file cannot be written: disk full, no
        permission, read-only medium (``write-failed``).
    """
    path = Path(path)
    try:
        ensure_writable(path)
        _write_and_rename(path, write)
    except OSError as error:
        raise _failed(path, error) from error
    return path


def remove_left_over(folder: Path) -> None:
    """Remove the temporary files that a killed process left in `folder`; nobody may be writing there."""
    for temporary in folder.rglob(f"{_TEMPORARY}*"):
        temporary.unlink(missing_ok=True)


def ensure_writable(path: Path) -> None:
    """Check, before a long run, that `path` can be written.

    Raises
    ------
    OutputError
        If its folder is missing or not writable, or `path` is itself a folder.
    """
    folder = path.parent
    if not folder.is_dir():
        problem, fix = f"The folder {printable(folder)} does not exist.", "Create it or choose another one."
    elif path.is_dir():
        problem, fix = "This is a folder.", "Give the name of a file."
    elif not os.access(folder, os.W_OK):
        problem, fix = f"The folder {printable(folder)} is not writable.", "Choose another folder."
    else:
        return
    raise OutputError(problem, fix, path=path, code="not-writable")


def write_text(path: Path, text: str) -> Path:
    """Write `text` (UTF-8) atomically."""

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    return atomic_write(path, write)


def write_array(path: Path, array: npt.NDArray[np.generic]) -> Path:
    """Write `array` in numpy's format (.npy) atomically."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as stream:  # np.save given a path may append a suffix
            np.save(stream, array)

    return atomic_write(path, write)


def append_text(path: Path, text: str) -> None:
    """Add `text` (UTF-8) to the end of a log.

    The one way to write that is not atomic: a log cut short by a kill keeps all of its earlier lines.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    try:
        with path.open("a", encoding="utf-8") as stream:
            stream.write(text)
    except OSError as error:
        raise _failed(path, error) from error


def write_json(path: Path, content: Any) -> Path:
    """Write `content` as indented JSON atomically."""
    return write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as hexadecimal text."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _failed(path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"The file could not be written: {error.strerror or error}.",
        "Free some space or choose another folder; nothing was changed.",
        path=path,
        code="write-failed",
    )


def _write_and_rename(path: Path, write: Callable[[Path], object]) -> None:
    temporary = path.with_name(f"{_TEMPORARY}{os.getpid()}-{threading.get_ident()}-{path.name}")
    try:
        write(temporary)
        with temporary.open("rb+") as stream:  # some systems sync only what is open for writing
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink()
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where the platform and the file system let a folder be synced."""
    if os.name == "posix":
        with suppress(OSError):
            handle = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
