"""The sequences of one patient made to fit together: valid, each with a background of 0, on one grid, all different."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations
from math import prod

import numpy as np

from m3ae_core.errors import InputError, printable
from m3ae_core.io.affine import flaw
from m3ae_core.io.align import to_one_grid
from m3ae_core.io.background import without_background
from m3ae_core.io.volume import Volume
from m3ae_core.modalities import Kind

#: Correlation from which two images count as one, rescaled (45 real cases, two sequences of one: at most 0.94).
COPY = 0.99
#: Voxels that suffice to tell.
_SAMPLE = 100_000


def fit_together(volumes: Mapping[str, Volume], kinds: Mapping[str, Kind]) -> dict[str, Volume]:
    """Return the volumes, in their order, as a case can hold them; what was done to one is among its notes.

    `kinds` tells the kind of each.

    Raises
    ------
    InputError
        If a volume is not an image in space (``not-3d``, ``affine``), shows another part of space than the first
        (``no-overlap``), or is another one rescaled (``duplicate``).
    """
    for name, volume in volumes.items():
        _require_image(name, volume)
    aligned, _ = to_one_grid({name: _on_zero(volume, kinds[name]) for name, volume in volumes.items()})
    for first, second in combinations(aligned, 2):
        if abs(_correlation(aligned[first], aligned[second])) > COPY:
            raise _duplicate(first, second, volumes)
    return aligned


def _require_image(name: str, volume: Volume) -> None:
    """Refuse what is not three-dimensional or has an affine that cannot be used."""
    shape = np.shape(volume.data)
    if len(shape) != 3 or min(shape) < 2:
        problem = f"{name} has the shape {' × '.join(map(str, shape)) or 'of a number'}."
        fix = "Give an array (X, Y, Z) with at least 2 voxels along each axis."
        raise InputError(problem, fix, path=volume.path, code="not-3d")
    if problem := flaw(np.asarray(volume.affine, np.float64)):
        fix = "Give the 4×4 matrix from voxel indices to RAS world millimetres."
        raise InputError(
            f"The affine of {name} is not usable: {problem}.", fix, path=volume.path, code="affine"
        )


def _on_zero(volume: Volume, kind: Kind) -> Volume:
    """Return a volume whose background is 0."""
    data, notes = without_background(volume.data, kind)
    return volume if data is volume.data else replace(volume, data=data, notes=(*volume.notes, *notes))


def _correlation(first: Volume, second: Volume) -> float:
    """Return the correlation of two images on one grid, over what is not 0 in both; 0 where it means nothing."""
    step = max(1, round((prod(first.shape) / _SAMPLE) ** (1 / 3)))
    a, b = (volume.data[::step, ::step, ::step].astype(np.float64) for volume in (first, second))
    both = (a != 0) | (b != 0)
    if not both.any() or np.ptp(a[both]) == 0 or np.ptp(b[both]) == 0:
        return 0.0
    return float(np.corrcoef(a[both], b[both])[0, 1])


def _duplicate(first: str, second: str, volumes: Mapping[str, Volume]) -> InputError:
    paths = [volumes[name].path for name in (first, second)]
    names = " and ".join(printable(path.name) for path in paths if path is not None)
    return InputError(
        f"{first} and {second} are the same image{f' ({names})' if names else ''}, rescaled or not.",
        "Give each sequence its own image; leave out those that were not acquired.",
        path=paths[1],
        code="duplicate",
    )
