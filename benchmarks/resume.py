"""Kill training with SIGKILL at random moments, start it again, and compare with a run that was left alone.

    python benchmarks/resume.py --kills 20

Parameters, substitute, optimiser, average, bundles and log have to be the same to the bit, in both stages.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from runs import STAGES, resumed


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stage", choices=STAGES, action="append", help="both if left out")
    arguments = parser.parse_args()
    print("| stage | kills | bit-identical | killed after lines of the log |\n|---|---|---|---|")
    for stage in arguments.stage or STAGES:
        with tempfile.TemporaryDirectory() as folder:
            found = resumed(Path(folder), stage, arguments.kills, arguments.seed)
        same = sum(not kill["differs"] for kill in found)
        moments = " ".join(str(kill["lines"]) for kill in found)
        print(f"| {stage} | {len(found)} | {same} | {moments} of {found[0]['of']} |", flush=True)
        for kill in found:
            if kill["differs"]:
                print(f"after {kill['lines']} lines: {kill['differs'][:9]} differ", file=sys.stderr)


if __name__ == "__main__":
    main()
