"""MRI and CT together, on synthetic cases: both training stages, a benchmark, and a case of which only the CT is there.

    python examples/mri_ct/run.py FOLDER

The same on the command line, with real cases::

    m3ae pretrain examples/mri_ct/recipe.toml --cases CASES --output one
    m3ae finetune examples/mri_ct/recipe.toml --cases CASES --scheme brats2023 --pretrained one/bundle --output two
    m3ae benchmark --bundle two/bundle --cases OTHERS --scheme brats2023 --output scores
"""

from __future__ import annotations

import sys
from collections import deque
from pathlib import Path

from m3ae_core.bundle import Bundle, load_bundle
from m3ae_core.config import Recipe, load_recipe
from m3ae_core.data.phantom import write_phantom
from m3ae_core.evaluation.benchmark import run as benchmark
from m3ae_core.evaluation.conventions import BRATS_LEGACY
from m3ae_core.evaluation.results import Results
from m3ae_core.evaluation.statistics import summaries
from m3ae_core.hardware import Hardware
from m3ae_core.inference.predictor import Prediction, Predictor
from m3ae_core.io.case import find_cases, read_case
from m3ae_core.training.stages import Plan, finetune, pretrain

RECIPE = load_recipe(Path(__file__).with_name("recipe.toml"))


def trained(folder: Path, recipe: Recipe = RECIPE) -> Bundle:
    """Train both stages on three of four synthetic cases and return the model."""
    for seed in range(4):
        write_phantom(folder / "cases", f"case-{seed}", seed=seed, present=recipe.model.modalities)
    cases = find_cases(folder / "cases", recipe.model.modality_set)
    one, two = (
        Plan(recipe, cases[:3], folder / name, hardware=Hardware(device="cpu")) for name in ("one", "two")
    )
    deque(pretrain(one), maxlen=0)
    deque(finetune(two, one.folder / "bundle", validation=cases[3:]), maxlen=0)
    return load_bundle(two.folder / "bundle")


def measured(bundle: Bundle, folder: Path) -> Results:
    """Return the Dice of the held-out case from every subset of its modalities."""
    cases = find_cases(folder / "cases", bundle.config.modality_set)
    *_, results = benchmark([bundle], cases[3:], folder / "scores", device="cpu")
    assert isinstance(results, Results)
    return results


def from_ct_alone(bundle: Bundle, folder: Path) -> Prediction:
    """Segment the held-out case as if only its CT had been acquired."""
    modalities = bundle.config.modality_set
    case = read_case(find_cases(folder / "cases", modalities)[3], modalities)
    return Predictor(bundle, "cpu").predict(case.only("CT"))


def main(folder: Path) -> None:
    """Do all of it below `folder`."""
    bundle = trained(folder)
    dice = summaries(measured(bundle, folder).scores(BRATS_LEGACY), "dice")
    for (_, subset, region), summary in dice.items():
        print(f"{subset:10} {region}  Dice {summary.median:.2f}")
    prediction = from_ct_alone(bundle, folder)
    print(f"from {prediction.subset} alone: {prediction.provenance['labels']['volumes_ml']} mL")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
