"""Conventions of scoring: what an empty mask counts, and what is done to a prediction before it is scored.

Published figures are comparable only under one convention, so every result file names the one it was made under.
All use the distances of :func:`~m3ae_core.evaluation.metrics.hd95_mm`; they differ in what follows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from m3ae_core.evaluation.metrics import Overlap

Metric = Literal["dice", "hd95_mm"]


@dataclass(frozen=True)
class Convention:
    """One published way to score. Two empty masks agree perfectly in all of them: Dice 1, and 0 if one is empty.

    Attributes
    ----------
    name, description
        What it is called in result files, and what it does, for readers of reports.
    hd95_if_one_is_empty
        The distance that counts where only one mask is empty: the image's diagonal (373.13 mm on the grid of
        BraTS) or zero. None if the convention has no distances.
    smallest_enhancing_mm3
        A predicted enhancing tumour of less volume is removed before it is scored; the other regions are not touched.
    lesionwise
        Whether Dice is the mean over lesions and false positives
        (:func:`~m3ae_core.evaluation.lesionwise.lesionwise_dice`).
    """

    name: str
    description: str
    hd95_if_one_is_empty: Literal["diagonal", "zero"] | None
    smallest_enhancing_mm3: float = 0.0
    lesionwise: bool = False

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics that the convention defines."""
        return ("dice",) if self.hd95_if_one_is_empty is None else ("dice", "hd95_mm")

    def applied(self, region: str, measured: Overlap) -> Overlap:
        """Return what is scored: `measured`, or nothing predicted where the prediction is removed."""
        if region == "ET" and measured.predicted * measured.voxel_mm3 < self.smallest_enhancing_mm3:
            return replace(measured, predicted=0, dice=0.0 if measured.reference else None, hd95_mm=None)
        return measured

    def dice(self, scored: Overlap) -> float:
        """Return the Dice similarity in [0, 1] of what :meth:`applied` gave."""
        dice = scored.lesion_dice if self.lesionwise else scored.dice
        return 1.0 if dice is None else dice

    def hd95_mm(self, scored: Overlap) -> float | None:
        """Return the 95 % Hausdorff distance in mm of what :meth:`applied` gave; None if the convention has none."""
        if self.hd95_if_one_is_empty is None:
            return None
        if scored.hd95_mm is not None:
            return scored.hd95_mm
        one_is_empty = scored.predicted > 0 or scored.reference > 0
        return scored.diagonal_mm if one_is_empty and self.hd95_if_one_is_empty == "diagonal" else 0.0


BRATS_LEGACY = Convention(
    "brats_legacy",
    "The BraTS servers of 2018 to 2022, without post-processing. Both masks empty: Dice 1, HD95 0. One empty: Dice 0, "
    "HD95 the diagonal of the image in mm (373.13 on the BraTS grid of 240 × 240 × 155 mm).",
    "diagonal",
)
M3AE_PAPER = Convention(
    "m3ae_paper",
    "The evaluation of the M3AE paper, without post-processing. Both masks empty: Dice 1, HD95 0. One empty: Dice 0, "
    "HD95 0, which flatters.",
    "zero",
)
RFNET_PP500 = Convention(
    "rfnet_pp500",
    "RFNet and its successors: a predicted enhancing tumour (ET) of less than 500 mm³, which is 500 voxels at 1 mm, is "
    "removed; WT and TC are not touched. Both masks empty: Dice 1. One empty: Dice 0. No HD95.",
    None,
    smallest_enhancing_mm3=500.0,
)
BRATS_LESIONS = Convention(
    "brats_lesions",
    "The BraTS challenges since 2023: mean Dice over the lesions of the reference, which is dilated by 3 mm to tell "
    "them apart, and over predicted components that touch none, which count 0 as missed lesions do. Lesions below "
    "50 mm³ are not scored. Both masks empty: Dice 1. One empty: Dice 0. No HD95.",
    None,
    lesionwise=True,
)
CONVENTIONS = (BRATS_LEGACY, M3AE_PAPER, RFNET_PP500, BRATS_LESIONS)
