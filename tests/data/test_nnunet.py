"""nnU-Net's augmentation: turns and zooms by known results, intensities as a function of image and seed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from m3ae_core.data import nnunet
from m3ae_core.data.dataset import crop
from m3ae_core.data.nnunet import cut, spatial_change, vary

IDENTITY = np.eye(3)


def image(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).random(shape).astype(np.float32)


# --- turns and zooms -------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [(0, 0, 0), (1, 2, 3), (-3, 4, 9)])
@pytest.mark.parametrize("size", [(10, 11, 12), (5, 6, 7), (4, 8, 16)])
def test_no_change_is_a_crop(start: tuple[int, int, int], size: tuple[int, int, int]) -> None:
    """Even and odd sides; what overhangs is zero."""
    array = image(2, 10, 11, 12)
    found = cut(array, start, size, IDENTITY)
    assert type(found) is torch.Tensor
    np.testing.assert_allclose(found, crop(array, start, size), atol=1e-5)


@pytest.mark.parametrize(("axis", "turns", "plane"), [("x", -1, (2, 3)), ("y", 1, (1, 3)), ("z", -1, (1, 2))])
def test_a_quarter_turn_about_each_axis(axis: str, turns: int, plane: tuple[int, int]) -> None:
    array = image(1, 9, 9, 9)
    change = Rotation.from_euler(axis, 90, degrees=True).as_matrix()
    found = cut(array, (0, 0, 0), (9, 9, 9), change)
    np.testing.assert_allclose(found, np.rot90(array, turns, plane), atol=1e-5)
    inner = cut(array, (2, 2, 2), (5, 5, 5), change)
    np.testing.assert_allclose(inner, found[:, 2:7, 2:7, 2:7], atol=1e-5)  # both have the same centre


def test_a_zoom_is_about_the_centre_of_the_crop() -> None:
    """On a ramp, twice the step; the middle stays."""
    ramp = np.broadcast_to(np.arange(24, dtype=np.float32)[:, None, None], (1, 24, 24, 24))
    found = cut(ramp, (6, 6, 6), (8, 8, 8), 2 * IDENTITY)
    expected = 9.5 + 2 * (np.arange(8) - 3.5)
    np.testing.assert_allclose(found[0, :, 4, 4], expected, atol=1e-4)


def test_image_and_regions_move_together() -> None:
    """A region that is where the image exceeds a half stays there, but for voxels on its edge."""
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, 24)] * 3, indexing="ij")
    smooth = (0.5 + 0.4 * np.sin(3 * x + 1) * np.cos(2 * y) * np.cos(z)).astype(np.float32)[None]
    change = (
        spatial_change(np.random.default_rng(5)) @ Rotation.from_euler("xyz", [0.2, 0.1, -0.2]).as_matrix()
    )
    turned, mask = (cut(array, (4, 4, 4), (16, 16, 16), change) for array in (smooth, smooth > 0.5))
    assert ((turned > 0.5) == (mask > 0.5)).float().mean() > 0.97
    plain = torch.from_numpy(smooth[:, 4:20, 4:20, 4:20])
    assert ((plain > 0.5) == (mask > 0.5)).float().mean() < 0.95  # it did turn


def test_turns_and_zooms_keep_to_their_ranges() -> None:
    drawn = [spatial_change(np.random.default_rng(seed)) for seed in range(600)]
    zooms = np.array([np.cbrt(np.linalg.det(change)) for change in drawn])
    turns = [
        np.abs(Rotation.from_matrix(c / z).as_euler("xyz")).max() for c, z in zip(drawn, zooms, strict=True)
    ]
    for values, still, limit in ((np.abs(np.log(zooms)), 0, np.log(1.25)), (turns, 0, np.deg2rad(15))):
        moved = ~np.isclose(values, still, atol=1e-9)
        assert moved.mean() == pytest.approx(nnunet.PROBABILITY, abs=0.07)
        assert 0.9 * limit < np.max(values) <= limit + 1e-9
    again = spatial_change(np.random.default_rng(3))
    np.testing.assert_array_equal(again, drawn[3])


# --- intensities -----------------------------------------------------------------------------------


def head() -> torch.Tensor:
    """Four modalities in a box; T1 (the second) is zero on part of it, as where a sequence has no signal."""
    brain = torch.zeros(4, 12, 12, 12)
    brain[:, 2:10, 3:11, 2:9] = torch.from_numpy(image(4, 8, 8, 7)) * 0.8 + 0.1
    brain[1, 2:4, 3:5, 2:4] = 0
    return brain


def test_it_is_a_function_of_image_and_seed() -> None:
    """Whatever was changed in between: MONAI's transforms keep a state."""
    before = head()
    results = [vary(head(), seed) for seed in (7, 8, 9)]
    assert torch.equal(before, head())  # the caller's tensor is not touched
    vary(torch.rand(2, 5, 5, 5), 1)
    for seed, result in zip((9, 7, 8), [results[2], *results[:2]], strict=True):
        assert torch.equal(vary(head(), seed), result)
    assert not torch.equal(results[0], results[1])
    assert not torch.equal(results[1], results[2])


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_background_stays_zero_and_the_rest_finite(seed: int) -> None:
    changed = vary(head(), seed)
    assert type(changed) is torch.Tensor
    assert changed.dtype == torch.float32
    assert changed.isfinite().all()
    assert not changed[:, ~head().any(dim=0)].any()


def test_modalities_change_by_themselves() -> None:
    """The same image four times: no two are changed alike, and a seed changes some, not always all."""
    same = head()[:1].expand(4, -1, -1, -1)
    changed = torch.stack([vary(same, seed) for seed in range(12)])
    untouched = (changed == same).flatten(2).all(dim=2).float().mean()
    # Chance that none of the seven changes happens: 0.9³ · 0.85² · 0.875 · 0.7 = 0.32
    assert 0.1 < untouched < 0.6
    assert any(not torch.equal(one[0], one[1]) for one in changed)
