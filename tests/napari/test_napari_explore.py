"""The substitute image and masked reconstructions as layers, named for what they are."""

from __future__ import annotations

import numpy as np
import pytest
from napari.components import ViewerModel
from opened import open_case

from m3ae_core.bundle import Bundle, save_bundle
from m3ae_core.data.phantom import write_phantom
from m3ae_core.inference.predictor import Predictor
from m3ae_core.methods.m3ae.networks import Segmenter
from m3ae_core.methods.unet_dropout import UNetDropout
from m3ae_core.modalities import BRATS
from napari_m3ae import layers
from napari_m3ae.explore import SYNTHETIC, Explorer
from napari_m3ae.jobs import InlineRunner
from napari_m3ae.session import Session
from napari_m3ae.state import Model
from tiny import RECIPE, random_bundle


@pytest.fixture(scope="module")
def bundle():
    return random_bundle()


@pytest.fixture
def session(bundle, files) -> Session:
    session = Session(ViewerModel(), InlineRunner(), lambda _: Predictor(bundle))
    open_case(session.viewer, files)
    return session


@pytest.fixture
def explorer(session) -> Explorer:
    return Explorer(session)


def names(session: Session) -> list[str]:
    return [layer.name for layer in session.viewer.layers if layers.made_here(layer)]


def test_substitute_is_four_layers_that_say_what_they_are(explorer, session, bundle):
    explorer.show_substitute()
    assert sorted(names(session)) == [
        f"{SYNTHETIC} substitute {name} (learned, not a patient scan)" for name in sorted(BRATS.names)
    ]
    layer = session.viewer.layers[names(session)[0]]
    sequence = BRATS.names.index(layer.metadata["sequence"])
    np.testing.assert_array_equal(layers.to_volume(layer).data, bundle.model.substitute[sequence].numpy())


def test_substitute_lies_where_the_model_looks_for_it(explorer, session, bundle):
    explorer.show_substitute()
    affine = layers.to_volume(session.viewer.layers[names(session)[0]]).affine
    np.testing.assert_allclose(affine[:3, :3], np.array(bundle.config.grid.affine)[:3, :3])


def test_what_is_computed_is_never_taken_for_a_sequence(explorer, session):
    before = {slot.modality: slot.layer for slot in session.state.slots}
    explorer.show_substitute()
    explorer.reconstruct(["T1"], 0.875, 0, "T1")
    assert {slot.modality: slot.layer for slot in session.state.slots} == before
    assert len(session.images) == 4


def test_reconstruction_shows_one_sequence_and_reuses_its_layers(explorer, session):
    explorer.reconstruct(["T1"], 0.875, 0, "T1")
    first = names(session)
    assert {name for name in first if SYNTHETIC in name} == {
        f"M3AE {SYNTHETIC} {title}" for title in ("filled input", "reconstruction", "composite")
    }
    assert {"M3AE given", "M3AE mask", "M3AE error"} <= set(first)
    mask = session.viewer.layers["M3AE mask"]
    assert mask.data.all()  # T1 is dropped
    explorer.show_sequence("FLAIR")
    assert names(session) == first
    assert 0 < mask.data.mean() < 1
    found = explorer.reconstruction
    filled = layers.to_volume(session.viewer.layers[f"M3AE {SYNTHETIC} filled input"]).data
    np.testing.assert_array_equal(filled, found.filled[0])


def test_seed_decides_the_patches(explorer, session):
    masks = []
    for seed in (0, 0, 1):
        explorer.reconstruct([], 0.875, seed, "T2")
        masks.append(session.viewer.layers["M3AE mask"].data.copy())
    np.testing.assert_array_equal(masks[0], masks[1])
    assert (masks[0] != masks[2]).any()


def test_fidelity_is_told_for_masked_and_visible_voxels(explorer):
    assert explorer.fidelity == []
    explorer.reconstruct(["T1"], 0.875, 0, "T1")
    rows = {row[0]: row[1:] for row in explorer.fidelity}
    assert set(rows) == set(BRATS.names)
    assert rows["T1"][2:] == ("-", "-")
    assert all(float(cell) > 0 for cell in rows["FLAIR"])


def test_everything_dropped_is_said_in_a_sentence(explorer, session, monkeypatch):
    said = []
    monkeypatch.setattr("napari_m3ae.session.show_error", said.append)
    explorer.reconstruct(BRATS.names, None, 0, "T1")
    assert len(said) == 1
    assert "Keep at least one" in said[0]
    assert session.state.can_run


@pytest.fixture
def plain(session) -> Session:
    """The session with a model that has neither substitute nor autoencoder."""
    config = RECIPE.model.model_copy(update={"method": "unet-dropout"})
    model = UNetDropout.restored(config, {"segmenter": Segmenter(config).eval()})
    session._load = lambda _: Predictor(Bundle(model))
    return session


def test_what_the_model_cannot_show_is_said_in_a_sentence(plain, told):
    explorer = Explorer(plain)
    assert explorer.lacks("substitute") is None  # nothing is known before it is loaded
    explorer.show_substitute()
    explorer.reconstruct([], None, 0, "T1")
    assert [sentence.split(":")[-1].split(".")[0] for sentence in told] == [
        "This model cannot show a substitute image",
        "This model cannot show reconstructions",
    ]
    assert names(plain) == []
    assert explorer.lacks("reconstruction") == "unet-dropout has no reconstruction to show."


@pytest.mark.viewer
def test_what_the_model_cannot_show_is_greyed_with_the_reason(plain, qtbot, tmp_path):
    from napari_m3ae.widgets.explore import ExplorePart

    part = ExplorePart(plain)
    qtbot.addWidget(part)
    plain.changed.connect(part.render)
    part.render(plain.state)
    shows = (part.substitute_button, part.run_button, part.dropped, part.ratio, part.seed, part.shown)
    helps = [widget.toolTip() for widget in shows]
    assert all(widget.isEnabled() for widget in shows)
    plain.run()
    assert not any(widget.isEnabled() for widget in shows)
    assert part.substitute_button.toolTip() == "unet-dropout has no substitute to show."
    assert part.run_button.toolTip() == "unet-dropout has no reconstruction to show."
    plain.use_model(Model("another", save_bundle(random_bundle(), tmp_path)))
    assert all(widget.isEnabled() for widget in shows)
    assert [widget.toolTip() for widget in shows] == helps


def test_another_case_drops_what_was_made_from_the_last(explorer, session, tmp_path):
    explorer.show_substitute()
    explorer.reconstruct(["T1"], 0.875, 0, "T1")
    open_case(session.viewer, write_phantom(tmp_path, "other", shape=(20, 24, 16), seed=1))
    assert explorer.reconstruction is None
    assert explorer.fidelity == []
    assert not any(layer.visible for layer in session.viewer.layers if layers.made_here(layer))
    explorer.reconstruct(["T1"], 0.875, 0, "T1")
    assert session.viewer.layers["M3AE error"].visible
