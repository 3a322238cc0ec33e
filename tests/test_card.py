"""A card in a reader's words: figures, quartiles, what is missing, and nothing invented."""

from __future__ import annotations

import pytest

from m3ae_core.card import GRADES, expected_words, grade, reliability_words
from m3ae_core.modalities import BRATS

CARD = {
    "reliability": {
        "FLAIR+T1+T2": {
            "WT": {"median": 0.81, "q1": 0.7, "q3": 0.85, "n": 5},
            "ET": {"median": 0.387, "q1": 0.25, "q3": 0.7, "n": 5},
        },
        "FLAIR+T1+T1c+T2": {"WT": {"median": 0.6, "q1": 0.5, "q3": 0.75, "n": 5}},
    }
}


def test_each_region_gets_a_sentence_with_its_figures():
    assert reliability_words(CARD, BRATS.subset(["T1", "T2", "FLAIR"])) == (
        "Whole tumour without T1c: fair (Dice 0.81, half of the 5 validation cases between 0.70 and 0.85).",
        "Enhancing tumour without T1c: unreliable "
        "(Dice 0.39, half of the 5 validation cases between 0.25 and 0.70).",
    )


def test_the_full_set_is_called_so():
    (sentence,) = reliability_words(CARD, BRATS.full)
    assert sentence.startswith("Whole tumour with all sequences: poor (Dice 0.60")


def test_a_result_is_called_by_the_lower_end_of_its_range():
    record = {"expected_dice": {"WT": {"estimate": 0.85, "low": 0.5, "high": 0.95}}}
    assert expected_words(record) == (
        "Whole tumour in this case: poor (expected Dice 0.85, in four of five cases between 0.50 and 0.95).",
    )


@pytest.mark.parametrize("record", [{}, {"expected_dice": None}])
def test_nothing_is_said_of_a_result_without_an_estimate(record):
    assert expected_words(record) == ()


@pytest.mark.parametrize("card", [{}, CARD])
def test_what_was_not_measured_is_said_to_be_so(card):
    assert reliability_words(card, BRATS.subset(["T1c"])) == (
        "How reliable this model is with these sequences was not measured.",
    )


@pytest.mark.parametrize(("least", "word"), GRADES)
def test_grades_begin_at_their_bound(least, word):
    assert grade(least) == word
    assert grade(least - 0.001) != word


def test_nothing_is_better_than_unreliable_at_zero():
    assert grade(0.0) == "unreliable"


def blind(verdict) -> dict:
    """A result without contrast."""
    said = {"estimate": 0.85, "low": 0.5, "high": 0.95}
    why = "Without T1c it can only be guessed."
    return {
        "expected_dice": {"WT": said, "ET": said},
        "not_assessable": {"regions": ["ET"], "label_values": [3], "why": why, "enhancement": verdict},
    }


def test_what_cannot_be_assessed_gets_no_grade():
    whole, enhancing = expected_words(blind(None))
    assert whole.startswith("Whole tumour in this case: poor")
    assert enhancing == "Enhancing tumour: not assessable. Without T1c it can only be guessed."


@pytest.mark.parametrize(("likely", "word"), [(True, " likely"), (False, " unlikely")])
def test_a_verdict_comes_with_its_rate(likely, word):
    *_, said = expected_words(blind({"likely": likely, "balanced_accuracy": 0.77, "cases": 17}))
    assert said.endswith(f"Enhancement{word} (balanced accuracy 0.77 on 17 cases; guessing has 0.50).")
