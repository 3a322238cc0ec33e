"""What file names say against the sequences that they are taken for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from m3ae_core.errors import InputError, printable
from m3ae_core.io.folders.recognition import LABELS, NO_WORD, Recognised, recognise
from m3ae_core.modalities import BRATS, ModalitySet


def names_disagree(images: Mapping[str, Path], modalities: ModalitySet = BRATS) -> str | None:
    """Say what the names of `images`, given by sequence, tell against that assignment; None if nothing.

    A name that announces no sequence says nothing.
    """
    said = {name: recognise(path.name, modalities) for name, path in images.items()}
    wrong = [
        f"{printable(images[name].name)} was given as {name} but {doubt}"
        for name, found in said.items()
        if (doubt := _doubt(name, found))
    ]
    return f"{'; '.join(wrong)}. Check which file is which sequence." if wrong else None


def refuse_names_that_disagree(images: Mapping[str, Path], modalities: ModalitySet) -> None:
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
