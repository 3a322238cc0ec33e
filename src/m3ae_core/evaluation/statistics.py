"""Statistics of scores: summaries, averages as the paper prints them, tests between models, the reliability card."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from scipy import stats

from m3ae_core.bundle import Bundle
from m3ae_core.errors import InputError
from m3ae_core.evaluation.conventions import BRATS_LEGACY
from m3ae_core.evaluation.registry import DICE
from m3ae_core.evaluation.results import Results, Score

#: bundle, subset, region
Cell = tuple[str, str, str]

#: How :func:`compare` tests, for the reports.
TEST = (
    "Two-sided Wilcoxon signed-rank test over the cases, per subset and region; cases without a difference are ranked "
    "with the others (Pratt); p-values are corrected by Holm over all subsets, regions and pairs of models, per metric."
)


@dataclass(frozen=True)
class Summary:
    """`n` values: mean, sample standard deviation (None for a single value), median and quartiles."""

    n: int
    mean: float
    sd: float | None
    median: float
    q1: float
    q3: float


@dataclass(frozen=True)
class Comparison:
    """Two models on the same `n` cases, from one subset, in one region, by one metric under one convention.

    `median_difference` is second minus first, in the metric's unit; `p` is two-sided, `p_holm` after Holm's correction.
    """

    convention: str
    metric: str
    first: str
    second: str
    subset: str
    region: str
    n: int
    median_difference: float
    p: float
    p_holm: float


def summarise(values: Sequence[float]) -> Summary:
    """Summarise at least one value; quartiles are interpolated linearly."""
    q1, median, q3 = (float(value) for value in np.percentile(values, (25, 50, 75)))
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Summary(len(values), float(np.mean(values)), sd, median, q1, q3)


def summaries(scores: Iterable[Score], metric: str) -> dict[Cell, Summary]:
    """Summarise a metric (its column) over the cases, per model, subset and region; empty masks count too.

    Raises
    ------
    InputError
        If a score lacks the metric: its convention does not define it (``metric``).
    """
    return {cell: summarise([*cases.values()]) for cell, cases in _by_cell(scores, metric).items()}


def average(cells: Mapping[Cell, Summary], bundle: str, region: str) -> float:
    """Return the mean of the subsets' means, all subsets alike: the last row of the paper's tables."""
    return float(np.mean([cell.mean for (b, _, r), cell in cells.items() if (b, r) == (bundle, region)]))


def compare(scores: Sequence[Score], metric: str) -> tuple[Comparison, ...]:
    """Test every pair of models from every subset in every region, as :data:`TEST` says, under one convention."""
    cells = _by_cell(scores, metric)
    found = []
    for first, second in combinations(dict.fromkeys(bundle for bundle, _, _ in cells), 2):
        for subset, region in dict.fromkeys((subset, region) for _, subset, region in cells):
            ours, theirs = cells[first, subset, region], cells[second, subset, region]
            differences = [theirs[case] - ours[case] for case in ours]
            median, p = float(np.median(differences)), wilcoxon(differences)
            place = (scores[0].convention, metric, first, second, subset, region)
            found.append(Comparison(*place, len(differences), median, p, p))
    corrected = holm([comparison.p for comparison in found])
    return tuple(replace(row, p_holm=p_holm) for row, p_holm in zip(found, corrected, strict=True))


def wilcoxon(differences: Sequence[float]) -> float:
    """Return the two-sided p-value of the signed-rank test, zeros ranked as Pratt does; 1 if all are zero."""
    if not np.any(differences):
        return 1.0
    return float(stats.wilcoxon(differences, zero_method="pratt").pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected by Holm's step-down procedure, in the order given."""
    order = np.argsort(p_values, kind="stable")
    steps = np.arange(len(p_values), 0, -1) * np.asarray(p_values, float)[order]
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return [float(p) for p in corrected]


def reliability(results: Results, bundle: Bundle) -> dict[str, dict[str, dict[str, float]]]:
    """Return a bundle's reliability card: per subset and region, median, quartiles and n of the Dice.

    Subsets are named as the bundle's own predictions name them, so that the card can be stored in the bundle
    (``card["reliability"]``). Dice is that of ``brats_legacy``: no post-processing, no case left out.

    Raises
    ------
    InputError
        If the benchmark did not measure this very bundle.
    """
    label = next((model.label for model in results.models if model.fingerprint == bundle.fingerprint), None)
    if label is None:
        problem = f"The benchmark did not measure the bundle {bundle.name!r} as it is now."
        fix = "Run `m3ae benchmark` with it."
        raise InputError(problem, fix, path=results.folder, code="other-bundle")
    cells = summaries(results.scores(BRATS_LEGACY), DICE.column)
    names = {subset: str(bundle.config.modality_set.subset(subset.present)) for subset in results.subsets}
    return {
        name: {region: _card(cells[label, str(subset), region]) for region in results.regions}
        for subset, name in names.items()
    }


def _card(cell: Summary) -> dict[str, float]:
    return {"median": round(cell.median, 3), "q1": round(cell.q1, 3), "q3": round(cell.q3, 3), "n": cell.n}


def _by_cell(scores: Iterable[Score], metric: str) -> dict[Cell, dict[str, float]]:
    """Return the values of a metric per cell and case."""
    cells: dict[Cell, dict[str, float]] = {}
    for score in scores:
        if metric not in score.values:
            problem = f"The convention {score.convention} does not define {metric}."
            raise InputError(problem, "Choose another convention.", code="metric")
        cells.setdefault((score.bundle, score.subset, score.region), {})[score.case] = score.values[metric]
    return cells
