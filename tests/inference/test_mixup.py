"""Two sequences exchanged: the model's own answer decides, on the built-in case and by algebra on a known network."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from m3ae_core.bundle import load_bundle
from m3ae_core.data.builtin import builtin_bundle, builtin_case
from m3ae_core.data.case import read_case
from m3ae_core.data.preprocess import StandardCase, standardise
from m3ae_core.inference.mixup import CLOSE, RATES, Rates, find_mixup, swap_gains
from m3ae_core.modalities import BRATS
from tiny import random_bundle


@pytest.fixture(scope="module")
def bundle():
    return load_bundle(builtin_bundle())


@pytest.fixture(scope="module")
def standard(bundle) -> StandardCase:
    return standardise(read_case(builtin_case()), bundle.config)


def only(standard: StandardCase, *names: str) -> StandardCase:
    """The case with these sequences alone."""
    image = standard.image.copy()
    image[[name not in names for name in BRATS.names]] = 0
    return replace(standard, image=image, subset=BRATS.subset(names))


def exchanged(standard: StandardCase, first: str, second: str) -> StandardCase:
    image, i, j = standard.image.copy(), BRATS.names.index(first), BRATS.names.index(second)
    image[[i, j]] = image[[j, i]]
    return replace(standard, image=image)


class Linear(nn.Module):
    """Every sequence is told as a known multiple of each that is seen; counts the voxels of what it is shown."""

    def __init__(self, factors: Tensor) -> None:
        super().__init__()
        self.factors, self.shown = factors, []

    def forward(self, filled: Tensor) -> Tensor:
        self.shown += [filled[0, 0].numel()] * len(filled)
        return torch.einsum("ts,bsdhw->btdhw", self.factors, filled)


def linear_case(factors: np.ndarray, levels: np.ndarray):
    """A model without a substitute, and a case whose sequences are even within the template."""
    bundle = random_bundle()
    network = Linear(torch.tensor(factors, dtype=torch.float32))
    bundle = replace(bundle, autoencoder=network, substitute=torch.zeros_like(bundle.substitute))
    image = np.ones((4, *bundle.config.grid.shape), np.float32) * levels[:, None, None, None]
    empty = standardise(read_case(builtin_case()), bundle.config)
    return replace(empty, image=image.astype(np.float32)), bundle, network


@pytest.fixture
def rates(bundle, monkeypatch) -> Rates:
    """The alarm is on, as if it had been measured."""
    own = Rates(5, 30, 30, 0, 55)
    monkeypatch.setitem(RATES, bundle.sha256, own)
    return own


def test_the_built_in_case_is_not_accused(standard, bundle, rates):
    assert find_mixup(standard, bundle) is None


def test_the_built_in_model_accuses_nobody(standard, bundle):
    """Its false alarms on other collections are too many."""
    swapped = exchanged(only(standard, "FLAIR", "T2"), "FLAIR", "T2")
    assert find_mixup(swapped, bundle) is None


@pytest.mark.parametrize(("first", "second"), [("T1", "T1c"), ("FLAIR", "T2")])
def test_a_swap_is_named_with_its_rates(standard, bundle, rates, first, second):
    said = find_mixup(exchanged(only(standard, first, second), first, second), bundle)
    assert said is not None
    assert said.startswith(f"{first} and {second} ")
    assert f"{rates.flagged} of {rates.swaps} swaps" in said
    assert f"{rates.false} false alarms in {rates.correct} " in said


def test_exchanging_twice_is_as_it_was(standard, bundle):
    """What exchanging gains, exchanging back loses: errors (1 - gain) multiply to 1."""
    pair = only(standard, "FLAIR", "T2")
    (there,), (back,) = (swap_gains(x, bundle).values() for x in (pair, exchanged(pair, "FLAIR", "T2")))
    assert (1 - there) * (1 - back) == pytest.approx(1, abs=1e-4)


def test_one_sequence_tells_nothing(standard, bundle):
    assert swap_gains(only(standard, "T1"), bundle) == {}
    assert find_mixup(only(standard, "T1"), bundle) is None


def test_no_alarm_whose_rates_are_unknown(standard, bundle, rates):
    swapped = exchanged(only(standard, "FLAIR", "T2"), "FLAIR", "T2")
    assert find_mixup(swapped, replace(bundle, sha256="another")) is None
    assert find_mixup(swapped, replace(bundle, autoencoder=None)) is None


def test_gains_are_those_of_the_definition():
    factors, levels = np.random.default_rng(0).uniform(0.5, 2, (4, 4)), np.array([1.0, 1.5, 2.0, 2.5])
    standard, bundle, _ = linear_case(factors, levels)
    gains = swap_gains(standard, bundle)
    assert set(gains) == set(combinations(BRATS.names, 2))
    for pair, gain in gains.items():
        i, j = (BRATS.names.index(name) for name in pair)
        given = (factors[j, i] * levels[i] - levels[j]) ** 2 + (factors[i, j] * levels[j] - levels[i]) ** 2
        turned = (factors[i, j] * levels[i] - levels[j]) ** 2 + (factors[j, i] * levels[j] - levels[i]) ** 2
        assert gain == pytest.approx(1 - turned / given, rel=1e-4, abs=1e-5)


def test_full_resolution_is_for_what_is_not_clear():
    clear = np.ones((4, 4)) + np.triu(np.full((4, 4), 0.5))
    standard, bundle, network = linear_case(clear, np.array([1.0, 1.5, 2.0, 2.5]))
    gains = swap_gains(standard, bundle)
    full = int(np.prod(bundle.config.grid.shape))
    close = [gain for gain in gains.values() if abs(gain) < CLOSE]
    assert not close
    assert full not in network.shown
    standard, bundle, network = linear_case(np.ones((4, 4)), np.array([1.0, 1.5, 2.0, 2.5]))
    assert set(swap_gains(standard, bundle).values()) == {0.0}
    assert network.shown.count(full) == 16


def test_a_perfect_reconstruction_is_no_mix_up():
    levels = np.array([1.0, 2.0, 4.0, 8.0])
    standard, bundle, _ = linear_case(levels[:, None] / levels, levels)
    assert max(swap_gains(standard, bundle).values()) <= 0
