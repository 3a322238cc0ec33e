"""Subsets of a modality set follow the laws of sets, for any number of modalities."""

from __future__ import annotations

import random
from itertools import permutations, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3ae_core.card import reliability_words
from m3ae_core.errors import ConfigError
from m3ae_core.modalities import BRATS, CT, Modality, ModalitySet, Subset

SIZES = range(2, 6)


def numbered(size: int) -> ModalitySet:
    return ModalitySet(tuple(Modality(f"M{index}") for index in range(size)))


@st.composite
def subsets(draw: st.DrawFn, count: int) -> tuple[Subset, ...]:
    """Several subsets (empty ones too) of one modality set."""
    names = numbered(draw(st.integers(2, 5))).names
    flags = st.lists(st.booleans(), min_size=len(names), max_size=len(names))
    chosen = (draw(flags) for _ in range(count))
    return tuple(
        Subset(names, tuple(n for n, flag in zip(names, flags, strict=True) if flag)) for flags in chosen
    )


@pytest.mark.parametrize("size", SIZES)
def test_all_subsets_once_and_none_empty(size: int) -> None:
    modalities = numbered(size)
    found = modalities.subsets()
    assert len(found) == 2**size - 1
    assert len(set(found)) == len(found)
    assert all(found)
    assert found[-1] == modalities.full
    assert [len(subset) for subset in found] == sorted(len(subset) for subset in found)
    every = set(product([False, True], repeat=size))
    assert {modalities.flags(subset) for subset in found} == every - {(False,) * size}


@pytest.mark.parametrize("size", SIZES)
def test_present_and_missing_divide_the_set(size: int) -> None:
    modalities = numbered(size)
    for subset in modalities.subsets():
        assert set(subset.present) | set(subset.missing) == set(modalities.names)
        assert not set(subset.present) & set(subset.missing)
        flags = modalities.flags(subset)
        assert len(subset) == len(subset.present) == sum(flags)
        assert [name for name, flag in zip(modalities.names, flags, strict=True) if flag] == [*subset.present]
        assert modalities.subset(reversed(subset.present)) == subset


@st.composite
def in_two_orders(draw: st.DrawFn) -> tuple[ModalitySet, ModalitySet, list[str]]:
    """One set of modalities in two orders of channels, and some of its names."""
    pool = ["FLAIR", "T1", "T1c", "T2", "CT", "b", "Z"]
    names = draw(st.lists(st.sampled_from(pool), min_size=2, max_size=5, unique=True))
    other = draw(st.permutations(names))
    return ModalitySet.named(names), ModalitySet.named(other), draw(st.lists(st.sampled_from(names)))


@given(in_two_orders())
def test_the_order_of_channels_does_not_matter(drawn: tuple[ModalitySet, ModalitySet, list[str]]) -> None:
    one, other, names = drawn
    a, b = one.subset(names), other.subset(reversed(names))
    assert a == b
    assert hash(a) == hash(b)
    assert str(a) == str(b) == "+".join(sorted({*names})) or not names
    assert ~a == ~b
    assert a <= b <= a
    assert one.full == other.full
    assert a | b == a & b == a
    assert a | ~b == one.full
    assert one.subsets() == other.subsets()


@given(in_two_orders())
def test_flags_follow_the_channels(drawn: tuple[ModalitySet, ModalitySet, list[str]]) -> None:
    one, other, names = drawn
    for modalities in (one, other):
        subset = one.subset(names)
        assert dict(zip(modalities.names, modalities.flags(subset), strict=True)) == {
            name: name in names for name in one.names
        }
        assert modalities.ordered(subset) == tuple(name for name in modalities.names if name in names)


@pytest.mark.parametrize("size", SIZES)
def test_cards_in_any_order_are_read(size: int) -> None:
    """Cards of 0.1 name subsets in the order of their channels."""
    names = ("FLAIR", "T1", "T1c", "T2", "CT")[:size]
    figures = {"median": 0.9, "q1": 0.85, "q3": 0.95}
    for order in permutations(names):
        old = random.Random(0).sample(ModalitySet.named(order).subsets(), 2**size - 1)
        keys = ["+".join(name for name in order if name in subset) for subset in old]
        card = {"reliability": {key: {"WT": figures | {"n": n}} for n, key in enumerate(keys)}}
        for n, subset in enumerate(old):
            assert subset.entry(card["reliability"]) == {"WT": figures | {"n": n}}
            (said,) = reliability_words(card, ModalitySet.named(names).subset(subset.present))
            assert f"the {n} validation cases" in said
    assert BRATS.subset(["T1"]).entry({"T1c": 1, "FLAIR+T1": 2}) is None


@given(subsets(1))
def test_complement(one: tuple[Subset, ...]) -> None:
    (a,) = one
    everything, nothing = Subset(a.of, a.of), Subset(a.of, ())
    assert ~~a == a
    assert a | ~a == everything
    assert a & ~a == nothing
    assert (~a).present == a.missing
    assert ~everything == nothing


@given(subsets(2))
def test_union_and_intersection(pair: tuple[Subset, ...]) -> None:
    a, b = pair
    assert a | b == b | a
    assert a & b == b & a
    assert set((a | b).present) == set(a.present) | set(b.present)
    assert set((a & b).present) == set(a.present) & set(b.present)
    assert a | (a & b) == a
    assert a & (a | b) == a
    assert ~(a | b) == ~a & ~b, "De Morgan"


@given(subsets(3))
def test_three_subsets(three: tuple[Subset, ...]) -> None:
    a, b, c = three
    assert (a | b) | c == a | (b | c)
    assert a & (b | c) == (a & b) | (a & c)


@given(subsets(2))
def test_order(pair: tuple[Subset, ...]) -> None:
    a, b = pair
    assert a & b <= a <= a | b
    assert (a <= b) == (a | b == b) == (a & b == a)
    assert (a <= b and b <= a) == (a == b)


def test_subsets_of_other_sets_are_not_comparable() -> None:
    assert not Subset(("A", "B"), ("A",)) <= Subset(("A", "C"), ("A",))
    assert Subset(("A", "B"), ("A",)) != Subset(("A", "C"), ("A",))
    assert Subset(("A", "B"), ("A",)) == Subset(("B", "A"), ("A",))


def test_words() -> None:
    assert str(BRATS.subset(["T2", "FLAIR"])) == "FLAIR+T2"
    assert str(~BRATS.full) == "none"
    assert "T1" in BRATS.subset(["T1"])
    assert "T1" not in BRATS.subset(["T1c"])
    assert not ~BRATS.full


def test_brats() -> None:
    assert BRATS.names == ("FLAIR", "T1", "T1c", "T2")
    assert len(BRATS) == 4
    assert [modality.name for modality in BRATS] == list(BRATS.names)
    assert BRATS.flags(BRATS.full) == (True,) * 4
    assert len(BRATS.subsets()) == 15
    tokens = [token for modality in BRATS for token in modality.tokens]
    assert len(tokens) == len(set(tokens))
    assert all(token == token.lower() and token.isalnum() for token in tokens)


def test_named_keeps_order_and_aliases() -> None:
    chosen = ModalitySet.named(["T2", "CT", "T1c"])
    assert chosen.names == ("T2", "CT", "T1c")
    assert "t1ce" in chosen.modalities[2].tokens
    assert chosen.modalities[1] == CT
    assert [modality.kind for modality in ModalitySet.named(["T2", "CT", "DWI"])] == ["MRI", "CT", "MRI"]


def test_unknown_names_are_refused_and_the_known_ones_told() -> None:
    with pytest.raises(ConfigError, match=r"CT, PET.*FLAIR, T1, T1c, T2"):
        BRATS.subset(["T1", "PET", "CT"])


@pytest.mark.parametrize(
    "modalities",
    [
        (),
        (Modality("A"), Modality("A")),
        (Modality("A"), Modality("a")),
        (Modality("A", ("x",)), Modality("B", ("x",))),
        (Modality("A", ("b",)), Modality("B")),
    ],
    ids=["empty", "same", "same but for case", "shared alias", "alias is a name"],
)
def test_sets_that_cannot_be_told_apart(modalities: tuple[Modality, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        ModalitySet(modalities)
    assert caught.value.code == "modalities"
