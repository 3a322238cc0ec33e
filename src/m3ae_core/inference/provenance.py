"""How a segmentation was made: the content of its sidecar, and the warnings a user must see."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import torch

from m3ae_core import __version__
from m3ae_core.bundle import Bundle
from m3ae_core.config import ModelConfig
from m3ae_core.data.preprocess import StandardCase
from m3ae_core.io.case import Case
from m3ae_core.measure import tissue_volumes
from m3ae_core.regions import LabelScheme

NOTICE = "Research use only. Not a medical device. Check every result."


@dataclass(frozen=True)
class Conditions:
    """How a prediction was computed.

    `fallbacks` say what had to be computed otherwise than asked for; `checked` tells whether unprepared images and
    mixed-up sequences were looked for, `same_patient` whether the user vouched that all are of one patient.
    """

    device: torch.device
    precision: torch.dtype
    fallbacks: tuple[str, ...]
    warnings: tuple[str, ...]
    checked: bool
    same_patient: bool


def describe(
    bundle: Bundle, config: ModelConfig, standard: StandardCase, case: Case, how: Conditions
) -> dict[str, Any]:
    """Return the JSON-ready record of one prediction, without its labels.

    `config` is how the bundle was applied. Sequences are identified by the SHA-256 of their decoded voxels
    (:attr:`Volume.sha256`), never by a path.
    """
    subset = standard.subset
    return {
        "notice": NOTICE,
        "made_by": {"napari-m3ae": __version__, "edited": False},
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "case": case.name,
        "sequences_present": {name: case.volumes[name].sha256 for name in subset.present},
        "sequences_substituted": list(subset.missing),
        "model": {
            "name": bundle.name,
            "sha256": bundle.sha256,
            "fingerprint": bundle.fingerprint,
            "method": config.method,
            "preset": config.preset,
            "licence": bundle.card.get("licence"),
            "inference": config.inference.model_dump(mode="json"),
        },
        "reliability": subset.entry(bundle.card.get("reliability", {})),
        "placement": {"method": standard.placement.method, "offset_mm": standard.placement.offset},
        "device": {
            "name": str(how.device),
            "threads": torch.get_num_threads(),
            "precision": str(how.precision).removeprefix("torch."),
            "fallbacks": list(how.fallbacks),
        },
        "warnings": list(how.warnings),
        "checked": how.checked,
        "same_patient": how.same_patient,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "nibabel": nibabel.__version__,
        },
    }


def described_labels(labels: npt.NDArray[np.uint8], scheme: LabelScheme, case: Case) -> dict[str, Any]:
    """Return the part of the record that tells of the `labels`: their values, and volumes in mL."""
    volumes = tissue_volumes(labels, scheme, case.affine)
    return {"labels": {"scheme": scheme.name, "values": dict(scheme.values), "volumes_ml": volumes}}


def find_warnings(bundle: Bundle, config: ModelConfig, standard: StandardCase) -> tuple[str, ...]:
    """Return what a user must know about how the case lies on the template and how it was segmented, as sentences."""
    placement, found = standard.placement, []
    if placement.method == "brain centre":
        found.append(
            "The images are not in the model's space (SRI24), as far as their headers tell; the brain was "
            "centred on the template. Register the images to SRI24 for results you can rely on."
        )
    if placement.inside < 0.98:
        share = 100 * (1 - placement.inside)
        found.append(f"{share:.0f} % of the box around the brain lies outside the model's field of view.")
    if config.inference.window != bundle.config.inference.window:
        found.append(
            f"Segmented in the window {config.inference.window}; the model was validated with "
            f"{bundle.config.inference.window}, and its measured reliability holds for that."
        )
    return tuple(found)
