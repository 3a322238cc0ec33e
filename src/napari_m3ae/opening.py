"""`Opener`: opens cases one after another in the same layers, and says what became of each sequence. No Qt."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from napari.utils.notifications import show_error, show_warning

from m3ae_core.data.builtin import builtin_case
from m3ae_core.errors import InputError, M3AEError, printable
from m3ae_core.events import Progress
from m3ae_core.io.align import on_other_grid, require_overlap
from m3ae_core.io.case import CaseFiles
from m3ae_core.io.folders.layouts import sort_case
from m3ae_core.io.folders.matching import sort_files
from m3ae_core.io.folders.naming import names_disagree
from m3ae_core.io.volume import Volume, read_labels, read_volume
from m3ae_core.modalities import ModalitySet
from m3ae_core.regions import BRATS_2023, LabelScheme
from napari_m3ae import layers
from napari_m3ae._reader import reference_layer
from napari_m3ae.asking import Answers, Ask, settle
from napari_m3ae.view import face_patient, put_below

if TYPE_CHECKING:
    from napari.layers import Image, Labels, Layer

    from napari_m3ae.layers import LayerData
    from napari_m3ae.session import Session
    from napari_m3ae.state import Slot

SUBSTITUTED = "will be substituted"
REASSIGN = "Rename it, or open it with File > Open and choose its layer in the part Segment."


@dataclass(frozen=True)
class Found:
    """A case to open: its files, what identifies it, and which of the given files were not recognised."""

    files: CaseFiles
    source: str
    unknown: tuple[Path, ...] = ()
    scheme: LabelScheme | None = None


@dataclass(frozen=True)
class Opened:
    """A case that was read: its layers by sequence, the reference labels, and why some were refused."""

    found: Found
    images: Mapping[str, LayerData]
    labels: LayerData | None
    refused: Mapping[str, str]


@dataclass
class _Left:
    """The layers that were opened for the former case: to be used again, and of no use for the new one."""

    images: dict[str, Image] = field(default_factory=dict)
    labels: Labels | None = None
    useless: list[Layer] = field(default_factory=list)


class Opener:
    """Opens cases in a session's viewer.

    The image layers of the former case get the images of the new one, so that the viewer does not grow from case to
    case. What was computed of the former patient is taken away, further layers of it that the user may have worked on
    are hidden.

    Parameters
    ----------
    session
        Its sequences become those of the opened case.
    may_leave
        Asked if the segmentation on display has unsaved edits, which opening would discard.
    ask
        Asked about the files whose names do not tell what they hold; nobody answers unless set.
    """

    def __init__(
        self, session: Session, may_leave: Callable[[], bool] = lambda: True, ask: Ask = lambda _: None
    ) -> None:
        self.session = session
        self._may_leave = may_leave
        self._ask = ask
        self._refused: Mapping[str, str] = {}
        self._source = ""
        self._said: tuple[tuple[Slot, ...], dict[str, str]] = ((), {})

    def open(self, paths: Sequence[Path]) -> None:
        """Open the case in a folder, or the one that a few files make up; which sequence each holds is told by name."""
        self._start(lambda modalities: find(paths, modalities))

    def open_sample(self) -> None:
        """Open the case that is shipped with the package."""
        self._start(sample)

    @property
    def statuses(self) -> dict[str, str]:
        """In words, what becomes of each sequence in a run."""
        slots = self.session.state.slots
        if slots is not self._said[0]:
            sources = {layers.source_of(slot.layer) for slot in slots if slot.layer is not None}
            self._said = slots, statuses(slots, self._refused if self._source in sources else {})
        return self._said[1]

    @property
    def sideless(self) -> list[Image]:
        """The chosen images whose files tell no orientation."""
        chosen = [slot.layer for slot in self.session.state.slots if slot.layer is not None]
        return [layer for layer in chosen if layers.sideless(layer)]

    def swap_sides(self, on: bool) -> None:
        """Say whether left and right are swapped in the files without an orientation.

        What was made from the images as they were shown before is taken away.
        """
        session, shown = self.session, self.session.shown
        if session.state.phase != "idle" or (shown is not None and shown.unsaved and not self._may_leave()):
            return
        sources = {layers.source_of(layer) for layer in self.sideless} - {None}
        chosen = {slot.modality: slot.layer for slot in session.state.slots if slot.layer is not None}
        for layer in tuple(session.viewer.layers):
            if layers.made_here(layer) or (shown is not None and layer == shown.layer):
                self._remove(layer)
            elif layers.sideless(layer) and layers.source_of(layer) in sources:
                layers.swap_sides(layer, on)
        session.adopt(chosen)

    def _start(self, search: Callable[[ModalitySet], Found]) -> None:
        """Find a case, ask what its names leave open, and read it."""
        if self.session.state.phase != "idle":
            return
        try:
            modalities = self.session.state.model.modalities
            found = search(modalities)
            files = settle(found.files, modalities, self._ask, Answers())
            if files is None:
                return
            _require_sequence(files)
        except M3AEError as error:
            show_error(str(error))
            return
        self.session.start(read(replace(found, files=files)), self._show)

    def _show(self, opened: Opened) -> None:
        """Put a case on display in place of the former one."""
        shown, viewer = self.session.shown, self.session.viewer
        if shown is not None and shown.unsaved and not self._may_leave():
            return
        self._refused, self._source = opened.refused, opened.found.source
        first = not any(layers.source_of(layer) for layer in viewer.layers)
        left = self._clear(opened)
        images = left.images
        for name, content in opened.images.items():
            images[name] = refill(images[name], content) if name in images else layers.add(viewer, content)
        if opened.labels is not None:
            if left.labels is None:
                layers.add(viewer, opened.labels)
            else:
                refill(left.labels, opened.labels)
        for layer in left.useless:  # only now, so that a grid does not run empty meanwhile
            self._remove(layer)
        ordered = [images[name] for name in opened.images]
        put_below(viewer, reversed(ordered))
        self.session.adopt(images)
        self._look_at(ordered[0], first)
        for path in opened.found.unknown:
            show_warning(
                f"{printable(path)}: The name does not tell what this file holds; it was left out. {REASSIGN}"
            )
        if doubt := names_disagree(opened.found.files.images, self.session.state.model.modalities):
            show_warning(doubt)
        if "labels" in opened.refused:
            show_warning(f"The reference labels were left out. {opened.refused['labels']}")

    def _clear(self, opened: Opened) -> _Left:
        """Take away what was made from the former patient's images; return the layers that were opened."""
        from napari.layers import Image, Labels

        left = _Left()
        chosen = {slot.layer for slot in self.session.state.slots}
        if self.session.shown is not None:
            self._remove(self.session.shown.layer)
        for layer in tuple(self.session.viewer.layers):
            noted = layers.facts(layer)
            modality = noted.get("modality")
            if layers.made_here(layer):
                self._remove(layer)
            elif isinstance(layer, Image) and "source" in noted:
                if modality is not None and modality in opened.images and modality not in left.images:
                    left.images[modality] = layer
                else:
                    left.useless.append(layer)
            elif isinstance(layer, Labels) and untouched(layer):
                if left.labels is None and opened.labels is not None and same_scheme(layer, opened.labels):
                    left.labels = layer
                else:
                    left.useless.append(layer)
            elif noted or layer in chosen:
                layer.visible = False
        return left

    def _remove(self, layer: Layer) -> None:
        """Remove a layer. On some systems napari cannot draw any more once another than the topmost one is removed."""
        listed = self.session.viewer.layers
        listed.move(listed.index(layer), len(listed))
        listed.remove(layer)

    def _look_at(self, layer: Image, first: bool) -> None:
        """Go to the middle of the case; for the first one, from the side that the user prefers."""
        viewer = self.session.viewer
        if first:
            face_patient(viewer)
        middle = layer.data_to_world((np.array(layer.data.shape) - 1) / 2)
        viewer.dims.set_point(range(viewer.dims.ndim - 3, viewer.dims.ndim), middle)
        viewer.fit_to_view()


def sample(modalities: ModalitySet) -> Found:
    """Return the case that is shipped with the package, as far as it has these modalities."""
    files = builtin_case()
    images = {name: path for name, path in files.images.items() if name in modalities.names}
    return Found(replace(files, images=images), "built-in case", scheme=BRATS_2023)


def find(paths: Sequence[Path], modalities: ModalitySet) -> Found:
    """Tell which case a folder or a few files are.

    Raises
    ------
    InputError
        If they hold no sequence, or two files for one.
    """
    paths = [path.absolute() for path in paths]
    if len(paths) == 1 and paths[0].is_dir():
        return Found(sort_case(paths[0], modalities), str(paths[0]))
    files = sort_files(paths, modalities)
    known = {*files.images.values(), files.labels, *(path for path, _ in files.questions)}
    if not files.images and not files.questions:
        raise InputError(
            "The name of no chosen file tells which sequence it holds.",
            f"Choose files with one of {', '.join(modalities.names)} in their names, or a folder of them.",
            path=paths[0],
            code="no-sequence",
        )
    unknown = tuple(path for path in paths if path not in known)
    folder = next(iter([*files.images.values(), *(path for path, _ in files.questions)])).parent
    try:
        return Found(replace(files, name=sort_case(folder, modalities).name), str(folder), unknown)
    except M3AEError:  # a folder of more than one case
        return Found(files, str(folder / files.name), unknown)


def read(found: Found) -> Generator[Progress | Opened, None, None]:
    """Read a case: a job. A file that cannot be used is refused for itself, if there is another.

    Raises
    ------
    InputError
        If none can be used.
    """
    files = found.files
    noted = {"case": files.name, "source": found.source}
    volumes: dict[str, Volume] = {}
    refused: dict[str, InputError] = {}
    for number, (name, path) in enumerate(files.images.items()):
        yield Progress(f"reading {name}", number, len(files.images))
        try:
            volumes[name] = _unlike(read_volume(path), volumes)
        except InputError as error:
            refused[name] = error
    if not volumes:
        raise next(iter(refused.values()))
    images = {
        name: layers.image_layer(volume, f"{name} · {files.name}", modality=name, **noted)
        for name, volume in volumes.items()
    }
    labels = None
    if files.labels is not None:
        try:
            labels = _reference(read_labels(files.labels), found)
        except InputError as error:
            refused["labels"] = error
    yield Opened(found, images, labels, {name: str(error) for name, error in refused.items()})


def statuses(slots: Sequence[Slot], refused: Mapping[str, str]) -> dict[str, str]:
    """Say what becomes of each sequence in a run; `refused` says why files could not be read."""
    said: dict[str, str] = {}
    volumes: dict[str, Volume] = {}
    for slot in slots:
        name = slot.modality
        if slot.layer is None:
            said[name] = f"refused: {refused[name]}" if name in refused else f"missing ({SUBSTITUTED})"
        elif not slot.ticked:
            said[name] = f"present, not used ({SUBSTITUTED})"
        else:
            said[name] = "present"
            try:
                volumes[name] = layers.to_volume(slot.layer)
            except InputError as error:
                said[name] = f"refused: {error}"
    for name in on_other_grid(volumes) if volumes else ():
        try:
            require_overlap(volumes, name)
            said[name] = f"resampled to the grid of {next(iter(volumes))}"
        except InputError as error:
            said[name] = f"refused: {error}"
    return said


def refill(layer: Any, content: LayerData) -> Any:
    """Give a layer another patient's image or labels; nothing can be undone across patients. Returns the layer."""
    data, keywords, kind = content
    layer.data = data
    for attribute in ("affine", "name", "metadata"):
        setattr(layer, attribute, keywords[attribute])
    if kind == "image":
        layer.contrast_limits_range = layer.contrast_limits = keywords["contrast_limits"]
    else:
        layer.editable = False  # which makes napari forget the history
        layer.editable = True
        layer.visible = False
    return layer


def untouched(layer: Labels) -> bool:
    """Whether labels are a reference that was opened here and not edited since."""
    noted = layers.facts(layer)
    return "digest" in noted and noted["digest"] == digest(layer.data)


def same_scheme(layer: Labels, content: LayerData) -> bool:
    """Whether the numbers in a layer mean what those of `content` do."""
    return layers.facts(layer).get("scheme") == content[1]["metadata"][layers.KEY].get("scheme")


def digest(data: npt.NDArray[np.generic]) -> int:
    """Return a checksum of an array."""
    return zlib.crc32(np.ascontiguousarray(data).tobytes())


def _require_sequence(files: CaseFiles) -> None:
    """Refuse a case that has no sequence once all was answered."""
    if not files.images:
        raise InputError(
            f"All images of {files.name} are left out.",
            "Choose a sequence for one of them.",
            code="no-sequence",
        )


def _unlike(volume: Volume, others: Mapping[str, Volume]) -> Volume:
    """Return a volume if its voxels are not those of another one."""
    for name, other in others.items():
        if np.array_equal(volume.data, other.data):
            raise InputError(
                f"This is the same image as that for {name}.",
                "Give each sequence its own image; leave out those that were not acquired.",
                path=volume.path,
                code="duplicate",
            )
    return volume


def _reference(volume: Volume, found: Found) -> LayerData:
    """Return the label map of a case as a hidden layer."""
    data, keywords, kind = reference_layer(volume, found.files.name, found.source, found.scheme)
    keywords["metadata"][layers.KEY]["digest"] = digest(data)
    return data, {**keywords, "visible": False}, kind
