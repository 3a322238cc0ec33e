"""Learning curves of a run, drawn from its record; a run that is still going can be drawn too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from m3ae_core.errors import InputError
from m3ae_core.files import atomic_write
from m3ae_core.io.weights import load_pickle
from m3ae_core.report.canvas import new_figure
from m3ae_core.seal import file_is_whole
from m3ae_core.training.checkpoint import CHECKPOINT
from m3ae_core.training.record import LOG, SUBSTITUTE, log_sha256


def read_log(run: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's log; a torn last line, as of a run that is writing it, is left out.

    Raises
    ------
    InputError
        If the folder holds no log of a run (``no-run``), one without an epoch (``no-epoch``), or one that was changed
        since the run's checkpoint was written (``other-log``).
    BundleError
        If that checkpoint is damaged.
    """
    lines: list[dict[str, Any]] = []
    try:
        for line in (run / LOG).read_text("utf-8").splitlines(keepends=True):
            if line.endswith("\n"):
                lines.append(_checked(json.loads(line)))
        for kind in ("terms", "dice"):
            named = [line[kind].keys() for line in lines if kind in line and "step" not in line]
            if any(names != named[0] for names in named):
                raise ValueError
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"This folder holds no readable {LOG}.",
            "Give the output folder of m3ae pretrain or finetune.",
            path=run,
            code="no-run",
        ) from error
    if not any("terms" in line and "step" not in line for line in lines):
        raise InputError("The run has not finished an epoch yet.", "Wait for it.", path=run, code="no-epoch")
    _require_unchanged(run)
    return lines


def _require_unchanged(run: Path) -> None:
    """Refuse a log that is not what the checkpoint says of it; one of an older version says nothing."""
    if not (run / CHECKPOINT).exists():
        return
    state = load_pickle(run / CHECKPOINT)
    if "log" in state and log_sha256(run, state.get("epoch")) != state["log"]:
        problem = f"The {LOG} is not what it was when the run's checkpoint was written."
        raise InputError(problem, "Copy the run's folder again.", path=run / LOG, code="other-log")


def _checked(line: Any) -> dict[str, Any]:
    """Return a line of a log that holds what is drawn.

    Raises
    ------
    ValueError
        If it does not.
    """
    found = isinstance(line, dict) and isinstance(line.get("epoch"), int)
    for name in ("terms", "dice", "by_subset"):
        found = found and isinstance(line.get(name, {}), dict)
    if not found or not ("terms" in line or {"dice", "by_subset"} <= line.keys()):
        raise ValueError
    if not all(
        isinstance(value, int | float) for name in ("terms", "dice") for value in line.get(name, {}).values()
    ):
        raise ValueError
    return dict(line)


def save_curves(run: Path, path: Path) -> Path:
    """Write a PNG of a run's losses per epoch and, where there are any, its validations and its substitute.

    Raises
    ------
    InputError, BundleError
        If the log cannot be used, see :func:`read_log`.
    ConfigError
        If matplotlib is not installed.
    OutputError
        If the file cannot be written.
    """
    log = read_log(run)
    epochs = [line for line in log if "terms" in line and "step" not in line]
    validated = [line for line in log if "dice" in line]
    slices = sorted((run / SUBSTITUTE).glob("epoch-*.npy"))
    figure = new_figure(4.2 * (1 + bool(validated) + bool(slices)), 3.4)
    panels = iter(figure.subplots(1, 1 + bool(validated) + bool(slices), squeeze=False)[0])
    _losses(next(panels), epochs)
    if validated:
        _dice(next(panels), validated)
    if slices:
        _evolution(next(panels), slices)
    return atomic_write(path, lambda temporary: figure.savefig(temporary, dpi=150, format="png"))


def _losses(axis: Any, epochs: list[dict[str, Any]]) -> None:
    for name in epochs[0]["terms"]:
        axis.plot([line["epoch"] for line in epochs], [line["terms"][name] for line in epochs], label=name)
    axis.set(xlabel="epoch", ylabel="loss term, as weighted", yscale="log", title="Training losses")
    axis.legend(frameon=False)


def _dice(axis: Any, validated: list[dict[str, Any]]) -> None:
    for region in validated[0]["dice"]:
        axis.plot(
            [line["epoch"] for line in validated],
            [line["dice"][region] for line in validated],
            marker="o",
            label=region,
        )
    count = len(validated[0]["by_subset"])
    axis.set(xlabel="epoch", ylabel="Dice", ylim=(0, 1), title=f"Validation, mean of {count} subsets")
    axis.legend(frameon=False)


def _evolution(axis: Any, slices: list[Path]) -> None:
    """Show the middle slice of the substitute early, half way and late, one modality a row."""
    shown = [slices[index] for index in sorted({0, len(slices) // 2, len(slices) - 1})]
    columns = [np.vstack(list(_slices(path))) for path in shown]
    image = np.hstack(columns)
    axis.imshow(image, cmap="gray", vmin=np.percentile(image, 1), vmax=np.percentile(image, 99))
    ticks = [column.shape[1] * (0.5 + i) for i, column in enumerate(columns)]
    axis.set_xticks(ticks, [path.stem.removeprefix("epoch-").lstrip("0") for path in shown])
    axis.set(yticks=[], xlabel="epoch", title="Substitute image")


def _slices(path: Path) -> npt.NDArray[np.floating]:
    """Return the slices (N, H, W) of a snapshot.

    Raises
    ------
    InputError
        If it is damaged (``damaged``).
    """
    try:
        whole = file_is_whole(path, path.name) is not False
        slices = np.load(path)
    except (OSError, ValueError, EOFError) as error:
        raise _damaged(path) from error
    if not whole or slices.ndim != 3 or not np.issubdtype(slices.dtype, np.floating):
        raise _damaged(path)
    return np.asarray(slices)


def _damaged(path: Path) -> InputError:
    return InputError("This picture of the substitute is damaged.", "Delete it.", path=path, code="damaged")
