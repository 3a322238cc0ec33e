"""The part "Train" of the panel: start, follow and stop a training that goes on without the viewer."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

from magicgui.types import FileDialogMode
from magicgui.widgets import FileEdit
from napari.utils.notifications import show_error
from qtpy.QtCore import QTimer
from qtpy.QtGui import QGuiApplication, QHideEvent, QShowEvent
from qtpy.QtWidgets import QComboBox, QFileDialog, QFormLayout, QLabel, QWidget

from m3ae_core.config import builtin_recipes
from m3ae_core.errors import InputError, M3AEError, printable
from m3ae_core.regions import SCHEMES
from napari_m3ae.runs import Curves, Run
from napari_m3ae.training import Training, start
from napari_m3ae.widgets.evolution import Evolution
from napari_m3ae.widgets.parts import button, row, stack, text
from napari_m3ae.widgets.plot import Plot, draw_curves

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_m3ae.session import Session
    from napari_m3ae.state import State

STAGES = {"pretrain": "1: masked autoencoder and substitute", "finetune": "2: segmentation"}
#: Title and tooltip of each folder to choose.
FOLDERS = {
    "cases": ("Cases", "The folder of training cases, one folder each, with all sequences (and labels)."),
    "output": ("Run folder", "Where checkpoints, curves and the model go; a run that stopped there goes on."),
    "pretrained": ("Pretrained", "The folder `bundle` in the run folder of stage 1."),
    "validation": ("Validation", "A folder of cases to measure the Dice on meanwhile; may be left empty."),
}
#: Those that only stage 2 asks for.
STAGE_2 = ("pretrained", "validation")
#: Milliseconds between two looks at the run folder.
INTERVAL = 2000
EXPLAINED = (
    "A training runs as a process of its own: it goes on when the viewer is closed, and can be followed again by "
    "opening its run folder."
)


class TrainPart(QWidget):
    """Starts a training, and shows how the run in a folder gets on."""

    title = "Train"

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session
        self.run: Run | None = None
        self.curves = Curves({}, {})
        self.stage = QComboBox()
        for name, words in STAGES.items():
            self.stage.addItem(words, name)
        self.stage.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.stage.setToolTip("Stage 2 starts from the model that stage 1 made.")
        self.recipe = _RecipeChooser()
        self.folders = {
            name: FileEdit(mode=FileDialogMode.EXISTING_DIRECTORY, nullable=True, tooltip=tip)
            for name, (_, tip) in FOLDERS.items()
        }
        for chooser in self.folders.values():
            chooser.choose_btn.text = "…"
        self.titles = {name: QLabel(title) for name, (title, _) in FOLDERS.items()}
        self.scheme, self.scheme_title = QComboBox(), QLabel("Labels")
        self.scheme.addItems(["", *SCHEMES])
        self.scheme.setToolTip("What the numbers of the labels mean: which release they are of.")
        self.start_button = button(
            "Start", "Train, or go on where the run in that folder stopped.", self.start
        )
        self.stop_button = button(
            "Stop", "End the process. Start goes on from its last checkpoint.", self.stop
        )
        self.open_button = button("Open run folder…", "Follow a run that was started before.", self.open_run)
        self.command_button = button(
            "Copy as command",
            "The command line that does the same.",
            lambda: self._copy(lambda t: t.command),
        )
        self.python_button = button(
            "Copy as Python", "The program that does the same.", lambda: self._copy(lambda t: t.python)
        )
        self.state = text("The run that is followed.")
        self.losses = Plot("Mean of each term of the loss in every epoch; logarithmic.", 160)
        self.dice = Plot("Mean Dice of each region over the validation cases.", 160)
        self.substitute = Evolution()
        self.timer = QTimer(self)
        self.timer.setInterval(INTERVAL)
        self.timer.timeout.connect(self.refresh)
        self._lay_out()
        self.stage.currentIndexChanged.connect(lambda _: self._show_stage())
        self._show_stage()
        self.refresh()

    def render(self, state: State) -> None:  # type: ignore[override]
        """Show a state of the session: a training has nothing to do with it."""

    def showEvent(self, event: QShowEvent | None) -> None:  # noqa: N802  Qt's name
        """Look at the run folder, now and from time to time, while somebody sees it."""
        super().showEvent(event)
        self.refresh()
        self.timer.start()

    def hideEvent(self, event: QHideEvent | None) -> None:  # noqa: N802  Qt's name
        """Look no longer."""
        self.timer.stop()
        super().hideEvent(event)

    def start(self) -> None:
        """Start the training that the controls describe, and follow it."""
        try:
            self.run = start(self._training())
        except M3AEError as error:
            show_error(str(error))
        self.refresh()

    def stop(self) -> None:
        """Stop the run that is followed."""
        if self.run is not None:
            self.run.stop()
        self.refresh()

    def open_run(self) -> None:
        """Ask for a run folder and follow it."""
        if folder := QFileDialog.getExistingDirectory(self, "The run folder of a training"):
            self.run = Run(Path(folder))
            self.refresh()

    def refresh(self) -> None:
        """Show how the run is now."""
        run = self.run
        self.stop_button.setEnabled(run is not None and run.alive)
        self.state.setVisible(run is not None)
        if run is not None:
            self.state.setText(f"{printable(run.folder.name)}\n{run.words()}")
            self.state.setToolTip(printable(run.folder))
        self._show_curves(Curves({}, {}) if run is None else run.curves())
        self.substitute.draw([] if run is None else run.substitutes(), () if run is None else run.modalities)

    def _show_curves(self, curves: Curves) -> None:
        """Draw the learning curves, if they are others than those on display."""
        if curves == self.curves:
            return
        self.curves, (losses, dice) = curves, curves
        self.losses.draw(partial(draw_curves, title="Losses", series=losses, log=True) if losses else None)
        self.dice.draw(partial(draw_curves, title="Dice", series=dice, log=False) if dice else None)

    def _training(self) -> Training:
        """Return the training that the controls describe.

        Raises
        ------
        InputError
            If a folder that it needs was not chosen (code ``no-folder``).
        """
        given = {name: cast("Path | None", self.folders[name].value) for name in self._asked_for()}
        for name, path in given.items():
            if path is None and name != "validation":
                title, hint = FOLDERS[name]
                raise InputError(f"'{title}' is empty.", hint, code="no-folder")
        folders = {name: path.expanduser().absolute() for name, path in given.items() if path is not None}
        scheme = self.scheme.currentText() if self.stage.currentData() == "finetune" else ""
        return Training(self.stage.currentData(), self.recipe.value, **folders, scheme=scheme)

    def _asked_for(self) -> list[str]:
        """Names of the folders that the chosen stage needs or may have."""
        return [name for name in FOLDERS if self.stage.currentData() == "finetune" or name not in STAGE_2]

    def _copy(self, as_text: Callable[[Training], str]) -> None:
        try:
            copied = as_text(self._training())
        except M3AEError as error:
            show_error(str(error))
            return
        if (clipboard := QGuiApplication.clipboard()) is not None:
            clipboard.setText(copied)

    def _show_stage(self) -> None:
        """Show the folders that the chosen stage asks for."""
        for name, chooser in self.folders.items():
            asked = name in self._asked_for()
            self.titles[name].setVisible(asked)
            chooser.native.setVisible(asked)
        for widget in (self.scheme_title, self.scheme):
            widget.setVisible(self.stage.currentData() == "finetune")

    def _lay_out(self) -> None:
        form = QFormLayout()
        form.addRow("Stage", self.stage)
        form.addRow("Recipe", self.recipe)
        for name, folder in self.folders.items():
            form.addRow(self.titles[name], folder.native)
        form.addRow(self.scheme_title, self.scheme)
        started = row(self.start_button, self.stop_button)
        copied = row(self.command_button, self.python_button)
        followed = (self.open_button, self.state, self.losses, self.dice, self.substitute)
        stack(self, text("", EXPLAINED), form, started, copied, *followed)


class _RecipeChooser(QComboBox):
    """The recipes to choose from; the last entry asks for a file."""

    FILE = "a file…"

    def __init__(self) -> None:
        super().__init__()
        self.addItems([*builtin_recipes(), self.FILE])
        self.setCurrentText("paper")
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setToolTip("How the model is made and trained: a recipe of ours, or a TOML file.")
        self.value = self.currentText()
        self.activated.connect(self._choose)

    def _choose(self, index: int) -> None:
        if self.itemText(index) == self.FILE:
            path, _ = QFileDialog.getOpenFileName(self, "A recipe", "", "Recipes (*.toml)")
            if path and self.findText(path) < 0:
                self.insertItem(index, path)
            self.setCurrentText(path or self.value)
        self.value = self.currentText()
