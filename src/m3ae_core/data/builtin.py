"""The case and the model that are shipped with the package."""

from __future__ import annotations

from pathlib import Path

from m3ae_core.io.case import CaseFiles, find_case

_ASSETS = Path(__file__).parents[1] / "assets"


def builtin_case() -> CaseFiles:
    """Return the built-in case: BraTS-SSA-00080-000 of BraTS-Africa (CC BY 4.0, see ATTRIBUTION.md beside it)."""
    return find_case(_ASSETS / "case" / "BraTS-SSA-00080-000")


def builtin_bundle() -> Path:
    """Return the folder of the built-in model."""
    return _ASSETS / "model"
