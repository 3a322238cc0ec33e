"""Tumour tissues, the numbers that label maps use for them, and the regions that are evaluated.

A *tissue* is what an expert paints (necrosis, oedema, enhancing tumour); a *label scheme* says which number
stands for which tissue; a *region* (WT, TC, ET; paper, "Datasets and Evaluation Metrics") is a union of
tissues.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from m3ae_core.errors import ConfigError, InputError

NECROSIS = "necrotic core"
OEDEMA = "oedema"
ENHANCING = "enhancing tumour"
CYST = "cystic component"
CAVITY = "resection cavity"

#: Display colours of the tissues that a model tells apart and every scheme numbers (the paper's: necrosis green,
#: oedema blue, enhancing tumour yellow).
COLOURS = {NECROSIS: "#2ca02c", OEDEMA: "#1f77b4", ENHANCING: "#ffdd00"}
#: The same with the tissues that only some schemes number.
ALL_COLOURS = {**COLOURS, CYST: "#17becf", CAVITY: "#8c564b"}


@dataclass(frozen=True)
class LabelScheme:
    """Which label value stands for which tissue (0 is background)."""

    name: str
    values: tuple[tuple[str, int], ...]

    def value(self, tissue: str) -> int:
        """Return the label value of `tissue`."""
        return dict(self.values)[tissue]

    @property
    def identity(self) -> str:
        """The name, followed by the numbers unless it is a release's: two files of one name may number differently."""
        if SCHEMES.get(self.name) == self:
            return self.name
        return f"{self.name} ({', '.join(f'{tissue} {value}' for tissue, value in sorted(self.values))})"

    @property
    def allowed(self) -> frozenset[int]:
        """All values a label map of this scheme may hold, background included."""
        return frozenset({0, *dict(self.values).values()})


BRATS_2021 = LabelScheme("brats2021", ((NECROSIS, 1), (OEDEMA, 2), (ENHANCING, 4)))
BRATS_2023 = LabelScheme("brats2023", ((NECROSIS, 1), (OEDEMA, 2), (ENHANCING, 3)))
#: Glioma after treatment, from 2024 on.
BRATS_2024 = LabelScheme("brats2024", ((NECROSIS, 1), (OEDEMA, 2), (ENHANCING, 3), (CAVITY, 4)))
#: Children; the non-enhancing core stands where adults have necrosis.
BRATS_PEDS = LabelScheme("brats-peds", ((ENHANCING, 1), (NECROSIS, 2), (CYST, 3), (OEDEMA, 4)))
MSD = LabelScheme("msd", ((OEDEMA, 1), (NECROSIS, 2), (ENHANCING, 3)))
SCHEMES = {scheme.name: scheme for scheme in (BRATS_2021, BRATS_2023, BRATS_2024, BRATS_PEDS, MSD)}


@dataclass(frozen=True)
class Region:
    """A union of tissues, evaluated as one binary mask. A resection cavity belongs to none."""

    name: str
    tissues: frozenset[str]


WT = Region("WT", frozenset({NECROSIS, OEDEMA, ENHANCING, CYST}))
TC = Region("TC", frozenset({NECROSIS, ENHANCING, CYST}))
ET = Region("ET", frozenset({ENHANCING}))
REGIONS = (WT, TC, ET)


def regions_named(names: Iterable[str]) -> tuple[Region, ...]:
    """Return the regions with the given names, in that order.

    Raises
    ------
    ConfigError
        If a name is not WT, TC or ET.
    """
    known = {region.name: region for region in REGIONS}
    names = tuple(names)
    if unknown := [name for name in names if name not in known]:
        fix = f"Choose from {', '.join(known)}."
        raise ConfigError(f"Unknown region {unknown[0]!r}.", fix, code="regions")
    return tuple(known[name] for name in names)


def scheme_named(name: str) -> LabelScheme:
    """Return the label scheme called `name`, or the one in a file that ends in ``.toml`` (:func:`read_scheme`).

    Raises
    ------
    ConfigError
        If there is no such scheme, or the file holds none.
    """
    if name.endswith(".toml"):
        return read_scheme(Path(name))
    if name not in SCHEMES:
        fix = f"Choose from {', '.join(SCHEMES)}, or write a scheme into a .toml file."
        raise ConfigError(f"Unknown label scheme {name!r}.", fix, code="scheme")
    return SCHEMES[name]


def read_scheme(path: Path) -> LabelScheme:
    """Read a label scheme from a TOML file of lines like ``"necrotic core" = 1``; it is called after the file.

    Raises
    ------
    ConfigError
        If the file cannot be read, is called like a release, or does not number the tissues (code ``scheme``).
    """
    if path.stem in SCHEMES:
        problem = f"The label scheme {path.name} is called like a release."
        raise ConfigError(problem, f"State {path.stem}, or rename the file.", code="scheme")
    fix = f'Write one line for each tissue, like "{NECROSIS}" = 1; known are {", ".join(ALL_COLOURS)}.'
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        problem = f"The label scheme {path.name} cannot be read ({type(error).__name__})."
        raise ConfigError(problem, fix, code="scheme") from error
    numbers = [value for value in values.values() if type(value) is int and 1 <= value <= 255]
    if len(numbers) < len(values) or len(set(numbers)) < len(numbers):
        problem = f"The label scheme {path.name} must give each tissue a number of its own from 1 to 255."
        raise ConfigError(problem, fix, code="scheme")
    if wrong := (values.keys() - ALL_COLOURS.keys()) | (COLOURS.keys() - values.keys()):
        problem = f"The label scheme {path.name} lacks a tissue or holds an unknown one: {', '.join(sorted(wrong))}."
        raise ConfigError(problem, fix, code="scheme")
    return LabelScheme(path.stem, tuple(values.items()))


def detect_scheme(values: Iterable[int]) -> LabelScheme:
    """Return the one label scheme that the values of a label map allow.

    Nearly all values are ambiguous: 4 is enhancing tumour up to BraTS 2021, a resection cavity in BraTS 2024 and
    oedema in BraTS-PEDs; 3 is enhancing tumour in BraTS 2023 and in MSD, which swap 1 and 2, and was non-enhancing
    core before 2017. The question is put to the user, never guessed.

    Raises
    ------
    InputError
        If the values are ambiguous (code ``scheme-ambiguous``) or belong to no scheme (``labels-unknown``).
    """
    found = {int(value) for value in values} - {0}
    possible = [scheme for scheme in SCHEMES.values() if found <= scheme.allowed]
    if not possible:
        raise InputError(
            f"The label values {sorted(found)} belong to no known scheme.",
            f"Expected one of {', '.join(f'{s.name} {sorted(s.allowed)}' for s in SCHEMES.values())}.",
            code="labels-unknown",
        )
    if len(possible) == 1:
        return possible[0]
    raise InputError(
        f"The label values {sorted(found)} are ambiguous: "
        "releases of BraTS and MSD number the tissues differently.",
        f"State the label scheme: {', '.join(scheme.name for scheme in possible)}.",
        code="scheme-ambiguous",
    )


def encode(
    labels: npt.NDArray[np.integer], scheme: LabelScheme, regions: Sequence[Region] = REGIONS
) -> npt.NDArray[np.bool_]:
    """Turn a label map (D, H, W) into one binary mask per region (R, D, H, W).

    Raises
    ------
    InputError
        If `labels` holds a value that `scheme` does not know (code ``labels-unknown``).
    """
    if unknown := set(np.unique(labels).tolist()) - scheme.allowed:
        found = {value: np.count_nonzero(labels == value) for value in sorted(unknown)}
        counts = ", ".join(f"{value} ({count} voxels)" for value, count in found.items())
        raise InputError(
            f"The label map holds values that scheme {scheme.name} does not know: {counts}.",
            f"Allowed are {sorted(scheme.allowed)}; correct the map or name another scheme.",
            code="labels-unknown",
        )
    values = [[value for tissue, value in scheme.values if tissue in region.tissues] for region in regions]
    return np.stack([np.isin(labels, wanted) for wanted in values])


def decode(
    masks: Sequence[npt.NDArray[np.bool_]], scheme: LabelScheme, regions: Sequence[Region] = REGIONS
) -> npt.NDArray[np.uint8]:
    """Turn binary region masks (R of them, each (D, H, W)) into a label map (D, H, W) of `scheme`.

    Regions are nested (ET within TC within WT). Where a prediction breaks the nesting the innermost region
    wins: a voxel in ET is enhancing tumour, else one in TC necrotic core, else one in WT oedema. A model with
    fewer regions tells fewer tissues apart.
    """
    mask = {region.name: masks[index] for index, region in enumerate(regions)}
    labels = np.zeros_like(masks[0], np.uint8)
    for region, tissue in ((WT, OEDEMA), (TC, NECROSIS), (ET, ENHANCING)):
        if region.name in mask:
            labels[mask[region.name]] = scheme.value(tissue)
    return labels


def convert(
    labels: npt.NDArray[np.integer], source: LabelScheme, target: LabelScheme
) -> npt.NDArray[np.uint8]:
    """Return a label map of the scheme `source` with the numbers of `target`.

    Where `target` has no number for it, a cyst becomes necrotic core (also of the tumour core) and a resection cavity
    background.
    """
    numbers = {CYST: target.value(NECROSIS), **dict(target.values)}
    table = np.zeros(max(source.allowed) + 1, np.uint8)
    for tissue, value in source.values:
        table[value] = numbers.get(tissue, 0)
    converted: npt.NDArray[np.uint8] = table[labels]
    return converted
