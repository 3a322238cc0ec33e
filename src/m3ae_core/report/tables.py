"""Tables of a benchmark in the layout of the paper's Table 1; ``templates/table.*`` write them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from m3ae_core.evaluation.registry import Metric
from m3ae_core.evaluation.results import Score
from m3ae_core.evaluation.statistics import Cell, Comparison, Summary, average
from m3ae_core.modalities import Subset

PRESENT, MISSING = "●", "○"


@dataclass(frozen=True)
class Table:
    """Text in cells: a dot per modality (● present, ○ missing), then one column per region and model.

    `last` is a row of another kind below the others: its name, which stands below all dots, and its texts.
    """

    title: str
    modalities: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[Subset, tuple[str, ...]], ...]
    last: tuple[str, tuple[str, ...]] | None = None

    @property
    def head(self) -> tuple[str, ...]:
        """The names above all columns."""
        return (*self.modalities, *self.columns)

    @property
    def body(self) -> tuple[tuple[str, ...], ...]:
        """The rows with their dots."""
        return tuple(
            (*(PRESENT if name in subset else MISSING for name in self.modalities), *texts)
            for subset, texts in self.rows
        )


def score_table(
    cells: Mapping[Cell, Summary], subsets: Sequence[Subset], metric: Metric, title: str
) -> Table:
    """Return mean ± SD per subset, region and model, and below the average of the means over the subsets."""

    def text(summary: Summary) -> str:
        mean = f"{metric.factor * summary.mean:.1f}"
        return mean if summary.sd is None else f"{mean} ± {metric.factor * summary.sd:.1f}"

    def mean(bundle: str, region: str) -> str:
        return f"{metric.factor * average(cells, bundle, region):.1f}"

    texts = {cell: text(summary) for cell, summary in cells.items()}
    counts = sorted({summary.n for summary in cells.values()})
    n = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return _table(f"{metric.label}, mean ± SD, n = {n} ({title})", subsets, texts, ("Average", mean))


def empty_table(scores: Sequence[Score], subsets: Sequence[Subset], title: str) -> Table:
    """Return the number of cases whose prediction is empty, and below of those whose reference is."""
    predicted, reference = Counter[Cell](), Counter[Cell]()
    for score in scores:
        cell = (score.bundle, score.subset, score.region)
        predicted[cell] += score.predicted_empty
        reference[cell] += score.reference_empty

    def wanted(bundle: str, region: str) -> str:
        return str(reference[bundle, str(subsets[0]), region])

    texts = {cell: str(count) for cell, count in predicted.items()}
    title = f"Empty predictions, n = {len({score.case for score in scores})} ({title})"
    return _table(title, subsets, texts, ("Empty references", wanted))


def comparison_tables(
    comparisons: Sequence[Comparison], subsets: Sequence[Subset], metric: Metric, title: str
) -> tuple[Table, ...]:
    """Return a table per pair of models: median difference (second minus first) and corrected p-value."""
    unit = "percentage points" if metric.unit == "%" else metric.unit
    pairs: dict[tuple[str, str], dict[Cell, str]] = {}
    for row in comparisons:
        p = "<0.001" if row.p_holm < 0.001 else f"{row.p_holm:.3f}"
        text = f"{metric.factor * row.median_difference:+.1f} ({p})"
        pairs.setdefault((row.first, row.second), {})[row.second, row.subset, row.region] = text
    within = f" in {unit}" if unit else ""
    return tuple(
        _table(
            f"{metric.title}, {second} minus {first}: median difference{within} (p after Holm) ({title})",
            subsets,
            texts,
        )
        for (first, second), texts in pairs.items()
    )


def _table(
    title: str,
    subsets: Sequence[Subset],
    texts: Mapping[Cell, str],
    last: tuple[str, Callable[[str, str], str]] | None = None,
) -> Table:
    """Lay out texts by cell; `last` names the last row and gives its texts by model and region."""
    bundles, regions = (list(dict.fromkeys(cell[place] for cell in texts)) for place in (0, 2))
    columns = [(bundle, region) for region in regions for bundle in bundles]
    names = [region if len(bundles) == 1 else f"{region}, {bundle}" for bundle, region in columns]
    rows = tuple(
        (subset, tuple(texts[bundle, str(subset), region] for bundle, region in columns))
        for subset in subsets
    )
    below = last and (last[0], tuple(last[1](*column) for column in columns))
    return Table(title, subsets[0].of, tuple(names), rows, below)
