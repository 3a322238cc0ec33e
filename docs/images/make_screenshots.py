"""Makes the screenshots of the documentation: a real viewer, the built-in case, the built-in model.

LIBGL_ALWAYS_SOFTWARE=1 xvfb-run -a -s "-screen 0 1920x1200x24" python docs/images/make_screenshots.py [FOLDER]
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

# neither read nor write the user's settings
os.environ["NAPARI_CONFIG"] = str(Path(tempfile.mkdtemp()) / "settings.yaml")

import napari
import numpy as np
from qtpy.QtWidgets import QApplication

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


def segmented(viewer: napari.Viewer) -> None:
    """Open the sample case and segment it from FLAIR and T2 alone."""
    viewer.open_sample("napari-m3ae", "case")
    _, panel = viewer.window.add_plugin_dock_widget("napari-m3ae", "M3AE")
    settle()
    for missing in ("T1", "T1c"):
        panel.rows[missing].tick.setChecked(False)
    panel.run_button.click()
    pump(lambda: panel.session.state.phase == "idle", 600)
    if not panel.session.state.result:
        raise RuntimeError("the run made no result")
    viewer.scene.camera.zoom *= 1.3


def main(folder: Path) -> None:
    """Make all pictures."""
    viewer = napari.Viewer(title="napari with M3AE", show=True)
    viewer.window.resize(*SIZE)
    settle()
    segmented(viewer)
    shoot(viewer, folder / "viewer.png")
    viewer.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
