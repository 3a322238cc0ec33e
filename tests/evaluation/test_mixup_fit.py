"""A mix-up rule fitted on made-up signs whose law is known, and on phantoms."""

from itertools import combinations

import numpy as np
import pytest

from m3ae_core.data.phantom import write_phantom
from m3ae_core.errors import InputError
from m3ae_core.evaluation.mixup import LEAST_CASES, fit_mixup, rule_of
from m3ae_core.inference.mixup import CAP
from m3ae_core.modalities import BRATS
from tiny import RECIPE

LEVELS = {"FLAIR": 3.0, "T1": 2.0, "T1c": 1.0, "T2": 0.0}
SETS, EXCHANGES = 11, {"pairs": 6, "triples": 12, "all": 6}  # of four sequences


def case(seed: int, names=BRATS.names, sign: int = 1) -> dict:
    """The first sign tells the order, the others are noise."""
    rng = np.random.default_rng(seed)
    return {
        (a, b): np.r_[sign * (LEVELS[a] - LEVELS[b]) + rng.normal(0, 0.1), rng.normal(size=3)]
        for a, b in combinations(names, 2)
    }


@pytest.fixture(scope="module")
def collections():
    return [[case(10 * group + i) for i in range(10)] for group in range(3)]


def test_the_law_is_found(collections):
    for pair in rule_of(collections).pairs.values():
        first, *noise = pair.weights
        assert first > 2 * max(map(abs, noise))
        assert first * 0.5 / pair.scale[0] > 0  # right where the first is the greater
        assert all(CAP * own > 0.5 for own in pair.scale)


def test_every_set_and_every_exchange_of_what_was_left_out_is_tried(collections):
    for left in rule_of(collections).left_out:
        assert (left.cases, left.correct, left.false) == (10, 10 * SETS, 0)
        assert left.swaps == left.found == dict.fromkeys(left.swaps, 40)  # each pair is in four sets
        assert sum(left.swaps.values()) == 10 * sum(EXCHANGES.values())


def test_a_collection_is_judged_by_the_others_alone(collections):
    """Were it fitted on itself too, the third would not be accused throughout."""
    turned = [case(seed, sign=-1) for seed in range(100, 140)]
    *_, left = rule_of([*collections[:2], turned]).left_out
    assert left.false == left.correct == 40 * SETS
    assert not rule_of([*collections[:2], turned]).is_trusted


def test_pairs_of_too_few_cases_have_no_rule():
    few = [case(seed, ("FLAIR", "T2")) for seed in range(LEAST_CASES - 1)]
    enough = [case(seed, ("T1", "T2")) for seed in range(LEAST_CASES)]
    assert set(rule_of([few, enough]).pairs) == {"T1+T2"}


def test_incomplete_cases_and_training_cases_will_do(tmp_path):
    collections = [
        [write_phantom(tmp_path, f"{kind}-{seed}", seed=seed, present=names) for seed in range(count)]
        for kind, names, count in (("a", ("FLAIR", "T2"), 9), ("b", BRATS.names, 2))
    ]
    *events, rule = fit_mixup(collections, RECIPE.model)
    assert [(event.done, event.total) for event in events] == [(i, 11) for i in range(11)]
    assert set(rule.pairs) == {"FLAIR+T2"}
    assert [left.correct for left in rule.left_out] == [9, 2 * SETS]


def test_one_collection_is_not_enough(tmp_path):
    with pytest.raises(InputError) as refused:
        list(fit_mixup([[write_phantom(tmp_path)]], RECIPE.model))
    assert refused.value.code == "too-few-collections"
