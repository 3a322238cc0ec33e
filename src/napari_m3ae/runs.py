"""A run folder of a training, followed by what is written there; a viewer can stop what a viewer started. No Qt."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil  # type: ignore[import-untyped]

from m3ae_core.training.record import BUNDLE, LOG, RECIPE, SUBSTITUTE, TIMES
from napari_m3ae.runlog import RunLog

#: What a viewer adds to a run folder: the process that trains, and all that it says.
PROCESS, CONSOLE = "process.json", "console.txt"
#: Epochs whose times tell how long the rest will take.
_RECENT = 10

Points = list[tuple[int, float]]


class TrainingProgress(NamedTuple):
    """How far a run is.

    `epoch` epochs of `epochs` are done and `steps` optimiser steps of the next; `terms` are the latest loss terms;
    `dice` per region is the last validation's, after `validated` epochs; `seconds_left` is None before it is known.
    """

    epoch: int
    epochs: int | None
    steps: int
    terms: dict[str, float]
    dice: dict[str, float]
    validated: int
    seconds_left: float | None


class Curves(NamedTuple):
    """Learning curves: (epoch, value) per loss term, and per region for the Dice of the validations."""

    losses: dict[str, Points]
    dice: dict[str, Points]


class Run:
    """A run folder, whoever started it: followed by its files, and stopped if it was started from a viewer.

    `child` is its process, if this viewer started it.
    """

    def __init__(self, folder: Path, child: subprocess.Popen[bytes] | None = None) -> None:
        self.folder = folder
        self._child = child
        self._log = RunLog(folder / LOG)

    @property
    def started_here(self) -> bool:
        """Whether a viewer started it, so that it can be known whether it is alive."""
        return (self.folder / PROCESS).exists()

    @property
    def alive(self) -> bool:
        """Whether the process that a viewer started is training."""
        return self._process() is not None

    @property
    def finished(self) -> bool:
        """Whether the model is there."""
        return (self.folder / BUNDLE / "bundle.json").exists()

    def stop(self) -> None:
        """End the process; a later start goes on from its last checkpoint."""
        if (process := self._process()) is None:
            return
        # Those that prepare samples hold the folder's lock too, and would end some seconds later on their own.
        for member in (process, *process.children(recursive=True)):
            with suppress(psutil.Error):
                member.terminate()

    def progress(self) -> TrainingProgress:
        """Return how far the run is."""
        log = self._log.read_on()
        epoch = log.epochs[-1]["epoch"] if log.epochs else 0
        validation: dict[str, Any] = log.validations[-1] if log.validations else {"epoch": 0, "dice": {}}
        latest = log.step or (log.epochs[-1] if log.epochs else {})
        epochs = self._epochs(latest.get("terms", {}))
        return TrainingProgress(
            epoch,
            epochs,
            log.steps,
            latest.get("terms", {}),
            validation["dice"],
            validation["epoch"],
            self._seconds_left(epoch, epochs),
        )

    def curves(self) -> Curves:
        """Return the mean loss terms of every epoch, and every validation."""
        log = self._log.read_on()
        return Curves(_series(log.epochs, "terms"), _series(log.validations, "dice"))

    def substitutes(self) -> list[Path]:
        """Return the files of the substitute's middle axial slice (N, H, W), oldest first."""
        return sorted((self.folder / SUBSTITUTE).glob("epoch-*.npy"))

    @property
    def modalities(self) -> tuple[str, ...]:
        """The sequences of the substitute image, as far as the folder tells."""
        try:
            return tuple(_read_json(self.folder / RECIPE)["model"]["modalities"])
        except (KeyError, TypeError):
            return ()

    def last_words(self, count: int = 5) -> str:
        """Return the last lines that the process said."""
        with suppress(OSError), (self.folder / CONSOLE).open("rb") as console:
            console.seek(max(0, os.fstat(console.fileno()).st_size - 10_000))
            lines = console.read().decode("utf-8", "replace").splitlines()
            return "\n".join([line for line in lines if line.strip()][-count:])
        return ""

    def words(self) -> str:
        """Say in words how the run is, in one line each: its state, how far it is, its losses, its validation."""
        if not any((self.folder / name).exists() for name in (LOG, RECIPE, PROCESS)):
            return "This folder holds no training run."
        now = self.progress()
        said = [self._state_in_words(now)]
        if now.terms:
            total = "" if now.epochs is None else f" of {now.epochs}"
            steps = f", and {now.steps} steps of the next" if now.steps else ""
            said.append(f"{now.epoch}{total} epochs are done{steps}.")
            said.append("Losses: " + _listed(now.terms, ".4f"))
        if now.dice:
            said.append(f"Dice after {now.validated} epochs: " + _listed(now.dice, ".3f"))
        return "\n".join(said)

    def _state_in_words(self, now: TrainingProgress) -> str:
        if self.alive:
            if not now.terms:
                return "Training starts: the cases are read."
            left = now.seconds_left
            return "Training." if left is None else f"Training, about {_duration(left)} left."
        if self.finished:
            return f"Finished. The model is in its folder {BUNDLE}."
        if not self.started_here:
            return "Started elsewhere, so that it cannot be stopped here."
        stopped = "Stopped. Start goes on from its last checkpoint."
        said = self.last_words()
        return f"{stopped} It last said:\n{said}" if said else stopped

    def _process(self) -> psutil.Process | None:
        """Return the process that was started for this folder, if it runs; another may have got its number since."""
        if self._child is not None:
            self._child.poll()  # so that the system forgets it once it has ended
        noted = _read_json(self.folder / PROCESS)
        try:
            process = psutil.Process(noted["pid"])
            # The program's own path differs where a launcher stands before it.
            return process if process.cmdline()[1:] == noted["command"][1:] else None
        except (psutil.Error, KeyError, TypeError, ValueError):
            return None

    def _epochs(self, terms: dict[str, float]) -> int | None:
        """Return the epochs that the recipe asks for; it says the run's stage, but not in runs of older versions."""
        recipe, guess = (
            _read_json(self.folder / RECIPE),
            "finetune" if "segmentation" in terms else "pretrain",
        )
        try:
            return int(recipe[recipe.get("stage", guess)]["epochs"]) if terms else None
        except (KeyError, TypeError, ValueError):
            return None

    def _seconds_left(self, epoch: int, epochs: int | None) -> float | None:
        lines: list[str] = []
        with suppress(OSError):
            lines = (self.folder / TIMES).read_text("utf-8").splitlines()[-_RECENT:]
        seconds: list[float] = []
        for line in lines:
            with suppress(ValueError, KeyError, TypeError):
                seconds.append(float(json.loads(line)["seconds"]))
        return statistics.median(seconds) * (epochs - epoch) if seconds and epochs is not None else None


def _read_json(path: Path) -> dict[str, Any]:
    """Return the content of a file; empty if there is none that can be read."""
    with suppress(OSError, ValueError):
        content = json.loads(path.read_text("utf-8"))
        return content if isinstance(content, dict) else {}
    return {}


def _series(lines: list[dict[str, Any]], key: str) -> dict[str, Points]:
    found: dict[str, Points] = {}
    for line in lines:
        for name, value in line[key].items():
            found.setdefault(name, []).append((line["epoch"], value))
    return found


def _listed(values: dict[str, float], form: str) -> str:
    return ", ".join(f"{name} {value:{form}}" for name, value in values.items())


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
