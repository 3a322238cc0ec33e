"""The substitute image as it evolves in a training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QSlider, QVBoxLayout, QWidget

from napari_m3ae.widgets.parts import text
from napari_m3ae.widgets.plot import Plot


class Evolution(QWidget):
    """The middle slice of the substitute image, with a slider through the epochs at which it was kept."""

    def __init__(self) -> None:
        super().__init__()
        self.paths: list[Path] = []
        self.modalities: tuple[str, ...] = ()
        self.caption = text("Learned by the model, not a patient scan.")
        self.picture = Plot("Middle axial slice, the patient's right on the left.", 120)
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setMaximum(0)
        self.slider.setToolTip("Earlier and later in the training.")
        self.slider.valueChanged.connect(lambda _: self._show())
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        for widget in (self.caption, self.picture, self.slider):
            column.addWidget(widget)

    def draw(self, paths: list[Path], modalities: tuple[str, ...]) -> None:
        """Offer these pictures; the newest is shown, unless the user looks at another one."""
        self.setVisible(bool(paths))
        if not paths or paths == self.paths:
            return
        newest = self.slider.value() == self.slider.maximum() or paths[: len(self.paths)] != self.paths
        self.paths, self.modalities = paths, modalities
        self.slider.setMaximum(len(paths) - 1)
        if newest:
            self.slider.setValue(len(paths) - 1)
        self._show()

    def _show(self) -> None:
        path = self.paths[self.slider.value()]
        epoch = int(path.stem.removeprefix("epoch-"))
        self.caption.setText(
            f"SYNTHETIC substitute image after epoch {epoch} (learned, not a patient scan): "
            + ", ".join(self.modalities)
        )
        self.picture.draw(lambda axes: draw_slices(axes, path))


def draw_slices(axes: Any, path: Path) -> None:
    """Draw the slices (N, H, W) of a file side by side, black at the 1st and white at the 99th percentile.

    Rows run from anterior to posterior, and each slice from the patient's right to the left.
    """
    picture = np.hstack(list(np.load(path)))
    low, high = np.percentile(picture, (1, 99))
    axes.imshow(picture, cmap="gray", vmin=low, vmax=high)
    axes.set_axis_off()
