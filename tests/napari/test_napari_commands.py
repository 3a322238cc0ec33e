"""A run copied as a command line and as Python does what the viewer does."""

from __future__ import annotations

import shlex
from contextlib import suppress

import numpy as np
import pytest
from napari.components import ViewerModel

from m3ae_core.bundle import save_bundle
from m3ae_core.cli import main
from m3ae_core.data.phantom import AFFINE, write_phantom
from m3ae_core.errors import InputError
from m3ae_core.io.volume import read_labels, read_volume, write_image
from napari_m3ae import layers
from napari_m3ae._reader import get_reader
from napari_m3ae.commands import as_command, as_python
from napari_m3ae.jobs import InlineRunner
from napari_m3ae.session import Session
from napari_m3ae.state import BUILTIN, Model
from tiny import random_bundle


@pytest.fixture
def folder(tmp_path):
    """A case in a folder whose name needs quotes."""
    return write_phantom(tmp_path / "it's a folder", "patient").labels.parent


@pytest.fixture
def session(folder, tmp_path):
    """The case opened, and a small model chosen."""
    viewer = ViewerModel()
    session = Session(viewer, InlineRunner())
    session.use_model(Model("small", save_bundle(random_bundle(), tmp_path / "small model")))
    for content in get_reader(str(folder))(str(folder)):
        layers.add(viewer, content)
    session.use("T1", False)
    return session


def test_python_gives_the_labels_of_the_session(session, tmp_path, monkeypatch):
    session.run()
    monkeypatch.chdir(tmp_path)
    exec(compile(as_python(session), "copied", "exec"), {})
    saved = read_labels(tmp_path / "sub-patient_desc-m3ae_dseg.nii.gz")
    assert session.shown.labels.any()
    np.testing.assert_array_equal(saved.data, session.shown.labels)
    np.testing.assert_array_equal(saved.affine, session.shown.prediction.affine)


def test_command_gives_the_labels_of_the_session(session, tmp_path, monkeypatch):
    session.run()
    words = shlex.split(as_command(session))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", words)
    with suppress(SystemExit):  # what it did is looked at below
        main()
    saved = read_labels(tmp_path / "sub-patient_desc-m3ae_dseg.nii.gz")
    np.testing.assert_array_equal(saved.data, session.shown.labels)


def test_command_names_what_is_used_and_nothing_else(session, folder):
    session.use_model(BUILTIN)
    files = {name: str(folder / f"patient-{suffix}.nii.gz") for name, suffix in
             {"FLAIR": "t2f", "T1c": "t1c", "T2": "t2w"}.items()}  # fmt: skip
    given = [word for name, path in files.items() for word in ("--image", f"{name}={path}")]
    assert shlex.split(as_command(session)) == ["m3ae", "predict", *given, "--output", "labels.nii.gz"]
    assert "builtin_bundle()" in as_python(session)
    assert "'T1'" not in as_python(session)


def test_python_for_images_on_two_grids_resamples_as_the_viewer_does(session, folder, tmp_path, monkeypatch):
    path = folder / "patient-t2w.nii.gz"
    moved = AFFINE.copy()
    moved[0, 3] -= 4  # one voxel
    write_image(path, read_volume(path).data, moved)
    slots = {slot.modality: slot.layer for slot in session.state.slots}
    slots["T2"].metadata = {layers.KEY: {**layers.facts(slots["T2"]), "affine": moved}}
    slots["T2"].affine = layers.display_grid(moved, read_volume(path).shape)[1]
    assert f"T2={path}" in shlex.split(as_command(session)), "which resamples too"
    text = as_python(session)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(text, "copied", "exec"), names)
    t2 = names["case"].volumes["T2"]
    np.testing.assert_array_equal(t2.affine, AFFINE)
    np.testing.assert_array_equal(t2.data[1:], read_volume(path).data[:-1])
    assert (tmp_path / "labels.nii.gz").exists()


def test_layer_without_a_file_is_refused(session):
    viewer = session.viewer
    other = session.state.slots[0].layer
    drawn = other.data * np.random.default_rng(0).uniform(0.5, 2, other.data.shape)
    layer = viewer.add_image(drawn, name="drawn", affine=other.affine, axis_labels=layers.AXES, units="mm")
    session.choose("T1c", layer)
    for copied in (as_command, as_python):
        with pytest.raises(InputError, match="The layer 'drawn' for T1c was not read from a file") as caught:
            copied(session)
        assert caught.value.code == "no-file"


def test_nothing_chosen_is_refused(session):
    for slot in session.state.slots:
        session.use(slot.modality, False)
    with pytest.raises(InputError, match="No sequence is chosen"):
        as_command(session)
