"""How quick the panel is: opening, stalls of the window while a case is segmented, cancelling. A real viewer.

    LIBGL_ALWAYS_SOFTWARE=1 xvfb-run -a -s "-screen 0 1600x1000x24" python benchmarks/viewer.py [--cancels 20]

A stall is a gap between two ticks of a 5 ms timer of the window's own event loop. Uses the built-in case and model.
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
import tyro
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication

TICK_MS = 5


def pump(until: Callable[[], bool], seconds: float = 300) -> None:
    """Run the event loop until a condition holds."""
    loop_end = time.monotonic() + seconds
    while not until():
        if time.monotonic() > loop_end:
            raise TimeoutError
        QApplication.processEvents()
        time.sleep(0.001)


class Ticks:
    """Collects the gaps between ticks of a timer in the GUI thread, in ms."""

    def __init__(self) -> None:
        self.gaps: list[float] = []
        self._last = time.perf_counter()
        self._timer = QTimer()
        self._timer.timeout.connect(self._tick)
        self._timer.start(TICK_MS)

    def _tick(self) -> None:
        now = time.perf_counter()
        self.gaps.append(1000 * (now - self._last))
        self._last = now

    def worst(self, phase: str) -> str:
        """The longest gap since the last call, in words."""
        worst, self.gaps = max(self.gaps), []
        return f"| longest stall, {phase} | {worst:.0f} ms |"


def main(cancels: int = 20) -> None:
    viewer = napari.Viewer(show=True)
    viewer.window.resize(1500, 950)
    pump(lambda: viewer.window is not None)
    viewer.open_sample("napari-m3ae", "case")
    start = time.perf_counter()
    _, panel = viewer.window.add_plugin_dock_widget("napari-m3ae", "M3AE")
    QApplication.processEvents()
    print("| | |\n|---|---|")
    print(f"| panel opens | {time.perf_counter() - start:.2f} s |")
    print(f"| torch loaded by then | {'torch' in sys.modules} |")
    session = panel.session

    def run() -> None:
        session.run()
        pump(lambda: session.state.phase == "idle")

    ticks = Ticks()
    pump(lambda: len(ticks.gaps) > 50)
    print(ticks.worst("idle"))
    run()
    print(ticks.worst("first run, torch and the model are loaded"))
    for _ in range(3):
        run()
    print(ticks.worst("three more runs"))
    waits = []
    rng = np.random.default_rng(0)
    for _ in range(cancels):
        session.run()
        wait = time.perf_counter() + rng.uniform(0.05, session.state.seconds * 0.9)
        pump(lambda wait=wait: time.perf_counter() > wait)
        asked = time.perf_counter()
        session.cancel()
        pump(lambda: session.state.phase == "idle")
        waits.append(time.perf_counter() - asked)
    middle, late = np.median(waits), np.percentile(waits, 95)
    print(f"| cancel, median and 95th percentile of {cancels} | {middle:.2f} s, {late:.2f} s |")
    viewer.close()


if __name__ == "__main__":
    tyro.cli(main)
