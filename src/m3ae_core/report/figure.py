"""One figure that shows a prediction and what it was made from."""

from __future__ import annotations

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
from m3ae_core.report.canvas import draw_slice, new_figure, tissue_overlay


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
        The case as it was given; modalities that it lacks are shown as substituted.
    reference
        (X, Y, Z) labels on the case's grid, or None.

    Raises
    ------
    ConfigError
        If matplotlib is not installed.
    """
    names, standard = bundle.config.modalities, standardise(case, bundle.config)
    overlays = {"Prediction": _colours(prediction.labels, prediction.scheme, case, standard.grid)}
    if reference is not None:
        overlays["Reference"] = _colours(reference, reference_scheme, case, standard.grid)
    marked = next((o for o in overlays.values() if o[..., 3].any()), overlays["Prediction"])
    level = int(marked[..., 3].sum(axis=(1, 2)).argmax())

    figure = new_figure(2.3 * (len(names) + len(overlays)), 3.9, "black")
    panels = figure.subplots(1, len(names) + len(overlays))
    for channel, (panel, name) in enumerate(zip(panels, names, strict=False)):
        if name in standard.subset:
            draw_slice(panel, _on_black(standard.image[channel])[level], (0, 1), name)
        else:
            image = bundle.model.images["substitute"][channel].numpy()
            title = f"{name}: missing\nsubstitute (learned)"
            draw_slice(panel, image[level], np.percentile(image, (1, 99)).tolist(), title)
            panel.title.set_color("orange")
    ground = _on_black(standard.image[names.index(standard.subset.present[0])])[level]
    for panel, (title, overlay) in zip(panels[len(names) :], overlays.items(), strict=True):
        draw_slice(panel, ground, (0, 1), title, overlay[level])
    _label(figure, f"{case.name}: segmented from {prediction.subset} by {bundle.name}")
    return atomic_write(path, lambda temporary: figure.savefig(temporary, dpi=150, format="png"))


def _label(figure: Any, title: str) -> None:
    """Put the title above the panels, and below them the legend of the tissues, the orientation and the notice."""
    from matplotlib.patches import Patch

    figure.suptitle(title, color="white", fontsize=10)
    handles = [Patch(color=colour, label=tissue) for tissue, colour in COLOURS.items()]
    look = {"frameon": False, "labelcolor": "0.7", "fontsize": 7, "title_fontsize": 7, "ncols": len(handles)}
    note = f"Patient's right on the left. {NOTICE}"
    legend = figure.legend(handles=handles, title=note, loc="outside lower center", **look)
    legend.get_title().set_color("0.7")


def _on_black(image: FloatArray) -> FloatArray:
    """Return an image (D, H, W) for display: the brain's values in [0, 1], whatever their scale; all else 0."""
    brain = image != 0
    low, high = (image[brain].min(), image[brain].max()) if brain.any() else (0, 1)
    shown: FloatArray = np.where(brain, (image - low) / max(high - low, 1e-6), 0)
    return shown


def _colours(labels: npt.NDArray[np.uint8], scheme: LabelScheme, case: Case, template: Grid) -> FloatArray:
    """Return a translucent RGBA overlay (D, H, W, 4) of a label map, on the template grid."""
    own = Grid(case.shape, case.affine)
    return tissue_overlay({t: resample(labels == value, own, template) > 0.5 for t, value in scheme.values})
