"""Splits: which cases train, validate and test. A folder of ``train.txt``, ``val.txt`` and ``test.txt``.

Each file holds one case name a line, as the published BraTS splits are stored; a name is that of a case's folder.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal

from m3ae_core.data.protocols import PROTOCOLS, SECOND_TRAINING_LIST, list_md5
from m3ae_core.errors import ConfigError, InputError, OutputError, printable
from m3ae_core.files import write_text
from m3ae_core.io.case import CaseFiles

Part = Literal["train", "val", "test"]
PARTS: tuple[Part, ...] = ("train", "val", "test")

_GRADE = re.compile(r"\A[HL]G_(?=BraTS20_)")  # HG_BraTS20_Training_002: RFNet's lists put the grade first
_PATIENT = re.compile(
    r"(BraTS-.+-\d+)-\d+"
)  # BraTS-GLI-00008-001: since 2023 a patient may come several times
_SHOWN = 10


@dataclass(frozen=True)
class Split:
    """Names of the cases that train, validate and test; the two latter may be none."""

    train: tuple[str, ...]
    val: tuple[str, ...] = ()
    test: tuple[str, ...] = ()

    def part(self, part: Part) -> tuple[str, ...]:
        """Return the names of one part."""
        return {"train": self.train, "val": self.val, "test": self.test}[part]

    @property
    def sha256(self) -> str:
        """Identity of the split, whatever the order of its lists: the SHA-256 of the sorted names per part."""
        content = json.dumps({part: sorted(self.part(part)) for part in PARTS}, ensure_ascii=False)
        return hashlib.sha256(content.encode("utf-8")).hexdigest()


def read_names(path: Path) -> tuple[str, ...]:
    """Read case names from a text file, one a line; blank lines are skipped.

    The grade that RFNet's BraTS 2020 lists put before a name (``HG_``, ``LG_``) is left out.

    Raises
    ------
    InputError
        If the file cannot be read, is empty, or repeats a name.
    """
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"The list of cases cannot be read: {error}.", "Give a text file.", path=path, code="split"
        ) from error
    names = tuple(_plain(line.strip()) for line in lines if line.strip())
    twice = _repeated(names)
    if not names or twice:
        problem = f"The list of cases repeats {_some(twice)}." if names else "The list of cases is empty."
        raise InputError(problem, "Write each case name once, one a line.", path=path, code="split")
    return names


def read_split(folder: Path) -> Split:
    """Read a split folder; ``val.txt`` and ``test.txt`` may be absent.

    Raises
    ------
    InputError
        If a list cannot be used (see :func:`read_names`), or a case is in two parts (``overlap``).
    """
    lists: dict[str, tuple[str, ...]] = {"train": read_names(folder / "train.txt")}
    for part in ("val", "test"):
        if (path := folder / f"{part}.txt").exists():
            lists[part] = read_names(path)
    split = Split(**lists)
    if overlaps := list(_overlaps(split)):
        problem = f"Parts of the split share cases: {'; '.join(overlaps)}."
        fix = "Each case belongs into one part."
        if _is_second_training_list(split):
            problem += " This train.txt is RFNet's split 2, which does not go with the lists of split 3."
            fix = "Take train3.txt as train.txt."
        raise InputError(problem, fix, path=folder, code="overlap")
    return split


def read_part(path: Path, part: Part) -> tuple[str, ...]:
    """Read the names of one part of a split folder; a text file is that part's list by itself.

    Raises
    ------
    InputError
        As :func:`read_split` and :func:`read_names`.
    """
    return read_split(path).part(part) if path.is_dir() else read_names(path)


def check_protocol(split: Split, protocol: str, folder: Path) -> None:
    """Check that the split in `folder` can be the published one called `protocol`.

    Raises
    ------
    InputError
        If the numbers of cases differ from the published ones (``counts``), or the training list is that of
        another split (``other-split``).
    """
    if protocol == "brats2018-rfnet3" and _is_second_training_list(split):
        raise InputError(
            "This is the training list of RFNet's split 2, which holds cases that split 3 validates and tests on.",
            "Take train3.txt as train.txt.",
            path=folder / "train.txt",
            code="other-split",
        )
    found = {part: len(split.part(part)) for part in PARTS}
    expected = PROTOCOLS[protocol].counts
    if wrong := [
        f"{part} {found[part]} instead of {expected[part]}" for part in PARTS if found[part] != expected[part]
    ]:
        raise InputError(
            f"The numbers of cases are not those of {protocol}: {', '.join(wrong)}.",
            "Put the published lists here as train.txt, val.txt and test.txt.",
            path=folder,
            code="counts",
        )


def select(cases: Sequence[CaseFiles], names: Sequence[str]) -> tuple[CaseFiles, ...]:
    """Return the cases with exactly these names (of :func:`read_names`), in that order.

    Raises
    ------
    InputError
        If a name is not among the cases, or two cases have it.
    """
    known = {_plain(case.name): case for case in cases}
    if absent := [name for name in names if name not in known]:
        raise InputError(
            f"{len(absent)} of {len(names)} listed cases are not in the folder, the first being {absent[0]!r}.",
            "Check the folder and the list.",
            code="split",
        )
    wanted = set(names)
    _require_unique(name for name in (_plain(case.name) for case in cases) if name in wanted)
    return tuple(known[name] for name in names)


def draw_split(names: Iterable[str], validation: float, test: float, seed: int) -> Split:
    """Split cases at random into `test` and `validation` (fractions of all cases) and the rest, which trains.

    The answer depends on the names and the seed alone, not on the order of the names. A part whose fraction is not
    zero has at least one case. Several visits of one patient (``BraTS-GLI-00008-000``, ``-001``) stay together, so a
    part may be a few cases larger.

    Raises
    ------
    ConfigError
        If the fractions leave nothing to train on (``fractions``).
    InputError
        If two cases have one name, or a name cannot stand in a list.
    """
    names = sorted(map(_plain, names))
    _require_unique(names)
    if unfit := [name for name in names if not name.isprintable() or name != name.strip()]:
        raise InputError(
            f"A list cannot hold the name {unfit[0]!r}.", "Rename the case's folder.", code="split"
        )
    if min(validation, test) < 0 or not validation + test < 1:
        raise ConfigError(
            f"The fractions {validation} and {test} are not two parts of a whole.",
            "Give two numbers of at least 0 whose sum is below 1.",
            code="fractions",
        )
    wanted = {"test": _count(test, len(names)), "val": _count(validation, len(names)), "train": len(names)}
    parts: dict[str, list[str]] = {part: [] for part in wanted}
    by_patient: dict[str, list[str]] = {}
    for name in names:
        by_patient.setdefault(_patient(name), []).append(name)
    for patient in sorted(by_patient, key=lambda patient: _rank(patient, seed)):
        part = next(part for part, count in wanted.items() if len(parts[part]) < count)
        parts[part] += by_patient[patient]
    if not parts["train"]:
        raise ConfigError(
            f"No case is left to train on: there are only {len(names)}.", "Give more cases.", code="fractions"
        )
    return Split(**{part: tuple(sorted(members)) for part, members in parts.items()})


def write_split(split: Split, folder: Path) -> Path:
    """Write a split into `folder` (made if needed); ``train.txt`` last, so that a half-written one is refused.

    Raises
    ------
    OutputError
        If there is a list already (``exists``), or a file cannot be written.
    """
    for part in PARTS:
        if (path := folder / f"{part}.txt").exists():
            raise OutputError(
                "There is a split here already.", "Choose another folder.", path=path, code="exists"
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        problem = f"The folder cannot be made: {error.strerror}."
        raise OutputError(problem, "Choose another one.", path=folder, code="not-writable") from error
    for part in reversed(PARTS):
        if names := split.part(part):
            write_text(folder / f"{part}.txt", "".join(f"{name}\n" for name in names))
    return folder


def _overlaps(split: Split) -> Iterator[str]:
    for first, second in combinations(PARTS, 2):
        if shared := sorted(set(split.part(first)) & set(split.part(second))):
            yield f"{first}.txt and {second}.txt {len(shared)} ({_some(shared)})"


def _is_second_training_list(split: Split) -> bool:
    return list_md5(split.train).startswith(SECOND_TRAINING_LIST)


def _require_unique(names: Iterable[str]) -> None:
    if twice := _repeated(names):
        raise InputError(
            f"More than one case folder is called {_some(twice)}.", "Rename all but one.", code="split"
        )


def _repeated(names: Iterable[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]


def _plain(name: str) -> str:
    """Return a case's name without the grade that RFNet's BraTS 2020 lists put before it."""
    return _GRADE.sub("", name)


def _some(names: Sequence[str]) -> str:
    """Name the first few."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return printable(", ".join(names[:_SHOWN])) + more


def _patient(name: str) -> str:
    match = _PATIENT.fullmatch(name)
    return match.group(1) if match else name


def _rank(patient: str, seed: int) -> bytes:
    """Return a key that puts patients in an order drawn by `seed`; unlike a generator's, it never changes."""
    return hashlib.sha256(f"{seed} {patient}".encode()).digest()


def _count(fraction: float, total: int) -> int:
    return max(1, round(fraction * total)) if fraction else 0
