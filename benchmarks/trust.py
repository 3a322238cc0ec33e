"""How far the software's word about its own results can be believed, on labelled cases left out one by one.

    python benchmarks/trust.py --cases DIR … --scheme SCHEME … --store FOLDER [--figures FOLDER]

Each case is measured once, as `m3ae calibrate` measures it, and kept in the store. Then each is left out in turn (or
BraTS-Africa and the others), the calibration is fitted on the others, and its word about the one
left out is compared with the labels: coverage and interval score of the 80 % ranges against the 10-90 % quantiles of
the same other cases (what a card quotes), rank correlation within subset and region, and the average precision with
which the uncertainty finds wrong voxels, against min(p, 1-p).

Five ways to rank results by trust are compared: the expected Dice; the Soft Dice Confidence (arXiv 2402.10665); the
mean Dice with the masks from fewer of the sequences given (after arXiv 2406.03323; a sequence alone has none and comes
last); the doubt min(p, 1-p) summed, as a share of the region; the median of the other cases (the card's constant).
AURC is the mean, over the shares of results that are kept, of the mean 1 - Dice among the most trusted: less is better.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import tyro
from scipy.stats import spearmanr

from m3ae_core.bundle import load_bundle
from m3ae_core.card import grade
from m3ae_core.data.builtin import builtin_bundle
from m3ae_core.evaluation.calibrate import measure_case
from m3ae_core.files import atomic_write, make_folder
from m3ae_core.inference.predictor import Predictor
from m3ae_core.io.case import find_cases
from m3ae_core.modalities import ModalitySet
from m3ae_core.regions import scheme_named
from m3ae_core.trust.calibration import Calibration
from m3ae_core.trust.evidence import Evidence
from m3ae_core.trust.fit import Measurement, fit_calibration
from m3ae_core.trust.uncertainty import chance_of_error, decoded_depth, temper

#: Other ways to rank results by trust.
CONTENDERS = ("confidence", "agreement", "doubt")


def collection(case: str) -> str:
    """Return where a case comes from; the one BraTS 2021 case re-released in 2023 counts as BraTS 2021."""
    return "BraTS-Africa" if case.startswith("BraTS-SSA") else "BraTS 2021"


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
    said: dict[str, list[Word]] = {kind: [] for kind in ("dice", "card", "volume", *CONTENDERS)}
    alike, known = agreement(left), np.stack([m.dice for m in kept])
    doubt = 1 - doubt_share(left)
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
            said["agreement"].append(Word(*where, truth, alike[row, column], 0, 1))
            said["doubt"].append(Word(*where, truth, doubt[row, column], 0, 1))
            said["volume"].append(
                Word(*where, float(left.true_ml[column]), volume.estimate, volume.low, volume.high)
            )
    return said


def agreement(left: Measurement) -> np.ndarray:
    """Return (S, R) the mean Dice of each mask with those from fewer of its sequences; 0 for a sequence alone."""
    masks = left.probabilities > 0.5
    found = np.zeros(masks.shape[:2])
    for row, subset in enumerate(left.subsets):
        fewer = [at for at, other in enumerate(left.subsets) if other <= subset and other != subset]
        if fewer:
            found[row] = np.mean([_dice(masks[row], masks[at]) for at in fewer], axis=0)
    return found


def _dice(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    total = one.sum(axis=1) + other.sum(axis=1)
    return np.where(total > 0, 2 * (one & other).sum(axis=1) / np.maximum(total, 1), 1.0)


def doubt_share(left: Measurement) -> np.ndarray:
    """Return (S, R) the sum of min(p, 1-p) as a share of the sum of p."""
    p = left.probabilities.astype(np.float32)
    return np.minimum(p, 1 - p).sum(axis=2) / np.maximum(p.sum(axis=2), 1e-6)


def aurc(said: Sequence[Word]) -> float:
    """Return the area under the risk-coverage curve of 1 - Dice, the most trusted results first."""
    risk = 1 - np.array([word.truth for word in sorted(said, key=lambda word: -word.estimate)])
    return float(np.mean(np.cumsum(risk) / np.arange(1, risk.size + 1)))


def gain_by_refusing(said: Sequence[Word], share: float = 0.2) -> float:
    """Return by how much the mean Dice of the rest is above that of all when the least trusted are refused."""
    ordered = [word.truth for word in sorted(said, key=lambda word: -word.estimate)]
    return float(np.mean(ordered[: round((1 - share) * len(ordered))]) - np.mean(ordered))


def wrongly_good(said: Sequence[Word]) -> tuple[int, int]:
    """Return how many results with a Dice below .6 are called good, and how many are called good."""
    good = [word for word in said if grade(word.low) == "good"]
    return sum(word.truth < 0.6 for word in good), len(good)


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


def leave_out(
    measurements: Sequence[Measurement], group: Callable[[Measurement], str]
) -> tuple[dict[str, list[Word]], list[tuple[float, ...]]]:
    """Leave out one group of cases at a time; return what was said of it, by kind, and its :func:`doubts`."""
    said: dict[str, list[Word]] = {}
    precision: list[tuple[float, ...]] = []
    for own in sorted({group(m) for m in measurements}):
        kept = [m for m in measurements if group(m) != own]
        calibration = fit_calibration(kept, least=1)
        for left in (m for m in measurements if group(m) == own):
            precision += doubts(left, calibration)
            for kind, new in words(kept, left, calibration).items():
                said.setdefault(kind, []).extend(new)
    return said, precision


def report(said: dict[str, list[Word]], precision: list[tuple[float, ...]], title: str) -> None:
    """Print how what was said compares with the truth."""
    print(f"\n{title}")
    for region in dict.fromkeys(word.region for word in said["dice"]):
        own = {kind: [word for word in found if word.region == region] for kind, found in said.items()}
        covered = {kind: np.mean([word.covered for word in found]) for kind, found in own.items()}
        score = {kind: np.mean([word.score for word in found]) for kind, found in own.items()}
        print(
            f"{region}  Dice range: coverage {covered['dice']:.2f} (card {covered['card']:.2f}), interval score "
            f"{score['dice']:.3f} (card {score['card']:.3f}); Spearman {rank_correlation(own['dice'], region):.2f} "
            f"(Soft Dice Confidence {rank_correlation(own['confidence'], region):.2f}); "
            f"volume range: coverage {covered['volume']:.2f}"
        )
        for kind in ("dice", "card", *CONTENDERS):
            print(
                f"    {kind:10s} AURC {aurc(own[kind]):.3f}, refusing a fifth {gain_by_refusing(own[kind]):+.3f}"
            )
    for kind in ("dice", "card"):
        wrong, good = wrongly_good(said[kind])
        print(f"called good by {kind}: {good} of {len(said[kind])}, of which {wrong} have a Dice below .6")
    for kind in ("dice", "card", *CONTENDERS):
        print(
            f"all regions, {kind:10s} AURC {aurc(said[kind]):.3f}, refusing a fifth {gain_by_refusing(said[kind]):+.3f}"
        )
    ours, plain, wrong, found, found_plain = np.array(precision).T
    few = wrong < 0.1
    print(
        f"wrong voxels: average precision {ours.mean():.3f} against {plain.mean():.3f} of min(p, 1-p), "
        f"{ours.mean() / plain.mean():.2f} times; in the most doubtful tenth {found[few].mean():.3f} "
        f"against {found_plain[few].mean():.3f}"
    )


def main(
    cases: tuple[Path, ...],
    scheme: tuple[str, ...],
    store: Path,
    bundle: Path | None = None,
    figures: Path | None = None,
) -> None:
    """Print the comparison for each case, and each collection, left out; draw the figures of docs/trust.md."""
    home = bundle or builtin_bundle()
    measurements = measure(home, cases, scheme, store)
    print(f"{len(measurements)} cases × {len(measurements[0].subsets)} subsets")
    by_case, precision = leave_out(measurements, lambda m: m.case)
    report(by_case, precision, "One case left out at a time")
    by_collection, precision = leave_out(measurements, lambda m: collection(m.case))
    report(by_collection, precision, "One collection left out at a time")
    if figures:
        from trust_figures import draw

        draw(by_case, by_collection, dict(zip(cases, scheme, strict=True)), home, make_folder(figures))


if __name__ == "__main__":
    tyro.cli(main)
