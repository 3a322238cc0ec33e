"""One page about one segmentation, to read or print: what it was made from, what it shows, how far to trust it."""

# mypy: allow-untyped-calls
# (nibabel's functions carry no annotations)
from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from nibabel.orientations import apply_orientation, io_orientation
from scipy import ndimage

from m3ae_core.card import REGION_WORDS, expected_words, reliability_words
from m3ae_core.errors import InputError
from m3ae_core.files import write_text
from m3ae_core.inference.predictor import Prediction
from m3ae_core.inference.provenance import NOTICE
from m3ae_core.io.case import Case
from m3ae_core.measure import axial_axis, rano_diameters, region_volumes, tissue_volumes
from m3ae_core.regions import COLOURS, ENHANCING
from m3ae_core.report.canvas import data_uri, grey_range, new_figure, tissue_overlay
from m3ae_core.report.page import STYLE

PRINT = """
table { margin: .5rem 0 1rem; } figure { margin: .5rem 0 1rem; }
@media print {
  @page { size: A4; margin: 12mm; }
  body { font-size: 10px; line-height: 1.35; margin: 0; max-width: none; padding: 0; }
  h1 { font-size: 1.4rem; margin: 0; } h2 { font-size: 1.1rem; margin-top: .8rem; break-after: avoid; }
  figure, table { break-inside: avoid; } img { max-height: 105mm; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""
#: The planes, each at the RAS axis that it lies across.
PLANES = ("sagittal", "coronal", "axial")
SAGITTAL, CORONAL, AXIAL = range(3)


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
        If matplotlib is not installed.
    OutputError
        If the file cannot be written.
    """
    if prediction.labels.shape != case.shape:
        raise InputError(
            f"The segmentation does not lie on the grid of the case {case.name}.",
            "Give the case that it was made from.",
            code="grids-differ",
        )
    title = f"Brain tumour segmentation: {html.escape(case.name)}"
    body = [
        f"<h1>{title}</h1>",
        f'<p class="notice">{html.escape(NOTICE)}</p>',
        *_sequences(prediction),
        *_pictures(case, prediction),
        *_measurements(prediction),
        *_origin(prediction.provenance),
    ]
    head = f'<meta charset="utf-8"><title>{title}</title><style>{STYLE}{PRINT}</style>'
    content = "\n".join(body)
    return write_text(
        path, f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{content}\n</body></html>\n'
    )


def _sequences(prediction: Prediction) -> Iterator[str]:
    """Say what was used and substituted, how reliable that is, and what else must be known."""
    subset = prediction.subset
    substituted = (
        f"<strong>Missing, substituted by the learned image: {', '.join(subset.missing)}.</strong>"
        if subset.missing
        else "No sequence was missing."
    )
    yield "<h2>Sequences</h2>"
    yield f"<p>Used: {', '.join(subset.present)}. {substituted}</p>"
    card = {"reliability": {str(subset): prediction.provenance.get("reliability")}}
    yield _list((*expected_words(prediction.provenance), *reliability_words(card, subset)))
    if prediction.warnings:
        yield f'<div class="notice">{_list(prediction.warnings)}</div>'


def _pictures(case: Case, prediction: Prediction) -> Iterator[str]:
    legend = " ".join(
        f'<span style="background: {colour}"></span> {tissue}' for tissue, colour in COLOURS.items()
    )
    yield "<h2>Slices with the most tumour</h2>"
    yield f'<p class="legend">{legend}. Patient\'s right on the left, anterior on the left in the sagittal slice.</p>'
    alt = f"Axial slices of {', '.join(case.volumes)} without and with the segmentation; sagittal and coronal slices"
    yield f'<figure><img alt="{html.escape(alt)}" src="{data_uri(_figure(case, prediction))}"></figure>'


def _measurements(prediction: Prediction) -> Iterator[str]:
    """Give the volumes of regions and tissues, and the diameters of the enhancing tumour."""
    labels, scheme, affine = prediction.labels, prediction.scheme, prediction.affine
    regions = {
        f"{REGION_WORDS[name]} ({name})": ml for name, ml in region_volumes(labels, scheme, affine).items()
    }
    rows = "".join(
        f"<tr><td>{name}</td><td>{ml:.2f}</td></tr>"
        for name, ml in {**regions, **tissue_volumes(labels, scheme, affine)}.items()
    )
    yield "<h2>Measurements</h2>"
    yield f"<table><thead><tr><th>Region or tissue</th><th>Volume (mL)</th></tr></thead><tbody>{rows}</tbody></table>"
    yield f"<p>{_diameters(prediction)}</p>"


def _diameters(prediction: Prediction) -> str:
    axis = axial_axis(prediction.affine)
    found = rano_diameters(prediction.labels == prediction.scheme.value(ENHANCING), prediction.affine, axis)
    if found is None:
        return "There is no enhancing tumour in this segmentation, so it has no RANO diameters."
    kind = "measurable" if found.measurable else "not measurable"
    return (
        f"Enhancing tumour, largest perpendicular diameters on one axial slice (RANO): "
        f"{found.long_mm:.1f} mm × {found.perpendicular_mm:.1f} mm, product {found.product_mm2:.0f} mm² "
        f"(slice {found.slice_index}, counted from 0 as the file stores them; {kind})."
    )


def _origin(record: dict[str, Any]) -> Iterator[str]:
    """Say which model and software made the segmentation, when, and whether it was edited since."""
    model, made_by = record.get("model", {}), record.get("made_by", {})
    edited = "no: as the model made it"
    if made_by.get("edited"):
        edited = f"yes: {made_by.get('edited_voxels', 'some')} voxels differ from what the model said"
    items = {
        "Edited": edited,
        "Model": f"{model.get('name', 'unknown')}, SHA-256 {model.get('sha256', 'unknown')}",
        "Software": f"napari-m3ae {made_by.get('napari-m3ae', 'unknown')}",
        "Made at": record.get("made_at", "unknown"),
        **{f"SHA-256 of {name}": value for name, value in record.get("sequences_present", {}).items()},
    }
    yield "<h2>Origin</h2>"
    terms = (f"<dt>{html.escape(name)}</dt><dd>{html.escape(str(text))}</dd>" for name, text in items.items())
    yield f"<dl>{''.join(terms)}</dl>"


def _list(sentences: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{html.escape(sentence)}</li>' for sentence in sentences)}</ul>"


def _figure(case: Case, prediction: Prediction) -> Any:
    """Return a figure: axial slices of all images, plain above and with the mask below, then two more planes."""
    figure = new_figure(2.0 * (len(case.volumes) + 1), 4.3, "black")
    turn = io_orientation(case.affine)
    sides = np.array(next(iter(case.volumes.values())).spacing)[np.argsort(turn[:, 0])]
    box = _content(case, prediction.labels)
    labels = apply_orientation(prediction.labels[box], turn)
    images = {name: apply_orientation(volume.data[box], turn) for name, volume in case.volumes.items()}
    places = [_fullest(labels, axis) for axis in range(3)]
    first = next(iter(images))
    plain = [(name, AXIAL, False) for name in images]
    masked = [(name, AXIAL, True) for name in images]
    panels = [*plain, (first, CORONAL, True), *masked, (first, SAGITTAL, True)]
    for axis, (name, plane, with_mask) in zip(figure.subplots(2, len(images) + 1).flat, panels, strict=True):
        width, height = np.delete(sides, plane)
        seen = {"aspect": height / width, "interpolation": "nearest"}
        low, high = grey_range(images[name])
        axis.imshow(_slice(images[name], plane, places[plane]), cmap="gray", vmin=low, vmax=high, **seen)
        if with_mask:
            shown = _slice(labels, plane, places[plane])
            masks = {tissue: shown == value for tissue, value in prediction.scheme.values}
            axis.imshow(tissue_overlay(masks), **seen)
        axis.set_title(name if plane == AXIAL else f"{name}, {PLANES[plane]}", color="white", fontsize=9)
        axis.set_axis_off()
    return figure


def _content(case: Case, labels: npt.NDArray[np.uint8]) -> tuple[slice, slice, slice]:
    """Return the box around all that is not zero, so that no room is lost to the background."""
    content = labels != 0
    for volume in case.volumes.values():
        content |= volume.data != 0
    boxes = ndimage.find_objects(content.view(np.uint8), max_label=1)
    x, y, z = boxes[0] or np.s_[:, :, :]
    return x, y, z


def _slice(data: npt.NDArray[Any], plane: int, place: int) -> npt.NDArray[Any]:
    """Return a slice of a RAS array: superior or anterior up, patient's right (sagittal: anterior) on the left."""
    upright: npt.NDArray[Any] = np.swapaxes(np.take(data, place, plane), 0, 1)[::-1, ::-1]
    return upright


def _fullest(labels: npt.NDArray[np.uint8], axis: int) -> int:
    """Return the slice across `axis` with the most tumour, the middle one if there is none."""
    counts = np.count_nonzero(labels, axis=tuple({0, 1, 2} - {axis}))
    return int(counts.argmax()) if counts.any() else len(counts) // 2
