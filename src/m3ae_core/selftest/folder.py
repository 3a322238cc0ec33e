"""The folder: it can be written, and a file in it survives that its writer is killed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from pathlib import Path

from m3ae_core.errors import OutputError
from m3ae_core.events import Progress
from m3ae_core.files import atomic_write, remove_left_over
from m3ae_core.selftest.check import Check, failed

#: How many writes are killed, and the bytes of the file that is written.
KILLS, SIZE = 6, 1 << 20
#: Overwrites a file again and again, and says when it has begun; it ends by itself if nobody is left to kill it.
WRITER = """
import sys, time
from pathlib import Path
from m3ae_core.files import atomic_write
path, size, count, end = Path(sys.argv[1]), int(sys.argv[2]), 0, time.monotonic() + 30
while time.monotonic() < end:
    count += 1
    atomic_write(path, lambda temporary: temporary.write_bytes(bytes([count % 256]) * size))
    if count == 1:
        print("writing", flush=True)
"""


def check_folder(folder: Path) -> Iterator[Progress | Check]:
    """Check that a file in `folder` survives killed writes, yielding progress and a :class:`Check`.

    All of it happens in a folder of its own within `folder`, which is removed afterwards.
    """
    yield Progress("killing writes", 0, KILLS)
    try:
        free = shutil.disk_usage(folder).free
        with tempfile.TemporaryDirectory(prefix=".m3ae-selftest-", dir=folder) as own:
            damaged, midway = yield from _kill_writes(Path(own) / "file")
    except OutputError as error:
        check = failed("folder", error)
    except OSError as error:
        problem = f"It cannot be written: {error.strerror or type(error).__name__}."
        check = Check("folder", False, problem, "Choose another folder, or free some space.")
    else:
        said = f"Of {KILLS} killed writes ({midway} midway) {damaged or 'none'} damaged the file"
        fix = "Save to a folder on a local disk." if damaged else ""
        check = Check("folder", not damaged, f"{said}; {free / 1e9:.1f} GB are free.", fix)
    yield check


def _kill_writes(path: Path) -> Generator[Progress, None, tuple[int, int]]:
    """Kill a process that overwrites `path`, KILLS times at moments spread over the time of one write.

    Returns how many kills damaged the file, and how many met a write half done.
    """
    started = time.perf_counter()
    atomic_write(path, lambda temporary: temporary.write_bytes(bytes(SIZE)))
    one_write = time.perf_counter() - started
    damaged = midway = 0
    for done in range(KILLS):
        _overwrite_until_killed(path, one_write * (done + 0.5) / KILLS)
        content = path.read_bytes() if path.exists() else b""
        damaged += len(content) != SIZE or len(set(content)) != 1  # a whole file is one byte, repeated
        midway += len(list(path.parent.iterdir())) > 1  # a temporary file was left
        remove_left_over(path.parent)
        yield Progress("killing writes", done + 1, KILLS)
    return damaged, midway


def _overwrite_until_killed(path: Path, seconds: float) -> None:
    """Overwrite `path` from another process, and kill that `seconds` after its first write."""
    with subprocess.Popen(  # noqa: S603  our own program
        [sys.executable, "-P", "-c", WRITER, str(path), str(SIZE)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),  # Windows would open a console
    ) as writer:
        try:
            assert writer.stdout is not None  # noqa: S101  it is piped
            if not writer.stdout.readline():
                problem = "Another process could not write the file."
                fix = "Choose another folder, or free some space."
                raise OutputError(problem, fix, path=path, code="write-failed")
            time.sleep(seconds)
        finally:
            writer.kill()
