"""MRI and CT together: the example trains, is measured and predicts, whatever the order of channels."""

from __future__ import annotations

import runpy
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from m3ae_core.bundle import Bundle, load_bundle, save_bundle
from m3ae_core.card import reliability_words
from m3ae_core.data.phantom import phantom, write_phantom
from m3ae_core.data.preprocess import standardise
from m3ae_core.evaluation.benchmark import run as benchmark
from m3ae_core.evaluation.conventions import BRATS_LEGACY
from m3ae_core.evaluation.statistics import reliability
from m3ae_core.inference.predictor import Predictor
from m3ae_core.io.case import Case, find_cases, read_case
from m3ae_core.modalities import ModalitySet
from tiny import random_bundle

NAMES = ("T1c", "T2", "CT")
SUBSETS = {"CT", "T1c", "T2", "CT+T1c", "CT+T2", "T1c+T2", "CT+T1c+T2"}
EXAMPLE: dict[str, Any] = runpy.run_path(
    str(Path(__file__).resolve().parent.parent / "examples" / "mri_ct" / "run.py")
)
RECIPE = EXAMPLE["RECIPE"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Bundle]:
    """The example's folder and its model, after an epoch of each stage."""
    folder, short = tmp_path_factory.mktemp("example"), {"epochs": 1}
    stages = {name: getattr(RECIPE, name).model_copy(update=short) for name in ("pretrain", "finetune")}
    return folder, EXAMPLE["trained"](folder, RECIPE.model_copy(update=stages))


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    files = write_phantom(tmp_path_factory.mktemp("case"), present=NAMES)
    return read_case(files, ModalitySet.named(NAMES))


def ordered(order: tuple[str, ...]) -> Bundle:
    """A model of random weights with its channels in this order."""
    return random_bundle(RECIPE, modalities=order)


def test_the_trained_model_segments_from_ct_alone(place: tuple[Path, Bundle]) -> None:
    folder, bundle = place
    prediction = EXAMPLE["from_ct_alone"](bundle, folder)
    assert str(prediction.subset) == "CT"
    assert list(prediction.provenance["sequences_present"]) == ["CT"]
    assert prediction.provenance["sequences_substituted"] == ["T1c", "T2"]
    assert prediction.labels.shape == (48, 56, 40)
    assert not prediction.warnings, "a CT is judged by no rule for MRI"


def test_a_benchmark_compares_models_whose_channels_are_in_other_orders(
    place: tuple[Path, Bundle], tmp_path: Path
) -> None:
    folder, bundle = place
    other = load_bundle(save_bundle(ordered(("CT", "T2", "T1c")), tmp_path / "other"))
    cases = find_cases(folder / "cases", bundle.config.modality_set)[3:]
    *_, results = benchmark([bundle, other], cases, tmp_path / "out", device="cpu")
    found = {(score.bundle, score.subset) for score in results.scores(BRATS_LEGACY)}
    assert found == {(name, subset) for name in (bundle.name, "random") for subset in SUBSETS}
    card = {"reliability": reliability(results, other)}
    for subset in bundle.config.modality_set.subsets():
        assert len(reliability_words(card, subset)) == 3, "a card is read in any order of channels"


@pytest.mark.parametrize("order", list(permutations(NAMES)))
def test_any_order_of_channels(case: Case, order: tuple[str, ...]) -> None:
    bundle = ordered(order)
    standard = standardise(case, bundle.config)
    hu = phantom(present=["CT"])[0]["CT"].transpose(2, 1, 0)
    expected = np.where(hu == -1000, 0, np.clip((hu + 10) / 70, 0, 1))
    np.testing.assert_allclose(standard.image[order.index("CT")], expected, atol=1e-5)
    for name in ("T1c", "T2"):
        channel = standard.image[order.index(name)]
        assert channel[channel != 0].std() == pytest.approx(1, abs=1e-3)
    prediction = Predictor(bundle, "cpu").predict(case.without("T1c"))
    assert prediction.subset == ModalitySet.named(NAMES).subset(["T2", "CT"])
    assert prediction.provenance["sequences_substituted"] == ["T1c"]
