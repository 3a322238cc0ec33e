"""`Editor` and its part of the panel: cleaning up, undo, slices with tumour, keys, volumes, diameters."""

from __future__ import annotations

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Labels
from napari.utils.key_bindings import KeymapHandler, coerce_keybinding
from napari.utils.shortcuts import default_shortcuts
from opened import open_case

from m3ae_core.data.phantom import AFFINE, phantom, write_phantom
from m3ae_core.regions import BRATS_2021, BRATS_2023, MSD
from napari_m3ae import editing, layers
from napari_m3ae.editing import Editor

#: Voxels of 1 × 2 × 3 mm whose axes run along L, I and P: neither order nor direction is the display's.
TURNED = np.array([[-1.0, 0, 0, 10], [0, 0, -3, 20], [0, -2, 0, 30], [0, 0, 0, 1]])
CLEAN_UPS = {
    "largest component": lambda editor: editor.largest_component(),
    "holes": lambda editor: editor.fill_holes(),
    "islands": lambda editor: editor.remove_islands(2.5 * 64),
    "smooth": lambda editor: editor.smooth(4),
}


@pytest.fixture
def editor(session) -> Editor:
    return Editor(session)


@pytest.fixture
def result(session, editor, viewer, files) -> Labels:
    """The layer of a segmentation on display."""
    open_case(viewer, files)
    session.run()
    return session.shown.layer


def show_labels(
    viewer: ViewerModel, labels: np.ndarray, affine: np.ndarray = AFFINE, scheme=BRATS_2023
) -> Labels:
    layer = layers.add(viewer, layers.labels_layer(labels, affine, "labels", scheme))
    viewer.layers.selection.active = layer
    return layer


def untidy() -> np.ndarray:
    """A block of oedema with a cavity and a bump, and a lone voxel of enhancing tumour: (X, Y, Z)."""
    labels = np.zeros((20, 24, 16), np.uint8)
    labels[3:10, 4:12, 5:12] = 2
    labels[6, 7, 8] = 0
    labels[10, 6, 7] = 2
    labels[16, 20, 3] = 3
    return labels


# --- the target -------------------------------------------------------------------------------------


def test_target_is_the_active_label_map_or_else_the_segmentation(session, editor, viewer, result):
    viewer.layers.selection.active = session.images[0]
    assert editor.target is result
    assert editor.scheme == BRATS_2023
    other = show_labels(viewer, untidy(), scheme=MSD)
    assert (editor.target, editor.scheme) == (other, MSD)
    viewer.layers.selection.active = viewer.add_labels(np.zeros((3, 4, 5), np.uint8))
    assert editor.target is result, "nobody knows what the numbers of a foreign label map mean"


def test_without_labels_nothing_happens(editor):
    assert editor.target is None
    assert (editor.volumes(), editor.diameters(), editor.table(), editor.diameters_in_words()) == (
        {},
        None,
        [],
        "",
    )
    for clean in CLEAN_UPS.values():
        assert clean(editor) == 0
    editor.choose("oedema")
    editor.outline(True)
    editor.hide(True)
    editor.hide(False)
    assert not editor.next_slice()


def test_removed_target_is_let_go(session, editor, viewer, result):
    viewer.layers.remove(result)
    assert editor.target is None
    assert editor.volumes() == {}


# --- cleaning up ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLEAN_UPS)
def test_clean_up_is_one_step_to_undo_and_to_redo(editor, viewer, name):
    before = untidy()
    layer = show_labels(viewer, before.copy())
    count = CLEAN_UPS[name](editor)
    after = layers.to_volume(layer).data.copy()
    assert count == np.count_nonzero(after != before) > 0
    layer.undo()
    np.testing.assert_array_equal(layers.to_volume(layer).data, before)
    layer.redo()
    np.testing.assert_array_equal(layers.to_volume(layer).data, after)


def test_clean_ups_do_what_their_names_say(editor, viewer):
    layer = show_labels(viewer, untidy())
    editor.fill_holes()
    assert layers.to_volume(layer).data[6, 7, 8] == 2
    editor.remove_islands(64)  # one voxel of 4 mm is not smaller than that
    assert layers.to_volume(layer).data[16, 20, 3] == 3
    editor.remove_islands(65)
    assert layers.to_volume(layer).data[16, 20, 3] == 0
    editor.smooth(4)
    assert layers.to_volume(layer).data[10, 6, 7] == 0


def test_clean_ups_use_the_voxels_sides_in_the_order_of_the_file(editor, viewer):
    labels = np.zeros((9, 9, 9), np.uint8)
    labels[1:8, 4, 4] = 1  # 7 voxels of 6 mm³
    layer = show_labels(viewer, labels, TURNED)
    assert editor.remove_islands(42) == 0
    assert editor.remove_islands(43) == 7
    assert not layer.data.any()


def test_nothing_to_clean_leaves_no_step(editor, viewer):
    labels = np.zeros((20, 24, 16), np.uint8)
    labels[3:10, 4:12, 5:12] = 2
    layer = show_labels(viewer, labels)
    layer.data_setitem((np.array([5]), np.array([6]), np.array([5])), 3)
    assert editor.largest_component() == editor.fill_holes() == 0
    layer.undo()  # the stroke before
    np.testing.assert_array_equal(np.unique(layer.data), [0, 2])


def test_what_the_model_said_is_kept_apart(session, editor, result):
    said = session.shown.prediction.labels.copy()
    count = editor.smooth(8)
    assert count > 0
    np.testing.assert_array_equal(session.shown.prediction.labels, said)
    assert session.shown.edited == count
    assert session.shown.unsaved
    result.undo()
    assert session.shown.edited == 0


def test_cleaned_layer_becomes_active_so_that_undo_reaches_it(session, editor, viewer, result):
    viewer.layers.selection.active = session.images[0]
    editor.smooth(8)
    assert viewer.layers.selection.active is result


# --- looking and painting ---------------------------------------------------------------------------


@pytest.mark.parametrize("affine", [AFFINE, TURNED, np.diag([1.0, 1, 1, 1])])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_tumour_slices_are_visited_in_the_sliders_order(editor, viewer, affine, axis):
    labels = np.zeros((9, 9, 9), np.uint8)
    for index in (1, 4, 5):
        labels[index, index, index] = 2
    layer = show_labels(viewer, labels, affine)
    viewer.dims.order = (axis, *({0, 1, 2} - {axis}))
    viewer.dims.set_current_step(axis, 0)
    steps = []
    while editor.next_slice():
        steps.append(viewer.dims.current_step[axis])
        voxel = round(float(layer.world_to_data(viewer.dims.point)[axis]))
        assert layer.data.take(voxel, axis).any()
    assert steps in ([1, 4, 5], [3, 4, 7])
    assert editor.next_slice(-1)
    assert viewer.dims.current_step[axis] == steps[1]
    assert editor.next_slice(-1)
    assert not editor.next_slice(-1)
    assert viewer.dims.current_step[axis] == steps[0]


def test_there_are_no_slices_in_3d(editor, viewer):
    show_labels(viewer, untidy())
    viewer.dims.ndisplay = 3
    assert not editor.next_slice()


def test_tumour_slices_in_a_viewer_with_a_series(editor, viewer):
    layer = show_labels(viewer, untidy())
    viewer.add_image(np.zeros((2, 20, 24, 16)))
    viewer.layers.selection.active = layer
    assert not editor.next_slice(), "the slider runs through the series"
    viewer.dims.order = (1, 0, 2, 3)
    viewer.dims.set_point(1, -1000)
    assert editor.next_slice()


def test_brush_has_the_number_of_the_scheme(editor, viewer):
    layer = show_labels(viewer, np.where(untidy() == 3, 4, 0).astype(np.uint8), scheme=BRATS_2021)
    layer.visible = False
    editor.choose("enhancing tumour")
    assert (layer.selected_label, str(layer.mode), layer.visible) == (4, "paint", True)


def test_brush_is_taken_up_on_the_segmentation(session, editor, viewer, result):
    viewer.layers.selection.active = session.images[0]
    editor.choose("oedema")
    assert viewer.layers.selection.active is result
    assert (result.selected_label, str(result.mode)) == (2, "paint")


def test_outline(editor, viewer):
    layer = show_labels(viewer, untidy())
    editor.outline(True)
    assert (layer.contour, editor.outlined) == (2, True)
    editor.outline(False)
    assert (layer.contour, editor.outlined) == (0, False)


def test_hidden_mask_comes_back_whatever_is_active_by_then(session, editor, viewer, result):
    editor.hide(True)
    assert not result.visible
    other = show_labels(viewer, untidy())
    editor.hide(False)
    assert result.visible
    other.visible = False
    editor.hide(True)
    editor.hide(False)
    assert not other.visible, "what was hidden before stays so"


# --- keys -------------------------------------------------------------------------------------------


def test_keys_are_free_in_napari():
    ours = {coerce_keybinding(key) for key in (editing.HIDE, editing.NEXT, editing.PREVIOUS)}
    assert len(ours) == 3
    taken = {name: ours & set(keys) for name, keys in default_shortcuts.items()}
    assert not {name: keys for name, keys in taken.items() if keys}


def test_keys_reach_the_editor_while_a_mask_is_active(editor, viewer):
    layer = show_labels(viewer, untidy())
    editor.bind_keys(viewer)
    keys = KeymapHandler()
    keys.keymap_providers = [layer, viewer]  # as napari chains them
    keys.press_key("H")
    assert not layer.visible
    keys.release_key("H")
    assert layer.visible
    viewer.dims.set_current_step(0, 0)
    keys.press_key("N")
    keys.press_key("N")
    assert viewer.dims.current_step[0] == 5
    keys.press_key("Shift+N")
    assert viewer.dims.current_step[0] == 3


def test_closed_session_gives_the_keys_back(session, editor, viewer):
    editor.bind_keys(viewer)
    assert coerce_keybinding("N") in viewer.keymap
    session.close()
    assert not viewer.keymap


# --- measuring --------------------------------------------------------------------------------------


def test_volumes_of_a_phantom_are_exact(editor, viewer):
    _, labels = phantom((20, 24, 16))
    show_labels(viewer, labels)
    count = {value: np.count_nonzero(labels == value) * 0.064 for value in (1, 2, 3)}
    assert min(count.values()) > 0
    expected = {
        "WT": count[1] + count[2] + count[3],
        "TC": count[1] + count[3],
        "ET": count[3],
        "necrotic core": count[1],
        "oedema": count[2],
        "enhancing tumour": count[3],
    }
    assert editor.volumes() == pytest.approx(expected, abs=5e-4)
    assert editor.table() == [
        ("whole tumour (WT)", f"{expected['WT']:.3f}"),
        ("tumour core (TC)", f"{expected['TC']:.3f}"),
        ("enhancing tumour (ET)", f"{expected['ET']:.3f}"),
        ("necrotic core", f"{expected['necrotic core']:.3f}"),
        ("oedema", f"{expected['oedema']:.3f}"),
    ]


def test_volumes_follow_every_kind_of_edit(editor, viewer):
    layer = show_labels(viewer, np.zeros((9, 9, 9), np.uint8), np.eye(4))
    told = []
    editor.changed.connect(lambda: told.append(editor.volumes()["WT"]))

    def latest() -> float:
        assert told, "nothing was told"
        value = told[-1]
        told.clear()
        return value

    layer.data_setitem((np.array([4, 4]), np.array([4, 5]), np.array([4, 4])), 2)
    assert latest() == 0.002
    layer.undo()
    assert latest() == 0
    layer.redo()
    assert latest() == 0.002
    editor.choose("enhancing tumour")
    layer.brush_size = 1
    layer.paint((1, 1, 1), 3)
    assert latest() == 0.003
    layer.data = np.ones((9, 9, 9), np.uint8)
    assert latest() == 0.729


def test_change_of_target_is_told_once(session, editor, viewer, result):
    told = []
    editor.changed.connect(lambda: told.append(editor.target))
    other = show_labels(viewer, untidy())
    assert told == [other]
    told.clear()
    result.data_setitem((np.array([0]), np.array([0]), np.array([0])), 2)
    assert told == [], "nobody measures a layer that is not the target"
    session.use("T1", False)
    assert told == []


def test_unchanged_voxels_are_not_measured_again(editor, viewer, monkeypatch):
    layer = show_labels(viewer, untidy())
    first = editor.volumes()
    monkeypatch.setattr(editing, "rano_diameters", lambda *_: pytest.fail("measured again"))
    viewer.dims.set_current_step(0, 3)
    assert editor.volumes() is first
    monkeypatch.undo()
    layer.data[0, 0, 0] = 2  # some programs write without an event
    assert editor.volumes()["WT"] == pytest.approx(first["WT"] + 0.064)


@pytest.mark.parametrize(
    ("affine", "box", "number"),
    [
        # (X, Y, Z); slices run along z and 0 is the lowest.
        (np.diag([1.0, 1, 2, 1]), np.s_[2:34, 3:26, 5:6], 5),
        # Stored from above: array axis 1 runs down, and the lowest slice is its last one.
        (np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -2, 0, 0], [0, 0, 0, 1]]), np.s_[2:34, 5:6, 3:26], 34),
    ],
)
def test_diameters_of_a_slab(editor, viewer, affine, box, number):
    labels = np.zeros((40, 40, 40), np.uint8)
    labels[box] = 3
    show_labels(viewer, labels, affine)
    found = editor.diameters()
    assert found.long_mm == pytest.approx(np.hypot(31, 22))
    words = editor.diameters_in_words()
    assert words.startswith(
        f"Enhancing tumour: 38.0 × {found.perpendicular_mm:.1f} mm on slice {number}, product "
    )
    assert words.endswith(" mm² (RANO; measurable)")


def test_small_and_absent_lesions_in_words(editor, viewer):
    labels = np.zeros((9, 9, 9), np.uint8)
    labels[2:6, 2:6, 2] = 3
    layer = show_labels(viewer, labels, np.eye(4))
    assert editor.diameters_in_words().endswith("(RANO; not measurable)")
    layer.data = np.zeros((9, 9, 9), np.uint8)
    assert editor.diameters_in_words() == "No enhancing tumour."


# --- the part of the panel --------------------------------------------------------------------------


@pytest.fixture
def part(session, tmp_path, qtbot):
    pytest.importorskip("qtpy.QtWidgets", exc_type=Exception)
    from napari_m3ae.autosave import Autosave
    from napari_m3ae.widgets.edit import EditPart

    made = EditPart(session, Autosave(session, tmp_path / "autosave"))
    qtbot.addWidget(made)
    session.changed.connect(made.render)
    return made


def test_part_follows_the_brush(part, session, viewer, files, qtbot):
    assert not part.clean.isEnabled()
    part.show()
    layer = show_labels(viewer, np.zeros((9, 9, 9), np.uint8), np.eye(4))
    assert part.clean.isEnabled()
    part.tissues["oedema"].click()
    layer.data_setitem((np.array([4, 4]), np.array([4, 5]), np.array([4, 4])), layer.selected_label)
    qtbot.waitUntil(lambda: ("oedema", "0.002") in part.table.rows, timeout=3000)


def test_part_cleans_up_and_copies(part, viewer):
    from qtpy.QtWidgets import QApplication

    layer = show_labels(viewer, untidy())
    part.clean.smallest.setValue(65)
    part.clean.islands_button.click()
    assert part.clean.outcome.text() == "Remove islands below: 1 voxel changed. Ctrl+Z takes it back."
    part.clean.islands_button.click()
    assert part.clean.outcome.text() == "Remove islands below: nothing to change."
    part.copy_button.click()
    copied = QApplication.clipboard().text().splitlines()
    assert copied[0] == "Region\tVolume (mL)"
    assert copied[1] == f"whole tumour (WT)\t{np.count_nonzero(layer.data) * 0.064:.3f}"
    assert copied[-1] == "No enhancing tumour."
    part.outline.click()
    assert layer.contour == 2
    part.hide_button.pressed.emit()
    assert not layer.visible
    part.hide_button.released.emit()
    assert layer.visible


def test_controls_explain_themselves(part):
    from qtpy.QtWidgets import QAbstractButton, QAbstractSpinBox, QLabel

    controls = [
        made for kind in (QAbstractButton, QAbstractSpinBox, QLabel) for made in part.findChildren(kind)
    ]
    mute = [made for made in controls if not made.toolTip() and made.parent() is not part.table]
    assert len(controls) > 15
    assert not mute
    titles = " ".join(control.text() for control in controls if isinstance(control, QAbstractButton))
    assert all(f"({key})" in titles for key in (editing.HIDE, editing.NEXT, editing.PREVIOUS))


@pytest.mark.parametrize(("answer", "closes"), [("Discard", True), ("Cancel", False), ("Save", True)])
def test_closing_with_unsaved_edits_asks(part, session, viewer, files, tmp_path, monkeypatch, answer, closes):
    from qtpy.QtWidgets import QFileDialog, QMessageBox

    asked = []
    target = tmp_path / "saved.nii.gz"
    monkeypatch.setattr(
        QMessageBox,
        "exec",
        lambda box: asked.append(box.text()) or getattr(QMessageBox.StandardButton, answer),
    )
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(target), ""))
    open_case(viewer, write_phantom(tmp_path, "other", shape=(20, 24, 16)))
    session.run()
    assert part.may_close()
    assert not asked
    session.shown.layer.data_setitem((np.array([0]), np.array([0]), np.array([0])), 2)
    assert part.may_close() is closes
    assert asked == ["Not saved: 'M3AE segmentation [FLAIR+T1+T1c+T2]'."]
    assert target.exists() is (answer == "Save")


def test_saving_that_was_called_off_does_not_close(part, session, viewer, files, tmp_path, monkeypatch):
    from qtpy.QtWidgets import QFileDialog, QMessageBox

    monkeypatch.setattr(QMessageBox, "exec", lambda _: QMessageBox.StandardButton.Save)
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: ("", ""))
    open_case(viewer, files)
    session.run()
    session.shown.layer.data_setitem((np.array([0]), np.array([0]), np.array([0])), 2)
    assert not part.may_close()


def test_edits_are_kept_as_often_as_the_settings_say(session, tmp_path, qtbot, monkeypatch):
    pytest.importorskip("qtpy.QtWidgets", exc_type=Exception)
    from napari_m3ae.autosave import Autosave
    from napari_m3ae.settings import Settings
    from napari_m3ae.widgets import edit

    monkeypatch.setattr(edit, "settings", lambda: Settings(autosave_seconds=7))
    made = edit.EditPart(session, Autosave(session, tmp_path / "autosave"))
    qtbot.addWidget(made)
    assert made.timer.interval() == 7000
