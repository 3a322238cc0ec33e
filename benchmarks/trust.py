"""How far the software's word about its own results can be believed, on labelled cases left out one by one.

    python benchmarks/trust.py --cases DIR … --scheme SCHEME … --store FOLDER

Each case is measured once, as `m3ae calibrate` measures it, and kept in the store. Then each is left out in turn (or
BraTS-Africa and the others), the calibration is fitted on the others, and its word about the one
left out is compared with the labels: coverage and interval score of the 80 % ranges against the 10-90 % quantiles of
the same other cases (what a card quotes), rank correlation within subset and region, and the average precision with
which the uncertainty finds wrong voxels, against min(p, 1-p).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import tyro
from scipy.stats import spearmanr

from m3ae_core.bundle import load_bundle
from m3ae_core.data.builtin import builtin_bundle
from m3ae_core.data.case import find_cases
from m3ae_core.evaluation.calibrate import measure_case
from m3ae_core.files import atomic_write, make_folder
from m3ae_core.inference.predictor import Predictor
from m3ae_core.modalities import ModalitySet
from m3ae_core.regions import scheme_named
from m3ae_core.trust.calibration import Calibration
from m3ae_core.trust.evidence import Evidence
from m3ae_core.trust.fit import Measurement, fit_calibration
from m3ae_core.trust.uncertainty import chance_of_error, decoded_depth, temper


def measure(bundle: Path, cases: Sequence[Path], schemes: Sequence[str], store: Path) -> list[Measurement]:
    """Return the measurements of all cases, taking those that the store lacks."""
    predictor = Predictor(load_bundle(bundle), "cpu", arithmetic="float32")
    found = []
    for folder, scheme in zip(cases, schemes, strict=True):
        for files in find_cases(folder, predictor.config.modality_set):
            path = make_folder(store) / f"{files.name}.npz"
            if not path.exists():
                save(measure_case(predictor, files, scheme_named(scheme)), path)
                print(f"measured {files.name}", flush=True)
            found.append(load(path, predictor.config.modality_set))
    return found


def save(measurement: Measurement, path: Path) -> None:
    content = {**asdict(measurement), "subsets": [str(subset) for subset in measurement.subsets]}
    atomic_write(path, lambda temporary: np.savez(temporary, **content))


def load(path: Path, modalities: ModalitySet) -> Measurement:
    with np.load(path) as stored:
        content = dict(stored)
    content["subsets"] = tuple(modalities.subset(str(name).split("+")) for name in content["subsets"])
    content["regions"] = tuple(content["regions"].tolist())
    return Measurement(**{**content, "case": str(content["case"]), "sha256": str(content["sha256"])})


@dataclass(frozen=True)
class Word:
    """What was said of one region of one case from one subset, and the truth: values, lower and upper ends."""

    region: str
    subset: str
    case: str
    truth: float
    estimate: float
    low: float
    high: float

    @property
    def covered(self) -> bool:
        return self.low <= self.truth <= self.high

    @property
    def score(self) -> float:
        """Interval score of an 80 % range (Gneiting & Raftery 2007); smaller is better."""
        outside = max(self.low - self.truth, 0) + max(self.truth - self.high, 0)
        return self.high - self.low + 2 / 0.2 * outside


def words(kept: Sequence[Measurement], left: Measurement, calibration: Calibration) -> dict[str, list[Word]]:
    """Return what the calibration, and what the card's quantiles of the kept cases, say of the case left out."""
    said: dict[str, list[Word]] = {"dice": [], "card": [], "volume": [], "confidence": []}
    known = np.stack([m.dice for m in kept])
    for row, subset in enumerate(left.subsets):
        for column, region in enumerate(left.regions):
            where, truth = (region, str(subset), left.case), float(left.dice[row, column])
            confidence, ml, soft_ml = left.figures[row, column].tolist()
            evidence = Evidence(confidence, ml, soft_ml)
            fit = calibration.fits[str(subset)][region]
            dice, volume = fit.expected_dice(evidence), fit.volume_ml(evidence)
            low, middle, high = np.quantile(known[:, row, column], (0.1, 0.5, 0.9))
            said["dice"].append(Word(*where, truth, dice.estimate, dice.low, dice.high))
            said["card"].append(Word(*where, truth, middle, low, high))
            said["confidence"].append(Word(*where, truth, confidence, 0, 1))
            said["volume"].append(
                Word(*where, float(left.true_ml[column]), volume.estimate, volume.low, volume.high)
            )
    return said


def rank_correlation(said: Sequence[Word], region: str) -> float:
    """Return Spearman's correlation with the truth within each subset, averaged where both vary."""
    found = []
    for subset in {word.subset for word in said}:
        own = [word for word in said if (word.region, word.subset) == (region, subset)]
        values = [word.estimate for word in own], [word.truth for word in own]
        if all(len(set(side)) > 1 for side in values):
            found.append(spearmanr(*values).statistic)
    return float(np.mean(found))


def average_precision(score: np.ndarray, wrong: np.ndarray) -> float:
    """Return the mean precision at the ranks of the wrong voxels, the most doubtful first."""
    ranked = wrong[np.argsort(-score, kind="stable")]
    hits = np.flatnonzero(ranked)
    return float(np.mean(np.arange(1, hits.size + 1) / (hits + 1)))


def share_found(score: np.ndarray, wrong: np.ndarray) -> float:
    """Return the share of wrong voxels among the tenth with the highest score."""
    tenth = np.argsort(-score, kind="stable")[: wrong.size // 10]
    return float(wrong[tenth].sum() / wrong.sum())


def doubts(left: Measurement, calibration: Calibration) -> list[tuple[float, float, float, float, float]]:
    """Return, for each subset: AP of the uncertainty and of min(p, 1-p), the wrong share, both shares found."""
    found = []
    for subset, stored in zip(left.subsets, left.probabilities, strict=True):
        regions = stored.astype(np.float32)
        wrong = decoded_depth(regions) != left.truth
        fits = calibration.fits[str(subset)]
        calm = [temper(row, fits[name].temperature) for row, name in zip(regions, left.regions, strict=True)]
        ours, plain = chance_of_error(np.stack(calm)), np.minimum(regions, 1 - regions).max(axis=0)
        precision = [average_precision(score, wrong) for score in (ours, plain)]
        found.append(
            (*precision, float(wrong.mean()), *(share_found(score, wrong) for score in (ours, plain)))
        )
    return found


def report(measurements: Sequence[Measurement], group: Callable[[Measurement], str], title: str) -> None:
    """Leave out one group of cases at a time and print how its word compares with the truth."""
    said: dict[str, list[Word]] = {}
    precision = []
    for own in sorted({group(m) for m in measurements}):
        kept = [m for m in measurements if group(m) != own]
        calibration = fit_calibration(kept, least=1)
        for left in (m for m in measurements if group(m) == own):
            precision += doubts(left, calibration)
            for kind, new in words(kept, left, calibration).items():
                said.setdefault(kind, []).extend(new)
    print(f"\n{title}")
    for region in measurements[0].regions:
        own = {kind: [word for word in found if word.region == region] for kind, found in said.items()}
        covered = {kind: np.mean([word.covered for word in found]) for kind, found in own.items()}
        score = {kind: np.mean([word.score for word in found]) for kind, found in own.items()}
        print(
            f"{region}  Dice range: coverage {covered['dice']:.2f} (card {covered['card']:.2f}), interval score "
            f"{score['dice']:.3f} (card {score['card']:.3f}); Spearman {rank_correlation(own['dice'], region):.2f} "
            f"(Soft Dice Confidence {rank_correlation(own['confidence'], region):.2f}); "
            f"volume range: coverage {covered['volume']:.2f}"
        )
    ours, plain, wrong, found, found_plain = np.array(precision).T
    few = wrong < 0.1
    print(
        f"wrong voxels: average precision {ours.mean():.3f} against {plain.mean():.3f} of min(p, 1-p), "
        f"{ours.mean() / plain.mean():.2f} times; in the most doubtful tenth {found[few].mean():.3f} "
        f"against {found_plain[few].mean():.3f}"
    )


def main(cases: tuple[Path, ...], scheme: tuple[str, ...], store: Path, bundle: Path | None = None) -> None:
    """Print the comparison for each case, and each collection, left out."""
    measurements = measure(bundle or builtin_bundle(), cases, scheme, store)
    print(f"{len(measurements)} cases × {len(measurements[0].subsets)} subsets")
    report(measurements, lambda m: m.case, "One case left out at a time")
    report(measurements, lambda m: str(m.case.startswith("BraTS-SSA")), "One collection left out at a time")


if __name__ == "__main__":
    tyro.cli(main)
