"""`Autosave`: what is kept of unsaved edits, what is offered after a crash, and what goes away again."""

from __future__ import annotations

import json
import platform
import subprocess
import sys

import numpy as np
import pytest
from napari.components import ViewerModel
from opened import open_case

from m3ae_core.data.phantom import write_phantom
from m3ae_core.io.volume import read_labels, write_labels
from m3ae_core.seal import sealed
from napari_m3ae import layers
from napari_m3ae.autosave import Autosave
from napari_m3ae.jobs import InlineRunner
from napari_m3ae.session import Session


@pytest.fixture
def writer() -> subprocess.Popen:
    """A process that the edits are said to belong to."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    yield process
    kill(process)


@pytest.fixture
def session(files, predictor) -> Session:
    """A session with a segmentation of the case on display."""
    session = open_session(predictor)
    open_case(session.viewer, files)
    session.run()
    return session


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "state" / "autosave"


def kill(process: subprocess.Popen) -> None:
    process.kill()
    process.wait()


def open_session(predictor, files=None) -> Session:
    """A new session, with the case of `files` open."""
    session = Session(ViewerModel(), InlineRunner(), lambda _: predictor)
    if files is not None:
        open_case(session.viewer, files)
    return session


def paint(session: Session, value: int = 3, at: int = 0, layer=None) -> None:
    index = np.array([at])
    (layer or session.shown.layer).data_setitem((index, index + 1, index + 2), value)


def crashed(session: Session, folder, writer: subprocess.Popen) -> Autosave:
    """Edit, keep, and let the process end that is said to have done so."""
    autosave = Autosave(session, folder, writer.pid)
    paint(session)
    assert autosave.save_now()
    kill(writer)
    return autosave


# --- keeping ----------------------------------------------------------------------------------------


def test_nothing_is_written_without_edits(session, folder):
    assert Autosave(session, folder).save_now()
    assert not folder.exists()


def test_edits_are_written_voxel_by_voxel(session, folder):
    paint(session)
    Autosave(session, folder).save_now()
    assert len(list(folder.iterdir())) == 3
    (edited,), (model,) = folder.glob("*-edited.nii.gz"), folder.glob("*-model.nii.gz")
    np.testing.assert_array_equal(read_labels(edited).data, session.shown.labels)
    np.testing.assert_array_equal(read_labels(model).data, session.shown.prediction.labels)


def test_numbers_that_are_no_tissue_are_kept_too(session, folder):
    paint(session, 7)
    assert Autosave(session, folder).save_now()
    assert 7 in read_labels(next(folder.glob("*-edited.nii.gz"))).data


def test_only_what_changed_is_written_again(session, folder):
    autosave = Autosave(session, folder)
    paint(session)
    autosave.save_now()
    for path in folder.iterdir():
        path.unlink()
    autosave.save_now()
    assert not list(folder.iterdir())
    paint(session, at=1)
    autosave.save_now()
    assert len(list(folder.glob("*.json"))) == 1


def test_folder_and_file_names_do_not_name_the_patient(session, folder):
    paint(session)
    Autosave(session, folder).save_now()
    assert not [path for path in folder.iterdir() if "patient" in path.name]
    if sys.platform != "win32":
        assert folder.stat().st_mode & 0o077 == 0


def test_edits_that_a_rerun_left_alone_are_kept_besides_new_ones(session, folder):
    autosave = Autosave(session, folder)
    first = session.shown
    paint(session)
    session.run()
    assert session.shown.layer is not first.layer
    assert len(list(folder.glob("*.json"))) == 1, "a change of the result on display keeps the edits at once"
    paint(session, 1, layer=first.layer, at=2)
    paint(session, 2)
    autosave.save_now()
    kept = [read_labels(path).data for path in folder.glob("*-edited.nii.gz")]
    assert len(kept) == 2
    for labels in (first.labels, session.shown.labels):
        assert sum(np.array_equal(labels, each) for each in kept) == 1
    assert len(autosave.unsaved) == 2


def test_rerun_into_the_same_layer_leaves_no_old_copy(session, folder):
    autosave = Autosave(session, folder)
    paint(session)
    autosave.save_now()
    session.shown.layer.undo()
    session.use("T1", False)
    session.run()
    autosave.save_now()
    assert not list(folder.iterdir())


def test_folder_that_cannot_be_written_is_told_once(session, tmp_path, told):
    (tmp_path / "file").write_text("")
    autosave = Autosave(session, tmp_path / "file" / "autosave")
    paint(session)
    assert not autosave.save_now()
    assert not autosave.save_now()
    assert len(told) == 1
    assert told[0].startswith("Edits cannot be kept for the case of a crash.")


# --- offering and restoring -------------------------------------------------------------------------


def test_nothing_is_found_where_nothing_was_kept(session, folder):
    assert Autosave(session, folder).found() == []


def test_edits_are_offered_only_when_their_writer_is_gone(session, folder, writer, predictor):
    autosave = Autosave(session, folder, writer.pid)
    paint(session)
    autosave.save_now()
    other = Autosave(open_session(predictor), folder)
    assert other.found() == []
    kill(writer)
    (record,) = other.found()
    assert record.case == "patient"
    assert record.when.tzinfo is not None


def test_own_edits_are_not_offered(session, folder):
    autosave = Autosave(session, folder)
    paint(session)
    autosave.save_now()
    assert autosave.found() == []


@pytest.mark.parametrize(
    ("changed", "offered"),
    [({"started": 0.0}, True), ({"host": "elsewhere"}, False), ({"host": "elsewhere", "started": 0.0}, True)],
)
def test_number_of_a_process_alone_says_little(session, folder, predictor, changed, offered):
    """A number is given out again, and a computer's name changes while its processes run on."""
    paint(session)
    Autosave(session, folder).save_now()
    (path,) = folder.glob("*.json")
    content = json.loads(path.read_text("utf-8"))
    assert content["owner"]["host"] == platform.node()
    content["owner"] |= changed
    path.write_text(json.dumps(sealed(content)), "utf-8")
    assert bool(Autosave(open_session(predictor), folder).found()) is offered


def test_restored_result_is_the_one_that_was_lost(session, folder, writer, predictor, files):
    crashed(session, folder, writer)
    lost = session.shown
    fresh = open_session(predictor, files)
    autosave = Autosave(fresh, folder)
    assert autosave.restore(autosave.found()[0])
    layer = fresh.shown.layer
    assert layer.name == "recovered edits · patient"
    np.testing.assert_array_equal(layer.data, lost.layer.data)
    np.testing.assert_array_equal(layer.affine.affine_matrix, lost.layer.affine.affine_matrix)
    assert layers.scheme_of(layer) == lost.prediction.scheme
    assert fresh.shown.edited == 1
    assert fresh.shown.unsaved
    layer.undo()
    np.testing.assert_array_equal(fresh.shown.labels, lost.prediction.labels)


def test_restored_result_is_saved_like_any_other(session, folder, writer, predictor, files, tmp_path):
    crashed(session, folder, writer)
    fresh = open_session(predictor, files)
    autosave = Autosave(fresh, folder)
    autosave.restore(autosave.found()[0])
    assert fresh.save(tmp_path / "out.nii.gz")
    record = json.loads((tmp_path / "out.json").read_text("utf-8"))
    assert record["made_by"] == {"edited": True, "edited_voxels": 1}
    assert record["present"] == ["FLAIR", "T1", "T1c", "T2"]
    np.testing.assert_array_equal(read_labels(tmp_path / "out.nii.gz").data, session.shown.labels)


def test_restored_edits_stay_on_disk_until_they_are_saved(session, folder, writer, predictor, files):
    crashed(session, folder, writer)
    fresh = open_session(predictor, files)
    autosave = Autosave(fresh, folder)
    (record,) = autosave.found()
    autosave.restore(record)
    assert not record.path.exists()
    (again,) = folder.glob("*-edited.nii.gz")
    np.testing.assert_array_equal(read_labels(again).data, session.shown.labels)
    assert autosave.found() == []


def test_rerun_spares_restored_edits(session, folder, writer, predictor, files):
    crashed(session, folder, writer)
    fresh = open_session(predictor)
    autosave = Autosave(fresh, folder)
    open_case(fresh.viewer, files)
    autosave.restore(autosave.found()[0])
    restored = fresh.shown
    fresh.run()
    assert fresh.shown.layer is not restored.layer
    np.testing.assert_array_equal(restored.labels, session.shown.labels)


def test_nothing_is_restored_while_a_job_runs(session, folder, writer, predictor, files):
    crashed(session, folder, writer)
    fresh = open_session(predictor)
    autosave = Autosave(fresh, folder)
    open_case(fresh.viewer, files)
    begun = []
    fresh.changed.connect(
        lambda state: state.phase == "running" and begun.append(autosave.restore(autosave.found()[0]))
    )
    fresh.run()
    assert begun
    assert not any(begun)
    assert len(autosave.found()) == 1


def test_nothing_is_restored_twice(session, folder, writer, predictor, files, told):
    crashed(session, folder, writer)
    first, second = (Autosave(open_session(predictor, files), folder) for _ in range(2))
    (record,) = second.found()
    first.restore(first.found()[0])
    assert not second.restore(record)
    assert told == ["The edits of patient were restored or discarded elsewhere."]


def test_damaged_copy_is_told_and_stays(session, folder, writer, predictor, files, told):
    crashed(session, folder, writer)
    next(folder.glob("*-edited.nii.gz")).write_bytes(b"not a label map")
    fresh = open_session(predictor, files)
    autosave = Autosave(fresh, folder)
    (record,) = autosave.found()
    autosave.restore(record)
    assert len(told) == 1
    assert fresh.shown is None
    assert autosave.found() == [record]
    autosave.discard(record)
    assert not list(folder.iterdir())


def altered(folder, **changes) -> None:
    """Write other things into the only record, as if they had been kept so."""
    (path,) = folder.glob("*.json")
    path.write_text(json.dumps(sealed({**json.loads(path.read_text("utf-8")), **changes})), "utf-8")


@pytest.mark.parametrize("opened", ["nothing", "another patient", "same names, other voxels", "too few"])
def test_edits_never_land_on_other_images(session, folder, writer, predictor, files, told, tmp_path, opened):
    crashed(session, folder, writer)
    shown = {
        "nothing": lambda: None,
        "another patient": lambda: write_phantom(tmp_path, "other", shape=(20, 24, 16), seed=1),
        "same names, other voxels": lambda: write_phantom(tmp_path, "patient", shape=(20, 24, 16), seed=1),
        "too few": lambda: write_phantom(
            tmp_path / "few", "patient", shape=(20, 24, 16), present=["T1", "T2"]
        ),
    }[opened]()
    fresh = open_session(predictor, shown)
    autosave = Autosave(fresh, folder)
    (record,) = autosave.found()
    before = list(fresh.viewer.layers)
    assert not autosave.restore(record)
    assert told[-1].startswith("The edits of patient are not of the images that are open. Open patient first")
    assert list(fresh.viewer.layers) == before
    assert autosave.found() == [record]


def test_edits_of_images_turned_otherwise_are_not_restored(session, folder, writer, predictor, files, told):
    crashed(session, folder, writer)
    altered(folder, affine=(np.diag([-1.0, 1, 1, 1]) @ session.shown.prediction.affine).tolist())
    fresh = open_session(predictor, files)
    autosave = Autosave(fresh, folder)
    assert not autosave.restore(autosave.found()[0])
    assert "another orientation" in told[-1]
    assert fresh.shown is None


def test_sequences_that_were_not_used_do_not_matter(session, folder, writer, predictor, files):
    session.use("FLAIR", False)
    session.run()
    crashed(session, folder, writer)
    fresh = open_session(predictor, files)
    autosave = Autosave(fresh, folder)
    assert autosave.restore(autosave.found()[0])
    assert fresh.shown.edited == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"affine": [[1, 0], [0, 1]]},
        {"affine": "x"},
        {"scheme": "unheard of"},
        {"scheme": 3},
        {"present": ["PET"]},
        {"present": 7},
        {"warnings": None},
    ],
)
def test_damaged_record_is_one_sentence(session, folder, writer, predictor, files, told, changes):
    crashed(session, folder, writer)
    altered(folder, **changes)
    fresh = open_session(predictor, files)
    autosave = Autosave(fresh, folder)
    (record,) = autosave.found()
    autosave.restore(record)
    assert len(told) == 1
    assert "The kept edits of patient are damaged. Discard them." in told[0]
    assert fresh.shown is None


@pytest.mark.parametrize(
    "changes", [{"when": 3}, {"owner": {"host": "x", "pid": "y", "started": None}}, {"provenance": []}]
)
def test_record_that_cannot_be_read_is_told_once(session, folder, writer, predictor, told, changes):
    crashed(session, folder, writer)
    altered(folder, **changes)
    assert Autosave(open_session(predictor), folder).found() == []
    assert len(told) == 1
    assert "cannot be read any more" in told[0]


@pytest.mark.parametrize("content", ["", "[]", "{", '{"case": "x"}', '{"case": "x", "owner": 3}'])
def test_files_that_are_no_record_are_passed_over(session, folder, content):
    folder.mkdir(parents=True)
    (folder / "x.json").write_text(content)
    assert Autosave(session, folder).found() == []


def test_latest_edits_are_offered_first(folder, predictor, tmp_path, session, writer):
    crashed(session, folder, writer)
    (path,) = folder.glob("*.json")
    content = json.loads(path.read_text("utf-8"))
    for name, when in (("old", "2001-01-01T00:00:00+00:00"), ("new", "2999-01-01T00:00:00")):
        (folder / f"{name}.json").write_text(json.dumps(sealed({**content, "case": name, "when": when})))
    found = Autosave(open_session(predictor), folder).found()
    assert [record.case for record in found] == ["new", "patient", "old"]


# --- going away -------------------------------------------------------------------------------------


def test_copy_goes_when_the_edits_are_saved(session, folder, tmp_path):
    autosave = Autosave(session, folder)
    paint(session)
    autosave.save_now()
    assert list(folder.iterdir())
    session.save(tmp_path / "out.nii.gz")
    autosave.save_now()
    assert not list(folder.iterdir())
    assert autosave.unsaved == []
    paint(session, at=1)
    autosave.save_now()
    assert len(list(folder.iterdir())) == 3


def test_copies_go_with_the_normal_end_and_none_comes_after(session, folder):
    autosave = Autosave(session, folder)
    paint(session)
    session.run()
    paint(session)
    autosave.save_now()
    assert len(list(folder.glob("*.json"))) == 2
    session.close()
    autosave.save_now()
    assert not list(folder.iterdir())


def test_copies_of_others_stay(session, folder, writer, predictor):
    crashed(session, folder, writer)
    fresh = open_session(predictor)
    Autosave(fresh, folder)
    fresh.close()
    assert len(list(folder.iterdir())) == 3


# --- the row in the panel ---------------------------------------------------------------------------


def test_row_offers_restores_and_discards(session, folder, writer, predictor, files, qtbot, tmp_path):
    from napari_m3ae.widgets.edit import EditPart

    crashed(session, folder, writer)
    (path,) = folder.glob("*.json")
    fresh = open_session(predictor, files)
    part = EditPart(fresh, Autosave(fresh, folder))
    qtbot.addWidget(part)
    fresh.changed.connect(part.render)  # as the panel does
    assert not part.recovery.isHidden()
    assert part.recovery.words.text().startswith("Unsaved edits of patient, ")
    assert part.timer.isActive()
    assert part.timer.interval() == 25_000
    part.recovery.restore_button.click()
    assert part.recovery.isHidden()
    assert fresh.shown.layer.name == "recovered edits · patient"
    assert part.name.text() == "recovered edits · patient"
    assert not path.exists()


def test_row_discards(session, folder, writer, predictor, qtbot):
    from napari_m3ae.widgets.edit import EditPart

    crashed(session, folder, writer)
    fresh = open_session(predictor)
    part = EditPart(fresh, Autosave(fresh, folder))
    qtbot.addWidget(part)
    part.recovery.discard_button.click()
    assert part.recovery.isHidden()
    assert not list(folder.iterdir())
    assert not fresh.viewer.layers


def test_copies_go_with_the_panel(session, folder, qtbot):
    """Of the panel, Qt's half goes first; the session closes when told so."""
    from qtpy.QtWidgets import QVBoxLayout, QWidget

    from napari_m3ae.widgets.edit import EditPart

    panel = QWidget()
    QVBoxLayout(panel).addWidget(EditPart(session, Autosave(session, folder)))
    panel.destroyed.connect(session.close)
    paint(session)
    session.run()  # the change of the result on display keeps the edits
    assert list(folder.iterdir())
    with qtbot.waitSignal(panel.destroyed):
        panel.deleteLater()
    assert not list(folder.iterdir())
    session.viewer.dims.set_current_step(0, 3)  # nobody listens any more
    paint(session)
    assert not session.viewer.keymap


def test_two_cases_do_not_share_a_copy(session, folder, tmp_path):
    autosave = Autosave(session, folder)
    paint(session)
    open_case(session.viewer, write_phantom(tmp_path, "other", shape=(20, 24, 16), seed=1))
    session.run()
    paint(session, 2)
    autosave.save_now()
    cases = {json.loads(path.read_text("utf-8"))["case"] for path in folder.glob("*.json")}
    assert cases == {"patient", "other"}


# --- foreign input ----------------------------------------------------------------------------------


def test_edits_that_0_1_kept_are_offered_and_restored(session, folder, writer, predictor, files):
    crashed(session, folder, writer)
    (path,) = folder.glob("*.json")
    content = json.loads(path.read_text("utf-8"))
    for key in ("content_sha256", "model_sha256", "edited_sha256"):
        del content[key]
    path.write_text(json.dumps(content), "utf-8")
    fresh = open_session(predictor, files)
    autosave = Autosave(fresh, folder)
    assert autosave.restore(autosave.found()[0])
    assert fresh.shown.unsaved


@pytest.mark.parametrize("kind", ["model", "edited"])
def test_other_labels_than_those_that_were_kept_are_not_restored(
    session, folder, writer, predictor, files, told, kind
):
    crashed(session, folder, writer)
    (path,) = folder.glob(f"*-{kind}.nii.gz")
    labels = read_labels(path)
    write_labels(path, np.roll(labels.data, 3), labels.affine)
    fresh = open_session(predictor, files)
    autosave = Autosave(fresh, folder)
    autosave.restore(autosave.found()[0])
    assert "damaged" in told[-1]
    assert fresh.shown is None


def test_edits_of_a_process_killed_between_record_and_labels_are_restored(
    session, folder, writer, predictor, files, monkeypatch
):
    """The record of the later edits is written, their labels are not: the former ones are there."""
    autosave = Autosave(session, folder, writer.pid)
    paint(session)
    assert autosave.save_now()
    kept = session.shown.labels.copy()
    paint(session, at=2)
    with monkeypatch.context() as patch:
        patch.setattr("napari_m3ae.autosave.write_labels", lambda *_: kill(writer))
        autosave.save_now()
    fresh = open_session(predictor, files)
    again = Autosave(fresh, folder)
    assert again.restore(again.found()[0])
    np.testing.assert_array_equal(fresh.shown.labels, kept)


@pytest.mark.parametrize(
    "changes", [{"owner": {"host": "x", "pid": "1", "started": 0}}, {"when": 3}, {"case": 7}, {"scheme": []}]
)
def test_a_record_that_was_changed_is_not_offered(session, folder, writer, predictor, changes):
    crashed(session, folder, writer)
    (path,) = folder.glob("*.json")
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), "utf-8")
    assert Autosave(open_session(predictor), folder).found() == []
