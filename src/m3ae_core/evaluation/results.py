"""What a benchmark measured: raw overlaps per case and model, and all of them together as scores under a convention."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m3ae_core.evaluation.conventions import Convention, conventions_for
from m3ae_core.evaluation.registry import METRICS, Metric, Overlap
from m3ae_core.modalities import ModalitySet, Subset

#: The rows of the paper's Tables 1 and S3, in its order.
# fmt: off
PAPER_ROWS = (
    "T2", "T1c", "T1", "FLAIR",
    "T1c+T2", "T1+T1c", "FLAIR+T1", "T1+T2", "FLAIR+T2", "FLAIR+T1c",
    "FLAIR+T1+T1c", "FLAIR+T1+T2", "FLAIR+T1c+T2", "T1+T1c+T2",
    "FLAIR+T1+T1c+T2",
)
# fmt: on
#: The modalities of the paper in the order of its columns.
PAPER_MODALITIES = tuple(PAPER_ROWS[-1].split("+"))


@dataclass(frozen=True)
class Model:
    """One measured model.

    `label` is its name in tables, unique within a benchmark; `sha256` that of its weights, as every prediction quotes
    it; `fingerprint` that of all that decides about its answers: weights, substitute image and configuration.
    """

    label: str
    sha256: str
    fingerprint: str


@dataclass(frozen=True)
class Measurement:
    """One case measured with one model from every subset of its modalities, on `device`.

    `key` is what the figures depend on: hashes of case and model, label scheme, arithmetic, code version. A measurement
    with another key than the wanted one is taken again. `overlaps` are by subset and region.
    """

    key: dict[str, str]
    device: str
    overlaps: dict[str, dict[str, Overlap]]


@dataclass(frozen=True)
class Score:
    """What one mask scores under one convention, with all it depends on; the row of ``scores.csv``.

    `values` holds the convention's metrics by column. Voxel counts are those scored, after what the convention removes.
    """

    bundle: str
    bundle_sha256: str
    case: str
    subset: str
    region: str
    convention: str
    values: dict[str, float]
    predicted_voxels: int
    reference_voxels: int
    predicted_empty: bool
    reference_empty: bool
    case_sha256: str
    case_list_sha256: str
    device: str
    code_version: str


@dataclass(frozen=True)
class Results:
    """A finished benchmark: its folder, the content of ``benchmark.json`` (`record`), and what was measured.

    Modalities and regions are in the order of the tables; there is one measurement per case and model.
    """

    folder: Path
    record: dict[str, Any]
    models: tuple[Model, ...]
    modalities: tuple[str, ...]
    regions: tuple[str, ...]
    measurements: tuple[Measurement, ...]
    metrics: tuple[Metric, ...] = METRICS

    @property
    def subsets(self) -> tuple[Subset, ...]:
        """The subsets in the order of the tables."""
        return table_order(ModalitySet.named(self.modalities))

    @property
    def conventions(self) -> tuple[Convention, ...]:
        """The conventions, with all metrics that were measured."""
        return conventions_for(self.metrics)

    def scores(self, convention: Convention) -> tuple[Score, ...]:
        """Return every case, model, subset and region scored under one convention."""
        return tuple(
            self._score(convention, measurement, str(subset), region)
            for measurement in self.measurements
            for subset in self.subsets
            for region in self.regions
        )

    def _score(self, convention: Convention, measurement: Measurement, subset: str, region: str) -> Score:
        key = measurement.key
        scored = convention.applied(region, measurement.overlaps[subset][region])
        return Score(
            next(model.label for model in self.models if model.fingerprint == key["fingerprint"]),
            key["bundle_sha256"],
            key["case"],
            subset,
            region,
            convention.name,
            convention.scores(scored),
            scored.predicted,
            scored.reference,
            scored.predicted == 0,
            scored.reference == 0,
            key["case_sha256"],
            self.record["case_list_sha256"],
            measurement.device,
            key["code_version"],
        )


def paper_order(modalities: ModalitySet) -> ModalitySet:
    """Return the set in the order of the paper's columns if it is the paper's, else as it is."""
    own = {*modalities.names} == {*PAPER_MODALITIES}
    return ModalitySet.named(PAPER_MODALITIES) if own else modalities


def table_order(modalities: ModalitySet) -> tuple[Subset, ...]:
    """Return all subsets in the order of the paper's rows where the modalities are the paper's, else smallest first."""
    if {*modalities.names} != {*PAPER_MODALITIES}:
        return modalities.subsets()
    return tuple(modalities.subset(row.split("+")) for row in PAPER_ROWS)
