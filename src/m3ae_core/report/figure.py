"""One figure that shows a prediction and what it was made from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from m3ae_core.bundle import Bundle
from m3ae_core.data.preprocess import standardise
from m3ae_core.files import atomic_write
from m3ae_core.inference.predictor import Prediction
from m3ae_core.inference.provenance import NOTICE
from m3ae_core.io.case import Case
from m3ae_core.io.grid import FloatArray, Grid, resample
from m3ae_core.regions import COLOURS, LabelScheme
from m3ae_core.report.canvas import new_figure, tissue_overlay


def save_figure(
    path: Path,
    case: Case,
    bundle: Bundle,
    prediction: Prediction,
    reference: npt.NDArray[np.uint8] | None,
    reference_scheme: LabelScheme,
) -> Path:
    """Write a PNG: what was given, what the substitute put in its place, the prediction, and the reference.

    The slice is the axial one with the most predicted (else reference) tumour, in radiological orientation, on the
    model's template grid.

    Parameters
    ----------
    case
        The case as it was given; sequences that it lacks are shown as substituted.
    reference
        (X, Y, Z) labels on the case's grid, or None.

    Raises
    ------
    ConfigError
        If matplotlib is not installed.
    """
    figure = _figure(len(bundle.config.modalities) + 1 + (reference is not None))
    standard = standardise(case, bundle.config)
    overlays = {"Prediction": _colours(prediction.labels, prediction.scheme, case, standard.grid)}
    if reference is not None:
        overlays["Reference"] = _colours(reference, reference_scheme, case, standard.grid)
    marked = next((o for o in overlays.values() if o[..., 3].any()), overlays["Prediction"])
    level = int(marked[..., 3].sum(axis=(1, 2)).argmax())

    names = bundle.config.modalities
    for channel, (axis, name) in enumerate(zip(figure.axes, names, strict=False)):
        if name in standard.subset:
            _draw(axis, _on_black(standard.image[channel])[level], (0, 1), name)
        else:
            image = bundle.model.images["substitute"][channel].numpy()
            title = f"{name}: missing\nsubstitute (learned)"
            _draw(axis, image[level], np.percentile(image, (1, 99)).tolist(), title, "orange")
    ground = _on_black(standard.image[names.index(standard.subset.present[0])])[level]
    for axis, (title, overlay) in zip(figure.axes[len(names) :], overlays.items(), strict=True):
        _draw(axis, ground, (0, 1), title)
        axis.imshow(overlay[level])
    legend = " · ".join(f"{colour_name(colour)} {tissue}" for tissue, colour in COLOURS.items())
    figure.suptitle(
        f"{case.name}: segmented from {prediction.subset} by {bundle.name}", color="white", fontsize=10
    )
    figure.supxlabel(f"{legend}. Patient's right on the left. {NOTICE}", color="0.7", fontsize=7)
    return atomic_write(path, lambda temporary: figure.savefig(temporary, dpi=150, format="png"))


def colour_name(colour: str) -> str:
    """Return the plain name of a display colour."""
    return {"#2ca02c": "green:", "#1f77b4": "blue:", "#ffdd00": "yellow:"}[colour]


def _figure(columns: int) -> Any:
    """Return an empty black figure with one row of panels."""
    figure = new_figure(2.3 * columns, 3.3, "black")
    figure.subplots(1, columns)
    return figure


def _draw(axis: Any, image: FloatArray, limits: Sequence[float], title: str, colour: str = "white") -> None:
    axis.imshow(image, cmap="gray", vmin=limits[0], vmax=limits[1])
    axis.set_title(title, color=colour, fontsize=9)
    axis.set_axis_off()


def _on_black(image: FloatArray) -> FloatArray:
    """Return an image (D, H, W) for display: the brain's values in [0, 1], whatever their scale; all else 0."""
    brain = image != 0
    low, high = (image[brain].min(), image[brain].max()) if brain.any() else (0, 1)
    shown: FloatArray = np.where(brain, (image - low) / max(high - low, 1e-6), 0)
    return shown


def _colours(labels: npt.NDArray[np.uint8], scheme: LabelScheme, case: Case, template: Grid) -> FloatArray:
    """Return a translucent RGBA overlay (D, H, W, 4) of a label map, on the template grid."""
    own = Grid(case.shape, case.affine)
    return tissue_overlay(
        {tissue: resample(labels == value, own, template) > 0.5 for tissue, value in scheme.values}
    )
