"""`View` on a viewer without a window: sides, and sequences side by side under one mask."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from napari.components import ViewerModel
from opened import open_case

from m3ae_core.data.phantom import write_phantom
from napari_m3ae import layers
from napari_m3ae.jobs import InlineRunner
from napari_m3ae.session import Session
from napari_m3ae.view import PLANES, View, put_below


@pytest.fixture
def viewer(files) -> ViewerModel:
    viewer = ViewerModel()
    open_case(viewer, files)
    return viewer


@pytest.fixture
def view(session) -> View:
    return View(session)


def cells(viewer: ViewerModel) -> list[list[str]]:
    """The names of the visible layers in each cell of the grid, as napari places them, from the bottom up."""
    listed = viewer.layers
    placed = [
        [listed[index].name for index in indices if listed[index].visible]
        for _, indices in viewer.canvas.grid.iter_viewboxes(listed)
    ]
    return [names for names in placed if names]


def voxel(*index: int) -> tuple[np.ndarray, ...]:
    return tuple(np.array([place]) for place in index)


def state_of(viewer: ViewerModel) -> list[tuple[str, bool]]:
    return [(layer.name, layer.visible) for layer in viewer.layers if "in cell" not in layer.name]


MASK = "M3AE segmentation [FLAIR+T1+T1c+T2]"
SIDE_BY_SIDE = [
    ["FLAIR · patient", MASK],
    ["T1 · patient", "M3AE mask in cell 2"],
    ["T1c · patient", "M3AE mask in cell 3"],
    ["T2 · patient", "M3AE mask in cell 4"],
]


def masks(viewer: ViewerModel) -> list:
    return [layer for layer in viewer.layers if layer.name == MASK or "in cell" in layer.name]


# --- sides ------------------------------------------------------------------------------------------


def test_sides(view, viewer):
    assert view.side is None  # napari's own
    view.turn("neurological")
    assert [str(way) for way in viewer.scene.camera.orientation] == ["away", "up", "right"]
    assert view.side == "neurological"
    view.turn("radiological")
    assert [str(way) for way in viewer.scene.camera.orientation] == ["towards", "up", "left"]
    assert view.side == "radiological"
    assert viewer.canvas.overlays.axes.visible


# --- grid -------------------------------------------------------------------------------------------


def test_every_cell_has_a_sequence_and_the_mask(view, session, viewer):
    session.run()
    view.grid(True)
    assert cells(viewer) == SIDE_BY_SIDE
    assert viewer.canvas.grid.actual_shape(viewer.layers) == (2, 2)


def test_without_a_mask_every_cell_has_a_sequence(view, viewer):
    view.grid(True)
    assert cells(viewer) == [[names[0]] for names in SIDE_BY_SIDE]


def test_only_chosen_sequences_have_a_cell(view, session, viewer):
    session.use("T1", False)
    session.run()
    view.grid(True)
    assert [names[0] for names in cells(viewer)] == ["FLAIR · patient", "T1c · patient", "T2 · patient"]
    session.use("T2", False)
    assert [names[0] for names in cells(viewer)] == ["FLAIR · patient", "T1c · patient"]
    session.use("T1", True)
    assert [names[0] for names in cells(viewer)] == ["FLAIR · patient", "T1 · patient", "T1c · patient"]
    assert all(len(names) == 2 for names in cells(viewer))


def test_no_case_no_grid(predictor):
    viewer = ViewerModel()
    view = View(Session(viewer, InlineRunner(), lambda _: predictor))
    view.grid(True)
    assert not view.gridded
    assert not viewer.canvas.grid.enabled


def test_all_is_put_back(view, session, viewer):
    session.run()
    viewer.layers["T1 · patient"].visible = False
    viewer.canvas.grid.stride = 3
    before = state_of(viewer)
    view.grid(True)
    assert state_of(viewer) != before
    view.grid(False)
    assert state_of(viewer) == before
    assert (viewer.canvas.grid.enabled, viewer.canvas.grid.stride) == (False, 3)
    assert not any(layer.visible for layer in viewer.layers if "in cell" in layer.name)


def test_napari_s_own_button_ends_the_grid_too(view, session, viewer):
    session.run()
    before = state_of(viewer)
    view.grid(True)
    viewer.canvas.grid.enabled = False
    assert not view.gridded
    assert state_of(viewer) == before


def test_copies_are_made_once(view, session, viewer):
    session.run()
    view.grid(True)
    first = list(viewer.layers)
    view.grid(False)
    view.grid(True)
    assert set(viewer.layers) == set(first)
    assert cells(viewer) == SIDE_BY_SIDE


def test_masks_share_their_voxels_and_only_the_first_is_edited(view, session, viewer):
    session.run()
    view.grid(True)
    mask, *copies = masks(viewer)
    assert len(copies) == 3
    assert mask.editable
    for copy in copies:
        assert np.shares_memory(copy.data, mask.data)
        assert not copy.editable
        assert copy.get_color(3).tolist() == mask.get_color(3).tolist()
    assert viewer.layers.selection.active not in copies


def test_the_active_layer_stays_active(view, session, viewer):
    session.run()
    viewer.layers.selection.active = viewer.layers[MASK]
    view.grid(True)
    assert viewer.layers.selection.active is viewer.layers[MASK]


@pytest.mark.parametrize("change", ["paint", "fill", "set", "undo", "redo"])
def test_copies_are_drawn_anew_after(change, view, session, viewer):
    session.run()
    mask = viewer.layers[MASK]
    mask.data_setitem(voxel(5, 6, 7), 3)
    if change == "redo":
        mask.undo()
    viewer.dims.set_point(0, mask.data_to_world((5, 0, 0))[0])
    view.grid(True)
    drawn = []
    for copy in masks(viewer)[1:]:
        copy.events.set_data.connect(lambda event: drawn.append(event.source))
    actions = {
        "paint": lambda: mask.paint((5, 9, 9), 2),
        "fill": lambda: mask.fill((5, 9, 9), 2),
        "set": lambda: mask.data_setitem(voxel(5, 7, 7), 1),
        "undo": mask.undo,
        "redo": mask.redo,
    }
    drawn.clear()
    actions[change]()
    assert set(drawn) == set(masks(viewer)[1:])


def test_rerun_is_shown_in_all_cells(view, session, viewer):
    session.run()
    view.grid(True)
    session.use("T1", False)
    session.run()
    placed = cells(viewer)
    assert [len(names) for names in placed] == [2, 2, 2]
    mask = session.shown.layer
    assert placed[0] == ["FLAIR · patient", mask.name]
    for name in ("M3AE mask in cell 2", "M3AE mask in cell 3"):
        assert np.shares_memory(viewer.layers[name].data, mask.data)


def test_new_layer_for_a_rerun_takes_the_place_of_the_edited_one(view, session, viewer):
    session.run()
    view.grid(True)
    edited = session.shown.layer
    edited.data_setitem(voxel(0, 0, 0), 3)
    session.run()
    new = session.shown.layer
    assert new is not edited
    assert not edited.visible
    assert all(np.shares_memory(viewer.layers[f"M3AE mask in cell {n}"].data, new.data) for n in (2, 3, 4))
    edited.opacity = 0.123
    assert new.opacity != 0.123
    view.grid(False)
    assert edited.visible


def test_another_array_reaches_the_copies(view, session, viewer):
    session.run()
    view.grid(True)
    mask = viewer.layers[MASK]
    mask.data = np.full_like(mask.data, 2)
    assert all((copy.data == 2).all() and not copy.editable for copy in masks(viewer)[1:])


def test_look_is_shared_in_the_grid_and_only_there(view, session, viewer):
    session.run()
    view.grid(True)
    mask, *copies = masks(viewer)
    mask.opacity, mask.contour, mask.visible = 0.25, 2, False
    assert all((copy.opacity, copy.contour, copy.visible) == (0.25, 2, False) for copy in copies)
    view.grid(False)
    mask.visible, mask.opacity = True, 0.5
    assert all((copy.opacity, copy.visible) == (0.25, False) for copy in copies)


def test_new_layers_do_not_disturb_the_cells(view, session, viewer):
    session.run()
    view.grid(True)
    affine = session.shown.prediction.affine
    shape = session.shown.prediction.labels.shape
    layers.show_computed(viewer, layers.computed(np.zeros(shape), affine, "M3AE probability of WT"))
    assert cells(viewer)[:4] == SIDE_BY_SIDE
    viewer.layers.move(0, 5)
    assert cells(viewer)[:4] == SIDE_BY_SIDE


def test_removed_layers_leave_the_grid(view, session, viewer):
    session.run()
    view.grid(True)
    viewer.layers.remove("T1 · patient")
    assert [names[0] for names in cells(viewer)] == ["FLAIR · patient", "T1c · patient", "T2 · patient"]
    viewer.layers.remove(MASK)
    assert cells(viewer) == [["FLAIR · patient"], ["T1c · patient"], ["T2 · patient"]]
    for name in ("FLAIR", "T1c", "T2"):
        viewer.layers.remove(f"{name} · patient")
    assert not view.gridded
    assert not viewer.canvas.grid.enabled


def test_deleted_copy_comes_back(view, session, viewer):
    session.run()
    view.grid(True)
    viewer.layers.remove("M3AE mask in cell 3")
    assert cells(viewer) == SIDE_BY_SIDE


def test_list_is_not_touched_before_napari_knows_a_new_layer(view, session, viewer, tmp_path):
    """napari's canvas hears of a new layer after the session; a layer that is moved before is unknown to it."""
    session.run()
    view.grid(True)
    known = set(viewer.layers)
    early = []

    def draws(event) -> None:
        known.add(event.value)

    def moves(event) -> None:
        early.extend(layer for layer in viewer.layers if layer not in known)

    viewer.layers.events.inserted.connect(draws, position="last")
    viewer.layers.events.inserted.disconnect(view._go_on)
    viewer.layers.events.inserted.connect(view._go_on, position="last")
    viewer.layers.events.reordered.connect(moves)
    open_case(viewer, write_phantom(tmp_path, "other", shape=(16, 16, 16), present=["FLAIR", "T2"]))
    assert not early
    assert [names[0] for names in cells(viewer)][:2] == ["FLAIR · other", "T2 · other"]


def test_what_showed_another_patient_is_not_brought_back(view, session, viewer, tmp_path):
    session.run()
    view.grid(True)
    open_case(viewer, write_phantom(tmp_path, "other", shape=(16, 16, 16)))
    view.grid(False)
    assert not viewer.layers[MASK].visible
    assert not viewer.layers["T2 · patient"].visible
    assert viewer.layers["T2 · other"].visible


def test_closed_session_leaves_the_view_alone(view, session, viewer):
    session.run()
    view.grid(True)
    session.close()
    viewer.layers.move(0, 3)
    viewer.layers.remove("T1 · patient")
    viewer.add_image(np.zeros((3, 4, 5)))
    viewer.canvas.grid.enabled = False


def test_put_below_keeps_the_others_in_order():
    viewer = ViewerModel()
    a, b, c, d = (viewer.add_image(np.zeros((3, 3)), name=name) for name in "abcd")
    put_below(viewer, [c, a])
    assert list(viewer.layers) == [c, a, b, d]


# --- three planes -----------------------------------------------------------------------------------


@dataclass
class FakePlanes:
    """What napari-orthogonal-views keeps of a viewer."""

    shown: bool = False
    right_widget: object = field(default_factory=lambda: plane())
    bottom_widget: object = field(default_factory=lambda: plane())

    def is_shown(self) -> bool:
        return self.shown

    def show(self) -> None:
        self.shown = True

    def hide(self) -> None:
        self.shown = False


def plane() -> object:
    camera = SimpleNamespace(orientation=None)
    model = SimpleNamespace(scene=SimpleNamespace(camera=camera), fit_to_view=lambda: None)
    return SimpleNamespace(vm_container=SimpleNamespace(viewer_model=model))


def test_three_planes_are_not_offered_without_their_package(view, monkeypatch):
    monkeypatch.setattr("napari_m3ae.view.find_spec", lambda _: None)
    assert not view.planes_installed
    view.three_planes(True)
    assert not view.planes_shown


def test_three_planes_are_turned_with_the_view(view, session, viewer, monkeypatch):
    made = FakePlanes()
    module = ModuleType(f"{PLANES}.ortho_view_manager")
    module.OrthoViewManager = lambda _: made
    monkeypatch.setattr("napari_m3ae.view.find_spec", lambda _: object())
    monkeypatch.setitem(sys.modules, PLANES, ModuleType(PLANES))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    assert view.planes_installed
    assert not view.planes_shown
    view.grid(True)
    view.turn("neurological")
    view.three_planes(True)
    assert view.planes_shown
    assert not view.gridded
    cameras = [w.vm_container.viewer_model.scene.camera for w in (made.right_widget, made.bottom_widget)]
    assert [camera.orientation for camera in cameras] == [("away", "up", "right")] * 2
    view.turn("radiological")
    assert [camera.orientation for camera in cameras] == [("towards", "up", "left")] * 2
    view.grid(True)
    assert not view.planes_shown
