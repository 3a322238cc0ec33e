"""Every equation of the paper against a value computed by hand or in plain numpy."""

from __future__ import annotations

from functools import partial
from math import log, sqrt

import numpy as np
import pytest
import torch
from torch import Tensor

from m3ae_core.methods.m3ae.losses import (
    consistency_loss,
    cross_entropy,
    dice_loss,
    finetuning_loss,
    pooled_region_loss,
    reconstruction_loss,
    region_loss,
    segmentation_loss,
    substitute_regulariser,
    teacher_loss,
)
from m3ae_core.nn.heads import ScaledLogits


def volume(*values: float) -> Tensor:
    """Voxels in a row, as an image (1, 1, 1, 1, W)."""
    return torch.tensor(values, dtype=torch.float32).reshape(1, 1, 1, 1, -1)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def scaled(batch: int, seed: int = 0) -> ScaledLogits:
    return ScaledLogits(*(3 * draw(batch, 3, 4, 5, 6, seed=seed + i) for i in range(3)))


def masks(batch: int, seed: int = 9) -> Tensor:
    return draw(batch, 3, 4, 5, 6, seed=seed) > 0.5


def numpy_region_loss(logits: Tensor, target: Tensor) -> float:
    """L of Eqn. 5 for one case (R, D, H, W), written out: Dice + cross entropy, averaged over regions."""
    total = 0.0
    for z, y in zip(logits.double().numpy(), target.double().numpy(), strict=True):
        p = 1 / (1 + np.exp(-z))
        dice = 1 - (2 * (p * y).sum() + 1) / ((p**2).sum() + (y**2).sum() + 1)
        total += dice - (y * np.log(p) + (1 - y) * np.log(1 - p)).mean()
    return total / len(logits)


# --- Eqns. 1 and 3: reconstruction and substitute --------------------------------------------------


def test_reconstruction_by_hand() -> None:
    assert reconstruction_loss(volume(0, 1, 2, 3), volume(0, 0, 2, 1)).item() == 1.25


def test_regulariser_by_hand() -> None:
    """Deviations from each modality's mean: -1, 1 and -2, 2."""
    image = torch.tensor([[1.0, 3.0], [0.0, 4.0]]).reshape(2, 1, 1, 2)
    assert substitute_regulariser(image, "norm").item() == pytest.approx(sqrt(10))


def test_regulariser_knows_no_brightness() -> None:
    """A constant added to a modality costs nothing; it is not the plain norm, nor centred over all modalities."""
    norm = partial(substitute_regulariser, form="norm")
    image = draw(4, 3, 4, 5)
    brighter = image + torch.tensor([5.0, -3.0, 0.0, 100.0])[:, None, None, None]
    torch.testing.assert_close(norm(brighter), norm(image))
    assert norm(torch.ones(4, 2, 2, 2)).item() == 0
    torch.testing.assert_close(norm(2 * image), 2 * norm(image))


def test_mean_square_is_the_same_on_every_grid() -> None:
    coarse, fine = torch.full((4, 2, 2, 2), 3.0), torch.full((4, 8, 8, 8), 3.0)
    assert substitute_regulariser(coarse).item() == substitute_regulariser(fine).item() == 9


def test_what_was_not_acquired_is_no_target() -> None:
    x, reconstruction = draw(2, 4, 3, 3, 3), draw(2, 4, 3, 3, 3, seed=1)
    exists = torch.tensor([[True, True, False, True], [False, True, True, True]])
    errors = (x - reconstruction).square().mean(dim=(-3, -2, -1))
    loss = reconstruction_loss(x, reconstruction, exists).item()
    assert loss == pytest.approx(errors[exists].mean().item())
    assert loss != pytest.approx(errors.mean().item())
    complete = reconstruction_loss(x, reconstruction, torch.ones(2, 4, dtype=torch.bool))
    assert complete == reconstruction_loss(x, reconstruction)


# --- Eqn. 2: consistency ---------------------------------------------------------------------------


def test_consistency_by_hand() -> None:
    assert consistency_loss(volume(1, 2), volume(3, 2)).item() == 2


def test_both_situations_are_drawn_together() -> None:
    """Neither side is a fixed target: gradients reach both, equal and opposite."""
    features = draw(2, 8, 2, 2, 2).requires_grad_()
    terms = finetuning_loss(scaled(2), masks(2), features, weight=0.1)
    terms["consistency"].backward()
    assert features.grad is not None
    assert features.grad[0].abs().min() > 0
    torch.testing.assert_close(features.grad[0], -features.grad[1])


# --- Eqn. 5: one prediction ------------------------------------------------------------------------


def test_dice_and_cross_entropy_by_hand() -> None:
    """p = 1/2 everywhere, two of four voxels in the region: Σpy = 1, Σp² = 1, Σy² = 2."""
    logits, target = volume(0, 0, 0, 0), volume(1, 1, 0, 0)
    assert dice_loss(logits, target).item() == pytest.approx(1 - 3 / 4)
    assert cross_entropy(logits, target).item() == pytest.approx(log(2))
    assert region_loss(logits, target).item() == pytest.approx(0.25 + log(2))
    assert pooled_region_loss(logits, target).item() == pytest.approx(0.7 * 0.25 + 0.3 * log(2))


def test_pooled_and_single_dice_differ() -> None:
    """The second case has no region: 0.25 and 0.5 apart; Σpy = 1, Σp² = 2, Σy² = 2 together."""
    logits = torch.zeros(2, 1, 1, 1, 4)
    target = torch.cat([volume(1, 1, 0, 0), volume(0, 0, 0, 0)])
    assert dice_loss(logits, target).item() == pytest.approx((0.25 + 0.5) / 2)
    assert dice_loss(logits, target, (0, -3, -2, -1)).item() == pytest.approx(1 - 3 / 5)
    assert pooled_region_loss(logits, target).item() == pytest.approx(0.7 * 0.4 + 0.3 * log(2))


def test_region_loss_against_numpy() -> None:
    logits, target = scaled(2).full, masks(2)
    expected = [numpy_region_loss(z, y) for z, y in zip(logits, target, strict=True)]
    assert region_loss(logits, target).item() == pytest.approx(np.mean(expected), rel=1e-5)


@pytest.mark.parametrize("loss", [region_loss, pooled_region_loss])
def test_a_perfect_prediction_costs_nothing_and_the_opposite_much(loss) -> None:
    target = masks(2)
    logits = torch.where(target, 30.0, -30.0)
    assert loss(logits, target).item() < 1e-6
    assert dice_loss(-logits, target).item() > 0.9
    empty = torch.zeros_like(target)
    assert loss(torch.full_like(logits, -30), empty).item() < 1e-6


def test_deep_supervision_sums_three_scales() -> None:
    logits, target = scaled(1), masks(1)
    expected = sum(numpy_region_loss(z[0], target[0]) for z in logits)
    assert segmentation_loss(logits, target).item() == pytest.approx(expected, rel=1e-5)
    pooled = sum(pooled_region_loss(z, target).item() for z in logits)
    assert segmentation_loss(logits, target, "official").item() == pytest.approx(pooled, rel=1e-6)


# --- Eqn. 4: both situations -----------------------------------------------------------------------


def test_the_sum_over_situations_is_literal() -> None:
    """L_seg(x_0) + L_seg(x_1), each computed alone, and λ L_con."""
    logits, features, target = scaled(2), draw(2, 8, 2, 2, 2), masks(1).repeat(2, 1, 1, 1, 1)
    terms = finetuning_loss(logits, target, features, weight=0.3)
    alone = [segmentation_loss(ScaledLogits(*(z[i, None] for z in logits)), target[:1]) for i in (0, 1)]
    torch.testing.assert_close(terms["segmentation"], alone[0] + alone[1])
    torch.testing.assert_close(terms["consistency"], 0.3 * (features[0] - features[1]).square().mean())
    assert terms.keys() == {"segmentation", "consistency"}


def test_the_released_form_pools_both_situations() -> None:
    logits, target = scaled(2), masks(1).repeat(2, 1, 1, 1, 1)
    terms = finetuning_loss(logits, target, draw(2, 8, 2, 2, 2), weight=0.1, form="official")
    expected = sum(pooled_region_loss(z, target) for z in logits)
    torch.testing.assert_close(terms["segmentation"], expected)


def test_two_cases_are_averaged_and_paired_with_themselves() -> None:
    """Stacked as x_0 of both cases, then x_1 of both: the loss is the mean of the cases' own losses."""
    logits, features = scaled(4), draw(4, 8, 2, 2, 2)
    target = masks(2).repeat(2, 1, 1, 1, 1)
    together = finetuning_loss(logits, target, features, weight=0.1)
    for name, value in together.items():
        alone = []
        for case in (0, 1):
            pair = [case, case + 2]
            own = ScaledLogits(*(z[pair] for z in logits))
            alone.append(finetuning_loss(own, target[pair], features[pair], weight=0.1)[name])
        torch.testing.assert_close(value, (alone[0] + alone[1]) / 2)


# --- numbers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["paper", "official"])
@pytest.mark.parametrize("size", [1.0, 1e4])
def test_finite_in_half_precision(form: str, size: float) -> None:
    """bfloat16 logits, however large: loss and gradients stay finite and near those of float32."""
    logits, target = scaled(2), masks(2)
    leaves = [(size * z).requires_grad_() for z in logits]
    features = (size * draw(2, 8, 2, 2, 2)).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = ScaledLogits(*(z.bfloat16() for z in leaves))
        terms = finetuning_loss(half, target, features.bfloat16(), 0.1, form)
    torch.stack([term.float() for term in terms.values()]).sum().backward()
    for leaf in (*leaves, features):
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()
    exact = finetuning_loss(ScaledLogits(*leaves), target, features, 0.1, form)
    for name, term in terms.items():
        assert term.item() == pytest.approx(exact[name].item(), rel=0.03)


def test_weights_scale_the_labels_of_each_image() -> None:
    logits, target = scaled(2), masks(2)
    alone = [
        segmentation_loss(type(logits)(*(scale[n : n + 1] for scale in logits)), target[n : n + 1]).item()
        for n in (0, 1)
    ]
    weighted = segmentation_loss(logits, target, weights=[0.25, 1.0]).item()
    assert weighted == pytest.approx((0.25 * alone[0] + alone[1]) / 2, rel=1e-5)
    same = segmentation_loss(logits, target, weights=[1.0, 1.0]).item()
    assert same == pytest.approx(segmentation_loss(logits, target).item(), rel=1e-5)


def test_a_teacher_is_a_soft_target_of_both_situations() -> None:
    taught, logits = 3 * draw(2, 3, 4, 5, 6, seed=1), 3 * draw(4, 3, 4, 5, 6, seed=2)
    p, q = taught.sigmoid().repeat(2, 1, 1, 1, 1), logits.sigmoid()
    by_hand = -(p * q.log() + (1 - p) * (1 - q).log())
    assert teacher_loss(logits, taught).item() == pytest.approx(2 * by_hand.mean().item(), rel=1e-5)
    assert teacher_loss(taught.repeat(2, 1, 1, 1, 1), taught) < teacher_loss(logits, taught)
