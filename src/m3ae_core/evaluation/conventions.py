"""Conventions of scoring: which metrics, what an empty mask counts, and what is removed from a prediction before.

Published figures are comparable only under one convention, so every result file names the one it was made under.
All use the distances of :func:`~m3ae_core.evaluation.metrics.hd95_mm`; they differ in what follows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from m3ae_core.evaluation.registry import DICE, HD95, LESION_DICE, Metric, Overlap


@dataclass(frozen=True)
class Convention:
    """One published way to score. Two empty masks agree perfectly in all of them: Dice 1, and 0 if one is empty.

    Attributes
    ----------
    name, description
        What it is called in result files, and what it does, for readers of reports.
    metrics
        The metrics that it defines, each with its own rule for empty masks; the first chooses examples.
    smallest_enhancing_mm3
        A predicted enhancing tumour of less volume is removed before it is scored; the other regions are not touched.
    """

    name: str
    description: str
    metrics: tuple[Metric, ...]
    smallest_enhancing_mm3: float = 0.0

    def applied(self, region: str, measured: Overlap) -> Overlap:
        """Return what is scored: `measured`, or nothing predicted where the prediction is removed."""
        if region == "ET" and measured.predicted * measured.voxel_mm3 < self.smallest_enhancing_mm3:
            return replace(measured, predicted=0, shared=0, measured=dict.fromkeys(measured.measured))
        return measured

    def scores(self, scored: Overlap) -> dict[str, float]:
        """Return the metrics of what :meth:`applied` gave, by column of ``scores.csv``."""
        return {metric.column: metric.score(scored) for metric in self.metrics}


BRATS_LEGACY = Convention(
    "brats_legacy",
    "The BraTS servers of 2018 to 2022, without post-processing. Both masks empty: Dice 1, HD95 0. One empty: Dice 0, "
    "HD95 the diagonal of the image in mm (373.13 on the BraTS grid of 240 × 240 × 155 mm).",
    (DICE, HD95),
)
M3AE_PAPER = Convention(
    "m3ae_paper",
    "The evaluation of the M3AE paper, without post-processing. Both masks empty: Dice 1, HD95 0. One empty: Dice 0, "
    "HD95 0, which flatters.",
    (DICE, replace(HD95, undefined=0.0)),
)
RFNET_PP500 = Convention(
    "rfnet_pp500",
    "RFNet and its successors: a predicted enhancing tumour (ET) of less than 500 mm³, which is 500 voxels at 1 mm, is "
    "removed; WT and TC are not touched. Both masks empty: Dice 1. One empty: Dice 0. No HD95.",
    (DICE,),
    smallest_enhancing_mm3=500.0,
)
BRATS_LESIONS = Convention(
    "brats_lesions",
    "The BraTS challenges since 2023: mean Dice over the lesions of the reference, which is dilated by 3 mm to tell "
    "them apart, and over predicted components that touch none, which count 0 as missed lesions do. Lesions below "
    "50 mm³ are not scored. Both masks empty: Dice 1. One empty: Dice 0. No HD95.",
    (LESION_DICE,),
)
CONVENTIONS = (BRATS_LEGACY, M3AE_PAPER, RFNET_PP500, BRATS_LESIONS)


def conventions_for(metrics: Iterable[Metric]) -> tuple[Convention, ...]:
    """Return the conventions for results of these metrics: what none of them names is scored under the first."""
    named = {metric.name for convention in CONVENTIONS for metric in convention.metrics}
    others = tuple(metric for metric in metrics if metric.name not in named)
    return (replace(BRATS_LEGACY, metrics=(*BRATS_LEGACY.metrics, *others)), *CONVENTIONS[1:])
