"""The record of a run, kept from its events: losses, learning curves, times, and the substitute as it evolves.

``log.jsonl`` holds one line per step, epoch and validation, and is the same whether a run was interrupted or not.
``times.jsonl`` holds the seconds of every epoch, which are not; ``substitute/epoch-00010.npy`` the middle axial slice
(N, H, W) of the substitute image. TensorBoard gets the same, if it is installed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from m3ae_core.events import EpochDone, Event, Resumed, StepDone, Validated
from m3ae_core.files import append_text, make_folder, write_array, write_text

if TYPE_CHECKING:  # who follows a run from outside needs no torch
    from torch import Tensor

LOG, TIMES, SUBSTITUTE = "log.jsonl", "times.jsonl", "substitute"
#: What else a run folder holds: the recipe, the bundle at the end, and the lock of the run that uses it.
RECIPE, CASES, BUNDLE, LOCK = "recipe.json", "cases.json", "bundle", ".lock"


def recorded(
    events: Iterable[Event], folder: Path, watched: Callable[[], Tensor | None] = lambda: None
) -> Iterator[Event]:
    """Pass `events` on, each after it was written to the run's `folder`.

    `watched` returns an image (N, D, H, W) that is being learned, if there is one.
    """
    board, epoch = _tensorboard(folder), 0
    for event in events:
        match event:
            case Resumed(epoch):
                rewind(folder / LOG, epoch)
                rewind(folder / TIMES, epoch)
            case StepDone(step, _, terms):
                _append(folder / LOG, {"step": step, "epoch": epoch + 1, "terms": terms})
                _plot(board, "step", terms, step)
            case EpochDone(epoch, _, terms, seconds):
                _append(folder / LOG, {"epoch": epoch, "terms": terms})
                _append(folder / TIMES, {"epoch": epoch, "seconds": round(seconds, 3)})
                _plot(board, "epoch", terms, epoch)
                if (image := watched()) is not None:
                    _snapshot(folder / SUBSTITUTE, epoch, image, board)
            case Validated(_, dice, by_subset):
                _append(folder / LOG, {"epoch": epoch, "dice": dice, "by_subset": by_subset})
                _plot(board, "dice", dice, epoch)
            case _:
                pass
        yield event


def rewind(path: Path, epoch: int) -> None:
    """Drop what a stopped run wrote after its last checkpoint, `epoch` epochs in; a torn last line goes too."""
    if path.exists():
        write_text(path, _until(path, epoch))


def log_sha256(folder: Path, epoch: int | None = None) -> str:
    """Return the SHA-256 of the log of a run, as far as `epoch` epochs if that is given; empty if there is none.

    Until then it is the same, whether the run was interrupted or not.
    """
    path = folder / LOG
    if not path.exists():
        return ""
    text = _text(path) if epoch is None else _until(path, epoch)
    return hashlib.sha256(text.encode()).hexdigest()


def _until(path: Path, epoch: int) -> str:
    """Return the whole lines of a log that belong to the first `epoch` epochs; what is no such line is left out."""
    kept = []
    for line in _text(path).splitlines(keepends=True):
        with suppress(ValueError, LookupError, TypeError, RecursionError):
            if 1 <= json.loads(line)["epoch"] <= epoch:
                kept.append(line)
    return "".join(kept)


def _text(path: Path) -> str:
    return path.read_text("utf-8", "replace")


def _append(path: Path, content: dict[str, Any]) -> None:
    append_text(path, json.dumps(content) + "\n")


def _snapshot(folder: Path, epoch: int, image: Tensor, board: Any) -> None:
    """Keep the middle slice of the substitute, after fewer and fewer epochs: 1, 2, … 10, 20, … 100, 200, …"""
    if epoch % 10 ** (len(str(epoch)) - 1):
        return
    middle = image[:, image.shape[1] // 2].detach().float().cpu().numpy()
    make_folder(folder)
    write_array(folder / f"epoch-{epoch:05d}.npy", middle)
    if board is not None:
        board.add_image("substitute", np.hstack(list(np.clip(middle, 0, 1))), epoch, dataformats="HW")


def _tensorboard(folder: Path) -> Any:
    """Return a TensorBoard writer, or None where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / "tensorboard"))


def _plot(board: Any, group: str, values: dict[str, float], when: int) -> None:
    if board is not None:
        for name, value in values.items():
            board.add_scalar(f"{group}/{name}", value, when)
