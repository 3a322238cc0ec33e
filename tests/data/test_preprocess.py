"""From files to what the network sees: the intensity rule, the brain box, and the channels on the template."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from m3ae_core.config import GridConfig, ModelConfig
from m3ae_core.data.phantom import AFFINE, phantom
from m3ae_core.data.preprocess import StandardCase, brain_box, normalise, standardise
from m3ae_core.errors import InputError
from m3ae_core.intensity import MinMax, PreprocessConfig, Step, ZScore
from m3ae_core.io.case import Case
from m3ae_core.io.volume import Volume
from m3ae_core.modalities import BRATS

NONZERO, POSITIVE = PreprocessConfig().default, PreprocessConfig(foreground="positive").default
ZSCORE = ZScore(scale="zscore")
#: The template that holds the voxels of a phantom of (20, 24, 16), turned to superior, posterior, left.
TEMPLATE = GridConfig(
    shape=(16, 24, 20), affine=((0, 0, -4, -25.5), (0, -4, 0, 229.5), (4, 0, 0, -1), (0, 0, 0, 1))
)
MODEL = ModelConfig(grid=TEMPLATE)
IMAGES, _ = phantom((20, 24, 16))


def rule(data: np.ndarray, foreground: np.ndarray) -> np.ndarray:
    """Clip to the 1st and 99th percentile of the foreground, min-max to [0, 1], background 0."""
    values = np.sort(data[foreground].astype(float))
    place = np.array([0.01, 0.99]) * (len(values) - 1)
    low, high = np.interp(place, np.arange(len(values)), values)
    result = np.zeros(data.shape)
    result[foreground] = (np.clip(data[foreground], low, high) - low) / (high - low)
    return result


def head(seed: int = 0) -> np.ndarray:
    """Skull-stripped, with negative voxels inside the brain as released volumes have."""
    rng = np.random.default_rng(seed)
    data = np.zeros((6, 7, 8), np.float32)
    data[1:5, 2:6, 1:7] = rng.normal(300, 200, (4, 4, 6))
    data[2, 3, 2:5] = -80, -5, -1
    return data


def case(images: dict[str, np.ndarray], affine: np.ndarray = AFFINE) -> Case:
    return Case("case", BRATS, {name: Volume(data, affine) for name, data in images.items()})


def standard(names: Sequence[str], model: ModelConfig = MODEL) -> StandardCase:
    return standardise(case({name: IMAGES[name] for name in names}), model)


# --- intensities -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("config", [NONZERO, POSITIVE], ids=["nonzero", "positive"])
def test_the_rule_against_plain_numpy(config: Step, seed: int) -> None:
    data = head(seed)
    foreground = data != 0 if config is NONZERO else data > 0
    normal = normalise(Volume(data, np.eye(4)), config)
    assert normal.dtype == np.float32
    np.testing.assert_allclose(normal, rule(data, foreground), atol=1e-6)


def test_negative_voxels_of_the_brain_count_or_not() -> None:
    data = np.zeros((1, 1, 201), np.float32)
    data[0, 0, 1:] = np.arange(-50, 150) + 0.5
    everything = normalise(Volume(data, np.eye(4)), NONZERO)[0, 0]
    positive = normalise(Volume(data, np.eye(4)), POSITIVE)[0, 0]
    assert everything[30] > 0  # -20.5 lies well above the first percentile
    assert everything[101] == pytest.approx(0.5, abs=0.01)
    assert not positive[:51].any()
    assert positive[126] == pytest.approx(0.5, abs=0.01)


@given(
    hnp.arrays(np.float32, (3, 4, 5), elements=st.sampled_from([-7.0, 0.0, 1.0, 2.5, 900.0])),
    st.sampled_from([NONZERO, POSITIVE]),
)
def test_background_stays_zero_and_values_within_the_unit(data: np.ndarray, config: Step) -> None:
    data[0, 0] = 1, 2, 3, 4, 5  # some contrast
    data[1:, 0, :3] = 1
    normal = normalise(Volume(data, np.eye(4)), config)
    assert (normal[data == 0] == 0).all()
    assert normal.min() == 0
    assert normal.max() == 1


def test_brightness_and_contrast_do_not_matter() -> None:
    data = head()
    brighter = np.where(data != 0, 3 * data + 2000, 0)
    np.testing.assert_allclose(
        normalise(Volume(brighter, np.eye(4)), NONZERO),
        normalise(Volume(data, np.eye(4)), NONZERO),
        atol=1e-5,
    )


def test_the_percentiles_can_be_set() -> None:
    data = np.arange(1, 102, dtype=np.float32).reshape(1, 1, 101)
    normal = normalise(Volume(data, np.eye(4)), MinMax(scale="minmax", percentiles=(10, 60)))[0, 0]
    assert (normal == 0).sum() == 11
    assert (normal == 1).sum() == 41
    assert normal[35] == pytest.approx(0.5)


def test_the_volume_is_not_changed() -> None:
    data = head()
    before = data.copy()
    normalise(Volume(data, np.eye(4)), POSITIVE)
    np.testing.assert_array_equal(data, before)


def test_zscore_clips_first_and_leaves_the_background_at_zero() -> None:
    data = head()
    foreground = data != 0
    clipped = rule(data, foreground)[foreground]
    expected = np.zeros(data.shape)
    expected[foreground] = (clipped - clipped.mean()) / clipped.std()
    np.testing.assert_allclose(normalise(Volume(data, AFFINE), ZSCORE), expected, atol=1e-5)


def test_zscore_does_not_depend_on_the_scanners_scale_or_offset() -> None:
    data = head()
    other = np.where(data != 0, 3 * data + 5000, 0).astype(np.float32)
    first, second = (normalise(Volume(d, AFFINE), ZSCORE) for d in (data, other))
    np.testing.assert_allclose(first, second, atol=1e-3)


@pytest.mark.parametrize(
    ("value", "config"), [(5, NONZERO), (0, NONZERO), (0, POSITIVE), (-3, POSITIVE)], ids=str
)
def test_no_contrast_is_refused(value: float, config: Step, tmp_path) -> None:
    """One grey value within the brain, or no foreground at all."""
    data = np.zeros((4, 4, 4), np.float32)
    data[1:3, 1:3, 1:3] = value
    with pytest.raises(InputError, match=r"flat\.nii") as caught:
        normalise(Volume(data, np.eye(4), tmp_path / "flat.nii"), config)
    assert caught.value.code == "no-contrast"


def test_a_few_odd_voxels_are_no_contrast() -> None:
    data = np.full((10, 10, 10), 7, np.float32)
    data[0, 0, :3] = 100
    with pytest.raises(InputError) as caught:
        normalise(Volume(data, np.eye(4)), NONZERO)
    assert caught.value.code == "no-contrast"


# --- the brain box ---------------------------------------------------------------------------------


def test_the_box_has_a_margin_of_one_voxel_inside_the_array() -> None:
    mask = np.zeros((10, 10, 10), bool)
    mask[3:6, 0, 9] = True
    assert brain_box(mask) == ((2, 0, 8), (7, 2, 10))


def test_the_box_of_nothing_is_everything() -> None:
    assert brain_box(np.zeros((4, 5, 6), bool)) == ((0, 0, 0), (4, 5, 6))


@given(hnp.arrays(bool, st.tuples(*[st.integers(1, 6)] * 3)))
def test_the_box_holds_the_mask_and_not_a_voxel_more_than_its_margin(mask: np.ndarray) -> None:
    low, high = brain_box(mask)
    outside = mask.copy()
    outside[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = False
    assert not outside.any()
    if mask.any():
        used = np.argwhere(mask)
        assert low == tuple(np.maximum(used.min(axis=0) - 1, 0))
        assert high == tuple(np.minimum(used.max(axis=0) + 2, mask.shape))


# --- a case on the template ------------------------------------------------------------------------


@pytest.mark.parametrize("order", [("FLAIR", "T1", "T1c", "T2"), ("T2", "T1c", "FLAIR", "T1")])
def test_every_modality_has_its_channel_whatever_the_order_of_files(order: tuple[str, ...]) -> None:
    model = MODEL.model_copy(update={"modalities": order})
    first, second = standard(["T2", "FLAIR"], model), standard(["FLAIR", "T2"], model)
    assert first.image.dtype == np.float32
    np.testing.assert_array_equal(first.image, second.image)
    for channel, name in enumerate(order):
        if name in ("FLAIR", "T2"):
            expected = rule(IMAGES[name], IMAGES[name] != 0).transpose(2, 1, 0)
            np.testing.assert_allclose(first.image[channel], expected, atol=1e-6)
        else:
            assert not first.image[channel].any()
    assert first.modalities.names == order
    assert first.subset == BRATS.subset(["FLAIR", "T2"])
    assert first.exists == tuple(name in ("FLAIR", "T2") for name in order)


def test_a_case_tells_where_it_lies() -> None:
    found = standard(["T1"])
    assert found.placement.method == "world"
    np.testing.assert_array_equal(found.grid.affine, np.array(TEMPLATE.affine))
    assert found.grid.shape == found.image.shape[1:] == TEMPLATE.shape
    assert found.brain == brain_box(found.image.any(axis=0))


def test_the_grid_follows_a_case_from_another_world() -> None:
    """The affine of the result leads to the case's own world, so that a segmentation comes back to it."""
    model = MODEL.model_copy(update={"grid": TEMPLATE.model_copy(update={"frames": ((1000, 0, -500),)})})
    moved = AFFINE.copy()
    moved[:3, 3] += 1000, 0, -500
    here, there = standard(["T1c"]), standardise(case({"T1c": IMAGES["T1c"]}, moved), model)
    assert there.placement.method == "frame"
    np.testing.assert_array_equal(there.image, here.image)
    np.testing.assert_array_equal(there.grid.affine[:3, 3] - here.grid.affine[:3, 3], [1000, 0, -500])


def test_the_brain_is_that_of_all_modalities_present() -> None:
    left, right = IMAGES["T1"].copy(), IMAGES["T2"].copy()
    left[12:], right[:8] = 0, 0
    both = standardise(case({"T1": left, "T2": right}), MODEL)
    alone = standardise(case({"T1": left}), MODEL)
    low, high = np.array(both.brain)
    assert ((high - low) >= np.ptp(np.array(alone.brain), axis=0)).all()
    assert both.brain == brain_box(both.image.any(axis=0)) != alone.brain


def test_one_modality_without_contrast_is_refused() -> None:
    flat = np.where(IMAGES["T2"] > 0, 9, 0).astype(np.float32)
    with pytest.raises(InputError) as caught:
        standardise(case({"T1": IMAGES["T1"], "T2": flat}), MODEL)
    assert caught.value.code == "no-contrast"


def test_a_brain_beside_the_template_is_refused() -> None:
    """Two far blobs, whose middle is empty: nothing is left on the template."""
    data = np.zeros((200, 8, 8), np.float32)
    data[:4] = data[-4:] = np.random.default_rng(0).uniform(1, 9, (4, 8, 8))
    with pytest.raises(InputError, match=r"case.*field of view") as caught:
        standardise(case({"T1": data}), MODEL)
    assert caught.value.code == "off-template"


def test_sequences_that_the_model_does_not_know_are_left_aside() -> None:
    from tiny import RECIPE

    images, _ = phantom()
    case = Case("phantom", BRATS, {name: Volume(data, AFFINE) for name, data in images.items()})
    model = RECIPE.model.model_copy(update={"modalities": ("T2", "FLAIR")})
    standard = standardise(case, model)
    assert standard.subset == model.modality_set.full
    assert len(standard.image) == 2
    with pytest.raises(InputError) as caught:
        standardise(case.only("T1"), model)
    assert caught.value.code == "no-sequence"
