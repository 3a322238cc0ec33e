"""How a segmentation was made: the content of its sidecar, and the warnings a user must see."""

from __future__ import annotations

import platform
from collections.abc import Sequence
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


def describe(
    bundle: Bundle,
    config: ModelConfig,
    standard: StandardCase,
    case: Case,
    scheme: LabelScheme,
    labels: npt.NDArray[np.uint8],
    *,
    device: torch.device,
    precision: torch.dtype,
    fallbacks: Sequence[str],
    warnings: Sequence[str],
    checked: bool,
    same_patient: bool,
) -> dict[str, Any]:
    """Return the JSON-ready record of one prediction.

    `config` is how the bundle was applied. Sequences are identified by the SHA-256 of their decoded voxels
    (:attr:`Volume.sha256`), never by a path; volumes are in mL. `checked` tells whether unprepared images and mixed-up
    sequences were looked for, `same_patient` whether the user vouched that all are of one patient.
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
            "preset": config.preset,
            "licence": bundle.card.get("licence"),
            "inference": config.inference.model_dump(mode="json"),
        },
        "reliability": subset.entry(bundle.card.get("reliability", {})),
        "labels": {
            "scheme": scheme.name,
            "values": dict(scheme.values),
            "volumes_ml": tissue_volumes(labels, scheme, case.affine),
        },
        "placement": {"method": standard.placement.method, "offset_mm": standard.placement.offset},
        "device": {
            "name": str(device),
            "threads": torch.get_num_threads(),
            "precision": str(precision).removeprefix("torch."),
            "fallbacks": list(fallbacks),
        },
        "warnings": list(warnings),
        "checked": checked,
        "same_patient": same_patient,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "nibabel": nibabel.__version__,
        },
    }


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
