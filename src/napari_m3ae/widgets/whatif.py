"""The part "What if" of the panel: leave sequences out, and see what the result owes to each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtWidgets import QAbstractItemView, QWidget

from napari_m3ae.whatif import CHANGES, WhatIf
from napari_m3ae.widgets.parts import Table, Ticks, button, stack, text

if TYPE_CHECKING:
    from napari_m3ae.session import Session
    from napari_m3ae.state import State

REGIONS = ("WT", "TC", "ET")
LEGEND = " ".join(f'<span style="color: {colour}">■</span> {change}' for change, colour in CHANGES.values())


class WhatIfPart(QWidget):
    """Shows how the result changes with fewer sequences, and passes on what the user does."""

    title = "What if"

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session
        self.whatif = WhatIf(session)
        self.without = Ticks("Without", "Leave out {}, as if it had not been acquired.")
        self.compare_button = button(
            "Compare",
            "Segment with and without the ticked sequences, and show how the two differ.",
            lambda: self.whatif.compare_without(self._left_out()),
        )
        self.compared = text("Which sequences were used for the first and for the second segmentation.")
        self.comparison = Table(
            ("Region", "Dice", "Volume (mL)"),
            "WT whole tumour, TC tumour core, ET enhancing tumour; volume before → after.",
        )
        self.legend = text("What the colours of the layer of differences stand for.", LEGEND)
        self.cost = text("What the button below will take; it can be cancelled, and nothing done is lost.")
        self.sweep_button = button(
            "All subsets",
            "Segment from every combination of the chosen sequences, and show where they agree.",
            self.whatif.sweep,
        )
        self.agreement = text("What the layer of agreement shows.")
        self.shares_said = text(
            "The exact Shapley value of each sequence.",
            "Contribution: how much each sequence adds to the Dice, on average over all orders of adding them.",
        )
        self.shares = Table(("Sequence", *REGIONS), "The contributions of all sequences add up to 1.")
        self.subsets_said = text(
            "Compared with the model's own result from all sequences, not with an expert.",
            "Dice of each combination to the result from all sequences; click a row to see it.",
        )
        self.subsets = Table(
            ("Used", *REGIONS), "Click a row to outline the segmentation from these sequences."
        )
        self._lay_out()
        self._connect()
        self._fill()
        self.render(session.state)

    def render(self, state: State) -> None:  # type: ignore[override]
        """Show a state of the session."""
        self.without.offer(slot.modality for slot in state.slots)
        present, left_out = self.whatif.present, self._left_out()
        for name, box in self.without.boxes.items():
            box.setVisible(name in present)
        self.compare_button.setEnabled(state.can_run and 0 < len(left_out) < len(present))
        enough = len(present) > 1
        self.sweep_button.setEnabled(state.can_run and enough)
        self.cost.setText(f"{self.whatif.cost()}." if enough else "At least two sequences are needed.")

    def _lay_out(self) -> None:
        self.subsets.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        one = text("", "How would the result change if a sequence had not been acquired?")
        every = text("", "And with every combination of the sequences that are present?")
        compared = (self.without, self.compare_button, self.compared, self.comparison, self.legend)
        swept = (self.cost, self.sweep_button, self.agreement, self.shares_said, self.shares)
        stack(self, one, *compared, every, *swept, self.subsets_said, self.subsets)

    def _connect(self) -> None:
        self.without.changed.connect(lambda: self.render(self.session.state))
        self.subsets.cellClicked.connect(self._show_row)
        self.subsets.cellActivated.connect(self._show_row)  # the Enter key
        self.whatif.changed.connect(self._fill)

    def _left_out(self) -> list[str]:
        return [name for name in self.without.ticked if name in self.whatif.present]

    def _fill(self) -> None:
        """Show what was found."""
        found, compared = self.whatif.difference, self.whatif.compared
        if found is not None and compared is not None:
            self.compared.setText(" → ".join(str(subset) for subset in compared))
            self.comparison.fill(
                [
                    (name, f"{found.dice[name]:.2f}", _change(found.before_ml[name], found.after_ml[name]))
                    for name in REGIONS
                ]
            )
        for widget in (self.compared, self.comparison, self.legend):
            widget.setVisible(found is not None)
        dice, shares = self.whatif.dice, self.whatif.shares
        if dice:
            self.agreement.setText(
                f"Agreement: in how many of the {len(dice)} combinations a voxel is called tumour."
            )
            self.shares.fill([(n, *(f"{shares[r][n]:+.2f}" for r in REGIONS)) for n in shares[REGIONS[0]]])
            self.subsets.fill(
                [(str(s), *(f"{values[r]:.2f}" for r in REGIONS)) for s, values in dice.items()]
            )
        for widget in (self.agreement, self.shares_said, self.shares, self.subsets_said, self.subsets):
            widget.setVisible(bool(dice))

    def _show_row(self, row: int, _: int) -> None:
        self.whatif.show_subset(list(self.whatif.dice)[row])


def _change(before: float, after: float) -> str:
    """Two volumes in mL and, where there is something to refer to, the change."""
    words = f"{before:.1f} → {after:.1f}"
    return f"{words} ({100 * (after - before) / before:+.0f} %)" if before else words
