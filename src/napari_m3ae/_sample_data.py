"""Contribution "sample data": the case that is shipped with the package; nothing is downloaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from m3ae_core.data.builtin import builtin_case
from m3ae_core.regions import BRATS_2023
from napari_m3ae._reader import case_layers, faced

if TYPE_CHECKING:
    from napari_m3ae.layers import LayerData


def sample_case() -> list[LayerData]:
    """Return the built-in case: four sequences, and the experts' label map, hidden."""
    return faced(case_layers(builtin_case(), "built-in case", BRATS_2023))
