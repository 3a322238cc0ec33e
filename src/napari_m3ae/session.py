"""`Session`: what the parts of the plugin share about one viewer. It knows napari's layers but no Qt.

Which layer is which sequence, the model, the one job that may run, and the segmentation on display.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.utils.notifications import show_error, show_info
from psygnal import Signal

from m3ae_core.card import expected_words
from m3ae_core.errors import InputError, M3AEError, printable
from m3ae_core.events import Progress
from m3ae_core.files import refuse_overwriting
from m3ae_core.io.case import Case
from m3ae_core.io.grid import Grid
from m3ae_core.io.patients import find_two_patients
from m3ae_core.modalities import Subset
from napari_m3ae import layers
from napari_m3ae.chosen import Chosen, Recovered
from napari_m3ae.jobs import Events, OnEvent, Runner, ThreadRunner
from napari_m3ae.result import Shown, show
from napari_m3ae.settings import load_predictor, settings
from napari_m3ae.state import BUILTIN, Model, Slot, State, known_models, used_and_substituted

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Layer

    from m3ae_core.bundle import Bundle
    from m3ae_core.inference.predictor import Prediction, Predictor
    from m3ae_core.io.volume import Volume
    from m3ae_core.modalities import ModalitySet
    from m3ae_core.regions import LabelScheme

logger = logging.getLogger(__name__)


class Session:
    """Which layer is which sequence, the model, the running job, and the segmentation on display.

    Parameters
    ----------
    viewer
        The viewer whose layers are used.
    runner
        How jobs are run; in a thread unless told otherwise.
    load
        Returns the predictor of the bundle in a folder. It is called in a job, once per model, because loading torch
        takes seconds.

    Attributes
    ----------
    changed
        Emits the new :class:`State` after every change of it.
    closing
        Emitted once, when the session lets go of the viewer.
    shown
        The segmentation on display, if any.
    confirm
        Asked, with what speaks for two patients, whether all chosen images are of the same one; no, unless set.
    same_patient
        Whether that was answered with yes for the images that are chosen now.
    predictions
        What the model has said of the chosen images so far, by subset, without probabilities; another dictionary
        takes its place when other images, another grid or another model are chosen, so that a late result meets no
        other's.
    forgotten
        Emitted when that happens.
    """

    changed = Signal(State)
    closing = Signal()
    forgotten = Signal()

    def __init__(
        self,
        viewer: ViewerModel,
        runner: Runner | None = None,
        load: Callable[[Path], Predictor] | None = None,
    ) -> None:
        self.state = State()
        self.viewer = viewer
        self.shown: Shown | None = None
        self.confirm: Callable[[str], bool] = lambda _: False
        self.same_patient = False
        self.predictions: dict[Subset, Prediction] = {}
        self._runner = runner or ThreadRunner()
        self._load = load or load_predictor
        self._loaded: tuple[Path, Predictor] | None = None
        self._grid: Grid | None = None
        self.use_model(BUILTIN)
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
            for layer in self.viewer.layers
            if isinstance(layer, Image) and layer.ndim == 3 and not layer.rgb and not layers.made_here(layer)
        )

    @property
    def models(self) -> tuple[Model, ...]:
        """The models to choose from: the built-in one, registered ones, and those in the folder of the settings."""
        return known_models(settings().models_folder)

    @property
    def bundle(self) -> Bundle | None:
        """The chosen model, once it is loaded."""
        loaded = self._loaded
        return None if loaded is None or loaded[0] != self.state.model.folder else loaded[1].bundle

    @property
    def suggested_name(self) -> str:
        """A file name for the segmentation on display, as BIDS derivatives are named; empty if there is none.

        The word m3ae in it keeps the file from being taken for a reference when it lies among the images of the case.
        """
        if self.shown is None:
            return ""
        case = self.shown.case
        subject = case if case.startswith("sub-") else f"sub-{re.sub('[^0-9A-Za-z]', '', case)}"
        return f"{subject}_desc-m3ae_dseg.nii.gz"

    def choose(self, modality: str, layer: Image | None) -> None:
        """Say which layer holds a sequence; None if it is missing."""
        self._set_slot(modality, layer=layer)

    def adopt(self, found: Mapping[str, Image]) -> None:
        """Take these layers, by sequence, as the case; all others are missing.

        To be called after a layer in use got another patient's image, too: what the model said is forgotten.
        """
        self._forget()
        self._set_slots(tuple(replace(s, layer=found.get(s.modality)) for s in self.state.slots))

    def use(self, modality: str, ticked: bool) -> None:
        """Say whether a sequence takes part."""
        self._set_slot(modality, ticked=ticked)

    def use_model(self, model: Model) -> None:
        """Choose the model of the following runs; one whose card cannot be read is refused.

        Images whose modality the former model had too stay chosen.
        """
        try:
            chosen = model.read()
        except M3AEError as error:
            show_error(str(error))
            return
        self._forget()
        self._update(model=chosen, slots=self._slots_for(chosen.modalities), seconds=None)

    def run(self) -> None:
        """Segment the chosen sequences."""
        if (chosen := self.chosen_or_told()) is None:
            return
        started = time.monotonic()

        def finish(prediction: Prediction) -> None:
            self.show(prediction, chosen)
            self._update(seconds=time.monotonic() - started)

        self.start(self.segment(chosen.case), finish)

    def chosen(self) -> Chosen:
        """Return the chosen sequences as a case, and where they come from.

        Raises
        ------
        InputError
            If none is chosen, one layer is chosen twice, they do not show the same part of space, or they seem to be
            of two patients and nobody confirmed the contrary.
        """
        used = {
            slot.modality: slot.layer for slot in self.state.slots if slot.ticked and slot.layer is not None
        }
        if not used:
            raise InputError("No sequence is chosen.", "Open a case first.", code="no-sequence")
        names = [layer.name for layer in used.values()]
        if twice := {name for name in names if names.count(name) > 1}:
            raise InputError(
                f"The layer '{twice.pop()}' is chosen for more than one sequence.",
                "Choose each layer once; leave a missing sequence empty.",
                code="duplicate-layer",
            )
        name = next((layers.facts(layer).get("case") for layer in used.values()), None) or names[0]
        volumes = {modality: layers.to_volume(layer) for modality, layer in used.items()}
        case = Case(name, self.state.model.modalities, volumes)
        self._lie_on(Grid(case.shape, case.affine))
        self._require_one_patient(case.volumes)
        return Chosen(case, frozenset(map(layers.origin_of, used.values())), self.predictions)

    def chosen_or_told(self) -> Chosen | None:
        """Return the chosen sequences; if they cannot be used, tell the user why and return None."""
        try:
            return self.chosen()
        except M3AEError as error:
            show_error(str(error))
            return None

    def start(self, events: Events, on_event: OnEvent) -> bool:
        """Run a job, if none is running: its :class:`Progress` is told in the state, all else goes to `on_event`."""
        if self.state.phase != "idle":
            return False
        self._update(phase="running", progress=None)

        def deliver(event: Any) -> None:
            if isinstance(event, Progress):
                self._update(progress=event)
            else:
                on_event(event)

        self._runner.start(events, deliver, self._on_end)
        return True

    def cancel(self) -> None:
        """Stop the running job; what it would still have brought is discarded."""
        if self.state.phase == "running":
            self._update(phase="cancelling")
            self._runner.cancel()

    def predictor(self) -> Predictor:
        """Return the chosen model, loaded now if it is not; to be called within a job."""
        folder, loaded = self.state.model.folder, self._loaded
        # Another model may be chosen while this one is being loaded.
        if loaded is None or loaded[0] != folder:
            loaded = self._loaded = (folder, self._load(folder))
        return loaded[1]

    def segment(self, case: Case) -> Generator[Progress | Prediction, None, None]:
        """Segment a case with the chosen model: a job."""
        yield Progress("loading the model", 0, 0)
        yield from self.predictor().run(case, check=True, same_patient=self.same_patient)

    def show(self, prediction: Prediction, chosen: Chosen | Recovered) -> None:
        """Put a segmentation of the chosen sequences on display; edits of an earlier one are left alone."""
        if notes := chosen.notes:
            told = tuple(dict.fromkeys((*prediction.warnings, *notes)))
            record = {**prediction.provenance, "warnings": list(told)}
            prediction = replace(prediction, warnings=told, provenance=record)
        chosen.known[prediction.subset] = replace(prediction, probabilities={})
        self.shown = show(self.viewer, prediction, chosen.name, chosen.sources, self.shown)
        used = used_and_substituted(prediction.subset, "were used", "were substituted")
        self._update(
            result=f"{self.shown.layer.name}: {used}",
            expected=expected_words(prediction.provenance),
            warnings=tuple(prediction.warnings),
        )

    def save(self, path: Path, scheme: LabelScheme | None = None) -> bool:
        """Write the segmentation on display, as it is now, with its record beside it; say whether that worked.

        `scheme` are the label numbers to write; those on display if left out.
        """
        from m3ae_core.inference.predictor import save_prediction

        if self.shown is None:
            return False
        try:
            refuse_overwriting(path, layers.files_of(self.viewer.layers))
            save_prediction(self.shown.as_displayed(scheme), path)
        except M3AEError as error:
            show_error(str(error))
            return False
        self.shown = self.shown.saved()
        self._update()
        return True

    def report(self, path: Path) -> None:
        """Write a page (.html) about the segmentation on display, as it is now."""
        if self.shown is None:
            return
        try:
            chosen, prediction = self.chosen(), self.shown.as_displayed()
            if not self.shown.sources & chosen.sources:
                raise InputError(
                    "The segmentation on display is not of the chosen images.",
                    "Segment them first.",
                    code="other-case",
                )
        except M3AEError as error:
            show_error(str(error))
            return

        def job() -> Events:
            from m3ae_core.report.case import write_case_report

            yield Progress("writing the report", 0, 0)
            yield write_case_report(path, chosen.case, prediction)

        self.start(job(), lambda written: show_info(f"Written: {printable(written)}"))

    def close(self) -> None:
        """Let go of the viewer, the panel and a running job."""
        self.closing.emit()
        self.changed.disconnect()
        self.viewer.layers.events.inserted.disconnect(self._on_inserted)
        self.viewer.layers.events.removed.disconnect(self._on_removed)
        self.cancel()

    def _require_one_patient(self, volumes: Mapping[str, Volume]) -> None:
        """Refuse images that seem to be of two patients, unless the user confirms that it is one."""
        try:
            find_two_patients(volumes, self.state.model.modalities, same_patient=self.same_patient)
        except InputError as error:
            if not self.confirm(error.problem):
                raise
            self.same_patient = True

    def _lie_on(self, grid: Grid) -> None:
        """Note the grid of the chosen images; results on another one cannot be compared with theirs."""
        if self._grid is not None and not self._grid.is_like(grid):
            self._forget()
        self._grid = grid

    def _on_inserted(self, event: Any) -> None:
        self._offer(event.value)

    def _offer(self, layer: Layer) -> None:
        """Put a new layer into the slot of its sequence; the first of another case empties all slots."""
        modality, source = layers.modality_of(layer, self.state.model.modalities), layers.source_of(layer)
        slots = self.state.slots
        if layer not in self.images or modality not in [slot.modality for slot in slots]:
            return
        others = {layers.source_of(slot.layer) for slot in slots if slot.layer is not None} - {None, source}
        if source is not None and others:
            slots = tuple(replace(slot, layer=None) for slot in slots)
        mine = next(slot for slot in slots if slot.modality == modality)
        if source is not None or mine.layer is None:
            slots = tuple(replace(slot, layer=layer) if slot is mine else slot for slot in slots)
        self._set_slots(slots)

    def _on_removed(self, event: Any) -> None:
        gone = event.value
        if self.shown is not None and self.shown.layer == gone:
            self.shown = None
            self._update(result="", expected=(), warnings=())
        self._set_slots(tuple(replace(s, layer=None) if s.layer == gone else s for s in self.state.slots))

    def _set_slot(self, modality: str, **changes: Any) -> None:
        slots = self.state.slots
        self._set_slots(tuple(replace(s, **changes) if s.modality == modality else s for s in slots))

    def _slots_for(self, modalities: ModalitySet) -> tuple[Slot, ...]:
        """Return the slots of a model: those of now where it has the modality too, else what the case offers."""
        now = {slot.modality: slot for slot in self.state.slots}
        chosen = [slot.layer for slot in self.state.slots if slot.layer is not None]
        sources = {layers.source_of(layer) for layer in chosen}
        free = [it for it in self.images if it not in chosen and layers.source_of(it) in sources]
        offered = {layers.modality_of(layer, modalities): layer for layer in free}
        return tuple(now.get(name) or Slot(name, offered.get(name)) for name in modalities.names)

    def _set_slots(self, slots: tuple[Slot, ...]) -> None:
        """Fill the slots; with other images, what the model said of the former ones is forgotten."""
        if any(new.layer is not old.layer for new, old in zip(slots, self.state.slots, strict=True)):
            self._forget()
        self._update(slots=slots)

    def _forget(self) -> None:
        """Begin anew to collect what the model says."""
        self.predictions = {}
        self.same_patient = False
        self.forgotten.emit()

    def _on_end(self, error: Exception | None) -> None:
        self._update(phase="idle", progress=None)
        if error is not None:
            show_error(_sentence(error))

    def _update(self, **changes: Any) -> None:
        self.state = replace(self.state, **changes)
        self.changed.emit(self.state)


def _sentence(error: Exception) -> str:
    """What to tell the user about an error; the log gets the trace of those that nobody foresaw."""
    if isinstance(error, M3AEError):
        return str(error)
    logger.error("The segmentation failed", exc_info=error)
    return f"The segmentation stopped: {type(error).__name__}: {error}. See Help > Show logs."
