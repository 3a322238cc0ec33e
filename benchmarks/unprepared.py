"""How often images that are not prepared are told, and how often good cases are accused.

    python benchmarks/unprepared.py --cases DIR...

Every case is tried as it is, and with each alteration that leaves it unprepared. Brackets hold 95 % Wilson intervals.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import sqrt
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tyro
from scipy import ndimage

from m3ae_core.inference.unprepared import find_unprepared
from m3ae_core.io.affine import spacing_of
from m3ae_core.io.case import Case, find_cases, read_case
from m3ae_core.io.volume import Volume

Counts = dict[str, list[bool]]
FloatArray = npt.NDArray[np.float32]


def rate(answers: Sequence[bool]) -> str:
    """`3 of 4 (75 % [30-95])`."""
    n, p, z = len(answers), sum(answers) / len(answers), 1.96
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return f"{sum(answers)} of {n} ({100 * p:.1f} % [{100 * abs(middle - half):.1f}-{100 * (middle + half):.1f}])"


def with_skull(volume: Volume, air: float) -> Volume:
    """Put 3 mm of fluid, 6 mm of dark bone and 5 mm of bright skin around a brain; `air` is the noise's share of it."""
    data = volume.data.astype(np.float32)
    bright = float(np.percentile(data[data != 0], 98))
    depth = ndimage.distance_transform_edt(data == 0, sampling=spacing_of(volume.affine))
    rng = np.random.default_rng(0)
    noise = rng.rayleigh(max(air, 0.02) * bright, data.shape).astype(np.float32)
    shells = np.select([depth == 0, depth <= 3, depth <= 9, depth <= 14], [data, 0.4 * bright, 0, bright], 0)
    inside = (depth > 0) & (depth <= 14)
    return Volume(shells + noise * (inside | ((depth > 14) & (air > 0))), volume.affine)


def alterations(case: Case) -> Iterator[tuple[str, Case]]:
    """Yield what may be wrong with a case, and the case in which it is."""

    def each(change: object) -> Case:
        return replace(case, volumes={name: change(volume) for name, volume in case.volumes.items()})  # type: ignore[operator]

    def scaled(factor: float) -> Case:
        return each(lambda v: Volume(v.data, v.affine @ np.diag([factor, factor, factor, 1])))

    yield "skull left on, noise in the air", each(lambda v: with_skull(v, 0.02))
    skull = each(lambda v: with_skull(v, 0))
    yield "skull left on, air is 0", skull
    for name in case.volumes:
        yield f"skull left on, air is 0, {name} alone", skull.only(name)
    yield (
        "z-scored with its background",
        each(lambda v: Volume((v.data - v.data.mean()) / v.data.std(), v.affine)),
    )
    yield "100 added everywhere", each(lambda v: Volume(v.data + 100, v.affine))
    yield "voxel size 10 times too large", scaled(10)
    yield "voxel size 10 times too small", scaled(0.1)
    yield "voxel size half", scaled(0.5)
    yield "a mask", each(lambda v: Volume((v.data != 0).astype(np.float32), v.affine))
    quarters = [25, 50, 75]
    yield (
        "a map of 4 labels",
        each(
            lambda v: Volume(
                (np.digitize(v.data, np.percentile(v.data[v.data != 0], quarters)) + 1.0) * (v.data != 0),
                v.affine,
            )
        ),
    )


def main(cases: tuple[Path, ...]) -> None:
    counts: Counts = defaultdict(list)
    seconds = []
    for files in (files for folder in cases for files in find_cases(folder)):
        case = read_case(files)
        started = time.process_time()
        counts["false alarms, prepared cases"].append(bool(find_unprepared(case)))
        seconds.append(time.process_time() - started)
        for what, altered in alterations(case):
            counts[what].append(bool(find_unprepared(altered)))
    print("| tried | said |\n|---|---|")
    for what, answers in counts.items():
        print(f"| {what} | {rate(answers)} |")
    print(f"\nOn the CPU: {np.median(seconds):.1f} s.")


if __name__ == "__main__":
    tyro.cli(main)
