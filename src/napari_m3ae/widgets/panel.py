"""The panel "M3AE": one tab a part, and what concerns all of them above and below."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QEvent, QObject, Qt
from qtpy.QtGui import QShowEvent
from qtpy.QtWidgets import QMessageBox, QProgressBar, QTabWidget, QVBoxLayout, QWidget

from napari_m3ae.selftest import as_text, start_selftest
from napari_m3ae.session import Session
from napari_m3ae.widgets.case import CasePart
from napari_m3ae.widgets.edit import EditPart
from napari_m3ae.widgets.explore import ExplorePart
from napari_m3ae.widgets.parts import button, row, scrollable, text
from napari_m3ae.widgets.segment import SegmentPart
from napari_m3ae.widgets.train import TrainPart
from napari_m3ae.widgets.whatif import WhatIfPart

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from m3ae_core.selftest.check import Check
    from napari_m3ae.state import State

DISCLAIMER = "Research use only. Not a medical device."
#: Room for the names of the layers, in pixels.
WIDTH = 380


class Panel(QWidget):
    """Shows a :class:`~napari_m3ae.session.Session` in tabs and passes on what the user does."""

    def __init__(self, napari_viewer: ViewerModel, session: Session | None = None) -> None:
        super().__init__()
        self.session = session or Session(napari_viewer)
        self.segment = SegmentPart(self.session)
        self.case = CasePart(self.session)
        self.whatif = WhatIfPart(self.session)
        self.edit = EditPart(self.session)
        self.explore = ExplorePart(self.session)
        self.train = TrainPart(self.session)
        self.parts = (self.case, self.segment, self.edit, self.whatif, self.explore, self.train)
        self.banner = text("What the segmentation on display was made from.")
        self.banner.setStyleSheet("border: 1px solid palette(mid); padding: 4px;")
        self.progress = QProgressBar()
        self.cancel_button = button("Cancel", "Stop the job and discard it.", self.session.cancel)
        self.selftest_button = button(
            "Self-test",
            "Is the installed model intact, does the device compute what it should, does a file in the folder of the "
            "case survive a crash?",
            lambda: start_selftest(self.session, self._show_selftest),
        )
        self._lay_out()
        self.session.changed.connect(self._render)
        self.destroyed.connect(self.session.close)
        self._render(self.session.state)

    def reset_choices(self, *_: Any) -> None:
        """Offer the present layers under their present names (napari calls this when they change)."""
        self._render(self.session.state)

    def showEvent(self, event: QShowEvent | None) -> None:  # noqa: N802  Qt's name
        """Watch the window that the panel is in: it is asked about unsaved edits before it closes."""
        super().showEvent(event)
        if (window := self.window()) is not None:
            window.installEventFilter(self)

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:  # noqa: N802  Qt's name
        """Keep the window open if the user would rather not lose edits."""
        closing = event is not None and event.type() == QEvent.Type.Close and watched is self.window()
        if event is not None and closing and not self.edit.may_close():
            event.ignore()
            return True
        return bool(super().eventFilter(watched, event))

    def _lay_out(self) -> None:
        self.setMinimumWidth(WIDTH)
        self.tabs = QTabWidget()
        for part in self.parts:
            self.tabs.addTab(scrollable(part), part.title)
        footer = row(text("", DISCLAIMER), self.selftest_button)
        footer.setStretch(0, 1)
        column = QVBoxLayout(self)
        column.addWidget(self.banner)
        column.addWidget(self.tabs, 1)
        column.addLayout(row(self.progress, self.cancel_button))
        column.addLayout(footer)

    def _show_selftest(self, found: Sequence[Check]) -> None:
        """Show what the self-test found, to read and to copy, in a window that blocks nothing."""
        failed = [check.name for check in found if not check.ok]
        box = QMessageBox(self)
        box.setIcon(QMessageBox.Icon.Warning if failed else QMessageBox.Icon.Information)
        box.setWindowTitle("Self-test")
        box.setText(f"Failed: {', '.join(failed)}." if failed else "All checks passed.")
        box.setInformativeText(as_text(found))
        box.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        box.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        box.setModal(False)
        box.show()

    def _render(self, state: State) -> None:
        for part in self.parts:
            part.render(state)
        self.banner.setText("\n".join([state.result, *(f"⚠ {warning}" for warning in state.warnings)]))
        self.banner.setVisible(bool(state.result))
        self.cancel_button.setVisible(state.phase != "idle")
        self.cancel_button.setEnabled(state.phase == "running")
        self.selftest_button.setEnabled(state.phase == "idle")
        self.progress.setVisible(state.phase != "idle")
        done, total, what = 0, 0, "starting"
        if state.progress is not None:
            done, total, what = state.progress.done, state.progress.total, state.progress.what
        self.progress.setRange(0, total)
        self.progress.setValue(done)
        self.progress.setFormat(
            "Cancelling…" if state.phase == "cancelling" else f"{what.capitalize()} %v/%m"
        )
