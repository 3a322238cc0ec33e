"""Models Genesis: what each distortion keeps, what the network learns, and both stages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from m3ae_core.bundle import load_bundle
from m3ae_core.config import Recipe, parse_recipe
from m3ae_core.data.dataset import Crop
from m3ae_core.data.phantom import phantom
from m3ae_core.errors import ConfigError
from m3ae_core.hardware import Hardware
from m3ae_core.methods.models_genesis import (
    GenesisDraw,
    GenesisTask,
    ModelsGenesis,
    ModelsGenesisOptions,
    PretrainGenesis,
    bezier,
    distort,
    inpaint,
    map_intensities,
    outpaint,
    random_box,
    shuffle,
)
from m3ae_core.training.run import Plan, train
from tiny import RECIPE, write_cases

SIDE = 16
NOTHING = {"flip": 0, "shuffling": 0, "intensity": 0, "painting": 0}
share = st.floats(0, 1)
seeds = st.integers(0, 2**32 - 1)


def recipe(crop: int = SIDE, scale: str = "minmax", **options: Any) -> Recipe:
    content = RECIPE.model_dump(mode="json", exclude_defaults=True)
    content["model"] |= {"method": "models-genesis", "options": options, "preprocess": {"scale": scale}}
    content["pretrain"] |= {"crop": (crop,) * 3, "epochs": 2, "batch_size": 1}
    content["finetune"] |= {"crop": (crop,) * 3, "epochs": 1}
    return parse_recipe(content)


def random_image(rng: np.random.Generator) -> np.ndarray:
    return rng.random((4, SIDE, SIDE, SIDE), np.float32)


def within(boxes: list) -> np.ndarray:
    """The union of boxes (4, D, H, W)."""
    union = np.zeros((4, SIDE, SIDE, SIDE), bool)
    for box in boxes:
        union[box] = True
    return union


# --- distortions -----------------------------------------------------------------------------------


@given(share, share, share, share)
def test_a_curve_rises_from_0_to_1(x1: float, y1: float, x2: float, y2: float) -> None:
    values = np.linspace(0, 1, 201, dtype=np.float32)
    mapped = bezier(values, (x1, y1), (x2, y2))
    assert (mapped[0], mapped[-1]) == (0, 1)
    assert (np.diff(mapped) >= -1e-6).all()
    assert ((mapped >= 0) & (mapped <= 1)).all()


def test_control_points_on_the_diagonal_change_nothing() -> None:
    values = np.linspace(0, 1, 201, dtype=np.float32)
    np.testing.assert_allclose(bezier(values, (1 / 3, 1 / 3), (2 / 3, 2 / 3)), values, atol=1e-6)


def test_a_curve_is_the_bezier_curve() -> None:
    """At t = 1/2: x = (3 x1 + 3 x2 + 1) / 8, and y likewise."""
    x1, x2, y1, y2 = 0.2, 0.9, 0.7, 0.1
    x, y = ((3 * a + 3 * b + 1) / 8 for a, b in ((x1, x2), (y1, y2)))
    assert bezier(np.array([x], np.float32), (x1, y1), (x2, y2))[0] == pytest.approx(y, abs=1e-5)


@pytest.mark.parametrize(("decreasing", "ends"), [(0.0, (0, 1)), (1.0, (1, 0))])
def test_a_falling_curve_leads_from_1_to_0(decreasing: float, ends: tuple[int, int]) -> None:
    image = np.linspace(0, 1, 50, dtype=np.float32)[None, :, None, None].repeat(4, 0)
    mapped = map_intensities(np.random.default_rng(0), image, decreasing)
    assert (mapped[:, 0] == ends[0]).all()
    assert (mapped[:, -1] == ends[1]).all()
    assert not np.array_equal(mapped[0], mapped[1])  # a curve a sequence


@given(seeds)
def test_shuffling_permutes_the_voxels_within_a_box(seed: int) -> None:
    """Each voxel keeps its values of all sequences, and none leaves its box."""
    rng = np.random.default_rng(seed)
    image = random_image(rng)
    box = random_box(rng, image, (0.1, 0.5))
    shuffled = shuffle(rng, image, [box])
    assert np.array_equal(shuffled[~within([box])], image[~within([box])])
    before, after = (sorted(map(tuple, one[box].reshape(4, -1).T)) for one in (image, shuffled))
    assert before == after


def test_shuffling_happens_within_boxes_of_any_number() -> None:
    rng = np.random.default_rng(0)
    image = random_image(rng)
    assert np.array_equal(shuffle(rng, image, []), image)
    boxes = [random_box(rng, image, (0.2, 0.5)) for _ in range(20)]
    shuffled = shuffle(rng, image, boxes)
    assert not np.array_equal(shuffled, image)
    assert np.array_equal(np.sort(shuffled.reshape(4, -1)), np.sort(image.reshape(4, -1)))


@given(seeds, st.sampled_from(["constant", "noise"]))
def test_inpainting_changes_the_boxes_alone(seed: int, inside: Any) -> None:
    rng = np.random.default_rng(seed)
    image = random_image(rng) + 2
    boxes = [random_box(rng, image, (1 / 6, 1 / 3)) for _ in range(5)]
    painted, where = inpaint(rng, image, boxes, inside), within(boxes)
    assert np.array_equal(painted[~where], image[~where])
    assert ((painted[where] >= 0) & (painted[where] <= 1)).all()
    assert where.mean() <= 5 / 27
    flat = painted[boxes[-1]].reshape(4, -1)
    if flat.shape[1] > 1:
        assert (np.ptp(flat, axis=1) == 0).all() == (inside == "constant")


@given(seeds)
def test_outpainting_keeps_the_boxes_alone(seed: int) -> None:
    rng = np.random.default_rng(seed)
    image = random_image(rng) + 2
    boxes = [random_box(rng, image, (3 / 7, 4 / 7)) for _ in range(3)]
    painted, where = outpaint(rng, image, boxes), within(boxes)
    assert np.array_equal(painted[where], image[where])
    assert ((painted[~where] >= 0) & (painted[~where] <= 1)).all()


@given(seeds)
def test_boxes_have_the_sides_asked_for(seed: int) -> None:
    image = np.zeros((2, 60, 30, 24), np.float32)
    _, *sides = random_box(np.random.default_rng(seed), image, (1 / 6, 1 / 3))
    for side, whole in zip(sides, (60, 30, 24), strict=True):
        assert whole // 6 <= side.stop - side.start <= whole // 3
        assert 0 <= side.start < side.stop <= whole


@pytest.mark.parametrize("one", ["shuffling", "intensity", "painting"])
def test_each_distortion_has_a_probability_of_its_own(one: str) -> None:
    image = random_image(np.random.default_rng(0))
    crop = Crop(torch.from_numpy(image), torch.zeros(0), (0, 0, 0), np.ones(4, bool))
    for options, changed in ((NOTHING, False), (NOTHING | {one: 1, "shuffled_side": 0.25}, True)):
        sample = GenesisDraw(ModelsGenesisOptions(**options))(crop, np.random.default_rng(1))
        assert torch.equal(sample.image, crop.image)
        assert torch.equal(sample.distorted, crop.image) != changed


def test_a_painting_is_inside_or_outside() -> None:
    """Out-painting keeps some boxes and loses most; in-painting loses less than a fifth."""
    image = random_image(np.random.default_rng(0)) + 2
    for outpainting in (0, 1):
        options = ModelsGenesisOptions(
            **NOTHING | {"painting": 1, "outpainting": outpainting, "painted_boxes": 1}
        )
        lost = (distort(np.random.default_rng(2), image, options) < 1).mean()
        assert (lost > 0.5) == bool(outpainting)
        assert 0 < lost < 1


def test_a_flip_is_one_of_input_and_target() -> None:
    image = torch.from_numpy(random_image(np.random.default_rng(0)))
    crop = Crop(image, torch.zeros(0), (0, 0, 0), np.ones(4, bool))
    sample = GenesisDraw(ModelsGenesisOptions(**NOTHING | {"flip": 1}))(crop, np.random.default_rng(0))
    assert torch.equal(sample.image, image.flip(1, 2, 3))
    assert torch.equal(sample.distorted, sample.image)


@given(seeds)
def test_distorted_images_stay_between_0_and_1(seed: int) -> None:
    rng = np.random.default_rng(seed)
    distorted = distort(rng, random_image(rng), ModelsGenesisOptions())
    assert distorted.dtype == np.float32
    assert ((distorted >= 0) & (distorted <= 1)).all()


# --- what is learned -------------------------------------------------------------------------------


def task_of(**options: Any) -> GenesisTask:
    torch.manual_seed(0)
    task = PretrainGenesis().task(recipe(**options), None, [])
    assert isinstance(task, GenesisTask)
    return task


def test_the_identity_restores_what_is_not_distorted() -> None:
    image = torch.rand(4, SIDE, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    draw = PretrainGenesis().draw(recipe(**NOTHING))
    sample = draw(Crop(image, torch.zeros(0), (0, 0, 0), np.ones(4, bool)), np.random.default_rng(0))
    task = task_of(sigmoid=False)
    task.autoencoder = nn.Identity()  # type: ignore[assignment]
    task.autoencoder.register_parameter("weight", nn.Parameter(torch.zeros(1)))
    assert task([sample])["restoration"].item() == 0
    other = sample._replace(image=image + 0.5)
    assert task([other])["restoration"].item() == pytest.approx(0.25)


@pytest.mark.parametrize("sigmoid", [True, False])
def test_the_loss_compares_with_the_whole_image(sigmoid: bool) -> None:
    crop = Crop(torch.rand(4, SIDE, SIDE, SIDE), torch.zeros(0), (0, 0, 0), np.ones(4, bool))
    sample = GenesisDraw(ModelsGenesisOptions())(crop, np.random.default_rng(0))
    task = task_of(sigmoid=sigmoid)
    answer = task.autoencoder(sample.distorted[None])
    restored = answer.sigmoid() if sigmoid else answer
    expected = (restored - sample.image).square().mean().item()
    assert task([sample])["restoration"].item() == pytest.approx(expected, rel=1e-5)


def test_what_does_not_exist_is_neither_seen_nor_a_target() -> None:
    exists, found = np.array([True, False, True, True]), []
    for garbage in (0.0, float("nan")):
        image = torch.rand(4, SIDE, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
        image[1] = garbage
        crop = Crop(image, torch.zeros(0), (0, 0, 0), exists)
        sample = GenesisDraw(ModelsGenesisOptions())(crop, np.random.default_rng(0))
        assert not sample.distorted[1].any()
        task = task_of()
        loss = task([sample])["restoration"]
        expected = (task.restored(sample.distorted[None])[0] - sample.image)[exists].square().mean()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
        found.append(loss.item())
    assert found[0] == found[1]


def test_it_learns_to_restore_one_phantom() -> None:
    images, _ = phantom((SIDE,) * 3)
    image = torch.stack([torch.from_numpy(one) / float(one.max()) for one in images.values()])
    sample = GenesisDraw(ModelsGenesisOptions())(
        Crop(image, torch.zeros(0), (0, 0, 0), np.ones(4, bool)), np.random.default_rng(0)
    )
    task = task_of()
    optimizer, losses = torch.optim.Adam(task.parameters(), 3e-3), []
    for _ in range(25):
        optimizer.zero_grad()
        loss = task([sample])["restoration"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 4, losses


def test_options_and_scales_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="inside") as caught:
        PretrainGenesis().draw(recipe(inside="nothing"))
    assert caught.value.code == "options"
    with pytest.raises(ConfigError, match="between 0 and 1") as caught:
        PretrainGenesis().draw(recipe(scale="zscore"))
    assert caught.value.code == "scale"


# --- as a whole ------------------------------------------------------------------------------------


def test_both_stages_run_and_the_second_starts_from_the_first(tmp_path: Path) -> None:
    cases = write_cases(tmp_path / "cases", 1)
    plan = Plan(recipe(), cases, tmp_path / "first", hardware=Hardware(device="cpu", workers=0))
    pretrain, finetune = ModelsGenesis.stages()
    list(train(plan, pretrain))
    pretrained = load_bundle(plan.folder / "bundle").model
    assert isinstance(pretrained, ModelsGenesis)
    assert not pretrained.substitute.any()
    begun = finetune.task(plan.recipe, pretrained, []).trained
    theirs = pretrained.networks["autoencoder"].backbone.state_dict()
    assert all(torch.equal(weight, theirs[name]) for name, weight in begun.backbone.state_dict().items())
    second = replace(plan, folder=tmp_path / "second")
    list(train(second, finetune, pretrained=plan.folder / "bundle"))
    model = load_bundle(second.folder / "bundle").model
    assert isinstance(model, ModelsGenesis)
    assert model.lacks("segmentation") is None
    assert not model.fill(torch.ones(4, 8, 8, 8), torch.ones(4, dtype=torch.bool), (0, 0, 0)).any()
