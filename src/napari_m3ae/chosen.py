"""Whose a result is: the case that was chosen, or the one of a result that is shown without its images."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from m3ae_core.io.case import Case
from m3ae_core.io.folders.naming import names_disagree
from m3ae_core.modalities import Subset

if TYPE_CHECKING:
    from m3ae_core.inference.predictor import Prediction


class Chosen(NamedTuple):
    """The chosen sequences as a case.

    `sources` say where they were read from, `known` is what the model said of them so far.
    """

    case: Case
    sources: frozenset[str]
    known: dict[Subset, Prediction]

    @property
    def notes(self) -> tuple[str, ...]:
        """What the sequences' names tell against them, as sentences."""
        paths = {name: volume.path for name, volume in self.case.volumes.items() if volume.path is not None}
        doubt = names_disagree(paths, self.case.modalities)
        return (doubt,) if doubt else ()

    @property
    def name(self) -> str:
        """What the case is called."""
        return self.case.name


class Recovered(NamedTuple):
    """Whose a result is that is shown without the images it was made of."""

    name: str
    sources: frozenset[str]
    known: dict[Subset, Prediction]
    notes: tuple[str, ...] = ()
