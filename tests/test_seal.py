"""A seal holds for what was sealed and for nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from m3ae_core.files import write_array
from m3ae_core.seal import KEY, file_is_whole, record_is_whole, seal_file, sealed

CONTENT = bytes(range(256)) * 20


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.bin"
    path.write_bytes(CONTENT)
    seal_file(path, "a.bin")
    return path


def test_what_was_sealed_is_whole(file: Path) -> None:
    assert file_is_whole(file, "a.bin") is True
    assert file.read_bytes().startswith(CONTENT)


@pytest.mark.parametrize("place", [0, 1000, len(CONTENT) - 1, len(CONTENT) + 20])
def test_every_byte_counts(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] = ord("0") if content[place] != ord("0") else ord("1")
    file.write_bytes(content)
    assert file_is_whole(file, "a.bin") is False


def test_a_file_under_another_name_is_another(file: Path) -> None:
    assert file_is_whole(file, "b.bin") is False


@pytest.mark.parametrize("content", [b"", b"x", CONTENT])
def test_a_file_without_a_seal(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    assert file_is_whole(tmp_path / "a") is None


def test_an_array_is_read_as_ever(tmp_path: Path) -> None:
    array = np.arange(24.0).reshape(2, 3, 4)
    path = write_array(tmp_path / "a.npy", array)
    assert file_is_whole(path, "a.npy")
    for mode in (None, "r"):
        np.testing.assert_array_equal(np.load(path, mmap_mode=mode), array)


def test_a_record_and_its_seal() -> None:
    record = json.loads(json.dumps(sealed({"b": [1, 0.1, None], "a": {"x": "é", "y": "\udcff"}, 3: (1, 2)})))
    assert next(iter(record)) == KEY
    assert record_is_whole(record)
    assert record_is_whole(dict(reversed(record.items())))
    assert not record_is_whole(record | {"b": [1, 0.1, 0]})
    assert not record_is_whole(record | {KEY: None})
    assert sealed(record) == record
    del record[KEY]
    assert record_is_whole(record)
