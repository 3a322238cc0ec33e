"""What a step computes, in both stages: terms, parameters that learn, the moving average; parts of a batch add up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from m3ae_core.data.dataset import CachedCase, Crop, Samples
from m3ae_core.methods.m3ae.losses import teacher_loss
from m3ae_core.methods.m3ae.method import M3AE
from m3ae_core.methods.m3ae.networks import Segmenter
from m3ae_core.methods.m3ae.substitute import SubstituteImage
from m3ae_core.methods.m3ae.tasks import FinetuneDraw, FinetuneTask, PretrainDraw, PretrainTask
from m3ae_core.methods.method import Task
from m3ae_core.stage_config import FinetuneConfig, PretrainConfig
from tiny import RECIPE, cached

SIDE = 16
CROP = {"crop": (SIDE,) * 3}


@pytest.fixture
def cases(tmp_path: Path) -> list[CachedCase]:
    rng, found = np.random.default_rng(0), []
    for number in range(4):
        image = rng.random((4, 20, 20, 20)).astype(np.float32)
        found.append(cached(tmp_path, str(number), image, image[:3] > 0.7, ((0, 0, 0), (20, 20, 20))))
    return found


def pretraining(
    cases: list[CachedCase], kind: str = "learned", gradient_sd: float = 0, **settings: Any
) -> tuple[PretrainTask, list[Any]]:
    torch.manual_seed(0)
    parts = {
        "masking": {"patch": 8, **settings},
        "substitute": {"kind": kind, "learning_rate": 0.1, "gradient_sd": gradient_sd},
    }
    config = PretrainConfig(**CROP, **parts)
    image = torch.rand(4, 20, 20, 20)
    substitute = SubstituteImage(4, (20, 20, 20)) if kind == "learned" else SubstituteImage.fixed(image)
    samples = Samples(cases, config, PretrainDraw(config))
    return PretrainTask(RECIPE.model, config, substitute), [samples[number] for number in range(4)]


def finetuning(cases: list[CachedCase], **settings: Any) -> tuple[FinetuneTask, list[Any]]:
    torch.manual_seed(0)
    config = FinetuneConfig(**CROP, **settings)
    start = M3AE.of(RECIPE.model, torch.rand(4, 20, 20, 20))
    samples = Samples(cases, config, FinetuneDraw(config, RECIPE.model.steps))
    task = FinetuneTask(config, Segmenter(RECIPE.model), start)
    return task, [samples[n] for n in range(4)]


Making = Callable[[list[CachedCase]], tuple[Task, list[Any]]]


@pytest.mark.parametrize("make", [pretraining, finetuning])
def test_parts_of_a_batch_add_up_to_it(make: Making, cases: list[CachedCase]) -> None:
    """What accumulation and several processes rest on: terms, hence gradients, are means over the cases."""
    task, batch = make(cases)
    whole = task(batch)
    parts = [task(batch[part::2]) for part in (0, 1)]
    for name, term in whole.items():
        assert torch.stack([part[name] for part in parts]).mean().item() == pytest.approx(
            term.item(), rel=1e-5
        )


def test_the_officials_pooled_dice_is_no_mean_over_cases(cases: list[CachedCase]) -> None:
    """The exception that docs/training.md states, and what makes the test above able to fail."""
    task, batch = finetuning(cases, segmentation_loss="official")
    parts = torch.stack([task(batch[part::2])["segmentation"] for part in (0, 1)])
    assert parts.mean().item() != pytest.approx(task(batch)["segmentation"].item(), rel=1e-5)


# --- stage 1 ---------------------------------------------------------------------------------------


def test_the_substitute_learns_at_its_own_rate_without_decay(cases: list[CachedCase]) -> None:
    task, batch = pretraining(cases)
    networks, substitute = task.parameter_groups()
    assert networks["lr"] == 3e-4
    assert {name: substitute[name] for name in ("lr", "weight_decay")} == {"lr": 0.1, "weight_decay": 0.0}
    terms = task(batch)
    assert set(terms) == {"reconstruction", "regulariser"}
    terms["reconstruction"].backward()
    assert task.substitute.image.grad.any()


def test_the_gradient_of_the_substitute_is_smoothed_where_asked(cases: list[CachedCase]) -> None:
    found = []
    for sd in (0, 2):
        task, batch = pretraining(cases, gradient_sd=sd)
        task(batch)["reconstruction"].backward()
        found.append(task.substitute.image.grad)
    rough, smooth = (
        (gradient.diff(dim=-1).abs().mean() / gradient.abs().mean()).item() for gradient in found
    )
    assert smooth < rough / 2


@pytest.mark.parametrize("kind", ["zero", "mean"])
def test_a_substitute_that_stays_is_neither_learned_nor_regularised(
    kind: str, cases: list[CachedCase]
) -> None:
    task, batch = pretraining(cases, kind)
    before = task.substitute.image.clone()
    (group,) = task.parameter_groups()
    assert not any(parameter is task.substitute.image for parameter in group["params"])
    terms = task(batch)
    assert set(terms) == {"reconstruction"}
    terms["reconstruction"].backward()
    assert task.substitute.image.grad is None
    assert torch.equal(task.substitute.image, before)


def test_dropout_alone_masks_whole_modalities(cases: list[CachedCase]) -> None:
    _, batch = pretraining(cases, patches=False)
    for sample in batch:
        flat = sample.masked.flatten(1)
        assert torch.equal(flat.all(dim=1), flat.any(dim=1))


def test_pretraining_never_sees_the_labels(cases: list[CachedCase]) -> None:
    draw = PretrainDraw(PretrainConfig(**CROP, masking={"patch": 8}))
    image = torch.rand(4, SIDE, SIDE, SIDE)
    exists = np.ones(4, bool)
    samples = [
        draw(Crop(image, regions, (0, 0, 0), exists), np.random.default_rng(0))
        for regions in (torch.zeros(3), torch.ones(3))
    ]
    assert torch.equal(samples[0].masked, samples[1].masked)
    assert samples[0]._fields == ("image", "start", "masked", "exists")


def test_what_does_not_exist_is_no_target(cases: list[CachedCase]) -> None:
    """Garbage where a sequence was not acquired changes neither the loss nor a gradient."""
    terms, gradients = [], []
    for garbage in (0.0, 1e3):
        task, batch = pretraining(cases)
        torch.manual_seed(1)
        lacking = []
        for sample in batch:
            image, masked = sample.image.clone(), sample.masked.clone()
            image[1], masked[1] = garbage, True
            exists = torch.tensor([True, False, True, True])
            lacking.append(sample._replace(image=image, masked=masked, exists=exists))
        found = task(lacking)
        found["reconstruction"].backward()
        terms.append(found["reconstruction"].item())
        gradients.append(task.substitute.image.grad.clone())
    assert terms[0] == terms[1]
    assert torch.equal(*gradients)


# --- stage 2 ---------------------------------------------------------------------------------------


def test_labels_that_count_half_give_half_the_term(cases: list[CachedCase]) -> None:
    task, batch = finetuning(cases)
    half = [sample._replace(weight=0.5) for sample in batch]
    whole, less = task(batch), task(half)
    assert less["segmentation"].item() == pytest.approx(whole["segmentation"].item() / 2, rel=1e-5)
    assert less["consistency"].item() == whole["consistency"].item()


def test_the_substitute_is_frozen(cases: list[CachedCase]) -> None:
    task, batch = finetuning(cases)
    (group,) = task.parameter_groups()
    assert {id(p) for p in group["params"]} == {id(p) for p in task.network.parameters()}
    sum(task(batch).values()).backward()
    assert task.substitute.image.grad is None


def test_no_weight_on_consistency_takes_its_gradient_away(cases: list[CachedCase]) -> None:
    """Table 3, row e: the term is logged as zero, and what is left is the segmentation loss."""
    (with_it, batch), (without, _) = (finetuning(cases, consistency_weight=weight) for weight in (0.1, 0.0))
    terms = with_it(batch[:1]), without(batch[:1])
    assert terms[0]["consistency"] > 0
    assert terms[1]["consistency"] == 0
    assert torch.equal(terms[0]["segmentation"], terms[1]["segmentation"])
    terms[1]["consistency"].backward()
    assert not any(p.grad.any() for p in without.network.backbone.encoder.parameters() if p.grad is not None)


def test_the_average_is_the_one_computed_by_hand(cases: list[CachedCase]) -> None:
    """The first step sets it; then a ← 0.9 a + 0.1 w, for every weight."""
    task, batch = finetuning(cases, ema=0.9)
    optimizer = torch.optim.Adam(task.parameter_groups())
    expected: dict[str, torch.Tensor] = {}
    for _ in range(3):
        optimizer.zero_grad()
        sum(task(batch[:1]).values()).backward()
        optimizer.step()
        task.after_step()
        for name, weight in task.network.state_dict().items():
            expected[name] = 0.9 * expected[name] + 0.1 * weight if name in expected else weight.clone()
    for name, average in task.deployed.state_dict().items():
        torch.testing.assert_close(average, expected[name], atol=1e-7, rtol=1e-5)
        assert not torch.equal(average, task.network.state_dict()[name])
    assert not any(p.requires_grad for p in task.average.parameters())
    assert "average.n_averaged" in task.state_dict()  # it resumes


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_what_is_deployed_is_the_model(ema: float, cases: list[CachedCase]) -> None:
    task, _ = finetuning(cases, ema=ema)
    assert task.model.segmenter is task.deployed
    assert task.model.substitute is task.start.substitute
    assert (task.deployed is task.network) == (ema == 0)


def test_the_teacher_is_the_average_and_sees_all_that_exists(cases: list[CachedCase]) -> None:
    """The weights move on, the average stays: what teaches is the average's answer to the full view, unlearned."""
    task, batch = finetuning(cases, ema=0.9, teacher=0.5, consistency_weight=0)
    sample = batch[0]._replace(exists=torch.tensor([True, True, False, True]))
    view = task._views(sample)
    assert view.shape[0] == 3
    content = task.substitute.crop([sample.start], task.config.crop)
    expected = sample.augmentation.intensity(
        torch.where(sample.exists[:, None, None, None], sample.image, content)
    )
    torch.testing.assert_close(view[2], sample.augmentation.space(expected[0]))
    with torch.no_grad():
        for weight in task.network.parameters():
            weight.mul_(1.5)
    terms = task([sample])
    with torch.no_grad():
        taught = task.average.module(view[2:])[0].full
        logits = task.network(view[:2])[0].full
    assert terms["teacher"].item() == pytest.approx(0.5 * teacher_loss(logits, taught).item(), rel=1e-4)
    terms["teacher"].backward()
    assert any(weight.grad is not None for weight in task.network.parameters())
    assert all(weight.grad is None for weight in task.average.parameters())


def test_without_a_teacher_there_is_no_third_view(cases: list[CachedCase]) -> None:
    task, batch = finetuning(cases, ema=0.9)
    assert task._views(batch[0]).shape[0] == 2
    assert set(task(batch[:1])) == {"segmentation", "consistency"}
