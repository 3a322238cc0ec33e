"""`Session`: everything the plugin knows about one viewer. It knows napari's layers but no Qt."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.utils.notifications import show_error
from psygnal import Signal

from m3ae_core.data.case import Case, require_same_grid
from m3ae_core.errors import InputError, M3AEError
from m3ae_core.events import Progress
from m3ae_core.modalities import BRATS
from napari_m3ae import layers
from napari_m3ae.jobs import Runner, ThreadRunner
from napari_m3ae.result import Shown, show
from napari_m3ae.state import State, used_and_substituted

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Layer

    from m3ae_core.inference.predictor import Prediction, Predictor

logger = logging.getLogger(__name__)


class Session:
    """Which layer is which sequence, the running job, and the segmentation on display.

    Parameters
    ----------
    viewer
        The viewer whose layers are used.
    runner
        How jobs are run; in a thread unless told otherwise.
    load
        Returns the predictor. It is called in the job, once, because loading torch takes seconds.
    """

    changed = Signal(State)

    def __init__(
        self, viewer: ViewerModel, runner: Runner | None = None, load: Callable[[], Predictor] | None = None
    ) -> None:
        self.state = State()
        self._viewer = viewer
        self._runner = runner or ThreadRunner()
        self._load = load or builtin_predictor
        self._predictor: Predictor | None = None
        self._shown: Shown | None = None
        viewer.layers.events.inserted.connect(self._on_inserted)
        viewer.layers.events.removed.connect(self._on_removed)
        for layer in viewer.layers:
            self._offer(layer)

    @property
    def images(self) -> tuple[Image, ...]:
        """The layers that can be chosen as a sequence."""
        from napari.layers import Image

        return tuple(
            layer
            for layer in self._viewer.layers
            if isinstance(layer, Image) and layer.ndim == 3 and not layer.rgb
        )

    @property
    def suggested_name(self) -> str:
        """A file name for the segmentation on display.

        It holds no word that stands for a sequence or a label map: saved among the images of the case, the file
        must not be taken for one of them.
        """
        return "" if self._shown is None else f"{self._shown.case}_m3ae.nii.gz"

    def choose(self, modality: str, layer: Image | None) -> None:
        """Say which layer holds a sequence; None if it is missing."""
        self._set_slot(modality, layer=layer)

    def use(self, modality: str, ticked: bool) -> None:
        """Say whether a sequence takes part."""
        self._set_slot(modality, ticked=ticked)

    def run(self) -> None:
        """Segment the chosen sequences."""
        if not self.state.can_run:
            return
        try:
            case, sources = self._case()
        except M3AEError as error:
            show_error(str(error))
            return
        self._update(phase="running", progress=None)
        self._runner.start(
            self._events(case), lambda event: self._on_event(event, case, sources), self._on_end
        )

    def cancel(self) -> None:
        """Stop the run; its result is discarded."""
        if self.state.phase == "running":
            self._update(phase="cancelling")
            self._runner.cancel()

    def save(self, path: Path) -> None:
        """Write the segmentation on display, as it is now, with its record beside it."""
        from m3ae_core.inference.predictor import save_prediction

        if self._shown is None:
            return
        try:
            save_prediction(self._shown.as_displayed(), path)
        except M3AEError as error:
            show_error(str(error))

    def close(self) -> None:
        """Let go of the viewer, the panel and a running job."""
        self.changed.disconnect()
        self._viewer.layers.events.inserted.disconnect(self._on_inserted)
        self._viewer.layers.events.removed.disconnect(self._on_removed)
        self.cancel()

    def _on_inserted(self, event: Any) -> None:
        self._offer(event.value)

    def _offer(self, layer: Layer) -> None:
        """Put a new layer into the slot of its sequence; the first of another case empties all slots."""
        modality, source = layers.modality_of(layer), layers.source_of(layer)
        if layer not in self.images or modality is None:
            return
        slots = self.state.slots
        others = {layers.source_of(slot.layer) for slot in slots if slot.layer is not None} - {None, source}
        if source is not None and others:
            slots = tuple(replace(slot, layer=None) for slot in slots)
        mine = next(slot for slot in slots if slot.modality == modality)
        if source is not None or mine.layer is None:
            slots = tuple(replace(slot, layer=layer) if slot is mine else slot for slot in slots)
        self._update(slots=slots)

    def _on_removed(self, event: Any) -> None:
        gone = event.value
        if self._shown is not None and self._shown.layer == gone:
            self._shown = None
            self._update(result="", warnings=())
        self._update(slots=tuple(replace(s, layer=None) if s.layer == gone else s for s in self.state.slots))

    def _set_slot(self, modality: str, **changes: Any) -> None:
        slots = self.state.slots
        self._update(slots=tuple(replace(s, **changes) if s.modality == modality else s for s in slots))

    def _case(self) -> tuple[Case, frozenset[str]]:
        """Return the chosen sequences as a case, and where they come from."""
        used = {
            slot.modality: slot.layer for slot in self.state.slots if slot.ticked and slot.layer is not None
        }
        names = [layer.name for layer in used.values()]
        if twice := {name for name in names if names.count(name) > 1}:
            raise InputError(
                f"The layer '{twice.pop()}' is chosen for more than one sequence.",
                "Choose each layer once; leave a missing sequence empty.",
                code="duplicate-layer",
            )
        volumes = {modality: layers.to_volume(layer) for modality, layer in used.items()}
        require_same_grid(volumes)
        name = next((layers.facts(layer).get("case") for layer in used.values()), None) or names[0]
        return Case(name, BRATS, volumes), frozenset(
            layers.source_of(layer) or f"layer {layer.name}" for layer in used.values()
        )

    def _events(self, case: Case) -> Generator[Progress | Prediction, None, None]:
        yield Progress("loading the model", 0, 0)
        if self._predictor is None:
            self._predictor = self._load()
        yield from self._predictor.run(case)

    def _on_event(self, event: Any, case: Case, sources: frozenset[str]) -> None:
        if isinstance(event, Progress):
            self._update(progress=event)
        else:
            self._show(event, case, sources)

    def _on_end(self, error: Exception | None) -> None:
        self._update(phase="idle", progress=None)
        if error is not None:
            show_error(_sentence(error))

    def _show(self, prediction: Prediction, case: Case, sources: frozenset[str]) -> None:
        self._shown = show(self._viewer, prediction, case.name, sources, self._shown)
        used = used_and_substituted(prediction.subset, "were used", "were substituted")
        self._update(result=f"{self._shown.layer.name}: {used}", warnings=tuple(prediction.warnings))

    def _update(self, **changes: Any) -> None:
        self.state = replace(self.state, **changes)
        self.changed.emit(self.state)


def builtin_predictor() -> Predictor:
    """Return a predictor with the model that is shipped with the package."""
    from m3ae_core.bundle import load_bundle
    from m3ae_core.data.builtin import builtin_bundle
    from m3ae_core.inference.predictor import Predictor

    return Predictor(load_bundle(builtin_bundle()))


def _sentence(error: Exception) -> str:
    """What to tell the user about an error; the log gets the trace of those that nobody foresaw."""
    if isinstance(error, M3AEError):
        return str(error)
    logger.error("The segmentation failed", exc_info=error)
    return f"The segmentation stopped: {type(error).__name__}: {error}. See Help > Show logs."
