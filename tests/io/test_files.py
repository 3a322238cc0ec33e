"""A file that this package writes holds the old content or the new, whatever happens in between."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import os
import platform
import re
import signal
import stat
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from m3ae_core.errors import OutputError
from m3ae_core.files import (
    append_text,
    atomic_write,
    csv_text,
    ensure_writable,
    make_folder,
    refuse_overwriting,
    remove_left_over,
    remove_stale,
    sha256,
    write_array,
    write_json,
    write_text,
)

OLD, NEW = b"old " * 1000, b"new " * 2000


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "result.nii.gz"
    path.write_bytes(OLD)
    return path


def put(content: bytes) -> Callable[[Path], None]:
    def write(temporary: Path) -> None:
        temporary.write_bytes(content)

    return write


def half_then(error: BaseException) -> Callable[[Path], None]:
    def write(temporary: Path) -> None:
        temporary.write_bytes(NEW[: len(NEW) // 2])
        raise error

    return write


def assert_untouched(target: Path) -> None:
    assert target.read_bytes() == OLD
    assert list(target.parent.iterdir()) == [target], "a temporary file was left behind"


def test_replaces_and_creates(target: Path) -> None:
    assert atomic_write(target, put(NEW)) == target
    assert target.read_bytes() == NEW
    fresh = target.with_name("fresh.json")
    atomic_write(fresh, put(OLD))
    assert fresh.read_bytes() == OLD
    assert set(target.parent.iterdir()) == {target, fresh}


def test_the_temporary_file_keeps_folder_and_suffixes(target: Path) -> None:
    seen: list[Path] = []

    def write(temporary: Path) -> None:
        seen.append(temporary)
        assert target.read_bytes() == OLD, "the old content must stay until the new one is complete"
        temporary.write_bytes(NEW)

    atomic_write(target, write)
    assert seen[0].parent == target.parent
    assert seen[0].suffixes[-2:] == [".nii", ".gz"]
    assert seen[0].name.startswith(".")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_an_error_while_writing_keeps_the_old_file(code: int, target: Path) -> None:
    with pytest.raises(OutputError, match=os.strerror(code)) as caught:
        atomic_write(target, half_then(OSError(code, os.strerror(code))))
    assert caught.value.code == "write-failed"
    assert caught.value.path == target
    assert_untouched(target)


def test_an_error_without_a_number_is_told_too(target: Path) -> None:
    with pytest.raises(OutputError, match="the cable came off") as caught:
        atomic_write(target, half_then(OSError("the cable came off")))
    assert caught.value.problem == "The file could not be written: the cable came off."
    assert caught.value.fix == "Free some space or choose another folder; nothing was changed."
    assert_untouched(target)


def test_an_error_of_torch_s_writer_is_told_in_its_first_line(target: Path) -> None:
    with pytest.raises(OutputError, match="written: the file write failed\\. Free") as caught:
        atomic_write(target, half_then(RuntimeError("the file write failed\nframe #0: c10::Error")))
    assert caught.value.code == "write-failed"
    assert_untouched(target)


@pytest.mark.parametrize("error", [ValueError("a mistake"), MemoryError(), KeyboardInterrupt()])
def test_other_errors_pass_but_leave_nothing(error: BaseException, target: Path) -> None:
    with pytest.raises(type(error)):
        atomic_write(target, half_then(error))
    assert_untouched(target)


@pytest.mark.parametrize("step", ["replace", "fsync"])
def test_a_failing_last_step_keeps_the_old_file(
    step: str, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(*{"replace": (Path, "replace", fail), "fsync": (os, "fsync", fail)}[step])
    with pytest.raises(OutputError, match="Input/output error"):
        atomic_write(target, put(NEW))
    assert_untouched(target)


def test_a_writer_that_writes_nothing_is_an_error(target: Path) -> None:
    with pytest.raises(OutputError):
        atomic_write(target, lambda _: None)
    assert_untouched(target)


@pytest.mark.skipif(os.name != "posix", reason="POSIX descriptors")
def test_content_reaches_the_disk_before_the_rename(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def watched_fsync(handle: int) -> None:
        order.append("sync folder" if os.fstat(handle).st_mode & 0o040000 else "sync file")
        fsync(handle)

    def watched_replace(self: Path, other: Path) -> Path:
        order.append("rename")
        return replace(self, other)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(Path, "replace", watched_replace)
    atomic_write(target, put(NEW))
    assert order == ["sync file", "rename", "sync folder"]


@pytest.mark.skipif(os.name != "posix", reason="POSIX descriptors")
def test_the_file_is_synced_by_who_may_write_it_and_closed(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    synced: list[int] = []
    fsync = os.fsync

    def watched(handle: int) -> None:
        if not os.fstat(handle).st_mode & 0o040000:
            assert fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR
        synced.append(handle)
        fsync(handle)

    monkeypatch.setattr(os, "fsync", watched)
    atomic_write(target, put(NEW))
    assert len(synced) == 2
    for handle in synced:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(handle)


@pytest.mark.skipif(os.name != "posix", reason="POSIX folders")
def test_a_folder_that_cannot_be_synced_is_no_failure(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Network file systems refuse it; by then the file is complete."""
    fsync = os.fsync

    def refuse_folders(handle: int) -> None:
        if os.fstat(handle).st_mode & 0o040000:
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", refuse_folders)
    atomic_write(target, put(NEW))
    assert target.read_bytes() == NEW


def test_two_threads_do_not_share_a_temporary_file(target: Path) -> None:
    barrier = threading.Barrier(2)
    failures: list[Exception] = []

    def run(content: bytes) -> None:
        def write(temporary: Path) -> None:
            temporary.write_bytes(content)
            barrier.wait(10)

        try:
            atomic_write(target, write)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(content,)) for content in (OLD, NEW)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not failures
    assert target.read_bytes() in (OLD, NEW)
    assert list(target.parent.iterdir()) == [target]


# --- whose file it is, and where it lies -------------------------------------------------------------

posix = pytest.mark.skipif(os.name != "posix", reason="POSIX modes, groups and links")


@posix
@pytest.mark.parametrize("mode", [0o640, 0o600, 0o664, 0o444])
def test_a_replaced_file_keeps_its_mode(mode: int, target: Path) -> None:
    target.chmod(mode)
    atomic_write(target, put(NEW))
    assert stat.S_IMODE(target.stat().st_mode) == mode
    assert target.read_bytes() == NEW


@posix
def test_a_new_file_has_the_mode_of_any_new_file(target: Path) -> None:
    plain, fresh = target.with_name("plain"), target.with_name("fresh")
    plain.write_bytes(NEW)
    atomic_write(fresh, put(NEW))
    assert fresh.stat().st_mode == plain.stat().st_mode


@posix
def test_a_replaced_file_keeps_its_group_where_that_is_allowed(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []

    def chown(path: Path, user: int, group: int) -> None:
        asked.append((user, group))
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "chown", chown)
    atomic_write(target, put(NEW))
    assert asked == [(-1, target.stat().st_gid)]
    assert target.read_bytes() == NEW


@posix
def test_a_link_stays_a_link(target: Path) -> None:
    """The file it leads to is replaced, and the temporary file lies in that file's folder."""
    seen: list[Path] = []
    folder = target.parent / "links"
    folder.mkdir()
    link = folder / "labels.nii"
    link.symlink_to(Path("..") / target.name)
    assert atomic_write(link, lambda new: seen.append(new) or new.write_bytes(NEW)) == link
    assert link.is_symlink()
    assert target.read_bytes() == NEW
    assert seen[0].parent == target.parent
    assert seen[0].name.endswith("-labels.nii")
    assert list(folder.iterdir()) == [link]


@posix
def test_a_link_into_a_folder_that_is_missing_is_refused(target: Path) -> None:
    link = target.with_name("link")
    link.symlink_to(target.parent / "missing" / "file")
    with pytest.raises(OutputError) as caught:
        ensure_writable(link)
    assert caught.value.code == "not-writable"


@posix
def test_what_lies_at_the_temporary_name_is_not_written_through(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    monkeypatch.setattr("m3ae_core.files.secrets.token_hex", lambda _: "known")
    atomic_write(target, lambda new: seen.append(new.name) or new.write_bytes(OLD))
    victim = target.with_name("victim")
    victim.write_bytes(OLD)
    target.with_name(seen[0]).symlink_to(victim)
    with pytest.raises(OutputError, match="File exists"):
        atomic_write(target, put(NEW))
    assert victim.read_bytes() == target.read_bytes() == OLD


def test_names_of_temporary_files_differ(target: Path) -> None:
    seen: list[str] = []
    for _ in range(2):
        atomic_write(target, lambda new: seen.append(new.name) or new.write_bytes(NEW))
    assert seen[0] != seen[1]


# --- what killed processes left ---------------------------------------------------------------------


@pytest.fixture
def left(target: Path) -> list[Path]:
    """Temporary files of `target` and of another file, of a process that has ended."""
    names: list[str] = []
    write = "import sys; from pathlib import Path; from m3ae_core.files import atomic_write\n" + (
        "def stop(temporary):\n    temporary.write_text('half'); import os; os._exit(9)\n"
        "atomic_write(Path(sys.argv[1]), stop)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    for path in (target, target.with_name("other.json")):
        subprocess.run([sys.executable, "-c", write, str(path)], env=environment, timeout=60)
        names += {each.name for each in target.parent.glob(".tmp-*")} - set(names)
    assert len(names) == 2
    return [target.with_name(name) for name in names]


def test_the_next_write_removes_what_is_left_of_the_same_file(target: Path, left: list[Path]) -> None:
    atomic_write(target, put(NEW))
    assert [path.exists() for path in left] == [False, True]


def test_all_that_dead_processes_left_goes(target: Path, left: list[Path]) -> None:
    remove_stale(target.parent)
    assert_untouched(target)


@pytest.mark.parametrize("part", [2, 1])
def test_files_of_running_processes_and_other_computers_stay(
    part: int, target: Path, left: list[Path]
) -> None:
    """.tmp-COMPUTER-PROCESS-RANDOM-name"""
    pieces = left[0].name.split("-", 4)
    pieces[part] = {1: "00000000", 2: str(os.getpid())}[part]
    kept = left[0].rename(target.with_name("-".join(pieces)))
    remove_stale(target.parent)
    atomic_write(target, put(NEW))
    assert set(target.parent.iterdir()) == {target, kept}


def test_the_name_of_a_temporary_file_says_who_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The computer as eight hexadecimal digits, also where its name is not text."""
    target, seen = tmp_path / "result.nii", list[str]()
    for name, known in (("scanner-7", b"scanner-7"), ("caf\udce9", b"caf\xed\xb3\xa9")):
        monkeypatch.setattr(platform, "node", lambda name=name: name)
        atomic_write(target, lambda temporary: seen.append(temporary.name) or temporary.write_bytes(OLD))
        who = f"{zlib.crc32(known):08x}-{os.getpid()}"
        assert re.fullmatch(rf"\.tmp-{who}-[0-9a-f]{{16}}-result\.nii", seen.pop())


@pytest.mark.parametrize("name", ["case[1].nii", "a*.nii", "-.nii"])
def test_names_are_no_patterns(name: str, target: Path, left: list[Path]) -> None:
    """What a dead process left of one file is found by that file's name, whatever signs are in it."""
    odd = target.with_name(name)
    own = left[0].rename(left[0].with_name(left[0].name.replace(target.name, name)))
    others = [target.with_name(own.name.removesuffix(name) + other) for other in ("case1.nii", "ab.nii")]
    for other in others:
        other.write_bytes(OLD)
    atomic_write(odd, put(NEW))
    assert not own.exists()
    assert all(other.exists() for other in others)


def test_other_hidden_files_stay(target: Path, left: list[Path]) -> None:
    strange = left[0].rename(target.with_name("-".join([*left[0].name.split("-")[:2], "x1", "1", "a.nii"])))
    remove_stale(target.parent)
    assert set(target.parent.iterdir()) == {target, strange}


def test_where_nobody_writes_every_temporary_file_goes(target: Path, left: list[Path]) -> None:
    below = target.parent / "run" / "substitute"
    below.mkdir(parents=True)
    for name in (f".tmp-00000000-{os.getpid()}-1-a.npy", "kept.tmp-1", ".lock"):
        (below / name).write_bytes(OLD)
    remove_left_over(target.parent)
    assert {path for path in target.parent.rglob("*") if path.is_file()} == {
        target,
        below / "kept.tmp-1",
        below / ".lock",
    }


def test_what_cannot_be_removed_stops_no_write(
    target: Path, left: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    unlink = Path.unlink

    def refuse(self: Path, missing_ok: bool = False) -> None:
        if self in left:
            raise PermissionError(errno.EACCES, "Permission denied")
        unlink(self, missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    atomic_write(target, put(NEW))
    assert target.read_bytes() == NEW


# --- where nothing can be written ------------------------------------------------------------------


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="gone") as caught:
        ensure_writable(tmp_path / "gone" / "a.nii")
    assert (caught.value.code, caught.value.path) == ("not-writable", tmp_path / "gone" / "a.nii")
    assert caught.value.problem == f"The folder {tmp_path / 'gone'} does not exist."
    assert caught.value.fix == "Create it or choose another one."
    with pytest.raises(OutputError):
        write_text(tmp_path / "gone" / "a.txt", "x")
    assert not list(tmp_path.iterdir())


def test_a_folder_in_the_file_s_place(tmp_path: Path) -> None:
    (tmp_path / "a.nii").mkdir()
    with pytest.raises(OutputError, match=r"This is a folder\. Give the name of a file\."):
        atomic_write(tmp_path / "a.nii", put(NEW))
    with pytest.raises(OutputError):
        ensure_writable(Path())


def test_a_folder_without_permission(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: (path, mode) != (target.parent, os.W_OK))
    with pytest.raises(OutputError, match=r"is not writable\. Choose another folder\.") as caught:
        atomic_write(target, put(NEW))
    assert (caught.value.code, caught.value.path) == ("not-writable", target)
    assert caught.value.problem == f"The folder {target.parent} is not writable."
    monkeypatch.undo()
    assert_untouched(target)


def test_a_folder_that_cannot_be_made(target: Path) -> None:
    made = make_folder(target.parent / "a" / "b")
    assert made.is_dir()
    assert make_folder(made) == made
    for path in (target, target / "below"):
        with pytest.raises(OutputError, match=r"cannot be made: (File exists|Not a directory)\.") as caught:
            make_folder(path)
        assert (caught.value.code, caught.value.path) == ("not-writable", path)
        assert caught.value.fix == "Choose another one."


def test_a_folder_that_cannot_be_made_for_no_stated_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("the cable came off")

    monkeypatch.setattr(Path, "mkdir", fail)
    with pytest.raises(OutputError, match=r"cannot be made: the cable came off\. Choose another one\."):
        make_folder(tmp_path / "a")


def test_a_name_too_long(tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        atomic_write(tmp_path / ("x" * 5000), put(NEW))


def test_an_ordinary_place_is_writable(target: Path) -> None:
    ensure_writable(target)
    ensure_writable(target.with_name("new.nii"))
    assert_untouched(target)


def test_a_file_that_is_read_is_not_written_over(target: Path) -> None:
    """By whatever name it goes; files that do not exist are nobody's."""
    other, link = target.with_name("other.nii"), target.with_name("link.nii")
    other.write_bytes(OLD)
    link.hardlink_to(target)
    gone = target.with_name("gone.nii")
    for path in (target, link, target.parent / "." / target.name):
        with pytest.raises(OutputError, match=r"one of the input images\. Choose another name\.") as caught:
            refuse_overwriting(path, [gone, other, target])
        assert (caught.value.code, caught.value.path) == ("over-input", path)
        refuse_overwriting(path, [gone, other])
    refuse_overwriting(gone, [gone, target])


# --- text, JSON, sums ------------------------------------------------------------------------------


@pytest.fixture(params=["UTF-8", "latin-1"])
def computer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Computers of another own encoding, as those with Windows."""
    monkeypatch.setattr(io, "text_encoding", lambda encoding, *_: encoding or request.param)


@pytest.mark.usefixtures("computer")
def test_text_and_json_are_utf_8(tmp_path: Path) -> None:
    content = {"name": "Ångström → 中文", "values": [1, 2.5, None]}
    path = write_json(tmp_path / "a.json", content)
    assert json.loads(path.read_text("utf-8")) == content
    assert path.read_text("utf-8") == (
        '{\n  "name": "Ångström → 中文",\n  "values": [\n    1,\n    2.5,\n    null\n  ]\n}\n'
    )
    assert write_text(tmp_path / "a.txt", "é\n").read_bytes() == b"\xc3\xa9\n"


@pytest.mark.usefixtures("computer")
@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_text_in_csv_is_no_formula(start: str) -> None:
    text = start + 'HYPERLINK("x"), y'
    (header, cells) = csv.reader(io.StringIO(csv_text(("case", "dice"), [(text, -1.5)]), newline=""))
    assert header == ["case", "dice"]
    assert cells == ["'" + text, "-1.5"]


def test_csv_of_other_cells_is_plain() -> None:
    rows = [("a=b-c", None, -3), ("caf\udce9", 0.5, "")]
    assert csv_text(("a", "b", "c"), rows) == "a,b,c\na=b-c,,-3\ncaf\\udce9,0.5,\n"


def test_json_keeps_names_that_are_not_utf_8(target: Path) -> None:
    write_json(target, {"file": "caf\udce9 é"})
    assert json.loads(target.read_text("utf-8")) == {"file": "caf\udce9 é"}


def test_text_may_be_empty(target: Path) -> None:
    write_text(target, "")
    assert target.read_bytes() == b""


def test_a_log_grows_by_its_end(target: Path) -> None:
    log = target.with_name("log.jsonl")
    for line in ("é\n", "2\n"):
        append_text(log, line)
    assert log.read_bytes() == b"\xc3\xa9\n2\n"
    for path, reason in ((target.parent, "Is a directory"), (target / "a.log", "Not a directory")):
        with pytest.raises(OutputError, match=f"could not be written: {reason}") as caught:
            append_text(path, "x")
        assert (caught.value.code, caught.value.path) == ("write-failed", path)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(24.0).reshape(2, 3, 4),
        np.arange(24).reshape(2, 3, 4).transpose(2, 0, 1),
        np.array([[True], [False]]),
        np.zeros((0, 3), np.uint8),
        np.float32(1.5),
    ],
)
def test_arrays_come_back(array: np.ndarray, tmp_path: Path) -> None:
    found = np.load(write_array(tmp_path / "a.npy", array), allow_pickle=False)
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(found, array)


def test_json_that_cannot_be_written_leaves_the_old_file(target: Path) -> None:
    with pytest.raises(TypeError):
        write_json(target, {"tensor": object()})
    assert_untouched(target)


def test_sha256(target: Path) -> None:
    assert sha256(target) == hashlib.sha256(OLD).hexdigest()


# --- real failures, in a process of their own ------------------------------------------------------

ENDLESS = """
import sys
from pathlib import Path
from m3ae_core.files import atomic_write
target = Path(sys.argv[1])
turn = 0
while True:
    turn += 1
    content = bytes([65 + turn % 2]) * 3_000_000
    def write(temporary):
        with temporary.open("wb") as stream:
            for start in range(0, len(content), 100_000):
                stream.write(content[start : start + 100_000])
                stream.flush()
                if turn == 1 and start == 1_000_000:
                    print("half", flush=True)
                    if sys.argv[2] == "wait":
                        sys.stdin.read()
    atomic_write(target, write)
    if turn == 2:
        print("twice", flush=True)
"""


def start(target: Path, mode: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    return subprocess.Popen(
        [sys.executable, "-c", ENDLESS, str(target), mode],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
    )


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate(timeout=20)
    if os.name == "posix":
        assert process.returncode == -signal.SIGKILL


def test_killed_halfway_through_the_first_write(target: Path) -> None:
    process = start(target, "wait")
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "half\n"
    finally:
        end(process)
    assert target.read_bytes() == OLD


@pytest.mark.parametrize("delay", [0.0, 0.0031, 0.0073, 0.0117, 0.0193])
def test_killed_at_any_moment(delay: float, target: Path) -> None:
    process = start(target, "go")
    try:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == ["half\n", "twice\n"]
        time.sleep(delay)
    finally:
        end(process)
    content = target.read_bytes()
    assert len(content) == 3_000_000
    assert content in (b"A" * 3_000_000, b"B" * 3_000_000)


@pytest.mark.skipif(os.name != "posix", reason="needs resource limits")
def test_a_real_limit_on_the_file_s_size(target: Path) -> None:
    code = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from m3ae_core.errors import OutputError\n"
        "from m3ae_core.files import atomic_write\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n"
        "    atomic_write(Path(sys.argv[1]), lambda temporary: temporary.write_bytes(bytes(200_000)))\n"
        "except OutputError as error:\n"
        "    print(error.code)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    done = subprocess.run(
        [sys.executable, "-c", code, str(target)], capture_output=True, text=True, env=environment, timeout=60
    )
    assert done.stdout == "write-failed\n", done.stderr
    assert_untouched(target)
