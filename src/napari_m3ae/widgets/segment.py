"""The panel "M3AE: segment": choose the sequences, run, save."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicgui.widgets import ComboBox
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QCheckBox,
    QFileDialog,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QProgressBar,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from m3ae_core.regions import COLOURS
from napari_m3ae.session import Session

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_m3ae.state import Slot, State

DISCLAIMER = "Research use only. Not a medical device."
LEGEND = "<br>".join(f'<span style="color: {colour}">■</span> {tissue}' for tissue, colour in COLOURS.items())
#: Room for the names of the layers, in pixels.
WIDTH = 330


class SegmentWidget(QWidget):
    """Shows a :class:`~napari_m3ae.session.Session` and passes on what the user does."""

    def __init__(self, napari_viewer: ViewerModel, session: Session | None = None) -> None:
        super().__init__()
        self.session = session or Session(napari_viewer)
        self.rows = {slot.modality: _Row(self.session, slot.modality) for slot in self.session.state.slots}
        self.plan = _text("What a run will use and what it will substitute.")
        self.run_button = QPushButton("Run")
        self.run_button.setToolTip("Segment the tumour from the ticked sequences.")
        self.cancel_button = QPushButton("Cancel")
        self.cancel_button.setToolTip("Stop the run and discard it.")
        self.progress = QProgressBar()
        self.result = _text("What the segmentation on display was made from.")
        self.legend = _text("What the colours stand for.", LEGEND)
        self.save_button = QPushButton("Save segmentation…")
        self.save_button.setToolTip("Write a NIfTI label map on the case's grid, and a record beside it.")
        self._lay_out()
        self.run_button.clicked.connect(lambda: self.session.run())
        self.cancel_button.clicked.connect(lambda: self.session.cancel())
        self.save_button.clicked.connect(lambda: self._save())
        self.session.changed.connect(self._render)
        self.destroyed.connect(self.session.close)
        self._render(self.session.state)

    def reset_choices(self, *_: Any) -> None:
        """Offer the present layers under their present names (napari calls this when they change)."""
        self._render(self.session.state)

    def _lay_out(self) -> None:
        grid = QGridLayout()
        grid.setColumnStretch(1, 1)
        grid.addWidget(QLabel("Use"), 0, 0)
        grid.addWidget(QLabel("Image layer"), 0, 1)
        for index, row in enumerate(self.rows.values(), start=1):
            grid.addWidget(row.tick, index, 0)
            grid.addWidget(row.layer.native, index, 1)
        buttons = QHBoxLayout()
        buttons.addWidget(self.run_button, 2)
        buttons.addWidget(self.cancel_button, 1)
        self.setMinimumWidth(WIDTH)
        column = QVBoxLayout(self)
        column.addLayout(grid)
        column.addWidget(self.plan)
        column.addLayout(buttons)
        column.addWidget(self.progress)
        column.addWidget(self.result)
        column.addWidget(self.legend)
        column.addWidget(self.save_button)
        column.addWidget(_text("", DISCLAIMER))

    def _render(self, state: State) -> None:
        for slot in state.slots:
            self.rows[slot.modality].render(slot)
        self.plan.setText(state.plan)
        self.run_button.setEnabled(state.can_run)
        self.cancel_button.setEnabled(state.phase == "running")
        self._render_progress(state)
        self.result.setText("\n".join([state.result, *(f"⚠ {warning}" for warning in state.warnings)]))
        for widget in (self.result, self.legend, self.save_button):
            widget.setVisible(bool(state.result))

    def _render_progress(self, state: State) -> None:
        self.progress.setVisible(state.phase != "idle")
        done, total, what = 0, 0, "starting"
        if state.progress is not None:
            done, total, what = state.progress.done, state.progress.total, state.progress.what
        self.progress.setRange(0, total)
        self.progress.setValue(done)
        self.progress.setFormat(
            "Cancelling…" if state.phase == "cancelling" else f"{what.capitalize()} %v/%m"
        )

    def _save(self) -> None:
        path, _ = QFileDialog.getSaveFileName(
            self, "Save the segmentation", self.session.suggested_name, "NIfTI (*.nii.gz)"
        )
        if path:
            self.session.save(Path(path))


class _LayerChooser(ComboBox):
    null_string = "missing"


class _Row:
    """The tick and the layer chooser of one sequence."""

    def __init__(self, session: Session, modality: str) -> None:
        self.tick = QCheckBox(modality)
        self.tick.setToolTip(f"Use {modality}. Unticked, it counts as missing and is substituted.")
        self.layer = _LayerChooser(
            choices=lambda _: session.images, nullable=True, tooltip=f"The layer that holds {modality}."
        )
        self.tick.toggled.connect(lambda on: session.use(modality, on))
        self.layer.changed.connect(lambda layer: session.choose(modality, layer))

    def render(self, slot: Slot) -> None:
        """Show the slot without reporting it back as the user's doing."""
        self.tick.blockSignals(True)
        self.tick.setChecked(slot.ticked)
        self.tick.blockSignals(False)
        with self.layer.changed.blocked():
            self.layer.reset_choices()
            self.layer.value = slot.layer


def _text(tooltip: str, text: str = "") -> QLabel:
    label = QLabel(text)
    label.setWordWrap(True)
    label.setToolTip(tooltip)
    label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    return label
