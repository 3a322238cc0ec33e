"""The part "Case" of the panel: open a case, see what became of its sequences, arrange the view."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from napari.utils.notifications import show_error, show_info
from qtpy.QtCore import Qt
from qtpy.QtGui import QDragEnterEvent, QDropEvent
from qtpy.QtWidgets import (
    QApplication,
    QCheckBox,
    QComboBox,
    QFileDialog,
    QFormLayout,
    QLabel,
    QMessageBox,
    QWidget,
)

from m3ae_core.errors import M3AEError
from m3ae_core.io.case import NO_ORIENTATION
from napari_m3ae import layers
from napari_m3ae.commands import as_command, as_python
from napari_m3ae.opening import Opener
from napari_m3ae.view import ORIENTATIONS, View
from napari_m3ae.widgets.asking import ask_in_dialog
from napari_m3ae.widgets.parts import button, row, set_quietly, stack, text

if TYPE_CHECKING:
    from napari_m3ae.session import Session
    from napari_m3ae.state import State

NIFTI = "NIfTI (*.nii *.nii.gz)"


class CasePart(QWidget):
    """Opens cases and shows what becomes of each sequence; files may be dropped on it."""

    title = "Case"

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session
        self.opener = Opener(session, self._may_leave, lambda questions: ask_in_dialog(questions, self))
        session.confirm = self._same_patient
        self.view = View(session)
        self.setAcceptDrops(True)
        self.folder_button = button(
            "Open folder…", "A folder with the sequences of one patient as NIfTI files.", self._open_folder
        )
        self.files_button = button("Open files…", "NIfTI files of one patient.", self._open_files)
        self.sample_button = button(
            "Sample case",
            "A real case that is shipped with the plugin; nothing is downloaded.",
            self.opener.open_sample,
        )
        self.sequences = QFormLayout()
        self.statuses: dict[str, QLabel] = {}
        self.sides = text("What is known of left and right.", NO_ORIENTATION)
        self.swap = _tick(
            "Left and right are swapped in this file",
            "For images whose headers tell no orientation: the first axis runs towards the left.",
            self._swap,
        )
        self.side = QComboBox()
        self.side.addItems([*ORIENTATIONS])
        self.side.setToolTip("Radiological: the patient's right is on the left. Neurological: on the right.")
        self.side.textActivated.connect(self.view.turn)
        self.grid = _tick(
            "Side by side",
            "Each chosen sequence in a cell of its own, with the segmentation over it.",
            self.view.grid,
        )
        self.planes = _tick(
            "Three planes", "Axial, coronal and sagittal slices together.", self.view.three_planes
        )
        self.planes.setVisible(self.view.planes_installed)
        self.command_button = button(
            "Copy as command", "A command line that does this run.", lambda: self._copy(as_command)
        )
        self.python_button = button(
            "Copy as Python", "Python lines that do this run.", lambda: self._copy(as_python)
        )
        self._lay_out()
        session.viewer.scene.camera.events.orientation.connect(self._render_view)
        session.viewer.canvas.grid.events.enabled.connect(self._render_view)
        session.closing.connect(self._let_go)

    def _lay_out(self) -> None:
        stack(
            self,
            text("", "Drop a folder or files here, or:"),
            row(self.folder_button, self.files_button, self.sample_button),
            self.sequences,
            self.sides,
            self.swap,
            row(QLabel("View"), self.side),
            row(self.grid, self.planes),
            row(self.command_button, self.python_button),
        )

    def render(self, state: State) -> None:  # type: ignore[override]
        """Show a state of the session."""
        for widget in (self.folder_button, self.files_button, self.sample_button):
            widget.setEnabled(state.phase == "idle")
        self._show_statuses(self.opener.statuses)
        sideless = self.opener.sideless
        set_quietly(self.swap, any(map(layers.swapped, sideless)))
        self.sides.setVisible(bool(sideless) and not self.swap.isChecked())
        self.swap.setVisible(bool(sideless))
        self.swap.setEnabled(state.phase == "idle")
        some = bool(state.subset.present)
        for widget in (self.command_button, self.python_button):
            widget.setEnabled(some)
        self.grid.setEnabled(some or self.view.gridded)
        self._render_view()

    def _show_statuses(self, statuses: Mapping[str, str]) -> None:
        """Show what becomes of each sequence, in a row each."""
        if statuses.keys() != self.statuses.keys():
            for _ in self.statuses:
                self.sequences.removeRow(0)
            self.statuses = {name: text(f"What becomes of {name} in a run.") for name in statuses}
            for name, label in self.statuses.items():
                self.sequences.addRow(name, label)
        for name, status in statuses.items():
            self.statuses[name].setText(status)

    def dragEnterEvent(self, event: QDragEnterEvent | None) -> None:  # noqa: N802  Qt's name
        """Accept files and folders of this computer."""
        if event is not None and _paths(event) and self.session.state.phase == "idle":
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent | None) -> None:  # noqa: N802  Qt's name
        """Open what was dropped."""
        if event is not None:
            event.acceptProposedAction()
            self.opener.open(_paths(event))

    def _open_folder(self) -> None:
        if folder := QFileDialog.getExistingDirectory(self, "The folder of one patient"):
            self.opener.open([Path(folder)])

    def _open_files(self) -> None:
        files, _ = QFileDialog.getOpenFileNames(self, "The sequences of one patient", "", NIFTI)
        if files:
            self.opener.open([Path(file) for file in files])

    def _swap(self, on: bool) -> None:
        self.opener.swap_sides(on)
        self.render(self.session.state)

    def _may_leave(self) -> bool:
        """Ask whether unsaved edits may be discarded."""
        answer = QMessageBox.question(
            self,
            "Unsaved edits",
            "The segmentation has edits that were not saved. Discard them and go on?",
            QMessageBox.StandardButton.Discard | QMessageBox.StandardButton.Cancel,
            QMessageBox.StandardButton.Cancel,
        )
        return bool(answer == QMessageBox.StandardButton.Discard)

    def _same_patient(self, problem: str) -> bool:
        """Ask whether images that seem to be of two patients are of one all the same."""
        box = QMessageBox(QMessageBox.Icon.Warning, "Two patients?", problem, parent=self)
        box.setTextFormat(Qt.TextFormat.PlainText)
        yes = box.addButton("Same patient", QMessageBox.ButtonRole.AcceptRole)
        box.setDefaultButton(box.addButton(QMessageBox.StandardButton.Cancel))
        box.exec()
        return box.clickedButton() is yes

    def _copy(self, written: Callable[[Session], str]) -> None:
        try:
            content = written(self.session)
        except M3AEError as error:
            show_error(str(error))
            return
        if (clipboard := QApplication.clipboard()) is not None:
            clipboard.setText(content)
        show_info("Copied to the clipboard.")

    def _render_view(self, *_: object) -> None:
        self.side.setCurrentText(self.view.side or "")
        for box, on in ((self.grid, self.view.gridded), (self.planes, self.view.planes_shown)):
            set_quietly(box, on)

    def _let_go(self) -> None:
        self.session.viewer.scene.camera.events.orientation.disconnect(self._render_view)
        self.session.viewer.canvas.grid.events.enabled.disconnect(self._render_view)


def _tick(title: str, tooltip: str, toggled: Callable[[bool], None]) -> QCheckBox:
    box = QCheckBox(title)
    box.setToolTip(tooltip)
    box.toggled.connect(toggled)
    return box


def _paths(event: QDropEvent) -> Sequence[Path]:
    """The files and folders that are dragged."""
    data = event.mimeData()
    return [] if data is None else [Path(url.toLocalFile()) for url in data.urls() if url.isLocalFile()]
