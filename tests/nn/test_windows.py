"""Sliding windows: every voxel is seen, and the mean of the logits is that of a plain loop."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from m3ae_core.config import InferenceConfig
from m3ae_core.nn.windows import (
    NO_BRAIN,
    Extent,
    pad_to,
    sliding_logits,
    whole_logits,
    window_starts,
)
from tiny import filling

SHAPES = st.tuples(*[st.integers(1, 9)] * 3)
OVERLAPS = st.sampled_from([0.0, 0.25, 0.5, 0.75])


def brain_of(filled: Tensor) -> Tensor:
    return torch.ones(filled.shape[1:], dtype=torch.bool)


def last(filled: Tensor, network, size: tuple[int, int, int], overlap: float) -> Tensor:
    *_, (_, _, logits) = sliding_logits(network, filled[None], brain_of(filled), size, overlap)
    assert logits is not None
    return logits[0]


def moody(window: Tensor) -> Tensor:
    """Answers that depend on the place within the window and on all of its content, as a network's do."""
    ramp = torch.arange(window[0, 0].numel(), dtype=window.dtype).reshape(window.shape[2:])
    first = window[:, :1] * ramp + window.mean()
    return torch.cat([first, window[:, -1:] - ramp, ramp[None, None]], dim=1)


# --- where windows start ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "side", "overlap", "starts"),
    [
        (240, 128, 0.5, [0, 64, 112]),
        (155, 128, 0.5, [0, 27]),
        (128, 128, 0.5, [0]),
        (129, 128, 0.5, [0, 1]),
        (256, 128, 0.0, [0, 128]),
        (16, 8, 0.75, [0, 2, 4, 6, 8]),
        (5, 1, 0.9, [0, 1, 2, 3, 4]),
    ],
)
def test_starts_by_hand(length: int, side: int, overlap: float, starts: list[int]) -> None:
    assert window_starts(length, side, overlap) == starts


def test_an_uncropped_brats_image_takes_18_windows() -> None:
    """As many as the released evaluation computes."""
    assert np.prod([len(window_starts(side, 128, 0.5)) for side in (155, 240, 240)]) == 18


@given(st.integers(1, 60), st.integers(0, 100), OVERLAPS)
def test_windows_cover_everything_and_the_last_is_flush(side: int, more: int, overlap: float) -> None:
    length = side + more
    starts = window_starts(length, side, overlap)
    assert starts[0] == 0
    assert starts[-1] == length - side
    steps = np.diff(starts)
    assert (steps > 0).all()
    assert (steps <= max(1, side * (1 - overlap))).all()
    assert len(set(steps[:-1])) <= 1


# --- padding ---------------------------------------------------------------------------------------


@given(SHAPES, SHAPES)
def test_padding_is_symmetric(have: tuple[int, int, int], want: tuple[int, int, int]) -> None:
    x = torch.from_numpy(np.random.default_rng(0).uniform(1, 2, (2, *have)))
    padded, before = pad_to(x, want)
    extra = [max(0, w - h) for w, h in zip(want, have, strict=True)]
    assert list(before) == [both // 2 for both in extra]
    pads = [(low, both - low) for low, both in zip(before, extra, strict=True)]
    np.testing.assert_array_equal(padded, np.pad(x, [(0, 0), *pads]))


# --- averaging -------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(SHAPES, st.data(), OVERLAPS)
def test_the_mean_is_that_of_a_plain_loop(
    shape: tuple[int, int, int], data: st.DataObject, overlap: float
) -> None:
    size = tuple(data.draw(st.integers(max(1, side // 2), side)) for side in shape)
    filled = torch.from_numpy(np.random.default_rng(0).standard_normal((2, *shape)))
    total, count = np.zeros((3, *shape)), np.zeros(shape)
    axes = [window_starts(length, side, overlap) for length, side in zip(shape, size, strict=True)]
    for d, h, w in product(*axes):
        window = filled[:, d : d + size[0], h : h + size[1], w : w + size[2]]
        total[:, d : d + size[0], h : h + size[1], w : w + size[2]] += moody(window[None])[0].numpy()
        count[d : d + size[0], h : h + size[1], w : w + size[2]] += 1
    assert (count > 0).all()
    np.testing.assert_allclose(last(filled, moody, size, overlap), total / count)


@settings(max_examples=40)
@given(SHAPES, st.data(), OVERLAPS)
def test_what_every_window_agrees_on_stays(
    shape: tuple[int, int, int], data: st.DataObject, overlap: float
) -> None:
    size = tuple(data.draw(st.integers(max(1, side // 2), side)) for side in shape)
    filled = torch.from_numpy(np.random.default_rng(0).standard_normal((1, *shape)))
    constant = last(filled, lambda x: torch.full_like(x, 0.1), size, overlap)
    torch.testing.assert_close(constant, torch.full_like(filled, 0.1))
    pointwise = last(filled, lambda x: 3 * x - 1, size, overlap)
    torch.testing.assert_close(pointwise, 3 * filled - 1)


def test_one_window_is_the_network_itself() -> None:
    filled = torch.randn(2, 8, 16, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(last(filled, moody, (8, 16, 8), 0.5), moody(filled[None])[0])


def test_progress_counts_windows_and_the_result_comes_last() -> None:
    filled = torch.zeros(1, 8, 12, 8)
    shapes = []

    def network(x: Tensor) -> Tensor:
        shapes.append(tuple(x.shape))
        return x

    events = list(sliding_logits(network, filled[None], brain_of(filled), (8, 8, 4), 0.5))
    assert [(done, total) for done, total, _ in events] == [(n, 6) for n in range(1, 7)]
    assert [logits is None for *_, logits in events] == [True] * 5 + [False]
    assert set(shapes) == {(1, 1, 8, 8, 4)}


def test_windows_are_computed_as_they_are_asked_for() -> None:
    """To stop asking is to cancel: no window is computed ahead."""
    calls: list[int] = []
    image = torch.zeros(1, 8, 8, 8)
    windows = sliding_logits(lambda x: calls.append(1) or x, image[None], brain_of(image), (4, 4, 4), 0.0)
    next(windows)
    next(windows)
    assert len(calls) == 2


@pytest.mark.parametrize("window", ["template", (8, 8, 8)])
def test_mirroring_averages_both_sides(window):
    """A network that answers with how far to the left a voxel lies in its window answers alike everywhere."""

    def marks(x: Tensor) -> Tensor:
        return torch.arange(8.0).expand(len(x), 1, 8, 8, 8)

    substitute = torch.zeros(2, 8, 8, 8)
    image, missing = torch.ones(2, 8, 8, 8), torch.zeros(2, dtype=torch.bool)
    extent = Extent((0, 0, 0), (8, 8, 8))
    for mirror, expected in ((False, torch.arange(8.0)), (True, torch.full((8,), 3.5))):
        config = InferenceConfig(window=window, mirror=mirror)
        [(done, total, logits)] = whole_logits(marks, filling(substitute, missing), image, extent, config)
        assert (done, total) == (1, 1)  # both in one batch
        torch.testing.assert_close(logits[0, 0, 0], expected)


def test_what_is_filled_in_is_mirrored_with_the_image():
    """A network that copies its input gives the filled image back, mirrored or not."""
    substitute = torch.rand(2, 8, 8, 8)
    image, missing = torch.rand(2, 8, 8, 8), torch.tensor([False, True])
    config = InferenceConfig(window="template", mirror=True)
    extent = Extent((0, 0, 0), (8, 8, 8))
    *_, (_, _, logits) = whole_logits(lambda x: x, filling(substitute, missing), image, extent, config)
    torch.testing.assert_close(logits, torch.stack([image[0], substitute[1]]))


# --- windows without brain -------------------------------------------------------------------------


@settings(max_examples=40)
@given(SHAPES, st.data(), OVERLAPS)
def test_windows_without_brain_are_skipped_and_no_answer_in_the_brain_changes(
    shape: tuple[int, int, int], data: st.DataObject, overlap: float
) -> None:
    size = tuple(data.draw(st.integers(max(1, side // 2), side)) for side in shape)
    generator = np.random.default_rng(data.draw(st.integers(0, 99)))
    filled = torch.from_numpy(generator.standard_normal((2, *shape)))
    brain = torch.zeros(shape, dtype=torch.bool)
    brain[tuple(generator.integers(side) for side in shape)] = True
    calls: list[int] = []

    def counted(x: Tensor) -> Tensor:
        calls.append(1)
        return moody(x)

    *_, (done, total, logits) = sliding_logits(counted, filled[None], brain, size, overlap)
    assert done == total == len(calls)
    every = last(filled, moody, size, overlap)
    torch.testing.assert_close(logits[0][:, brain], every[:, brain])
    known = logits[0] != NO_BRAIN
    assert known[:, brain].all()
    if size != shape:
        axes = [window_starts(length, side, overlap) for length, side in zip(shape, size, strict=True)]
        assert len(calls) < np.prod([len(starts) for starts in axes]) or known.all()


def test_without_any_brain_one_window_is_computed() -> None:
    brain = torch.zeros(8, 8, 8, dtype=torch.bool)
    events = list(sliding_logits(lambda x: x, torch.ones(1, 1, 8, 8, 8), brain, (4, 4, 4), 0.0))
    assert [(done, total) for done, total, _ in events] == [(1, 1)]
    assert (events[0][2] == NO_BRAIN).sum() == 7 * 4**3


def test_the_brain_is_where_a_given_sequence_is_not_zero() -> None:
    """The substitute is nowhere zero, and is no brain."""
    image, missing = torch.zeros(2, 8, 8, 16), torch.tensor([False, True])
    image[0, :, :, 12:] = 1
    substitute = torch.ones(2, 8, 8, 16)
    config, extent = InferenceConfig(window=(8, 8, 8), overlap=0), Extent((0, 0, 0), (8, 8, 16))
    for mirror, windows in ((False, 1), (True, 2)):
        config = config.model_copy(update={"mirror": mirror})
        events = list(whole_logits(lambda x: x, filling(substitute, missing), image, extent, config))
        assert len(events) == windows
