"""What a result that is there already is worth: decided by content, never by names or times."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from m3ae_core.errors import InputError, OutputError
from m3ae_core.io.case import Case
from m3ae_core.io.sidecar import read_sidecar
from m3ae_core.io.volume import Volume, read_labels
from m3ae_core.regions import LabelScheme


class Found(NamedTuple):
    """A result that is there.

    Attributes
    ----------
    state
        ``done before``: it is what would be made now. ``edited``: its labels are not those that were written, so they
        are somebody's work. ``stale``: it was made of other images, by another model or in another way. ``damaged``:
        it cannot be read.
    why
        What tells so, as part of a sentence.
    """

    state: Literal["done before", "edited", "stale", "damaged"]
    why: str = ""


_OTHER_GRID = Found("stale", "it lies on another grid")


def made_from(
    case: Case, fingerprint: str, inference: Mapping[str, Any], scheme: LabelScheme
) -> dict[str, Any]:
    """Return what decides about a result, as its sidecar tells it: images, model, how it is applied, label scheme."""
    return {
        "images": {name: volume.sha256 for name, volume in case.volumes.items()},
        "model": fingerprint,
        "options": dict(inference),
        "label scheme": dict(scheme.values),
    }


def find_result(path: Path, case: Case, wanted: Mapping[str, Any]) -> Found | None:
    """Return what the labels at `path` are to `case` and what is `wanted` of it; None if nothing is there."""
    if not path.is_file():
        return None
    try:
        labels = read_labels(path)
    except InputError as error:
        return Found("damaged", error.problem)
    record = read_sidecar(path)
    if record is None:
        return Found("edited", "no record beside it tells that this software wrote it")
    if (written := _entry(record, "labels", "sha256")) is None or _entry(
        record, "model", "fingerprint"
    ) is None:
        return Found("stale", "its record, of an older version, does not identify it")
    if written != labels.sha256 or _entry(record, "made_by", "edited"):
        return _changed(labels, case)
    if not _on_grid(labels, case):
        return _OTHER_GRID
    differing = [name for name, value in wanted.items() if _recorded(record).get(name) != value]
    return Found("stale", f"other {' and '.join(differing)}") if differing else Found("done before")


def refuse_edited(path: Path, case: Case) -> None:
    """Refuse to write over labels of `case` that were edited.

    Raises
    ------
    OutputError
        If those at `path` were (``edited``).
    """
    found = find_result(path, case, {})
    if found is not None and found.state == "edited":
        raise OutputError(
            f"The labels that are there may be somebody's work: {found.why}.",
            "Choose another name, or pass --overwrite --discard-edits.",
            path=path,
            code="edited",
        )


def put_aside(path: Path) -> Path:
    """Rename a damaged result to ``….bad``, so that a new one can be written; return where it is now.

    Raises
    ------
    OutputError
        If that cannot be done.
    """
    aside = path.with_name(path.name + ".bad")
    try:
        return path.replace(aside)
    except OSError as error:
        problem = f"The damaged result cannot be put aside: {error.strerror}."
        raise OutputError(problem, "Move it away.", path=path, code="not-writable") from error


def _changed(labels: Volume, case: Case) -> Found:
    if _on_grid(labels, case):
        return Found("edited", "its labels are not those that were written")
    return _OTHER_GRID


def _on_grid(labels: Volume, case: Case) -> bool:
    return labels.shape == case.shape and np.allclose(labels.affine, case.affine, atol=1e-3)


def _recorded(record: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "images": record.get("sequences_present"),
        "model": _entry(record, "model", "fingerprint"),
        "options": _entry(record, "model", "inference"),
        "label scheme": _entry(record, "labels", "values"),
    }


def _entry(record: Mapping[str, Any], part: str, name: str) -> Any:
    content = record.get(part)
    return content.get(name) if isinstance(content, dict) else None
