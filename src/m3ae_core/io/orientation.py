"""The orientation of images whose headers tell none, as the user gives it."""

# mypy: allow-untyped-calls
# (nibabel's functions carry no annotations)
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from nibabel.orientations import axcodes2ornt

from m3ae_core.errors import ConfigError, InputError
from m3ae_core.io.affine import Affine, describe, tells_nothing
from m3ae_core.io.volume import Volume

#: The stored axes as they are taken without a word, and with left and right swapped.
AS_STORED, SWAPPED = "RAS", "LAS"

_TOLD = "The header does not tell the orientation; the user gave "
_SIDES = ("LR", "PA", "IS")


def require_orientation(codes: str) -> str:
    """Return axis codes such as ``LPS``: the side of the body towards which each stored axis runs.

    Raises
    ------
    ConfigError
        If they are none (``orientation``).
    """
    if len(codes) != 3 or any(sum(code in side for code in codes) != 1 for side in _SIDES):
        raise ConfigError(
            f"{codes!r} is no orientation.",
            "Give one letter an axis, of R or L, A or P, and S or I each: RAS, LPS, ...",
            code="orientation",
        )
    return codes


def oriented(volume: Volume, codes: str) -> Volume:
    """Return a volume whose header tells nothing with axes towards `codes`; a note says so.

    It keeps its voxels and fills the same part of space as before.

    Raises
    ------
    InputError
        If its header does tell the orientation (``orientation``).
    ConfigError
        If `codes` are no orientation (``orientation``).
    """
    require_orientation(codes)
    if not tells_nothing(volume.affine):
        raise InputError(
            f"The header tells the orientation: {describe(volume.affine)}.",
            "Leave the orientation out for this file; it is for files without one.",
            path=volume.path,
            code="orientation",
        )
    notes = (*(note for note in volume.notes if not was_told([note])), f"{_TOLD}{codes}.")
    return replace(volume, affine=_affine(volume, codes), notes=notes)


def was_told(notes: Iterable[str]) -> bool:
    """Whether the notes of a volume say that the user gave its orientation."""
    return any(note.startswith(_TOLD) for note in notes)


def _affine(volume: Volume, codes: str) -> Affine:
    """Return the matrix from voxels whose axes run towards `codes` to RAS mm, its least coordinates 0."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (world, direction) in enumerate(axcodes2ornt(codes)):
        step = volume.spacing[axis]
        affine[int(world), axis] = direction * step
        if direction < 0:
            affine[int(world), 3] = (volume.shape[axis] - 1) * step
    return affine
