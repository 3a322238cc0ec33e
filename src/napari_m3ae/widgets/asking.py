"""The dialog that asks which sequence files hold whose names do not tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QComboBox, QDialog, QDialogButtonBox, QGridLayout, QLabel, QVBoxLayout, QWidget

from m3ae_core.errors import printable
from napari_m3ae.asking import NOT_USED, Question, repeated
from napari_m3ae.widgets.parts import text

CHOOSE, LEFT_OUT = "choose…", "not used"


class AskingDialog(QDialog):
    """One row a file: its name, what that says, and the sequences to choose from."""

    def __init__(self, questions: Sequence[Question], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWindowTitle("Which sequence is it?")
        self.chosen = {question.path: self._chooser(question) for question in questions}
        self.objection = text("Why this cannot be used yet.")
        buttons = QDialogButtonBox.StandardButton
        self.buttons = QDialogButtonBox(buttons.Ok | buttons.Cancel)
        self.buttons.accepted.connect(self.accept)
        self.buttons.rejected.connect(self.reject)
        self._lay_out(questions)
        self._check()

    @property
    def answers(self) -> dict[Path, str]:
        """The sequence of each file, :data:`~napari_m3ae.asking.NOT_USED` for none."""
        said = {path: chooser.currentText() for path, chooser in self.chosen.items()}
        return {path: NOT_USED if word == LEFT_OUT else word for path, word in said.items()}

    def _chooser(self, question: Question) -> QComboBox:
        chooser = QComboBox()
        chooser.addItems([CHOOSE, *question.choices, LEFT_OUT])
        chooser.setToolTip("What the file holds. Your answer is kept for this image.")
        chooser.currentTextChanged.connect(self._check)
        return chooser

    def _lay_out(self, questions: Sequence[Question]) -> None:
        column, grid = QVBoxLayout(self), QGridLayout()
        column.addWidget(QLabel("The names of these files do not tell which sequence they hold."))
        for row, question in enumerate(questions):
            for place, words in enumerate((printable(question.path.name), question.seen)):
                label = QLabel(words)
                label.setTextFormat(Qt.TextFormat.PlainText)
                label.setToolTip(printable(question.path))
                grid.addWidget(label, row, place)
            grid.addWidget(self.chosen[question.path], row, 2)
        column.addLayout(grid)
        column.addWidget(self.objection)
        column.addWidget(self.buttons)

    def _check(self, *_: object) -> None:
        """Let the answers through once there is one for each file, and no sequence is named twice."""
        words = list(self.answers.values())
        twice = repeated([word for word in words if word != CHOOSE])
        self.objection.setText(f"Two files are said to hold {twice}." if twice else "")
        if (ok := self.buttons.button(QDialogButtonBox.StandardButton.Ok)) is not None:
            ok.setEnabled(CHOOSE not in words and not twice)


def ask_in_dialog(questions: Sequence[Question], parent: QWidget | None = None) -> Mapping[Path, str] | None:
    """Ask about all files at once; None if the user cancels."""
    dialog = AskingDialog(questions, parent)
    return dialog.answers if dialog.exec() else None
