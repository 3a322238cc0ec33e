"""Cases that lie in one folder per sequence, under the same name in each: ``T1/P1.nii``, ``FLAIR/P1.nii``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from m3ae_core.errors import InputError, printable
from m3ae_core.io.folders.matching import CaseFiles
from m3ae_core.io.folders.recognition import LABELS, Recognised, recognise
from m3ae_core.modalities import ModalitySet


def cases_per_sequence(
    folders: Mapping[Path, Sequence[Path]], modalities: ModalitySet
) -> dict[str, CaseFiles]:
    """Return, by name, the cases whose files lie in folders called after a sequence each; none if it is not so.

    `folders` holds the NIfTI files of each folder. It is so if two folders or more are called after sequences, no file
    says one itself, and half of the names or more are found in two of them.

    Raises
    ------
    InputError
        If a folder's name contradicts itself (``unclear``), or a folder holds a case twice (``ambiguous``).
    """
    said = {folder: recognise(f"{folder.name}.nii", modalities) for folder, files in folders.items() if files}
    kinds = {folder: found.kind for folder, found in said.items() if found.kind}
    if len({*kinds.values()} - {LABELS}) < 2 or _say_themselves(folders, modalities):
        return {}
    _refuse_unclear(said)
    found: dict[str, dict[str, Path]] = {}
    for folder, kind in kinds.items():
        for path in folders[folder]:
            _add(found.setdefault(_stem(path), {}), kind, path)
    with_images = {name: files for name, files in found.items() if files.keys() - {LABELS}}
    if 2 * sum(len(files.keys() - {LABELS}) > 1 for files in with_images.values()) < len(with_images):
        return {}
    left = [(path, said[folder].why) for folder in said.keys() - kinds.keys() for path in folders[folder]]
    return {name: _case(name, files, modalities, left) for name, files in with_images.items()}


def _say_themselves(folders: Mapping[Path, Sequence[Path]], modalities: ModalitySet) -> bool:
    named = (recognise(path.name, modalities) for files in folders.values() for path in files)
    return any(found.kind in modalities.names or found.candidates for found in named)


def _refuse_unclear(said: Mapping[Path, Recognised]) -> None:
    for folder, found in said.items():
        if found.candidates:
            raise InputError(
                f"The folder's name does not tell which sequence it holds ({found.why}).",
                f"Rename it after one of {', '.join(found.candidates)}.",
                path=folder,
                code="unclear",
            )


def _add(files: dict[str, Path], kind: str, path: Path) -> None:
    if kind in files:
        raise InputError(
            f"Both {printable(files[kind])} and {printable(path)} look like {kind}.",
            "Keep one of them.",
            path=path.parent,
            code="ambiguous",
        )
    files[kind] = path


def _case(
    name: str, files: Mapping[str, Path], modalities: ModalitySet, left: Sequence[tuple[Path, str]]
) -> CaseFiles:
    images = {kind: files[kind] for kind in modalities.names if kind in files}
    unused = tuple((path, why) for path, why in left if _stem(path) == name)
    return CaseFiles(name, images, files.get(LABELS), unused)


def _stem(path: Path) -> str:
    return re.sub(r"\.nii(\.gz)?\Z", "", path.name, flags=re.IGNORECASE)
