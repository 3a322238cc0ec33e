"""How often sequences that are mixed up, and images that are not prepared, are told; how often good cases are accused.

    python benchmarks/mixup.py --cases DIR... [--bundle DIR]

Every case that has all sequences of the model is tried as it is, with the images of each two sequences exchanged, and
with each alteration that leaves it unprepared. Whether two sequences are taken for mixed up does not depend on what
else is given, so that the answers for all subsets follow from those for all pairs. Brackets hold 95 % Wilson intervals;
those over subsets are too narrow, because the subsets of one case are not independent.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from math import sqrt
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tyro
from scipy import ndimage

from m3ae_core.bundle import Bundle, load_bundle
from m3ae_core.data.affine import spacing_of
from m3ae_core.data.builtin import builtin_bundle
from m3ae_core.data.case import Case, find_cases, read_case
from m3ae_core.data.preprocess import StandardCase, standardise
from m3ae_core.data.volume import Volume
from m3ae_core.inference.mixup import Pair, swap_gains
from m3ae_core.inference.unprepared import find_unprepared

Counts = dict[str, list[bool]]
FloatArray = npt.NDArray[np.float32]


def rate(answers: Sequence[bool]) -> str:
    """`3 of 4 (75 % [30-95])`."""
    n, p, z = len(answers), sum(answers) / len(answers), 1.96
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return f"{sum(answers)} of {n} ({100 * p:.1f} % [{100 * abs(middle - half):.1f}-{100 * (middle + half):.1f}])"


def exchanged(standard: StandardCase, pair: Pair) -> StandardCase:
    """Give each of two sequences the other's image."""
    order = list(standard.subset.of)
    i, j = (order.index(name) for name in pair)
    order[i], order[j] = order[j], order[i]
    return replace(standard, image=standard.image[[standard.subset.of.index(name) for name in order]])


def try_swaps(standard: StandardCase, bundle: Bundle, counts: Counts) -> None:
    """Count the alarms over all subsets of two and more sequences, with none and with any two of them exchanged."""
    names = standard.subset.present
    subsets = [some for size in range(2, len(names) + 1) for some in combinations(names, size)]
    right = swap_gains(standard, bundle)
    for some in subsets:
        counts["false alarms, correct sets"].append(_alarm(right, some))
    for pair in combinations(names, 2):
        gains = swap_gains(exchanged(standard, pair), bundle)
        counts[f"swaps of {' and '.join(pair)}, alone"].append(_alarm(gains, pair))
        counts["swaps, alone"].append(_alarm(gains, pair))
        counts["swaps, in all subsets"] += [_alarm(gains, some) for some in subsets if set(pair) <= set(some)]


def _alarm(gains: dict[Pair, float], names: Sequence[str]) -> bool:
    return max(gains[pair] for pair in combinations(names, 2)) > 0


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


def main(cases: tuple[Path, ...], bundle: Path | None = None) -> None:
    model = load_bundle(bundle or builtin_bundle())
    counts: Counts = defaultdict(list)
    swap_seconds, check_seconds = [], []
    for files in (files for folder in cases for files in find_cases(folder)):
        case = read_case(files)
        started = time.process_time()
        counts["false alarms, prepared cases"].append(bool(find_unprepared(case)))
        check_seconds.append(time.process_time() - started)
        for what, altered in alterations(case):
            counts[what].append(bool(find_unprepared(altered)))
        standard = standardise(case, model.config)
        if not standard.subset.missing:
            started = time.process_time()
            try_swaps(standard, model, counts)
            swap_seconds.append((time.process_time() - started) / 7)  # as it is, and six exchanges
    print("| tried | said |\n|---|---|")
    for what, answers in counts.items():
        print(f"| {what} | {rate(answers)} |")
    print(f"\nOn the CPU: {np.median(check_seconds):.1f} s to tell an unprepared case", end="")
    print(f", {np.median(swap_seconds):.1f} s a mix-up." if swap_seconds else ".")


if __name__ == "__main__":
    tyro.cli(main)
