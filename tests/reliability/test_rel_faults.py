"""A disk that is full, read-only, forbidden or broken, at every point where a file is written.

After each fault all files are the old ones (those finished before it: the whole new ones), no temporary file is left,
and the user is told so by an :class:`OutputError` that names the file. Faults are put into the calls by which Python
writes; what libraries write from C meets real ones: a limit on the size of files, and a file system that is full.
"""

from __future__ import annotations

import builtins
import errno
import gc
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import asdict
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch

from m3ae_core import __version__
from m3ae_core.bundle import save_bundle
from m3ae_core.data.dataset import cache_case
from m3ae_core.data.phantom import AFFINE, phantom, write_phantom
from m3ae_core.data.splits import Split, write_split
from m3ae_core.errors import OutputError
from m3ae_core.evaluation.registry import Overlap
from m3ae_core.evaluation.results import Measurement, Model, Results, table_order
from m3ae_core.evaluation.slices import Slices, write_slices
from m3ae_core.evaluation.store import slices_file, write_measurement
from m3ae_core.files import append_text, write_array, write_json, write_text
from m3ae_core.inference.predictor import Prediction, save_prediction
from m3ae_core.inference.summary import Record, write_summary
from m3ae_core.io.case import Case
from m3ae_core.io.folders.manifest import write_manifest
from m3ae_core.io.split4d import split_4d
from m3ae_core.io.volume import Volume, write_image, write_labels
from m3ae_core.io.weights import save_checkpoint, save_tensors
from m3ae_core.modalities import BRATS
from m3ae_core.packed.pack import pack
from m3ae_core.regions import BRATS_2023
from m3ae_core.report.benchmark import write_report
from m3ae_core.report.case import write_case_report
from m3ae_core.report.curves import save_curves
from m3ae_core.report.figure import save_figure
from m3ae_core.seal import KEY
from m3ae_core.training.identity import keep_identity
from m3ae_core.training.record import rewind
from tiny import RECIPE, random_bundle

CODES = (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO)
PROPERTY = "I/O faults injected, every write point"
GOAL = "≥ 200, old file intact"
#: Writes version 0 or 1.
Write = Callable[[int], object]
Snapshot = dict[str, bytes]


# --- all that writes --------------------------------------------------------------------------------


def noise(version: int, shape: tuple[int, ...] = (24, 20, 16)) -> np.ndarray:
    return np.random.default_rng(version).integers(0, 4, shape, np.uint8)


@cache
def predicted(version: int) -> Prediction:
    record: dict[str, Any] = {"version": version, "reliability": None, "made_by": {}}
    return Prediction(phantom(seed=version)[1], {}, AFFINE, BRATS_2023, BRATS.subset(("T2",)), (), record)


@cache
def case() -> Case:
    return Case("case", BRATS, {"T2": Volume(phantom()[0]["T2"], AFFINE)})


def displayed() -> Any:
    """A session with a segmentation on display, without a window."""
    from napari.components import ViewerModel

    from napari_m3ae.chosen import Recovered
    from napari_m3ae.jobs import InlineRunner
    from napari_m3ae.session import Session

    session = Session(ViewerModel(), InlineRunner())
    session.show(predicted(0), Recovered("case", frozenset({"source"}), {}))
    return session


def paint(session: Any, version: int) -> None:
    session.shown.layer.data_setitem((np.array([5]), np.array([5]), np.array([5])), 1 + version)


def labels(folder: Path) -> Write:
    return lambda version: write_labels(folder / "labels.nii", noise(version), AFFINE)


def image(folder: Path) -> Write:
    return lambda version: write_image(folder / "image.nii.gz", noise(version), AFFINE)


def prediction(folder: Path) -> Write:
    return lambda version: save_prediction(predicted(version), folder / "mask.nii.gz")


def text(folder: Path) -> Write:
    return lambda version: write_text(folder / "a.txt", f"{version}" * 20_000)


def table(folder: Path) -> Write:
    return lambda version: write_json(folder / "a.json", [version] * 5000)


def array(folder: Path) -> Write:
    return lambda version: write_array(folder / "a.npy", noise(version))


def tensors(folder: Path) -> Write:
    return lambda version: save_tensors(folder / "a.safetensors", {"a": torch.full((9999,), float(version))})


def bundle(folder: Path) -> Write:
    bundles = [random_bundle(seed=version) for version in (0, 1)]
    return lambda version: save_bundle(bundles[version], folder / "bundle")


def new_bundle(folder: Path) -> Write:
    """Into a folder that is not there yet."""
    made = random_bundle()
    return lambda version: save_bundle(made, folder / "new" / "bundle") if version else None


def checkpoint(folder: Path) -> Write:
    return lambda version: save_checkpoint(folder / "a.pt", {"a": torch.full((99_999,), float(version))})


def checkpoint_under_a_foreign_name(folder: Path) -> Write:
    """Where a path is not ASCII, torch writes by other means."""
    return lambda version: save_checkpoint(folder / "ü.pt", {"a": torch.full((99_999,), float(version))})


def measurement(folder: Path) -> Write:
    return lambda version: write_measurement(folder / "case.json", measured(MODEL, f"case {version}"))


def slices(folder: Path) -> Write:
    def write(version: int) -> None:
        plane = noise(version, (90, 90))
        write_slices(folder / "case.npz", Slices({"T2": plane}, plane, {"T2": plane}))

    return write


MODEL = Model("model", "a" * 64, "1" * 64)


def measured(model: Model, name: str) -> Measurement:
    found = Overlap(800, 900, 680, 1.0, 373.0, {"lesion_dice": 0.8, "hd95_mm": 5.0})
    rows = {str(subset): dict.fromkeys(("WT", "TC", "ET"), found) for subset in table_order(BRATS)}
    key = {"bundle_sha256": model.sha256, "fingerprint": model.fingerprint, "case": name}
    return Measurement({**key, "case_sha256": "c" * 64, "code_version": __version__}, "cpu", rows)


def benchmark_report(folder: Path) -> Write:
    def results(version: int) -> Results:
        name = f"case {version}"
        record = {
            "notice": "Research use only.",
            "made_by": {"napari-m3ae": __version__},
            "bundles": [asdict(MODEL)],
            "scheme": "brats2023",
            "conventions": {},
            "arithmetic": "float32",
            "devices": ["cpu"],
            "case_list_sha256": "d" * 64,
            "cases": [{"name": name, "sha256": "c" * 64}],
            "versions": {"python": "3"},
        }
        path = slices_file(folder / "results", MODEL.fingerprint, name)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            plane = np.zeros((20, 16), np.uint8)
            subsets = {str(subset): plane for subset in table_order(BRATS)}
            write_slices(path, Slices(dict.fromkeys(BRATS.names, plane), plane, subsets))
        return Results(folder, record, (MODEL,), BRATS.names, ("WT", "TC", "ET"), (measured(MODEL, name),))

    made = [results(version) for version in (0, 1)]
    shutil.rmtree(folder / "results")
    return lambda version: write_report(made[version])


def case_report(folder: Path) -> Write:
    return lambda version: write_case_report(folder / "case.html", case(), predicted(version))


def figure(folder: Path) -> Write:
    model = random_bundle()
    return lambda version: save_figure(
        folder / "case.png", case(), model, predicted(version), None, BRATS_2023
    )


def curves(folder: Path) -> Write:
    runs = [folder.parent / f"run-{version}" for version in (0, 1)]
    for version, run in enumerate(runs):
        run.mkdir(exist_ok=True)
        (run / "log.jsonl").write_text(
            "".join(json.dumps({"epoch": e, "terms": {"loss": e + version}}) + "\n" for e in (1, 2))
        )
    return lambda version: save_curves(runs[version], folder / "curves.png")


def split(folder: Path) -> Write:
    """A split is written once; version 0 is none."""
    made = Split(train=("a", "b"), val=("c",), test=("d",))
    return lambda version: write_split(made, folder / "split") if version else None


def summary(folder: Path) -> Write:
    return lambda version: write_summary(folder / "summary.csv", [Record(f"case-{version}", "done")])


def manifest(folder: Path) -> Write:
    files = [write_phantom(folder.parent / "cases", f"case-{n}", shape=(20, 24, 16)) for n in (0, 1)]
    return lambda version: write_manifest(files[version:], folder / "cases.csv")


def parts_of_4d(folder: Path) -> Write:
    """Files are never replaced: version 0 is none."""
    source = folder.parent / "four.nii.gz"
    content = np.random.default_rng(0).random((20, 24, 16, 4), np.float32)
    nibabel.save(nibabel.Nifti1Image(content, np.diag([2.0, 2, 2, 1])), source)
    return lambda version: split_4d(source, BRATS.names, folder / "parts") if version else None


def packed(folder: Path) -> Write:
    """Packed cases are never replaced: version 0 is none."""
    files = write_phantom(folder.parent / "cases", "case", shape=(20, 24, 16))
    return lambda version: [*pack(RECIPE, [files], {}, folder / "packed")] if version else None


def identity(folder: Path) -> Write:
    def write(version: int) -> None:
        keep_identity(folder, (), pretrained=str(version))

    return write


def log(folder: Path) -> Write:
    """What a resumed run drops from its log."""

    def write(version: int) -> None:
        if version == 0:
            (folder / "log.jsonl").write_text("".join(f'{{"epoch": {epoch}}}\n' for epoch in range(2000)))
        else:
            rewind(folder / "log.jsonl", 1000)

    return write


def cache(folder: Path) -> Write:
    files = write_phantom(folder.parent / "cases", "case", shape=(20, 24, 16))
    return lambda version: cache_case(files, RECIPE.model, BRATS_2023, folder) if version else None


def autosave(folder: Path) -> Write:
    from napari_m3ae.autosave import Autosave

    session = displayed()

    def write(version: int) -> None:
        paint(session, version)
        if not Autosave(session, folder / "autosave").save_now():  # it has told the user why
            raise OutputError("", "", path=folder / "autosave", code="write-failed")

    return write


def viewer(folder: Path) -> Write:
    """What the panel's Save writes."""
    session = displayed()

    def write(version: int) -> None:
        paint(session, version)
        if not session.save(folder / "saved.nii.gz"):  # it has told the user why
            raise OutputError("", "", path=folder, code="write-failed")

    return write


WRITERS = (
    labels,
    image,
    prediction,
    text,
    table,
    array,
    tensors,
    bundle,
    new_bundle,
    checkpoint,
    checkpoint_under_a_foreign_name,
    measurement,
    slices,
    benchmark_report,
    case_report,
    figure,
    curves,
    split,
    summary,
    manifest,
    parts_of_4d,
    packed,
    identity,
    log,
    cache,
    autosave,
    viewer,
)


# --- what is on disk --------------------------------------------------------------------------------


class Place:
    """A folder with the old files in it, for one writer."""

    def __init__(self, folder: Path, made: Callable[[Path], Write]) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self.write = made(folder)
        self.write(0)
        self.old = self.files()
        self.write(1)
        self.new = self.files()
        assert self.old != self.new
        self.reset()

    def files(self) -> Snapshot:
        found = {path: path.relative_to(self.folder) for path in sorted(self.folder.rglob("*"))}
        return {str(name): path.read_bytes() for path, name in found.items() if path.is_file()}

    def reset(self) -> None:
        for path in self.folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for name, content in self.old.items():
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_bytes(content)

    @property
    def changed(self) -> str:
        """What is wrong where no file can have been written."""
        return "" if same(self.files(), self.old) else "something was written"

    def flaw(self) -> str:
        """Write version 1 and say what is wrong with the outcome, be it a success or an error."""
        failed: OutputError | None = None
        try:
            self.write(1)
        except OutputError as error:
            failed = error
        except BaseException as error:
            return f"{type(error).__name__} instead of an OutputError: {error}"
        found = self.files()
        if left := [name for name in found if ".tmp-" in name]:
            return f"left: {left}"
        if failed is None:
            return "" if same(found, self.new) else "no error, but not what was to be written"
        if failed.code not in ("write-failed", "not-writable"):
            return f"code {failed.code}"
        if failed.path is None or not failed.path.is_relative_to(self.folder):
            return f"names {failed.path}"
        name = str(failed.path.relative_to(self.folder))
        if found.get(name) != self.old.get(name):
            return f"{name} is not the old one"
        known = (self.old, self.new)
        wrong = [n for n in found if not any(same({n: found[n]}, {n: k.get(n)}) for k in known)]
        return f"half: {wrong}" if wrong or not self.old.keys() <= found.keys() else ""


def same(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    """Whether files are the same but for the time of day in a record, and hence the seal over it."""

    def timeless(data: bytes) -> Any:
        return {**json.loads(data), "when": "", KEY: ""} if b'"when"' in data else data

    def content(files: dict[str, Any]) -> dict[str, Any]:
        return {name: data and timeless(data) for name, data in files.items()}

    return content(found) == content(expected)


@pytest.fixture(autouse=True)
def state(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the user's is touched, and hardly anything is drawn: what matters here is how it is written."""
    from matplotlib.figure import Figure

    def small(*_: Any) -> Figure:
        return Figure(figsize=(2, 1))

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
    monkeypatch.setattr("m3ae_core.report.benchmark.score_plot", small)
    monkeypatch.setattr("m3ae_core.report.benchmark.examples", lambda *_: [])
    monkeypatch.setattr("m3ae_core.report.case._figure", small)
    for module in ("curves", "figure"):
        monkeypatch.setattr(f"m3ae_core.report.{module}.new_figure", small)


# --- injected faults --------------------------------------------------------------------------------


class Faults:
    """Counts the calls by which Python writes below a folder, and lets one of them fail."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.arm(None, 0)
        self._open = io.open
        for module in (io, builtins):
            monkeypatch.setattr(module, "open", self._opened)
        for name in ("fsync", "replace", "unlink", "mkdir"):
            monkeypatch.setattr(os, name, self._counted(name, getattr(os, name)))

    def arm(self, at: int | None, code: int) -> None:
        """Let the call number `at` fail."""
        self.at, self.code, self.calls = at, code, list[str]()

    @property
    def hit(self) -> str:
        """The call that failed."""
        return self.calls[self.at] if self.at is not None and self.at < len(self.calls) else ""

    def step(self, name: str) -> None:
        self.calls.append(name)
        if len(self.calls) - 1 == self.at:
            raise OSError(self.code, os.strerror(self.code))

    def _counted(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            if isinstance(arguments[0], int) or self._is_below(arguments[0]):
                self.step(name)
            return call(*arguments, **options)

        return counted

    def _is_below(self, path: Any) -> bool:
        return isinstance(path, str | os.PathLike) and Path(path).is_relative_to(self.folder)

    def _opened(self, file: Any, mode: str = "r", buffering: int = -1, *rest: Any, **options: Any) -> Any:
        """As :func:`open`, with the same layers over a raw file whose writes are counted."""
        if not self._is_below(file) or not set(mode) & set("wax+"):
            return self._open(file, mode, buffering, *rest, **options)
        self.step("open")
        raw = _Raw(file, mode.replace("b", "").replace("t", ""), self.step)
        stream = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return stream if "b" in mode else io.TextIOWrapper(stream, *rest, **options)


class _Raw(io.FileIO):
    def __init__(self, file: Any, mode: str, step: Callable[[str], None]) -> None:
        super().__init__(file, mode)
        self._step = step

    def write(self, data: Any) -> int | None:
        self._step("write")
        return super().write(data)

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._step("close")


@pytest.mark.parametrize("made", WRITERS, ids=lambda made: made.__name__)
def test_fault_at_every_write_point(
    made: Callable[[Path], Write], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trials: Any, figures: Any
) -> None:
    """In the long form each point meets every error, else the next one in turn."""
    codes = trials(ci=1, long=len(CODES))
    place = Place(tmp_path / "place", made)
    faults = Faults(place.folder, monkeypatch)
    flaws, tried = {}, 0
    for at in count():
        for code in (CODES * 2)[at % len(CODES) :][:codes]:
            faults.arm(None, 0)
            place.reset()
            faults.arm(at, code)
            flaw = place.flaw()
            if not faults.hit:
                break
            tried += 1
            if flaw and not (faults.hit == "unlink" and flaw.startswith("left")):
                flaws[f"{at} {faults.hit} {errno.errorcode[code]}"] = flaw
        if not faults.hit:
            break
    figures.add(PROPERTY, goal=GOAL, tried=tried, failed=len(flaws))
    assert tried >= 4
    assert not flaws


# --- real faults ------------------------------------------------------------------------------------


@contextmanager
def size_limit(limit: int) -> Iterator[None]:
    """Let no file of this process grow beyond `limit` bytes (Python ignores the signal that this sends)."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
@pytest.mark.parametrize("made", WRITERS, ids=lambda made: made.__name__)
def test_files_that_may_not_grow(made: Callable[[Path], Write], tmp_path: Path, figures: Any) -> None:
    """Real errors of the system, which C code meets too, after no byte, half of them and all but one."""
    place = Place(tmp_path / "place", made)
    other = [n for n, made in place.new.items() if not same({n: made}, {n: place.old.get(n)})]
    size = max(len(place.new[name]) for name in other)
    flaws = {}
    limits = (0, size // 2, size - 1)
    for limit in limits:
        # What is printed goes to memory: the file that captures it may not grow either.
        with size_limit(limit), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            flaw = place.flaw()
        unwritten = not same(place.files(), place.new)
        if flaw or not unwritten:
            flaws[limit] = flaw or "nothing failed"
        place.reset()
    figures.add(PROPERTY, goal=GOAL, tried=len(limits), failed=len(flaws))
    assert not flaws


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    line = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(line, capture_output=True).returncode:
        pytest.skip("a file system can be mounted by the administrator of a Linux computer only")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill(folder: Path) -> None:
    """Write until no byte more goes in."""
    with (folder / "filling").open("wb", buffering=0) as stream, suppress(OSError):
        while True:
            stream.write(bytes(1 << 16))


def test_disk_that_is_really_full_or_read_only(disk: Path, figures: Any) -> None:
    places = {made.__name__: Place(disk / made.__name__ / "place", made) for made in WRITERS}

    def flaws() -> dict[str, str]:
        found = {name: place.flaw() or place.changed for name, place in places.items()}
        gc.collect()  # torch's writer keeps its file open as long as the error is remembered
        return {name: flaw for name, flaw in found.items() if flaw}

    fill(disk)
    full = flaws()
    (disk / "filling").unlink()
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    try:
        read_only = flaws()
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    figures.add(PROPERTY, goal=GOAL, tried=2 * len(places), failed=len(full) + len(read_only))
    assert (full, read_only) == ({}, {})


def test_log_that_cannot_be_continued_keeps_its_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figures: Any
) -> None:
    """The one file that is not written anew."""
    path = tmp_path / "log.jsonl"
    faults, wrong, tried = Faults(tmp_path, monkeypatch), [], 0
    for code in CODES:
        for at in range(3):
            faults.arm(None, 0)
            path.write_text("old\n")
            faults.arm(at, code)
            with pytest.raises(OutputError) as caught:
                append_text(path, "new\n")
            tried += 1
            if caught.value.path != path or path.read_text() not in ("old\n", "old\nnew\n"):
                wrong.append((at, code))
    figures.add(PROPERTY, goal=GOAL, tried=tried, failed=len(wrong))
    assert not wrong


def test_all_that_writes_is_tried() -> None:
    """Every module of the core that writes is behind one of the writers above; `selftest` writes for itself alone."""
    source = Path(sys.modules["m3ae_core"].__file__ or "").parent
    words = ("atomic_write(", "write_text(", "write_json(", "write_array(", "append_text(")
    writing = {
        str(path.relative_to(source))
        for path in source.rglob("*.py")
        if path.name != "files.py"
        and path.parent.name != "selftest"
        and any(word in path.read_text("utf-8") for word in words)
    }
    assert writing <= KNOWN, "a new writer: add it to WRITERS"


KNOWN = {
    "bundle.py",
    "data/dataset.py",
    "data/splits.py",
    "evaluation/benchmark.py",
    "evaluation/slices.py",
    "evaluation/store.py",
    "inference/predictor.py",
    "inference/summary.py",
    "io/folders/manifest.py",
    "io/split4d.py",
    "io/volume.py",
    "io/weights.py",
    "packed/pack.py",
    "packed/train.py",  # states have names of their own: tests/packed
    "report/benchmark.py",
    "report/case.py",
    "report/curves.py",
    "report/figure.py",
    "training/identity.py",
    "training/record.py",
    "training/folder.py",
}
