"""Model inversion alone: the substitute learns, the networks do not, and the card claims nothing it no longer knows."""

from __future__ import annotations

from itertools import islice

import pytest
import torch

from m3ae_core.bundle import load_bundle, save_bundle
from m3ae_core.errors import BundleError
from m3ae_core.events import EpochDone, Inverted
from m3ae_core.hardware import Hardware
from m3ae_core.methods.m3ae.stages import Invert, inversion_recipe
from m3ae_core.methods.models_genesis import ModelsGenesis
from m3ae_core.training.run import Plan, train
from tiny import random_bundle, write_cases

CPU = Hardware(device="cpu", workers=0)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inversion")
    bundle = random_bundle()
    bundle.card["reliability"] = {}
    bundle.card["recipe"] = {"pretrain": {"crop": [32, 32, 32], "masking": {"patch": 8}}}
    save_bundle(bundle, folder / "start")
    return folder, write_cases(folder / "cases", 4)


def run(place, folder):
    start, cases = place[0] / "start", place[1]
    bundle = load_bundle(start)
    recipe = inversion_recipe(bundle.config, bundle.card, epochs=2, learning_rate=0.05)
    return train(Plan(recipe, cases, folder, hardware=CPU), Invert(), pretrained=start)


def test_only_the_substitute_changes_and_it_says_how(place, tmp_path):
    events = list(run(place, tmp_path))
    before, after = load_bundle(place[0] / "start"), load_bundle(tmp_path / "bundle")
    for network in ("autoencoder", "segmenter"):
        theirs = getattr(before.model, network).state_dict()
        assert all(
            torch.equal(tensor, theirs[name])
            for name, tensor in getattr(after.model, network).state_dict().items()
        )
    assert not torch.equal(before.model.substitute, after.model.substitute)
    said = next(event for event in events if isinstance(event, Inverted))
    for n, name in enumerate(before.config.modalities):
        assert said.after[name] == pytest.approx(after.model.substitute[n].std().item(), rel=1e-2)
        assert -1 <= said.correlation[name] < 0.9999
    epochs = [event.terms["reconstruction"] for event in events if isinstance(event, EpochDone)]
    assert epochs[1] < epochs[0]
    assert "reliability" not in after.card


def test_it_resumes_bit_exactly(place, tmp_path):
    list(run(place, tmp_path / "whole"))
    stopped = run(place, tmp_path / "stopped")
    list(islice(stopped, 4 + 5))
    stopped.close()
    list(run(place, tmp_path / "stopped"))
    images = [load_bundle(tmp_path / name / "bundle").model.substitute for name in ("whole", "stopped")]
    assert torch.equal(*images)


def test_a_model_of_a_method_without_substitute_is_refused():
    config = random_bundle().config.model_copy(update={"method": "models-genesis"})
    networks = random_bundle().model.networks
    other = ModelsGenesis.restored(config, networks, {"substitute": torch.zeros(4, *config.grid.shape)})
    with pytest.raises(BundleError, match="no substitute to learn on"):
        Invert().require(other)
    Invert().require(random_bundle().model)
