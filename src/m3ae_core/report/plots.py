"""Plots of a benchmark: every case's score by subset and region, and a slice segmented from every subset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from m3ae_core.evaluation.metrics import bounding_box
from m3ae_core.evaluation.registry import Metric
from m3ae_core.evaluation.results import Score
from m3ae_core.evaluation.slices import Slices
from m3ae_core.modalities import Subset
from m3ae_core.regions import LabelScheme
from m3ae_core.report.canvas import draw_slice, new_figure, tissue_overlay

#: One colour per model (Okabe and Ito's, told apart by the colour-blind too), again from the start after the sixth.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#000000")


def score_plot(scores: Sequence[Score], subsets: Sequence[Subset], metric: Metric) -> Any:
    """Draw a figure: one row per subset, one panel per region; a dot per case, a bar for median and quartiles."""
    bundles = list(dict.fromkeys(score.bundle for score in scores))
    regions = list(dict.fromkeys(score.region for score in scores))
    row = 0.26 + 0.12 * len(bundles)
    figure = new_figure(2 + 2.9 * len(regions), 1.2 + row * len(subsets))
    panels = figure.subplots(
        1, 1 + len(regions), sharey=True, width_ratios=[0.28 * len(subsets[0].of), *[2.6] * len(regions)]
    )
    _draw_presence(panels[0], subsets)
    for panel, region in zip(panels[1:], regions, strict=True):
        for index, bundle in enumerate(bundles):
            offset = 0.7 * ((index + 0.5) / len(bundles) - 0.5)
            chosen = [score for score in scores if (score.bundle, score.region) == (bundle, region)]
            _draw_scores(panel, chosen, subsets, metric, (offset, PALETTE[index % len(PALETTE)]))
        panel.set_title(region)
        panel.set_xlabel(metric.label)
        panel.set_xlim(*metric.limits)
        panel.grid(axis="x", color="0.9")
        panel.tick_params(axis="y", left=False)
        panel.spines[["top", "right", "left"]].set_visible(False)
    if len(bundles) > 1:
        handles = panels[1].lines[:: 2 * len(subsets)]  # two lines per subset, model after model
        figure.legend(handles, bundles, loc="outside upper center", ncols=len(bundles), frameon=False)
    return figure


def slices_plot(
    slices: Slices, values: Mapping[tuple[str, str], float], scheme: LabelScheme, columns: int = 4
) -> Any:
    """Draw a figure: the reference, then what was made of the slice from every subset.

    `values` are those of the whole case, as printed, per subset and region. A panel lies on the first modality of its
    subset.
    """
    count = 1 + len(slices.predictions)
    rows = -(-count // columns)
    shown = np.any([slices.reference, *slices.images.values()], axis=0)
    box = bounding_box(shown)
    height, width = slices.reference[box].shape
    figure = new_figure(2.3 * columns, rows * (2.3 * height / width + 0.45) + 0.1, "black")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    first = next(iter(slices.images.values()))
    drawn = [(first, slices.reference, "Reference")]
    for subset, labels in slices.predictions.items():
        scores = "  ".join(f"{region} {values[subset, region]:.0f}" for s, region in values if s == subset)
        drawn.append((slices.images[subset.split("+")[0]], labels, f"{subset}\n{scores}"))
    for panel, (image, labels, title) in zip(panels, drawn, strict=False):
        overlay = tissue_overlay({tissue: labels[box] == value for tissue, value in scheme.values})
        draw_slice(panel, image[box], (0, 255), title, overlay)
    for panel in panels[len(drawn) :]:
        panel.set_axis_off()
    return figure


def _draw_presence(panel: Any, subsets: Sequence[Subset]) -> None:
    """Draw a dot per row and modality, filled where it is present, as in the paper's Table 1."""
    names = subsets[0].of
    for column, name in enumerate(names):
        filled = ["black" if name in subset else "white" for subset in subsets]
        panel.scatter([column] * len(subsets), range(len(subsets)), c=filled, edgecolors="black", s=36)
    panel.set_xticks(range(len(names)), names, rotation=90)
    panel.xaxis.tick_top()
    panel.set_xlim(-0.6, len(names) - 0.4)
    panel.set_ylim(len(subsets) - 0.4, -0.6)
    panel.set_yticks([])
    panel.tick_params(length=0)
    panel.spines[:].set_visible(False)


def _draw_scores(
    panel: Any, scores: Sequence[Score], subsets: Sequence[Subset], metric: Metric, look: tuple[float, str]
) -> None:
    """Draw one model's scores of one region; `look` is its offset from the rows and its colour."""
    offset, colour = look
    for index, subset in enumerate(map(str, subsets)):
        row = index + offset
        values = [metric.factor * score.values[metric.column] for score in scores if score.subset == subset]
        q1, median, q3 = np.percentile(values, (25, 50, 75))
        panel.scatter(values, [row] * len(values), s=14, color=colour, alpha=0.4, linewidths=0)
        panel.plot([q1, q3], [row, row], color=colour, linewidth=2.2)
        panel.plot([median], [row], marker="|", color=colour, markersize=9, markeredgewidth=2)
