"""The only place that knows napari layers: volume ↔ layer, orientation, colours.

A volume is an array (X, Y, Z) with an affine to RAS millimetres. It is shown as a view of that array whose
axes run along superior, anterior and right, so that napari's world coordinates (S, A, R) are the RAS
millimetres in reverse order and a slice of the first axis is an axial one. What the file said (the affine,
which axis is shown where) stays in ``layer.metadata["m3ae"]``; saving uses that, never the display.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from nibabel.orientations import io_orientation

from m3ae_core.errors import InputError
from m3ae_core.io.affine import spacing_of, tells_nothing
from m3ae_core.io.folders.matching import sort_files
from m3ae_core.io.orientation import SWAPPED, oriented, was_told
from m3ae_core.io.volume import Volume
from m3ae_core.regions import ALL_COLOURS, SCHEMES, LabelScheme
from m3ae_core.report.canvas import grey_range

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Labels, Layer
    from napari.utils.colormaps import Colormap

    from m3ae_core.modalities import ModalitySet

#: What napari's `add_*` functions and `Layer.create` take: data, keyword arguments, layer type.
LayerData = tuple[npt.NDArray[Any], dict[str, Any], Literal["image", "labels"]]

AXES = ("S", "A", "R")
KEY = "m3ae"
#: Distance in mm from which an image counts as moved.
MOVED = 0.1


def display_grid(
    affine: npt.NDArray[np.float64], shape: Sequence[int]
) -> tuple[tuple[int, ...], npt.NDArray[np.float64]]:
    """Return how an array is shown: its axes in display order, and the affine from there to (S, A, R) mm.

    napari's 2-D view drops out-of-plane rotation, so that oblique volumes would be drawn apart. They are
    shown on the nearest axis-aligned grid about the same centre; for all others this is exact.
    """
    affine = np.asarray(affine, float)
    orientation = io_orientation(affine)
    along = orientation[:, 0].astype(int).tolist()
    axes = tuple(along.index(world) for world in (2, 1, 0))
    shown = np.eye(4)
    shown[:3, :3] = np.diag([np.linalg.norm(affine[:3, axis]) * orientation[axis, 1] for axis in axes])
    middle = (np.asarray(shape) - 1) / 2
    centre = affine[:3, :3] @ middle + affine[:3, 3]
    shown[:3, 3] = centre[::-1] - shown[:3, :3] @ middle[list(axes)]
    return axes, shown


def image_layer(volume: Volume, name: str, **facts: Any) -> LayerData:
    """Return a sequence as layer data; `facts` (`modality`, `case`, …) go into the metadata."""
    noted = {"path": volume.path, "notes": volume.notes, "checksum": checksum(volume.data), **facts}
    shown, keywords = _shown(volume.data, volume.affine, name, noted)
    sample = volume.data[::2, ::2, ::2]
    return shown, {**keywords, "colormap": "gray", "contrast_limits": grey_range(sample)}, "image"


def labels_layer(
    labels: npt.NDArray[np.uint8],
    affine: npt.NDArray[np.float64],
    name: str,
    scheme: LabelScheme | None,
    **facts: Any,
) -> LayerData:
    """Return a label map (X, Y, Z) as layer data; a known scheme gives colours and names, and is noted."""
    noted = facts if scheme is None else {**facts, "scheme": scheme.name}
    shown, keywords = _shown(labels, affine, name, noted)
    return shown, {**keywords, "opacity": 0.6, **({} if scheme is None else tissue_style(scheme))}, "labels"


def computed(
    data: npt.NDArray[Any],
    affine: npt.NDArray[np.float64],
    name: str,
    kind: Literal["image", "labels"] = "image",
    **style: Any,
) -> LayerData:
    """Return something computed (X, Y, Z) as layer data, marked so that it is never taken for a sequence.

    `style` are napari's keyword arguments for that kind of layer.
    """
    shown, keywords = _shown(data, affine, name, {"computed": True})
    return shown, {**keywords, **style}, kind


def fading(name: str) -> Colormap:
    """Return napari's colormap `name` with its lowest colour transparent, for an image that is laid over another."""
    from napari.utils.colormaps import Colormap, ensure_colormap

    colours = ensure_colormap(name).colors.copy()
    colours[0, 3] = 0
    return Colormap(colours, name=f"{name}, fading")


def tissue_style(scheme: LabelScheme) -> dict[str, Any]:
    """Return the keyword arguments of a labels layer that colour and name the tissues."""
    return label_style({value: (tissue, ALL_COLOURS[tissue]) for tissue, value in scheme.values})


def label_style(meaning: Mapping[int, tuple[str, str]]) -> dict[str, Any]:
    """Return the keyword arguments of a labels layer that name and colour its numbers: number -> (name, colour)."""
    from napari.utils.colormaps import DirectLabelColormap

    colours: dict[int | None, str] = {number: colour for number, (_, colour) in meaning.items()}
    # None is every other number: one that stands for nothing must strike the eye.
    colormap = DirectLabelColormap(color_dict={None: "magenta", 0: "transparent", **colours})
    named = [(0, "background"), *((number, name) for number, (name, _) in sorted(meaning.items()))]
    numbers, names = zip(*named, strict=True)
    return {"colormap": colormap, "features": {"index": numbers, "name": names}}


def files_of(layers: Iterable[Layer]) -> list[Path]:
    """Return the files from which the images among `layers` were read."""
    return [Path(path) for layer in layers if (path := facts(layer).get("path")) is not None]


def to_volume(layer: Layer) -> Volume:
    """Return a layer's data as a volume on its own grid, the inverse of the functions above.

    Raises
    ------
    InputError
        If nothing says how the layer lies in the patient (code ``no-orientation``), or it shows an image that was
        replaced or moved since it was opened (``layer-replaced``, ``layer-moved``).
    """
    known = facts(layer)
    if "checksum" in known:
        _require_as_opened(layer)
    if "affine" in known:
        data = np.transpose(layer.data, np.argsort(known["axes"]))
        return Volume(data, np.asarray(known["affine"]), known.get("path"), known.get("notes", ()))
    if tuple(layer.axis_labels) == AXES and layer.ndim == 3:
        return Volume(np.transpose(layer.data, (2, 1, 0)), _affine_of(layer), None)
    raise InputError(
        f"Nothing says how the layer '{layer.name}' lies in the patient.",
        "Open its NIfTI file with M3AE (File > Open, then choose M3AE).",
        code="no-orientation",
    )


def checksum(data: npt.NDArray[Any]) -> int:
    """Return a checksum of the voxels of an array (X, Y, Z), whatever their order in memory."""
    return zlib.crc32(np.ascontiguousarray(data.T).data.cast("B"), sum(data.shape))


def facts(layer: Layer) -> Mapping[str, Any]:
    """Return what M3AE noted in a layer's metadata (empty for layers of other origin)."""
    found = layer.metadata.get(KEY, {})
    return found if isinstance(found, Mapping) else {}


def scheme_of(layer: Layer) -> LabelScheme | None:
    """Return the label scheme noted in a layer's metadata, if any."""
    return SCHEMES.get(facts(layer).get("scheme", ""))


def made_here(layer: Layer) -> bool:
    """Whether a layer shows something computed (a probability, a reconstruction), which is no sequence of a case."""
    return bool(facts(layer).get("computed"))


def modality_of(layer: Layer, modalities: ModalitySet) -> str | None:
    """Return the modality that a layer's metadata or else its name, read for `modalities`, announces, if any."""
    if "modality" in facts(layer):
        return str(facts(layer)["modality"])
    return next(iter(sort_files([f"{layer.name}.nii.gz"], modalities).images), None)


def source_of(layer: Layer) -> str | None:
    """Return what identifies the case that a layer was read from, if it is known."""
    return facts(layer).get("source")


def origin_of(layer: Layer) -> str:
    """Return what identifies the case that a layer belongs to: its source, or itself where none is known."""
    return source_of(layer) or f"layer {layer.name}"


def add(viewer: ViewerModel, content: LayerData) -> Any:
    """Add a layer to the viewer and return it."""
    from napari.layers import Layer

    layer = Layer.create(*content)
    viewer.add_layer(layer)
    return layer


def show_computed(viewer: ViewerModel, content: LayerData) -> Any:
    """Show something computed: in the layer of that name which an earlier call made, else in a new one.

    Images go below all labels, which they would hide. Returns the layer.
    """
    from napari.layers import Labels

    data, keywords, kind = content
    for layer in viewer.layers:
        if layer.name == keywords["name"] and made_here(layer):
            layer.data, layer.affine, layer.metadata = data, keywords["affine"], keywords["metadata"]
            return layer
    layer = add(viewer, content)
    if kind == "image":
        lowest = next((i for i, other in enumerate(viewer.layers) if isinstance(other, Labels)), None)
        if lowest is not None:
            viewer.layers.move(len(viewer.layers) - 1, lowest)
    return layer


def overwrite(layer: Labels, content: LayerData) -> None:
    """Give a labels layer other content of the same shape; the user can undo the change of voxels."""
    data, keywords, _ = content
    repaint(layer, data)
    layer.name, layer.metadata = keywords["name"], keywords["metadata"]


def repaint(layer: Labels, shown: npt.NDArray[Any]) -> int:
    """Give a labels layer other voxels, in display order, as one step to undo; return how many changed."""
    changed = np.nonzero(layer.data != shown)
    if changed[0].size:
        layer.data_setitem(changed, shown[changed])
    return int(changed[0].size)


def reveal(viewer: ViewerModel, layer: Labels) -> None:
    """If the slice on display has no label, go to the one that has most."""
    axis = viewer.dims.order[0]
    counts = np.count_nonzero(layer.data, axis=tuple({0, 1, 2} - {axis}))
    here = round(float(layer.world_to_data(viewer.dims.point)[axis]))
    if viewer.dims.ndisplay == 2 and counts.any() and not (0 <= here < len(counts) and counts[here]):
        voxel = np.zeros(3)
        voxel[axis] = counts.argmax()
        viewer.dims.set_point(axis, layer.data_to_world(voxel)[axis])


def _shown(
    data: npt.NDArray[Any], affine: npt.NDArray[np.float64], name: str, noted: dict[str, Any]
) -> tuple[npt.NDArray[Any], dict[str, Any]]:
    axes, shown = display_grid(affine, data.shape)
    metadata = {KEY: {"affine": np.asarray(affine, float), "axes": axes, **noted}}
    keywords = {"name": name, "affine": shown, "axis_labels": AXES, "units": "mm", "metadata": metadata}
    return np.transpose(data, axes), keywords


def sideless(layer: Layer) -> bool:
    """Whether a layer was read from a file whose header tells no orientation."""
    known = facts(layer)
    return "affine" in known and (tells_nothing(np.asarray(known["affine"])) or swapped(layer))


def swapped(layer: Layer) -> bool:
    """Whether the user said that left and right are swapped in the file of a layer."""
    return was_told(facts(layer).get("notes", ()))


def swap_sides(layer: Layer, on: bool) -> None:
    """Show a layer without an orientation with left and right swapped, or as stored; its voxels stay."""
    known = facts(layer)
    stored = np.transpose(layer.data, np.argsort(known["axes"]))
    notes = tuple(note for note in known.get("notes", ()) if not was_told([note]))
    affine = np.diag([*spacing_of(np.asarray(known["affine"])), 1.0])
    volume = Volume(stored, affine, known.get("path"), notes)
    volume = oriented(volume, SWAPPED) if on else volume
    layer.metadata = {**layer.metadata, KEY: {**known, "affine": volume.affine, "notes": volume.notes}}
    layer.affine = display_grid(volume.affine, volume.shape)[1]


def _require_as_opened(layer: Layer) -> None:
    """Refuse a layer whose voxels or place are no longer those that were opened."""
    known = facts(layer)
    again = "Open the file again, or make a new layer for an image of your own."
    stored = np.transpose(layer.data, np.argsort(known["axes"])) if np.ndim(layer.data) == 3 else layer.data
    if np.ndim(stored) != 3 or checksum(stored) != known["checksum"]:
        problem = f"The voxels of the layer '{layer.name}' were replaced after it was opened."
        raise InputError(problem, again, code="layer-replaced")
    _, expected = display_grid(known["affine"], stored.shape)
    corners = [np.array(corner) for corner in product(*((0, side - 1) for side in np.shape(layer.data)))]
    places = [expected[:3, :3] @ corner + expected[:3, 3] for corner in corners]
    if not np.allclose([layer.data_to_world(corner) for corner in corners], places, rtol=0, atol=MOVED):
        problem = f"The layer '{layer.name}' was moved, turned or stretched after it was opened."
        raise InputError(problem, again, code="layer-moved")


def _affine_of(layer: Layer) -> npt.NDArray[np.float64]:
    """Affine from voxels (X, Y, Z) to RAS mm of a layer shown along (S, A, R)."""
    origin = np.asarray(layer.data_to_world((0.0, 0.0, 0.0)))
    steps = [np.asarray(layer.data_to_world(unit)) - origin for unit in np.eye(3)]
    affine = np.eye(4)
    affine[:3, :3] = np.stack(steps, axis=1)[::-1, ::-1]
    affine[:3, 3] = origin[::-1]
    return affine
