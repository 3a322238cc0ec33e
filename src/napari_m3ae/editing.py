"""`Editor`: corrects a segmentation by hand, cleans it up, and reads volumes and diameters off it. No Qt.

Everything that changes voxels goes through the layer's own history, so that Ctrl+Z takes it back. What the model said
is kept apart and never changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from psygnal import Signal

from m3ae_core import cleanup
from m3ae_core.measure import Diameters, axial_axis, rano_diameters, region_volumes, tissue_volumes
from m3ae_core.regions import ENHANCING, NECROSIS, OEDEMA, LabelScheme
from napari_m3ae import layers

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Labels

    from m3ae_core.io.volume import Volume
    from napari_m3ae.session import Session

#: Keys that no layer and no viewer of napari uses.
HIDE, NEXT, PREVIOUS = "H", "N", "Shift+N"
#: How thick an outline is drawn, in voxels.
OUTLINE = 2
HEADER = ("Region", "Volume (mL)")
#: The rows of the table, and what each is called in :meth:`Editor.volumes`.
ROWS = {
    "whole tumour (WT)": "WT",
    "tumour core (TC)": "TC",
    "enhancing tumour (ET)": "ET",
    NECROSIS: NECROSIS,
    OEDEMA: OEDEMA,
}
#: What a layer emits when its voxels may have changed. Undo and redo emit `set_data` alone, as does scrolling;
#: `paint` comes before the voxels are written.
EVENTS = ("labels_update", "set_data", "data")


@dataclass(frozen=True)
class _Measured:
    """What was measured, and on which labels (X, Y, Z)."""

    labels: npt.NDArray[np.uint8]
    affine: npt.NDArray[np.float64]
    scheme: LabelScheme
    volumes: dict[str, float]
    diameters: Diameters | None


class Editor:
    """Edits and measures one labels layer of a session's viewer, the target.

    Attributes
    ----------
    changed
        Emitted when there is another target, and when its voxels may have changed.
    """

    changed = Signal()

    def __init__(self, session: Session) -> None:
        self.session = session
        self._followed: Labels | None = None
        self._hidden: Labels | None = None
        self._measured: _Measured | None = None
        self._bound: list[ViewerModel] = []
        session.viewer.layers.selection.events.active.connect(self._follow)
        session.changed.connect(self._follow)
        session.closing.connect(self._let_go)
        self._follow()

    @property
    def target(self) -> Labels | None:
        """The active layer if it holds labels of a known scheme, else the segmentation on display, if any."""
        from napari.layers import Labels

        active = self.session.viewer.layers.selection.active
        if isinstance(active, Labels) and active.ndim == 3 and layers.scheme_of(active) is not None:
            return active
        return None if self.session.shown is None else self.session.shown.layer

    @property
    def scheme(self) -> LabelScheme | None:
        """Which number stands for which tissue in the target."""
        return None if self.target is None else layers.scheme_of(self.target)

    @property
    def outlined(self) -> bool:
        """Whether the target is drawn as an outline."""
        return self.target is not None and self.target.contour > 0

    def largest_component(self) -> int:
        """Leave only the largest connected part of the tumour; return how many voxels changed."""
        return self._clean(lambda volume: cleanup.largest_component(volume.data))

    def fill_holes(self) -> int:
        """Fill what the tumour encloses; return how many voxels changed."""
        return self._clean(lambda volume: cleanup.fill_holes(volume.data))

    def remove_islands(self, smallest_mm3: float) -> int:
        """Take out islands of a tissue smaller than `smallest_mm3` (mm³); return how many voxels changed."""
        return self._clean(lambda volume: cleanup.remove_islands(volume.data, volume.spacing, smallest_mm3))

    def smooth(self, radius_mm: float) -> int:
        """Smooth the surfaces of all tissues over `radius_mm` (mm); return how many voxels changed."""
        return self._clean(lambda volume: cleanup.smooth(volume.data, volume.spacing, radius_mm))

    def choose(self, tissue: str) -> None:
        """Take up the brush for a tissue."""
        layer, scheme = self.target, self.scheme
        if layer is None or scheme is None:
            return
        self.session.viewer.layers.selection.active = layer
        layer.visible = True  # napari lets nobody paint on a hidden layer
        layer.selected_label = scheme.value(tissue)
        layer.mode = "paint"

    def outline(self, on: bool) -> None:
        """Draw the target as an outline or filled."""
        if self.target is not None:
            self.target.contour = OUTLINE if on else 0

    def hide(self, on: bool) -> None:
        """Hide the target, or show again what was hidden, even if there is another target by now."""
        if on and self.target is not None and self.target.visible:
            self._hidden = self.target
            self._hidden.visible = False
        elif not on and self._hidden is not None:
            self._hidden.visible = True
            self._hidden = None

    def next_slice(self, step: int = 1) -> bool:
        """Go to the next slice with tumour, or the one before (`step` -1); say whether there is one."""
        layer, dims = self.target, self.session.viewer.dims
        axis = dims.order[0] - (dims.ndim - 3)
        if layer is None or dims.ndisplay != 2 or axis < 0:
            return False
        places, side = _places(layer, axis)
        here = dims.point[dims.order[0]]
        tumour = places[np.any(layer.data, axis=tuple({0, 1, 2} - {axis}))]
        ahead = tumour[(tumour - here) * step > side / 2]
        if ahead.size:
            dims.set_point(dims.order[0], float(ahead[np.abs(ahead - here).argmin()]))
        return bool(ahead.size)

    def volumes(self) -> dict[str, float]:
        """Return the volumes of WT, TC, ET and of each tissue of the target in mL; empty without a target."""
        measured = self._measure()
        return {} if measured is None else measured.volumes

    def diameters(self) -> Diameters | None:
        """Return the two RANO diameters of the enhancing tumour on an axial slice; None if there is none."""
        measured = self._measure()
        return None if measured is None else measured.diameters

    def table(self) -> list[tuple[str, str]]:
        """Return the volumes as text, under :data:`HEADER`."""
        volumes = self.volumes()
        return [(title, f"{volumes[name]:.3f}") for title, name in ROWS.items() if name in volumes]

    def diameters_in_words(self) -> str:
        """Say what :meth:`diameters` returns; the slice is counted as the viewer's slider counts it."""
        if self.target is None:
            return ""
        found = self.diameters()
        if found is None:
            return "No enhancing tumour."
        return (
            f"Enhancing tumour: {found.long_mm:.1f} × {found.perpendicular_mm:.1f} mm on slice "
            f"{self._slider(self.target, found)}, product {found.product_mm2:.0f} mm² "
            f"(RANO; {'measurable' if found.measurable else 'not measurable'})"
        )

    def bind_keys(self, viewer: ViewerModel) -> None:
        """Let the viewer's keys hide the target while held, and go to the next and previous slice with tumour.

        The keymap of the viewer suffices: no kind of layer has these keys in its own, which would win.
        """

        def hide_mask(_: Any) -> Iterator[None]:
            self.hide(True)
            yield  # until the key is let go
            self.hide(False)

        def next_tumour_slice(_: Any) -> None:
            self.next_slice(1)

        def previous_tumour_slice(_: Any) -> None:
            self.next_slice(-1)

        viewer.bind_key(HIDE, hide_mask, overwrite=True)
        viewer.bind_key(NEXT, next_tumour_slice, overwrite=True)
        viewer.bind_key(PREVIOUS, previous_tumour_slice, overwrite=True)
        self._bound.append(viewer)

    def _clean(self, cleaned: Callable[[Volume], npt.NDArray[np.uint8]]) -> int:
        layer = self.target
        if layer is None:
            return 0
        self.session.viewer.layers.selection.active = layer  # Ctrl+Z reaches the active layer alone
        return put(layer, cleaned(layers.to_volume(layer)))

    def _measure(self) -> _Measured | None:
        """Measure the target, unless that was done and nothing has changed since."""
        layer, scheme, known = self.target, self.scheme, self._measured
        if layer is None or scheme is None:
            return None
        volume = layers.to_volume(layer)
        labels, affine = volume.data, volume.affine
        if (
            known is None
            or known.scheme != scheme
            or not np.array_equal(known.affine, affine)
            or not np.array_equal(known.labels, labels)
        ):
            known = _Measured(
                labels.copy(),
                affine,
                scheme,
                {**region_volumes(labels, scheme, affine), **tissue_volumes(labels, scheme, affine)},
                rano_diameters(labels == scheme.value(ENHANCING), affine, axial_axis(affine)),
            )
        self._measured = known
        return known

    def _slider(self, layer: Labels, found: Diameters) -> int:
        """The number that the viewer's slider shows on the slice of the diameters."""
        axis = layers.facts(layer)["axes"].index(found.axis)
        dims = self.session.viewer.dims
        start, _, step = dims.range[axis + dims.ndim - 3]
        place = _places(layer, axis)[0][found.slice_index]
        return round((float(place) - start) / step)

    def _follow(self, *_: Any) -> None:
        """Listen to the present target."""
        target = self.target
        if target is self._followed:
            return
        for name in EVENTS:
            if self._followed is not None:
                getattr(self._followed.events, name).disconnect(self._on_voxels)
            if target is not None:
                getattr(target.events, name).connect(self._on_voxels)
        self._followed = target
        self.changed.emit()

    def _on_voxels(self, *_: Any) -> None:
        self.changed.emit()

    def _let_go(self) -> None:
        self.changed.disconnect()
        self.session.viewer.layers.selection.events.active.disconnect(self._follow)
        for viewer in self._bound:
            for key in (HIDE, NEXT, PREVIOUS):
                viewer.bind_key(key, None)


def put(layer: Labels, labels: npt.NDArray[np.uint8]) -> int:
    """Write labels (X, Y, Z) into a layer of the same grid, as one step to undo; return how many voxels changed."""
    return layers.repaint(layer, np.transpose(labels, layers.facts(layer)["axes"]))


def _places(layer: Labels, axis: int) -> tuple[npt.NDArray[np.float64], float]:
    """Where the voxels along an axis of a layer lie in the viewer's world (mm), and their side."""
    first = float(layer.data_to_world(np.zeros(3))[axis])
    pitch = float(layer.data_to_world(np.eye(3)[axis])[axis]) - first
    return first + pitch * np.arange(layer.data.shape[axis]), abs(pitch)
