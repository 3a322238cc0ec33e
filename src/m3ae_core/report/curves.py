"""Learning curves of a run, drawn from its record; a run that is still going can be drawn too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from m3ae_core.errors import InputError
from m3ae_core.files import atomic_write
from m3ae_core.io.weights import load_pickle
from m3ae_core.report.canvas import new_figure
from m3ae_core.seal import file_is_whole
from m3ae_core.training.checkpoint import CHECKPOINT
from m3ae_core.training.record import LOG, SUBSTITUTE, log_sha256


class Line(BaseModel, strict=True):
    """A line of a run's log: the loss terms of a step or an epoch, or the Dice of a validation."""

    epoch: int
    step: int | None = None
    terms: dict[str, float] = {}
    dice: dict[str, float] = {}
    by_subset: dict[str, dict[str, float]] = {}


def read_log(run: Path) -> tuple[list[Line], list[Line]]:
    """Return the epochs and the validations in a run's log; a torn last line, as of a run that is going, is left out.

    Raises
    ------
    InputError
        If the folder holds no log of a run (``no-run``), one without an epoch (``no-epoch``), or one that was changed
        since the run's checkpoint was written (``other-log``).
    BundleError
        If that checkpoint is damaged.
    """
    try:
        lines = (run / LOG).read_text("utf-8").splitlines(keepends=True)
        found = [Line.model_validate_json(line) for line in lines if line.endswith("\n")]
        epochs = [line for line in found if line.terms and line.step is None]
        validations = [line for line in found if line.dice]
        kinds = {frozenset(line.terms) for line in epochs}, {frozenset(line.dice) for line in validations}
        drawn = [{"terms", "by_subset"} & line.model_fields_set for line in found]
        if max(map(len, kinds)) > 1 or not all(drawn):
            raise ValueError("lines that do not go together")
    except (OSError, ValueError, RecursionError) as error:
        problem = f"This folder holds no readable {LOG}."
        fix = "Give the output folder of m3ae pretrain or finetune."
        raise InputError(problem, fix, path=run, code="no-run") from error
    if not epochs:
        raise InputError("The run has not finished an epoch yet.", "Wait for it.", path=run, code="no-epoch")
    _require_unchanged(run)
    return epochs, validations


def _require_unchanged(run: Path) -> None:
    """Refuse a log that is not what the checkpoint says of it; one of an older version says nothing."""
    if not (run / CHECKPOINT).exists():
        return
    state = load_pickle(run / CHECKPOINT)
    if "log" in state and log_sha256(run, state.get("epoch")) != state["log"]:
        problem = f"The {LOG} is not what it was when the run's checkpoint was written."
        raise InputError(problem, "Copy the run's folder again.", path=run / LOG, code="other-log")


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
    epochs, validations = read_log(run)
    slices = sorted((run / SUBSTITUTE).glob("epoch-*.npy"))
    count = 1 + bool(validations) + bool(slices)
    figure = new_figure(4.2 * count, 3.4)
    panels = iter(figure.subplots(1, count, squeeze=False)[0])
    _losses(next(panels), epochs)
    if validations:
        _dice(next(panels), validations)
    if slices:
        _evolution(next(panels), slices)
    return atomic_write(path, lambda temporary: figure.savefig(temporary, dpi=150, format="png"))


def _losses(axis: Any, epochs: list[Line]) -> None:
    for name in epochs[0].terms:
        axis.plot([line.epoch for line in epochs], [line.terms[name] for line in epochs], label=name)
    axis.set(xlabel="epoch", ylabel="loss term, as weighted", yscale="log", title="Training losses")
    axis.legend(frameon=False)


def _dice(axis: Any, validations: list[Line]) -> None:
    at = [line.epoch for line in validations]
    for region in validations[0].dice:
        axis.plot(at, [line.dice[region] for line in validations], marker="o", label=region)
    count = len(validations[0].by_subset)
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
        if whole and slices.ndim == 3 and np.issubdtype(slices.dtype, np.floating):
            return np.asarray(slices)
        error: Exception | None = None
    except (OSError, ValueError, EOFError) as caught:
        error = caught
    problem = "This picture of the substitute is damaged."
    raise InputError(problem, "Delete it.", path=path, code="damaged") from error
