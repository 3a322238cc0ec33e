"""Tables of a benchmark in the layout of the paper's Table 1, as Markdown, LaTeX or HTML; rows as CSV."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from m3ae_core import files
from m3ae_core.evaluation.conventions import Metric
from m3ae_core.evaluation.results import Score
from m3ae_core.evaluation.statistics import Cell, Comparison, Summary, average
from m3ae_core.modalities import Subset

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

PRESENT, MISSING = "●", "○"
_TITLES = {"dice": "Dice in %, mean ± SD", "hd95_mm": "HD95 in mm, mean ± SD"}
_TEX = {PRESENT: r"$\bullet$", MISSING: r"$\circ$", "±": r"$\pm$", "−": "$-$", "³": "$^3$", "×": r"$\times$"}
_TEX |= {"<": "$<$", ">": "$>$"}
_TEX |= {sign: f"\\{sign}" for sign in "&%$#_{}"} | {"\\": r"\textbackslash{}"}


@dataclass(frozen=True)
class Table:
    """Text in cells: a dot per sequence (● present, ○ missing), then one column per region and model.

    `last` is a row of another kind below the others: its name, which stands below all dots, and its texts.
    """

    title: str
    modalities: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[Subset, tuple[str, ...]], ...]
    last: tuple[str, tuple[str, ...]] | None = None


def score_table(
    cells: Mapping[Cell, Summary], subsets: Sequence[Subset], metric: Metric, title: str
) -> Table:
    """Return mean ± SD per subset, region and model, and below the average of the means over the subsets."""
    bundles, regions = _axes(cells)
    scale = 100 if metric == "dice" else 1

    def text(summary: Summary) -> str:
        mean = f"{scale * summary.mean:.1f}"
        return mean if summary.sd is None else f"{mean} ± {scale * summary.sd:.1f}"

    rows = _rows(subsets, cells, lambda cell: text(cells[cell]))
    means = tuple(f"{scale * average(cells, bundle, region):.1f}" for region in regions for bundle in bundles)
    title = f"{_TITLES[metric]}, n = {_counts(cells)} ({title})"
    return Table(title, subsets[0].of, _columns(bundles, regions), rows, ("Average", means))


def empty_table(scores: Sequence[Score], subsets: Sequence[Subset], title: str) -> Table:
    """Return the number of cases whose prediction is empty, and below of those whose reference is."""
    predicted: dict[Cell, int] = {}
    reference: dict[Cell, int] = {}
    for score in scores:
        cell = (score.bundle, score.subset, score.region)
        predicted[cell] = predicted.get(cell, 0) + score.predicted_empty
        reference[cell] = reference.get(cell, 0) + score.reference_empty
    bundles, regions = _axes(predicted)
    wanted = tuple(
        str(reference[bundle, str(subsets[0]), region]) for region in regions for bundle in bundles
    )
    rows = _rows(subsets, predicted, lambda cell: str(predicted[cell]))
    title = f"Empty predictions, n = {len({score.case for score in scores})} ({title})"
    return Table(title, subsets[0].of, _columns(bundles, regions), rows, ("Empty references", wanted))


def comparison_tables(
    comparisons: Sequence[Comparison], subsets: Sequence[Subset], metric: Metric, title: str
) -> tuple[Table, ...]:
    """Return a table per pair of models: median difference (second minus first) and corrected p-value."""
    scale, unit = (100, "percentage points") if metric == "dice" else (1, "mm")
    name = "Dice" if metric == "dice" else "HD95"
    tables = []
    for first, second in dict.fromkeys((row.first, row.second) for row in comparisons):
        pair = {
            (second, row.subset, row.region): row
            for row in comparisons
            if (row.first, row.second) == (first, second)
        }
        texts = {
            cell: f"{scale * row.median_difference:+.1f} ({_p(row.p_holm)})" for cell, row in pair.items()
        }
        _, regions = _axes(texts)
        heading = f"{name}, {second} minus {first}: median difference in {unit} (p after Holm) ({title})"
        rows = _rows(subsets, texts, texts.__getitem__)
        tables.append(Table(heading, subsets[0].of, regions, rows))
    return tuple(tables)


def markdown(table: Table) -> str:
    """Return the table in GitHub's Markdown."""
    head = [*table.modalities, *table.columns]
    lines = [head, ["---"] * len(head), *_cells(table)]
    if table.last:
        name, values = table.last
        blank = [""] * (len(table.modalities) - 1)
        lines.append([f"**{name}**", *blank, *(f"**{value}**" for value in values)])
    return "\n".join("| " + " | ".join(text.replace("|", r"\|") for text in line) + " |" for line in lines)


def latex(table: Table) -> str:
    """Return the table as a LaTeX ``table`` that needs no package."""
    dots, columns = len(table.modalities), len(table.columns)

    def line(texts: Sequence[str]) -> str:
        return " & ".join(tex(text) for text in texts) + r" \\"

    body = [line(row) for row in _cells(table)]
    if table.last:
        name, values = table.last
        body += [r"\hline", rf"\multicolumn{{{dots}}}{{c|}}{{{tex(name)}}} & {line(values)}"]
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{tex(table.title)}}}",
            rf"\begin{{tabular}}{{{'c' * dots}|{'c' * columns}}}",
            r"\hline",
            line([*table.modalities, *table.columns]),
            r"\hline",
            *body,
            r"\hline",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )


def html_table(table: Table) -> str:
    """Return the table as an HTML ``table``."""

    def line(texts: Sequence[str], tag: str = "td") -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(text)}</{tag}>" for text in texts) + "</tr>"

    head = line([*table.modalities, *table.columns], "th")
    foot = ""
    if table.last:
        name, values = table.last
        values_html = "".join(f"<td>{html.escape(value)}</td>" for value in values)
        foot = f'<tr class="last"><td colspan="{len(table.modalities)}">{html.escape(name)}</td>{values_html}</tr>'
    body = "\n".join(line(row) for row in _cells(table))
    return f"<table><caption>{html.escape(table.title)}</caption>\n{head}\n{body}\n{foot}</table>"


def csv_text(rows: Sequence[DataclassInstance]) -> str:
    """Return dataclass instances (at least one) as CSV with a header line; None becomes an empty field."""
    content = [asdict(row) for row in rows]
    return files.csv_text(list(content[0]), [list(row.values()) for row in content])


def tex(text: str) -> str:
    """Return text with what LaTeX would read as commands written out."""
    return "".join(_TEX.get(sign, sign) for sign in text)


def _axes(cells: Mapping[Cell, object]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the models and the regions of some cells, in order of appearance."""
    bundles = dict.fromkeys(bundle for bundle, _, _ in cells)
    return tuple(bundles), tuple(dict.fromkeys(region for _, _, region in cells))


def _columns(bundles: Sequence[str], regions: Sequence[str]) -> tuple[str, ...]:
    if len(bundles) == 1:
        return tuple(regions)
    return tuple(f"{region}, {bundle}" for region in regions for bundle in bundles)


def _rows(
    subsets: Sequence[Subset], cells: Mapping[Cell, object], text: Callable[[Cell], str]
) -> tuple[tuple[Subset, tuple[str, ...]], ...]:
    bundles, regions = _axes(cells)
    return tuple(
        (subset, tuple(text((bundle, str(subset), region)) for region in regions for bundle in bundles))
        for subset in subsets
    )


def _cells(table: Table) -> list[list[str]]:
    return [
        [*(PRESENT if name in subset else MISSING for name in table.modalities), *texts]
        for subset, texts in table.rows
    ]


def _counts(cells: Mapping[Cell, Summary]) -> str:
    counts = sorted({summary.n for summary in cells.values()})
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def _p(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"
