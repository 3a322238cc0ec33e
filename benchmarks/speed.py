"""How fast we are, against the released procedure, MONAI and nnU-Net: every comparison in one run.

    python benchmarks/speed.py --case DIR [--rounds 3] [--only NAME ...] [--write]

DIR is a case folder among others (all cases beside it make the cohort). Each contender (benchmarks/contenders.py) is a
process of its own, since peak memory is a process's; in every round all take turns. Medians over the rounds, ratios of
medians. --write keeps the figures in docs/performance.json and puts the tables into docs/performance.md. nnU-Net is
measured where `nnunetv2` can be imported, else left out. Needs a quiet machine.
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

from m3ae_core.files import write_json, write_text

DOCS = Path(__file__).parents[1] / "docs"
FIGURES, PAGE = DOCS / "performance.json", DOCS / "performance.md"
KEPT = ("released", "our_windows", "our_pass")

Runs = dict[str, list[dict[str, float]]]


def child(name: str, case: Path, threads: int, keep: Path | None) -> None:
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

    cpu = (
        next(
            (
                line.split(":", 1)[1].strip()
                for line in Path("/proc/cpuinfo").read_text().splitlines()
                if "model name" in line
            ),
            platform.processor(),
        )
        if Path("/proc/cpuinfo").exists()
        else platform.processor()
    )
    return {
        "processor": cpu,
        "cores": str(os.cpu_count()),
        "threads": str(threads),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "date": datetime.now(UTC).date().isoformat(),
    }


def table(runs: Runs, cases: int) -> Iterator[str]:
    """Write the goals and what was reached, in Markdown."""
    m = {
        name: {key: statistics.median(run[key] for run in found) for key in found[0]}
        for name, found in runs.items()
    }

    def ratio(slow: str, fast: str, key: str = "s") -> str:
        return f"{m[slow][key] / m[fast][key]:.1f}×" if {slow, fast} <= set(m) else "not measured"

    def value(name: str, key: str, unit: str) -> str:
        return f"{m[name][key]:.2f} {unit}" if name in m else "not measured"

    def minute(name: str) -> str:
        return f"{60 * cases / m[name]['s']:.0f}" if name in m else "not measured"

    yield "| | goal | reached |\n|---|---|---|"
    yield f"| 1 mm network, whole case, one pass against the released procedure | ≥ 10× | {ratio('released', 'our_pass')} |"
    yield f"| the same windows against the released procedure | ≥ 2.6× | {ratio('released', 'our_windows')} |"
    yield f"| one pass against MONAI's sliding window | ≥ 10× | {ratio('monai', 'our_pass')} |"
    yield f"| one pass against nnU-Net's predictor | ≥ 10× | {ratio('nnunet', 'our_pass')} |"
    yield f"| built-in 2 mm model, four files to saved mask | ≤ 4 CPU s | {value('end_to_end', 'cpu', 'CPU s')} ({value('end_to_end', 's', 's')}) |"
    yield f"| the same against the released procedure, CPU time | ≥ 12× | {ratio('released_end_to_end', 'end_to_end', 'cpu')} |"
    yield f"| all 15 subsets of one case against one | ≤ 13× | {ratio('all_subsets', 'end_to_end')} (CPU time {ratio('all_subsets', 'end_to_end', 'cpu')}) |"
    yield f"| peak memory, whole case at 1 mm, one pass | ≤ 2.4 GiB | {value('our_pass', 'gib', 'GiB')} |"
    yield f"| peak memory, whole case at 1 mm, windows | ≤ 1.75 GiB | {value('our_windows', 'gib', 'GiB')} |"
    yield f"| four volumes loaded, checked, normalised | ≤ 1.8 CPU s | {value('load', 'cpu', 'CPU s')} |"
    yield f"| `m3ae --help` | ≤ 0.5 s | {value('m3ae --help', 's', 's')} |"
    yield f"| `import napari_m3ae` | ≤ 0.3 s | {value('import napari_m3ae', 's', 's')} |"
    yield f"| HD95 of three regions | ≤ 0.6 s | {value('distances', 's', 's')} |"
    yield f"| a cohort of {cases} cases | | {minute('cohort')} cases a minute; one by one {minute('one_by_one')} |"
    yield ""
    yield "| contender | s | CPU s | peak GiB |\n|---|---|---|---|"
    for name, values in m.items():
        words = (CONTENDERS[name].__doc__ or "").rstrip(".") if name in CONTENDERS else ""
        yield f"| `{name}`{': ' if words else ''}{words} | {values['s']:.2f} | {values['cpu']:.2f} | {values['gib']:.2f} |"
    if "boxes 4" in m:
        yield ""
        yield "| brain boxes | s | s a box | GiB above the idle process | GiB a box |\n|---|---|---|---|---|"
        for count in (0.5, 1, 2, 4):
            found = m[f"boxes {count:g}"]
            yield f"| {count:g} | {found['s']:.2f} | {found['s'] / count:.2f} | {found['more gib']:.2f} | {found['more gib'] / count:.2f} |"


def insert(text: str, mark: str) -> None:
    """Put `text` between the marks of this name in docs/performance.md."""
    begin, end = f"<!-- {mark} -->\n", f"<!-- end of {mark} -->"
    before, rest = PAGE.read_text("utf-8").split(begin)
    write_text(PAGE, f"{before}{begin}{text}\n{end}{rest.split(end)[1]}")


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
        globals()["child"](child, case, threads, keep)
        return
    names = [name for name in (*CONTENDERS, *STARTS) if not only or name in only]
    if not find_spec("nnunetv2") and "nnunet" in names:
        names.remove("nnunet")
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
        insert(text, "speed")


def render(found: dict[str, Any]) -> str:
    where = "; ".join(f"{key} {value}" for key, value in found["machine"].items())
    lines = [f"Measured with {where}.", "", *table(found["runs"], found["cases"])]
    if gaps := found["differences"]:
        lines += [
            "",
            f"Largest difference in logits (of at most {gaps['largest logit']:.1f}) from the released procedure: windows "
            f"{gaps['our_windows']:.1e}, one pass {gaps['our_pass']:.1e} (random weights).",
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    tyro.cli(main)
