"""What a run learns from, by content: a run is resumed with the same cases, schemes and pretrained model only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from m3ae_core.data.dataset import CachedCase
from m3ae_core.errors import OutputError
from m3ae_core.files import write_json
from m3ae_core.training.checkpoint import CHECKPOINT
from m3ae_core.training.record import CASES


def keep_identity(
    folder: Path,
    training: Sequence[CachedCase],
    validation: Sequence[CachedCase] = (),
    pretrained: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> str:
    """Store what the run in `folder` learns from; where it has begun, refuse to go on with something else.

    A case is told by its name, its files' content and its label scheme; `pretrained` is a bundle's fingerprint.
    Returns the SHA-256 of all that and of the `settings` that the run obeys, which its checkpoints carry.

    Raises
    ------
    OutputError
        If the run was begun with other data (``other-data``; the message names the difference), or ``cases.json`` is
        damaged.
    """
    own = {"training": _keys(training), "validation": _keys(validation), "pretrained": pretrained}
    path = folder / CASES
    if (folder / CHECKPOINT).exists() and path.exists():
        if differences := [part for part in own if _stored(path).get(part) != own[part]]:
            raise OutputError(
                f"The run in this folder was begun with {_described(_stored(path), own, differences)}.",
                "Give it what it was begun with, or choose another output folder.",
                path=path,
                code="other-data",
            )
    else:
        write_json(path, own)
    content = json.dumps({**own, "settings": settings}, sort_keys=True)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()


def _keys(cases: Sequence[CachedCase]) -> dict[str, str]:
    def key(case: CachedCase) -> str:
        content = case.image_file.name.removesuffix("-image.npy")
        return content if case.weight == 1 else f"{content} × {case.weight:g}"

    return {case.name: key(case) for case in cases}


def _stored(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        problem = "The list of the run's cases is damaged."
        raise OutputError(problem, "Choose another output folder.", path=path, code="damaged")
    return content


def _described(stored: Mapping[str, Any], own: Mapping[str, Any], parts: Sequence[str]) -> str:
    """Name the first cases that differ, or the model."""
    said = []
    for part in parts:
        if part == "pretrained":
            said.append("another pretrained model")
            continue
        theirs = stored.get(part)
        known = theirs if isinstance(theirs, dict) else {}
        names = sorted(
            name for name in known.keys() | own[part].keys() if known.get(name) != own[part].get(name)
        )
        named = ", ".join(dict.fromkeys(names[:4])) or "another order"
        said.append(f"other {part} cases ({named}{', …' if len(names) > 4 else ''})")
    return " and ".join(said)
