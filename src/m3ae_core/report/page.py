"""One self-contained HTML page that shows a benchmark: plots, tables, slices and provenance, nothing from outside."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence

import numpy as np

from m3ae_core.evaluation.results import Model, Results, Score
from m3ae_core.evaluation.slices import read_slices
from m3ae_core.evaluation.statistics import TEST
from m3ae_core.evaluation.store import scheme_of, slices_file
from m3ae_core.regions import COLOURS
from m3ae_core.report.canvas import data_uri
from m3ae_core.report.plots import score_plot, slices_plot
from m3ae_core.report.sections import Section, provenance
from m3ae_core.report.tables import html_table

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 2.5rem; border-bottom: 1px solid #ccc; }
.notice { background: #fff4d6; border-left: 4px solid #e0a100; padding: .5rem 1rem; }
table { border-collapse: collapse; margin: 1rem 0 2rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding-bottom: .4rem; }
th, td { padding: .15rem .7rem; text-align: center; white-space: nowrap; }
th { border-bottom: 2px solid #222; } tr:nth-child(even) td { background: #f5f5f5; }
tr.last td { border-top: 2px solid #222; font-weight: 600; }
.wide { overflow-x: auto; } img { max-width: 100%; height: auto; } figcaption { color: #555; }
figure { margin: 1rem 0 2rem; } summary { cursor: pointer; font-weight: 600; }
.legend span { display: inline-block; width: .9em; height: .9em; margin-left: .8em; }
dt { font-weight: 600; } dd { margin: 0 0 .4rem 0; overflow-wrap: anywhere; }
"""


def page(results: Results, parts: Sequence[Section]) -> str:
    """Return the page as text; the first section's convention is the one whose scores are plotted.

    Raises
    ------
    ConfigError
        If matplotlib is not installed.
    """
    names = ", ".join(model.label for model in results.models)
    body = [
        f"<h1>Benchmark of {html.escape(names)}</h1>",
        f'<p class="notice">{html.escape(results.record["notice"])}</p>',
        f"<p>Every case (n = {len(results.record['cases'])}) was segmented from each of the {len(results.subsets)} "
        f"subsets of {html.escape(', '.join(results.modalities))}.</p>",
        *_plots(results, parts[0]),
        *(_section(part) for part in parts),
        *_examples(results, parts[0].scores),
        "<h2>Provenance</h2>",
        _definitions(results),
    ]
    head = f'<meta charset="utf-8"><title>Benchmark of {html.escape(names)}</title><style>{STYLE}</style>'
    content = "\n".join(body)
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{content}\n</body></html>\n'


def _plots(results: Results, part: Section) -> Iterator[str]:
    for metric in part.convention.metrics:
        plot = score_plot(part.scores, results.subsets, metric)
        name = "Dice" if metric == "dice" else "HD95"
        yield _figure(
            data_uri(plot),
            f"{name} ({part.convention.name}). A dot is a case; the line spans the quartiles, its mark is the median.",
        )


def _section(part: Section) -> str:
    tables = "\n".join(f'<div class="wide">{html_table(table)}</div>' for table in part.tables)
    test = f"<p>{html.escape(TEST)}</p>" if part.comparisons else ""
    description = html.escape(part.convention.description)
    return f"<h2>Convention {html.escape(part.convention.name)}</h2>\n<p>{description}</p>\n{tables}\n{test}"


def _examples(results: Results, scores: Sequence[Score]) -> Iterator[str]:
    """Show, for every model, the case nearest the median and the worst one, chosen by the first model's mean Dice."""
    yield "<h2>Example slices</h2>"
    legend = " ".join(
        f'<span style="background: {colour}"></span> {tissue}' for tissue, colour in COLOURS.items()
    )
    yield f'<p class="legend">{legend}. Patient\'s right on the left.</p>'
    for kind, case in example_cases(scores).items():
        for model in results.models:
            yield _example(results, scores, model, case, kind)


def example_cases(scores: Sequence[Score]) -> dict[str, str]:
    """Return the case whose mean Dice with the first model is nearest the median, and the worst one if another."""
    by_case: dict[str, list[float]] = {}
    for score in scores:
        if score.bundle == scores[0].bundle:
            by_case.setdefault(score.case, []).append(score.dice)
    means = {case: float(np.mean(values)) for case, values in by_case.items()}
    middle = float(np.median(list(means.values())))
    typical = min(means, key=lambda case: abs(means[case] - middle))
    worst = min(means, key=means.__getitem__)
    return {"Typical case": typical} | ({"Worst case": worst} if worst != typical else {})


def _example(results: Results, scores: Sequence[Score], model: Model, case: str, kind: str) -> str:
    slices = read_slices(slices_file(results.folder, model.fingerprint, case))
    dice = {
        (score.subset, score.region): score.dice
        for score in scores
        if (score.bundle, score.case) == (model.label, case)
    }
    plot = slices_plot(slices, dice, scheme_of(results.record, case))
    caption = (
        f"{kind} {case}, {model.label}: the slice with most reference tumour; Dice of the whole case in %."
    )
    return _figure(data_uri(plot), caption)


def _figure(source: str, caption: str) -> str:
    text = html.escape(caption)
    return f'<figure><img alt="{text}" src="{source}"><figcaption>{text}</figcaption></figure>'


def _definitions(results: Results) -> str:
    items = [
        f"<dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd>" for name, text in provenance(results)
    ]
    cases = "\n".join(
        f"<li>{html.escape(case['name'])} <code>{case['sha256']}</code></li>"
        for case in results.record["cases"]
    )
    return f"<dl>{''.join(items)}</dl>\n<details><summary>Cases</summary><ul>{cases}</ul></details>"
