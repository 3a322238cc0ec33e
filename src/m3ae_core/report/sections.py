"""What a benchmark's report says: the tables of each convention, and where the figures come from."""

from __future__ import annotations

from dataclasses import dataclass

from m3ae_core.evaluation.conventions import Convention
from m3ae_core.evaluation.results import Results, Score
from m3ae_core.evaluation.statistics import Comparison, compare, summaries
from m3ae_core.report.tables import Table, comparison_tables, empty_table, score_table


@dataclass(frozen=True)
class Section:
    """Scores, tests and tables under one convention; no tests where there is one model."""

    convention: Convention
    scores: tuple[Score, ...]
    comparisons: tuple[Comparison, ...]
    tables: tuple[Table, ...]


def sections(results: Results) -> tuple[Section, ...]:
    """Return a section per convention."""
    return tuple(_section(results, convention) for convention in results.conventions)


def provenance(results: Results) -> tuple[tuple[str, str], ...]:
    """Return what every report says about its origin, as names and texts."""
    record = results.record
    return (
        ("Made by", f"napari-m3ae {record['made_by']['napari-m3ae']}"),
        *(
            (f"Model {model.label}", f"weights SHA-256 {model.sha256}, fingerprint {model.fingerprint}")
            for model in results.models
        ),
        ("Cases", f"{len(record['cases'])}, list SHA-256 {record['case_list_sha256']}"),
        ("Label scheme", record["scheme"]),
        ("Conventions", ", ".join(record["conventions"])),
        ("Arithmetic", record.get("arithmetic", "not recorded")),
        ("Device", ", ".join(record["devices"])),
        ("Versions", ", ".join(f"{name} {version}" for name, version in record["versions"].items())),
        ("Notice", record["notice"]),
    )


def _section(results: Results, convention: Convention) -> Section:
    scores, subsets, title = results.scores(convention), results.subsets, convention.name
    tables: list[Table] = []
    comparisons: list[Comparison] = []
    for metric in convention.metrics:
        tables.append(score_table(summaries(scores, metric.column), subsets, metric, title))
        if len(results.models) > 1:
            tests = compare(scores, metric.column)
            tables += comparison_tables(tests, subsets, metric, title)
            comparisons += tests
    tables.append(empty_table(scores, subsets, title))
    return Section(convention, scores, tuple(comparisons), tuple(tables))
