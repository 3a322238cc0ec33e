"""The chance that a voxel's tissue is wrong, by hand."""

import numpy as np
import pytest

from m3ae_core.trust.uncertainty import chance_of_error, decoded_depth, temper


@pytest.mark.parametrize(
    ("regions", "depth", "wrong"),
    [
        ((0.0, 0.0, 0.0), 0, 0.0),
        ((0.3, 0.1, 0.0), 0, 0.3),
        ((0.9, 0.2, 0.1), 1, 0.3),  # oedema: .9 - .2
        ((0.9, 0.8, 0.1), 2, 0.3),  # necrosis: .8 - .1
        ((0.9, 0.8, 0.7), 3, 0.3),
        ((0.2, 0.3, 0.7), 3, 0.3),  # not nested: what holds the innermost is at least as probable
        ((0.6, 0.2, 0.4), 1, 0.8),  # oedema: .6 - .4
    ],
)
def test_by_hand(regions, depth, wrong):
    column = np.array(regions, np.float32)[:, None]
    assert decoded_depth(column)[0] == depth
    assert chance_of_error(column)[0] == pytest.approx(wrong, abs=1e-6)


def test_one_region_alone():
    assert chance_of_error(np.array([[0.25, 0.75]], np.float32)) == pytest.approx([0.25, 0.25])


def test_temperature_divides_logits():
    p = np.array([0.0, 0.1, 0.5, 0.9, 1.0], np.float32)
    logit = np.log(0.9 / 0.1) / 2
    warm = temper(p, 2.0)
    assert warm[3] == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-6)
    assert warm[2] == 0.5
    assert ((warm > 0.5) == (p > 0.5)).all()
    assert (temper(p, 1.0) == p).all()
    assert np.isfinite(temper(p, 0.25)).all()
