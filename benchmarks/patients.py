"""Two patients' images in one case: how many mixed cases are found, and how many true ones are objected to.

    python benchmarks/patients.py CASES [CASES ...] [--pairs 200]

Every true case is tried as it is, stored as LPS, and cut to the box around its brain. Mixed cases are drawn with a
fixed seed from pairs of cases: one sequence of the one among the others of the other, on the grid of the other by voxel
axes (all lie in one space, whose origin their headers tell differently). They are tried with their names and folders
as they are, with their names in one folder, and with the same names in one folder, so that outlines of the brain alone
can tell.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations, permutations
from pathlib import Path

import nibabel as nib
import numpy as np
import tyro

from m3ae_core.errors import InputError
from m3ae_core.io.case import CaseFiles, find_cases, read_case
from m3ae_core.io.patients import find_two_patients, outline, outline_dice
from m3ae_core.io.volume import Volume

Volumes = Mapping[str, Volume]


def main(folders: tyro.conf.Positional[Sequence[Path]], pairs: int = 200, seed: int = 0) -> None:
    files = [found for folder in folders for found in find_cases(folder) if len(found.images) > 1]
    cases = {found.name: in_ras(found) for found in files}
    seconds = [-time.perf_counter(), 0.0]
    for volumes in cases.values():
        judged(volumes)
    print(
        f"{len(cases)} cases; the check costs {(time.perf_counter() + seconds[0]) / len(cases):.3f} s a case\n"
    )
    print("| images | sets | refused | warned | nothing said |\n|---|---|---|---|---|")
    row("one patient's, as they are", map(judged, cases.values()))
    row("stored as LPS", (judged(as_lps(volumes)) for volumes in cases.values()))
    row("cut to the brain", (judged(cut(volumes)) for volumes in cases.values()))
    drawn = list(draw(cases, pairs, seed))
    row("two patients', names as they are", map(judged, drawn))
    row("two patients', in one folder", map(judged, map(in_one_folder, drawn)))
    row("two patients', the same names", map(judged, map(renamed, drawn)))
    one = [least(volumes) for volumes in cases.values()]
    print(f"\nDice of outlines, least of each set: one patient's {spread(one)}")
    print(f"two patients' {spread([least(volumes) for volumes in drawn])}")
    print(f"two patients', every pair of cases by its first images {spread(across(cases))}")


def in_ras(found: CaseFiles) -> dict[str, Volume]:
    """The images of a case with their axes towards R, A and S."""
    volumes = {}
    for name, volume in read_case(found).volumes.items():
        image = nib.as_closest_canonical(nib.Nifti1Image(volume.data, volume.affine))
        volumes[name] = Volume(np.asanyarray(image.dataobj), image.affine, volume.path)
    return volumes


def as_lps(volumes: Volumes) -> dict[str, Volume]:
    """The same images with their first two axes reversed."""
    flip = np.diag([-1.0, -1, 1, 1])
    flip[:2, 3] = np.array(next(iter(volumes.values())).shape[:2]) - 1
    return {n: replace(v, data=v.data[::-1, ::-1], affine=v.affine @ flip) for n, v in volumes.items()}


def cut(volumes: Volumes) -> dict[str, Volume]:
    """The same images cut to the box around the content of the first."""
    content = next(iter(volumes.values())).data != 0
    used = [np.flatnonzero(content.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    box = tuple(slice(places[0], places[-1] + 1) for places in used)
    return {name: replace(volume, data=volume.data[box]) for name, volume in volumes.items()}


def draw(cases: Mapping[str, Volumes], pairs: int, seed: int) -> Iterator[dict[str, Volume]]:
    """Put one sequence of one case among the others of another, for ordered pairs of cases drawn without repetition."""
    generator = np.random.default_rng(seed)
    ordered = [*permutations(cases, 2)]
    for place in generator.permutation(len(ordered))[:pairs]:
        guest, host = (cases[name] for name in ordered[place])
        name = str(generator.choice(sorted(set(guest) & set(host)) or sorted(guest)))
        affine = next(iter(host.values())).affine
        yield {**host, name: replace(guest[name], affine=affine)}


def in_one_folder(volumes: Volumes) -> dict[str, Volume]:
    """The same images, called as they are, in the folder of one case."""
    return {
        name: replace(volume, path=Path("/case") / Path(volume.path or name).name)
        for name, volume in volumes.items()
    }


def renamed(volumes: Volumes) -> dict[str, Volume]:
    """The same images under one patient's names."""
    return {name: replace(volume, path=Path(f"/case/case_{name}.nii.gz")) for name, volume in volumes.items()}


def judged(volumes: Volumes) -> str:
    try:
        return "warned" if find_two_patients(volumes) else "nothing"
    except InputError:
        return "refused"


def row(what: str, outcomes: Iterator[str]) -> None:
    counts = Counter(outcomes)
    total = counts.total()
    shares = (
        f"{counts[key]} ({100 * counts[key] / total:.1f} %)" for key in ("refused", "warned", "nothing")
    )
    print(f"| {what} | {total} | {' | '.join(shares)} |")


def least(volumes: Volumes) -> float:
    """The least Dice of two outlines of a set."""
    outlines = [mask for mask in map(outline, volumes.values()) if mask is not None]
    return min(outline_dice(one, other) for one, other in combinations(outlines, 2))


def across(cases: Mapping[str, Volumes]) -> list[float]:
    outlines = [outline(next(iter(volumes.values()))) for volumes in cases.values()]
    known = [mask for mask in outlines if mask is not None]
    return [outline_dice(one, other) for one, other in combinations(known, 2)]


def spread(values: Sequence[float]) -> str:
    low, five, middle, high, most = np.percentile(values, [0, 5, 50, 95, 100])
    return (
        f"({len(values)}): {low:.3f} to {most:.3f}, median {middle:.3f}, 90 % from {five:.3f} to {high:.3f}"
    )


if __name__ == "__main__":
    tyro.cli(main)
