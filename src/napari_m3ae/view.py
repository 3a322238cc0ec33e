"""`View`: how the viewer shows a case, from which side, side by side, and in three planes. No Qt."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from napari_m3ae import layers
from napari_m3ae.settings import settings

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Labels, Layer

    from napari_m3ae.session import Session
    from napari_m3ae.settings import Side

#: Which way depth, height and width of the picture run along (S, A, R).
ORIENTATIONS: dict[Side, tuple[str, str, str]] = {
    "radiological": ("towards", "up", "left"),
    "neurological": ("away", "up", "right"),
}
#: The package that shows three planes.
PLANES = "napari_orthogonal_views"
#: What the copies of the mask share with it in a grid.
LINKED = ("visible", "opacity", "blending", "contour", "selected_label", "show_selected_label")


def face(viewer: ViewerModel, side: Side) -> None:
    """Turn the camera so that the patient's right is on the left (radiological) or on the right."""
    viewer.scene.camera.orientation = ORIENTATIONS[side]
    viewer.canvas.overlays.axes.visible = True


def face_patient(viewer: ViewerModel | None) -> None:
    """Turn the camera to the side of the settings, by default the radiological one.

    The camera serves all layers, so it is left alone while the viewer shows something else.
    """
    if viewer is not None and all(tuple(layer.axis_labels) == layers.AXES for layer in viewer.layers):
        face(viewer, settings().view)


def put_below(viewer: ViewerModel, ordered: Iterable[Layer]) -> None:
    """Move layers to the bottom of the list in this order, the first lowest; all others stay above them."""
    for place, layer in enumerate(ordered):
        viewer.layers.move(viewer.layers.index(layer), place)


class View:
    """Arranges the layers of a session's viewer.

    In the grid there is a cell for every chosen sequence, with the segmentation on display over each. The first cell
    has its layer, the others copies of that layer on the same voxels. Whoever paints, in whichever cell, paints on the
    active layer, so that there is one history to undo; the copies cannot be edited.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.viewer = session.viewer
        self._images: tuple[Image, ...] = ()
        self._masks: tuple[Labels, ...] = ()
        # What the grid has to put back.
        self._order: list[Layer] = []
        self._visible: dict[Layer, bool] = {}
        self._stride = 1
        self._busy = self._changing = False
        self._planes: Any = None  # napari-orthogonal-views' manager of this viewer
        self._connect()

    @property
    def side(self) -> Side | None:
        """From which side the patient is seen; None if the camera is turned otherwise."""
        turned = tuple(str(way) for way in self.viewer.scene.camera.orientation)
        return next((side for side, ways in ORIENTATIONS.items() if ways == turned), None)

    def turn(self, side: Side) -> None:
        """Show the patient from this side, in all planes."""
        face(self.viewer, side)
        for plane in self._further_planes():
            plane.scene.camera.orientation = ORIENTATIONS[side]

    @property
    def gridded(self) -> bool:
        """Whether the chosen sequences are shown side by side."""
        return bool(self._images)

    def grid(self, on: bool) -> None:
        """Show the chosen sequences side by side with the mask over each, or put everything back as it was."""
        if on == self.gridded:
            return
        if not on:
            self._put_back()
        elif self._wanted()[0]:
            self.three_planes(False)  # both arrange the canvas
            self._order, self._stride = list(self.viewer.layers), self.viewer.canvas.grid.stride
            self._arrange()
        self.viewer.fit_to_view()

    @property
    def planes_installed(self) -> bool:
        """Whether there is napari-orthogonal-views, which the view in three planes needs."""
        return find_spec(PLANES) is not None

    @property
    def planes_shown(self) -> bool:
        """Whether axial, coronal and sagittal slices are shown together."""
        return bool(self._further_planes())

    def three_planes(self, on: bool) -> None:
        """Show axial, coronal and sagittal slices together, or the axial one alone again."""
        if on == self.planes_shown or not self.planes_installed:
            return
        if self._planes is None:
            self._planes = import_module(f"{PLANES}.ortho_view_manager").OrthoViewManager(self.viewer)
        if on:
            self.grid(False)
            self._planes.show()
            self.turn(self.side or "radiological")
            for plane in self._further_planes():
                plane.fit_to_view()
        else:
            self._planes.hide()

    def _further_planes(self) -> list[ViewerModel]:
        """The viewers of the second and the third plane; none if these are not shown.

        The package does not turn their cameras like that of the first.
        """
        if self._planes is None or not self._planes.is_shown():
            return []
        widgets = (self._planes.right_widget, self._planes.bottom_widget)
        return [widget.vm_container.viewer_model for widget in widgets]

    def _wanted(self) -> tuple[tuple[Image, ...], Labels | None]:
        """What the grid should show: the chosen sequences, and the segmentation on display if it is one of theirs."""
        shown, slots = self.session.shown, self.session.state.slots
        images = {slot.layer: None for slot in slots if slot.ticked and slot.layer is not None}
        sources = {layers.origin_of(image) for image in images}
        return tuple(images), shown.layer if shown is not None and shown.sources & sources else None

    def _follow(self, *_: Any) -> None:
        """Keep the grid up with the session and the list of layers."""
        if self._busy or self._changing or not self.gridded:
            return
        images, mask = self._wanted()
        known = self._masks[0] if self._masks else None
        if not images:
            self._put_back()
        elif (images, mask) != (self._images, known) or any(m not in self.viewer.layers for m in self._masks):
            self._arrange()
        else:
            with self._undisturbed():
                put_below(self.viewer, self._cells())

    def _arrange(self) -> None:
        """Fill the grid with what is wanted now, hide everything else."""
        images, mask = self._wanted()
        with self._undisturbed():
            self._release()
            self._images, self._masks = images, () if mask is None else self._copies(mask, len(images))
            for image in images:
                image.name_overlay.visible = True
            cells = self._cells()
            for layer in self.viewer.layers:
                self._see(layer, layer in cells)
            put_below(self.viewer, cells)
            # napari fills cell after cell with `stride` layers from the bottom of the list; hidden ones count.
            self.viewer.canvas.grid.stride = 2 if self._masks else 1
            self.viewer.canvas.grid.enabled = True

    def _cells(self) -> list[Layer]:
        """The layers of the grid from the bottom up: image and mask by turns."""
        if not self._masks:
            return list(self._images)
        return [layer for pair in zip(self._images, self._masks, strict=True) for layer in pair]

    def _copies(self, mask: Labels, count: int) -> tuple[Labels, ...]:
        """Return the mask and `count` - 1 layers that show the same voxels and follow it."""
        from napari.experimental import link_layers

        active = self.viewer.layers.selection.active
        volume, scheme = layers.to_volume(mask), layers.scheme_of(mask)
        style = {} if scheme is None else layers.tissue_style(scheme)
        names = [f"M3AE mask in cell {number}" for number in range(2, count + 1)]
        copies = [
            layers.show_computed(
                self.viewer, layers.computed(volume.data, volume.affine, name, "labels", **style)
            )
            for name in names
        ]
        self.viewer.layers.selection.active = active
        for copy in copies:
            copy.editable = False
            for attribute in LINKED:
                setattr(copy, attribute, getattr(mask, attribute))
        link_layers((mask, *copies), LINKED)
        mask.events.labels_update.connect(self._refresh)
        mask.events.set_data.connect(self._refresh)  # all that undo and redo emit
        mask.events.data.connect(self._renew)
        return (mask, *copies)

    def _refresh(self, *_: Any) -> None:
        for copy in self._masks[1:]:
            copy.refresh(thumbnail=False, highlight=False, extent=False)

    def _renew(self, *_: Any) -> None:
        """The mask has got another array."""
        for copy in self._masks[1:]:
            copy.data = self._masks[0].data
            copy.editable = False

    def _release(self) -> None:
        """Let go of the layers in the grid; the copies stay in the list, hidden, for the next time."""
        from napari.experimental import unlink_layers

        for image in self._images:
            image.name_overlay.visible = False
        mask, *copies = self._masks or (None,)
        if mask is not None:
            mask.events.labels_update.disconnect(self._refresh)
            mask.events.set_data.disconnect(self._refresh)
            mask.events.data.disconnect(self._renew)
        if copies:
            unlink_layers(self._masks)
        for copy in copies:
            copy.visible = False
        self._images = self._masks = ()

    def _put_back(self) -> None:
        """Show the layers as before the grid: one over the other, in their old order, labels above images."""
        from napari.layers import Labels

        case = {layers.facts(image).get("case") for image in self._images} | {None}
        with self._undisturbed():
            self._release()
            self.viewer.canvas.grid.enabled = False
            self.viewer.canvas.grid.stride = self._stride
            for layer, visible in self._visible.items():
                # What was in sight before another case was opened shows another patient.
                layer.visible = visible and layers.facts(layer).get("case") in case
            rank = {layer: place for place, layer in enumerate(self._order)}
            now = list(self.viewer.layers)
            put_below(self.viewer, sorted(now, key=lambda x: (isinstance(x, Labels), rank.get(x, len(rank)))))
            self._order, self._visible = [], {}

    def _see(self, layer: Layer, visible: bool) -> None:
        """Show or hide a layer, and remember how it was."""
        if layer.visible != visible:
            self._visible.setdefault(layer, layer.visible)
            layer.visible = visible

    @contextmanager
    def _undisturbed(self) -> Iterator[None]:
        """Do not follow what this object changes itself."""
        self._busy = True
        try:
            yield
        finally:
            self._busy = False

    def _connect(self) -> None:
        """Follow the session, the list of layers and napari's own button for the grid.

        napari draws a new layer some time after it was inserted, and stumbles over one that is moved before. So while
        the list changes, nothing is followed but its last event.
        """
        self.session.changed.connect(self._follow)
        self.session.closing.connect(self._let_go)
        events = self.viewer.layers.events
        for event in (events.inserting, events.removing):
            event.connect(self._wait)
        for event in (events.inserted, events.removed):
            event.connect(self._go_on, position="last")
        events.reordered.connect(self._follow, position="last")
        self.viewer.canvas.grid.events.enabled.connect(self._on_grid)

    def _wait(self, *_: Any) -> None:
        self._changing = True

    def _go_on(self, event: Any) -> None:
        self._changing = False
        if event.type == "removed":
            self._order = [layer for layer in self._order if layer is not event.value]
            self._visible.pop(event.value, None)
        self._follow()

    def _on_grid(self, *_: Any) -> None:
        if self.gridded and not self._busy and not self.viewer.canvas.grid.enabled:
            self._put_back()

    def _let_go(self) -> None:
        events = self.viewer.layers.events
        for event in (events.inserting, events.removing):
            event.disconnect(self._wait)
        for event in (events.inserted, events.removed):
            event.disconnect(self._go_on)
        events.reordered.disconnect(self._follow)
        self.viewer.canvas.grid.events.enabled.disconnect(self._on_grid)
