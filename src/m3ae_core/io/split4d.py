# mypy: disallow-untyped-calls=False
# (nibabel's functions carry no annotations)
"""A 4-D file, as the Medical Segmentation Decathlon has them, split into one file per sequence."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError

from m3ae_core.errors import ConfigError, InputError, OutputError
from m3ae_core.files import atomic_write, make_folder
from m3ae_core.io.folders.matching import ENDINGS
from m3ae_core.modalities import KNOWN, ModalitySet

#: Header fields that hold free text, in which converters keep names, dates and paths.
_FREE_TEXT = ("descrip", "aux_file", "intent_name", "db_name")


def split_4d(path: Path, order: Sequence[str], folder: Path) -> tuple[Path, ...]:
    """Write the volumes of a 4-D NIfTI file (X, Y, Z, N) as ``NAME_FLAIR.nii.gz`` and so on into `folder`.

    `order` names the sequence of each volume. Voxels keep their values and type, and the header its affines; its
    free text and extensions stay behind, since they may name the patient.

    Raises
    ------
    ConfigError
        If `order` repeats or names what is no sequence (``modalities``).
    InputError
        If the file cannot be read (``missing``, ``damaged``), is not 4-D or holds another number of volumes
        (``not-4d``).
    OutputError
        If a file is there already (``exists``) or cannot be written (the codes of
        :func:`~m3ae_core.files.atomic_write`).
    """
    if ModalitySet(KNOWN).subset(order) and len(set(order)) < len(order):
        raise ConfigError("A sequence repeats in the order.", "Name each once.", code="modalities")
    image = _opened(path)
    if image.ndim != 4 or image.shape[3] != len(order):
        shown = " × ".join(map(str, image.shape))
        problem = f"The file holds {shown} voxels, which are not {len(order)} volumes."
        raise InputError(problem, "Name one sequence for each volume.", path=path, code="not-4d")
    name = path.name.removesuffix(".gz").removesuffix(".nii")
    targets = [folder / f"{name}_{sequence}.nii.gz" for sequence in order]
    if there := [target for target in targets if target.exists()]:
        raise OutputError("The file exists.", "Choose another folder.", path=there[0], code="exists")
    parts = _parts(image, path)
    make_folder(folder)
    for part, target in zip(parts, targets, strict=True):
        atomic_write(target, part.to_filename)
    return tuple(targets)


def _opened(path: Path) -> Any:
    if not path.name.endswith(ENDINGS):
        raise InputError(
            "This is not a NIfTI file.", "Choose a .nii or .nii.gz file.", path=path, code="not-nifti"
        )
    try:
        return nib.Nifti1Image.from_filename(path)
    except FileNotFoundError as error:
        raise InputError("There is no such file.", "Check the path.", path=path, code="missing") from error
    except (
        OSError,
        ValueError,
        EOFError,
        zlib.error,
        ImageFileError,
        nib.spatialimages.HeaderDataError,
    ) as error:
        raise _damaged(path) from error


def _parts(image: Any, path: Path) -> list[Any]:
    """Return the volumes as images, in the type and scale of the file."""
    try:
        stored = np.asanyarray(image.dataobj.get_unscaled())
    except (OSError, ValueError, EOFError, zlib.error) as error:
        raise _damaged(path) from error
    slope, inter = image.dataobj.slope, image.dataobj.inter
    header = image.header.copy()
    header.extensions.clear()
    for field in _FREE_TEXT:
        header[field] = b""
    parts = []
    for volume in range(stored.shape[3]):
        part = nib.Nifti1Image(stored[..., volume], None, header)
        part.header.set_slope_inter(slope, inter)
        parts.append(part)
    return parts


def _damaged(path: Path) -> InputError:
    return InputError("The file is damaged.", "Obtain it again.", path=path, code="damaged")
