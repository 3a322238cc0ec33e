"""The JSON sidecar beside a label file: where it is, and what label scheme it names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from m3ae_core.errors import ConfigError
from m3ae_core.regions import LabelScheme, scheme_named
from m3ae_core.seal import record_is_whole


def sidecar_of(path: Path) -> Path:
    """Return the path of the sidecar of a label file: the same name with ``.json``."""
    return path.with_name(path.name.removesuffix(".gz").removesuffix(".nii") + ".json")


def read_sidecar(path: Path) -> dict[str, Any] | None:
    """Return the content of the sidecar of a label file; None if there is none, or it is not what was written."""
    try:
        content = json.loads(sidecar_of(path).read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) and record_is_whole(content) else None


def recorded_warnings(path: Path) -> tuple[str, ...]:
    """Return what the sidecar of a label file warns of; one that cannot be read warns of nothing here."""
    warnings = (read_sidecar(path) or {}).get("warnings")
    return tuple(map(str, warnings)) if isinstance(warnings, list) else ()


def saved_scheme(path: Path, voxels: str | None = None) -> LabelScheme | None:
    """Return the label scheme that the sidecar of a label file names, or None if it names none.

    None too if it describes other labels than those whose voxels have the SHA-256 `voxels`: the file was replaced.
    """
    try:
        labels = (read_sidecar(path) or {})["labels"]
        if voxels is not None and labels.get("sha256", voxels) != voxels:
            return None
        return scheme_named(labels["scheme"])
    except (LookupError, TypeError, AttributeError, ConfigError):
        return None
