"""Small pieces that the parts of the panel are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from psygnal import Signal
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QAbstractItemView,
    QCheckBox,
    QHBoxLayout,
    QLabel,
    QLayout,
    QPushButton,
    QScrollArea,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)


def text(tooltip: str, content: str = "") -> QLabel:
    """Return a label that wraps and whose text can be copied."""
    label = QLabel(content)
    label.setWordWrap(True)
    label.setToolTip(tooltip)
    label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    return label


def button(title: str, tooltip: str, clicked: Callable[[], Any], shortcut: str = "") -> QPushButton:
    """Return a button that calls `clicked` without arguments; the title should name its shortcut."""
    made = QPushButton(title)
    made.setShortcut(shortcut)
    made.setToolTip(tooltip)
    made.clicked.connect(lambda: clicked())
    return made


def set_quietly(box: QCheckBox, on: bool) -> None:
    """Show a state without reporting it as the user's doing."""
    box.blockSignals(True)
    box.setChecked(on)
    box.blockSignals(False)


def row(*widgets: QWidget) -> QHBoxLayout:
    """Return widgets beside each other."""
    made = QHBoxLayout()
    for widget in widgets:
        made.addWidget(widget)
    return made


def stack(parent: QWidget, *parts: QWidget | QLayout) -> None:
    """Put widgets and layouts below each other into `parent`; room that is left stays at the bottom."""
    column = QVBoxLayout(parent)
    for part in parts:
        if isinstance(part, QWidget):
            column.addWidget(part)
        else:
            column.addLayout(part)
    column.addStretch()


def scrollable(widget: QWidget) -> QScrollArea:
    """Return `widget` in an area that scrolls where the window is too low for it."""
    area = QScrollArea()
    area.setWidget(widget)
    area.setWidgetResizable(True)
    area.setFrameShape(QScrollArea.Shape.NoFrame)
    area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    return area


class Ticks(QWidget):
    """A tick for each modality of the model, in a row behind a title; ``{}`` in the tooltip stands for the modality."""

    changed = Signal()

    def __init__(self, title: str, tooltip: str) -> None:
        super().__init__()
        self.tooltip = tooltip
        self.boxes: dict[str, QCheckBox] = {}
        self.row = row(QLabel(title))
        self.row.setContentsMargins(0, 0, 0, 0)
        self.row.addStretch()
        self.setLayout(self.row)

    @property
    def ticked(self) -> list[str]:
        """The modalities that are ticked."""
        return [name for name, box in self.boxes.items() if box.isChecked()]

    def offer(self, names: Iterable[str]) -> bool:
        """Offer these modalities, unticked, if others were offered before; say whether that was so."""
        names = tuple(names)
        if names == tuple(self.boxes):
            return False
        for box in self.boxes.values():
            box.setParent(None)
        self.boxes = {name: QCheckBox(name) for name in names}
        for name, box in self.boxes.items():
            box.setToolTip(self.tooltip.format(name))
            box.toggled.connect(lambda _: self.changed.emit())
            self.row.insertWidget(self.row.count() - 1, box)
        return True


class Table(QTableWidget):
    """A small table to read and to copy, as high as its rows.

    Parameters
    ----------
    header
        The titles of the columns.
    tooltip
        What the table shows.
    """

    def __init__(self, header: Sequence[str], tooltip: str) -> None:
        super().__init__(0, len(header))
        self.header = tuple(header)
        self.rows: list[tuple[str, ...]] = []
        self.setToolTip(tooltip)
        self.setHorizontalHeaderLabels(list(header))
        if (rows := self.verticalHeader()) is not None:
            rows.hide()
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        if (columns := self.horizontalHeader()) is not None:
            columns.setStretchLastSection(True)
        self.fill([])

    def fill(self, rows: Sequence[Sequence[str]]) -> None:
        """Show `rows` instead of what was there."""
        self.rows = [tuple(row) for row in rows]
        self.setRowCount(len(self.rows))
        for i, row in enumerate(self.rows):
            for j, cell in enumerate(row):
                self.setItem(i, j, QTableWidgetItem(cell))
        self.resizeColumnsToContents()
        header = self.horizontalHeader()
        height = 4 + (header.sizeHint().height() if header is not None else 0)
        self.setFixedHeight(height + sum(self.rowHeight(i) for i in range(len(self.rows))))

    @property
    def as_text(self) -> str:
        """The table with tabs between its cells, for the clipboard and a spreadsheet."""
        return "\n".join("\t".join(row) for row in (self.header, *self.rows))
