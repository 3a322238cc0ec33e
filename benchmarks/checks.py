"""What each check of an input costs, in milliseconds and as a share of one segmentation.

    python benchmarks/checks.py CASE [--runs 5]

The built-in model, float32, the median of several runs; reading the files is part of none but its own row.
"""

from __future__ import annotations

import gzip
import time
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from statistics import median

import tyro

from m3ae_core.bundle import load_bundle
from m3ae_core.data.builtin import builtin_bundle
from m3ae_core.inference.predictor import Predictor
from m3ae_core.inference.unprepared import find_unprepared
from m3ae_core.io.background import without_background
from m3ae_core.io.case import find_case, read_case
from m3ae_core.io.folders.naming import names_disagree
from m3ae_core.io.nifti import parse_header
from m3ae_core.io.patients import find_two_patients
from m3ae_core.io.together import _correlation
from m3ae_core.io.volume import voxel_sha256
from m3ae_core.measure import voxel_ml
from m3ae_core.trust.judge import brain_of, judge


def main(folder: tyro.conf.Positional[Path], runs: int = 5) -> None:
    files = find_case(folder)
    case, bundle = read_case(files), load_bundle(builtin_bundle())
    volumes = case.volumes
    predictor = Predictor(bundle, "cpu", arithmetic="float32")
    heads = [opened(path) for path in files.images.values()]
    maps = predictor.predict(case).probabilities
    brain = brain_of(volume.data for volume in volumes.values())
    checks: dict[str, Callable[[], object]] = {
        "recognition of names": lambda: (find_case(folder), names_disagree(files.images)),
        "headers": lambda: [parse_header(head) for head in heads],
        "background": lambda: [without_background(volume.data) for volume in volumes.values()],
        "near-copies": lambda: [_correlation(*pair) for pair in combinations(volumes.values(), 2)],
        "two patients": lambda: find_two_patients(volumes),
        "hash for reuse": lambda: [voxel_sha256(volume.data) for volume in volumes.values()],
        "uncertainty and expected Dice": lambda: judge(
            maps, brain, voxel_ml(case.affine), case.subset, predictor.calibration
        ),
        "images not prepared (--check)": lambda: find_unprepared(case),
        "reading the files": lambda: read_case(files),
    }
    whole = milliseconds(lambda: predictor.predict(case), runs)
    print(
        f"one segmentation of {files.name}: {whole:.0f} ms\n\n| check | ms | share of one segmentation |\n|---|---|---|"
    )
    for name, check in checks.items():
        spent = milliseconds(check, runs)
        print(f"| {name} | {spent:.1f} | {spent / whole:.1%} |")
    more = milliseconds(lambda: predictor.predict(case, check=True), runs) - whole
    print(f"| both of --check, sequences mixed up among them | {more:.1f} | {more / whole:.1%} |")


def opened(path: Path) -> bytes:
    """The header of a NIfTI file."""
    with (gzip.open if path.name.endswith(".gz") else open)(path, "rb") as stream:
        return bytes(stream.read(352))


def milliseconds(work: Callable[[], object], runs: int) -> float:
    """Median wall-clock time of some work."""
    found = []
    for _ in range(runs):
        started = time.perf_counter()
        work()
        found.append(1000 * (time.perf_counter() - started))
    return median(found)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
