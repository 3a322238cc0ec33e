"""Two sequences exchanged: what a rule on a card says, on the built-in case and on made-up signs."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from m3ae_core.bundle import load_bundle
from m3ae_core.data.builtin import builtin_bundle, builtin_case
from m3ae_core.data.preprocess import StandardCase, standardise
from m3ae_core.errors import BundleError
from m3ae_core.inference.contrast import exchanged
from m3ae_core.inference.mixup import DOUBT, KEY, LeftOut, MixupRule, PairRule, find_mixup
from m3ae_core.io.case import read_case
from m3ae_core.modalities import BRATS

PAIRS = list(combinations(BRATS.names, 2))
LEFT = LeftOut(cases=4, false=1, correct=44, found={"T1+T1c": 14}, swaps={"T1+T1c": 16})


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


def turned(standard: StandardCase, first: str, second: str) -> StandardCase:
    image, i, j = standard.image.copy(), BRATS.names.index(first), BRATS.names.index(second)
    image[[i, j]] = image[[j, i]]
    return replace(standard, image=image)


def with_rule(bundle, rule):
    return replace(bundle, card=bundle.card | {KEY: rule})


def rule(left_out=(LEFT,)) -> MixupRule:
    """The log odds are the first sign."""
    own = PairRule(scale=(1, 1, 1, 1), weights=(1, 0, 0, 0))
    return MixupRule(pairs={"+".join(pair): own for pair in PAIRS}, left_out=left_out)


def signs(levels: dict[str, float]) -> dict:
    """Signs that are differences of levels, so that all is right where the levels fall."""
    return {(a, b): np.array([levels[a] - levels[b], 9, 9, 9]) for a, b in combinations(levels, 2)}


FALLING = {"FLAIR": 3.0, "T1": 2.0, "T1c": 1.0, "T2": 0.0}


def test_the_built_in_case_is_not_accused(standard, bundle):
    for size in (2, 3, 4):
        for names in combinations(BRATS.names, size):
            assert find_mixup(only(standard, *names), bundle) is None


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_an_exchange_in_the_built_in_case_is_named_with_the_rates_of_its_kind(
    standard, bundle, first, second
):
    said = find_mixup(turned(standard, first, second), bundle)
    assert said is not None
    assert said.startswith(f"{first} and {second} may be mixed up")
    left, key = bundle.card[KEY]["left_out"], f"{first}+{second}"
    found, swaps = (sum(own[kind][key] for own in left) for kind in ("found", "swaps"))
    assert f"found {found} of {swaps} such exchanges" in said
    assert (
        f"{sum(own['false'] for own in left)} false alarms in {sum(own['correct'] for own in left)} " in said
    )


def test_one_sequence_tells_nothing(standard, bundle):
    assert find_mixup(only(standard, "T1"), bundle) is None


def test_no_alarm_without_a_rule_that_is_trusted(standard, bundle):
    exchange, own = turned(standard, "FLAIR", "T2"), bundle.card[KEY]
    assert find_mixup(exchange, with_rule(bundle, own)) is not None
    assert find_mixup(exchange, with_rule(bundle, None)) is None
    worse = {**own["left_out"][0], "false": own["left_out"][0]["correct"] // 20 + 1}
    assert find_mixup(exchange, with_rule(bundle, own | {"left_out": [worse]})) is None


def test_a_damaged_rule_is_told(standard, bundle):
    with pytest.raises(BundleError) as refused:
        find_mixup(standard, with_rule(bundle, {"pairs": 3}))
    assert refused.value.code == "mixup"


def test_any_two_in_doubt_give_the_alarm_and_the_likeliest_exchange_is_named():
    assert rule().accused(signs(FALLING)) is None
    for pair in PAIRS:
        assert rule().accused(exchanged(signs(FALLING), pair)) == pair


def test_doubt_must_be_twice_as_likely():
    for level, accused in ((DOUBT - 0.01, None), (DOUBT + 0.01, ("T1", "T2"))):
        assert rule().accused(signs({"T1": 0.0, "T2": level})) == accused


def test_pairs_that_the_rule_does_not_know_are_not_judged():
    known = MixupRule(pairs={"T1+T2": rule().pairs["T1+T2"]}, left_out=(LEFT,))
    assert known.accused(exchanged(signs({"FLAIR": 1, "T2": 0}), ("FLAIR", "T2"))) is None
    assert known.accused(exchanged(signs({"FLAIR": 9, "T1": 1, "T2": 0}), ("T1", "T2"))) == ("T1", "T2")


def test_rates_are_added_over_the_collections():
    said = rule((LEFT, LEFT)).rates(("T1", "T1c"))
    assert "On 8 cases of 2 collections" in said
    assert "found 28 of 32 such exchanges, with 2 false alarms in 88 correct sets" in said


@pytest.mark.parametrize(("false", "trusted"), [(2, True), (3, False)])  # of 44: 4.5 and 6.8 %
def test_a_single_collection_with_too_many_false_alarms_turns_the_alarm_off(false, trusted):
    other = LEFT.model_copy(update={"false": false})
    assert rule((LEFT, other)).is_trusted == trusted
