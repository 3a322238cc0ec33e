"""A training as the viewer starts it: a process of its own, which goes on when the viewer is closed. No Qt."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from m3ae_core.card import read_card
from m3ae_core.config import load_recipe
from m3ae_core.errors import ConfigError, OutputError
from m3ae_core.files import write_json
from m3ae_core.io.case import find_cases
from m3ae_core.training.record import LOCK
from napari_m3ae.runs import CONSOLE, PROCESS, Run

#: Seconds that a run which was just stopped has to let go of its folder.
PATIENCE = 1
#: The child says everything at once, in UTF-8, and draws no bar, which would fill the disk over days.
_ENVIRONMENT = {"PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1", "TQDM_DISABLE": "1"}


@dataclass(frozen=True)
class Training:
    """What a training run is told.

    Attributes
    ----------
    recipe
        The name of a built-in recipe, or the path of a TOML file.
    cases, output
        The folder of cases, and the run folder.
    pretrained, validation, scheme
        For stage 2: the bundle that it starts from, the folder of cases that it is validated on, if any, and what the
        numbers of the labels mean.
    """

    stage: Literal["pretrain", "finetune"]
    recipe: str
    cases: Path
    output: Path
    pretrained: Path | None = None
    validation: Path | None = None
    scheme: str = ""

    @property
    def arguments(self) -> list[str]:
        """What ``m3ae`` is given."""
        options: dict[str, Path | None] = {"cases": self.cases, "output": self.output}
        if self.stage == "finetune":
            options |= {"pretrained": self.pretrained, "validation": self.validation}
        given = [(f"--{name}", str(path)) for name, path in options.items() if path is not None]
        labels = ["--scheme", self.scheme] if self.stage == "finetune" and self.scheme else []
        return [self.stage, self.recipe, *(word for pair in given for word in pair), *labels]

    @property
    def command(self) -> str:
        """The command line that does the same."""
        words = ["m3ae", *self.arguments]
        return subprocess.list2cmdline(words) if sys.platform == "win32" else shlex.join(words)

    @property
    def python(self) -> str:
        """The Python program that does the same."""
        given, held_out, imported, schemes = f"plan, stage_named(recipe, {self.stage!r})", "", "", ""
        if self.stage == "finetune":
            given += f", pretrained=Path({str(self.pretrained)!r}), validation=validation"
            found = f"find_cases({str(self.validation)!r}, recipe.model.modality_set)"
            held_out = f"    validation = {found if self.validation is not None else '()'}\n"
            imported = "from m3ae_core.io.folders.schemes import schemes_of\n"
            schemes = f", schemes=schemes_of((*cases, *validation), [{self.scheme!r}])"
        return (
            "from pathlib import Path\n\n"
            "from m3ae_core.config import load_recipe\n"
            "from m3ae_core.io.case import find_cases\n"
            f"{imported}from m3ae_core.training.run import Plan, stage_named, train\n\n"
            'if __name__ == "__main__":  # processes that prepare samples import this file\n'
            f"    recipe = load_recipe({self.recipe!r})\n"
            f"    cases = find_cases({str(self.cases)!r}, recipe.model.modality_set)\n"
            f"{held_out}    plan = Plan(recipe, cases, Path({str(self.output)!r}){schemes})\n"
            f"    for event in train({given}):\n"
            "        print(event)\n"
        )


def start(training: Training) -> Run:
    """Start a training as a process that goes on when the viewer is closed; it resumes where the folder's run stopped.

    Raises
    ------
    M3AEError
        If the recipe, the cases or the pretrained bundle cannot be used, or the run folder cannot be written to or is
        in use (code ``locked``). All else the process finds out and says: see :meth:`Run.last_words`.
    """
    folder = training.output
    _check(training)
    _claim(folder)
    command = [sys.executable, "-m", "m3ae_core.cli", *training.arguments]
    with (folder / CONSOLE).open("wb") as console:
        child = subprocess.Popen(  # noqa: S603  our own module
            command,
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
            env={**os.environ, **_ENVIRONMENT},
            **_detached(),
        )
    try:
        write_json(folder / PROCESS, {"pid": child.pid, "command": command})
    except OutputError:
        child.terminate()  # nobody could stop it later
        raise
    return Run(folder, child)


def _check(training: Training) -> None:
    """Find out what can be found out at once, while the user is looking."""
    modalities = load_recipe(training.recipe).model.modality_set
    find_cases(training.cases, modalities)
    if training.stage == "pretrain":
        return
    if training.pretrained is None:
        raise ConfigError(
            "Stage 2 starts from a pretrained model.",
            "Choose the folder `bundle` in the run folder of stage 1.",
            code="no-pretrained",
        )
    if not training.scheme:
        raise ConfigError(
            "What the numbers of the labels mean is not stated.",
            "Choose the label scheme; the same numbers mean other tissues in other releases.",
            code="no-scheme",
        )
    read_card(training.pretrained)
    if training.pretrained.is_relative_to(training.output):
        raise ConfigError(
            "This is the run folder of stage 1.",
            "Choose another one for stage 2.",
            path=training.output,
            code="same-folder",
        )
    if training.validation is not None:
        find_cases(training.validation, modalities)


def _claim(folder: Path) -> None:
    """Make the run folder and see that nobody uses it."""
    locked = OutputError(
        "Another run is using this folder.",
        "Wait for it or stop it, or choose another folder.",
        path=folder,
        code="locked",
    )
    if Run(folder).alive:  # it takes the lock only once it has loaded torch
        raise locked
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / LOCK, timeout=PATIENCE):
            pass
    except Timeout as error:
        raise locked from error
    except OSError as error:
        raise OutputError(
            f"The run folder cannot be written to: {error.strerror}.",
            "Choose another one.",
            path=folder,
            code="not-writable",
        ) from error


def _detached() -> dict[str, Any]:
    """Return what makes a process outlive the viewer and the terminal that it was started from."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.DETACHED_PROCESS | subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}
