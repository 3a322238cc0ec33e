"""Without contrast: what is not assessable, and a verdict whose rate was measured on cases left out."""

import numpy as np
import pytest

from m3ae_core.modalities import BRATS
from m3ae_core.regions import BRATS_2021, BRATS_2023
from m3ae_core.trust.enhancement import LEAST_ACCURACY, Enhancement, fit_enhancement, share, unassessable
from m3ae_core.trust.evidence import Evidence

BLIND, SEEING = BRATS.subset(("FLAIR", "T2")), BRATS.subset(("T1", "T1c"))
SUBSETS = (BLIND, SEEING)


def evidence(soft_ml: float) -> Evidence:
    return Evidence(0.5, soft_ml, soft_ml)


def fitted(with_it, without) -> Enhancement | None:
    """Fit on these shares seen from the first subset; the second has contrast and takes no part."""
    shares = np.array([*with_it, *without])
    return fit_enhancement(
        np.stack([shares, shares], axis=1), np.array([5.0] * len(with_it) + [0.0] * len(without)), SUBSETS
    )


def test_shares_that_are_apart_are_told_apart():
    found = fitted([0.5, 0.6, 0.7], [0.1, 0.2, 0.3])
    assert found.least_share == {str(BLIND): pytest.approx(0.4)}
    assert found.balanced_accuracy == {str(BLIND): 1.0}
    assert (found.cases, found.enhancing) == (6, 3)
    for ml, likely in ((3.9, False), (4.1, True)):
        verdict = found.words(BLIND, evidence(10.0), evidence(ml))
        assert verdict == {"likely": likely, "balanced_accuracy": 1.0, "cases": 6}


def test_each_case_is_left_out_of_the_choice():
    """.35 and .3 lie on the right side of a fit on all (.325), and on the wrong one of the others' (.4 and .275)."""
    found = fitted([0.35, 0.5, 0.6, 0.7], [0.1, 0.2, 0.3])
    assert found.balanced_accuracy[str(BLIND)] == pytest.approx((3 / 4 + 2 / 3) / 2, abs=1e-3)


def test_a_verdict_no_better_than_guessing_is_not_given():
    poor = Enhancement(
        least_share={str(BLIND): 0.1},
        balanced_accuracy={str(BLIND): LEAST_ACCURACY - 0.01},
        cases=9,
        enhancing=5,
    )
    assert poor.words(BLIND, evidence(10), evidence(9)) is None
    assert fitted([0.5, 0.6], [0.1, 0.2]).words(SEEING, evidence(10), evidence(9)) is None


def test_too_few_of_a_kind_allow_no_verdict():
    assert fitted([0.5, 0.6], [0.1]) is None
    assert fitted([0.5], [0.1, 0.2]) is None


def test_no_tumour_has_no_share():
    assert share(0.0, 0.0) == 0
    assert share(10.0, 2.0) == pytest.approx(0.2)


def test_label_values_are_those_of_the_scheme():
    for scheme, value in ((BRATS_2023, 3), (BRATS_2021, 4)):
        said = unassessable(BLIND, scheme, None)
        assert (said["regions"], said["label_values"], said["enhancement"]) == (["ET"], [value], None)
    assert unassessable(SEEING, BRATS_2023, None) is None
