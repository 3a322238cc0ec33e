"""Lesion transplants: what comes along, what stays, and who can give."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from m3ae_core.data.dataset import Crop, Samples
from m3ae_core.data.transplant import MARGIN, can_give, transplant
from m3ae_core.stage_config import FinetuneConfig
from tiny import cached

SHAPE = (12, 12, 12)


def content(value: float, lesion: slice) -> tuple[np.ndarray, np.ndarray]:
    """Two modalities of one value inside a brain, a lesion of one region in it."""
    image = np.zeros((2, *SHAPE), np.float32)
    image[:, 1:-1, 1:-1, 1:-1] = value
    regions = np.zeros((1, *SHAPE), bool)
    regions[0, lesion, lesion, lesion] = True
    return image, regions


def test_the_lesion_comes_with_its_labels_and_the_rest_stays() -> None:
    case, donor = content(1, slice(2, 4)), content(2, slice(6, 9))
    for seed in range(8):
        image, regions = transplant(np.random.default_rng(seed), case, donor)
        assert (image[:, donor[1][0]] == 2).all()
        assert (regions[0, 6:9, 6:9, 6:9]).all()
        changed = (image != case[0]).any(axis=0)
        assert regions[0][~changed].sum() == case[1].sum()
        lowest = np.argwhere(changed).min(0)
        assert (lowest >= 6 - MARGIN).all()
        assert not image[:, ~case[0].any(axis=0)].any()


def test_margins_differ() -> None:
    case, donor = content(1, slice(2, 4)), content(2, slice(6, 9))
    sizes = {int((transplant(np.random.default_rng(s), case, donor)[0] == 2).sum()) for s in range(20)}
    assert len(sizes) == MARGIN + 1


def test_what_the_case_does_not_have_stays_empty() -> None:
    case, donor = content(1, slice(2, 4)), content(2, slice(6, 9))
    case[0][1] = 0
    image, _ = transplant(np.random.default_rng(0), case, donor)
    assert (image[0] == 2).any()
    assert not image[1].any()


@pytest.mark.parametrize(
    ("exists", "lesion", "able"),
    [((True, True), True, True), ((True, False), True, False), ((True, True), False, False)],
)
def test_who_can_give(exists: tuple[bool, bool], lesion: bool, able: bool) -> None:
    regions = np.full((1, *SHAPE), lesion)
    assert can_give(exists, (True, True), regions) is able
    assert can_give(exists, (True, False), regions) is lesion


def test_samples_get_lesions_of_cases_whose_labels_count_as_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = ((0, 0, 0), SHAPE)
    one = cached(tmp_path, "one", *content(1, slice(2, 4)), box)
    two = cached(tmp_path, "two", *content(2, slice(6, 9)), box)
    given: list[tuple[float, float]] = []

    def record(rng, case, donor):  # type: ignore[no-untyped-def]
        given.append((case[0].max(), donor[0].max()))
        return transplant(rng, case, donor)

    monkeypatch.setattr("m3ae_core.data.dataset.transplant", record)
    config = FinetuneConfig(crop=(8, 8, 8), epochs=20, transplant=0.5)
    samples = Samples([one, two], config, lambda crop, rng: crop)
    drawn: list[Crop] = [samples[n] for n in range(40)]
    assert 10 < len(given) < 30
    assert (1, 2) in given
    again = samples[7]
    torch.testing.assert_close(again.image, drawn[7].image)
    given.clear()
    weak = Samples([one, replace(two, weight=0.3)], config, lambda crop, rng: crop)
    for n in range(40):
        weak[n]
    assert (1, 2) not in given
    assert (2, 1) in given
