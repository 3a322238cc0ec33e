"""Contribution "writer": one labels layer to a NIfTI file on the grid of its case."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy.typing as npt
from napari import current_viewer
from napari.layers import Labels

from m3ae_core.files import refuse_overwriting
from m3ae_core.io.volume import write_labels
from napari_m3ae import layers


def write_labels_layer(path: str, data: npt.NDArray[Any], keywords: dict[str, Any]) -> list[str]:
    """Write a labels layer, given as napari gives it to writers; return what was written.

    Raises
    ------
    M3AEError
        If nothing says how the layer lies in the patient, the file is one of the images in the viewer, or it cannot be
        written.
    """
    if (viewer := current_viewer()) is not None:
        refuse_overwriting(Path(path), layers.files_of(viewer.layers))
    volume = layers.to_volume(Labels(data, **keywords))
    return [str(write_labels(path, volume.data, volume.affine))]
