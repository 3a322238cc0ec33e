"""How often two sequences given in each other's place are named, and how often correct ones are accused.

    python benchmarks/mixup.py --collections DIR DIR... [--bundle DIR]

Each folder holds the cases of one collection, which is judged by a rule fitted on the others: every set of two and more
sequences of every case, as it is and after each exchange of two; an exchange counts as named if the alarm names those
two. Brackets hold 95 % Wilson intervals; they are too narrow, because the sets of one case are not independent.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from math import sqrt
from pathlib import Path

import numpy as np
import tyro

from m3ae_core.bundle import load_bundle
from m3ae_core.data.builtin import builtin_bundle
from m3ae_core.data.preprocess import standardise
from m3ae_core.evaluation.mixup import rule_of
from m3ae_core.inference.contrast import Signs, compare
from m3ae_core.inference.mixup import LeftOut
from m3ae_core.inference.predictor import Predictor
from m3ae_core.io.case import find_cases, read_case

ALIKE = "T1+T1c"  # the pair that looks most alike is reported apart


def rate(hits: int, n: int) -> str:
    """`3 of 4 (75.0 % [30.1-95.4])`."""
    p, z = hits / n, 1.96
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return f"{hits} of {n} ({100 * p:.1f} % [{100 * abs(middle - half):.1f}-{100 * (middle + half):.1f}])"


def measure(folder: Path, predictor: Predictor, seconds: list[tuple[float, float]]) -> list[Signs]:
    """Return the signs of a collection's cases; note the CPU seconds of each check and of one prediction."""
    found = []
    for files in find_cases(folder, predictor.config.modality_set):
        case = read_case(files, predictor.config.modality_set)
        standard = standardise(case, predictor.config)
        started = time.process_time()
        found.append(compare(standard))
        checked = time.process_time() - started
        if not seconds or len(found) == 1:
            started = time.process_time()
            predictor.predict(case)
            seconds.append((checked, time.process_time() - started))
    return found


def row(name: str, left_out: Sequence[LeftOut]) -> str:
    """One line of the table: cases, false alarms, exchanges named of all pairs but the alike, and of those."""
    alike = [sum(getattr(left, kind).get(ALIKE, 0) for left in left_out) for kind in ("found", "swaps")]
    every = [sum(sum(getattr(left, kind).values()) for left in left_out) for kind in ("found", "swaps")]
    others = [a - b for a, b in zip(every, alike, strict=True)]
    false, correct = (sum(getattr(left, kind) for left in left_out) for kind in ("false", "correct"))
    cells = [
        name,
        str(sum(left.cases for left in left_out)),
        rate(false, correct),
        rate(*others),
        rate(*alike),
    ]
    return f"| {' | '.join([*cells, rate(*every)])} |"


def main(collections: tuple[Path, ...], bundle: Path | None = None) -> None:
    """Print the table, a row for each collection left out and one for all."""
    predictor, seconds = (
        Predictor(load_bundle(bundle or builtin_bundle()), "cpu"),
        list[tuple[float, float]](),
    )
    rule = rule_of([measure(folder, predictor, seconds) for folder in collections])
    print(f"| left out | cases | false alarms, correct sets | exchanges named, not {ALIKE} | {ALIKE} | all |")
    print("|---|---|---|---|---|---|")
    for folder, left in zip(collections, rule.left_out, strict=True):
        print(row(folder.name, [left]))
    print(row("all", rule.left_out))
    checks, masks = np.median(seconds, axis=0)
    print(f"\nCPU: {checks:.2f} s a check, {masks:.2f} s a prediction with its judgement.")


if __name__ == "__main__":
    tyro.cli(main)
