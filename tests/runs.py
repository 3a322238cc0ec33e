"""Training runs through the command line, as processes of their own: to be killed, shared out and compared.

For tests/training/test_processes.py, benchmarks/resume.py and benchmarks/processes.py.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from m3ae_core.config import parse_recipe
from m3ae_core.data.phantom import write_phantom
from m3ae_core.files import sha256
from m3ae_core.io.weights import load_pickle
from tiny import recipe_toml

STAGES = ("pretrain", "finetune")
SRC = Path(__file__).resolve().parents[1] / "src"
_STAGE = {"crop": (16, 24, 16), "batch_size": 2, "nnunet": True, "foreground": 0.5}


def prepare(folder: Path, epochs: int, checkpoint_every: int = 1) -> Path:
    """Write four cases, one more to validate on, and a recipe with most options on: two steps an epoch."""
    stage = {**_STAGE, "epochs": epochs, "checkpoint_every": checkpoint_every}
    model = {
        "network": {"base_channels": 4, "norm_groups": 2},
        "grid": {
            "shape": (16, 24, 20),
            "affine": ((0, 0, -4, -25.5), (0, -4, 0, 229.5), (4, 0, 0, -1), (0, 0, 0, 1)),
        },
        "inference": {"window": "template"},
    }
    own = {"situations": "uniform", "ema": 0.9, "validate_every": 2}
    content = {"model": model, "pretrain": {**stage, "masking": {"patch": 8}}, "finetune": {**stage, **own}}
    for number in range(5):
        home = folder / ("cases" if number < 4 else "held-out")
        write_phantom(home, f"case-{number}", shape=(20, 24, 16), seed=number)
    (folder / "recipe.toml").write_text(recipe_toml(parse_recipe(content)))
    return folder


def command(place: Path, stage: str, output: Path, *options: str) -> list[str]:
    """The arguments of ``m3ae``; stage 2 starts from ``place/start/bundle``."""
    own = [
        "--pretrained",
        f"{place}/start/bundle",
        "--validation",
        f"{place}/held-out",
        "--scheme",
        "brats2023",
    ]
    common = [stage, f"{place}/recipe.toml", "--cases", f"{place}/cases", "--output", str(output)]
    return [*common, *(own if stage == "finetune" else []), "--device", "cpu", *options]


def run(arguments: list[str]) -> None:
    """Run ``python -m m3ae_core.cli`` in a new interpreter; raise what it said if it fails."""
    environment = {**os.environ, "PYTHONPATH": str(SRC)}
    line = [sys.executable, "-W", "ignore", "-m", "m3ae_core.cli", *arguments]
    done = subprocess.run(line, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)}: exit code {done.returncode}\n{done.stderr[-4000:]}")


def fork(arguments: list[str], log: Path) -> Any:
    """Start ``m3ae`` in a fork of this process, which has loaded the libraries already, and return it."""
    process = multiprocessing.get_context("fork").Process(target=_main, args=(arguments, log))
    process.start()
    return process


def finish(process: Any, log: Path) -> None:
    """Wait for a forked run; raise what it said if it fails."""
    process.join()
    if process.exitcode:
        raise RuntimeError(f"exit code {process.exitcode}\n{log.read_text()[-4000:]}")


def _main(arguments: list[str], log: Path) -> None:
    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    from m3ae_core.cli import main

    sys.exit(main(arguments))


# --- kill -9 ---------------------------------------------------------------------------------------


def resumed(folder: Path, stage: str, kills: int, seed: int = 0) -> list[dict[str, Any]]:
    """Kill a run of `stage` at random moments, one run a kill, start it again; compare it with one left alone.

    To be called in a process that has computed nothing yet, as it forks. Returns for every kill the lines of the log
    at that moment and what differs in the end.
    """
    import lightning_fabric  # noqa: F401  loaded once, before the forks
    import monai.transforms  # noqa: F401

    torch.set_num_threads(1)
    rng, log = random.Random(seed), folder / "output.txt"
    place, reference = prepare(folder, epochs=5, checkpoint_every=2), folder / f"{stage}-alone"
    if stage == "finetune":
        finish(fork(command(place, "pretrain", place / "start"), log), log)
    started = time.monotonic()
    finish(fork(command(place, stage, reference), log), log)
    seconds = time.monotonic() - started
    total = len((reference / "log.jsonl").read_text().splitlines())
    found: list[dict[str, Any]] = []
    while len(found) < kills:
        output = folder / f"{stage}-{len(found)}"
        process = fork(command(place, stage, output), log)
        lines = _kill(process, output / "log.jsonl", rng.randrange(total), rng.uniform(0, seconds / total))
        if process.exitcode != -signal.SIGKILL:  # it was faster
            shutil.rmtree(output)
            continue
        finish(fork(command(place, stage, output), log), log)
        found.append({"lines": lines, "of": total, "differs": differences(reference, output)})
    return found


def _kill(process: Any, log: Path, lines: int, delay: float) -> int:
    """Kill a run `delay` seconds after its log has so many lines; return how many it has then."""
    while process.is_alive() and _lines(log) < lines:
        time.sleep(0.002)
    time.sleep(delay)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    return _lines(log)


def _lines(log: Path) -> int:
    return log.read_bytes().count(b"\n") if log.exists() else 0


def differences(one: Path, other: Path) -> list[str]:
    """Names of the files and checkpoint entries that are not the same to the bit in two run folders."""
    a, b = (_contents(folder) for folder in (one, other))
    return sorted(name for name in a.keys() | b.keys() if not _same(a.get(name), b.get(name)))


def _contents(folder: Path) -> dict[str, Any]:
    files = ("*.jsonl", "recipe.json", "*/*.safetensors", "substitute/*.npy", "**/.tmp-*")
    found: dict[str, Any] = {
        str(path.relative_to(folder)): sha256(path) for pattern in files for path in folder.glob(pattern)
    }
    del found["times.jsonl"]  # seconds
    return found | flat(load_pickle(folder / "checkpoint.pt"))


def flat(content: Any, name: str = "checkpoint") -> dict[str, Any]:
    """Nested dictionaries and lists as one, with names like paths."""
    if isinstance(content, dict | list | tuple):
        items = content.items() if isinstance(content, dict) else enumerate(content)
        return {k: v for key, value in items for k, v in flat(value, f"{name}/{key}").items()}
    return {name: content}


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    return type(a) is type(b) and bool(a == b)


# --- two processes ---------------------------------------------------------------------------------


def shared_out(folder: Path, stage: str) -> dict[str, Any]:
    """Train 20 steps of `stage` in two processes and in one, with the same batches; return how far they are apart."""
    place = prepare(folder, epochs=10)
    if stage == "finetune":
        run(command(place, "pretrain", place / "start"))
    folders = [folder / f"{stage}-{devices}" for devices in (1, 2)]
    for devices, output in enumerate(folders, 1):
        run(command(place, stage, output, "--devices", str(devices)))
    one, two = (logged(output) for output in folders)
    terms, dice = (
        max(float(np.abs(a[name] - b[name]).max()) for a, b in pairs for name in a.keys() | b.keys())
        if (pairs := list(zip(one[key], two[key], strict=True)))
        else None
        for key in ("terms", "dice")
    )
    return {"steps": sum("step" in line for line in one["terms"]), "loss": terms, "dice": dice}


def logged(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The lines of a log that hold ``terms`` (with their number), and those that hold ``dice``."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    terms = [
        {**line["terms"], **({"step": line["step"]} if "step" in line else {})}
        for line in lines
        if "terms" in line
    ]
    return {"terms": terms, "dice": [line["dice"] for line in lines if "dice" in line]}
