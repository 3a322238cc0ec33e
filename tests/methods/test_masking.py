"""Masks keep the paper's contract for every number of modalities. True = replaced."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3ae_core.errors import ConfigError
from m3ae_core.methods.m3ae.masking import (
    mask_patches,
    patches_to_voxels,
    sample_mask,
    two_situations,
)
from m3ae_core.methods.situations import drop_modalities
from m3ae_core.stage_config import FinetuneConfig, MaskingConfig

COUNTS = pytest.mark.parametrize("count", [2, 3, 4, 5])
DRAWS = 4000


def every(count: int) -> np.ndarray:
    """All of `count` modalities exist."""
    return np.ones(count, bool)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# --- modality dropout ------------------------------------------------------------------------------


@COUNTS
def test_the_number_dropped_is_uniform_and_never_all(count: int) -> None:
    rng = generator(count)
    dropped = np.stack([drop_modalities(rng, count) for _ in range(DRAWS)])
    assert dropped.shape == (DRAWS, count)
    assert dropped.dtype == bool
    share = np.bincount(dropped.sum(axis=1), minlength=count + 1) / DRAWS
    assert share[count] == 0
    np.testing.assert_allclose(share[:count], 1 / count, atol=0.04)


@COUNTS
def test_subsets_of_one_size_are_equally_likely(count: int) -> None:
    rng = generator(count)
    dropped = np.stack([drop_modalities(rng, count) for _ in range(DRAWS)])
    codes = dropped @ (1 << np.arange(count))
    for code in range(2**count - 1):
        size = code.bit_count()
        assert (codes == code).mean() == pytest.approx(1 / count / comb(count, size), abs=0.04)


@given(st.integers(0, 2**32), st.integers(1, 6), st.data())
def test_no_more_than_allowed_are_dropped(seed: int, count: int, data: st.DataObject) -> None:
    limit = data.draw(st.integers(0, count - 1))
    dropped = drop_modalities(generator(seed), count, limit)
    assert dropped.sum() <= limit
    assert drop_modalities(generator(seed), count).sum() < count


# --- two situations (Eqn. 2) -----------------------------------------------------------------------


@given(st.integers(0, 2**32), st.integers(2, 6))
def test_two_situations_differ_and_keep_a_modality_each(seed: int, count: int) -> None:
    pair = two_situations(generator(seed), every(count), FinetuneConfig())
    assert pair.shape == (2, count)
    assert (pair[0] != pair[1]).any()
    assert not pair.all(axis=1).any()


@COUNTS
def test_independent_situations_coincide_as_often_as_chance(count: int) -> None:
    """Four modalities: one pair in ten (0.104)."""
    rng = generator(count)
    config = FinetuneConfig(allow_identical_pair=True)
    same = [np.logical_xor.reduce(two_situations(rng, every(count), config)) for _ in range(DRAWS)]
    chance = sum(1 / comb(count, size) for size in range(count)) / count**2
    assert count != 4 or chance == pytest.approx(0.104, abs=5e-4)
    assert 1 - np.any(same, axis=1).mean() == pytest.approx(chance, abs=0.03)


def test_the_second_situation_alone_is_redrawn() -> None:
    """The first is a plain draw (complete in a quarter of cases); the second one given that it differs."""
    rng = generator()
    complete = ~np.stack([two_situations(rng, every(4), FinetuneConfig()) for _ in range(DRAWS)]).any(axis=2)
    others = [1 / 4 / comb(4, size) for size in (1, 2, 3) for _ in range(comb(4, size))]
    expected = sum(chance * (1 / 4) / (1 - chance) for chance in others)
    np.testing.assert_allclose(complete.mean(axis=0), [1 / 4, expected], atol=0.03)


@pytest.mark.parametrize("situation", [0, 1])
def test_uniform_situations_are_the_15_subsets_alike(situation: int) -> None:
    """Chi-square with 14 degrees of freedom: above 50 less than once in 10⁵ runs; `count` exceeds it by far."""
    chi_square = {}
    for kind in ("uniform", "count"):
        rng, config = generator(situation), FinetuneConfig(situations=kind)
        pairs = np.stack([two_situations(rng, every(4), config)[situation] for _ in range(DRAWS)])
        seen = np.bincount(pairs @ (1 << np.arange(4)), minlength=16)
        assert seen[15] == 0  # never all dropped
        chi_square[kind] = ((seen[:15] - DRAWS / 15) ** 2 / (DRAWS / 15)).sum()
    assert chi_square["uniform"] < 50
    assert chi_square["count"] > 500


def test_uniform_situations_obey_the_limit() -> None:
    config = FinetuneConfig(situations="uniform", max_dropped=1)
    rng = generator()
    pairs = np.concatenate([two_situations(rng, every(4), config) for _ in range(DRAWS)])
    assert pairs.sum(axis=1).max() == 1
    np.testing.assert_allclose(pairs.mean(axis=0), 1 / 5, atol=0.03)  # of five subsets, one drops it


# --- what was not acquired -------------------------------------------------------------------------


@given(st.integers(0, 2**32), st.lists(st.booleans(), min_size=1, max_size=6).filter(any))
def test_what_does_not_exist_is_always_masked_and_one_that_does_stays(seed: int, flags: list[bool]) -> None:
    exists = np.array(flags)
    pair = two_situations(generator(seed), exists, FinetuneConfig())
    mask = sample_mask(generator(seed), exists, (16, 16, 16), MaskingConfig(patch=8))
    assert pair[:, ~exists].all()
    assert mask[~exists].all()
    assert (~pair[:, exists]).any(axis=1).all()
    assert (~mask[exists]).any()
    assert (pair[0] != pair[1]).any() == (exists.sum() > 1)


def test_situations_are_those_of_the_modalities_that_exist() -> None:
    exists = np.array([False, True, True, False])
    rng = generator()
    pairs = np.concatenate([two_situations(rng, exists, FinetuneConfig()) for _ in range(100)])
    assert {tuple(dropped.tolist()) for dropped in pairs} == {
        (True, False, False, True),
        (True, True, False, True),
        (True, False, True, True),
    }


# --- patches ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dropped", [0, 1, 2, 3])
def test_the_papers_numbers(dropped: int) -> None:
    """256 of 2048 patches stay visible however many modalities are dropped."""
    whole = np.arange(4) < dropped
    masked = mask_patches(generator(dropped), whole, (8, 8, 8), 0.875)
    assert masked.shape == (4, 8, 8, 8)
    assert (~masked).sum() == 256
    assert masked[whole].all()
    visible = 256 / (4 - dropped)
    np.testing.assert_allclose((~masked[~whole]).sum(axis=(1, 2, 3)), visible, atol=45)


@given(st.data())
def test_the_ratio_counts_all_patches_and_only_the_remaining_show(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 5))
    dropped = np.array(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    dropped[data.draw(st.integers(0, count - 1))] = False
    tokens = data.draw(st.tuples(*[st.integers(1, 4)] * 3))
    ratio = data.draw(st.floats(float(dropped.mean()), 1, exclude_max=True))
    masked = mask_patches(generator(data.draw(st.integers(0, 99))), dropped, tokens, ratio)
    assert masked.shape == (count, *tokens)
    assert masked[dropped].all()
    assert (~masked).sum() == round((1 - ratio) * count * np.prod(tokens))


def test_patches_are_drawn_independently_per_modality() -> None:
    """64 of 512 visible in each of two modalities meet in 8 places by chance, in 64 were the mask shared."""
    visible = ~mask_patches(generator(), np.zeros(4, bool), (8, 8, 8), 0.875)
    for first in range(4):
        for second in range(first):
            assert np.count_nonzero(visible[first] & visible[second]) < 30


def test_patches_are_uniform_over_the_remaining_modalities() -> None:
    rng, dropped = generator(), np.array([False, True, False])
    masked = np.mean([mask_patches(rng, dropped, (2, 2, 2), 0.75) for _ in range(DRAWS)], axis=0)
    np.testing.assert_allclose(masked[dropped], 1)
    np.testing.assert_allclose(masked[~dropped], 1 - 6 / 16, atol=0.04)


def test_dropping_more_than_the_ratio_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"Dropping 3 of 4 .* 0\.7\.") as caught:
        mask_patches(generator(), np.array([True, True, True, False]), (2, 2, 2), 0.7)
    assert caught.value.code == "masking"
    mask_patches(generator(), np.array([True, True, True, False]), (2, 2, 2), 0.75)


# --- one sample ------------------------------------------------------------------------------------


@COUNTS
def test_a_sample_has_dropped_modalities_and_the_ratio(count: int) -> None:
    config = MaskingConfig(patch=8, ratio=0.875)
    rng = generator(count)
    masks = np.stack([sample_mask(rng, every(count), (32, 16, 24), config) for _ in range(300)])
    assert masks.shape == (300, count, 4, 2, 3)
    assert ((~masks).sum(axis=(1, 2, 3, 4)) == round(0.125 * count * 24)).all()
    # With one modality left of few, it must show more than its even share: dropout did happen.
    assert len(np.unique(masks.all(axis=(2, 3, 4)), axis=0)) == 2**count - 1


def test_modality_dropout_alone() -> None:
    config = MaskingConfig(patch=8, patches=False)
    rng = generator()
    masks = np.stack([sample_mask(rng, every(4), (16, 16, 16), config) for _ in range(200)])
    whole = masks.reshape(200, 4, -1)
    assert (whole.all(axis=2) == whole.any(axis=2)).all()
    assert not whole.all(axis=(1, 2)).any()
    assert len(np.unique(whole.all(axis=2).sum(axis=1))) == 4
    masks[0, 0, 0, 0, 0] ^= True  # the arrays are the caller's own


def test_the_largest_number_dropped_can_be_set() -> None:
    config = MaskingConfig(patch=8, patches=False, max_dropped=0)
    assert not sample_mask(generator(), every(4), (16, 16, 16), config).any()


def test_a_mask_is_a_function_of_the_seed() -> None:
    config = MaskingConfig(patch=8)
    first, again, other = (sample_mask(generator(seed), every(4), (32, 32, 32), config) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    pairs = [two_situations(generator(3), every(4), FinetuneConfig(situations="uniform")) for _ in range(2)]
    np.testing.assert_array_equal(*pairs)


# --- from patches to voxels ------------------------------------------------------------------------


def test_patches_become_blocks_of_voxels() -> None:
    masked = generator().random((2, 3, 2, 3, 4)) < 0.5
    voxels = patches_to_voxels(masked, (8, 6, 16))
    assert voxels.shape == (2, 3, 8, 6, 16)
    for d, h, w in np.ndindex(8, 6, 16):
        np.testing.assert_array_equal(voxels[..., d, h, w], masked[..., d // 4, h // 2, w // 4])
