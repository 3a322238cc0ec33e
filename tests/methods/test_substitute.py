"""The substitute image: crops at their place on the template, and replacement of what is masked, nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from m3ae_core.methods.m3ae.substitute import SubstituteImage, fill
from m3ae_core.stage_config import SubstituteConfig

SHAPE = (5, 6, 7)


def substitute(modalities: int = 2) -> SubstituteImage:
    torch.manual_seed(0)
    return SubstituteImage(modalities, SHAPE)


# --- the image -------------------------------------------------------------------------------------


def test_it_starts_as_gaussian_noise() -> None:
    torch.manual_seed(0)
    image = SubstituteImage(4, (30, 30, 30), 1).image
    assert image.shape == (4, 30, 30, 30)
    assert image.requires_grad
    assert abs(image.mean().item()) < 0.02
    assert image.std().item() == pytest.approx(1, abs=0.02)
    usual = SubstituteImage(4, (30, 30, 30)).image
    assert usual.std().item() == pytest.approx(SubstituteConfig().init_std, rel=0.02)
    assert not SubstituteImage(1, SHAPE, 0).image.any()


def test_the_seed_decides_it() -> None:
    torch.testing.assert_close(substitute().image, substitute().image)
    assert (substitute().image != SubstituteImage(2, SHAPE).image).any()


# --- learning it -----------------------------------------------------------------------------------


def test_a_smoothed_gradient_is_the_gaussian_of_the_plain_one() -> None:
    weight = torch.randn(2, 12, 13, 14, generator=torch.Generator().manual_seed(1))
    image = SubstituteImage(2, (12, 13, 14))
    image.smooth_gradients(1.5)
    (weight * image.image).sum().backward()
    expected = gaussian_filter(weight.numpy(), (0, 1.5, 1.5, 1.5), mode="constant")
    np.testing.assert_allclose(image.image.grad.numpy(), expected, atol=1e-6)


def test_without_smoothing_the_gradient_stays_as_it_is() -> None:
    image = substitute()
    image.smooth_gradients(0)
    (3 * image.image).sum().backward()
    assert (image.image.grad == 3).all()


# --- crops -----------------------------------------------------------------------------------------


def test_a_crop_inside_is_exact() -> None:
    image = substitute()
    cropped = image.crop([(1, 2, 3), (0, 0, 0)], (2, 3, 4))
    assert cropped.shape == (2, 2, 2, 3, 4)
    assert torch.equal(cropped[0], image.image[:, 1:3, 2:5, 3:7])
    assert torch.equal(cropped[1], image.image[:, :2, :3, :4])


@given(st.tuples(*[st.integers(-6, 9)] * 3), st.tuples(*[st.integers(1, 10)] * 3))
def test_a_crop_that_overhangs_repeats_the_edge(start: tuple[int, ...], size: tuple[int, int, int]) -> None:
    image = substitute()
    far = 16
    padded = np.pad(image.image.detach().numpy(), [(0, 0), *[(far, far)] * 3], mode="edge")
    where = tuple(slice(far + first, far + first + side) for first, side in zip(start, size, strict=True))
    cropped = image.crop([start], size)[0].detach().numpy()
    np.testing.assert_array_equal(cropped, padded[(slice(None), *where)])


def test_gradients_reach_the_cropped_place_alone() -> None:
    image = substitute()
    image.crop([(1, 2, 3)], (2, 2, 2)).sum().backward()
    expected = torch.zeros_like(image.image)
    expected[:, 1:3, 2:4, 3:5] = 1
    assert torch.equal(image.image.grad, expected)


def test_gradients_of_repeated_edges_add_up() -> None:
    image = substitute()
    image.crop([(-2, 0, 0)], (4, 1, 1)).sum().backward()
    assert image.image.grad[0, :, 0, 0].tolist() == [3, 1, 0, 0, 0]


# --- fill ------------------------------------------------------------------------------------------


def test_fill_replaces_exactly_what_is_masked() -> None:
    torch.manual_seed(0)
    x, content = torch.randn(2, 3, 4, 4, 4), torch.randn(2, 3, 4, 4, 4)
    masked = torch.rand(2, 3, 4, 4, 4) < 0.5
    before = x.clone()
    filled = fill(x, content, masked)
    assert torch.equal(filled[masked], content[masked])
    assert torch.equal(filled[~masked], x[~masked])
    assert torch.equal(x, before)  # the target of the reconstruction is this very tensor


def test_fill_takes_one_substitute_and_one_flag_per_modality() -> None:
    x, content = torch.zeros(2, 3, 2, 2, 2), torch.ones(3, 2, 2, 2)
    missing = torch.tensor([True, False, True])[:, None, None, None]
    filled = fill(x, content, missing)
    assert filled.mean(dim=(0, 2, 3, 4)).tolist() == [1, 0, 1]


def test_gradients_reach_the_substitute_where_it_was_used() -> None:
    x = torch.randn(1, 2, *SHAPE, requires_grad=True)
    masked = torch.rand(1, 2, *SHAPE) < 0.5
    image = substitute()
    fill(x, image.crop([(0, 0, 0)], SHAPE), masked).sum().backward()
    assert torch.equal(image.image.grad, masked[0].float())
    assert torch.equal(x.grad, (~masked).float())


def test_what_is_replaced_cannot_leak() -> None:
    """Not even a NaN in a missing modality reaches the network."""
    x = torch.full((1, 2, *SHAPE), torch.nan)
    assert fill(x, torch.zeros_like(x), torch.ones_like(x, dtype=torch.bool)).isfinite().all()
