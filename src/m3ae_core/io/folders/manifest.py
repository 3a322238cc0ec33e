"""Manifests: a CSV table of cases and their files, which a person can correct."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

from m3ae_core.errors import InputError, printable
from m3ae_core.files import atomic_write
from m3ae_core.io.folders.matching import CaseFiles
from m3ae_core.io.sidecar import saved_scheme
from m3ae_core.modalities import BRATS, ModalitySet
from m3ae_core.regions import scheme_named


def folder_of(files: CaseFiles) -> Path:
    """Return the folder of a case's first file, absolute."""
    paths = [*files.images.values(), *(path for path, _ in files.questions)]
    return (paths[0].parent if paths else Path()).absolute()


def write_manifest(cases: Iterable[CaseFiles], path: Path, modalities: ModalitySet = BRATS) -> Path:
    """Write a line for each case: name, folder, file of each sequence, labels, their scheme, and the files to ask for.

    The column ``scheme`` tells what a sidecar says, and waits to be filled in where none does. A file in the column
    ``asked`` is answered by writing it into the column of its sequence, or by deleting it.

    Raises
    ------
    OutputError
        If the file cannot be written (the codes of :func:`~m3ae_core.files.atomic_write`).
    """

    def write(temporary: Path) -> None:
        with temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as stream:
            table = csv.writer(stream)
            table.writerow(["case", "folder", *modalities.names, "labels", "scheme", "asked"])
            table.writerows(_line(files, modalities) for files in cases)

    return atomic_write(path, write)


def read_manifest(path: Path, modalities: ModalitySet = BRATS) -> tuple[CaseFiles, ...]:
    """Read the cases of a manifest; a relative folder starts at that of the manifest.

    Raises
    ------
    InputError
        If the file cannot be read (``missing``, ``unreadable``) or is no manifest (``manifest``).
    ConfigError
        If it states a label scheme that is none.
    """
    try:
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as stream:
            table = csv.DictReader(stream)
            rows, columns = list(table), set(table.fieldnames or ())
    except FileNotFoundError as error:
        raise InputError("There is no such file.", "Check the path.", path=path, code="missing") from error
    except (OSError, ValueError, csv.Error) as error:
        problem = f"The manifest cannot be read: {error}."
        raise InputError(problem, "Choose a CSV file.", path=path, code="unreadable") from error
    if not rows or "case" not in columns or columns.isdisjoint(modalities.names):
        raise InputError(
            "This is no manifest of cases.",
            f"It needs a line for each case and the columns case, folder, {', '.join(modalities.names)}, labels; "
            "`m3ae scan FOLDER --csv FILE` makes one.",
            path=path,
            code="manifest",
        )
    return tuple(_case(row, path.absolute().parent, modalities) for row in rows)


def _line(files: CaseFiles, modalities: ModalitySet) -> list[str]:
    folder = folder_of(files)
    images = [relative(files.images.get(name), folder) for name in modalities.names]
    asked = "; ".join(path.name for path, _ in files.questions)
    saved = saved_scheme(files.labels) if files.labels else None
    scheme = files.scheme or (saved.name if saved else "")
    return [files.name, str(folder), *images, relative(files.labels, folder), scheme, asked]


def relative(path: Path | None, folder: Path) -> str:
    """Return a file as seen from a folder, its whole path if it lies elsewhere."""
    if path is None:
        return ""
    path = path.absolute()
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)


def _case(row: Mapping[str, str | None], home: Path, modalities: ModalitySet) -> CaseFiles:
    folder = home / (row.get("folder") or "")
    name = row.get("case") or folder.name
    if "/" in name or "\\" in name:
        problem = f"A case is called {printable(name)}; results are named after cases."
        raise InputError(problem, "Leave out slashes.", code="manifest")
    files = {name: folder / cell for name in (*modalities.names, "labels") if (cell := row.get(name))}
    labels = files.pop("labels", None)
    asked = [folder / name for name in (row.get("asked") or "").split("; ") if name]
    question = (
        "Which sequence is it? Write it into the column of its sequence, or delete it from the column asked."
    )
    questions = tuple((path, question) for path in asked if path not in files.values())
    return CaseFiles(name, files, labels, (), questions, _scheme(row.get("scheme") or "", home))


def _scheme(cell: str, home: Path) -> str | None:
    """Return the label scheme in a cell, None if it is empty; a file's (.toml) starts at the manifest's folder.

    Raises
    ------
    ConfigError
        If there is no such scheme.
    """
    cell = cell.strip()
    if not cell:
        return None
    stated = str(home / cell) if cell.lower().endswith(".toml") else cell
    scheme_named(stated)
    return stated
