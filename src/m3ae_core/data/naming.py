"""What file names say against the sequences, or the one patient, that they are taken for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

from m3ae_core.data.recognition import LABELS, NO_WORD, Recognised, recognise
from m3ae_core.errors import InputError, printable
from m3ae_core.modalities import BRATS, ModalitySet

#: Words of a name whose number tells runs and settings apart, not patients (as in BIDS).
_NOT_PATIENT = frozenset({"run", "acq", "echo", "rec", "dir", "inv", "series"})


def names_disagree(images: Mapping[str, Path], modalities: ModalitySet = BRATS) -> str | None:
    """Say what the names of `images`, given by sequence, tell against that assignment; None if nothing.

    A name that announces no sequence says nothing. Names speak of different patients if a number differs at the same
    place of both, which in ``run-1`` and the like does not count.
    """
    said = {name: recognise(path.name, modalities) for name, path in images.items()}
    wrong = [
        f"{printable(images[name].name)} was given as {name} but {doubt}"
        for name, found in said.items()
        if (doubt := _doubt(name, found))
    ]
    found = [f"{'; '.join(wrong)}. Check which file is which sequence."] if wrong else []
    cases = {
        name: found.case or images[name].absolute().parent.name
        for name, found in said.items()
        if found.kind or found.channel
    }
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


def _doubt(name: str, found: Recognised) -> str:
    """Say what a file's name tells against the sequence `name`; nothing where it says nothing."""
    if found.kind:
        is_called = "a label map" if found.kind == LABELS else found.kind
        return "" if found.kind == name else f"is called {is_called}"
    if found.candidates:
        return "" if name in found.candidates else f"is called {' or '.join(found.candidates)}"
    return "" if found.why == NO_WORD else f"its name speaks of something else ({found.why})"


def _other_patient(first: str, second: str, modalities: ModalitySet) -> bool:
    """Whether two names of cases differ in a number and else agree as far as that."""
    sequences = {token for modality in modalities for token in modality.tokens}
    if _is_series(first) and _is_series(second):
        return False
    before = ""
    words = (re.findall(r"[a-z]+|[0-9]+", name.lower()) for name in (first, second))
    for one, other in zip(*words, strict=False):
        if one != other:
            if not (one.isdigit() and other.isdigit()):
                return False
            return before not in _NOT_PATIENT and not {before + one, before + other} <= sequences
        before = one
    return False


def _is_series(name: str) -> bool:
    """Whether a name in front of a sequence is the number of a series, or its date and time."""
    return bool(re.fullmatch(r"(\d{8}[-_T]?)?\d{6}|\d{1,3}", name))
