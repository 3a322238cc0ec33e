"""Validation segments as inference will: padded, in windows or in one pass, whatever the template's sides."""

from functools import partial

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

from m3ae_core.methods.m3ae.method import M3AE
from m3ae_core.methods.m3ae.networks import Segmenter
from m3ae_core.training.validate import Validation, subsets_of
from tiny import RECIPE, cached

SHAPE = (19, 24, 21)  # as in SRI24's 155 slices, no multiple of 8


@pytest.fixture
def validation(tmp_path):
    return partial(make, tmp_path)


def make(folder, window, oracle=False, **finetune) -> Validation:
    grid = RECIPE.model.grid.model_copy(update={"shape": SHAPE})
    inference = RECIPE.model.inference.model_copy(update={"window": window})
    model = RECIPE.model.model_copy(update={"grid": grid, "inference": inference})
    rng = np.random.default_rng(0)
    image = np.zeros((4, *SHAPE), np.float32)
    image[:, 2:15, 3:20, 4:18] = rng.random((4, 13, 17, 14))
    regions = np.zeros((3, *SHAPE), bool)
    regions[:, 5:9, 6:12, 7:11] = True
    if oracle:
        regions[:] = image[3] > 0.5
    case = cached(folder, "case", image, regions, ((2, 3, 4), (15, 20, 18)))
    return Validation(
        model, RECIPE.finetune.model_copy(update=finetune), [case], Fabric(accelerator="cpu", devices=1)
    )


@pytest.mark.parametrize("window", ["template", "brain", (16, 16, 16)])
def test_any_template_and_window(window, validation):
    checks = validation(window, validate_on="all")
    model = M3AE.of(checks.model, torch.zeros(4, *SHAPE), None, Segmenter(checks.model).eval())
    result = checks.run(3, model)
    assert result.epoch == 3
    assert len(result.by_subset) == 15
    assert all(0 <= dice <= 1 for dice in result.dice.values())


@pytest.mark.parametrize("window", ["template", "brain", (16, 16, 16)])
def test_a_perfect_network_scores_one(window, validation):
    """The oracle marks where the image exceeds a threshold; the reference is made the same way."""
    checks = validation(window, oracle=True, validate_on=(("T2",),))
    oracle = Segmenter(checks.model)
    oracle.predict = lambda filled: (filled[:, 3:4] - 0.5).expand(-1, 3, -1, -1, -1)
    result = checks.run(1, M3AE.of(checks.model, torch.zeros(4, *SHAPE), None, oracle))
    assert result.dice == pytest.approx({"WT": 1, "TC": 1, "ET": 1})


def test_when_it_is_due(validation):
    checks = validation("brain", validate_every=2)
    assert [checks.due(epoch) for epoch in (1, 2, 3)] == [False, True, True]  # the last epoch always
    assert not Validation(checks.model, checks.stage, [], checks.fabric).due(2)


def test_nested_subsets_lose_one_modality_after_the_other():
    names = RECIPE.model.modalities
    found = subsets_of(RECIPE.finetune, RECIPE.model.modality_set)
    assert [set(subset.present) for subset in found] == [set(names[lost:]) for lost in range(4)]


def test_a_stage_without_labels_is_not_validated(validation):
    checks = validation("brain")
    assert not Validation(checks.model, RECIPE.pretrain, checks.cases, checks.fabric).due(3)
