"""`Opener` on a viewer without a window: cases take each other's place, nothing of one patient stays with another."""

from __future__ import annotations

import gc
import tracemalloc

import numpy as np
import pytest
from napari.layers import Image, Labels

from m3ae_core.data.phantom import AFFINE, write_phantom
from m3ae_core.io.volume import read_labels, read_volume, write_image
from napari_m3ae import layers, opening
from napari_m3ae._reader import get_reader
from napari_m3ae.opening import Opener
from napari_m3ae.session import Session
from napari_m3ae.settings import Settings, settings
from napari_m3ae.view import View

SHAPE = (20, 24, 16)


@pytest.fixture
def opener(session, monkeypatch) -> Opener:
    monkeypatch.setattr("napari_m3ae.view.settings", Settings)
    return Opener(session)


def folder_of(files):
    return files.labels.parent


def chosen(session: Session) -> dict[str, Image]:
    return {slot.modality: slot.layer for slot in session.state.slots if slot.layer is not None}


def shows(layer, path) -> bool:
    """Whether a layer shows the file: its voxels, its place in space, and what is noted of it."""
    volume, read = layers.to_volume(layer), (read_labels if isinstance(layer, Labels) else read_volume)(path)
    return (
        np.array_equal(volume.data, read.data)
        and np.array_equal(volume.affine, read.affine)
        and (isinstance(layer, Labels) or volume.path == path)
    )


# --- what is opened ---------------------------------------------------------------------------------


def test_folder_fills_the_slots(opener, session, viewer, files):
    opener.open([folder_of(files)])
    images = chosen(session)
    assert list(images) == ["FLAIR", "T1", "T1c", "T2"]
    assert all(shows(layer, files.images[name]) for name, layer in images.items())
    assert [layer.name for layer in viewer.layers] == [
        *(f"{name} · patient" for name in ("T2", "T1c", "T1", "FLAIR")),
        "reference labels · patient",
    ]
    reference = viewer.layers["reference labels · patient"]
    assert shows(reference, files.labels)
    assert not reference.visible
    assert session.state.phase == "idle"


def test_view_is_the_preferred_one_and_in_the_middle(opener, viewer, files, monkeypatch):
    monkeypatch.setattr("napari_m3ae.view.settings", lambda: Settings(view="neurological"))
    opener.open([folder_of(files)])
    assert [str(way) for way in viewer.scene.camera.orientation] == ["away", "up", "right"]
    middle = viewer.layers[0].world_to_data(viewer.dims.point)
    np.testing.assert_allclose(middle, (np.array(viewer.layers[0].data.shape) - 1) / 2, atol=0.51)


def test_side_that_the_user_turned_to_stays_for_the_next_case(opener, session, viewer, files, tmp_path):
    opener.open([folder_of(files)])
    View(session).turn("neurological")
    opener.open([folder_of(write_phantom(tmp_path, "other", shape=SHAPE))])
    assert View(session).side == "neurological"


def test_a_few_files_are_a_case(opener, session, files):
    opener.open([files.images["T2"], files.images["T1c"]])
    assert list(chosen(session)) == ["T1c", "T2"]
    assert session.chosen().case.name == "patient"


def test_files_from_a_folder_of_many_cases_are_told_apart(opener, session, files, tmp_path):
    for name, path in files.images.items():
        path.rename(tmp_path / f"p1_{name}.nii.gz")
    write_image(tmp_path / "p2_T1.nii.gz", np.ones((3, 4, 5)) * np.arange(5), AFFINE)
    opener.open([tmp_path / "p1_T1.nii.gz"])
    assert session.chosen().case.name == "p1"
    source = layers.source_of(chosen(session)["T1"])
    opener.open([tmp_path / "p2_T1.nii.gz"])
    assert session.chosen().case.name == "p2"
    assert layers.source_of(chosen(session)["T1"]) != source


def test_sample_case(opener, session, viewer, files, monkeypatch):
    monkeypatch.setattr(opening, "builtin_case", lambda: files)
    opener.open_sample()
    assert len(chosen(session)) == 4
    assert layers.scheme_of(viewer.layers["reference labels · patient"]).name == "brats2023"


def test_file_of_unknown_content_is_left_out_and_named(opener, session, files, told):
    other = files.images["T1"].with_name("diffusion.nii.gz")
    files.images["T1"].rename(other)
    opener.open([files.images["T2"], other])
    assert list(chosen(session)) == ["T2"]
    assert len(told) == 1
    assert "diffusion.nii.gz: The name does not tell" in told[0]


def test_file_that_cannot_be_read_is_refused_for_itself(opener, session, files):
    files.images["T1"].write_bytes(b"rubbish")
    opener.open([folder_of(files)])
    assert list(chosen(session)) == ["FLAIR", "T1c", "T2"]
    assert opener.statuses["T1"].startswith("refused: ")
    assert files.images["T1"].name in opener.statuses["T1"]
    assert opener.statuses["T2"] == "present"


def test_same_image_twice_is_refused(opener, session, files):
    files.images["T2"].write_bytes(files.images["FLAIR"].read_bytes())
    opener.open([folder_of(files)])
    assert "T2" not in chosen(session)
    assert "the same image as that for FLAIR" in opener.statuses["T2"]


def test_labels_that_cannot_be_read_do_not_stop_the_case(opener, session, files, told):
    files.labels.write_bytes(b"rubbish")
    opener.open([folder_of(files)])
    assert len(chosen(session)) == 4
    assert told[0].startswith("The reference labels were left out.")


@pytest.mark.parametrize("kind", ["empty folder", "unknown file", "nowhere", "all damaged"])
def test_what_is_no_case_leaves_everything_as_it_was(opener, session, viewer, files, told, tmp_path, kind):
    opener.open([folder_of(files)])
    session.run()
    before = [(layer.name, layer.visible) for layer in viewer.layers]
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "x.nii.gz").write_bytes(b"")
    damaged = bad / "patient-t2w.nii.gz"
    paths = {
        "empty folder": bad,
        "unknown file": bad / "x.nii.gz",
        "nowhere": bad / "gone",
        "all damaged": damaged,
    }
    if kind == "all damaged":
        damaged.write_bytes(b"rubbish")
    opener.open([paths[kind]])
    assert len(told) == 1
    assert [(layer.name, layer.visible) for layer in viewer.layers] == before
    assert session.shown is not None
    assert opener.statuses["T1"] == "present"


# --- one case after another -------------------------------------------------------------------------


def test_next_case_takes_the_layers_of_the_former(opener, session, viewer, files, tmp_path):
    opener.open([folder_of(files)])
    first = list(viewer.layers)
    other = write_phantom(tmp_path, "other", shape=(16, 22, 24), seed=1)
    opener.open([folder_of(other)])
    assert list(viewer.layers) == first
    assert all(shows(layer, other.images[name]) for name, layer in chosen(session).items())
    assert shows(viewer.layers["reference labels · other"], other.labels)
    assert {layer.name.partition(" · ")[2] for layer in viewer.layers} == {"other"}
    flair = chosen(session)["FLAIR"]
    assert flair.contrast_limits == flair.contrast_limits_range
    assert flair.contrast_limits[1] < read_volume(other.images["FLAIR"]).data.max() + 1
    session.run()
    assert session.shown.case == "other"


def test_model_s_words_about_the_former_case_are_forgotten(opener, session, files, tmp_path):
    opener.open([folder_of(files)])
    session.run()
    known = session.predictions
    assert known
    opener.open([folder_of(write_phantom(tmp_path, "other", shape=SHAPE, seed=1))])
    assert session.predictions == {}
    assert session.predictions is not known
    assert session.state.result == ""


def test_sequences_come_and_go(opener, session, viewer, files, tmp_path):
    opener.open([folder_of(files)])
    fewer = write_phantom(tmp_path, "fewer", shape=SHAPE, present=["T1", "T2"], seed=1)
    opener.open([folder_of(fewer)])
    assert list(chosen(session)) == ["T1", "T2"]
    assert not [layer for layer in viewer.layers if "patient" in layer.name]
    opener.open([folder_of(files)])
    assert [layer.name for layer in viewer.layers if isinstance(layer, Image)] == [
        f"{name} · patient" for name in ("T2", "T1c", "T1", "FLAIR")
    ]
    assert all(shows(layer, files.images[name]) for name, layer in chosen(session).items())


def test_only_the_topmost_layer_is_ever_removed(opener, session, viewer, files, tmp_path):
    """Else napari crashes with some graphics drivers."""
    opener.open([folder_of(files)])
    session.run()
    affine = session.shown.prediction.affine
    layers.show_computed(viewer, layers.computed(np.zeros(SHAPE), affine, "M3AE probability of WT"))
    removed = []
    viewer.layers.events.removing.connect(lambda event: removed.append((event.index, len(viewer.layers))))
    opener.open([folder_of(write_phantom(tmp_path, "fewer", shape=SHAPE, present=["T1"]))])
    assert len(removed) == 5
    assert all(index == count - 1 for index, count in removed)


def test_nothing_of_the_former_patient_stays_in_sight(opener, session, viewer, files, tmp_path):
    opener.open([folder_of(files)])
    session.run()
    session.shown.layer.data_setitem(tuple(np.array([0]) for _ in range(3)), 3)
    session.run()  # a second layer, because the first was edited
    edited = next(
        layer for layer in viewer.layers if layer.name.startswith("M3AE seg") and layer.data[0, 0, 0] == 3
    )
    affine = session.shown.prediction.affine
    layers.show_computed(viewer, layers.computed(np.zeros(SHAPE), affine, "M3AE probability of WT"))
    opener.open([folder_of(write_phantom(tmp_path, "other", shape=SHAPE, seed=1))])
    assert session.shown is None
    assert edited in viewer.layers  # the user's work
    assert not edited.visible
    assert not [layer for layer in viewer.layers if layer.visible and not layer.name.endswith("· other")]


def test_edited_reference_is_kept_and_hidden(opener, viewer, files, tmp_path):
    opener.open([folder_of(files)])
    reference = viewer.layers["reference labels · patient"]
    reference.visible = True
    reference.data[0, 0, 0] = 3
    opener.open([folder_of(write_phantom(tmp_path, "other", shape=SHAPE, seed=1))])
    assert reference.name == "reference labels · patient"
    assert reference.data[0, 0, 0] == 3
    assert not reference.visible
    assert "reference labels · other" in viewer.layers


def test_strokes_on_one_patient_cannot_be_undone_on_the_next(opener, viewer, files, tmp_path):
    opener.open([folder_of(files)])
    reference = viewer.layers["reference labels · patient"]
    reference.data_setitem(tuple(np.array([0]) for _ in range(3)), 3)
    reference.undo()
    other = write_phantom(tmp_path, "other", shape=SHAPE, seed=1)
    opener.open([folder_of(other)])
    assert reference.name == "reference labels · other"
    for again in (reference.redo, reference.undo, reference.undo):
        again()
        assert shows(reference, other.labels)


def test_layers_that_napari_opened_are_taken_over(opener, session, viewer, files, tmp_path):
    folder = str(folder_of(files))
    for content in get_reader(folder)(folder):
        layers.add(viewer, content)
    images = chosen(session)
    other = write_phantom(tmp_path, "other", shape=SHAPE, seed=1)
    opener.open([folder_of(other)])
    assert chosen(session) == images
    assert all(shows(layer, other.images[name]) for name, layer in images.items())


def test_foreign_layers_are_left_alone(opener, session, viewer, files, tmp_path):
    own = viewer.add_image(np.random.default_rng(0).random(SHAPE), name="my T1")
    notes = viewer.add_points(np.zeros((1, 3)), name="notes")
    assert chosen(session)["T1"] is own
    opener.open([folder_of(files)])
    assert chosen(session)["T1"] is not own
    assert own in viewer.layers
    assert not own.visible  # it was in use for another case
    assert notes.visible
    assert own.data.shape == SHAPE


def test_grid_stays_for_a_case_with_other_sequences(opener, session, viewer, files, tmp_path):
    view = View(session)
    opener.open([folder_of(write_phantom(tmp_path, "first", shape=SHAPE, present=["T1", "T2"]))])
    session.run()
    view.grid(True)
    opener.open([folder_of(write_phantom(tmp_path, "second", shape=SHAPE, present=["FLAIR", "T1c"], seed=1))])
    assert view.gridded
    session.run()
    placed = [
        [viewer.layers[index].name for index in indices]
        for _, indices in viewer.canvas.grid.iter_viewboxes(viewer.layers)
    ]
    assert placed == [
        ["FLAIR · second", "M3AE segmentation [FLAIR+T1c]"],
        ["T1c · second", "M3AE mask in cell 2"],
    ]
    assert "T1 · first" not in viewer.layers


# --- unsaved edits ----------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [True, False])
def test_unsaved_edits_are_asked_about(session, viewer, files, tmp_path, monkeypatch, answer):
    monkeypatch.setattr("napari_m3ae.view.settings", Settings)
    asked = []
    opener = Opener(session, lambda: asked.append(True) or answer)
    opener.open([folder_of(files)])
    session.run()
    layer = session.shown.layer
    layer.data_setitem(tuple(np.array([0]) for _ in range(3)), 3)
    opener.open([folder_of(write_phantom(tmp_path, "other", shape=SHAPE, seed=1))])
    assert asked == [True]
    assert (layer in viewer.layers) is not answer
    assert session.chosen().case.name == ("other" if answer else "patient")
    assert all(shows(image, files.images[name]) is not answer for name, image in chosen(session).items())


def test_saved_edits_are_not_asked_about(session, files, tmp_path, monkeypatch):
    monkeypatch.setattr("napari_m3ae.view.settings", Settings)
    opener = Opener(session, lambda: pytest.fail("asked"))
    opener.open([folder_of(files)])
    session.run()
    session.shown.layer.data_setitem(tuple(np.array([0]) for _ in range(3)), 3)
    session.save(tmp_path / "saved.nii.gz")
    opener.open([folder_of(files)])
    assert session.shown is None


def test_nothing_is_opened_while_a_job_runs(opener, session, files, tmp_path):
    opener.open([folder_of(files)])
    other = write_phantom(tmp_path, "other", shape=SHAPE, seed=1)
    session.changed.connect(lambda state: state.phase == "running" and opener.open([folder_of(other)]))
    session.run()
    assert session.chosen().case.name == "patient"
    assert session.shown is not None


# --- what becomes of each sequence ------------------------------------------------------------------


def test_statuses_of_a_whole_case_and_of_none(opener, session, files):
    assert set(opener.statuses.values()) == {"missing (will be substituted)"}
    opener.open([folder_of(files)])
    assert opener.statuses == dict.fromkeys(("FLAIR", "T1", "T1c", "T2"), "present")


def test_statuses_follow_what_the_user_chooses(opener, session, files):
    opener.open([folder_of(files)])
    session.use("T1", False)
    session.choose("T2", None)
    assert opener.statuses["T1"] == "present, not used (will be substituted)"
    assert opener.statuses["T2"] == "missing (will be substituted)"


def test_status_names_the_grid_that_an_image_is_resampled_to(opener, session, files):
    moved = AFFINE.copy()
    moved[:3, 3] += 2
    write_image(files.images["T2"], read_volume(files.images["T2"]).data, moved)
    opener.open([folder_of(files)])
    assert opener.statuses["T2"] == "resampled to the grid of FLAIR"
    assert opener.statuses["T1"] == "present"
    session.use("FLAIR", False)
    assert opener.statuses["T2"] == "resampled to the grid of T1"


def test_image_of_another_place_is_refused(opener, files):
    moved = AFFINE.copy()
    moved[:3, 3] += 200
    write_image(files.images["T2"], read_volume(files.images["T2"]).data, moved)
    opener.open([folder_of(files)])
    assert "refused: " in opener.statuses["T2"]
    assert "Only 0 % of T2 lies within the field of view of FLAIR" in opener.statuses["T2"]


def test_layer_of_unknown_orientation_is_refused(opener, session, viewer):
    viewer.add_image(np.ones((3, 4, 5)), name="T1")
    assert "refused: Nothing says how the layer 'T1' lies" in opener.statuses["T1"]


def test_refusals_of_a_case_do_not_outlive_it(opener, viewer, files, tmp_path):
    files.images["T1"].write_bytes(b"rubbish")
    opener.open([folder_of(files)])
    folder = str(folder_of(write_phantom(tmp_path, "other", shape=SHAPE, present=["T2"])))
    for content in get_reader(folder)(folder):
        layers.add(viewer, content)
    assert opener.statuses["T1"] == "missing (will be substituted)"


# --- the part of the panel --------------------------------------------------------------------------


@pytest.fixture
def part(session, qtbot, monkeypatch):
    from napari_m3ae.widgets.case import CasePart

    monkeypatch.setattr("napari_m3ae.view.settings", Settings)
    part = CasePart(session)
    qtbot.addWidget(part)
    session.changed.connect(part.render)
    part.render(session.state)
    return part


def drop(part, *paths) -> bool:
    """Drop files on the part as Qt does; return whether they were accepted."""
    from qtpy.QtCore import QMimeData, QPoint, QPointF, Qt, QUrl
    from qtpy.QtGui import QDragEnterEvent, QDropEvent

    content = QMimeData()
    content.setUrls([QUrl.fromLocalFile(str(path)) for path in paths])
    how = (Qt.DropAction.CopyAction, content, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier)
    entering = QDragEnterEvent(QPoint(5, 5), *how)
    entering.ignore()
    part.dragEnterEvent(entering)
    if entering.isAccepted():
        part.dropEvent(QDropEvent(QPointF(5, 5), *how))
    return entering.isAccepted()


def test_dropped_folder_is_opened(part, session, files):
    assert drop(part, folder_of(files))
    assert len(chosen(session)) == 4
    assert part.statuses["T1"].text() == "present"


def test_dropped_files_are_opened(part, session, files):
    assert drop(part, files.images["T1"], files.images["T2"])
    assert part.statuses["FLAIR"].text() == "missing (will be substituted)"
    assert part.statuses["T2"].text() == "present"


def test_drop_of_something_else_is_left_to_napari(part):
    assert not drop(part)


def test_buttons_open(part, session, files, monkeypatch):
    where = "napari_m3ae.widgets.case.QFileDialog"
    monkeypatch.setattr(f"{where}.getExistingDirectory", lambda *_: "")
    part.folder_button.click()
    assert not chosen(session)
    monkeypatch.setattr(f"{where}.getExistingDirectory", lambda *_: str(folder_of(files)))
    part.folder_button.click()
    assert len(chosen(session)) == 4
    monkeypatch.setattr(f"{where}.getOpenFileNames", lambda *_: ([str(files.images["T2"])], ""))
    part.files_button.click()
    assert list(chosen(session)) == ["T2"]
    monkeypatch.setattr(opening, "builtin_case", lambda: files)
    part.sample_button.click()
    assert len(chosen(session)) == 4


def test_part_shows_and_changes_the_view(part, session, files):
    drop(part, folder_of(files))
    assert part.side.currentText() == "radiological"
    part.side.setCurrentText("neurological")
    part.side.textActivated.emit("neurological")
    assert part.view.side == "neurological"
    part.view.turn("radiological")
    assert part.side.currentText() == "radiological"
    part.grid.click()
    assert part.view.gridded
    session.viewer.canvas.grid.enabled = False
    assert not part.grid.isChecked()


def test_run_is_copied(part, files, told):
    from qtpy.QtWidgets import QApplication

    assert not part.command_button.isEnabled()
    drop(part, folder_of(files))
    part.command_button.click()
    assert QApplication.clipboard().text().startswith("m3ae predict --image FLAIR=")
    part.python_button.click()
    assert QApplication.clipboard().text().startswith("from pathlib import Path")


def test_part_lets_go_of_a_closed_session(part, session, files):
    drop(part, folder_of(files))
    part.view.turn("radiological")
    session.close()
    session.viewer.scene.camera.orientation = ("away", "up", "right")
    assert part.side.currentText() == "radiological"


# --- settings ---------------------------------------------------------------------------------------


def test_settings_are_those_of_napari(plugin_settings, npe2pm):
    from napari.settings import get_plugin_settings
    from npe2 import PluginManifest

    from m3ae_core.regions import SCHEMES

    assert settings() == Settings()  # napari does not know the plugin here
    from pathlib import Path

    manifest = PluginManifest.from_file(Path(opening.__file__).with_name("napari.yaml"))
    npe2pm.register(manifest)
    assert settings() == Settings()
    general = get_plugin_settings("napari-m3ae").general
    general.device, general.view, general.scheme = "cpu", "neurological", "msd"
    general.autosave_seconds, general.folder = 60, "~/models"
    assert settings() == Settings("cpu", "msd", "neurological", 60, Path.home() / "models")
    offered = manifest.contributions.configurations["general"].properties
    assert set(offered["scheme"].enum) == set(SCHEMES)


# --- memory -----------------------------------------------------------------------------------------


@pytest.mark.heavy
@pytest.mark.parametrize("segmented", [False, True])
def test_fifty_cases_one_after_another_grow_by_less_than_half_a_megabyte_each(
    opener, session, predictor, tmp_path, segmented
):
    cases = [
        folder_of(write_phantom(tmp_path, f"case{i}", shape=(64, 64, 48), seed=i, present=present))
        for i, present in enumerate((["FLAIR", "T1", "T1c", "T2"], ["T1", "T2"], ["FLAIR", "T1c", "T2"]))
    ]

    def visit(number: int) -> None:
        opener.open([cases[number % len(cases)]])
        if segmented:
            session.run()
            predictor.cases.clear()

    def used() -> float:
        gc.collect()
        return tracemalloc.get_traced_memory()[0] / 2**20

    for number in range(3):
        visit(number)
    tracemalloc.start()
    visit(0)
    before = used()
    for number in range(1, 51):
        visit(number)
    visit(0)
    growth = (used() - before) / 51
    tracemalloc.stop()
    assert growth <= 0.5, f"{growth:.2f} MB a case"
