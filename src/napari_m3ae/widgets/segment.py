"""The part "Segment" of the panel: choose sequences and model, see how reliable that is, run, save."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from magicgui.widgets import ComboBox
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFileDialog,
    QFormLayout,
    QLabel,
    QWidget,
)

from m3ae_core.errors import printable
from m3ae_core.regions import COLOURS, SCHEMES
from napari_m3ae.result import show_probabilities
from napari_m3ae.session import Session
from napari_m3ae.settings import settings
from napari_m3ae.state import Model
from napari_m3ae.widgets.parts import button, row, set_quietly, stack, text

if TYPE_CHECKING:
    from napari_m3ae.state import Slot, State

#: What of a model's card its tooltip shows.
CARD = ("name", "data", "licence", "intended_use")
LEGEND = "<br>".join(f'<span style="color: {colour}">■</span> {tissue}' for tissue, colour in COLOURS.items())


class SegmentPart(QWidget):
    """Shows the sequences, the model and the result of a session, and passes on what the user does."""

    title = "Segment"

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session
        self.choices = QFormLayout()
        self.rows: dict[str, _Row] = {}
        self.models = _ModelChooser(session)
        self.plan = text("What a run will use and what it will substitute.")
        self.reliability = text("Measured on the model's validation cases with exactly these sequences.")
        self.run_button = button(
            "Run (Alt+R)", "Segment the tumour from the ticked sequences.", session.run, "Alt+R"
        )
        self.legend = text("What the colours stand for.", LEGEND)
        self.probabilities = button(
            "Show probabilities", "How probable each region is, as hidden layers.", self._show_probabilities
        )
        self.numbers, self.scheme = QLabel("Numbers"), QComboBox()
        self.scheme.addItems(list(SCHEMES))
        self.scheme.setCurrentText(settings().scheme)
        self.scheme.setToolTip("Label numbers in the saved file; necrotic core / oedema / enhancing tumour.")
        self.save_button = button(
            "Save… (Alt+S)",
            "Write a NIfTI label map on the case's grid, and a record beside it.",
            self.save,
            "Alt+S",
        )
        self.report_button = button(
            "Report…",
            "Write a page to read or print: slices, volumes, diameters, how reliable the model is (.html).",
            self._report,
        )
        self._lay_out()

    def _lay_out(self) -> None:
        self.choices.addRow("Use", QLabel("Image layer"))
        self.choices.addRow("Model", self.models)
        told = (self.plan, self.reliability, self.run_button, self.legend, self.probabilities)
        saving = row(self.numbers, self.scheme, self.save_button)
        stack(self, self.choices, *told, saving, self.report_button)

    def render(self, state: State) -> None:  # type: ignore[override]
        """Show a state of the session."""
        self._show_slots(state.slots)
        self.models.render(state.model)
        estimate = "" if state.seconds is None else f" It will take about {max(1, round(state.seconds))} s."
        self.plan.setText(state.plan + estimate)
        self.reliability.setText("\n".join(state.expected or state.reliability))
        self.reliability.setToolTip(
            "\n".join(("Measured on the model's validation cases:", *state.reliability))
        )
        self.run_button.setEnabled(state.can_run)
        for widget in (
            self.legend,
            self.probabilities,
            self.numbers,
            self.scheme,
            self.save_button,
            self.report_button,
        ):
            widget.setVisible(bool(state.result))

    def _show_slots(self, slots: Sequence[Slot]) -> None:
        """Show the slots, in a row each."""
        if [slot.modality for slot in slots] != list(self.rows):
            for _ in self.rows:
                self.choices.removeRow(1)
            self.rows = {slot.modality: _Row(self.session, slot.modality) for slot in slots}
            for place, made in enumerate(self.rows.values(), 1):
                self.choices.insertRow(place, made.tick, made.layer.native)
        for slot in slots:
            self.rows[slot.modality].render(slot)

    def save(self) -> None:
        """Ask where to, and save the segmentation on display."""
        path, _ = QFileDialog.getSaveFileName(
            self, "Save the segmentation", self.session.suggested_name, "NIfTI (*.nii.gz)"
        )
        if path:
            self.session.save(Path(path), SCHEMES[self.scheme.currentText()])

    def _report(self) -> None:
        name = self.session.suggested_name.replace("_dseg.nii.gz", ".html")
        path, _ = QFileDialog.getSaveFileName(self, "Write a report", name, "Web page (*.html)")
        if path:
            self.session.report(Path(path))

    def _show_probabilities(self) -> None:
        if self.session.shown is not None:
            show_probabilities(self.session.viewer, self.session.shown.prediction)


class _ModelChooser(QComboBox):
    """The models to choose from; the last entry asks for a folder."""

    FOLDER = "a folder…"

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session
        self.offered = list(session.models)
        self.activated.connect(self._choose)

    def render(self, model: Model) -> None:  # type: ignore[override]
        """Show the chosen model, with its card as tooltip."""
        if model.folder not in [offered.folder for offered in self.offered]:
            self.offered.append(model)
        self.blockSignals(True)
        self.clear()
        self.addItems([offered.name for offered in self.offered] + [self.FOLDER])
        self.setCurrentIndex([offered.folder for offered in self.offered].index(model.folder))
        self.blockSignals(False)
        shown = [f"{key}: {model.card[key]}" for key in CARD if key in model.card]
        self.setToolTip("\n".join([printable(model.folder), *shown]))

    def _choose(self, index: int) -> None:
        if index < len(self.offered):
            self.session.use_model(self.offered[index])
            return
        if folder := QFileDialog.getExistingDirectory(self, "The folder of a model (it holds bundle.json)"):
            self.session.use_model(Model(Path(folder).name, Path(folder)))
        self.render(self.session.state.model)


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
        set_quietly(self.tick, slot.ticked)
        with self.layer.changed.blocked():
            self.layer.reset_choices()
            self.layer.value = slot.layer
