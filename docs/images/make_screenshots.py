"""Makes the screenshots of the documentation: a real viewer, the built-in case, the built-in model.

LIBGL_ALWAYS_SOFTWARE=1 xvfb-run -a -s "-screen 0 1920x1200x24" python docs/images/make_screenshots.py [--run RUN]
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

# neither read nor write the user's settings
os.environ["NAPARI_CONFIG"] = str(Path(tempfile.mkdtemp()) / "settings.yaml")

import napari
import numpy as np
import tyro
from qtpy.QtWidgets import QApplication, QWidget

from napari_m3ae.runs import Run
from napari_m3ae.widgets.panel import Panel

SIZE = (1500, 950)


def pump(until: Callable[[], bool], seconds: float) -> None:
    """Let Qt work until a condition holds; give up with an error after some seconds."""
    end = time.monotonic() + seconds
    while not until():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds} s in vain")
        QApplication.processEvents()
        time.sleep(0.01)


def settle(seconds: float = 1.0) -> None:
    """Let Qt draw for a while."""
    end = time.monotonic() + seconds
    pump(lambda: time.monotonic() > end, seconds + 5)


def shoot(viewer: napari.Viewer, path: Path) -> None:
    """Save the whole window, and refuse a blank picture."""
    settle()
    picture = viewer.screenshot(path, canvas_only=False, flash=False)
    if picture[..., :3].std() < 10:
        raise ValueError(f"{path} is blank")
    print(path, picture.shape, np.round(picture[..., :3].std(), 1))


def finish(panel: Panel) -> None:
    """Wait until the running job is done."""
    pump(lambda: panel.session.state.phase == "idle", 600)
    settle()


def turn_to(panel: Panel, part: QWidget) -> None:
    """Bring the tab of a part to the front."""
    panel.tabs.setCurrentIndex(panel.parts.index(part))


def clinician(viewer: napari.Viewer, panel: Panel, folder: Path) -> None:
    """Take the pictures of the clinician's walk-through: T1 and T1c are missing."""
    panel.case.sample_button.click()
    finish(panel)
    shoot(viewer, folder / "case.png")
    turn_to(panel, panel.segment)
    for missing in ("T1", "T1c"):
        panel.segment.rows[missing].tick.setChecked(False)
    panel.segment.run_button.click()
    finish(panel)
    if not panel.session.state.result:
        raise RuntimeError("the run made no result")
    shoot(viewer, folder / "viewer.png")
    turn_to(panel, panel.edit)
    panel.edit.outline.setChecked(True)
    shoot(viewer, folder / "edit.png")
    panel.edit.outline.setChecked(False)
    turn_to(panel, panel.case)
    panel.case.grid.setChecked(True)
    shoot(viewer, folder / "grid.png")
    panel.case.grid.setChecked(False)


def researcher(viewer: napari.Viewer, panel: Panel, folder: Path) -> None:
    """Take the pictures of the researcher's walk-through: all four sequences are there."""
    for row in panel.segment.rows.values():
        row.tick.setChecked(True)
    turn_to(panel, panel.whatif)
    panel.whatif.without.boxes["T1c"].setChecked(True)
    panel.whatif.compare_button.click()
    finish(panel)
    shoot(viewer, folder / "whatif.png")
    panel.whatif.sweep_button.click()
    finish(panel)
    show_only(viewer, "FLAIR ·*", "M3AE agreement*")
    shoot(viewer, folder / "agreement.png")
    turn_to(panel, panel.explore)
    panel.explore.substitute_button.click()
    finish(panel)
    panel.explore.dropped.boxes["T1c"].setChecked(True)
    panel.explore.shown.setCurrentText("FLAIR")
    panel.explore.run_button.click()
    finish(panel)
    show_only(viewer, "M3AE SYNTHETIC composite", "M3AE mask")
    shoot(viewer, folder / "explore.png")


def show_only(viewer: napari.Viewer, *patterns: str) -> None:
    """Hide all layers but those whose name is like one of the patterns."""
    for layer in viewer.layers:
        layer.visible = any(fnmatch(layer.name, pattern) for pattern in patterns)


def train(viewer: napari.Viewer, panel: Panel, folder: Path, run: Path) -> None:
    """Take the picture of a finished run."""
    turn_to(panel, panel.train)
    panel.train.run = Run(run)
    panel.train.refresh()
    settle(3)
    shoot(viewer, folder / "train.png")


def main(folder: Path = Path(__file__).parent, run: Path | None = None) -> None:
    """Make all pictures; that of a training only if a `run` folder is given."""
    viewer = napari.Viewer(title="napari with M3AE", show=True)
    viewer.window.resize(*SIZE)
    settle()
    _, panel = viewer.window.add_plugin_dock_widget("napari-m3ae", "M3AE")
    clinician(viewer, panel, folder)
    researcher(viewer, panel, folder)
    if run is not None:
        train(viewer, panel, folder, run)
    viewer.close()


if __name__ == "__main__":
    tyro.cli(main)
