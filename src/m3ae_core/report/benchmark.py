"""The report of a benchmark, derived from its results folder: scores and statistics as data, tables, and a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from m3ae_core.evaluation.results import Results
from m3ae_core.evaluation.statistics import TEST, summaries
from m3ae_core.files import csv_text, write_json, write_text
from m3ae_core.regions import COLOURS
from m3ae_core.report.canvas import data_uri
from m3ae_core.report.examples import examples
from m3ae_core.report.plots import score_plot
from m3ae_core.report.sections import Section, provenance, sections
from m3ae_core.report.template import render


def write_report(results: Results) -> tuple[Path, ...]:
    """Write the report beside the results and return the paths of its files.

    ``report.html`` is a page that needs nothing else; ``tables.md`` and ``tables.tex`` are its tables; ``scores.csv``
    has a row per case, model, subset, region and convention; ``statistics.json`` summaries and tests. All say under
    which convention and from what their figures were made.

    Raises
    ------
    ConfigError
        If matplotlib or jinja2 is not installed.
    OutputError
        If a file cannot be written.
    """
    parts = sections(results)
    shown = parts[0]  # the convention whose scores are drawn
    facts = {
        "results": results,
        "parts": parts,
        "shown": shown.convention,
        "test": TEST,
        "notice": results.record["notice"],
        "provenance": provenance(results),
        "tissues": COLOURS,
        "plots": [data_uri(score_plot(shown.scores, results.subsets, m)) for m in shown.convention.metrics],
        "examples": examples(results, shown.scores, shown.convention.metrics[0]),
    }
    texts = {"scores.csv": _scores(parts)}
    texts |= {name: render(name, **facts) for name in ("tables.md", "tables.tex", "report.html")}
    data = write_json(results.folder / "statistics.json", _statistics(results, parts))
    return (*(write_text(results.folder / name, text) for name, text in texts.items()), data)


def _scores(parts: Sequence[Section]) -> str:
    """Return all scores as CSV: a column per metric, empty where the convention does not define it."""
    metrics = dict.fromkeys(metric.column for part in parts for metric in part.convention.metrics)
    rows = []
    for score in (score for part in parts for score in part.scores):
        row: dict[str, object] = {}
        for name, value in asdict(score).items():
            row |= {name: value} if name != "values" else {metric: value.get(metric) for metric in metrics}
        rows.append(row)
    return csv_text(list(rows[0]), [list(row.values()) for row in rows])


def _statistics(results: Results, parts: Sequence[Section]) -> dict[str, Any]:
    rows = [
        {"convention": part.convention.name, "metric": metric.column, "bundle": bundle, "subset": subset}
        | {"region": region, **asdict(summary)}
        for part in parts
        for metric in part.convention.metrics
        for (bundle, subset, region), summary in summaries(part.scores, metric.column).items()
    ]
    comparisons = [asdict(row) for part in parts for row in part.comparisons]
    return {"provenance": results.record, "summaries": rows, "test": TEST, "comparisons": comparisons}
