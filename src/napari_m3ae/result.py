"""The segmentation on display: which layer shows it, and what an edit, a rerun or saving makes of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from m3ae_core.errors import InputError
from napari_m3ae import layers

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Labels

    from m3ae_core.inference.predictor import Prediction


@dataclass(frozen=True)
class Shown:
    """A prediction and the layer that shows it.

    `case` is the name of the case, `sources` say where its sequences were read from.
    """

    layer: Labels
    prediction: Prediction
    case: str
    sources: frozenset[str]

    @property
    def edited(self) -> int:
        """Number of voxels that differ from what the model said."""
        return int(np.count_nonzero(layers.to_volume(self.layer).data != self.prediction.labels))

    def takes(self, prediction: Prediction, sources: frozenset[str]) -> bool:
        """Whether the layer can show another prediction: one of the same case, and no edit would be lost."""
        same_grid = self.prediction.labels.shape == prediction.labels.shape and np.array_equal(
            self.prediction.affine, prediction.affine
        )
        return same_grid and bool(self.sources & sources) and not self.edited

    def as_displayed(self) -> Prediction:
        """Return the prediction with the labels that the layer holds now; its record tells of edits.

        Raises
        ------
        InputError
            If a voxel was painted with a number that stands for no tissue (code ``labels-unknown``).
        """
        edited, allowed = self.edited, self.prediction.scheme.allowed
        if not edited:
            return self.prediction
        labels = layers.to_volume(self.layer).data
        if unknown := set(np.unique(labels).tolist()) - allowed:
            raise InputError(
                f"The layer '{self.layer.name}' holds the label {min(unknown)}, which stands for no tissue.",
                f"Repaint those voxels with one of {sorted(allowed)}.",
                code="labels-unknown",
            )
        return replace(self.prediction, labels=labels, provenance=_edited(self.prediction.provenance, edited))


def show(
    viewer: ViewerModel, prediction: Prediction, case: str, sources: frozenset[str], last: Shown | None
) -> Shown:
    """Show a prediction: in the layer of the `last` one if that is there and takes it, or in a new one."""
    content = layers.labels_layer(
        # a copy: painting on the layer must not change what the model said
        prediction.labels.copy(),
        prediction.affine,
        f"M3AE segmentation [{prediction.subset}]",
        prediction.scheme,
        provenance=prediction.provenance,
    )
    if last is not None and last.layer in viewer.layers and last.takes(prediction, sources):
        layer = last.layer
        layers.overwrite(layer, content)
    else:
        layer = layers.add(viewer, content)
    layers.reveal(viewer, layer)
    return Shown(layer, prediction, case, sources)


def _edited(record: dict[str, Any], voxels: int) -> dict[str, Any]:
    """The record of an edited segmentation; the volumes of the unedited one are left out."""
    made_by = {**record.get("made_by", {}), "edited": True, "edited_voxels": voxels}
    labels = {key: value for key, value in record.get("labels", {}).items() if key != "volumes_ml"}
    return {**record, "made_by": made_by, "labels": labels}
