"""A case in a viewer, as napari's File > Open Folder brings it there."""

from __future__ import annotations

from napari.components import ViewerModel
from napari.layers import Image

from m3ae_core.io.case import CaseFiles
from m3ae_core.modalities import BRATS
from napari_m3ae import layers
from napari_m3ae._reader import get_reader


def open_case(viewer: ViewerModel, files: CaseFiles) -> dict[str, Image]:
    """Open a case folder; return its images by sequence."""
    folder = str(files.labels.parent)
    added = [layers.add(viewer, content) for content in get_reader(folder)(folder)]
    return {layers.modality_of(layer, BRATS): layer for layer in added if isinstance(layer, Image)}
