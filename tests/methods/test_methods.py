"""What holds for every registered method, ours or an outside package's: it fills, segments, is kept, and is trained."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

import m3ae_core
from m3ae_core.bundle import Bundle, load_bundle, save_bundle
from m3ae_core.config import ModelConfig
from m3ae_core.errors import BundleError, ConfigError
from m3ae_core.evaluation.benchmark import run as benchmark
from m3ae_core.events import EpochDone
from m3ae_core.hardware import Hardware
from m3ae_core.inference.predictor import Predictor
from m3ae_core.io.case import CaseFiles, read_case
from m3ae_core.methods.method import Method, Stage, reconstructing
from m3ae_core.methods.registry import OWN, method_named
from m3ae_core.methods.supervised import Supervised
from m3ae_core.plugins import hook_implementation, plugin_manager, registered
from m3ae_core.training.run import Plan, stage_named, train
from tiny import RECIPE, write_cases

CPU = Hardware(device="cpu", workers=0)


class Threshold(nn.Module):
    """A weight and a bias a region on the sum of the modalities."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.conv = nn.Conv3d(len(config.modalities), len(config.regions), 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Outsider(Method):
    """The smallest method there can be, as another package would write it."""

    NETWORKS: ClassVar = {"threshold": Threshold}

    @classmethod
    def stages(cls) -> tuple[Stage, ...]:
        return (Supervised(cls),)

    @torch.no_grad()
    def predict(self, x: Tensor, missing: Tensor) -> Tensor:
        return self.networks["threshold"](x)

    def losses(self, network, x, regions, missing, weights):
        filled = torch.where(missing[:, :, None, None, None], 0.0, x)
        return {"entropy": nn.functional.binary_cross_entropy_with_logits(network(filled), regions.float())}


class Package:
    @hook_implementation
    def m3ae_methods(self):
        return {"outsider": Outsider}


@pytest.fixture(autouse=True)
def outside() -> Iterator[None]:
    manager = plugin_manager()
    manager.register(Package(), name="outside")
    yield
    manager.unregister("outside")


NAMES = [
    "m3ae",
    "m3ae-vl",
    "models-genesis",
    "cmjp",
    "unet-dropout",
    "rfnet",
    "u-hved",
    "segresnet-vae",
    "outsider",
]
TRAINED_AT_ONCE = ["unet-dropout", "rfnet", "u-hved", "segresnet-vae", "outsider"]
everyone = pytest.mark.parametrize("name", NAMES)


def untrained(name: str) -> Method:
    """A model of random weights and, where it keeps any, random images."""
    torch.manual_seed(0)
    config = RECIPE.for_method(name).model
    method = method_named(name)
    networks = {part: build(config).eval() for part, build in method.NETWORKS.items()}
    images = {part: torch.randn(len(config.modalities), *config.grid.shape) for part in method.IMAGES}
    return method.restored(config, networks, {part: image.half().float() for part, image in images.items()})


def test_the_list_above_is_complete() -> None:
    assert {*OWN, *registered("methods")} == {*NAMES}


@everyone
def test_what_is_missing_does_not_matter(name: str) -> None:
    """Not even NaN there changes the answer, and something that is there does."""
    model, image = untrained(name), torch.randn(4, 16, 16, 16)
    missing = torch.tensor([False, True, False, True])
    answers = []
    for other in (0.0, float("nan")):
        image[missing] = other
        answers.append(model.predict(model.fill(image, missing, (0, 8, 8))[None], missing))
    assert torch.equal(*answers)
    assert answers[0].shape == (1, 3, 16, 16, 16)
    image[0] += 1
    changed = model.predict(model.fill(image, missing, (0, 8, 8))[None], missing)
    assert not torch.equal(changed, answers[0])


@everyone
def test_it_is_kept_as_it_is(name: str, tmp_path: Path) -> None:
    bundle = Bundle(untrained(name), {"name": name})
    loaded = load_bundle(save_bundle(bundle, tmp_path / "bundle"))
    assert type(loaded.model) is method_named(name)
    for part, network in bundle.model.networks.items():
        theirs = loaded.model.networks[part].state_dict()
        assert all(torch.equal(tensor, theirs[key]) for key, tensor in network.state_dict().items())
    assert all(torch.equal(image, loaded.model.images[part]) for part, image in bundle.model.images.items())
    others = {Bundle(untrained(other), {}, loaded.sha256).fingerprint for other in NAMES if other != name}
    assert loaded.fingerprint not in others


@everyone
def test_it_says_what_it_cannot_show(name: str) -> None:
    model = untrained(name)
    assert model.lacks("segmentation") is None
    shows = name in ("m3ae", "m3ae-vl")
    assert (model.lacks("substitute") is None) == shows
    assert (model.lacks("reconstruction") is None) == shows
    if not shows:
        with pytest.raises(BundleError, match="no reconstruction"):
            reconstructing(model)


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[CaseFiles]:
    return write_cases(tmp_path_factory.mktemp("cases"), 2)


def training(name: str, cases: list[CaseFiles], folder: Path) -> Iterator[object]:
    settings = RECIPE.finetune.model_dump(include={"crop", "epochs", "learning_rate", "checkpoint_every"})
    stage = RECIPE.train.model_copy(update=settings | {"crop": RECIPE.finetune.crop, "ema": 0.5})
    recipe = RECIPE.model_copy(update={"train": stage}).for_method(name)
    return train(Plan(recipe, cases, folder, hardware=CPU), validation=cases[1:])


@pytest.mark.parametrize("name", TRAINED_AT_ONCE)
def test_it_is_trained_resumed_applied_and_measured(
    name: str, cases: list[CaseFiles], tmp_path: Path
) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    events = list(training(name, cases, whole))
    assert len([event for event in events if isinstance(event, EpochDone)]) == 3
    run = training(name, cases, stopped)
    list(islice(run, len(events) // 2))
    run.close()
    list(training(name, cases, stopped))
    bundles = [load_bundle(folder / "bundle") for folder in (whole, stopped)]
    assert bundles[0].fingerprint == bundles[1].fingerprint
    assert bundles[0].card["stage"] == "segmenter"
    prediction = Predictor(bundles[0], "cpu").predict(read_case(cases[0]).only("T1c", "T2"))
    assert set(prediction.subset.missing) == {"FLAIR", "T1"}
    assert prediction.provenance["model"]["method"] == name
    list(benchmark(bundles[:1], cases[:1], tmp_path / "measured"))
    assert (tmp_path / "measured" / "benchmark.json").exists()


def test_a_stage_that_a_method_does_not_have_is_refused() -> None:
    with pytest.raises(ConfigError, match="m3ae pretrain and m3ae finetune") as caught:
        stage_named(RECIPE, "train")
    assert caught.value.code == "no-stage"
    with pytest.raises(ConfigError, match=r"'unheard-of'.*outsider") as caught:
        stage_named(RECIPE.for_method("unheard-of"), "train")
    assert caught.value.code == "no-method"


def test_who_segments_loads_nothing_of_training() -> None:
    """Importing it takes as long as half of a prediction."""
    code = "import sys, m3ae_core.inference.predictor; print(*sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(Path(m3ae_core.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    loaded = done.stdout.split()
    assert "m3ae_core.methods.registry" in loaded
    assert not {"m3ae_core.data.dataset", "m3ae_core.methods.supervised", "monai"} & {*loaded}
