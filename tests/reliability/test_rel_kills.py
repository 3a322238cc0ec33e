"""SIGKILL at random moments of a save: afterwards every file is the whole old one or the whole new one.

Saves go on without end in a fork of a process that has loaded everything, so that a kill costs little more than the
save itself. That process is this file run as a program: ``python test_rel_kills.py FOLDER KILLS SEED``.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from m3ae_core.bundle import load_bundle, save_bundle
from m3ae_core.evaluation.slices import Slices, read_slices, write_slices
from m3ae_core.files import write_array, write_text
from m3ae_core.inference.predictor import Prediction, save_prediction
from m3ae_core.io.sidecar import saved_scheme
from m3ae_core.io.volume import Volume, read_labels
from m3ae_core.io.weights import load_pickle, save_checkpoint
from m3ae_core.modalities import BRATS
from m3ae_core.regions import BRATS_2023
from m3ae_core.report.curves import save_curves
from tiny import random_bundle

TESTS = Path(__file__).resolve().parents[1]
SHAPE, AFFINE = (64, 64, 48), np.eye(4)


@dataclass(frozen=True)
class Saving:
    """Writes version 0 or 1 of something, and reads back which version each of its files holds."""

    save: Callable[[int], object]
    read: Callable[[], tuple[int, ...]]


@dataclass(frozen=True)
class Kill:
    """What one kill did: `lost` says what was wrong afterwards, if anything."""

    what: str
    lost: str = ""
    halfway: bool = False
    mixed: bool = False


# --- what is saved ----------------------------------------------------------------------------------


def which(found: Any, versions: list[Any]) -> int:
    """Which of two versions was found; neither is an error."""
    return next(number for number, version in enumerate(versions) if np.array_equal(found, version))


def noise(version: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Labels 0 to 3 that do not compress, so that writing takes its time."""
    return np.random.default_rng(version).integers(0, 4, shape, np.uint8)


def prediction(labels: np.ndarray, record: dict[str, Any]) -> Prediction:
    return Prediction(labels, {}, AFFINE, BRATS_2023, BRATS.subset(("FLAIR",)), (), record)


def mask(folder: Path) -> Saving:
    path, versions = folder / "mask.nii.gz", [noise(0), noise(1)]
    named = {"scheme": "brats2023"}
    records = [{"version": version, "filling": "x" * 20_000, "labels": named} for version in (0, 1)]

    def read() -> tuple[int, ...]:
        record, labels = json.loads(path.with_name("mask.json").read_text("utf-8")), read_labels(path)
        found = which(labels.data, versions), record["version"]
        if (saved_scheme(path, labels.sha256) is None) != (found[0] != found[1]):
            raise ValueError("a sidecar of other labels was believed, or its own was not")
        return found

    return Saving(
        lambda version: save_prediction(prediction(versions[version], records[version]), path), read
    )


def bundle(folder: Path) -> Saving:
    versions = [random_bundle(seed=version) for version in (0, 1)]
    sums: list[dict[str, str]] = []
    for version in versions:
        save_bundle(version, folder)
        sums.append(json.loads((folder / "bundle.json").read_text("utf-8"))["sha256"])

    def read() -> tuple[int, ...]:
        loaded, named = load_bundle(folder), json.loads((folder / "bundle.json").read_text("utf-8"))["sha256"]
        version = sums.index(named)
        weights = versions[version].model.segmenter.state_dict()
        if not torch.equal(loaded.model.substitute, versions[version].model.substitute) or not all(
            torch.equal(tensor, weights[name]) for name, tensor in loaded.model.segmenter.state_dict().items()
        ):
            raise ValueError("files of two versions were taken for one bundle")
        return (version,)

    return Saving(lambda version: save_bundle(versions[version], folder), read)


def checkpoint(folder: Path) -> Saving:
    path, states = folder / "checkpoint.pt", []
    for version in (0, 1):
        torch.manual_seed(version)
        states.append({"task": {"weight": torch.randn(300_000)}, "epoch": version, "best": 0.5})

    def read() -> tuple[int, ...]:
        found = load_pickle(path)
        assert torch.equal(found["task"]["weight"], states[found["epoch"]]["task"]["weight"])
        return (found["epoch"],)

    return Saving(lambda version: save_checkpoint(path, states[version]), read)


def array(folder: Path) -> Saving:
    path, versions = folder / "image.npy", [noise(0), noise(1)]
    return Saving(
        lambda version: write_array(path, versions[version]), lambda: (which(np.load(path), versions),)
    )


def page(folder: Path) -> Saving:
    path, versions = folder / "report.html", [f"<p>{version}</p>" * 30_000 for version in (0, 1)]
    return Saving(
        lambda version: write_text(path, versions[version]),
        lambda: (versions.index(path.read_text("utf-8")),),
    )


def slices(folder: Path) -> Saving:
    path, versions = folder / "case.npz", [noise(0, (240, 240)), noise(1, (240, 240))]

    def save(version: int) -> None:
        write_slices(path, Slices({"T2": versions[version]}, versions[version], {"T2": versions[version]}))

    def read() -> tuple[int, ...]:
        found = read_slices(path)
        parts = (found.reference, found.images["T2"], found.predictions["T2"])
        (version,) = {which(part, versions) for part in parts}
        return (version,)

    return Saving(save, read)


def figure(folder: Path) -> Saving:
    path, pictures = folder / "curves.png", []
    runs = [folder.parent / f"run-{version}" for version in (0, 1)]
    for version, run in enumerate(runs):
        run.mkdir(exist_ok=True)
        lines = [{"epoch": epoch, "terms": {"loss": 1 / (epoch + version)}} for epoch in (1, 2, 3)]
        (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        pictures.append(save_curves(run, path).read_bytes())
    return Saving(
        lambda version: save_curves(runs[version], path), lambda: (pictures.index(path.read_bytes()),)
    )


SAVINGS = {
    made.__name__: made for made in (mask, bundle, checkpoint, array, page, slices, figure)
}  # and the autosave


# --- killing ----------------------------------------------------------------------------------------


class Child:
    """A fork of this process in which `work` runs, given a function that tells the parent of a step."""

    def __init__(self, work: Callable[[Callable[[], object]], None]) -> None:
        self._end, writing = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                work(lambda: os.write(writing, b"."))
            finally:
                os._exit(1)
        os.close(writing)

    def kill(self, delay: float) -> int:
        """Kill it `delay` seconds after its first step; return how many it told of."""
        steps = len(os.read(self._end, 1))
        time.sleep(delay)
        os.kill(self.pid, signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        if not steps or os.WTERMSIG(status) != signal.SIGKILL:
            raise RuntimeError("the child ended by itself")
        while told := os.read(self._end, 4096):
            steps += len(told)
        os.close(self._end)
        return steps


def temporaries(folder: Path) -> list[Path]:
    return list(folder.rglob(".tmp-*"))


def duration(saving: Saving) -> float:
    """Seconds that a save takes; leaves version 0."""
    started = time.perf_counter()
    for version in (1, 0):
        saving.save(version)
    return (time.perf_counter() - started) / 2


def kill_saving(what: str, saving: Saving, folder: Path, delay: float) -> Kill:
    """Kill a process that saves the versions in turn, look at the files, and save once more."""

    def work(tell: Callable[[], object]) -> None:
        tell()
        for turn in itertools.count(1):
            saving.save(turn % 2)

    names = {path.name for path in folder.iterdir()}
    Child(work).kill(delay)
    left = temporaries(folder)
    try:
        versions = saving.read()
        saving.save(0)
        others = {path.name for path in folder.iterdir()} ^ names
        lost = f"other files than before: {sorted(others)}" if others else ""
        return Kill(what, lost, bool(left), len(set(versions)) > 1)
    except Exception as error:
        return Kill(what, f"{type(error).__name__}: {error}", bool(left))


def open_session() -> Any:
    """A session with an image open, without a window."""
    from napari.components import ViewerModel

    from napari_m3ae import layers
    from napari_m3ae.jobs import InlineRunner
    from napari_m3ae.session import Session

    session = Session(ViewerModel(), InlineRunner())
    layers.add(session.viewer, layers.image_layer(image(), "T2", modality="T2", source="source"))
    return session


def image() -> Volume:
    """An image on the grid of the masks."""
    data = np.zeros(SHAPE, np.float32)
    data[1:-1, 1:-1, 1:-1] = np.random.default_rng(0).random(np.array(SHAPE) - 2)
    return Volume(data, AFFINE)


def shown_session() -> Any:
    """A session with a segmentation of that image on display."""
    from napari_m3ae.chosen import Recovered

    session = open_session()
    record = {"made_by": {"edited": False}, "sequences_present": {"T2": image().sha256}}
    made = prediction(noise(0), record)
    session.show(made, Recovered("case", frozenset({"source"}), {}))
    return session


def paint(session: Any, turn: int) -> None:
    index = np.unravel_index(turn, session.shown.layer.data.shape)
    session.shown.layer.data_setitem(tuple(np.array([i]) for i in index), 9)


def kill_autosave(folder: Path, delay: float) -> Kill:
    """Kill a process that paints a voxel and keeps the edits, in turn; restore what it left."""
    from napari_m3ae.autosave import Autosave

    session = shown_session()

    def work(tell: Callable[[], object]) -> None:
        autosave = Autosave(session, folder)
        for turn in itertools.count():
            paint(session, turn)
            if not autosave.save_now():
                return
            tell()

    kept = Child(work).kill(delay)
    left = temporaries(folder)
    fresh = open_session()
    autosave = Autosave(fresh, folder)
    found = autosave.found()
    if len(found) != 1 or not autosave.restore(found[0]):
        return Kill("autosave", f"{len(found)} records", bool(left))
    painted = int((fresh.shown.layer.data == 9).sum())
    for turn in range(painted):
        paint(session, turn)
    same = np.array_equal(fresh.shown.layer.data, session.shown.layer.data)
    fresh.close()
    remains = [path.name for path in folder.iterdir()]
    lost = f"{painted} edits instead of {kept}, or others" if painted - kept not in (0, 1) or not same else ""
    return Kill("autosave", lost or " ".join(remains), bool(left))


def in_place(folder: Path) -> Saving:
    """The same mask as nibabel saves it."""
    path, versions = folder / "mask.nii.gz", [noise(0), noise(1)]
    return Saving(
        lambda version: nib.save(nib.Nifti1Image(versions[version], AFFINE), path),
        lambda: (which(read_labels(path).data, versions),),
    )


def main(folder: Path, kills: int, seed: int) -> list[Kill]:
    """Kill every kind of saving in turn, and the mask saved by nibabel as often as ours."""
    torch.set_num_threads(1)
    shown_session()  # napari is loaded once, before the forks
    rng = random.Random(seed)
    homes = {what: folder / what for what in (*SAVINGS, "autosave", "in place")}
    for home in homes.values():
        home.mkdir(parents=True)
    savings = {what: made(homes[what]) for what, made in {**SAVINGS, "in place": in_place}.items()}
    takes = {what: duration(saving) for what, saving in savings.items()}
    found: list[Kill] = []
    for what in itertools.islice(itertools.cycle((*SAVINGS, "autosave")), kills):
        delay = rng.uniform(0, 0.1) if what == "autosave" else rng.uniform(0, 2 * takes[what])
        if what == "autosave":
            found.append(kill_autosave(homes[what], delay))
            continue
        found.append(kill_saving(what, savings[what], homes[what], delay))
        if what == "mask":
            theirs = rng.uniform(0, 2 * takes["in place"])
            found.append(kill_saving("in place", savings["in place"], homes["in place"], theirs))
    shutil.rmtree(folder)
    return found


@pytest.mark.skipif(not hasattr(os, "fork"), reason="saving processes are forked")
@pytest.mark.timeout(600)
def test_killed_while_saving(tmp_path: Path, trials: Any, figures: Any) -> None:
    kills = trials(ci=20, long=500)
    paths = [str(TESTS.parent / "src"), str(TESTS)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-W", "ignore", __file__, str(tmp_path / "place"), str(kills), "0"]
    done = subprocess.run(line, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-4000:]
    found = [Kill(**kill) for kill in json.loads(done.stdout.splitlines()[-1])]
    ours = [kill for kill in found if kill.what != "in place"]
    theirs = [kill for kill in found if kill.what == "in place"]
    lost = [kill for kill in ours if kill.lost]
    figures.add(
        "kills during a save",
        goal="500, 0 files lost",
        tried=len(ours),
        failed=len(lost),
        note=f"{sum(kill.halfway for kill in ours)} left a half-written temporary file, which the next save removed; "
        f"{sum(kill.mixed for kill in ours)} came between a mask and its sidecar, which then was not believed; for "
        f"comparison, nibabel's save in place lost {sum(bool(kill.lost) for kill in theirs)} of {len(theirs)}",
    )
    assert len(ours) == kills
    assert not lost
    assert any(kill.halfway for kill in ours), "no kill came in the middle of a write"


def test_first_copy_that_a_kill_cut_short_goes_at_the_next_start(tmp_path: Path) -> None:
    """Label maps without a record cannot be restored; those of this hour may be about to get theirs."""
    from napari_m3ae.autosave import ABANDONED, Autosave

    before = time.time() - 2 * ABANDONED
    for name in ("killed-model.nii.gz", "killed-edited.nii.gz", "whole-model.nii.gz", "whole.json"):
        (tmp_path / name).write_text("")
        os.utime(tmp_path / name, (before, before))
    (tmp_path / "now-model.nii.gz").write_text("")
    Autosave(shown_session(), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "whole-model.nii.gz",
        "whole.json",
        "now-model.nii.gz",
    }


if __name__ == "__main__":
    done = main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
    sys.stdout.write(json.dumps([asdict(kill) for kill in done]) + "\n")
