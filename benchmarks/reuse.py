"""A result that is there: is it reused, kept, refused or replaced as it should be, whatever happened to it?

    python benchmarks/reuse.py

Every combination of what can happen to the images of a case, to its result, and of the options of the next run, on a
phantom with the built-in model. What should become of it is a table of rules below, written down apart from the code.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Callable
from itertools import product
from pathlib import Path

import torch

from m3ae_core.bundle import load_bundle
from m3ae_core.data.builtin import builtin_bundle
from m3ae_core.data.phantom import write_phantom
from m3ae_core.events import CaseFailed
from m3ae_core.inference.cohort import Cohort
from m3ae_core.inference.predictor import Predictor
from m3ae_core.io.case import find_cases
from m3ae_core.io.volume import read_labels, write_labels

Change = Callable[[Path], None]


def nothing(place: Path) -> None:
    """Leave everything as it is."""
    del place


def touched(place: Path) -> None:
    for path in (place / "cases").rglob("*.nii.gz"):
        path.touch()


def exchanged(place: Path) -> None:
    one, two = (place / f"cases/case/case-{name}.nii.gz" for name in ("t1n", "t2w"))
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    old_times(place)


def another_patient(place: Path) -> None:
    write_phantom(place / "cases", "case", seed=5)
    old_times(place)


def one_less(place: Path) -> None:
    (place / "cases/case/case-t1c.nii.gz").unlink()


def old_times(place: Path) -> None:
    for path in (place / "cases").rglob("*.nii.gz"):
        os.utime(path, (1e9, 1e9))


def painted(place: Path) -> None:
    path = place / "out/case-m3ae.nii.gz"
    labels = read_labels(path)
    data = labels.data.copy()
    data[:3] = 1
    write_labels(path, data, labels.affine)


def cut_short(place: Path) -> None:
    path = place / "out/case-m3ae.nii.gz"
    path.write_bytes(path.read_bytes()[:100])


def record_gone(place: Path) -> None:
    (place / "out/case-m3ae.json").unlink()


def from_the_future(place: Path) -> None:
    for path in (place / "out").iterdir():
        os.utime(path, (4e9, 4e9))


IMAGES: tuple[Change, ...] = (nothing, touched, exchanged, another_patient, one_less)
RESULTS: tuple[Change, ...] = (nothing, from_the_future, painted, cut_short, record_gone)
OPTIONS: tuple[dict[str, bool], ...] = ({}, {"overwrite": True}, {"discard_edits": True})


def right(images: Change, result: Change, options: dict[str, bool]) -> str:
    """Say what should become of it: ``reused``, ``kept``, ``stale`` or ``done``."""
    if result in (painted, record_gone):  # they may be somebody's work
        return "done" if "discard_edits" in options else "kept"
    if result is cut_short or "overwrite" in options:
        return "done"
    return "reused" if images in (nothing, touched) else "stale"


def outcome(place: Path, predictor: Predictor, options: dict[str, bool]) -> str:
    (event,) = Cohort(predictor, place / "out", **options).run(find_cases(place / "cases"))
    if isinstance(event, CaseFailed):
        return event.error.code
    return "kept" if event.edited else "reused" if event.reused else "done"


def main() -> None:
    torch.set_num_threads(1)
    predictor = Predictor(load_bundle(builtin_bundle()), "cpu", arithmetic="float32")
    found, wrong, lost = Counter[str](), list[str](), 0
    for images, result, options in product(IMAGES, RESULTS, OPTIONS):
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            write_phantom(place / "cases", "case")
            (place / "out").mkdir()
            outcome(place, predictor, {})
            images(place)
            result(place)
            labels = (place / "out/case-m3ae.nii.gz").read_bytes()
            told, expected = outcome(place, predictor, options), right(images, result, options)
            found[told] += 1
            if told != expected:
                wrong.append(f"{images.__name__}, {result.__name__}, {options}: {told}, not {expected}")
            same = (place / "out/case-m3ae.nii.gz").read_bytes() == labels
            lost += result in (painted, record_gone) and "discard_edits" not in options and not same
    print(f"{sum(found.values())} combinations: {dict(found)}; {len(wrong)} wrong, {lost} edits lost")
    print("\n".join(wrong))


if __name__ == "__main__":
    main()
