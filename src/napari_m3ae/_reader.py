"""Contribution "reader": a case folder, or single NIfTI files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.utils.notifications import show_warning

from m3ae_core.errors import InputError, M3AEError, printable
from m3ae_core.io.case import CaseFiles, read_case, read_case_labels
from m3ae_core.io.folders.layouts import sort_case
from m3ae_core.io.folders.matching import sort_files
from m3ae_core.io.sidecar import saved_scheme
from m3ae_core.io.volume import Volume, read_labels, read_volume
from m3ae_core.regions import LabelScheme, detect_scheme
from napari_m3ae import layers
from napari_m3ae.asking import Answers, recalled
from napari_m3ae.state import PRESET
from napari_m3ae.view import face_patient

if TYPE_CHECKING:
    from napari_m3ae.layers import LayerData

ENDINGS = (".nii", ".nii.gz")


def get_reader(path: str | Sequence[str]) -> Callable[[Any], list[LayerData]] | None:
    """Return what reads `path`: a folder that holds a case, or one or more NIfTI files. None for all else.

    napari offers every folder to every plugin that reads folders, so this looks at names only.
    """
    paths = [Path(each).absolute() for each in ([path] if isinstance(path, str) else path)]
    if len(paths) == 1 and paths[0].is_dir():
        folder = paths[0]
        return (lambda _: faced(_read_folder(folder))) if _holds_case(folder) else None
    if all(each.name.lower().endswith(ENDINGS) for each in paths):
        return lambda _: faced([_read_file(each) for each in paths])
    return None


def case_layers(files: CaseFiles, source: str, scheme: LabelScheme | None = None) -> list[LayerData]:
    """Read a case as layers, FLAIR topmost, its label map (if any) above and hidden.

    `source` identifies the case; `scheme` is that of the label map, where it is known.
    """
    case = read_case(files)
    noted = {"case": files.name, "source": source}
    images = [
        layers.image_layer(volume, f"{name} · {files.name}", modality=name, **noted)
        for name, volume in reversed(tuple(case.volumes.items()))
    ]
    if files.labels is None:
        return images
    data, keywords, kind = reference_layer(read_case_labels(files, case), files.name, source, scheme)
    return [*images, (data, {**keywords, "visible": False}, kind)]


def faced(content: list[LayerData]) -> list[LayerData]:
    """Turn the present viewer, if there is one, to the view of the settings for `content`; return that."""
    from napari import current_viewer

    face_patient(current_viewer())
    return content


def _holds_case(folder: Path) -> bool:
    try:
        sort_case(folder)
    except InputError as error:
        return error.code == "ambiguous"  # worth a sentence rather than silence
    return True


def _read_folder(folder: Path) -> list[LayerData]:
    """Read a case, and as plain images the files whose names leave their sequence open."""
    files, source = recalled(sort_case(folder), PRESET, Answers()), str(folder)
    unclear = [path for path, _ in files.questions]
    _say_unclear(unclear)
    plain = [
        layers.image_layer(read_volume(path), path.name, case=files.name, source=source) for path in unclear
    ]
    return [*plain, *(case_layers(replace(files, questions=()), source) if files.images else ())]


def _say_unclear(paths: Sequence[Path]) -> None:
    if paths:
        names = ", ".join(printable(path.name) for path in paths)
        show_warning(
            f"{names}: The name does not tell which sequence it is, so that it was opened as an image of none. Choose "
            "the layer of its sequence in the part Segment, or open it with the panel's Open, which asks."
        )


def _read_file(path: Path) -> LayerData:
    alone = recalled(sort_files([path]), PRESET, Answers())
    _say_unclear([path for path, _ in alone.questions])
    name, source = _case_of(path, alone)
    if saved_scheme(path):
        volume = read_labels(path)
        scheme = saved_scheme(path, volume.sha256)
        return layers.labels_layer(volume.data, volume.affine, path.name, scheme, case=name, source=source)
    if alone.labels:
        return reference_layer(read_labels(path), name, source, None)
    modality = next(iter(alone.images), None)
    if modality is None:
        return layers.image_layer(read_volume(path), path.name, case=name, source=source)
    return layers.image_layer(
        read_volume(path), f"{modality} · {name}", modality=modality, case=name, source=source
    )


def _case_of(path: Path, alone: CaseFiles) -> tuple[str, str]:
    """Name and source of the case that a file belongs to: its folder's if that is one case, else its own."""
    try:
        files = sort_case(path.parent)
    except M3AEError:
        return alone.name, str(path.parent / alone.name)
    return files.name, str(path.parent)


def reference_layer(volume: Volume, case: str, source: str, scheme: LabelScheme | None) -> LayerData:
    """Return the label map of a case as a layer; `scheme` is that of its numbers, where it is known."""
    name = f"reference labels · {case}"
    scheme = scheme or _scheme_of(volume)
    return layers.labels_layer(volume.data, volume.affine, name, scheme, case=case, source=source)


def _scheme_of(volume: Volume) -> LabelScheme | None:
    """The scheme of a label map if its values leave no doubt; a guess would name tissues wrongly."""
    try:
        return detect_scheme(np.unique(volume.data).tolist())
    except InputError:
        return None
