"""The state that a run is resumed from: used only if it is undamaged, fits the recipe and belongs to this run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from m3ae_core.errors import BundleError
from m3ae_core.io.weights import check_finite, load_pickle, require_fit
from m3ae_core.seal import file_is_whole
from m3ae_core.training.record import log_sha256

CHECKPOINT = "checkpoint.pt"

_KINDS: dict[str, type] = {"task": dict, "optimizer": dict, "precision": dict, "epoch": int, "best": float}
#: What Adam keeps of a parameter, and whether it is of its shape.
_MOMENTS = {"step": False, "exp_avg": True, "exp_avg_sq": True}
_FIX = "Choose another output folder, or copy the run's folder again."


def read_state(path: Path, task: nn.Module, optimizer: Optimizer, epochs: int) -> dict[str, Any]:
    """Return the state at `path` of a run of so many `epochs`; nothing is loaded into task or optimiser yet.

    One of an older version has no seal, so that only what it holds is checked.

    Raises
    ------
    BundleError
        If the file is damaged (``hash``, ``format``, ``unsafe``), does not fit the model (``architecture``) or the
        recipe (``checkpoint``), or holds a value that is not finite (``nonfinite``).
    """
    state = load_pickle(path)
    whole = all(isinstance(state.get(name), kind) for name, kind in _KINDS.items())
    if not whole:
        raise _refused(path, "The checkpoint is not one of this software, or it lacks entries.")
    if (
        not 0 <= state["epoch"] <= epochs
        or isinstance(state["epoch"], bool)
        or not math.isfinite(state["best"])
    ):
        raise _refused(path, f"The checkpoint speaks of epoch {state['epoch']} of {epochs}.")
    if "run" in state and file_is_whole(path) is None:
        raise _refused(path, "The checkpoint is damaged: its SHA-256 is missing.", "hash")
    _check_weights(state["task"], task, path)
    # Parameters that were never used have no moments; in a file without a seal that may be damage.
    everyone = state["epoch"] > 0 and file_is_whole(path) is None
    _check_optimizer(state["optimizer"], optimizer, path, everyone=everyone)
    return state


def require_own(state: Mapping[str, Any], identity: str, path: Path) -> None:
    """Refuse the state of another run than that of this `identity`, or one beside a log that was changed since.

    A state of an older version says neither.

    Raises
    ------
    BundleError
        With code ``other-run`` or ``other-log``.
    """
    if state.get("run", identity) != identity:
        raise _refused(path, "The checkpoint is another run's.", "other-run")
    if "log" in state and log_sha256(path.parent, state["epoch"]) != state["log"]:
        problem = "The run's log is not what it was when the checkpoint was written."
        raise _refused(path, problem, "other-log")


def _check_weights(weights: Mapping[str, Any], task: nn.Module, path: Path) -> None:
    """Refuse weights that are not those of the task by name, shape, type, or not finite."""
    own = task.state_dict()
    if not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise _refused(path, "The checkpoint holds weights that are no tensors.", "architecture")
    require_fit(task, weights, path)
    if other := [name for name, value in weights.items() if value.dtype != own[name].dtype]:
        raise _refused(path, f"The weights {other[0]!r} are of another type.", "architecture")
    check_finite(weights, path)


def _check_optimizer(state: Mapping[str, Any], optimizer: Optimizer, path: Path, *, everyone: bool) -> None:
    """Refuse the state of an optimiser of other parameters or settings; learning rates are the schedule's.

    `everyone` says that no parameter may be without moments.
    """
    own = optimizer.state_dict()["param_groups"]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    groups, moments = state.get("param_groups"), state.get("state")
    fits = (
        isinstance(groups, list)
        and isinstance(moments, dict)
        and len(groups) == len(own)
        and all(_same_settings(one, other) for one, other in zip(groups, own, strict=True))
        and moments.keys() <= set(range(len(parameters)))
        and (len(moments) == len(parameters) or not everyone)
        and all(_is_of(value, parameters[number]) for number, value in moments.items())
    )
    if not fits:
        raise _refused(path, "The optimiser's state in the checkpoint is not one of this model and recipe.")


def _same_settings(stored: Any, own: Mapping[str, Any]) -> bool:
    shared = own.keys() - {"lr", "initial_lr"}
    return isinstance(stored, dict) and all(name in stored and stored[name] == own[name] for name in shared)


def _is_of(moments: Any, parameter: torch.Tensor) -> bool:
    """Whether these are Adam's moments of a parameter: of its shape and type, and finite."""
    return (
        isinstance(moments, dict)
        and moments.keys() == _MOMENTS.keys()
        and all(
            isinstance(value, torch.Tensor)
            and value.shape == (parameter.shape if _MOMENTS[name] else torch.Size())
            and value.dtype == (parameter.dtype if _MOMENTS[name] else torch.float32)
            and bool(torch.isfinite(value).all())
            for name, value in moments.items()
        )
    )


def _refused(path: Path, problem: str, code: str = "checkpoint") -> BundleError:
    return BundleError(problem, _FIX, path=path, code=code)
