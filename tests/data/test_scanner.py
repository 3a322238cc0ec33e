"""Another scanner: what it changes, what it leaves alone, and that it is a function of its draw."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from m3ae_core.data.scanner import TERMS, Scanner
from m3ae_core.intensity import MinMax, Window, ZScore
from m3ae_core.stage_config import ScannerConfig

ZSCORE = (ZScore(scale="zscore"),) * 4
PLAIN = Scanner(torch.zeros(4, len(TERMS)), torch.zeros(4), torch.ones(4), (1.0,) * 4, 0)


def brain(seed: int = 0) -> torch.Tensor:
    """A z-scored box of tissue in a background of 0; the third sequence does not exist."""
    image = torch.zeros(4, 12, 14, 10)
    values = torch.rand(4, 8, 10, 6, generator=torch.Generator().manual_seed(seed))
    flat = values.flatten(1)
    centred = (flat - flat.mean(1, keepdim=True)) / flat.std(1, correction=0, keepdim=True)
    image[:, 2:10, 2:12, 2:8] = centred.reshape(values.shape)
    image[2] = 0
    return image


def test_a_scanner_that_changes_nothing() -> None:
    torch.testing.assert_close(PLAIN.apply(brain(), ZSCORE), brain())


@pytest.mark.parametrize("seed", range(5))
def test_background_and_what_does_not_exist_stay_zero_and_the_scale_is_kept(seed: int) -> None:
    scanner = Scanner.draw(np.random.default_rng(seed), ScannerConfig(thickness=1), 4)
    changed = scanner.apply(brain(), ZSCORE)
    assert torch.equal(changed != 0, brain() != 0)
    for channel in changed[[0, 1, 3]]:
        values = channel[channel != 0]
        assert values.mean().item() == pytest.approx(0, abs=1e-5)
        assert values.std(correction=0).item() == pytest.approx(1, abs=1e-5)


def test_a_slope_of_the_field_brightens_one_side() -> None:
    bias = torch.zeros(4, len(TERMS))
    bias[0, TERMS.index((2,))] = 0.25
    change = PLAIN._replace(bias=bias).apply(brain(), ZSCORE) - brain()
    assert change[0, ..., 7].sum() > 0 > change[0, ..., 2].sum()
    torch.testing.assert_close(change[1:], torch.zeros_like(change[1:]))


def test_gamma_keeps_the_order_of_intensities() -> None:
    changed = PLAIN._replace(gamma=torch.tensor([1.5, 1, 1, 1])).apply(brain(), ZSCORE)
    inside = brain()[0] != 0
    order = brain()[0][inside].argsort()
    assert (changed[0][inside][order].diff() >= 0).all()
    assert not torch.allclose(changed[0], brain()[0], atol=0.05)


def test_thick_slices_blur_along_their_axis_alone() -> None:
    image = torch.zeros(4, 12, 12, 12)
    image[:, 4] = 1
    image[:, :, 4] += 2
    scanner = PLAIN._replace(thickness=(3.0, 1.0, 1.0, 1.0), axis=0)
    changed = scanner.apply(image + 1, (MinMax(scale="minmax"),) * 4)
    assert changed[0, :, 8, 8].diff().abs().max() < (changed[1, :, 8, 8].diff().abs().max()) / 1.5
    assert changed[0, 8, :, 8].diff().abs().max() == pytest.approx(
        changed[1, 8, :, 8].diff().abs().max().item(), rel=0.5
    )


def test_a_draw_is_a_function_of_its_generator() -> None:
    first, again, other = (Scanner.draw(np.random.default_rng(s), ScannerConfig(), 4) for s in (1, 1, 2))
    assert torch.equal(first.apply(brain(), ZSCORE), again.apply(brain(), ZSCORE))
    assert not torch.equal(first.apply(brain(), ZSCORE), other.apply(brain(), ZSCORE))


def test_a_modality_in_absolute_units_keeps_them() -> None:
    scanner = Scanner.draw(np.random.default_rng(0), ScannerConfig(thickness=1, probability=1), 4)
    changed = scanner.apply(brain(), (*ZSCORE[:3], Window(scale="window")))
    assert torch.equal(changed[3], brain()[3])
    assert not torch.allclose(changed[1], brain()[1])
