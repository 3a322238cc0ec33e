"""One self-contained HTML page that shows a benchmark: plots, tables, slices and provenance, nothing from outside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np

from m3ae_core.evaluation.registry import Metric
from m3ae_core.evaluation.results import Results, Score
from m3ae_core.evaluation.slices import read_slices
from m3ae_core.evaluation.statistics import TEST
from m3ae_core.evaluation.store import scheme_of, slices_file
from m3ae_core.regions import COLOURS, scheme_named
from m3ae_core.report.canvas import data_uri
from m3ae_core.report.plots import score_plot, slices_plot
from m3ae_core.report.sections import Section, provenance
from m3ae_core.report.template import render


def page(results: Results, parts: Sequence[Section]) -> str:
    """Return the page as text; the first section's convention is the one whose scores are plotted.

    Raises
    ------
    ConfigError
        If matplotlib or jinja2 is not installed.
    """
    metrics, scores = parts[0].convention.metrics, parts[0].scores
    return render(
        "benchmark.html",
        results=results,
        notice=results.record["notice"],
        parts=parts,
        plots=[(metric, data_uri(score_plot(scores, results.subsets, metric))) for metric in metrics],
        examples=_examples(results, scores, metrics[0]),
        tissues=COLOURS,
        test=TEST,
        provenance=provenance(results),
    )


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


def _examples(results: Results, scores: Sequence[Score], metric: Metric) -> Iterator[tuple[str, str]]:
    """Yield, for the example cases and every model, a caption and a picture."""
    for (kind, case), model in product(example_cases(scores, metric).items(), results.models):
        values = {
            (score.subset, score.region): metric.factor * score.values[metric.column]
            for score in scores
            if (score.bundle, score.case) == (model.label, case)
        }
        slices = read_slices(slices_file(results.folder, model.fingerprint, case))
        where = f"{kind} {case}, {model.label}: the slice with most reference tumour"
        plot = slices_plot(slices, values, scheme_named(scheme_of(results.record, case)))
        yield f"{where}; {metric.label}, of the whole case.", data_uri(plot)
