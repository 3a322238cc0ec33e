"""The log of a training run, read on from where it was left: it grows by a line a step, for days. No Qt."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any


class RunLog:
    """What the log of a run says so far.

    Attributes
    ----------
    epochs, validations
        Their lines, oldest first; see :mod:`m3ae_core.training.record`.
    step, steps
        The last step's line (empty if an epoch has ended since), and the number of steps since the last epoch.
    """

    epochs: list[dict[str, Any]]
    validations: list[dict[str, Any]]
    step: dict[str, Any]
    steps: int

    def __init__(self, path: Path) -> None:
        self._path = path
        self._forget(None)

    def read_on(self) -> RunLog:
        """Take in what was added; begin anew if a resumed run has dropped lines, and hence replaced the file."""
        last = b""
        for line in self._added().splitlines():
            if line.startswith(b'{"step"'):  # nearly all lines are such, and only the last one counts
                last, self.steps = line, self.steps + 1
            else:
                last = b""
                self._take(line)
        if last:
            with suppress(ValueError):
                self.step = json.loads(last)
        return self

    def _forget(self, identity: tuple[int, int] | None) -> None:
        self._identity, self._end = identity, 0
        self.epochs, self.validations = [], []
        self.step, self.steps = {}, 0

    def _added(self) -> bytes:
        """Return the whole lines that were not read yet."""
        try:
            with self._path.open("rb") as stream:
                found = os.fstat(stream.fileno())
                if (found.st_dev, found.st_ino) != self._identity or found.st_size < self._end:
                    self._forget((found.st_dev, found.st_ino))
                stream.seek(self._end)
                added = stream.read()
        except OSError:
            return b""
        whole = added[: added.rfind(b"\n") + 1]
        self._end += len(whole)
        return whole

    def _take(self, line: bytes) -> None:
        with suppress(ValueError):  # torn by a kill; the run drops it when it resumes
            content = json.loads(line)
            if "terms" in content:
                self.epochs.append(content)
                self.step, self.steps = {}, 0
            elif "dice" in content:
                self.validations.append(content)
