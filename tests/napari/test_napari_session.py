"""`Session` on a viewer without a window: choosing, running, cancelling, editing, saving."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image, Labels
from opened import open_case

from m3ae_core.data.builtin import builtin_bundle
from m3ae_core.data.phantom import AFFINE, write_phantom
from m3ae_core.errors import InputError
from m3ae_core.io.case import find_case
from m3ae_core.io.volume import read_labels
from napari_m3ae import layers
from napari_m3ae.jobs import InlineRunner
from napari_m3ae.session import Session
from napari_m3ae.state import Model, Slot, State, used_and_substituted

#: A grid beside that of the phantoms, half a voxel off.
OTHER_GRID = AFFINE + np.array([[0, 0, 0, 2.0], [0] * 4, [0] * 4, [0] * 4])


@pytest.fixture
def case(session, viewer, files) -> dict[str, Image]:
    return open_case(viewer, files)


def chosen(session: Session) -> dict[str, object]:
    return {slot.modality: slot.layer for slot in session.state.slots}


def results(viewer: ViewerModel) -> list[Labels]:
    return [layer for layer in viewer.layers if layer.name.startswith("M3AE segmentation")]


# --- choosing ---------------------------------------------------------------------------------------


def test_sequences_find_their_slots(session, case):
    assert chosen(session) == case
    assert session.state.can_run


def test_images_of_two_patients_are_refused_until_the_user_confirms(session, case, predictor, told):
    volume = layers.to_volume(case["T2"])
    rolled = replace(volume, data=np.roll(volume.data, 4, axis=0))
    session.choose("T2", layers.add(session.viewer, layers.image_layer(rolled, "rolled")))
    session.run()
    assert "seem to be of two patients" in told[-1]
    assert predictor.cases == []
    asked: list[str] = []
    session.confirm = lambda problem: not asked.append(problem)
    session.run()
    session.run()
    assert len(predictor.cases) == 2
    assert len(asked) == 1  # and remembered
    session.choose("T1", None)
    session.run()
    assert len(asked) == 2  # other images


def test_layers_of_two_folders_and_names_are_refused_and_the_answer_is_recorded(
    session, viewer, tmp_path, told
):
    """Images of the same outline, so that names and folders alone tell."""
    first, second = (write_phantom(tmp_path / name, name, shape=(20, 24, 16)) for name in ("p01", "p02"))
    open_case(viewer, first)
    other = open_case(viewer, second)
    session.choose("T1", viewer.layers["T1 · p01"])
    session.run()
    assert "seem to be of two patients" in told[-1]
    assert "p01" in told[-1]
    assert "p02" in told[-1]
    assert session.shown is None
    session.confirm = lambda problem: True
    session.run()
    assert session.save(tmp_path / "out.nii.gz")
    assert json.loads((tmp_path / "out.json").read_text("utf-8"))["same_patient"] is True
    session.choose("T1", other["T1"])
    session.run()
    session.save(tmp_path / "one.nii.gz")
    assert json.loads((tmp_path / "one.json").read_text("utf-8"))["same_patient"] is False


def test_layer_that_was_replaced_or_moved_is_refused_by_name(session, case, predictor, told):
    case["T1"].translate = (0, 0, 4)
    session.run()
    case["T1"].translate = (0, 0, 0)
    case["FLAIR"].data = case["FLAIR"].data + 1
    session.run()
    assert [text.split("'")[1] for text in told] == ["T1 · patient", "FLAIR · patient"]
    assert "moved" in told[0]
    assert "replaced" in told[1]
    assert predictor.cases == []


def test_layers_that_are_there_first_are_found_too(viewer, files):
    images = open_case(viewer, files)
    assert chosen(Session(viewer)) == images


def test_opening_another_case_switches_to_it(session, case, viewer, tmp_path):
    second = open_case(viewer, write_phantom(tmp_path, "other", shape=(16, 16, 16), present=["T1", "T2"]))
    assert chosen(session) == {"FLAIR": None, "T1c": None, **second}


def test_foreign_layers_fill_only_what_is_empty(session, viewer):
    first = viewer.add_image(np.zeros((3, 4, 5)), name="my T1")
    viewer.add_image(np.zeros((3, 4, 5)), name="other T1")
    second = viewer.add_image(np.zeros((3, 4, 5)), name="T2")
    assert chosen(session) == {"FLAIR": None, "T1": first, "T1c": None, "T2": second}


def test_only_grey_volumes_can_be_chosen(session, viewer):
    volume = viewer.add_image(np.zeros((3, 4, 5)))
    viewer.add_image(np.zeros((4, 5)))
    viewer.add_image(np.zeros((4, 5, 6, 3)), rgb=True)
    viewer.add_labels(np.zeros((3, 4, 5), np.uint8))
    assert session.images == (volume,)


def test_removed_layer_leaves_its_slot_empty(session, case, viewer):
    viewer.layers.remove(case["T1c"])
    assert chosen(session)["T1c"] is None
    assert session.state.subset.missing == ("T1c",)


def test_plan_says_what_is_used_and_what_is_substituted(session, case):
    assert session.state.plan == "All 4 sequences will be used."
    session.use("T1", False)
    session.choose("T1c", None)
    assert session.state.plan == ("FLAIR and T2 will be used. T1 and T1c will be substituted.")


def test_nothing_chosen_cannot_run(session, predictor):
    assert session.state.plan.startswith("Open a case")
    session.run()
    assert not predictor.cases
    assert not State(slots=(Slot("T1", None, True),)).can_run


def test_words_for_a_single_missing_sequence(session):
    subset = session.state.subset.__class__(("A", "B", "C"), ("A", "B"))
    assert used_and_substituted(subset, "were used", "were substituted").startswith("A and B were used. C ")


# --- running ----------------------------------------------------------------------------------------


def test_run_hands_over_the_used_sequences_as_they_were_read(session, case, predictor, files):
    session.use("T1", False)
    session.run()
    (handed,) = predictor.cases
    assert handed.name == "patient"
    assert handed.subset.present == ("FLAIR", "T1c", "T2")
    assert {name: volume.path for name, volume in handed.volumes.items()} == {
        name: path for name, path in files.images.items() if name != "T1"
    }


def test_result_is_one_named_layer_on_the_grid_of_the_images(session, case, viewer):
    session.use("T1", False)
    session.use("T1c", False)
    session.run()
    (layer,) = results(viewer)
    assert layer.name == "M3AE segmentation [FLAIR+T2]"
    assert layer.data.dtype == np.uint8
    np.testing.assert_array_equal(layer.affine.affine_matrix, case["T1"].affine.affine_matrix)
    assert layers.facts(layer)["provenance"]["present"] == ["FLAIR", "T2"]
    assert session.state.result == (
        "M3AE segmentation [FLAIR+T2]: FLAIR and T2 were used. T1 and T1c were substituted."
    )
    assert session.state.warnings == ("T1c is missing: enhancing tumour is unreliable.",)


def test_progress_is_told_and_then_forgotten(session, case, predictor):
    seen = []
    session.changed.connect(lambda state: seen.append((state.phase, state.progress and state.progress.what)))
    session.run()
    assert seen[0] == ("running", None)
    assert ("running", "loading the model") in seen
    assert seen.count(("running", "window")) >= predictor.windows
    assert seen[-1] == ("idle", None)


def test_rerun_reuses_the_layer_and_can_be_undone(session, case, viewer):
    session.run()
    (layer,) = results(viewer)
    first = layer.data.copy()
    session.use("T1c", False)
    session.run()
    assert results(viewer) == [layer]
    assert layer.name == "M3AE segmentation [FLAIR+T1+T2]"
    assert not np.array_equal(layer.data, first)
    layer.undo()
    np.testing.assert_array_equal(layer.data, first)


def test_rerun_spares_an_edited_layer(session, case, viewer):
    session.run()
    (edited,) = results(viewer)
    edited.data_setitem((np.array([0]), np.array([0]), np.array([0])), 3)
    session.run()
    assert len(results(viewer)) == 2
    assert edited.data[0, 0, 0] == 3
    assert results(viewer)[1].data[0, 0, 0] == 0


def test_model_is_loaded_once(viewer, files, predictor):
    loads = []
    session = Session(viewer, InlineRunner(), lambda folder: loads.append(folder) or predictor)
    open_case(viewer, files)
    assert not loads
    session.run()
    session.run()
    assert loads == [builtin_bundle()]


def test_model_chosen_while_another_is_loaded_is_the_one_that_runs_next(viewer, files, predictor, tmp_path):
    loads = []

    def load(folder):
        loads.append(folder)
        if len(loads) == 1:
            session.use_model(Model("copy", copy))
        return predictor

    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copy(builtin_bundle() / "bundle.json", copy)
    session = Session(viewer, InlineRunner(), load)
    open_case(viewer, files)
    session.run()
    session.run()
    assert loads == [builtin_bundle(), copy]


def test_result_never_goes_into_the_layer_of_another_case(session, case, viewer, tmp_path):
    session.run()
    before = results(viewer)[0].data.copy()
    open_case(viewer, write_phantom(tmp_path, "other", shape=(20, 24, 16), seed=1))
    session.run()
    assert len(results(viewer)) == 2
    np.testing.assert_array_equal(results(viewer)[0].data, before)


def test_cancelled_run_leaves_no_trace(session, case, viewer):
    session.changed.connect(lambda state: state.progress and state.progress.done == 2 and session.cancel())
    session.run()
    assert not results(viewer)
    assert (session.state.phase, session.state.result) == ("idle", "")
    assert session.state.can_run


def test_result_gets_a_new_layer_if_its_own_was_deleted_meanwhile(session, case, viewer):
    session.run()
    old = results(viewer)[0]

    def delete(state):
        if state.progress and state.progress.done == 2 and old in viewer.layers:
            viewer.layers.remove(old)
            assert session.state.result == ""

    session.changed.connect(delete)
    session.run()
    assert len(results(viewer)) == 1
    assert results(viewer)[0] is not old


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (InputError("The head is upside down.", "Turn it."), "The head is upside down. Turn it."),
        (RuntimeError("out of memory"), "The segmentation stopped: RuntimeError: out of memory. See Help"),
    ],
)
def test_error_is_said_in_one_sentence_and_the_panel_goes_on(session, case, predictor, told, error, sentence):
    predictor.error = error
    session.run()
    assert len(told) == 1
    assert told[0].startswith(sentence)
    assert session.state.can_run
    predictor.error = None
    session.run()
    assert session.state.result


def test_one_layer_for_two_sequences_is_refused(session, case, predictor, told):
    session.choose("T1c", case["T1"])
    session.run()
    assert told == [
        "The layer 'T1 · patient' is chosen for more than one sequence. "
        "Choose each layer once; leave a missing sequence empty."
    ]
    assert not predictor.cases


def test_image_on_another_grid_is_resampled_and_that_is_said(session, case, predictor, tmp_path, viewer):
    open_case(viewer, write_phantom(tmp_path, "other", shape=(20, 24, 16), affine=OTHER_GRID, present=["T2"]))
    for name in ("FLAIR", "T1", "T1c"):
        session.choose(name, case[name])
    session.run()
    (handed,) = predictor.cases
    assert handed.volumes["T2"].shape == handed.volumes["FLAIR"].shape
    np.testing.assert_array_equal(handed.volumes["T2"].affine, handed.volumes["FLAIR"].affine)
    assert session.state.warnings == ("T2: resampled to the grid of FLAIR.",)
    session.save(tmp_path / "out.nii.gz")
    (record,) = tmp_path.glob("out*.json")
    assert json.loads(record.read_text())["warnings"] == ["T2: resampled to the grid of FLAIR."]


def test_images_of_different_places_are_refused(session, case, viewer, predictor, told, tmp_path):
    far = OTHER_GRID.copy()
    far[:3, 3] += 500
    open_case(viewer, write_phantom(tmp_path, "other", shape=(20, 24, 16), affine=far, present=["T2"]))
    session.choose("FLAIR", case["FLAIR"])
    session.run()
    assert "0 % of T2 lies within the field of view of FLAIR" in told[0]
    assert not predictor.cases


# --- saving -----------------------------------------------------------------------------------------


def test_saved_result_has_the_voxels_of_the_model_and_a_record(session, case, viewer, files, tmp_path):
    session.use("T1", False)
    session.run()
    session.save(tmp_path / "out.nii.gz")
    saved = read_labels(tmp_path / "out.nii.gz")
    np.testing.assert_array_equal(saved.data, np.transpose(results(viewer)[0].data, (2, 1, 0)))
    np.testing.assert_array_equal(saved.affine, read_labels(files.labels).affine)
    (record,) = tmp_path.glob("out*.json")
    assert json.loads(record.read_text())["present"] == ["FLAIR", "T1c", "T2"]


def test_result_saved_among_the_images_does_not_disturb_the_case(session, case, files):
    session.run()
    folder = files.labels.parent
    session.save(folder / session.suggested_name)
    assert len(list(folder.iterdir())) == 7
    found = find_case(folder)
    assert [path.name for path, _ in found.unused] == [session.suggested_name]
    assert replace(found, unused=()) == files


def test_edited_result_is_saved_as_edited(session, case, viewer, tmp_path):
    session.run()
    results(viewer)[0].data[1, 2, 3] = 3
    session.save(tmp_path / "out.nii.gz")
    assert read_labels(tmp_path / "out.nii.gz").data[3, 2, 1] == 3
    (record,) = tmp_path.glob("out*.json")
    content = json.loads(record.read_text())
    assert content["made_by"] == {"edited": True, "edited_voxels": 1}
    assert content["labels"]["volumes_ml"]["enhancing tumour"] == pytest.approx(17 * 0.064)


def test_label_that_is_no_tissue_is_not_saved(session, case, viewer, tmp_path, told):
    session.run()
    results(viewer)[0].data[1, 2, 3] = 7
    session.save(tmp_path / "out.nii.gz")
    assert "holds the label 7, which stands for no tissue" in told[0]
    assert not list(tmp_path.glob("out*"))


def test_report_tells_of_the_segmentation_as_it_is_now(session, case, viewer, tmp_path):
    session.run()
    results(viewer)[0].data[1, 2, 3] = 3
    session.report(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "patient" in page
    assert "Not a medical device" in page
    assert "1 voxel" in page


def test_report_of_another_case_is_refused(session, case, viewer, tmp_path, told):
    session.run()
    open_case(viewer, write_phantom(tmp_path, "other", shape=(20, 24, 16), seed=1))
    session.report(tmp_path / "report.html")
    assert "not of the chosen images" in told[0]
    assert not (tmp_path / "report.html").exists()


def test_unwritable_path_is_said(session, case, tmp_path, told):
    session.run()
    session.save(tmp_path / "nowhere" / "out.nii.gz")
    assert len(told) == 1
    assert "does not exist" in told[0]


def test_closed_session_no_longer_follows_the_viewer(session, viewer, files):
    session.close()
    open_case(viewer, files)
    assert set(chosen(session).values()) == {None}
