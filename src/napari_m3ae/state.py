"""What the panel shows, as frozen values, and how it is said in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from m3ae_core.card import read_card, reliability_words
from m3ae_core.config import ModelConfig
from m3ae_core.data.builtin import builtin_bundle
from m3ae_core.errors import BundleError
from m3ae_core.events import Progress
from m3ae_core.modalities import BRATS, ModalitySet, Subset
from m3ae_core.plugins import registered

if TYPE_CHECKING:
    from napari.layers import Image


#: The modalities while no model is known.
PRESET: ModalitySet = BRATS


@dataclass(frozen=True)
class Slot:
    """One sequence of the case: the layer that holds it, and whether the user wants it used."""

    modality: str
    layer: Image | None = None
    ticked: bool = True

    @property
    def used(self) -> bool:
        """Whether the sequence takes part; if not it is missing and will be substituted."""
        return self.ticked and self.layer is not None


@dataclass(frozen=True)
class Model:
    """A model to choose: its name and the folder of its bundle; its card and its modalities once they were read."""

    name: str
    folder: Path
    card: Mapping[str, Any] = field(default_factory=dict, repr=False)
    modalities: ModalitySet = field(default=PRESET, repr=False)

    def read(self) -> Model:
        """Return the model with its card and its modalities; no weights are read.

        Raises
        ------
        BundleError
            If ``bundle.json`` cannot be used.
        """
        content = read_card(self.folder)
        try:
            modalities = ModelConfig.model_validate(content["model"]).modality_set
        except ValidationError as error:
            problem = "bundle.json describes no model that this version knows."
            raise BundleError(problem, "Copy the bundle again.", path=self.folder, code="format") from error
        return replace(self, card=content["card"], modalities=modalities)


BUILTIN = Model("built-in", builtin_bundle())


def known_models(folder: Path | None) -> tuple[Model, ...]:
    """Return the built-in model, those that packages register, and those in a `folder` of bundles."""
    named = {name: Path(path) for name, path in registered("models").items()}
    named |= (
        {path.parent.name: path.parent for path in sorted(folder.glob("*/bundle.json"))} if folder else {}
    )
    return (BUILTIN, *(Model(name, path) for name, path in named.items()))


@dataclass(frozen=True)
class State:
    """A snapshot of a session.

    `result` says what the segmentation on display was made from, or is empty; `warnings` belong to it, and `expected`
    says how good it should be. `seconds` is
    how long the last run with this model took, None before the first.
    """

    model: Model = BUILTIN
    slots: tuple[Slot, ...] = tuple(map(Slot, BUILTIN.modalities.names))
    seconds: float | None = None
    phase: Literal["idle", "running", "cancelling"] = "idle"
    progress: Progress | None = None
    result: str = ""
    expected: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def subset(self) -> Subset:
        """The sequences that will be used."""
        return self.model.modalities.subset(slot.modality for slot in self.slots if slot.used)

    @property
    def can_run(self) -> bool:
        """Whether a run can be started."""
        return self.phase == "idle" and bool(self.subset.present)

    @property
    def reliability(self) -> tuple[str, ...]:
        """In words, what was measured of the model with the sequences that will be used."""
        return reliability_words(self.model.card, self.subset) if self.subset.present else ()

    @property
    def plan(self) -> str:
        """In words, what a run will use and what it will substitute."""
        if not self.subset.present:
            return "Open a case (File › Open Sample or Open Folder), or choose at least one layer to use."
        return used_and_substituted(self.subset, "will be used", "will be substituted")


def used_and_substituted(subset: Subset, used: str, substituted: str) -> str:
    """Say which sequences are used and which are substituted, with the given verbs."""
    if not subset.missing:
        return f"All {len(subset.of)} sequences {used}."
    return f"{_says(subset.present, used)}. {_says(subset.missing, substituted)}."


def _says(names: Sequence[str], verb: str) -> str:
    """Join names and a verb in the plural or the future, as a sentence has them."""
    return f"{enumeration(names)} {verb.replace('were', 'was') if len(names) == 1 else verb}"


def enumeration(names: Sequence[str]) -> str:
    """Join names as in a sentence: "A", "A and B", "A, B and C"."""
    return " and ".join(part for part in (", ".join(names[:-1]), *names[-1:]) if part)
