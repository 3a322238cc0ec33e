"""Modalities, ordered sets of them, and the algebra of their subsets.

Nothing here is wired to four modalities: a :class:`ModalitySet` of any size N has 2^N - 1 usable subsets.
Channel order is always that of the set's `names`; modalities are addressed by name, never by a bare index,
because published codes and tables all use different orders. A :class:`Subset` has no order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Literal, TypeVar

from m3ae_core.errors import ConfigError

Entry = TypeVar("Entry")
#: What the numbers of an image mean: MRI has a scale of its own in every image, CT is in Hounsfield units.
Kind = Literal["MRI", "CT"]


@dataclass(frozen=True)
class Modality:
    """One modality: its `name`, the lower-case tokens that announce it in a file name, and its kind.

    Examples
    --------
    >>> from m3ae_core import Modality
    >>> sorted(Modality("T1c", ("t1ce", "t1gd")).tokens)
    ['t1c', 't1ce', 't1gd']
    """

    name: str
    aliases: tuple[str, ...] = ()
    kind: Kind = "MRI"

    @property
    def tokens(self) -> frozenset[str]:
        """All lower-case tokens that stand for this modality in a file name."""
        return frozenset({self.name.lower(), *self.aliases})


@dataclass(frozen=True)
class Subset:
    """The modalities present in a case; every other member of `of` is missing.

    A set: `of` and `present` are sorted, so that neither identity nor name depend on the order of channels. Subsets of
    one set compare, unite and intersect like Python sets.
    """

    of: tuple[str, ...]
    present: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "of", tuple(sorted(set(self.of))))
        object.__setattr__(self, "present", tuple(sorted(set(self.present))))

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of the absent modalities, sorted."""
        return tuple(name for name in self.of if name not in self.present)

    def entry(self, table: Mapping[str, Entry]) -> Entry | None:
        """Return what `table` holds under this subset's name, in whatever order that was written; None if nothing."""
        return next((value for key, value in table.items() if {*key.split("+")} == {*self.present}), None)

    def __str__(self) -> str:
        return "+".join(self.present) or "none"

    def __len__(self) -> int:
        return len(self.present)

    def __contains__(self, name: object) -> bool:
        return name in self.present

    def __le__(self, other: Subset) -> bool:
        return self.of == other.of and set(self.present) <= set(other.present)

    def __or__(self, other: Subset) -> Subset:
        return Subset(self.of, self.present + other.present)

    def __and__(self, other: Subset) -> Subset:
        return Subset(self.of, tuple(set(self.present) & set(other.present)))

    def __invert__(self) -> Subset:
        return Subset(self.of, self.missing)


@dataclass(frozen=True)
class ModalitySet:
    """An ordered set of modalities; the order is the channel order of images and networks.

    Raises
    ------
    ConfigError
        If the set is empty, a name repeats, or two modalities share a file-name token.

    Examples
    --------
    >>> from m3ae_core import BRATS, Modality, ModalitySet
    >>> len(BRATS.subsets())
    15
    >>> modalities = ModalitySet((Modality("T1"), Modality("ADC", ("adcmap",))))
    >>> modalities.subset(["ADC"]).missing
    ('T1',)
    """

    modalities: tuple[Modality, ...]

    def __post_init__(self) -> None:
        if not self.modalities:
            raise ConfigError("A modality set is empty.", "Name at least one modality.", code="modalities")
        tokens = [token for modality in self.modalities for token in modality.tokens]
        if len(set(tokens)) < len(tokens):
            raise ConfigError(
                f"The modality names {', '.join(self.names)} or their aliases repeat.",
                "Give every modality names of its own.",
                code="modalities",
            )

    @classmethod
    def named(cls, names: Iterable[str]) -> ModalitySet:
        """Return the set of `names` in that order; those of :data:`KNOWN` keep their aliases and kinds."""
        known = {modality.name: modality for modality in KNOWN}
        return cls(tuple(known.get(name, Modality(name)) for name in names))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names in channel order."""
        return tuple(modality.name for modality in self.modalities)

    @cached_property
    def kinds(self) -> dict[str, Kind]:
        """The kind of each modality, by name."""
        return {modality.name: modality.kind for modality in self.modalities}

    @property
    def full(self) -> Subset:
        """The subset in which nothing is missing."""
        return Subset(self.names, self.names)

    def subset(self, present: Iterable[str]) -> Subset:
        """Return the subset with the given names present.

        Raises
        ------
        ConfigError
            If a name does not belong to the set.
        """
        wanted = set(present)
        if unknown := wanted - set(self.names):
            raise ConfigError(
                f"Unknown modality {', '.join(sorted(unknown))}.",
                f"Choose from {', '.join(self.names)}.",
                code="modalities",
            )
        return Subset(self.names, tuple(wanted))

    def flags(self, subset: Subset) -> tuple[bool, ...]:
        """One flag per modality, in channel order; True = present."""
        return tuple(name in subset for name in self.names)

    def ordered(self, subset: Subset) -> tuple[str, ...]:
        """Names of the modalities present, in channel order."""
        return tuple(name for name in self.names if name in subset)

    def subsets(self) -> tuple[Subset, ...]:
        """All 2^N - 1 non-empty subsets, smallest first; the order of channels does not matter."""
        sizes = range(1, len(self.names) + 1)
        return tuple(
            Subset(self.names, names) for size in sizes for names in combinations(self.full.of, size)
        )

    def __iter__(self) -> Iterator[Modality]:
        return iter(self.modalities)

    def __len__(self) -> int:
        return len(self.modalities)


#: The four sequences of BraTS with the file-name tokens of its releases (2012-2024), UPenn, UCSF and BIDS.
BRATS = ModalitySet(
    (
        Modality("FLAIR", ("t2f", "t2flair", "fla")),
        Modality("T1", ("t1n", "t1w", "t1pre")),
        Modality(
            "T1c",
            ("t1ce", "t1gd", "t1gad", "t1wce", "t1post", "t1wpost", "t1ca", "gadoliniumt1w", "gdt1w"),
        ),
        Modality("T2", ("t2w",)),
    )
)
CT = Modality("CT", ("ncct", "nect"), "CT")
#: The modalities whose kind and file-name tokens are known; any other name stands for an MRI sequence.
KNOWN = (*BRATS, CT)
