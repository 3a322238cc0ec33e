"""How fast we are, against the released procedure, MONAI and nnU-Net: every comparison in one run.

    python benchmarks/speed.py --case DIR [--rounds 3] [--only NAME ...] [--write]

DIR is a case folder among others (all cases beside it make the cohort). Each contender (benchmarks/contenders.py) is a
process of its own, since peak memory is a process's; in every round all take turns. Medians over the rounds, ratios of
medians. --write keeps the figures in docs/performance.json and puts the tables into docs/performance.md. nnU-Net is
measured where `nnunetv2` can be imported, bfloat16 where the processor computes in it. Needs a quiet machine.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import tyro
from contenders import CONTENDERS, STARTS, WARM
from page import DOCS, insert

from m3ae_core.files import write_json
from m3ae_core.inference.device import cpu_has_bfloat16

FIGURES, PAGE = DOCS / "performance.json", DOCS / "performance.md"
KEPT = ("released", "our_windows", "our_pass")

Runs = dict[str, list[dict[str, float]]]


def run_contender(name: str, case: Path, threads: int, keep: Path | None) -> None:
    """Run one contender and print what it took."""
    import torch

    torch.set_num_threads(threads)
    run = CONTENDERS[name](case)
    if CONTENDERS[name] in WARM:
        run()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, cpu = time.perf_counter(), time.process_time()
    result = run()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if keep:
        np.save(keep, np.asarray(result))
    print(json.dumps({"s": wall, "cpu": cpu, "gib": peak / 2**20, "more gib": (peak - before) / 2**20}))


def measure(name: str, case: Path, threads: int, keep: Path | None) -> dict[str, float]:
    line = [sys.executable, __file__, "--child", name, "--case", str(case), "--threads", str(threads)]
    line += ["--keep", str(keep)] if keep else []
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}
    done = subprocess.run(line, capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(f"{name}: {done.stderr}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(f"{name}: {found['s']:.2f} s, {found['cpu']:.2f} CPU s, {found['gib']:.2f} GiB", file=sys.stderr)
    return found


def start(name: str) -> dict[str, float]:
    before, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *STARTS[name]], check=True, capture_output=True)
    wall, after = time.perf_counter() - wall, resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"s": wall, "cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, "gib": 0}


def differences(folder: Path) -> dict[str, float]:
    """How far our windows are from the released procedure, and how far one pass is, in logits."""
    arrays = {name: np.load(folder / f"{name}.npy") for name in KEPT if (folder / f"{name}.npy").exists()}
    if len(arrays) < len(KEPT):
        return {}
    shape = arrays["our_windows"].shape
    low = [(have - want) // 2 for have, want in zip(arrays["released"].shape, shape, strict=True)]
    inside = tuple(slice(a, a + n) for a, n in zip(low, shape, strict=True))
    return {name: float(np.abs(arrays[name] - arrays["released"][inside]).max()) for name in KEPT[1:]} | {
        "largest logit": float(np.abs(arrays["released"]).max())
    }


def machine(threads: int) -> dict[str, str]:
    import torch

    known = Path("/proc/cpuinfo")
    lines = known.read_text().splitlines() if known.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": str(os.cpu_count()),
        "threads": str(threads),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "date": datetime.now(UTC).date().isoformat(),
    }


class Medians:
    """The medians of all runs, and their ratios, as text; what was not measured says so."""

    def __init__(self, runs: Runs) -> None:
        self.of = {
            name: {key: statistics.median(run[key] for run in found) for key in found[0]}
            for name, found in runs.items()
        }

    def ratio(self, slow: str, fast: str, key: str = "s") -> str:
        if not {slow, fast} <= set(self.of):
            return "not measured"
        return f"{self.of[slow][key] / self.of[fast][key]:.1f}×"

    def value(self, name: str, key: str, unit: str) -> str:
        return f"{self.of[name][key]:.2f} {unit}" if name in self.of else "not measured"

    def per_minute(self, name: str, cases: int) -> str:
        return f"{60 * cases / self.of[name]['s']:.0f} a minute" if name in self.of else "not measured"


def goals(m: Medians, cases: int) -> Iterator[tuple[str, str, str]]:
    """Yield what is promised, the goal, and what was reached."""
    yield (
        "1 mm network, whole case: one pass, first case / released",
        "≥ 10×",
        m.ratio("released", "our_pass"),
    )
    yield "the same, fourth case of a cohort", "≥ 10×", m.ratio("released", "our_next_pass")
    yield "the same in bfloat16", "", m.ratio("released", "our_half_pass")
    yield "the same windows / released", "≥ 2.6×", m.ratio("released", "our_windows")
    yield "one pass, fourth case / MONAI's sliding window", "≥ 10×", m.ratio("monai", "our_next_pass")
    yield "one pass, fourth case / nnU-Net's predictor", "≥ 10×", m.ratio("nnunet", "our_next_pass")
    yield "the same in bfloat16 / MONAI's sliding window", "", m.ratio("monai", "our_half_pass")
    yield "the same in bfloat16 / nnU-Net's predictor", "", m.ratio("nnunet", "our_half_pass")
    ours, theirs = "end_to_end", "released_end_to_end"
    yield "2 mm model, four files to saved mask", "≤ 4 CPU s", m.value(ours, "cpu", "CPU s")
    yield "the same, wall time", "", m.value(ours, "s", "s")
    yield "the same / released procedure, CPU time", "≥ 12×", m.ratio(theirs, ours, "cpu")
    yield "the same with the checks of the images", "", m.value("end_to_end_checked", "cpu", "CPU s")
    yield "all 15 subsets of one case / one, CPU time", "≤ 13×", m.ratio("all_subsets", ours, "cpu")
    yield "peak memory at 1 mm, one pass", "≤ 2.4 GiB", m.value("our_pass", "gib", "GiB")
    yield "peak memory at 1 mm, windows", "≤ 1.75 GiB", m.value("our_windows", "gib", "GiB")
    yield "four volumes loaded, checked, normalised", "≤ 1.8 CPU s", m.value("load", "cpu", "CPU s")
    yield "`m3ae --help`", "≤ 0.5 s", m.value("m3ae --help", "s", "s")
    yield "`import napari_m3ae`", "≤ 0.3 s", m.value("import napari_m3ae", "s", "s")
    yield "HD95 of three regions", "≤ 0.6 s", m.value("distances", "s", "s")
    yield f"cohort of {cases} cases", "", m.per_minute("cohort", cases)
    yield "the same one by one", "", m.per_minute("one_by_one", cases)


def table(runs: Runs, cases: int) -> Iterator[str]:
    """Write the goals and what was reached, and all medians, in Markdown."""
    m = Medians(runs)
    yield "| | goal | reached |\n|---|---|---|"
    yield from (f"| {what} | {goal} | {reached} |" for what, goal, reached in goals(m, cases))
    yield "\n| contender | s | CPU s | peak GiB |\n|---|---|---|---|"
    for name, found in m.of.items():
        words = (CONTENDERS[name].__doc__ or "").rstrip(".") if name in CONTENDERS else ""
        title = f"`{name}`: {words}" if words else f"`{name}`"
        yield f"| {title} | {found['s']:.2f} | {found['cpu']:.2f} | {found['gib']:.2f} |"
    if "boxes 4" in m.of:
        yield "\n| brain boxes | s | s a box | GiB above the idle process | GiB a box |\n|---|---|---|---|---|"
        for count in (0.5, 1, 2, 4):
            s, gib = (m.of[f"boxes {count:g}"][key] for key in ("s", "more gib"))
            yield f"| {count:g} | {s:.2f} | {s / count:.2f} | {gib:.2f} | {gib / count:.2f} |"


def main(
    case: Path,
    rounds: int = 3,
    only: tuple[str, ...] = (),
    write: bool = False,
    threads: int = 2,
    child: str = "",
    keep: Path | None = None,
) -> None:
    if child:
        run_contender(child, case, threads, keep)
        return
    cannot = {"nnunet": not find_spec("nnunetv2"), "our_half_pass": not cpu_has_bfloat16()}
    names = [name for name in (*CONTENDERS, *STARTS) if (not only or name in only) and not cannot.get(name)]
    runs: Runs = {name: [] for name in names}
    with TemporaryDirectory() as folder:
        for turn in range(rounds):
            for name in names:
                kept = Path(folder) / f"{name}.npy" if turn == 0 and name in KEPT else None
                runs[name].append(start(name) if name in STARTS else measure(name, case, threads, kept))
        found: dict[str, Any] = {"differences": differences(Path(folder))}
    found |= {
        "machine": machine(threads),
        "cases": len([p for p in case.parent.iterdir() if p.is_dir()]),
        "runs": runs,
    }
    text = render(found)
    print(text)
    if write:
        write_json(FIGURES, found)
        insert(PAGE, "speed", text)


def render(found: dict[str, Any]) -> str:
    where = "; ".join(f"{key} {value}" for key, value in found["machine"].items())
    lines = [f"Measured with {where}.", "", *table(found["runs"], found["cases"])]
    if gaps := found["differences"]:
        lines += [
            "",
            f"Largest difference from the released procedure, in logits of at most {gaps['largest logit']:.1f} "
            f"(random weights): windows {gaps['our_windows']:.1e}, one pass {gaps['our_pass']:.1e}.",
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    tyro.cli(main)
