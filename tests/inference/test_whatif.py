"""How results from fewer sequences differ: by hand, by the algebra of Shapley values, with a predictor that counts."""

from dataclasses import replace
from itertools import chain, permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3ae_core.data.phantom import AFFINE, phantom
from m3ae_core.errors import InputError
from m3ae_core.evaluation.metrics import dice_by_region
from m3ae_core.events import Progress
from m3ae_core.inference.predictor import Prediction, Predictor
from m3ae_core.inference.whatif import (
    Difference,
    SubsetDone,
    agreement,
    compare,
    contributions,
    difference_map,
    sweep,
)
from m3ae_core.io.case import Case
from m3ae_core.io.volume import Volume
from m3ae_core.modalities import BRATS, ModalitySet, Subset
from m3ae_core.regions import BRATS_2021, BRATS_2023
from tiny import RECIPE, random_bundle

VOLUMES = {name: Volume(data, AFFINE) for name, data in phantom()[0].items()}
CASE = Case("phantom", BRATS, VOLUMES)


# --- two label maps --------------------------------------------------------------------------------


def test_a_difference_by_hand():
    first = np.array([[[0, 1, 2, 2, 4]]], np.uint8)
    second = np.array([[[0, 4, 2, 0, 0]]], np.uint8)
    affine = np.diag([-2.0, 2.0, 5.0, 1.0])  # 20 mm³ a voxel, left-handed
    assert compare(first, second, BRATS_2021, affine) == Difference(
        dice={"WT": 2 * 2 / 6, "TC": 2 * 1 / 3, "ET": 0.0},
        before_ml=pytest.approx({"WT": 0.08, "TC": 0.04, "ET": 0.02}),
        after_ml=pytest.approx({"WT": 0.04, "TC": 0.02, "ET": 0.02}),
    )


def test_a_difference_agrees_with_the_metrics():
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 4, (2, 5, 6, 7)).astype(np.uint8)
    assert compare(first, second, BRATS_2023, AFFINE).dice == dice_by_region(first, second, BRATS_2023)


def test_two_empty_results_agree():
    empty = np.zeros((2, 2, 2), np.uint8)
    difference = compare(empty, empty, BRATS_2023, AFFINE)
    assert set(difference.dice.values()) == {1.0}
    assert set(difference.after_ml.values()) == {0.0}


def test_values_of_another_scheme_are_refused():
    empty = np.zeros((2, 2, 2), np.uint8)
    with pytest.raises(InputError) as caught:
        compare(empty, empty + 4, BRATS_2023, AFFINE)
    assert caught.value.code == "labels-unknown"


def test_a_difference_map_by_hand():
    first = np.array([[[0, 1, 2, 0, 3, 1]]], np.uint8)
    second = np.array([[[0, 1, 0, 3, 2, 2]]], np.uint8)
    found = difference_map(first, second)
    assert found.dtype == np.uint8
    assert found.tolist() == [[[0, 0, 1, 2, 3, 3]]]


# --- all subsets -----------------------------------------------------------------------------------


class FakePredictor:
    """Marks one voxel per sequence that it is given, in two windows, and remembers what it was asked."""

    def __init__(self, config=RECIPE.model):
        self.config = config
        self.asked, self.windows = [], 0

    def run(self, case, scheme, shared=None, *, same_patient=False):
        subset = self.config.modality_set.subset(case.volumes)
        self.asked.append(subset)
        for window in (1, 2):
            self.windows += 1
            yield Progress("segmenting", window, 2)
        yield made(subset, scheme)


def made(subset: Subset, scheme=BRATS_2023) -> Prediction:
    labels = np.array(BRATS.flags(subset), np.uint8).reshape(-1, 1, 1)
    return Prediction(labels, {"WT": labels.astype(np.float32)}, AFFINE, scheme, subset, (), {})


def results(events) -> dict[Subset, Prediction]:
    return {event.subset: event.prediction for event in events if isinstance(event, SubsetDone)}


def test_every_subset_of_what_is_present_once_the_full_one_first():
    predictor = FakePredictor()
    found = results(sweep(predictor, CASE.without("T1c"), BRATS_2021))
    assert [str(subset) for subset in found] == [
        "FLAIR+T1+T2",
        "FLAIR+T1",
        "FLAIR+T2",
        "T1+T2",
        "FLAIR",
        "T1",
        "T2",
    ]
    assert predictor.asked == list(found)
    for subset, prediction in found.items():
        assert prediction.subset == subset
        assert prediction.scheme is BRATS_2021
        assert prediction.probabilities == {}


def test_what_is_known_is_handed_on_and_not_computed_again():
    predictor = FakePredictor()
    case = CASE.only("T1", "T2")
    known = {BRATS.subset(["T1", "T2"]): replace(made(BRATS.subset(["T1", "T2"])), warnings=("mine",))}
    found = results(sweep(predictor, case, BRATS_2023, known))
    assert predictor.asked == [BRATS.subset(["T1"]), BRATS.subset(["T2"])]
    assert len(found) == 3
    full = found[case.subset]
    assert full.warnings == ("mine",)
    assert full.probabilities == {}
    assert known[case.subset].probabilities  # the caller keeps its own


def test_the_progress_of_a_sweep():
    steps = [
        (event.what, event.done, event.total)
        for event in sweep(FakePredictor(), CASE.only("T1", "T2"), BRATS_2023)
        if isinstance(event, Progress)
    ]
    assert steps == [
        ("subsets", 0, 3),
        *chain.from_iterable(
            [(f"subset {k} of 3", 1, 2), (f"subset {k} of 3", 2, 2), ("subsets", k, 3)] for k in (1, 2, 3)
        ),
    ]


def test_a_sweep_stops_between_windows():
    predictor = FakePredictor()
    events = sweep(predictor, CASE, BRATS_2023)
    while predictor.windows < 3:
        next(events)
    events.close()
    assert predictor.windows == 3
    assert len(predictor.asked) == 2


def test_only_sequences_of_the_model_count():
    config = RECIPE.model.model_copy(update={"modalities": ("T2", "FLAIR")})
    found = results(sweep(FakePredictor(config), CASE.without("FLAIR"), BRATS_2023))
    assert list(found) == [Subset(("T2", "FLAIR"), ("T2",))]
    with pytest.raises(InputError) as caught:
        list(sweep(FakePredictor(config), CASE.only("T1"), BRATS_2023))
    assert caught.value.code == "no-sequence"


def test_a_sweep_gives_the_predictors_own_labels():
    predictor = Predictor(random_bundle(), "cpu")
    found = results(sweep(predictor, CASE.only("T1c", "T2"), BRATS_2021))
    alone = predictor.predict(CASE.only("T2"), BRATS_2021)
    assert (found[alone.subset].labels == alone.labels).all()
    assert (found[alone.subset].labels != found[BRATS.subset(["T1c", "T2"])].labels).any()


# --- agreement -------------------------------------------------------------------------------------


def test_agreement_counts_the_subsets():
    rng = np.random.default_rng(0)
    masks = {subset: rng.random((4, 5, 6)) < 0.5 for subset in BRATS.subsets()}
    before = {subset: mask.copy() for subset, mask in masks.items()}
    counts = agreement(masks)
    assert counts.dtype == np.uint8
    assert (counts == np.sum(list(masks.values()), axis=0)).all()
    assert all((masks[subset] == mask).all() for subset, mask in before.items())


def test_agreement_of_one_is_its_mask():
    mask = np.eye(3, dtype=bool)[None]
    assert (agreement({BRATS.full: mask}) == mask).all()


# --- Shapley values --------------------------------------------------------------------------------

GAME = ModalitySet.named("ABCD")
VALUES = st.floats(-10, 10)


def games(names: str = "ABCD"):
    subsets = [subset for subset in GAME.subsets() if set(subset.present) <= set(names)]
    return st.fixed_dictionaries(dict.fromkeys(subsets, VALUES))


def by_orders(values: dict[Subset, float]) -> dict[str, float]:
    """The definition: what a sequence adds when it arrives, averaged over all orders of arrival."""
    orders = list(permutations(max(values, key=len).present))
    shares = dict.fromkeys(GAME.names, 0.0)
    for order in orders:
        worth = 0.0
        for place, name in enumerate(order, 1):
            after = values[GAME.subset(order[:place])]
            shares[name] += (after - worth) / len(orders)
            worth = after
    return shares


def test_two_sequences_by_hand():
    a, b, both = GAME.subset("A"), GAME.subset("B"), GAME.subset("AB")
    assert contributions({a: 0.5, b: 0.2, both: 1.0}) == pytest.approx({"A": 0.65, "B": 0.35})


def test_one_sequence_is_worth_its_value():
    assert contributions({GAME.subset("C"): 0.7}) == {"C": 0.7}


@given(games())
def test_the_shares_are_shapley_values(values):
    found = contributions(values)
    assert list(found) == list("ABCD")
    assert found == pytest.approx(by_orders(values), abs=1e-9)


@given(games("ACD"))
def test_the_shares_add_up_to_the_full_value(values):
    assert sum(contributions(values).values()) == pytest.approx(values[GAME.subset("ACD")], abs=1e-9)


@given(games())
def test_equal_sequences_have_equal_shares(values):
    """Made symmetric in A and B by giving {A}∪S the value of {B}∪S."""
    swap = {"A": "B", "B": "A"}

    def mirrored(subset: Subset) -> Subset:
        return GAME.subset(swap.get(name, name) for name in subset.present)

    symmetric = {subset: values[min(subset, mirrored(subset), key=str)] for subset in values}
    found = contributions(symmetric)
    assert found["A"] == pytest.approx(found["B"], abs=1e-9)


@given(games("BCD"), VALUES)
def test_a_dummy_gets_what_it_brings_alone(values, alone):
    """A adds the same to every subset: its share is just that, and the others' shares do not change."""
    a = GAME.subset("A")
    joined = values | {subset | a: value + alone for subset, value in values.items()} | {a: alone}
    found = contributions(joined)
    assert found == pytest.approx({"A": alone} | contributions(values), abs=1e-9)


@given(games(), games(), VALUES)
def test_shares_are_linear_in_the_values(first, second, factor):
    joined = {subset: first[subset] + factor * second[subset] for subset in first}
    one, two = contributions(first), contributions(second)
    assert contributions(joined) == pytest.approx({n: one[n] + factor * two[n] for n in one}, abs=1e-8)


def test_a_missing_value_is_a_mistake():
    values = {subset: 1.0 for subset in GAME.subsets() if str(subset) != "A+B"}
    with pytest.raises(KeyError):
        contributions(values)
    with pytest.raises(KeyError):
        contributions({GAME.subset("A"): 1.0, GAME.subset("B"): 1.0})
