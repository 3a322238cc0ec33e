"""Evidence that the images of one case belong to two patients: file names, folders, outlines of the brain.

The limits were set on 45 cases of three collections; ``benchmarks/patients.py`` measures what they find.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations
from pathlib import Path

import numpy as np
import numpy.typing as npt

from m3ae_core.errors import InputError, printable
from m3ae_core.io.folders.subjects import folder_subjects, folders_differ, names_differ, subject_in
from m3ae_core.io.volume import Volume
from m3ae_core.measure import voxel_ml
from m3ae_core.modalities import BRATS, ModalitySet

#: Least Dice of two outlines of one brain (one patient: at least .991; two: 99 % below .951, all below .973).
LEAST_DICE = 0.95
#: Largest volume in mL of a brain without skull; the outline of a whole head depends on the sequence.
BRAIN_ML = 2500.0

_STEP = 4.0  # mm between the points at which outlines are compared
_FIX = (
    "Check which files belong together. If they are of one patient all the same, say so: --same-patient of m3ae "
    "predict, same_patient=True in Python."
)

Mask = npt.NDArray[np.bool_]


def find_two_patients(
    volumes: Mapping[str, Volume], modalities: ModalitySet = BRATS, *, same_patient: bool = False
) -> tuple[str, ...]:
    """Say what tells that the images of a case, given by sequence and on one grid, are of two patients.

    Returns one sentence if names alone or folders alone tell it, else nothing; nothing either if `same_patient` says
    that it is known to be otherwise.

    Raises
    ------
    InputError
        If both names and folders, or outlines of the brain, tell it (``two-patients``).
    """
    if same_patient:
        return ()
    paths = {name: volume.path for name, volume in volumes.items() if volume.path is not None}
    mri = {name: volume for name, volume in volumes.items() if modalities.kinds.get(name, "MRI") == "MRI"}
    return _judged(paths, modalities, outline_evidence(mri))


def find_names_of_two_patients(paths: Mapping[str, Path], modalities: ModalitySet = BRATS) -> tuple[str, ...]:
    """Do what :func:`find_two_patients` does with files, given by sequence, that are not read.

    Raises
    ------
    InputError
        If both names and folders tell it (``two-patients``).
    """
    return _judged(paths, modalities)


def _judged(paths: Mapping[str, Path], modalities: ModalitySet, outline: str = "") -> tuple[str, ...]:
    said = [*filter(None, (names_evidence(paths, modalities), folders_evidence(paths, modalities)))]
    if not outline and len(said) < 2:
        return tuple(f"{sentence} {_FIX}" for sentence in said)
    problem = " ".join(["The images seem to be of two patients.", *said, *filter(None, [outline])])
    raise InputError(problem, _FIX, path=_folder_of(paths), code="two-patients")


def names_evidence(paths: Mapping[str, Path], modalities: ModalitySet) -> str:
    """Return the first two files, given by sequence, whose names tell two subjects, as a sentence; empty if none."""
    subjects = {name: subject_in(path.name, modalities) for name, path in paths.items()}
    pair = _first_pair(subjects, lambda one, other: names_differ(subjects[one], subjects[other]))
    return _sentence("file names", {name: Path(paths[name].name) for name in pair})


def folders_evidence(paths: Mapping[str, Path], modalities: ModalitySet) -> str:
    """Return the first two files, given by sequence, whose folders tell two subjects, as a sentence; empty if none."""
    subjects = {name: folder_subjects(path, modalities) for name, path in paths.items()}
    pair = _first_pair(subjects, lambda one, other: folders_differ(subjects[one], subjects[other]))
    return _sentence("folders", {name: paths[name].parent for name in pair})


def outline_evidence(volumes: Mapping[str, Volume]) -> str:
    """Return the two images, on one grid, whose brain outlines agree least, as a sentence; empty if all do agree.

    Outlines are what is not zero. They are compared only if the background of all images is zero and none shows more
    than a brain.
    """
    outlines = {name: outline(volume) for name, volume in volumes.items()}
    brains = {name: mask for name, mask in outlines.items() if mask is not None}
    if len(brains) < len(outlines) or len({mask.shape for mask in brains.values()}) > 1:
        return ""
    scores = {pair: outline_dice(brains[pair[0]], brains[pair[1]]) for pair in combinations(brains, 2)}
    one, other = min(scores, key=lambda pair: scores[pair], default=("", ""))
    if not scores or scores[one, other] >= LEAST_DICE:
        return ""
    return (
        f"The brains of {one} and {other} have different outlines (Dice {scores[one, other]:.2f}; "
        f"of one patient at least {LEAST_DICE:.2f})."
    )


def outline(volume: Volume) -> Mask | None:
    """Return where an image is not zero, every 4 mm; None if that is no brain on a background of zeros."""
    steps = [max(1, round(_STEP / mm)) for mm in volume.spacing]
    mask: Mask = volume.data[tuple(slice(step // 2, None, step) for step in steps)] != 0
    size = np.count_nonzero(mask) * voxel_ml(volume.affine) * float(np.prod(steps))
    corners = mask[np.ix_(*[[0, -1]] * 3)] if mask.size else np.ones(1, bool)
    return None if corners.any() or not 0 < size <= BRAIN_ML else mask


def outline_dice(first: Mask, second: Mask) -> float:
    """Return the Dice overlap of two masks (X, Y, Z) within the box that both reach, so that cut ends do not count."""
    box = tuple(
        slice(max(one.start, other.start), min(one.stop, other.stop))
        for one, other in zip(_box(first), _box(second), strict=True)
    )
    first, second = first[box], second[box]
    total = np.count_nonzero(first) + np.count_nonzero(second)
    return 2 * np.count_nonzero(first & second) / total if total else 0.0


def _box(mask: Mask) -> tuple[slice, ...]:
    """Return the box around a mask that is not empty."""
    used = (np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3))
    return tuple(slice(int(places[0]), int(places[-1]) + 1) for places in used)


def _first_pair(names: Mapping[str, object], differ: Callable[[str, str], bool]) -> tuple[str, ...]:
    return next((pair for pair in combinations(names, 2) if differ(*pair)), ())


def _sentence(what: str, pair: Mapping[str, Path]) -> str:
    named = " and ".join(f"{printable(path)} ({name})" for name, path in pair.items())
    return f"The {what} speak of two patients: {named}." if pair else ""


def _folder_of(paths: Mapping[str, Path]) -> Path | None:
    return next((path.parent for path in paths.values()), None)
