"""Train 20 steps in two processes and in one, on the CPU, with the same batches: how far are the losses apart?

python benchmarks/processes.py
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from runs import STAGES, shared_out


def main() -> None:
    print("| stage | steps | largest difference of a loss term | of a validation Dice |\n|---|---|---|---|")
    for stage in STAGES:
        with tempfile.TemporaryDirectory() as folder:
            found = shared_out(Path(folder), stage)
        dice = "" if found["dice"] is None else f"{found['dice']:.1e}"
        print(f"| {stage} | {found['steps']} | {found['loss']:.1e} | {dice} |", flush=True)


if __name__ == "__main__":
    main()
