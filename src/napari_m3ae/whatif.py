"""`WhatIf`: what if a sequence were missing? Shows how the model's answer changes. No Qt.

Two results of the model are compared, never with an expert: this says how much the answer depends on a sequence, not
how good it is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from napari.utils.notifications import show_error
from psygnal import Signal

from m3ae_core.events import Progress
from m3ae_core.regions import BRATS_2023
from napari_m3ae import layers

if TYPE_CHECKING:
    from m3ae_core.inference.predictor import Prediction
    from m3ae_core.inference.whatif import Difference
    from m3ae_core.io.case import Case
    from m3ae_core.modalities import Subset
    from napari_m3ae.chosen import Chosen
    from napari_m3ae.jobs import Events
    from napari_m3ae.session import Session

#: How the names of the layers begin; there is never more than one of each.
SECOND, DIFFERENCE, AGREEMENT = "M3AE what if", "M3AE difference", "M3AE agreement"
#: What the numbers of a difference map mean, and their colours.
CHANGES = {1: ("lost", "#d62728"), 2: ("gained", "#17becf"), 3: ("other tissue", "#ff7f0e")}
#: How thick the outline of the second segmentation is drawn, in voxels.
OUTLINE = 2
#: From here on a duration is told in minutes, in seconds.
LONG = 180


@dataclass(frozen=True, eq=False)
class _Compared:
    """What a comparison brings; `changes` (X, Y, Z) holds the numbers of :data:`CHANGES`."""

    first: Prediction
    second: Prediction
    changes: npt.NDArray[np.uint8]
    difference: Difference


@dataclass(frozen=True, eq=False)
class _Swept:
    """What a sweep brings; `counts` (X, Y, Z) says in how many subsets a voxel is tumour."""

    counts: npt.NDArray[np.uint8]
    affine: npt.NDArray[np.float64]
    dice: dict[Subset, dict[str, float]]
    shares: dict[str, dict[str, float]]


class WhatIf:
    """Compares what the model says of the chosen sequences with what it says of fewer of them.

    All that it computes is kept in the session's predictions, and nothing is computed twice. What was found is
    forgotten, and its layers are hidden, as soon as other images, another grid or another model are chosen.

    Attributes
    ----------
    changed
        Emitted when one of the following has changed.
    compared
        The two subsets that were compared last, if any.
    difference
        How the segmentation from the second differs from that from the first, if two were compared.
    dice
        After a sweep: subset -> region (WT, TC, ET) -> Dice to the segmentation from all sequences, largest subset
        first; empty before.
    shares
        After a sweep: region -> sequence -> its share of that Dice (exact Shapley value); empty before.
    """

    changed = Signal()

    def __init__(self, session: Session) -> None:
        self.session = session
        self.compared: tuple[Subset, Subset] | None = None
        self.difference: Difference | None = None
        self.dice: dict[Subset, dict[str, float]] = {}
        self.shares: dict[str, dict[str, float]] = {}
        session.forgotten.connect(self._forget)

    @property
    def present(self) -> tuple[str, ...]:
        """The sequences that are chosen now."""
        return self.session.state.subset.present

    def cost(self) -> str:
        """In words, what :meth:`sweep` will take."""
        count = 2 ** len(self.present) - 1
        known = sum(set(subset.present) <= set(self.present) for subset in self.session.predictions)
        runs, seconds = count - known, self.session.state.seconds
        if runs <= 0:
            return f"All {count} combinations are computed" if count > 0 else "Choose a case first"
        words = f"{runs} more run{'s' if runs > 1 else ''}"
        return words if seconds is None else f"{words}, about {_duration(runs * seconds)}"

    def compare_without(self, names: Collection[str]) -> None:
        """Segment the case from all chosen sequences and again without some, and show how the two differ."""
        if (chosen := self.session.chosen_or_told()) is None:
            return
        kept = [name for name in chosen.case.volumes if name not in names]
        if not 0 < len(kept) < len(chosen.case.volumes):
            show_error("Nothing to compare. Leave out at least one of the chosen sequences, and not all.")
            return
        self._start(self._compare(chosen, chosen.case.only(*kept)), chosen, self._show_compared)

    def sweep(self) -> None:
        """Segment the case from every subset of the chosen sequences, and show where the answers agree."""
        if (chosen := self.session.chosen_or_told()) is not None:
            self._start(self._sweep(chosen), chosen, self._show_swept)

    def show_subset(self, subset: Subset) -> None:
        """Show the segmentation from one subset, if it was computed."""
        if subset in self.session.predictions:
            self._show_second(self.session.predictions[subset]).visible = True

    # --- jobs: these run in a thread and touch no layer ------------------------------------------------

    def _compare(self, chosen: Chosen, fewer: Case) -> Events:
        from m3ae_core.inference.whatif import compare, difference_map

        known = dict(chosen.known)
        first = yield from self._segment(chosen.case, known)
        second = yield from self._segment(fewer, known)
        yield Progress("comparing", 0, 0)
        yield _Compared(
            first,
            second,
            difference_map(first.labels, second.labels),
            compare(first.labels, second.labels, first.scheme, first.affine),
        )

    def _segment(
        self, case: Case, known: dict[Subset, Prediction]
    ) -> Generator[Progress | Prediction, None, Prediction]:
        """Return what the model says of a case, yielding what comes on the way to it."""
        if case.subset not in known:
            for event in self.session.segment(case):
                yield event
                if not isinstance(event, Progress):
                    known[case.subset] = event
        return known[case.subset]

    def _sweep(self, chosen: Chosen) -> Events:
        from m3ae_core.inference.whatif import agreement, compare, contributions, sweep

        yield Progress("loading the model", 0, 0)
        dice: dict[Subset, dict[str, float]] = {}
        tumour: dict[Subset, npt.NDArray[np.bool_]] = {}
        full: Prediction | None = None
        for event in sweep(
            self.session.predictor(),
            chosen.case,
            BRATS_2023,
            dict(chosen.known),
            same_patient=self.session.same_patient,
        ):
            if isinstance(event, Progress):
                yield event
                continue
            found = event.prediction
            yield found
            full = full or found  # all sequences come first
            dice[event.subset] = compare(full.labels, found.labels, full.scheme, full.affine).dice
            tumour[event.subset] = found.labels > 0
        if full is not None:
            shares = {
                region: contributions({subset: values[region] for subset, values in dice.items()})
                for region in next(iter(dice.values()))
            }
            yield _Swept(agreement(tumour), full.affine, dice, shares)

    def _start(self, events: Events, chosen: Chosen, show: Callable[[Any, Chosen], None]) -> None:
        """Run a job that brings predictions, which are kept as they come, and at its end something to show."""

        def current() -> bool:
            return chosen.known is self.session.predictions

        def while_current() -> Events:
            for event in events:
                if not current():  # nobody waits for the rest, and the next case waits for its turn
                    return
                yield event

        def receive(event: Any) -> None:
            if not isinstance(event, _Compared | _Swept):
                chosen.known[event.subset] = replace(event, probabilities={})
            elif current():
                show(event, chosen)

        self.session.start(while_current(), receive)

    # --- showing -----------------------------------------------------------------------------------------

    def _show_compared(self, found: _Compared, chosen: Chosen) -> None:
        shown = self.session.shown
        if shown is None or shown.prediction.labels is not found.first.labels:
            self.session.show(found.first, chosen)
        self._show_second(found.second)
        self.compared = (found.first.subset, found.second.subset)
        self.difference = found.difference
        name = f"{DIFFERENCE} [{found.first.subset} → {found.second.subset}]"
        style = {"opacity": 0.8, **layers.label_style(CHANGES)}
        layer = self._show(
            DIFFERENCE, layers.computed(found.changes, found.first.affine, name, "labels", **style)
        )
        layer.visible, layer.editable = True, False
        layers.reveal(self.session.viewer, layer)
        self.changed.emit()

    def _show_second(self, prediction: Prediction) -> Any:
        """Put a segmentation into the layer of the second one, visible only if that was; return the layer."""
        former = self._layer(SECOND)
        layer = self._show(
            SECOND,
            layers.computed(
                prediction.labels.copy(),
                prediction.affine,
                f"{SECOND} [{prediction.subset}]",
                "labels",
                visible=False,
                **layers.tissue_style(prediction.scheme),
            ),
        )
        if former is None:
            layer.contour = OUTLINE
        layer.editable = False
        return layer

    def _show_swept(self, found: _Swept, _: Chosen) -> None:
        self.dice, self.shares = found.dice, found.shares
        name = f"{AGREEMENT}: tumour in n of {len(found.dice)} subsets"
        style: dict[str, Any] = {
            "colormap": layers.fading("plasma"),
            "blending": "translucent",
            "opacity": 0.6,
        }
        layer = self._show(AGREEMENT, layers.computed(found.counts, found.affine, name, **style))
        layer.contrast_limits = (0, len(found.dice))
        layer.visible = True
        self.changed.emit()

    def _show(self, role: str, content: layers.LayerData) -> Any:
        """Show something computed in the layer whose name begins with `role`, renamed, or in a new one."""
        if (former := self._layer(role)) is not None:
            former.name = content[1]["name"]
        return layers.show_computed(self.session.viewer, content)

    def _layer(self, role: str) -> Any:
        return next(
            (it for it in self.session.viewer.layers if layers.made_here(it) and it.name.startswith(role)),
            None,
        )

    # --- what is known -----------------------------------------------------------------------------------

    def _forget(self) -> None:
        """Drop and hide what was said of other images or by another model."""
        for role in (SECOND, DIFFERENCE, AGREEMENT):
            if (layer := self._layer(role)) is not None:
                layer.visible = False
        self.compared, self.difference, self.dice, self.shares = None, None, {}, {}
        self.changed.emit()


def _duration(seconds: float) -> str:
    return f"{max(1, round(seconds))} s" if seconds < LONG else f"{round(seconds / 60)} min"
