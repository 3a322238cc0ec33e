"""The cases that a benchmark's page shows: a typical one and the worst one, each segmented from every subset."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np

from m3ae_core.evaluation.registry import Metric
from m3ae_core.evaluation.results import Results, Score
from m3ae_core.evaluation.slices import read_slices
from m3ae_core.evaluation.store import scheme_of, slices_file
from m3ae_core.report.canvas import data_uri
from m3ae_core.report.plots import slices_plot


def examples(results: Results, scores: Sequence[Score], metric: Metric) -> Iterator[tuple[str, str]]:
    """Yield a caption and a picture (PNG as a data URI) for each example case and model."""
    for (kind, case), model in product(example_cases(scores, metric).items(), results.models):
        values = {
            (score.subset, score.region): metric.factor * score.values[metric.column]
            for score in scores
            if (score.bundle, score.case) == (model.label, case)
        }
        slices = read_slices(slices_file(results.folder, model.fingerprint, case))
        where = f"{kind} {case}, {model.label}: the slice with most reference tumour"
        plot = slices_plot(slices, values, scheme_of(results.record, case))
        yield f"{where}; {metric.label}, of the whole case.", data_uri(plot)


def example_cases(scores: Sequence[Score], metric: Metric) -> dict[str, str]:
    """Return the case whose mean with the first model is nearest the median, and the worst one if another."""
    by_case: dict[str, list[float]] = {}
    for score in scores:
        if score.bundle == scores[0].bundle:
            by_case.setdefault(score.case, []).append(score.values[metric.column])
    means = {case: float(np.mean(values)) for case, values in by_case.items()}
    middle = float(np.median(list(means.values())))
    typical = min(means, key=lambda case: abs(means[case] - middle))
    worst = (min if metric.better == "higher" else max)(means, key=means.__getitem__)
    return {"Typical case": typical} | ({"Worst case": worst} if worst != typical else {})
