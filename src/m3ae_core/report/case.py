"""One page about one segmentation, to read or print: what it was made from, what it shows, how far to trust it."""

# mypy: allow-untyped-calls
# (nibabel's functions carry no annotations)
from __future__ import annotations

from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from nibabel.orientations import io_orientation

from m3ae_core.card import REGION_WORDS, expected_words, reliability_words
from m3ae_core.errors import InputError
from m3ae_core.evaluation.metrics import bounding_box
from m3ae_core.evaluation.slices import to_axial
from m3ae_core.files import write_text
from m3ae_core.inference.predictor import Prediction
from m3ae_core.inference.provenance import NOTICE
from m3ae_core.io.case import Case
from m3ae_core.measure import Diameters, axial_axis, rano_diameters, region_volumes, tissue_volumes
from m3ae_core.regions import COLOURS, ENHANCING
from m3ae_core.report.canvas import data_uri, draw_slice, grey_range, new_figure, tissue_overlay
from m3ae_core.report.template import render

#: The planes, each at the axis (from superior to inferior, to posterior, to left) that it lies across.
PLANES = ("axial", "coronal", "sagittal")
AXIAL, CORONAL, SAGITTAL = range(3)


def write_case_report(path: Path, case: Case, prediction: Prediction) -> Path:
    """Write a self-contained HTML page about the segmentation of one case, atomically.

    Parameters
    ----------
    path
        Where to (.html); an existing file is replaced.
    case
        The images that the segmentation was made from.
    prediction
        The segmentation as it is now, on the grid of `case`; its record says whether it was edited.

    Raises
    ------
    InputError
        If the segmentation does not lie on the grid of the case (``grids-differ``).
    ConfigError
        If matplotlib or jinja2 is not installed.
    OutputError
        If the file cannot be written.
    """
    if prediction.labels.shape != case.shape:
        problem = f"The segmentation does not lie on the grid of the case {case.name}."
        raise InputError(problem, "Give the case that it was made from.", code="grids-differ")
    page = render(
        "case.html",
        case=case,
        notice=NOTICE,
        subset=prediction.subset,
        reliability=_reliability(prediction),
        warnings=prediction.warnings,
        tissues=COLOURS,
        picture=data_uri(_figure(case, prediction)),
        volumes=_volumes(prediction),
        rano=_diameters(prediction),
        origin=_origin(prediction.provenance),
    )
    return write_text(path, page)


def _reliability(prediction: Prediction) -> tuple[str, ...]:
    """Say how good this very result should be, and how reliable the model is with these modalities."""
    card = {"reliability": {str(prediction.subset): prediction.provenance.get("reliability")}}
    return (*expected_words(prediction.provenance), *reliability_words(card, prediction.subset))


def _volumes(prediction: Prediction) -> dict[str, float]:
    """Return the volumes of regions and tissues in mL."""
    given = (prediction.labels, prediction.scheme, prediction.affine)
    regions = {f"{REGION_WORDS[name]} ({name})": ml for name, ml in region_volumes(*given).items()}
    return {**regions, **tissue_volumes(*given)}


def _diameters(prediction: Prediction) -> Diameters | None:
    enhancing = prediction.labels == prediction.scheme.value(ENHANCING)
    return rano_diameters(enhancing, prediction.affine, axial_axis(prediction.affine))


def _origin(record: dict[str, Any]) -> list[tuple[str, str]]:
    """Say which model and software made the segmentation, when, and whether it was edited since."""
    model, made_by = record.get("model", {}), record.get("made_by", {})
    edited = "no: as the model made it"
    if made_by.get("edited"):
        edited = f"yes: {made_by.get('edited_voxels', 'some')} voxels differ from what the model said"
    return [
        ("Edited", edited),
        ("Model", f"{model.get('name', 'unknown')}, SHA-256 {model.get('sha256', 'unknown')}"),
        ("Software", f"napari-m3ae {made_by.get('napari-m3ae', 'unknown')}"),
        ("Made at", record.get("made_at", "unknown")),
        *((f"SHA-256 of {name}", value) for name, value in record.get("sequences_present", {}).items()),
    ]


def _figure(case: Case, prediction: Prediction) -> Any:
    """Return a figure: axial slices of all images, plain above and with the mask below, then two more planes."""
    figure = new_figure(2.0 * (len(case.volumes) + 1), 4.3, "black")
    data = [volume.data for volume in case.volumes.values()]
    box = bounding_box(reduce(np.logical_or, data, prediction.labels > 0))
    labels = to_axial(prediction.labels[box], case.affine)[::-1]
    images = {name: to_axial(volume.data[box], case.affine)[::-1] for name, volume in case.volumes.items()}
    order = np.argsort(io_orientation(case.affine)[:, 0])[::-1]
    sides = np.array(next(iter(case.volumes.values())).spacing)[order]
    first, places = next(iter(images)), [_fullest(labels, plane) for plane in range(len(PLANES))]
    plain = [(name, AXIAL, False) for name in images]
    masked = [(name, AXIAL, True) for name in images]
    panels = [*plain, (first, CORONAL, True), *masked, (first, SAGITTAL, True)]
    for axis, (name, plane, with_mask) in zip(figure.subplots(2, len(images) + 1).flat, panels, strict=True):
        height, width = np.delete(sides, plane)
        seen = {"aspect": height / width, "interpolation": "nearest"}
        shown = labels.take(places[plane], plane)
        masks = {tissue: shown == value for tissue, value in prediction.scheme.values}
        image, title = (
            images[name].take(places[plane], plane),
            name if plane == AXIAL else f"{name}, {PLANES[plane]}",
        )
        overlay = tissue_overlay(masks) if with_mask else None
        draw_slice(axis, image, grey_range(images[name]), title, overlay, **seen)
    return figure


def _fullest(labels: npt.NDArray[np.uint8], axis: int) -> int:
    """Return the slice across `axis` with the most tumour, the middle one if there is none."""
    counts = np.count_nonzero(labels, axis=tuple({0, 1, 2} - {axis}))
    return int(counts.argmax()) if counts.any() else len(counts) // 2
