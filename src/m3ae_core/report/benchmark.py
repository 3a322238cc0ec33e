"""The report of a benchmark, derived from its results folder: scores and statistics as data, tables, and a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from m3ae_core.evaluation.results import Results
from m3ae_core.evaluation.statistics import TEST, summaries
from m3ae_core.files import write_json, write_text
from m3ae_core.report.page import page
from m3ae_core.report.sections import Section, provenance, sections
from m3ae_core.report.tables import csv_text, latex, markdown, tex


def write_report(results: Results) -> tuple[Path, ...]:
    """Write the report beside the results and return the paths of its files.

    ``report.html`` is a page that needs nothing else; ``tables.md`` and ``tables.tex`` are its tables; ``scores.csv``
    has a row per case, model, subset, region and convention; ``statistics.json`` summaries and tests. All say under
    which convention and from what their figures were made.

    Raises
    ------
    ConfigError
        If matplotlib is not installed.
    OutputError
        If a file cannot be written.
    """
    parts = sections(results)
    texts = {
        "scores.csv": csv_text([score for part in parts for score in part.scores]),
        "tables.md": _markdown(results, parts),
        "tables.tex": _latex(results, parts),
        "report.html": page(results, parts),
    }
    data = write_json(results.folder / "statistics.json", _statistics(results, parts))
    return (*(write_text(results.folder / name, text) for name, text in texts.items()), data)


def _markdown(results: Results, parts: Sequence[Section]) -> str:
    lines = ["# Benchmark", "", *(f"* {name}: {text}" for name, text in provenance(results)), ""]
    for part in parts:
        lines += [f"## {part.convention.name}", "", part.convention.description, ""]
        for table in part.tables:
            lines += [f"{table.title}:", "", markdown(table), ""]
        lines += [TEST, ""] if part.comparisons else []
    return "\n".join(lines)


def _latex(results: Results, parts: Sequence[Section]) -> str:
    lines = [f"% {name}: {text}" for name, text in provenance(results)]
    for part in parts:
        lines += ["", f"% {part.convention.name}: {part.convention.description}"]
        lines += [latex(table) for table in part.tables]
        lines += [tex(TEST)] if part.comparisons else []
    return "\n".join(lines) + "\n"


def _statistics(results: Results, parts: Sequence[Section]) -> dict[str, Any]:
    rows = [
        {"convention": part.convention.name, "metric": metric, "bundle": bundle, "subset": subset}
        | {"region": region, **asdict(summary)}
        for part in parts
        for metric in part.convention.metrics
        for (bundle, subset, region), summary in summaries(part.scores, metric).items()
    ]
    comparisons = [asdict(row) for part in parts for row in part.comparisons]
    return {"provenance": results.record, "summaries": rows, "test": TEST, "comparisons": comparisons}
