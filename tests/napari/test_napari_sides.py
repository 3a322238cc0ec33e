"""Files without an orientation: what the panel says of left and right, and what its switch does."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest

from m3ae_core.io.volume import read_labels
from napari_m3ae import layers
from napari_m3ae.commands import as_command, as_python
from napari_m3ae.opening import Opener
from napari_m3ae.settings import Settings
from napari_m3ae.widgets.case import CasePart


@pytest.fixture(autouse=True)
def plain_settings(monkeypatch):
    monkeypatch.setattr("napari_m3ae.view.settings", Settings)


@pytest.fixture
def bare(files):
    """The folder of a case whose headers tell voxel sizes alone."""
    for path in (*files.images.values(), files.labels):
        image = nib.load(path)
        data, zooms = np.asarray(image.dataobj), image.header.get_zooms()
        stripped = nib.Nifti1Image(data, None)
        stripped.header.set_zooms(zooms)
        nib.save(stripped, path)
    return files.labels.parent


def codes(layer) -> str:
    return "".join(nib.aff2axcodes(layers.to_volume(layer).affine))


def chosen(session):
    return {slot.modality: slot.layer for slot in session.state.slots if slot.layer is not None}


def test_switch_turns_every_layer_of_the_case_and_back(session, viewer, bare):
    opener = Opener(session)
    opener.open([bare])
    before = {
        layer.name: (layers.to_volume(layer), layer.affine.affine_matrix.copy()) for layer in viewer.layers
    }
    assert len(before) == 5
    opener.swap_sides(True)
    assert {codes(layer) for layer in viewer.layers} == {"LAS"}
    for layer in viewer.layers:
        volume, _ = before[layer.name]
        np.testing.assert_array_equal(layers.to_volume(layer).data, volume.data)
        first = layer.data_to_world((0, 0, 0))[2]
        assert first == pytest.approx((volume.shape[0] - 1) * volume.spacing[0]), (
            "the first voxel is on the right"
        )
    opener.swap_sides(False)
    for layer in viewer.layers:
        volume, shown = before[layer.name]
        np.testing.assert_array_equal(layers.to_volume(layer).affine, volume.affine)
        np.testing.assert_array_equal(layer.affine.affine_matrix, shown)
        assert not layers.swapped(layer)


def test_result_lies_on_the_turned_images_and_records_it(session, viewer, bare, tmp_path):
    opener = Opener(session)
    opener.open([bare])
    session.run()
    assert any("left and right were taken as" in warning for warning in session.state.warnings)
    opener.swap_sides(True)
    assert session.shown is None, "what was made of the images as stored is gone"
    assert session.predictions == {}
    session.run()
    assert not any("left and right were taken as" in warning for warning in session.state.warnings)
    assert session.save(tmp_path / "out.nii.gz")
    assert "".join(nib.aff2axcodes(read_labels(tmp_path / "out.nii.gz").affine)) == "LAS"
    assert any(
        "the user gave LAS" in said for said in json.loads((tmp_path / "out.json").read_text())["warnings"]
    )


def test_edits_are_lost_only_if_the_user_agrees(session, viewer, bare):
    opener = Opener(session, lambda: False)
    opener.open([bare])
    session.run()
    session.shown.layer.data_setitem(tuple(np.array([0]) for _ in range(3)), 3)
    opener.swap_sides(True)
    assert session.shown is not None
    assert {codes(layer) for layer in viewer.layers} == {"RAS"}


def test_commands_say_it(session, bare):
    opener = Opener(session)
    opener.open([bare])
    assert "orientation" not in as_command(session) + as_python(session)
    opener.swap_sides(True)
    assert "--orientation LAS" in as_command(session)
    assert "orientation='LAS'" in as_python(session)


def test_panel_warns_and_offers_the_switch_where_nothing_is_told(session, bare, qtbot):
    part = CasePart(session)
    qtbot.addWidget(part)
    session.changed.connect(part.render)  # as the panel does
    part.render(session.state)
    assert part.swap.isHidden()
    part.opener.open([bare])
    assert not part.swap.isHidden()
    assert not part.sides.isHidden()
    assert "left and right were taken as" in part.sides.text()
    part.swap.click()
    assert {codes(layer) for layer in chosen(session).values()} == {"LAS"}
    assert part.swap.isChecked()
    assert part.sides.isHidden()


def test_files_that_tell_their_orientation_get_no_switch(session, files, qtbot):
    part = CasePart(session)
    qtbot.addWidget(part)
    session.changed.connect(part.render)
    part.opener.open([files.labels.parent])
    assert len(chosen(session)) == 4
    assert part.swap.isHidden()
    assert part.sides.isHidden()
