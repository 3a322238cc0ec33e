"""The run folder: made, locked, and kept to one recipe."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from m3ae_core.config import Recipe
from m3ae_core.errors import OutputError
from m3ae_core.files import ensure_writable, make_folder, remove_left_over, write_json
from m3ae_core.training.checkpoint import CHECKPOINT
from m3ae_core.training.record import LOCK, RECIPE

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@contextmanager
def run_folder(folder: Path, recipe: Recipe, stage: str, fabric: Fabric) -> Iterator[None]:
    """Make and lock a run folder and store the recipe in it; a folder of another recipe is left as it is.

    The first process does so, the others wait for it.

    Raises
    ------
    OutputError
        If the folder cannot be made, another run is using it (code ``locked``), or it belongs to a run with another
        model or other settings of this stage (``other-recipe``).
    """
    if not fabric.is_global_zero:
        fabric.barrier()
        yield
        return
    for needed in (folder, cache_folder(folder)):
        ensure_writable(make_folder(needed) / LOCK)
    try:
        with FileLock(folder / LOCK, timeout=0):
            _keep_recipe(folder / RECIPE, recipe, stage)
            remove_left_over(folder)
            fabric.barrier()
            yield
    except Timeout as error:
        problem = "Another run is using this folder."
        raise OutputError(
            problem, "Wait for it, or choose another folder.", path=folder, code="locked"
        ) from error


def cache_folder(folder: Path) -> Path:
    """Return where the decoded cases of a run folder are kept: beside it, for other runs to use."""
    return folder.absolute().parent / "cache"


def _keep_recipe(path: Path, recipe: Recipe, stage: str) -> None:
    """Store the recipe of a run; where the run has begun, refuse to go on with another.

    One that lacks a setting is another: an older version may have computed otherwise where nothing could be set.
    """
    own = recipe.model_dump(mode="json")
    begun = path.with_name(CHECKPOINT).exists()
    stored = _stored_recipe(path)
    problem = ""
    if stored is None and begun:
        problem, code = "The recipe of this run is missing or damaged.", "damaged"
    elif stored is not None and any(stored.get(part) != own[part] for part in ("model", stage)):
        problem, code = "The run in this folder was started with other settings.", "other-recipe"
        if unknown := [
            name for part in ("model", stage) for name in _unknown(stored.get(part), own[part], f"{part}.")
        ]:
            problem = f"The run was started by another version, which had no {', '.join(unknown)}."
    if problem:
        fix = "Choose another output folder, or use the recipe stored in this one."
        raise OutputError(problem, fix, path=path, code=code)
    write_json(path, own | {"stage": stage})


def _stored_recipe(path: Path) -> dict[str, Any] | None:
    """Return the recipe in a run folder; None if there is none that can be read."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _unknown(stored: Any, own: Any, name: str = "") -> list[str]:
    """Return the settings of a recipe, by their dotted names, that a stored one does not have."""
    if not isinstance(stored, dict) or not isinstance(own, dict):
        return []
    missing = [f"{name}{key}" for key in own if key not in stored]
    return missing + [
        deeper for key in own if key in stored for deeper in _unknown(stored[key], own[key], f"{name}{key}.")
    ]
