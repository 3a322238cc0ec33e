"""Augmentation: drawn once, then applied alike to both situations and to the labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from m3ae_core.data.augment import Augmentation
from m3ae_core.stage_config import AugmentConfig


def draw(seed: int = 0, modalities: int = 4, depth: int = 5, **settings) -> Augmentation:
    return Augmentation.draw(
        np.random.default_rng(seed), AugmentConfig(**settings), [1.0] * modalities, depth
    )


def test_the_papers_ranges() -> None:
    """Scale within [0.9, 1.1], shift within [-0.1, 0.1], each axis flipped half of the time."""
    drawn = [draw(seed) for seed in range(1000)]
    scale, shift = (torch.stack([getattr(one, name) for one in drawn]) for name in ("scale", "shift"))
    for values, low, high in ((scale, 0.9, 1.1), (shift, -0.1, 0.1)):
        assert values.shape == (1000, 4, 1, 1, 1)
        assert values.dtype == torch.float32
        assert values.min() >= low
        assert values.max() <= high
        assert values.min().item() == pytest.approx(low, abs=0.005)
        assert values.max().item() == pytest.approx(high, abs=0.005)
        assert values.mean().item() == pytest.approx((low + high) / 2, abs=0.01)
    for axis in (-3, -2, -1):
        assert np.mean([axis in one.flip for one in drawn]) == pytest.approx(0.5, abs=0.07)
    assert {one.flip for one in drawn} == {
        (),
        (-3,),
        (-2,),
        (-1,),
        (-3, -2),
        (-3, -1),
        (-2, -1),
        (-3, -2, -1),
    }


def test_the_shift_follows_each_modalitys_scale() -> None:
    drawn = Augmentation.draw(np.random.default_rng(0), AugmentConfig(), [1.0, 5.3, 5.3], 5)
    plain = Augmentation.draw(np.random.default_rng(0), AugmentConfig(), [1.0, 1.0, 1.0], 5)
    torch.testing.assert_close(drawn.shift.flatten(), plain.shift.flatten() * torch.tensor([1.0, 5.3, 5.3]))


def test_each_axis_has_its_own_probability() -> None:
    drawn = [draw(seed, flip=(0, 1, 0.5)).flip for seed in range(400)]
    assert set(drawn) == {(-2,), (-2, -1)}
    assert np.mean([-1 in flip for flip in drawn]) == pytest.approx(0.5, abs=0.1)


def test_a_draw_is_a_function_of_the_seed() -> None:
    first, again, other = draw(1), draw(1), draw(2)
    assert torch.equal(first.scale, again.scale)
    assert torch.equal(first.shift, again.shift)
    assert first.flip == again.flip
    assert not torch.equal(first.scale, other.scale)


def test_modalities_change_independently_and_slices_if_asked() -> None:
    assert draw().scale.unique().numel() == 4
    sliced = draw(jitter_per_slice=True, depth=6)
    assert sliced.scale.shape == sliced.shift.shape == (4, 6, 1, 1)
    assert sliced.shift.unique().numel() == 24


def test_intensity_is_scale_times_image_plus_shift() -> None:
    change = draw(3)
    image = torch.rand(2, 4, 5, 6, 7)
    changed = change.intensity(image)
    for m in range(4):
        expected = image[:, m] * change.scale[m].item() + change.shift[m].item()
        torch.testing.assert_close(changed[:, m], expected)


def test_slices_are_those_along_depth() -> None:
    change = draw(jitter_per_slice=True, depth=5)
    changed = change.intensity(torch.zeros(4, 5, 6, 7))
    torch.testing.assert_close(changed, change.shift.expand(4, 5, 6, 7))


def test_both_situations_and_the_labels_change_alike() -> None:
    change = draw(flip=(1, 1, 1))
    image, labels = torch.rand(4, 5, 6, 7), torch.rand(3, 5, 6, 7) > 0.5
    pair = change.space(change.intensity(torch.stack([image, image])))
    assert torch.equal(pair[0], pair[1])
    assert torch.equal(change.space(labels), labels.flip(-3, -2, -1))
    torch.testing.assert_close(pair[0], change.intensity(image).flip(-3, -2, -1))


@pytest.mark.parametrize("flip", [(), (-3,), (-2, -1)])
def test_only_the_drawn_axes_are_flipped(flip: tuple[int, ...]) -> None:
    change = draw()._replace(flip=flip)
    image = torch.rand(4, 5, 6, 7)
    expected = image.numpy()
    for axis in flip:
        expected = np.flip(expected, axis)
    np.testing.assert_array_equal(change.space(image).numpy(), expected)


def test_it_can_be_switched_off() -> None:
    change = draw(flip=(0, 0, 0), scale=0, shift=0)
    image = torch.rand(4, 5, 6, 7)
    assert torch.equal(change.space(change.intensity(image)), image)
