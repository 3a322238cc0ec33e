"""Augmentation of batches: what each change does by itself; draws are the case's own and come from the seed."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from m3ae_core.data import batched

SIZE = (12, 14, 16)


def brains(batch: int = 3, modalities: int = 2) -> Tensor:
    x = torch.randn(batch, modalities, *SIZE, generator=Generator().manual_seed(0))
    brain = torch.zeros(SIZE, dtype=torch.bool)
    brain[2:-2, 2:-2, 2:-2] = True
    return batched.standardise(x, (x != 0) & brain)


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


CHANGES = [batched.scanner, batched.thick_slices, batched.contrast, batched.noise_and_blur, batched.vary]


@pytest.mark.parametrize("change", CHANGES)
def test_the_background_stays_and_the_seed_decides(change) -> None:  # type: ignore[no-untyped-def]
    x = brains()
    changed = [torch.stack([change(seeded(seed), x) for seed in range(6)]) for _ in range(2)]
    assert torch.equal(*changed)
    assert not changed[0][:, x == 0].any()
    assert (changed[0] != x).any()
    assert changed[0].isfinite().all()
    assert (changed[0] != changed[0][:1]).any()


def test_every_sequence_of_every_case_has_a_draw_of_its_own() -> None:
    x = brains(1, 1).repeat(8, 4, 1, 1, 1)
    shown = batched.scanner(seeded(), x).flatten(2)
    assert len({tuple(row.tolist()) for row in shown[..., 800:810].flatten(0, 1)}) > 24


def test_another_scanner_is_standardised_again() -> None:
    shown = batched.scanner(seeded(), brains())
    inside = shown[:, :, 2:-2, 2:-2, 2:-2].flatten(2)
    torch.testing.assert_close(inside.mean(-1), torch.zeros(3, 2), atol=1e-4, rtol=0)
    torch.testing.assert_close(inside.std(-1, correction=0), torch.ones(3, 2), atol=1e-4, rtol=0)


def test_a_sequence_that_does_not_exist_stays_empty() -> None:
    x = brains()
    x[:, 1] = 0
    assert not batched.vary(seeded(), x)[:, 1].any()


def test_the_bias_field_is_smooth_and_half_of_the_cases_have_one() -> None:
    field = batched.bias_field(seeded(), torch.zeros(200, 1, 9, 9, 9))
    plain = (field == 1).all(dim=(1, 2, 3, 4)).float().mean().item()
    assert 0.35 < plain < 0.65
    second = (
        field.log().diff(n=2, dim=2).diff(dim=2)
    )  # a polynomial of the second order has no third difference
    assert second.abs().max() < 1e-5
    assert field.max() > 1.2


def test_no_strength_cuts_exactly() -> None:
    x = torch.randn(2, 3, *SIZE, generator=seeded())
    matrices = batched.turns_and_zooms(seeded(), 2, strength=0)
    torch.testing.assert_close(matrices, torch.eye(3).repeat(2, 1, 1))
    starts = torch.tensor([[1, 2, 3], [0, 4, 2]])
    crops = batched.cut(x, starts, (8, 8, 8), matrices)
    for crop, whole, start in zip(crops, x, starts.tolist(), strict=True):
        expected = whole[(slice(None), *(slice(first, first + 8) for first in start))]
        torch.testing.assert_close(crop, expected, atol=1e-5, rtol=1e-5)


def test_a_quarter_turn_turns_every_case_by_itself() -> None:
    x = torch.randn(2, 1, 9, 9, 9, generator=seeded())
    quarter = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    turned = batched.cut(x, torch.zeros(2, 3), (9, 9, 9), torch.stack([torch.eye(3), quarter]))
    torch.testing.assert_close(turned[0], x[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        turned[1], x[1].flip(2).transpose(2, 3), atol=1e-5, rtol=1e-5
    )  # (h, w) ← (-w, h)


def test_turns_and_zooms_stay_within_their_ranges() -> None:
    matrices = batched.turns_and_zooms(seeded(), 500).double().numpy()
    zooms = np.cbrt(np.linalg.det(matrices))
    assert (np.abs(np.log(zooms)) <= math.log(batched.ZOOM) + 1e-5).all()
    rotations = matrices / zooms[:, None, None]
    np.testing.assert_allclose(
        rotations @ rotations.transpose(0, 2, 1), np.eye(3)[None].repeat(500, 0), atol=1e-5
    )
    still = np.isclose(rotations, np.eye(3), atol=1e-6).all((1, 2)).mean()
    assert 0.4 < still < 0.6
