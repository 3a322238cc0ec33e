"""What two images of one brain say of each other, on a ball whose bright spots are known."""

from itertools import combinations

import numpy as np
import pytest

from m3ae_core.data.preprocess import StandardCase, brain_box
from m3ae_core.inference.contrast import compare, exchanged
from m3ae_core.io.grid import Grid, Placement
from m3ae_core.modalities import BRATS

SIDE = 40


def ball(spots=(), *, seed: int = 0) -> np.ndarray:
    """A ball of radius 36 mm in voxels of 2 mm with noise, and bright voxels at these places."""
    where = np.indices((SIDE,) * 3) - (SIDE - 1) / 2
    image = np.random.default_rng(seed).normal(0, 1, (SIDE,) * 3)
    for spot in spots:
        image[spot] += 30
    return np.where(np.sum(where**2, axis=0) < 18**2, image, 0).astype(np.float32)


def case(**images: np.ndarray) -> StandardCase:
    empty = np.zeros((SIDE,) * 3, np.float32)
    image = np.stack([images.get(name, empty) for name in BRATS.names])
    grid = Grid((SIDE,) * 3, np.diag([2.0, 2.0, 2.0, 1.0]))
    return StandardCase(
        image,
        BRATS,
        BRATS.subset(images),
        grid,
        Placement("header", (0, 0, 0), 1.0),
        brain_box(image.any(axis=0)),
    )


def test_bright_spots_deep_in_the_brain_are_counted_for_the_image_that_has_them():
    deep = np.s_[18:22, 18:22, 18:22]
    signs = compare(case(T1=ball(seed=1), T1c=ball([deep], seed=2)))["T1", "T1c"]
    assert (signs[1:] < -1e-4).all()
    inside = ball(seed=1)
    count = np.count_nonzero(np.sum((np.argwhere(inside) - 19.5) ** 2, axis=1) < 8**2)  # more than 20 mm deep
    assert signs[3] == pytest.approx(-64 / count, rel=0.3)


def test_spots_under_the_surface_are_not_deep():
    shallow = [np.s_[i, j, 34] for i in range(14, 26, 3) for j in range(14, 26, 3)]
    signs = compare(case(T1=ball(), T1c=ball(shallow)))["T1", "T1c"]
    assert signs[1] == pytest.approx(-16 / np.count_nonzero(ball()))
    assert signs[2] == 0


def test_signs_turn_around_when_the_images_do():
    one, other = ball([np.s_[18:22, 18:22, 18:22]], seed=1), ball(seed=2)
    there = compare(case(FLAIR=one, T2=other))["FLAIR", "T2"]
    back = compare(case(FLAIR=other, T2=one))["FLAIR", "T2"]
    np.testing.assert_allclose(there, -back, atol=1e-6)


def test_neither_scale_nor_offset_of_an_image_matters():
    one, other = ball([np.s_[18:22, 18:22, 18:22]], seed=1), ball(seed=2)
    scaled = np.where(one != 0, 5 * one + 1000, 0).astype(np.float32)
    own, same = (compare(case(T1=image, T2=other))["T1", "T2"] for image in (one, scaled))
    np.testing.assert_allclose(own, same, atol=2e-3)


def test_an_exchange_is_told_from_the_signs_alone():
    """Every pair of an exchanged case has the signs that its images give."""
    images = {name: ball([np.s_[18:22, 18:22, 18 : 19 + i]], seed=i) for i, name in enumerate(BRATS.names)}
    signs = compare(case(**images))
    assert set(signs) == set(combinations(BRATS.names, 2))
    turned = images | {"FLAIR": images["T1c"], "T1c": images["FLAIR"]}
    for pair, own in compare(case(**turned)).items():
        np.testing.assert_allclose(exchanged(signs, ("FLAIR", "T1c"))[pair], own, atol=1e-6)


def test_a_brain_too_small_for_depth_has_no_deep_signs():
    small = ball(seed=1)
    small[np.sum((np.indices(small.shape) - 19.5) ** 2, axis=0) > 6**2] = 0
    signs = compare(case(T1=small, T2=-small))["T1", "T2"]
    assert (signs[2:] == 0).all()
    assert np.isfinite(signs).all()


def test_a_sequence_alone_has_no_signs():
    assert compare(case(T1=ball())) == {}
