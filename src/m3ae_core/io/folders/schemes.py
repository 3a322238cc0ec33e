"""What is stated of the labels of some cases of a cohort: the scheme that they follow, and how much they count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from m3ae_core.errors import ConfigError
from m3ae_core.io.case import CaseFiles
from m3ae_core.regions import LabelScheme, scheme_named


def schemes_of(cases: Iterable[CaseFiles], rules: Sequence[str]) -> dict[str, LabelScheme]:
    """Return the label scheme of every case, by its name: the one that its manifest states, else as the rules say.

    Parameters
    ----------
    rules
        Each a scheme for all cases (``brats2023``), or ``PATTERN=SCHEME`` for those whose name, or a folder above
        whose files, matches the shell pattern (``BraTS2021_*=brats2021``). The last one that fits holds.

    Raises
    ------
    ConfigError
        If a scheme is unknown, a pattern fits no case (``no-such-case``), or no rule fits a case (``no-scheme``).

    Examples
    --------
    >>> schemes_of([CaseFiles("BraTS2021_00002", {}, None)], ["brats2023", "BraTS2021_*=brats2021"])
    {'BraTS2021_00002': LabelScheme(name='brats2021', ...)}
    """
    found: dict[str, LabelScheme] = {}
    cases = tuple(cases)
    for rule in rules:
        pattern, _, scheme = rule.rpartition("=")
        found |= dict.fromkeys(cases_matching(cases, pattern or "*", "label scheme"), scheme_named(scheme))
    found |= {case.name: scheme_named(case.scheme) for case in cases if case.scheme}
    if without := [case.name for case in cases if case.name not in found]:
        raise ConfigError(
            f"The label scheme of {', '.join(without)} is not stated.",
            "Name a scheme for all cases beside those for some: the same numbers mean other tissues in other releases.",
            code="no-scheme",
        )
    return found


def weights_of(cases: Iterable[CaseFiles], rules: Sequence[str]) -> dict[str, float]:
    """Return how much the labels of a case count, by its name; those that no rule fits count 1 and are left out.

    Each of the `rules` is ``PATTERN=WEIGHT``, as in ``UPENN-*=0.3`` for labels that no expert drew.

    Raises
    ------
    ConfigError
        If a weight is not above 0 and at most 1 (``weight``), or a pattern fits no case (``no-such-case``).
    """
    found: dict[str, float] = {}
    cases = tuple(cases)
    for rule in rules:
        pattern, _, text = rule.rpartition("=")
        try:
            weight = float(text)
        except ValueError:
            weight = 0
        if not pattern or not 0 < weight <= 1:
            fix = "Give PATTERN=WEIGHT with a weight above 0 and at most 1."
            raise ConfigError(f"{rule!r} is no weight of labels.", fix, code="weight")
        found |= dict.fromkeys(cases_matching(cases, pattern, "weight"), weight)
    return found


def cases_matching(cases: Iterable[CaseFiles], pattern: str, of_what: str) -> list[str]:
    """Return the names of the cases that a shell pattern fits, by their name or a folder above their files.

    Raises
    ------
    ConfigError
        If it fits none (``no-such-case``).
    """
    fitting = [case.name for case in cases if _fits(case, pattern)]
    if not fitting:
        raise ConfigError(
            f"No case fits the pattern {pattern!r} of a {of_what}.",
            "Correct the pattern; it is matched with the names of cases and of the folders above them.",
            code="no-such-case",
        )
    return fitting


def _fits(case: CaseFiles, pattern: str) -> bool:
    above = {
        part for path in (*case.images.values(), case.labels) if path for part in path.absolute().parent.parts
    }
    return any(fnmatchcase(name, pattern) for name in (case.name, *above))


def with_schemes(
    folders: Sequence[Sequence[CaseFiles]], names: Sequence[str]
) -> list[tuple[CaseFiles, LabelScheme]]:
    """Return the cases of several folders with their label schemes: `names` holds one for all, one for each, or none.

    Raises
    ------
    ConfigError
        If there are other numbers of names and folders (``arguments``), or nothing states a case's scheme
        (``no-scheme``).
    """
    if len(names) not in (0, 1, len(folders)):
        raise ConfigError(
            f"There are {len(folders)} folders and {len(names)} label schemes.",
            "Give one scheme for all folders, or one for each.",
            code="arguments",
        )
    found = []
    for number, cases in enumerate(folders):
        schemes = schemes_of(cases, names[number : number + 1] if len(names) > 1 else names)
        found += [(files, schemes[files.name]) for files in cases]
    return found


def scheme_words(schemes: Mapping[str, LabelScheme]) -> str:
    """Say which label schemes cases, by name, follow: ``label scheme (cases): brats2023 (12), brats2021 (3)``."""
    counts = Counter(scheme.identity for scheme in schemes.values())
    return "label scheme (cases): " + ", ".join(f"{name} ({count})" for name, count in counts.items())
