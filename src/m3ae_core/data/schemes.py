"""Which label scheme each case of a cohort follows, where releases with different numbers stand side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from m3ae_core.data.case import CaseFiles
from m3ae_core.errors import ConfigError
from m3ae_core.regions import LabelScheme, scheme_named


def schemes_of(cases: Iterable[CaseFiles], rules: Sequence[str]) -> dict[str, LabelScheme]:
    """Return the label scheme of every case, by its name.

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
        fitting = {case.name: scheme_named(scheme) for case in cases if not pattern or _fits(case, pattern)}
        if pattern and not fitting:
            raise ConfigError(
                f"No case fits the pattern {pattern!r} of the label scheme {scheme}.",
                "Correct the pattern; it is matched with the names of cases and of the folders above them.",
                code="no-such-case",
            )
        found |= fitting
    if without := [case.name for case in cases if case.name not in found]:
        raise ConfigError(
            f"The label scheme of {', '.join(without)} is not stated.",
            "Name a scheme for all cases beside those for some.",
            code="no-scheme",
        )
    return found


def _fits(case: CaseFiles, pattern: str) -> bool:
    above = {
        part for path in (*case.images.values(), case.labels) if path for part in path.absolute().parent.parts
    }
    return any(fnmatchcase(name, pattern) for name in (case.name, *above))
