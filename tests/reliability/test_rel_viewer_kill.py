"""A real viewer is killed while somebody paints: a new process finds the edits, but for those of the last seconds.

The viewer is this file run as a program: ``python test_rel_viewer_kill.py FOLDER [SECONDS]``. Painting is noted, line
by line, in FOLDER/painted.txt: when, and the SHA-256 of the labels after that.
"""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from m3ae_core.data.phantom import AFFINE, phantom
from m3ae_core.inference.predictor import Prediction
from m3ae_core.io.volume import Volume
from m3ae_core.modalities import BRATS
from m3ae_core.regions import BRATS_2023
from napari_m3ae.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
#: Seconds between two copies, and until an edit is safe: Qt's timers are coarse, and writing takes its time. One viewer
#: in `REAL` is left to its own settings, where no more may be lost than is promised.
SHORT, SAFE, REAL = 2, 3.0, 10
STROKE_MS = 40
PAINTED = "painted.txt"


def labels_hash(labels: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(labels).tobytes()).hexdigest()


def image() -> Volume:
    """The image that the segmentation is said to be of."""
    return Volume(phantom()[0]["T2"], AFFINE)


def paint_until_killed(folder: Path, seconds: int | None) -> None:
    """Open napari with the panel and a segmentation, and paint at random for ever."""
    import napari
    from qtpy.QtCore import QTimer

    from napari_m3ae.chosen import Recovered

    viewer = napari.Viewer(show=True)
    _, panel = viewer.window.add_plugin_dock_widget("napari-m3ae", "M3AE")
    record = {"made_by": {"edited": False}, "sequences_present": {"T2": image().sha256}}
    made = Prediction(phantom()[1], {}, AFFINE, BRATS_2023, BRATS.subset(("T2",)), (), record)
    panel.session.show(made, Recovered("case", frozenset({"source"}), {}))
    if seconds is not None:
        panel.edit.timer.setInterval(1000 * seconds)
    shown, rng = panel.session.shown, np.random.default_rng()
    shown.layer.brush_size = 3
    log = (folder / PAINTED).open("w", buffering=1)

    def stroke() -> None:
        shown.layer.paint(tuple(rng.integers(0, shown.layer.data.shape)), int(rng.integers(0, 4)))
        log.write(f"{time.time()} {labels_hash(shown.labels)}\n")

    timer = QTimer()
    timer.timeout.connect(stroke)
    timer.start(STROKE_MS)
    napari.run()


def lines(folder: Path) -> list[tuple[float, str]]:
    """When was painted, and what the labels were then; a line that the kill cut short is left out."""
    path = folder / PAINTED
    whole = path.read_text().split("\n")[:-1] if path.exists() else []
    return [(float(when), content) for when, content in map(str.split, whole)]


def kill_painting(folder: Path, seconds: int | None, after: float) -> float:
    """Kill a viewer `after` seconds of painting; return when."""
    environment = {
        **os.environ,
        "XDG_STATE_HOME": str(folder),
        "NAPARI_CONFIG": str(folder / "settings.yaml"),
        "PYTHONPATH": os.pathsep.join(map(str, (ROOT / "src", ROOT / "tests"))),
        "LIBGL_ALWAYS_SOFTWARE": "1",
    }
    line = [sys.executable, "-W", "ignore", __file__, str(folder), *([str(seconds)] if seconds else [])]
    with (folder / "viewer.txt").open("wb") as said:
        process = subprocess.Popen(line, env=environment, stdout=said, stderr=said)
    try:
        while not lines(folder):
            if process.poll() is not None:
                raise RuntimeError((folder / "viewer.txt").read_text()[-4000:])
            time.sleep(0.05)
        time.sleep(after)
        when = time.time()
    finally:
        process.kill()
        process.wait()
    return when


def lost_seconds(folder: Path, killed: float) -> float:
    """Restore what a killed viewer left; return how old the oldest edit is that is not in it.

    Fails if what is restored is not the labels at any time.
    """
    from napari.components import ViewerModel

    from napari_m3ae import layers
    from napari_m3ae.autosave import Autosave
    from napari_m3ae.jobs import InlineRunner
    from napari_m3ae.session import Session

    session = Session(ViewerModel(), InlineRunner())
    layers.add(session.viewer, layers.image_layer(image(), "T2", modality="T2", source="source"))
    autosave = Autosave(session, folder / "napari-m3ae" / "autosave")
    (record,) = autosave.found()
    assert autosave.restore(record)
    np.testing.assert_array_equal(session.shown.prediction.labels, phantom()[1])
    painted, restored = lines(folder), labels_hash(session.shown.labels)
    session.close()
    last = max(number for number, (_, content) in enumerate(painted) if content == restored)
    after = painted[last + 1 :]
    return killed - after[0][0] if after else 0.0


@pytest.mark.viewer
@pytest.mark.skipif(sys.platform == "win32", reason="the folder of the user's state is set by XDG_STATE_HOME")
def test_viewer_killed_while_painting(tmp_path: Path, qapp: Any, trials: Any, figures: Any) -> None:
    kills, rng, promised = trials(ci=1, long=50), random.Random(0), Settings().autosave_seconds
    lost: dict[int, list[float]] = {SHORT: [], promised: []}
    wrong: list[str] = []
    for number in range(kills):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        real = number % REAL == REAL - 1
        seconds = promised if real else SHORT
        # The first copy is promised after the first interval.
        killed = kill_painting(folder, None if real else seconds, rng.uniform(1.2, 2.2) * seconds)
        try:
            lost[seconds].append(lost_seconds(folder, killed))
        except Exception as error:
            wrong.append(f"{number}: {type(error).__name__}: {error}")
    late = [age for age in lost[SHORT] if age > SAFE] + [age for age in lost[promised] if age > promised]
    note = "; ".join(
        f"a copy every {seconds} s, {len(ages)} killed: the oldest edit lost was {max(ages):.2f} s old"
        for seconds, ages in lost.items()
        if ages
    )
    figures.add(
        "kills during an edit in the viewer",
        goal="50, ≤ 30 s of edits lost",
        tried=kills,
        failed=len(wrong) + len(late),
        note=note,
    )
    assert not wrong
    assert not late


if __name__ == "__main__":
    paint_until_killed(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None)
