"""Cases are prepared once; a sample is a function of the seed and its number, whoever draws it."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader

from m3ae_core.config import GridConfig, InferenceConfig, ModelConfig, NetworkConfig
from m3ae_core.data import dataset
from m3ae_core.data.dataset import Crop, Samples, cache_case, crop, onto_foreground, random_start
from m3ae_core.data.phantom import AFFINE, phantom, write_phantom
from m3ae_core.data.preprocess import brain_box, standardise
from m3ae_core.errors import InputError
from m3ae_core.intensity import PreprocessConfig
from m3ae_core.io.case import CaseFiles, read_case
from m3ae_core.io.volume import read_volume, write_image, write_labels
from m3ae_core.regions import BRATS_2023, MSD, LabelScheme, encode
from m3ae_core.stage_config import PretrainConfig
from tiny import cached

#: The template that holds the voxels of a phantom of (20, 24, 16), turned to superior, posterior, left.
TEMPLATE = GridConfig(
    shape=(16, 24, 20), affine=((0, 0, -4, -25.5), (0, -4, 0, 229.5), (4, 0, 0, -1), (0, 0, 0, 1))
)
MODEL = ModelConfig(grid=TEMPLATE)


@pytest.fixture
def files(tmp_path: Path) -> CaseFiles:
    return write_phantom(tmp_path, "case", shape=(20, 24, 16))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    folder = tmp_path / "cache"
    folder.mkdir()
    return folder


# --- the cache -------------------------------------------------------------------------------------


def test_a_cached_case_holds_images_and_regions_on_the_template(files: CaseFiles, cache: Path) -> None:
    case = cache_case(files, MODEL, BRATS_2023, cache)
    _, labels = phantom((20, 24, 16))
    assert case.name == "case"
    assert case.image.dtype == np.float32
    assert case.regions.dtype == bool
    np.testing.assert_array_equal(case.image, standardise(read_case(files), MODEL).image)
    np.testing.assert_array_equal(case.regions, encode(labels.transpose(2, 1, 0), BRATS_2023))
    assert case.brain == brain_box(case.image.any(axis=0))


def test_regions_come_in_the_order_of_the_model(files: CaseFiles, cache: Path) -> None:
    model = MODEL.model_copy(update={"regions": ("ET", "WT"), "modalities": ("T2", "T1", "FLAIR", "T1c")})
    turned, usual = (cache_case(files, m, BRATS_2023, cache) for m in (model, MODEL))
    np.testing.assert_array_equal(turned.regions, usual.regions[[2, 0]])
    np.testing.assert_array_equal(turned.image, usual.image[[3, 1, 0, 2]])


def test_arrays_are_mapped_not_loaded(files: CaseFiles, cache: Path) -> None:
    for _ in range(2):
        case = cache_case(files, MODEL, BRATS_2023, cache)
        assert isinstance(case.image, np.memmap)
        assert isinstance(case.regions, np.memmap)
        assert not case.image.flags.writeable


def test_images_of_two_patients_are_not_trained_on(tmp_path: Path, cache: Path) -> None:
    files = write_phantom(tmp_path, "case")
    volume = read_volume(files.images["T2"])
    write_image(files.images["T2"], np.roll(volume.data, 12, axis=0), volume.affine)
    with pytest.raises(InputError) as caught:
        cache_case(files, MODEL, BRATS_2023, cache)
    assert caught.value.code == "two-patients"
    assert not cache.exists() or not list(cache.iterdir())


def test_a_case_is_read_once(files: CaseFiles, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = cache_case(files, MODEL, BRATS_2023, cache)
    monkeypatch.setattr(dataset, "read_case", None)  # to call it would be an error
    again = cache_case(files, MODEL, BRATS_2023, cache)
    np.testing.assert_array_equal(first.image, again.image)
    assert len(list(cache.iterdir())) == 2


def test_a_half_written_case_is_made_again(files: CaseFiles, cache: Path) -> None:
    cache_case(files, MODEL, BRATS_2023, cache)
    (regions,) = cache.glob("*-regions.npy")
    regions.unlink()
    assert cache_case(files, MODEL, BRATS_2023, cache).regions.any()


def test_the_key_is_the_content_not_the_path(files: CaseFiles, tmp_path: Path, cache: Path) -> None:
    cache_case(files, MODEL, BRATS_2023, cache)
    moved = write_phantom(tmp_path / "elsewhere", "other", shape=(20, 24, 16))
    assert cache_case(moved, MODEL, BRATS_2023, cache).name == "other"
    assert len(list(cache.iterdir())) == 2
    for seed in (1, 2):
        write_phantom(tmp_path, "case", shape=(20, 24, 16), seed=seed)
        cache_case(files, MODEL, BRATS_2023, cache)
        assert len(list(cache.iterdir())) == 2 + 2 * seed


def test_other_labels_are_another_case(files: CaseFiles, cache: Path) -> None:
    cache_case(files, MODEL, BRATS_2023, cache)
    assert files.labels is not None
    write_labels(files.labels, np.zeros((20, 24, 16), np.uint8), AFFINE)
    assert not cache_case(files, MODEL, BRATS_2023, cache).regions.any()


@pytest.mark.parametrize(
    "change",
    [
        {"preprocess": MODEL.preprocess.model_copy(update={"percentiles": (2, 98)})},
        {"preprocess": MODEL.preprocess.model_copy(update={"foreground": "positive"})},
        {"preprocess": PreprocessConfig(modalities={"T1": {"scale": "zscore"}})},
        {"grid": TEMPLATE.model_copy(update={"shape": (16, 24, 24)})},
        {"regions": ("WT", "TC")},
        {"modalities": ("T1", "FLAIR", "T1c", "T2")},
        {"modalities": ("FLAIR", "T1")},
    ],
    ids=["percentiles", "foreground", "one modality", "grid", "regions", "order", "fewer"],
)
def test_whatever_shapes_the_arrays_is_in_the_key(files: CaseFiles, cache: Path, change: dict) -> None:
    cache_case(files, MODEL, BRATS_2023, cache)
    cache_case(files, MODEL.model_copy(update=change), BRATS_2023, cache)
    assert len(list(cache.iterdir())) == 4


def test_the_label_scheme_is_in_the_key(files: CaseFiles, cache: Path) -> None:
    for schemes in ((BRATS_2023, MSD), [LabelScheme("ours", scheme.values) for scheme in (BRATS_2023, MSD)]):
        mine, other = (cache_case(files, MODEL, scheme, cache) for scheme in schemes)
        assert (mine.regions != other.regions).any()


def test_what_does_not_shape_the_arrays_is_not_in_the_key(files: CaseFiles, cache: Path) -> None:
    cache_case(files, MODEL, BRATS_2023, cache)
    other = {"network": NetworkConfig(base_channels=4, norm_groups=2), "preset": "mine"}
    inference = {"inference": InferenceConfig(window="brain")}
    cache_case(files, MODEL.model_copy(update=other | inference), BRATS_2023, cache)
    assert len(list(cache.iterdir())) == 2


def test_what_an_incomplete_case_lacks_is_known_and_zero(tmp_path: Path, cache: Path) -> None:
    files = write_phantom(tmp_path, "poor", shape=(20, 24, 16), present=("T1", "T2"))
    case = cache_case(files, MODEL, BRATS_2023, cache)
    assert case.exists == tuple(name in ("T1", "T2") for name in MODEL.modalities)
    assert tuple(case.image.any(axis=(1, 2, 3)).tolist()) == case.exists
    own = Samples([case], PretrainConfig(crop=(8, 8, 8), epochs=1), lambda crop, rng: crop.exists)
    assert tuple(own[0].tolist()) == case.exists


def test_a_case_with_none_of_the_sequences_is_refused(tmp_path: Path, cache: Path) -> None:
    files = write_phantom(tmp_path, "poor", shape=(20, 24, 16), present=("T1",))
    with pytest.raises(InputError) as caught:
        cache_case(files, MODEL.model_copy(update={"modalities": ("T2",)}), BRATS_2023, cache)
    assert caught.value.code == "no-sequence"


def test_labels_are_not_read_unless_asked_for(files: CaseFiles, cache: Path) -> None:
    bare = cache_case(CaseFiles(files.name, files.images, None), MODEL, BRATS_2023, cache, labelled=False)
    wrong = replace(files, labels=files.images["T1"])
    again = cache_case(wrong, MODEL, BRATS_2023, cache, labelled=False)
    assert bare == again
    assert bare.regions.shape == (0, *bare.image.shape[1:])
    np.testing.assert_array_equal(bare.image, cache_case(files, MODEL, BRATS_2023, cache).image)


def test_cases_without_labels_are_refused(files: CaseFiles, cache: Path) -> None:
    with pytest.raises(InputError, match="case") as caught:
        cache_case(CaseFiles(files.name, files.images, None), MODEL, BRATS_2023, cache)
    assert caught.value.code == "no-labels"
    assert not list(cache.iterdir())


def test_labels_on_another_grid_are_refused(files: CaseFiles, cache: Path) -> None:
    assert files.labels is not None
    moved = AFFINE.copy()
    moved[0, 3] += 4
    write_labels(files.labels, np.zeros((20, 24, 16), np.uint8), moved)
    with pytest.raises(InputError) as caught:
        cache_case(files, MODEL, BRATS_2023, cache)
    assert caught.value.code == "grids-differ"


# --- where a crop starts ---------------------------------------------------------------------------


@st.composite
def boxes(draw: st.DrawFn) -> tuple[list[int], list[int], list[int], list[int]]:
    """The brain box (low, high), the crop and the template, axis by axis."""
    limits = [draw(st.integers(1, 30)) for _ in range(3)]
    low = [draw(st.integers(0, limit - 1)) for limit in limits]
    high = [draw(st.integers(first + 1, limit)) for first, limit in zip(low, limits, strict=True)]
    sides = [draw(st.integers(1, 40)) for _ in range(3)]
    return low, high, sides, limits


@given(boxes(), st.integers(0, 2**32))
def test_a_crop_stays_on_the_template_and_about_the_brain(box, seed: int) -> None:
    lows, highs, sides, limits = box
    start = random_start(np.random.default_rng(seed), (lows, highs), sides, limits)
    for first, low, high, side, limit in zip(start, lows, highs, sides, limits, strict=True):
        if side <= limit:
            assert 0 <= first <= limit - side
        else:  # it overhangs, but holds the whole template
            assert limit - side <= first <= 0
        if side <= high - low:
            assert low <= first <= high - side
        else:
            assert first <= low
            assert first + side >= high


def test_every_place_about_the_brain_is_drawn() -> None:
    rng, brain = np.random.default_rng(0), ((2, 5, 0), (10, 8, 20))
    starts = np.array([random_start(rng, brain, (4, 8, 20), (20, 20, 16)) for _ in range(500)])
    assert set(starts[:, 0]) == set(range(2, 7))  # a crop within the brain
    assert set(starts[:, 1]) == set(range(6))  # a crop around the brain
    assert set(starts[:, 2]) <= {-4, 0}  # a crop larger than the template


@given(
    st.integers(0, 2**32),
    st.tuples(*[st.integers(-9, 9)] * 3),
    st.tuples(*[st.integers(1, 9)] * 3),
    st.lists(st.tuples(st.integers(0, 2), *[st.integers(0, 6)] * 3), max_size=4),
)
def test_a_crop_is_moved_onto_the_foreground_and_no_further(seed: int, start, size, voxels) -> None:
    regions = np.zeros((3, 7, 7, 7), bool)
    for voxel in voxels:
        regions[voxel] = True
    moved = onto_foreground(np.random.default_rng(seed), regions, start, size)
    if not voxels:
        assert moved == start
        return
    assert crop(regions, moved, size).any()
    nearest = {
        tuple(min(max(s, v - n + 1), v) for s, v, n in zip(start, voxel[1:], size, strict=True))
        for voxel in voxels
    }
    assert moved in nearest  # clamped axis by axis onto one of the voxels: no axis moves more than it must
    if crop(regions, start, size).sum() == regions.sum():
        assert moved == start


def test_every_region_that_is_there_is_drawn_alike() -> None:
    """A region of one voxel as often as one of a hundred; an empty one never."""
    regions = np.zeros((3, 20, 20, 20), bool)
    regions[0, :5, :5, :4] = True
    regions[2, 19, 19, 19] = True
    rng = np.random.default_rng(0)
    ends = [onto_foreground(rng, regions, (0, 0, 0), (1, 1, 1)) for _ in range(600)]
    assert np.mean([end == (19, 19, 19) for end in ends]) == pytest.approx(0.5, abs=0.08)
    assert len(set(ends)) > 80


# --- crops -----------------------------------------------------------------------------------------


@given(st.tuples(*[st.integers(-12, 12)] * 3), st.tuples(*[st.integers(1, 9)] * 3))
def test_a_crop_is_zero_outside(start: tuple[int, int, int], size: tuple[int, int, int]) -> None:
    array = np.random.default_rng(0).integers(1, 99, (2, 4, 5, 6))
    padded = np.pad(array, [(0, 0), *[(24, 24)] * 3])
    where = tuple(slice(24 + first, 24 + first + side) for first, side in zip(start, size, strict=True))
    result = crop(array, start, size)
    assert result.dtype == array.dtype
    np.testing.assert_array_equal(result, padded[(slice(None), *where)])


def test_a_crop_is_a_copy() -> None:
    array = np.ones((1, 4, 4, 4))
    crop(array, (0, 0, 0), (4, 4, 4))[...] = 0
    assert array.all()


# --- samples ---------------------------------------------------------------------------------------


class Drawn(NamedTuple):
    image: Tensor
    regions: Tensor
    start: tuple[int, ...]
    number: float


def keep(drawn: Crop, rng: np.random.Generator) -> Drawn:
    return Drawn(drawn.image, drawn.regions, drawn.start, rng.random())


@pytest.fixture
def samples(tmp_path: Path) -> Callable[..., Samples[Drawn]]:
    return partial(make_samples, tmp_path)


def make_samples(
    folder: Path, count: int = 3, epochs: int = 4, seed: int = 0, **stage: object
) -> Samples[Drawn]:
    """Cases whose every voxel says which case, modality or region, and place it is."""
    cases = []
    for number in range(count):
        image = np.arange(2 * 12**3, dtype=np.float32).reshape(2, 12, 12, 12) + 10_000 * (number + 1)
        brain = ((1, 2, 0), (11, 9, 12))
        cases.append(cached(folder, f"case-{number}", image, image[:1] % 2 == 0, brain))
    return Samples(cases, PretrainConfig(crop=(8, 8, 16), epochs=epochs, seed=seed, **stage), keep)


def case_of(sample: Drawn) -> int:
    return int(sample.image.max() // 10_000) - 1


def equal(first: Drawn, second: Drawn) -> bool:
    same = torch.equal(first.image, second.image) and torch.equal(first.regions, second.regions)
    return same and first.start == second.start and first.number == second.number


def test_a_sample_is_its_crop_of_image_and_regions(samples: Callable[..., Samples[Drawn]]) -> None:
    own = samples()
    for number in range(len(own)):
        sample = own[number]
        case = own.cases[case_of(sample)]
        np.testing.assert_array_equal(sample.image, crop(case.image, sample.start, (8, 8, 16)))
        np.testing.assert_array_equal(sample.regions, crop(case.regions, sample.start, (8, 8, 16)))


def test_every_epoch_visits_every_case_once_in_an_order_of_its_own(
    samples: Callable[..., Samples[Drawn]],
) -> None:
    own = samples(count=5, epochs=8)
    assert len(own) == 40
    visits = np.array([case_of(own[number]) for number in range(40)]).reshape(8, 5)
    np.testing.assert_array_equal(np.sort(visits, axis=1), np.broadcast_to(np.arange(5), (8, 5)))
    assert len(np.unique(visits, axis=0)) > 4


def test_a_sample_is_a_function_of_seed_and_number(samples: Callable[..., Samples[Drawn]]) -> None:
    """Whatever was drawn before, and however many epochs there are to be."""
    forwards, backwards = samples(), samples(epochs=9)
    there = [forwards[number] for number in range(len(forwards))]
    back = [backwards[number] for number in reversed(range(len(forwards)))][::-1]
    assert all(equal(a, b) for a, b in zip(there, back, strict=True))
    np.random.default_rng(0).random()
    other = samples(seed=1)
    assert not any(there[number].number == other[number].number for number in range(len(other)))


def test_an_augmented_sample_is_a_function_of_its_number(samples: Callable[..., Samples[Drawn]]) -> None:
    """MONAI's transforms keep a state of their own; nothing of it may reach the next sample."""
    own = samples(nnunet=True, foreground=0.5)
    there = [own[number] for number in range(len(own))]
    back = [own[number] for number in reversed(range(len(own)))][::-1]
    assert all(equal(a, b) for a, b in zip(there, back, strict=True))
    plain = samples()
    assert not any(torch.equal(there[number].image, plain[number].image) for number in range(len(own)))
    assert {type(tensor) for sample in there for tensor in sample[:2]} == {Tensor}  # none of MONAI's own
    assert {(sample.image.dtype, sample.regions.dtype) for sample in there} == {(torch.float32, torch.bool)}


def test_foreground_is_the_share_of_crops_that_hold_tumour(tmp_path: Path) -> None:
    """Half of the crops are moved; of the others 14 × 1 × 1 of 343 positions hold the single tumour voxel."""
    image, regions = np.ones((1, 20, 20, 20), np.float32), np.zeros((1, 20, 20, 20), bool)
    regions[0, 10, 0, 19] = True
    case = cached(tmp_path, "case", image, regions, ((0, 0, 0), (20, 20, 20)))
    for share, bounds in ((0.0, (0, 0.1)), (0.5, (0.4, 0.6)), (1.0, (1, 1))):
        stage = PretrainConfig(crop=(8, 8, 8), epochs=300, foreground=share)
        own = Samples([case], stage, keep)
        hit = np.mean([own[number].regions.any().item() for number in range(300)])
        assert bounds[0] <= hit <= bounds[1]


def test_a_case_travels_to_workers_as_paths(samples: Callable[..., Samples[Drawn]]) -> None:
    case = samples().cases[0]
    assert case.image.nbytes > 10_000
    assert len(pickle.dumps(case)) < 2_000
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(case)).image, case.image)


def test_no_two_samples_share_their_randomness(samples: Callable[..., Samples[Drawn]]) -> None:
    own = samples(count=4, epochs=10)
    assert len({own[number].number for number in range(len(own))}) == len(own)


@pytest.mark.parametrize("options", [{}, {"nnunet": True, "foreground": 0.5}], ids=["plain", "nnunet"])
def test_the_number_of_workers_does_not_matter(
    samples: Callable[..., Samples[Drawn]], options: dict[str, object]
) -> None:
    own = samples(epochs=2, **options)
    alone, shared = (
        [sample for batch in DataLoader(own, 2, num_workers=n, collate_fn=list) for sample in batch]
        for n in (0, 2)
    )
    assert len(alone) == len(own)
    assert all(equal(a, b) for a, b in zip(alone, shared, strict=True))
