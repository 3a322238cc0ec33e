"""The segmentation on display: which layer shows it, and what an edit, a rerun or saving makes of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from m3ae_core.errors import InputError
from m3ae_core.measure import tissue_volumes
from m3ae_core.regions import LabelScheme, convert
from napari_m3ae import layers

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Labels

    from m3ae_core.inference.predictor import Prediction


@dataclass(frozen=True, eq=False)
class Shown:
    """A prediction and the layer that shows it.

    `case` is the name of the case, `sources` say where its sequences were read from, `kept` are the labels as they
    were last saved (at first, as the model made them).
    """

    layer: Labels
    prediction: Prediction
    case: str
    sources: frozenset[str]
    kept: npt.NDArray[np.uint8] = field(repr=False)

    @property
    def edited(self) -> int:
        """Number of voxels that differ from what the model said."""
        return int(np.count_nonzero(self.labels != self.prediction.labels))

    @property
    def unsaved(self) -> bool:
        """Whether there are edits that were not saved."""
        return not np.array_equal(self.labels, self.kept)

    @property
    def labels(self) -> npt.NDArray[np.uint8]:
        """The labels (X, Y, Z) on display, a view."""
        return layers.to_volume(self.layer).data

    def saved(self) -> Shown:
        """Return this, with its present labels saved."""
        return replace(self, kept=self.labels.copy())

    def takes(self, prediction: Prediction, sources: frozenset[str]) -> bool:
        """Whether the layer can show another prediction: one of the same case, and no edit would be lost."""
        same_grid = self.prediction.labels.shape == prediction.labels.shape and np.array_equal(
            self.prediction.affine, prediction.affine
        )
        return same_grid and bool(self.sources & sources) and not self.edited

    def as_displayed(self, scheme: LabelScheme | None = None) -> Prediction:
        """Return the prediction with the labels that the layer holds now; its record tells of edits.

        With `scheme` the labels get its numbers.

        Raises
        ------
        InputError
            If a voxel was painted with a number that stands for no tissue (code ``labels-unknown``).
        """
        own, edited, labels = self.prediction.scheme, self.edited, self.labels
        if unknown := set(np.unique(labels).tolist()) - own.allowed:
            raise InputError(
                f"The layer '{self.layer.name}' holds the label {min(unknown)}, which stands for no tissue.",
                f"Repaint those voxels with one of {sorted(own.allowed)}.",
                code="labels-unknown",
            )
        target, record = scheme or own, self.prediction.provenance
        if edited:
            made_by = {**record.get("made_by", {}), "edited": True, "edited_voxels": edited}
            record = {**record, "made_by": made_by}
        described = {
            "scheme": target.name,
            "values": dict(target.values),
            "volumes_ml": tissue_volumes(labels, own, self.prediction.affine),
        }
        return replace(
            self.prediction,
            labels=convert(labels, own, target),
            scheme=target,
            provenance={**record, "labels": described},
        )


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
        case=case,
    )
    if last is not None and last.layer in viewer.layers and last.takes(prediction, sources):
        layer = last.layer
        layers.overwrite(layer, content)
    else:
        layer = layers.add(viewer, content)
    layers.reveal(viewer, layer)
    return Shown(layer, prediction, case, sources, prediction.labels)


def show_probabilities(viewer: ViewerModel, prediction: Prediction) -> list[Any]:
    """Show how probable each region is, as hidden image layers below the labels; return them."""
    return [
        layers.show_computed(
            viewer,
            layers.computed(
                probability,
                prediction.affine,
                f"M3AE probability of {region} [{prediction.subset}]",
                colormap="inferno",
                contrast_limits=(0.0, 1.0),
                visible=False,
            ),
        )
        for region, probability in prediction.probabilities.items()
    ]
