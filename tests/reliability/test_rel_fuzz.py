"""Whatever bytes a file holds, only an InputError comes out of the reader, or a volume that can be used."""

from __future__ import annotations

import logging
import multiprocessing
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from fuzzing import Read, Summary, fuzz, mutant, seeds

from m3ae_core.errors import InputError
from m3ae_core.io import volume
from m3ae_core.io.volume import Volume, read_volume
from published import Figures, Trials

PROPERTY = "fuzz executions (bytes and header-aware)"
GOAL = "≥ 2,000,000, 0 escapes from the error family"
CHUNK = 10_000


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """nibabel's remarks about each odd header would take longer than reading it."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """In memory where there is such a place: each file lives for a millisecond."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as name:
        yield Path(name)


def all_executions(count: int, folder: Path) -> Summary:
    if count <= CHUNK:
        return fuzz(0, count, folder)
    total = Summary()
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        for summary in pool.map(partial(quiet_fuzz, count=CHUNK, folder=folder), range(0, count, CHUNK)):
            total.add(summary)
    return total


def quiet_fuzz(start: int, count: int, folder: Path) -> Summary:
    logging.disable()
    return fuzz(start, count, folder)


def test_nothing_escapes(folder: Path, trials: Trials, figures: Figures) -> None:
    found = all_executions(trials(ci=3_000, long=1_900_000), folder)
    figures.add(
        PROPERTY,
        goal=GOAL,
        tried=found.outcomes.total(),
        failed=len(found.wrong),
        note=f"volumes and label maps: {dict(found.outcomes.most_common())}; slowest {found.slowest:.2f} s",
    )
    assert not found.wrong, found.wrong[:10]
    assert 0.05 < found.outcomes["read"] / found.outcomes.total() < 0.6  # the mutants must get far enough


def test_the_seeds_are_good(tmp_path: Path) -> None:
    for content in seeds():
        (tmp_path / "seed.nii").write_bytes(content)
        np.testing.assert_array_equal(read_volume(tmp_path / "seed.nii").affine[0], [-1, 0, 0, 3])


def test_an_execution_can_be_repeated() -> None:
    first, second = ([mutant(np.random.default_rng([1, index])) for index in range(50)] for _ in range(2))
    assert first == second
    assert len(set(first)) == 50


# --- these tests can fail --------------------------------------------------------------------------


def read_by_nibabel(path: Path) -> Volume:
    image = nib.load(path)
    return Volume(image.get_fdata(dtype=np.float32), image.affine, path)


def read_by_guarded_nibabel(path: Path) -> Volume:
    try:
        with np.errstate(all="ignore"):
            return read_by_nibabel(path)
    except Exception as error:
        raise InputError("Unreadable.", "Choose another.", path=path) from error


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("read", "finding"), [(read_by_nibabel, "escaped"), (read_by_guarded_nibabel, "not finite")]
)
def test_other_readers_are_found_out(read: Read, finding: str, folder: Path) -> None:
    found = fuzz(0, 300, folder, read)
    assert sum(finding in line for line in found.wrong) > 3


def test_a_reader_that_lets_nan_through_is_found_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(volume, "_refuse_nonfinite", lambda data: None)
    assert any("not finite" in line for line in fuzz(0, 1000, folder, read_volume).wrong)
