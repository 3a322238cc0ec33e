"""The one way out to disk: every file this package writes goes through :func:`atomic_write`."""

from __future__ import annotations

import csv
import glob
import hashlib
import io
import json
import os
import platform
import secrets
import stat
import zlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m3ae_core.errors import OutputError, printable
from m3ae_core.seal import seal_file

if TYPE_CHECKING:  # so that `m3ae --help` need not wait for numpy
    import numpy as np
    import numpy.typing as npt

_TEMPORARY = ".tmp-"
#: Text that begins so is a formula to a spreadsheet.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def atomic_write(path: Path, write: Callable[[Path], object], *, empty: bool = False) -> Path:
    """Write a file so that `path` always holds either the old content or the whole new one.

    `write` receives the path of an empty temporary file in the same folder (with the same suffixes), which nobody
    else can have put there; it is synced to disk and then renamed over `path`. A file that is replaced keeps its mode
    and its group; a link stays one, and the file it leads to is replaced. After any failure the old file is untouched
    and the temporary one is gone. One that a killed process left of an earlier write to `path` goes first. To have
    written nothing is a failure, unless the file may be `empty`.

    Raises
    ------
    OutputError
        If the folder does not exist (``not-writable``) or the file cannot be written: disk full, no
        permission, read-only medium (``write-failed``).
    """
    path = Path(path)
    try:
        ensure_writable(path)
        remove_stale(_target(path).parent, path.name)
        _write_and_rename(path, write, empty)
    except (OSError, RuntimeError) as error:  # the latter is what torch's writer raises, being C++
        raise _failed(path, error) from error
    return path


def remove_left_over(folder: Path) -> None:
    """Remove the temporary files that a killed process left in `folder`; nobody may be writing there."""
    for temporary in folder.rglob(f"{_TEMPORARY}*"):
        temporary.unlink(missing_ok=True)


def remove_stale(folder: Path, name: str | None = None) -> None:
    """Remove the temporary files in `folder`, those of the file `name` if given, whose process runs no more.

    Others may be writing there: files of running processes and of other computers stay.
    """
    ending = "*" if name is None else glob.escape(name)
    for temporary in folder.glob(f"{_writer()}*-{ending}"):
        pid = temporary.name.removeprefix(_writer()).partition("-")[0]
        if pid.isdecimal() and not _runs(int(pid)):
            with suppress(OSError):  # it stays for the next time
                temporary.unlink()


def _runs(pid: int) -> bool:
    """Whether a process of this number runs; it may, where psutil is missing (packed cases are trained so)."""
    try:
        import psutil  # type: ignore[import-untyped]
    except ImportError:
        return True
    return bool(psutil.pid_exists(pid))


def remove(paths: Iterable[Path]) -> None:
    """Remove files that nobody needs any more; one that cannot be removed stays."""
    for path in paths:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def make_folder(folder: Path) -> Path:
    """Make `folder`, and those above it, if it is not there.

    Raises
    ------
    OutputError
        If it cannot be made (code ``not-writable``).
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        problem = f"The folder cannot be made: {error.strerror or error}."
        raise OutputError(problem, "Choose another one.", path=folder, code="not-writable") from error
    return folder


def ensure_writable(path: Path) -> None:
    """Check, before a long run, that `path` can be written.

    Raises
    ------
    OutputError
        If its folder is missing or not writable, or `path` is itself a folder.
    """
    folder = _target(path).parent
    if not folder.is_dir():
        problem, fix = f"The folder {printable(folder)} does not exist.", "Create it or choose another one."
    elif path.is_dir():
        problem, fix = "This is a folder.", "Give the name of a file."
    elif not os.access(folder, os.W_OK):
        problem, fix = f"The folder {printable(folder)} is not writable.", "Choose another folder."
    else:
        return
    raise OutputError(problem, fix, path=path, code="not-writable")


def refuse_overwriting(path: Path, inputs: Iterable[Path]) -> None:
    """Refuse to write over one of the files that are read.

    Raises
    ------
    OutputError
        With code ``over-input``.
    """
    if path.exists() and any(other.exists() and path.samefile(other) for other in inputs):
        raise OutputError(
            "This is one of the input images.", "Choose another name.", path=path, code="over-input"
        )


def write_text(path: Path, text: str) -> Path:
    """Write `text` (UTF-8) atomically."""

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    return atomic_write(path, write, empty=not text)


def write_array(path: Path, array: npt.NDArray[np.generic]) -> Path:
    """Write `array` in numpy's format (.npy) atomically, with a seal that holds under the name of `path`."""

    import numpy as np

    contiguous = np.asarray(array, order="C")
    header = np.lib.format.header_data_from_array_1_0(contiguous)

    def write(temporary: Path) -> None:
        # np.save writes by C's stdio, and says nothing if a full disk refuses the last of it.
        with temporary.open("wb") as stream:
            np.lib.format.write_array_header_1_0(stream, header)
            stream.write(contiguous.data)
        seal_file(temporary, path.name)

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
    """Write `content` as indented JSON atomically; bytes of a name that are no UTF-8 become JSON's own escapes."""
    return write_text(path, printable(json.dumps(content, indent=2, ensure_ascii=False) + "\n"))


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return rows as CSV with a header line; None becomes an empty field, numbers stay numbers.

    Text that a spreadsheet would take for a formula begins with an apostrophe, which makes it text there; bytes of a
    file name that are no UTF-8 are escaped.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerows([_cell(value) for value in row] for row in (columns, *rows))
    return stream.getvalue()


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as hexadecimal text."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _cell(value: object) -> object:
    if not isinstance(value, str):
        return value
    return printable(f"'{value}" if value.startswith(_FORMULA) else value)


def plain_text(cell: str) -> str:
    """Return a text as it was before :func:`csv_text` wrote it."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(_FORMULA) else cell


def _failed(path: Path, error: OSError | RuntimeError) -> OutputError:
    reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]  # torch adds a stack of calls
    return OutputError(
        f"The file could not be written: {reason}.",
        "Free some space or choose another folder; nothing was changed.",
        path=path,
        code="write-failed",
    )


def _writer() -> str:
    """How names of temporary files begin on this computer: the number of a process says nothing about another's."""
    return f"{_TEMPORARY}{zlib.crc32(platform.node().encode('utf-8', 'surrogatepass')):08x}-"


def _target(path: Path) -> Path:
    """Return the file that is replaced when `path` is written: where it leads to, if it is a link."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def _write_and_rename(path: Path, write: Callable[[Path], object], empty: bool) -> None:
    target = _target(path)
    temporary = target.with_name(f"{_writer()}{os.getpid()}-{secrets.token_hex(8)}-{path.name}")
    created = temporary.open("xb")  # a file or link that somebody put there is not followed
    try:
        created.close()
        write(temporary)
        if not empty and not temporary.stat().st_size:
            raise OSError("nothing was written")
        with temporary.open("rb+") as stream:  # some systems sync only what is open for writing
            _keep_access(target, temporary)
            os.fsync(stream.fileno())
        temporary.replace(target)
    finally:
        with suppress(OSError):
            temporary.unlink()
    _sync_folder(target.parent)


def _keep_access(old: Path, new: Path) -> None:
    """Give the file that replaces `old` its mode and, where this user may, its group."""
    if os.name != "posix" or not old.exists():
        return
    known = old.stat()
    with suppress(OSError):
        os.chown(new, -1, known.st_gid)
    new.chmod(stat.S_IMODE(known.st_mode))


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where the platform and the file system let a folder be synced."""
    if os.name == "posix":
        with suppress(OSError):
            handle = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
