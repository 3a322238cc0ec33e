"""What a benchmark measured: raw overlaps per case and model, and all of them together as scores under a convention."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m3ae_core.evaluation.conventions import Convention
from m3ae_core.evaluation.metrics import Overlap
from m3ae_core.modalities import BRATS, ModalitySet, Subset

#: The rows of the paper's Tables 1 and S3, in its order.
PAPER_ROWS = (
    "T2",
    "T1c",
    "T1",
    "FLAIR",
    "T1c+T2",
    "T1+T1c",
    "FLAIR+T1",
    "T1+T2",
    "FLAIR+T2",
    "FLAIR+T1c",
    "FLAIR+T1+T1c",
    "FLAIR+T1+T2",
    "FLAIR+T1c+T2",
    "T1+T1c+T2",
    "FLAIR+T1+T1c+T2",
)


@dataclass(frozen=True)
class Model:
    """One measured model.

    Attributes
    ----------
    label
        Its name in tables, unique within a benchmark.
    sha256
        Identity of its weights, as every prediction quotes it.
    fingerprint
        SHA-256 of all that decides about its answers: weights, substitute image and configuration.
    """

    label: str
    sha256: str
    fingerprint: str


@dataclass(frozen=True)
class Measurement:
    """One case measured with one model from every subset of its sequences.

    Attributes
    ----------
    key
        What the figures depend on: hashes of case and model, label scheme, arithmetic, code version. A measurement
        whose key is not the wanted one is taken again.
    device
        Where the model ran.
    overlaps
        Subset -> region -> overlap.
    """

    key: dict[str, str]
    device: str
    overlaps: dict[str, dict[str, Overlap]]


@dataclass(frozen=True)
class Score:
    """One number of a result table, with all it depends on; the row of ``scores.csv``.

    Voxel counts are those scored, after what the convention removes. Dice is in [0, 1]; `hd95_mm` is None where the
    convention has no distances.
    """

    bundle: str
    bundle_sha256: str
    case: str
    subset: str
    region: str
    convention: str
    dice: float
    hd95_mm: float | None
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
    """A finished benchmark.

    Attributes
    ----------
    folder
        Where it lies.
    record
        The content of ``benchmark.json``: provenance.
    models, modalities, regions
        What was measured; names in the order of the tables.
    measurements
        One per case and model.
    """

    folder: Path
    record: dict[str, Any]
    models: tuple[Model, ...]
    modalities: tuple[str, ...]
    regions: tuple[str, ...]
    measurements: tuple[Measurement, ...]

    @property
    def subsets(self) -> tuple[Subset, ...]:
        """The subsets in the order of the tables."""
        return table_order(ModalitySet.named(self.modalities))

    def scores(self, convention: Convention) -> tuple[Score, ...]:
        """Return every case, model, subset and region scored under one convention."""
        labels = {model.fingerprint: model.label for model in self.models}
        return tuple(
            self._score(convention, labels[measurement.key["fingerprint"]], measurement, str(subset), region)
            for measurement in self.measurements
            for subset in self.subsets
            for region in self.regions
        )

    def _score(
        self, convention: Convention, label: str, measurement: Measurement, subset: str, region: str
    ) -> Score:
        key = measurement.key
        scored = convention.applied(region, measurement.overlaps[subset][region])
        return Score(
            bundle=label,
            bundle_sha256=key["bundle_sha256"],
            case=key["case"],
            subset=subset,
            region=region,
            convention=convention.name,
            dice=convention.dice(scored),
            hd95_mm=convention.hd95_mm(scored),
            predicted_voxels=scored.predicted,
            reference_voxels=scored.reference,
            predicted_empty=scored.predicted == 0,
            reference_empty=scored.reference == 0,
            case_sha256=key["case_sha256"],
            case_list_sha256=self.record["case_list_sha256"],
            device=measurement.device,
            code_version=key["code_version"],
        )


def table_order(modalities: ModalitySet) -> tuple[Subset, ...]:
    """Return all subsets in the paper's order where the modalities are BraTS's, else smallest first."""
    if set(modalities.names) != set(BRATS.names):
        return modalities.subsets()
    return tuple(modalities.subset(row.split("+")) for row in PAPER_ROWS)
