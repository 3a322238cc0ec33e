"""``python -m napari_m3ae LABELS``: napari with the sample case, a segmentation of it, and the panel."""

from __future__ import annotations

import sys
from pathlib import Path

from napari import Viewer, run


def open_viewer(labels: Path) -> Viewer:
    """Show the sample case with the label map `labels` on top and the panel docked."""
    viewer = Viewer(title="M3AE demo")
    viewer.open_sample("napari-m3ae", "case")
    viewer.open(labels, plugin="napari-m3ae")
    viewer.window.add_plugin_dock_widget("napari-m3ae", "M3AE")
    return viewer


if __name__ == "__main__":
    open_viewer(Path(sys.argv[1]))
    run()
