"""A cohort in shares: every N-th case by a process of its own, with no tie to the others.

A process that dies takes no other with it. What each share has done stands in a summary of its own, written after every
case, so that the cases of one that was killed are known.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from m3ae_core.errors import ConfigError
from m3ae_core.events import Progress
from m3ae_core.inference.summary import Record, read_summary

_POLL = 0.2  # seconds


@dataclass(frozen=True)
class Shard:
    """Share `number` (from 1) of `count`."""

    number: int = 1
    count: int = 1

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @property
    def part(self) -> slice:
        """Which of the sorted cases are its own."""
        return slice(self.number - 1, None, self.count)

    @property
    def summary(self) -> str:
        """Name of the file with what came of its cases."""
        return "summary.csv" if self.count == 1 else f"summary-{self.number}-of-{self.count}.csv"


def parse_shard(text: str, environment: Mapping[str, str] = os.environ) -> Shard:
    """Read ``2/8``, or with ``auto`` the place in a SLURM job array.

    Raises
    ------
    ConfigError
        If it is neither (``shard``).
    """
    try:
        if text == "auto":
            first = int(environment.get("SLURM_ARRAY_TASK_MIN", "0"))
            number = int(environment["SLURM_ARRAY_TASK_ID"]) - first + 1
            shard = Shard(number, int(environment["SLURM_ARRAY_TASK_COUNT"]))
        else:
            first_word, second_word = text.split("/")
            shard = Shard(int(first_word), int(second_word))
        if not 1 <= shard.number <= shard.count:
            raise ValueError
    except (KeyError, ValueError) as error:
        raise ConfigError(
            f"There is no share {text!r} of the cases.",
            "Give I/N with I from 1 to N, or auto within a SLURM job array.",
            code="shard",
        ) from error
    return shard


def run_shards(
    command: Sequence[str], count: int, output: Path, cases: Sequence[str]
) -> Iterator[Progress | list[Record]]:
    """Run `command` with ``--shard I/N`` in `count` processes; yield progress, and at the end what came of every case.

    A case that no share reports is refused, with what its process said last. The shares' own summaries are removed.
    """
    shards = [Shard(number, count) for number in range(1, count + 1)]
    paths = [output / shard.summary for shard in shards]
    for path in paths:
        path.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as said:
        children = [_start(command, shard, Path(said)) for shard in shards]
        try:
            while any(child.poll() is None for child in children):
                time.sleep(_POLL)
                yield Progress("cases", sum(len(_read(path)) for path in paths), len(cases))
        finally:
            for child in children:
                child.kill()
                child.wait()
        records = []
        for shard, path, child in zip(shards, paths, children, strict=True):
            done = {record.case: record for record in _read(path)}
            lost = _last_words(Path(said), shard, child.returncode)
            missing = [name for name in cases[shard.part] if name not in done]
            records += [*done.values(), *(Record(name, "refused", message=lost) for name in missing)]
    for path in paths:
        path.unlink(missing_ok=True)
    yield records


def _start(command: Sequence[str], shard: Shard, said: Path) -> subprocess.Popen[bytes]:
    threads = max(1, (os.cpu_count() or 1) // shard.count)
    environment = {"OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": str(shard.number - 1)}
    with (said / str(shard.number)).open("wb") as stream:
        return subprocess.Popen(  # noqa: S603  this program itself
            [*command, "--shard", str(shard)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stream,
            env={**environment, **os.environ},
        )


def _read(path: Path) -> list[Record]:
    return read_summary(path) if path.exists() else []


def _last_words(said: Path, shard: Shard, code: int) -> str:
    lines = (said / str(shard.number)).read_text("utf-8", "replace").strip().splitlines()
    told = f"; it said: {lines[-1]}" if lines and code >= 0 else ""
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    return f"The process that had this case {how}{told}. Run the same again; what is done stays."
