"""The part "Explore" of the panel: the substitute image, and masked reconstructions with live controls."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QFormLayout,
    QSpinBox,
    QWidget,
)
from superqt.utils import qdebounced

from napari_m3ae.explore import Explorer
from napari_m3ae.widgets.parts import Table, Ticks, button, row, stack, text
from napari_m3ae.widgets.plot import Plot

if TYPE_CHECKING:
    from napari_m3ae.session import Session
    from napari_m3ae.state import State

EXPLAINED = (
    "Whole sequences and random patches are replaced by the substitute, and the model reconstructs everything. "
    "Its loss counts visible voxels as well as masked ones (Eqns. 1 and 3), so visible ones are redrawn, not copied."
)


class ExplorePart(QWidget):
    """Shows the substitute image and reconstructions of the chosen case."""

    title = "Explore"

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session
        self.explorer = Explorer(session)
        self.substitute_button = button(
            "Show the substitute image",
            "What the model puts in the place of a missing sequence, as a layer each.",
            self.explorer.show_substitute,
        )
        self.histogram = Plot("Histogram of the substitute image of the sequence chosen below.", 90)
        self.dropped = Ticks("Dropped", "Mask {} as a whole.")
        self.ratio = QDoubleSpinBox()
        self.ratio.setRange(0, 0.98)
        self.ratio.setSingleStep(0.025)
        self.ratio.setDecimals(3)
        self.ratio.setValue(0.875)
        self.ratio.setSpecialValueText("no patches")
        self.ratio.setToolTip("Masked share of all patches, dropped sequences included (paper: 0.875).")
        self.seed = QSpinBox()
        self.seed.setToolTip("Draws the patches; the same seed masks the same patches.")
        self.shown = QComboBox()
        self.shown.setToolTip("The sequence whose layers are shown.")
        self.live = QCheckBox("live")
        self.live.setToolTip("Reconstruct again whenever a control changes.")
        self.run_button = button("Reconstruct", "Mask the case and reconstruct it.", self.reconstruct)
        self.fidelity = Table(
            ("", "masked MSE", "dB", "visible MSE", "dB"),
            "How near the reconstruction is to the given sequence, inside the brain; dB: peak signal-to-noise ratio.",
        )
        self._lay_out()
        self._connect()

    def render(self, state: State) -> None:  # type: ignore[override]
        """Show a state of the session."""
        if self.dropped.offer(names := [slot.modality for slot in state.slots]):
            self.shown.clear()
            self.shown.addItems(names)
        _allow(self.substitute_button, state.phase == "idle", self.explorer.lacks("substitute"))
        lacks = self.explorer.lacks("reconstruction")
        _allow(self.run_button, state.can_run, lacks)
        for widget in (self.dropped, self.ratio, self.seed, self.shown, self.live):
            _allow(widget, True, lacks)

    def reconstruct(self) -> None:
        """Reconstruct with the present controls."""
        self.explorer.reconstruct(
            self.dropped.ticked, self.ratio.value() or None, self.seed.value(), self.shown.currentText()
        )

    def _lay_out(self) -> None:
        form = QFormLayout()
        for title, widget in {"Masked share": self.ratio, "Seed": self.seed, "Show": self.shown}.items():
            form.addRow(title, widget)
        run = row(self.run_button, self.live)
        run.setStretch(0, 1)
        explained = text("", EXPLAINED)
        stack(self, self.substitute_button, self.histogram, explained, self.dropped, form, run, self.fidelity)

    def _connect(self) -> None:
        again = qdebounced(self._again, timeout=400)
        self.dropped.changed.connect(lambda: again())
        self.ratio.valueChanged.connect(lambda _: again())
        self.seed.valueChanged.connect(lambda _: again())
        self.shown.currentTextChanged.connect(self.explorer.show_sequence)
        self.explorer.changed.connect(self._fill)
        self._fill()

    def _again(self) -> None:
        if self.live.isChecked() and self.explorer.reconstruction is not None and self.session.state.can_run:
            self.reconstruct()

    def _fill(self) -> None:
        self.fidelity.fill(self.explorer.fidelity)
        self.fidelity.setVisible(self.explorer.reconstruction is not None)
        image = self.explorer.substitute.get(self.shown.currentText())
        self.histogram.draw(None if image is None else lambda axes: axes.hist(image.ravel(), 64))


def _allow(widget: QWidget, allowed: bool, lacks: str | None) -> None:
    """Enable a widget if it is `allowed`; what the model `lacks` for it is said in its tooltip instead of the help."""
    if widget.property("help") is None:
        widget.setProperty("help", widget.toolTip())
    widget.setEnabled(allowed and lacks is None)
    widget.setToolTip(lacks or widget.property("help"))
