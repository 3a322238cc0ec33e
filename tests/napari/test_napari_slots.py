"""Slots follow the model: its modalities, in its order, whatever their number."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from opened import open_case
from qtpy.QtWidgets import QCheckBox

from m3ae_core.bundle import save_bundle
from m3ae_core.io.case import CaseFiles
from napari_m3ae import layers
from napari_m3ae.opening import Opener
from napari_m3ae.session import Session
from napari_m3ae.state import BUILTIN, Model
from napari_m3ae.widgets.panel import Panel
from tiny import random_bundle

FIGURES = {region: {"median": 0.5, "q1": 0.25, "q3": 0.75, "n": 5} for region in ("WT", "TC", "ET")}


def model(folder: Path, *modalities: str, **card) -> Model:
    """A model of these modalities, saved."""
    bundle = random_bundle(modalities=modalities)
    return Model(
        "own", save_bundle(replace(bundle, card={**bundle.card, **card}), folder / "-".join(modalities))
    )


@pytest.fixture
def ct(files) -> CaseFiles:
    """The case with a CT image in the place of T2."""
    path = files.images["T2"]
    path.rename(path.with_name("patient-ct.nii.gz"))
    return files


def chosen(session: Session) -> dict[str, str | None]:
    return {slot.modality: slot.layer and slot.layer.name for slot in session.state.slots}


@pytest.mark.parametrize("order", [("T1c", "T2"), ("T2", "T1c")])
def test_slots_are_those_of_the_model(session, viewer, files, tmp_path, order, predictor):
    session.use_model(model(tmp_path, *order))
    open_case(viewer, files)
    assert chosen(session) == {name: f"{name} · patient" for name in order}
    assert list(chosen(session)) == list(order)
    assert session.state.plan == "All 2 sequences will be used."
    session.run()
    (case,) = predictor.cases
    assert case.modalities.names == order
    assert session.state.result.endswith("All 2 sequences were used.")


def test_another_model_keeps_the_images_that_it_can_use(session, viewer, files, tmp_path):
    open_case(viewer, files)
    session.use("T2", False)
    images = chosen(session)
    session.use_model(model(tmp_path, "T2", "CT", "T1c"))
    assert chosen(session) == {"T2": "T2 · patient", "CT": None, "T1c": "T1c · patient"}
    assert [slot.used for slot in session.state.slots] == [False, False, True]
    session.use_model(BUILTIN)
    assert chosen(session) == images  # the case's other images are in the viewer still
    assert session.state.subset.present == ("FLAIR", "T1", "T1c")


def test_what_the_user_left_out_stays_out(session, viewer, files, tmp_path):
    open_case(viewer, files)
    session.choose("T1c", None)
    session.use_model(model(tmp_path, "T1c", "T2"))
    assert chosen(session) == {"T1c": None, "T2": "T2 · patient"}


def test_case_of_mri_and_ct(session, ct, tmp_path, told):
    session.use_model(model(tmp_path, "T1c", "T2", "CT"))
    opener = Opener(session)
    opener.open([ct.labels.parent])
    assert chosen(session) == {"T1c": "T1c · patient", "T2": None, "CT": "CT · patient"}
    assert opener.statuses == {
        "T1c": "present",
        "T2": "missing (will be substituted)",
        "CT": "present",
    }
    assert session.state.plan == "CT and T1c will be used. T2 will be substituted."
    assert not told


def test_ct_that_was_opened_by_itself_finds_its_slot(session, viewer, ct, tmp_path):
    session.use_model(model(tmp_path, "T1c", "CT"))
    image = viewer.open(str(ct.labels.with_name("patient-ct.nii.gz")), plugin="napari-m3ae")
    assert chosen(session) == {"T1c": None, "CT": image[0].name}


def test_file_of_no_modality_of_the_model_is_refused_by_name(session, files, tmp_path, told):
    session.use_model(model(tmp_path, "T1c", "CT"))
    Opener(session).open([files.images["T2"]])
    assert "Choose files with one of T1c, CT in their names" in told[0]
    assert not session.viewer.layers


def test_card_in_another_order_tells_its_reliability(session, viewer, files, tmp_path):
    open_case(viewer, files)
    session.use_model(model(tmp_path, "T2", "FLAIR", "T1c", "T1", reliability={"T2+FLAIR": FIGURES}))
    session.use("T1", False)
    session.use("T1c", False)
    assert session.state.reliability[0].startswith("Whole tumour without T1 and T1c: unreliable (Dice 0.50")


def test_model_that_cannot_be_read_changes_nothing(session, viewer, files, tmp_path, told):
    open_case(viewer, files)
    before = session.state
    session.use_model(Model("none", tmp_path))
    assert session.state == before
    assert "not a model bundle" in told[0]


@pytest.mark.viewer
def test_every_part_of_the_panel_follows_the_model(qtbot, session, viewer, files, tmp_path):
    panel = Panel(viewer, session)
    qtbot.addWidget(panel)
    open_case(viewer, files)
    for order in (("T2", "T1c"), ("T1c", "T2", "CT"), BUILTIN.modalities.names):
        session.use_model(model(tmp_path, *order))
        offered = panel.explore.shown
        assert list(panel.segment.rows) == list(order)
        assert list(panel.case.statuses) == list(order)
        assert list(panel.whatif.without.boxes) == list(order)
        assert list(panel.explore.dropped.boxes) == list(order)
        assert len(panel.explore.dropped.findChildren(QCheckBox)) == len(order)
        assert [offered.itemText(i) for i in range(offered.count())] == list(order)
        assert panel.segment.choices.rowCount() == 2 + len(order)
        assert panel.segment.rows["T2"].layer.value is viewer.layers["T2 · patient"]
    assert panel.case.statuses["FLAIR"].text() == "present"
    panel.segment.rows["T2"].tick.click()
    assert not session.state.slots[3].used


def test_modality_of_a_layer_is_told_by_its_name_among_those_of_the_model(session, viewer, tmp_path):
    layer = viewer.add_image(np.zeros((3, 4, 5)), name="head ct")
    assert layers.modality_of(layer, BUILTIN.modalities) is None
    assert layers.modality_of(layer, model(tmp_path, "CT", "T1").read().modalities) == "CT"
