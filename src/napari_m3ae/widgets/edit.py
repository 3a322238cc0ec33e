"""The part "Edit" of the panel: paint, clean up, measure, and get back what a crash left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QTimer
from qtpy.QtGui import QColor, QIcon, QPixmap
from qtpy.QtWidgets import (
    QApplication,
    QCheckBox,
    QDoubleSpinBox,
    QFileDialog,
    QGridLayout,
    QGroupBox,
    QMessageBox,
    QWidget,
)
from superqt.utils import qthrottled

from m3ae_core.regions import COLOURS
from napari_m3ae.autosave import Autosave, Record
from napari_m3ae.editing import HEADER, HIDE, NEXT, PREVIOUS, Editor
from napari_m3ae.session import Session
from napari_m3ae.settings import settings
from napari_m3ae.widgets.parts import Table, button, row, set_quietly, stack, text

if TYPE_CHECKING:
    from napari_m3ae.state import State

#: How often the volumes follow the brush at most (ms).
MEASURE_MS = 300
UNDO = "Ctrl+Z takes it back."


class EditPart(QWidget):
    """Shows an :class:`~napari_m3ae.editing.Editor` and passes on what the user does."""

    title = "Edit"

    def __init__(self, session: Session, autosave: Autosave | None = None) -> None:
        super().__init__()
        self.session = session
        self.editor = Editor(session)
        self.autosave = autosave or Autosave(session)
        self.recovery = _Recovery(self.autosave)
        self.name = text(
            "The layer that is edited and measured: the active labels layer, or the segmentation."
        )
        self.tissues = {tissue: self._brush(tissue, colour) for tissue, colour in COLOURS.items()}
        self.outline = QCheckBox("Outline only")
        self.outline.setToolTip("Draw the mask as an outline, so that the image is seen within it.")
        self.outline.toggled.connect(self.editor.outline)
        self.hide_button = button(
            f"Hide while held ({HIDE})", "Look at the image without the mask.", _nothing
        )
        self.hide_button.pressed.connect(lambda: self.editor.hide(True))
        self.hide_button.released.connect(lambda: self.editor.hide(False))
        self.previous = button(
            f"◀ Tumour slice ({PREVIOUS})",
            "Go to the slice with tumour before this one.",
            lambda: self.editor.next_slice(-1),
        )
        self.next = button(
            f"Tumour slice ({NEXT}) ▶", "Go to the next slice with tumour.", lambda: self.editor.next_slice(1)
        )
        self.clean = _CleanUp(self.editor)
        self.table = Table(HEADER, "Volumes of the mask as it is now; they follow the brush.")
        self.diameters = text(
            "The longest diameter of the enhancing tumour on an axial slice and the longest one across it, as the "
            "RANO criteria ask. Whether the lesion has clear margins and shows on two slices, the reader judges."
        )
        self.copy_button = button("Copy", "Copy volumes and diameters, for a spreadsheet.", self.copy)
        self._lay_out()
        self.editor.bind_keys(session.viewer)
        self._measure_soon = qthrottled(self._follow_brush, timeout=MEASURE_MS, leading=False)
        self.editor.changed.connect(self._on_changed)
        self.timer = QTimer(self)
        self.timer.timeout.connect(self.autosave.save_now)
        self.timer.start(1000 * settings().autosave_seconds)
        self.render(session.state)
        self._measure()

    def render(self, state: State) -> None:  # type: ignore[override]
        """Show a state of the session."""
        target, scheme = self.editor.target, self.editor.scheme
        self.name.setText("Nothing to edit yet: run a segmentation." if target is None else target.name)
        set_quietly(self.outline, self.editor.outlined)
        for widget in (
            self.outline,
            self.hide_button,
            self.previous,
            self.next,
            self.clean,
            self.copy_button,
        ):
            widget.setEnabled(target is not None)
        for made in self.tissues.values():
            made.setEnabled(scheme is not None)
        self.recovery.restore_button.setEnabled(state.phase == "idle")

    def copy(self) -> None:
        """Put the table and the diameters on the clipboard, up to date."""
        self._measure()
        words = [self.table.as_text, self.diameters.text()]
        if (clipboard := QApplication.clipboard()) is not None:
            clipboard.setText("\n".join(word for word in words if word))

    def may_close(self) -> bool:
        """Whether the viewer may close or the case change; where edits were not saved, the user decides."""
        names = self.autosave.unsaved
        if not names:
            return True
        shown = self.session.shown
        box = QMessageBox(self)
        box.setWindowTitle("Unsaved edits")
        box.setText("Not saved: " + ", ".join(f"'{name}'" for name in names) + ".")
        box.setInformativeText("Edits that are discarded cannot be brought back.")
        buttons = QMessageBox.StandardButton.Discard | QMessageBox.StandardButton.Cancel
        if shown is not None and shown.unsaved:
            buttons |= QMessageBox.StandardButton.Save
        else:
            box.setInformativeText(
                "Save those layers with File › Save Selected Layers, or discard the edits."
            )
        box.setStandardButtons(buttons)
        box.setDefaultButton(QMessageBox.StandardButton.Cancel)
        answer = box.exec()
        if answer == QMessageBox.StandardButton.Save:
            return self._save() and self.may_close()
        return bool(answer == QMessageBox.StandardButton.Discard)

    def showEvent(self, event: Any) -> None:  # noqa: N802  Qt's name
        """Measure what was painted while another part was in front."""
        super().showEvent(event)
        self._measure()

    def _save(self) -> bool:
        path, _ = QFileDialog.getSaveFileName(
            self, "Save the segmentation", self.session.suggested_name, "NIfTI (*.nii.gz)"
        )
        return bool(path) and self.session.save(Path(path))

    def _brush(self, tissue: str, colour: str) -> Any:
        made = button(tissue, f"Paint {tissue} with the brush.", lambda: self.editor.choose(tissue))
        pixels = QPixmap(12, 12)
        pixels.fill(QColor(colour))
        made.setIcon(QIcon(pixels))
        return made

    def _on_changed(self) -> None:
        self.render(self.session.state)
        self._measure_soon()

    def _follow_brush(self) -> None:
        if self.isVisible():
            self._measure()

    def _measure(self) -> None:
        self.table.fill(self.editor.table())
        self.diameters.setText(self.editor.diameters_in_words())

    def _lay_out(self) -> None:
        looking = (row(self.outline, self.hide_button), row(self.previous, self.next))
        measured = (self.table, self.diameters, self.copy_button)
        stack(self, self.recovery, self.name, *self.tissues.values(), *looking, self.clean, *measured)


class _CleanUp(QGroupBox):
    """The buttons that clean up a whole mask, and what the last one did."""

    def __init__(self, editor: Editor) -> None:
        super().__init__("Clean up")
        self.smallest = _number(
            50, 1, 100_000, 10, " mm³", "Islands of a tissue smaller than this are taken out."
        )
        self.radius = _number(1, 0.1, 10, 0.5, " mm", "What is thinner than about this vanishes.")
        self.outcome = text("What the last clean-up did.")
        self.component_button = self._button(
            "Largest component",
            "Keep only the largest connected part of the tumour.",
            editor.largest_component,
        )
        self.holes_button = self._button("Fill holes", "Fill what the tumour encloses.", editor.fill_holes)
        self.islands_button = self._button(
            "Remove islands below",
            "Give small islands to the tissue around them, or to the background.",
            lambda: editor.remove_islands(self.smallest.value()),
        )
        self.smooth_button = self._button(
            "Smooth over",
            "Smooth the surfaces of all tissues; thin and small ones shrink.",
            lambda: editor.smooth(self.radius.value()),
        )
        grid = QGridLayout(self)
        grid.addWidget(self.component_button, 0, 0)
        grid.addWidget(self.holes_button, 0, 1)
        grid.addWidget(self.islands_button, 1, 0)
        grid.addWidget(self.smallest, 1, 1)
        grid.addWidget(self.smooth_button, 2, 0)
        grid.addWidget(self.radius, 2, 1)
        grid.addWidget(self.outcome, 3, 0, 1, 2)

    def _button(self, title: str, tooltip: str, clean: Callable[[], int]) -> Any:
        def clicked() -> None:
            count = clean()
            voxels = "voxel" if count == 1 else "voxels"
            done = f"{count} {voxels} changed. {UNDO}" if count else "nothing to change."
            self.outcome.setText(f"{title}: {done}")

        return button(title, f"{tooltip} {UNDO}", clicked)


class _Recovery(QWidget):
    """Offers the edits that a crash left; hidden where there are none."""

    def __init__(self, autosave: Autosave) -> None:
        super().__init__()
        self.autosave = autosave
        self.offered: Record | None = None
        self.words = text("Kept while you edited, by a viewer that ended without closing.")
        self.restore_button = button(
            "Restore", "Put the segmentation and its edits on display. Open its case first.", self._restore
        )
        self.discard_button = button("Discard", "Delete these edits for good.", self._discard)
        beside = row(self.words, self.restore_button, self.discard_button)
        beside.setContentsMargins(0, 0, 0, 0)
        beside.setStretch(0, 1)
        self.setLayout(beside)
        autosave.session.changed.connect(self._on_changed)
        self.offer()

    def offer(self) -> None:
        """Offer the latest of what is there now."""
        found = self.autosave.found()
        self.offered = found[0] if found else None
        self.setVisible(bool(found))
        if self.offered is not None:
            more = f" ({len(found) - 1} more)" if len(found) > 1 else ""
            self.words.setText(
                f"Unsaved edits of {self.offered.case}, {self.offered.when:%d %b %Y, %H:%M}{more}"
            )

    def _on_changed(self, state: State) -> None:
        if self.offered is not None and state.phase == "idle":  # a job may have restored it
            self.offer()

    def _restore(self) -> None:
        if self.offered is not None:
            self.autosave.restore(self.offered)
            self.offer()

    def _discard(self) -> None:
        if self.offered is not None:
            self.autosave.discard(self.offered)
            self.offer()


def _number(value: float, low: float, high: float, step: float, unit: str, tooltip: str) -> QDoubleSpinBox:
    box = QDoubleSpinBox()
    box.setDecimals(1)
    box.setRange(low, high)
    box.setSingleStep(step)
    box.setValue(value)
    box.setSuffix(unit)
    box.setToolTip(tooltip)
    return box


def _nothing() -> None:
    """For a button that acts while it is held, and not when it is clicked."""
