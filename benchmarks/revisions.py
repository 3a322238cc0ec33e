"""What each change did: the same whole-case runs with the sources of several revisions, taking turns.

    python benchmarks/revisions.py --case DIR --revisions 04e60f4 9f350c9 HEAD [--rounds 3]

Two runs, each in a process of its own: `2 mm`, the built-in model from four files to the saved mask (the second run of
the process counts: the model is loaded), and `1 mm`, one pass of the paper's network over the brain box, network alone.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import tyro

ROOT = Path(__file__).parents[1]
SHARED = """
import json, sys, tempfile, time, resource
from pathlib import Path
import torch
torch.set_num_threads(2)
def told(run):
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(json.dumps([wall, cpu, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20]))
"""
RUNS = {
    "2 mm": SHARED
    + """
from m3ae_core.bundle import load_bundle
from m3ae_core.data.builtin import builtin_bundle
from m3ae_core.data.case import find_case, read_case
from m3ae_core.inference.predictor import Predictor, save_prediction
predictor, files = Predictor(load_bundle(builtin_bundle()), "cpu"), find_case(Path(sys.argv[1]))
target = Path(tempfile.mkdtemp()) / "labels.nii.gz"
run = lambda: save_prediction(predictor.predict(read_case(files)), target)
run()
told(run)
""",
    "1 mm": SHARED
    + """
from contextlib import nullcontext
from m3ae_core import memory
from m3ae_core.config import load_recipe
from m3ae_core.model.m3ae import Segmenter
torch.manual_seed(0)
network, image = Segmenter(load_recipe("paper").model).eval(), torch.rand(1, 4, 144, 176, 136)
with torch.no_grad(), getattr(memory, "freed_memory_kept", nullcontext)():
    network.predict(image)
    told(lambda: network.predict(image))
""",
}


def main(case: Path, revisions: tuple[str, ...], rounds: int = 3) -> None:
    found: dict[tuple[str, str], list[list[float]]] = {}
    with TemporaryDirectory() as folder:
        for revision in revisions:
            tree = Path(folder) / revision
            subprocess.run(["git", "worktree", "add", "--detach", str(tree), revision], cwd=ROOT, check=True)
        try:
            for _ in range(rounds):
                for name, program in RUNS.items():
                    for revision in revisions:
                        environment = {**os.environ, "PYTHONPATH": str(Path(folder) / revision / "src")}
                        line = [sys.executable, "-c", program, str(case.absolute())]
                        done = subprocess.run(
                            line, env=environment, check=True, capture_output=True, text=True
                        )
                        found.setdefault((name, revision), []).append(json.loads(done.stdout))
        finally:
            for revision in revisions:
                tree = Path(folder) / revision
                subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=ROOT, check=False)
    print("| run | revision | s | CPU s | peak GiB |\n|---|---|---|---|---|")
    for (name, revision), runs in found.items():
        wall, cpu, gib = (statistics.median(column) for column in zip(*runs, strict=True))
        print(f"| {name} | `{revision}` | {wall:.2f} | {cpu:.2f} | {gib:.2f} |")


if __name__ == "__main__":
    tyro.cli(main)
