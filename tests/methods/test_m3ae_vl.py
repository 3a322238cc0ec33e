"""M3AE-VL: tokens of all modalities are masked uniformly; otherwise it is M3AE."""

from __future__ import annotations

from math import comb, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from m3ae_core.bundle import load_bundle
from m3ae_core.config import ModelConfig, Recipe, parse_recipe
from m3ae_core.data.dataset import Crop
from m3ae_core.errors import ConfigError
from m3ae_core.events import StepDone
from m3ae_core.hardware import Hardware
from m3ae_core.methods.m3ae.networks import MaskedAutoencoder
from m3ae_core.methods.m3ae.substitute import fill
from m3ae_core.methods.m3ae.tasks import PretrainSample, PretrainTask
from m3ae_core.methods.m3ae_vl import M3AEVL, MaskedTokensTask, PretrainVL
from m3ae_core.training.run import Plan, train
from tiny import RECIPE, write_cases

SIDE = 16
CPU = Hardware(device="cpu", workers=0)


def recipe(loss_on: str = "all", **pretrain: Any) -> Recipe:
    content = RECIPE.model_dump(mode="json", exclude_defaults=True)
    content["model"] |= {"method": "m3ae-vl", "options": {"loss_on": loss_on}}
    content["pretrain"] |= pretrain
    return parse_recipe(content)


def masks(ratio: float, count: int = 1, exists: tuple[bool, ...] = (True,) * 4) -> torch.Tensor:
    """Masks (count, 4, 8, 8, 8) as they are drawn at the paper's size, 128³ with patches of 16³."""
    draw = PretrainVL().draw(recipe(crop=(128,) * 3, masking={"patch": 16, "ratio": ratio, "max_dropped": 0}))
    nothing = torch.zeros(1)
    crop = Crop(nothing, nothing, (0, 0, 0), np.array(exists))
    rng = np.random.default_rng(0)
    return torch.stack([draw(crop, rng).masked for _ in range(count)])


# --- the mask --------------------------------------------------------------------------------------


def test_every_sample_keeps_as_many_tokens() -> None:
    """256 of 2048 at the ratio 0.875."""
    assert (~masks(0.875, 50)).flatten(1).sum(1).unique().tolist() == [256]
    assert (~masks(0.75, 5)).flatten(1).sum(1).unique().tolist() == [512]


def test_visible_tokens_of_a_modality_are_hypergeometric() -> None:
    """Mean 64 and standard deviation 6.48; M3AE's dropout would give 0 in half of all draws."""
    visible = (~masks(0.875, 500)).flatten(2).sum(2).double()
    variance = 256 * 512 / 2048 * (1 - 512 / 2048) * (2048 - 256) / 2047
    assert sqrt(variance) == pytest.approx(6.48, abs=0.01)
    assert visible.mean(0).tolist() == pytest.approx([64] * 4, abs=5 * sqrt(variance / 500))
    assert visible.std(0).tolist() == pytest.approx([sqrt(variance)] * 4, rel=0.15)
    assert visible.min() > 0


def test_a_modality_is_never_wholly_masked_in_practice() -> None:
    assert np.log10(float(comb(1536, 256) / comb(2048, 256))) == pytest.approx(-34.5, abs=0.1)


def test_what_was_not_acquired_is_masked_and_counts() -> None:
    masked = masks(0.875, 5, (True, False, True, True))
    assert masked[:, 1].all()
    assert (~masked).flatten(1).sum(1).unique().tolist() == [256]


def test_almost_no_masking_leaves_the_image() -> None:
    masked = masks(1e-6)[0]
    image, other = torch.rand(4, 8, 8, 8), torch.rand(4, 8, 8, 8)
    assert torch.equal(fill(image, other, masked), image)


# --- what is learned -------------------------------------------------------------------------------


def batch(masked: torch.Tensor, exists: tuple[bool, ...] = (True,) * 4) -> list[PretrainSample]:
    """One crop with a mask (4, 2, 2, 2) of tokens."""
    image = torch.rand(4, SIDE, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    return [PretrainSample(image, (0, 0, 0), masked, torch.tensor(exists))]


def task_of(loss_on: str, kind: str = "learned") -> PretrainTask:
    torch.manual_seed(0)
    substitute = {"kind": kind, "init_std": 0.5}
    settings = recipe(loss_on, crop=(SIDE,) * 3, masking={"patch": 8}, substitute=substitute)
    task = PretrainVL().task(settings, None, [])
    assert isinstance(task, PretrainTask)
    return task


@pytest.fixture
def half() -> torch.Tensor:
    """The half of each modality's tokens."""
    masked = torch.zeros(4, 2, 2, 2, dtype=torch.bool)
    masked[:, 0] = True
    return masked


def test_the_loss_is_on_all_voxels_or_on_masked_ones(half: torch.Tensor) -> None:
    everywhere, masked = task_of("all"), task_of("masked")
    assert type(everywhere) is PretrainTask
    assert type(masked) is MaskedTokensTask
    (sample,) = batch(half)
    content = everywhere.substitute.crop([(0, 0, 0)], (SIDE,) * 3)
    voxels = half.repeat_interleave(8, 1).repeat_interleave(8, 2).repeat_interleave(8, 3)
    error = (everywhere.autoencoder(fill(sample.image[None], content, voxels)) - sample.image).square()[0]
    assert everywhere([sample])["reconstruction"].item() == pytest.approx(error.mean().item(), rel=1e-5)
    assert masked([sample])["reconstruction"].item() == pytest.approx(error[voxels].mean().item(), rel=1e-5)


@pytest.mark.parametrize("loss_on", ["all", "masked"])
def test_only_masked_voxels_teach_the_substitute(loss_on: str, half: torch.Tensor) -> None:
    task = task_of(loss_on)
    task(batch(half))["reconstruction"].backward()
    gradient = task.substitute.image.grad[:, :SIDE, :SIDE, :SIDE]
    assert gradient[:, :8].all(dim=0).any()
    assert not gradient[:, 8:].any()


@pytest.mark.parametrize("loss_on", ["all", "masked"])
def test_a_substitute_is_regularised_only_where_it_is_learned(loss_on: str, half: torch.Tensor) -> None:
    task = task_of(loss_on)
    terms = task(batch(half))
    expected = 0.005 * task.substitute.image.square().mean().item()
    assert terms["regulariser"].item() == pytest.approx(expected, rel=1e-5)
    task = task_of(loss_on, kind="zero")
    assert set(task(batch(half))) == {"reconstruction"}
    assert not task.substitute.image.any()


@pytest.mark.parametrize("loss_on", ["all", "masked"])
def test_what_does_not_exist_is_no_target(loss_on: str, half: torch.Tensor) -> None:
    half[1] = True
    found = []
    for garbage in (0.0, float("nan")):
        task = task_of(loss_on)
        (sample,) = batch(half, (True, False, True, True))
        sample.image[1] = garbage
        loss = task([sample])["reconstruction"]
        loss.backward()
        found.append((loss.item(), task.substitute.image.grad))
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])


def test_an_unknown_option_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="loss_on") as caught:
        PretrainVL().task(recipe("nowhere"), None, [])
    assert caught.value.code == "options"


def test_it_has_the_papers_size() -> None:
    config = ModelConfig(method="m3ae-vl")
    count = sum(weight.numel() for weight in MaskedAutoencoder(config).parameters())
    assert count == pytest.approx(4.7e6, rel=0.1)


# --- as a whole ------------------------------------------------------------------------------------


def test_both_stages_run_and_it_learns(tmp_path: Path) -> None:
    cases = write_cases(tmp_path / "cases", 1)
    settings = recipe("masked", epochs=8, batch_size=1, checkpoint_every=8)
    pretrain, finetune = M3AEVL.stages()
    first = Plan(settings, cases, tmp_path / "first", hardware=CPU)
    steps = [event for event in train(first, pretrain) if isinstance(event, StepDone)]
    losses = [event.terms["reconstruction"] for event in steps]
    assert np.mean(losses[-3:]) < np.mean(losses[:3]) / 2
    second = Plan(settings, cases, tmp_path / "second", hardware=CPU)
    list(train(second, finetune, pretrained=tmp_path / "first" / "bundle"))
    model = load_bundle(tmp_path / "second" / "bundle").model
    assert isinstance(model, M3AEVL)
    assert model.lacks("segmentation") is None
