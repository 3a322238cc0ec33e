"""What file names say against the sequences, or the one patient, that they are taken for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

from m3ae_core.data.case import match_files
from m3ae_core.errors import InputError, printable
from m3ae_core.modalities import BRATS, ModalitySet

#: Words of a name whose number tells runs and settings apart, not patients (as in BIDS).
_NOT_PATIENT = frozenset({"run", "acq", "echo", "rec", "dir", "inv", "series"})


def names_disagree(images: Mapping[str, Path], modalities: ModalitySet = BRATS) -> str | None:
    """Say what the names of `images`, given by sequence, tell against that assignment; None if nothing.

    A name that announces no sequence says nothing. Names speak of different patients if a number differs at the same
    place of both, which in ``run-1`` and the like does not count.
    """
    said = {name: match_files([path], modalities) for name, path in images.items()}
    wrong = []
    for name, files in said.items():
        kinds = ["a label map"] if files.labels else [kind for kind in files.images if kind != name]
        wrong += [
            f"{printable(images[name].name)} was given as {name} but is called {kind}" for kind in kinds
        ]
    found = [f"{'; '.join(wrong)}. Check which file is which sequence."] if wrong else []
    cases = {name: files.name for name, files in said.items() if files.images}
    for first, second in combinations(cases, 2):
        if _other_patient(cases[first], cases[second], modalities):
            pair = " and ".join(f"{printable(cases[name])} ({name})" for name in (first, second))
            found.append(f"The names speak of different patients or visits: {pair}. Check the files.")
            break
    return " ".join(found) or None


def refuse_names_that_disagree(images: Mapping[str, Path], modalities: ModalitySet = BRATS) -> None:
    """Refuse what :func:`names_disagree` would tell.

    Raises
    ------
    InputError
        With code ``names-disagree``.
    """
    if problem := names_disagree(images, modalities):
        fix = "If the files are right all the same, rename them, or give them one by one with --check no."
        raise InputError(problem, fix, path=next(iter(images.values())).parent, code="names-disagree")


def _other_patient(first: str, second: str, modalities: ModalitySet) -> bool:
    """Whether two names of cases differ in a number and else agree as far as that."""
    sequences = {token for modality in modalities for token in modality.tokens}
    before = ""
    words = (re.findall(r"[a-z]+|[0-9]+", name.lower()) for name in (first, second))
    for one, other in zip(*words, strict=False):
        if one != other:
            if not (one.isdigit() and other.isdigit()):
                return False
            return before not in _NOT_PATIENT and not {before + one, before + other} <= sequences
        before = one
    return False
