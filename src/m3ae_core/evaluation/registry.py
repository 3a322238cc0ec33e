"""The table of metrics: how each is measured and printed, and what an empty mask counts.

A metric is one entry of :data:`METRICS`, or comes from an outside package through the hook ``m3ae_metrics`` of
:mod:`m3ae_core.plugins`. Result files, tables, plots and statistics take all they need from the entry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from m3ae_core import plugins
from m3ae_core.errors import ConfigError
from m3ae_core.evaluation.lesionwise import lesionwise_dice
from m3ae_core.evaluation.metrics import Mask, hd95_mm


@dataclass(frozen=True)
class Overlap:
    """What was measured of a predicted mask and its reference, before any convention says what an empty mask counts.

    `predicted`, `reference` and `shared` are voxels of the two masks and of both at once, `diagonal_mm` is that of the
    image. `measured` holds the metrics of masks by name, None where one is not defined.
    """

    predicted: int
    reference: int
    shared: int
    voxel_mm3: float
    diagonal_mm: float
    measured: dict[str, float | None]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric of a predicted mask and its reference.

    Attributes
    ----------
    name, title
        Key of its values in result files, and what it is called in tables and plots.
    from_counts, from_masks
        How it is measured, by one of two: from the voxels predicted, of the reference, and shared by both; or from the
        masks (X, Y, Z) of prediction and reference and the voxel size in mm. None is for: not defined. Counts are
        always stored, so that a metric of counts needs no new measurement.
    unit, factor
        Unit in print, and what a value is multiplied by for it.
    better, limits
        Which values are better, and the ends of a plot's axis in the printed unit (None: as far as values reach).
    both_empty, undefined
        What counts if both masks are empty, and where else the metric is not defined, mostly since one mask is empty
        (``diagonal``: that of the image in mm).
    column
        Column of its scores: that of another metric for a variant that takes its place, else `name`.

    Raises
    ------
    ConfigError
        If both or neither of `from_counts` and `from_masks` are given (``metric``).
    """

    name: str
    title: str
    from_counts: Callable[[int, int, int], float | None] | None = None
    from_masks: Callable[[Mask, Mask, Sequence[float]], float | None] | None = None
    unit: str = ""
    factor: float = 1.0
    better: Literal["higher", "lower"] = "higher"
    limits: tuple[float | None, float | None] = (None, None)
    both_empty: float
    undefined: float | Literal["diagonal"]
    column: str = ""

    def __post_init__(self) -> None:
        if (self.from_counts is None) == (self.from_masks is None):
            problem = f"The metric {self.name!r} must have one of from_counts and from_masks."
            raise ConfigError(problem, "Give exactly one.", code="metric")
        object.__setattr__(self, "column", self.column or self.name)

    @property
    def label(self) -> str:
        """Title and unit, as in "HD95 in mm"."""
        return f"{self.title} in {self.unit}" if self.unit else self.title

    def score(self, scored: Overlap) -> float:
        """Return the metric's value, or what counts where it is not defined."""
        if not (scored.predicted or scored.reference):
            return self.both_empty
        counts = (scored.predicted, scored.reference, scored.shared)
        value = self.from_counts(*counts) if self.from_counts else scored.measured[self.name]
        if value is not None:
            return value
        return scored.diagonal_mm if self.undefined == "diagonal" else self.undefined


DICE = Metric(
    name="dice",
    title="Dice",
    from_counts=lambda predicted, reference, shared: 2 * shared / (predicted + reference),
    unit="%",
    factor=100,
    limits=(-2, 102),
    both_empty=1.0,
    undefined=0.0,
)
LESION_DICE = replace(  # not defined where all there is to see is too small to be scored
    DICE, name="lesion_dice", column="dice", from_counts=None, from_masks=lesionwise_dice, undefined=1.0
)
HD95 = Metric(
    name="hd95_mm",
    title="HD95",
    from_masks=hd95_mm,
    unit="mm",
    better="lower",
    limits=(0, None),
    both_empty=0.0,
    undefined="diagonal",
)
METRICS = (DICE, LESION_DICE, HD95)


def registered() -> tuple[Metric, ...]:
    """Return this package's metrics, then those of outside packages.

    Raises
    ------
    ConfigError
        If an outside metric is none, or its name is another one's (``plugins``).
    """
    outside = plugins.registered("metrics")
    taken = {metric.name for metric in METRICS}
    for name, metric in outside.items():
        if not isinstance(metric, Metric) or metric.name != name or name in taken:
            problem = (
                f"The metric {name!r} of an outside package is no Metric of that name, or the name is taken."
            )
            raise ConfigError(problem, "Update or uninstall the package.", code="plugins")
    return (*METRICS, *outside.values())


def overlap(
    prediction: Mask, reference: Mask, spacing: Sequence[float], metrics: Iterable[Metric] = METRICS
) -> Overlap:
    """Measure two masks (X, Y, Z) of one grid; `spacing` is the voxel size along its axes in mm."""
    return Overlap(
        int(np.count_nonzero(prediction)),
        int(np.count_nonzero(reference)),
        int(np.count_nonzero(prediction & reference)),
        float(np.prod(spacing)),
        float(np.linalg.norm(np.multiply(prediction.shape, spacing))),
        {m.name: m.from_masks(prediction, reference, spacing) for m in metrics if m.from_masks},
    )
