"""Files whose names leave the sequence open: one dialog for all, remembered by content, nothing done before it."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from qtpy.QtWidgets import QDialogButtonBox

from m3ae_core.errors import InputError
from m3ae_core.io.case import CaseFiles
from m3ae_core.modalities import BRATS
from napari_m3ae import layers
from napari_m3ae.asking import NOT_USED, Answers, Question, settle
from napari_m3ae.opening import Opener
from napari_m3ae.settings import Settings
from napari_m3ae.widgets.asking import CHOOSE, LEFT_OUT, AskingDialog


class Asked:
    """Answers as it is told to, and notes what it was asked."""

    def __init__(self, **answers: str) -> None:
        self.answers: dict[str, str] | None = answers
        self.questions: list[list[Question]] = []

    def __call__(self, questions):
        self.questions.append(list(questions))
        if self.answers is None:
            return None
        return {each.path: self.answers[each.path.name.removesuffix(".nii.gz")] for each in questions}


@pytest.fixture
def asked(monkeypatch) -> Asked:
    monkeypatch.setattr("napari_m3ae.view.settings", Settings)
    return Asked(x_to_t1_t2="T2", x_c_t1="T1c")


@pytest.fixture
def unclear(files):
    """The folder of a case of which the names of T1c and T2 contradict themselves."""
    folder = files.labels.parent
    files.images["T1c"].rename(folder / "x_c_t1.nii.gz")
    files.images["T2"].rename(folder / "x_to_t1_t2.nii.gz")
    for name in ("FLAIR", "T1"):
        files.images[name].rename(folder / f"x_{name}.nii.gz")
    return folder


def chosen(session):
    return {slot.modality: slot.layer for slot in session.state.slots if slot.layer is not None}


def test_all_are_asked_at_once_and_before_anything_runs(session, viewer, unclear, asked):
    def ask(questions):
        assert session.state.phase == "idle"
        assert not viewer.layers
        return asked(questions)

    Opener(session, ask=ask).open([unclear])
    ((first, second),) = asked.questions
    assert {first.path.name, second.path.name} == {"x_c_t1.nii.gz", "x_to_t1_t2.nii.gz"}
    assert first.seen
    assert first.choices == ("T1c", "T2"), "what other files hold is not offered"
    assert list(chosen(session)) == ["FLAIR", "T1", "T1c", "T2"]
    assert layers.to_volume(chosen(session)["T1c"]).path == unclear / "x_c_t1.nii.gz"


def test_answer_holds_for_the_same_image_wherever_it_lies(session, unclear, asked, tmp_path):
    opener = Opener(session, ask=asked)
    opener.open([unclear])
    shutil.copytree(unclear, tmp_path / "elsewhere")
    opener.open([tmp_path / "elsewhere"])
    assert len(asked.questions) == 1
    assert len(chosen(session)) == 4
    assert session.chosen().case.name == "elsewhere"


def test_another_image_under_the_same_name_is_asked_again(session, unclear, asked):
    opener = Opener(session, ask=asked)
    opener.open([unclear])
    shutil.copy(unclear / "x_T1.nii.gz", unclear / "x_c_t1.nii.gz")
    opener.open([unclear])
    assert [each.path.name for each in asked.questions[1]] == ["x_c_t1.nii.gz"]


def test_cancel_changes_nothing(session, viewer, unclear, asked, tmp_path, files, told):
    opener = Opener(session, ask=asked)
    opener.open([unclear / "x_FLAIR.nii.gz"])
    session.run()
    before, shown = list(viewer.layers), session.shown
    asked.answers = None
    opener.open([unclear])
    assert list(viewer.layers) == before
    assert session.shown is shown
    assert not told
    opener.open([unclear])
    assert len(asked.questions) == 2, "nothing was remembered"


def test_file_that_is_not_used_stays_missing_and_is_not_asked_again(session, unclear, asked):
    asked.answers["x_c_t1"] = NOT_USED
    opener = Opener(session, ask=asked)
    opener.open([unclear])
    opener.open([unclear])
    assert list(chosen(session)) == ["FLAIR", "T1", "T2"]
    assert len(asked.questions) == 1


def test_single_files_are_asked_for_too(session, unclear, asked):
    Opener(session, ask=asked).open([unclear / "x_c_t1.nii.gz"])
    assert list(chosen(session)) == ["T1c"]


def test_case_of_which_all_is_left_out_is_refused(session, unclear, asked, told):
    asked.answers["x_c_t1"] = NOT_USED
    Opener(session, ask=asked).open([unclear / "x_c_t1.nii.gz"])
    assert len(told) == 1
    assert "left out" in told[0]


@pytest.mark.parametrize("content", ["", "[]", "3", '{"sequence": "PET"}', '{"sequence": []}', "[" * 9000])
def test_damaged_answer_is_asked_again(session, unclear, asked, content):
    opener = Opener(session, ask=asked)
    opener.open([unclear])
    for path in Answers().folder.iterdir():
        path.write_text(content)
    opener.open([unclear])
    assert len(asked.questions) == 2


def test_answers_on_disk_name_no_patient(session, unclear, asked):
    Opener(session, ask=asked).open([unclear])
    kept = list(Answers().folder.iterdir())
    assert sorted(json.loads(path.read_text())["sequence"] for path in kept) == ["T1c", "T2"]
    assert not [path for path in kept if "x_" in path.name + path.read_text()]


def test_one_sequence_for_two_files_is_refused_and_not_kept(unclear, tmp_path):
    files = CaseFiles(
        "x", {}, None, questions=tuple((unclear / f"x_{n}.nii.gz", "?") for n in ("c_t1", "to_t1_t2"))
    )
    answers = Answers(tmp_path / "answers")
    with pytest.raises(InputError, match="Two files are said to hold T1"):
        settle(files, BRATS, lambda asked: {each.path: "T1" for each in asked}, answers)
    assert not answers.folder.exists()


# --- the dialog -------------------------------------------------------------------------------------


def questions(folder):
    return [Question(folder / f"{n}.nii.gz", "why", ("T1", "T1c")) for n in ("one", "two")]


def test_dialog_waits_for_every_answer_and_for_one_each(qtbot, tmp_path):
    dialog = AskingDialog(questions(tmp_path))
    qtbot.addWidget(dialog)
    ok = dialog.buttons.button(QDialogButtonBox.StandardButton.Ok)
    one, two = dialog.chosen.values()
    assert [one.itemText(i) for i in range(one.count())] == [CHOOSE, "T1", "T1c", LEFT_OUT]
    assert not ok.isEnabled()
    one.setCurrentText("T1")
    assert not ok.isEnabled()
    two.setCurrentText("T1")
    assert not ok.isEnabled()
    assert dialog.objection.text() == "Two files are said to hold T1."
    two.setCurrentText(LEFT_OUT)
    assert ok.isEnabled()
    assert dialog.objection.text() == ""
    assert np.array_equal(list(dialog.answers.values()), ["T1", NOT_USED])
