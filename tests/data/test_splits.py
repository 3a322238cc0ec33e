"""Lists of cases: one name a line, each of them found exactly."""

from __future__ import annotations

from pathlib import Path

import pytest

from m3ae_core.data.case import CaseFiles
from m3ae_core.data.splits import read_split, select
from m3ae_core.errors import InputError

CASES = tuple(CaseFiles(name, {}, None) for name in ("Brats18_1", "Brats18_10", "Brats18_2"))


@pytest.mark.parametrize("text", ["b\na\n", "b\na", "b\r\na\r\n", "\n  b \n\n\ta\n\n"])
def test_names_in_the_order_of_the_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "train.txt"
    path.write_bytes(text.encode())
    assert read_split(path) == ("b", "a")


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"", "empty"), (b" \n\n", "empty"), (b"a\nb\na\n", "repeats"), (b"\xff\xfe", "read")],
)
def test_a_list_that_cannot_be_used(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "train.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"train\.txt.*{problem}") as caught:
        read_split(path)
    assert caught.value.code == "split"


def test_a_list_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(InputError) as caught:
            read_split(path)
        assert caught.value.code == "split"


def test_cases_by_exactly_these_names_in_this_order() -> None:
    """Not by a part of the name: Brats18_1 is not Brats18_10."""
    assert select(CASES, ["Brats18_2", "Brats18_1"]) == (CASES[2], CASES[0])
    assert select(CASES, []) == ()


def test_listed_cases_that_are_not_there_are_counted() -> None:
    with pytest.raises(InputError, match=r"2 of 3 .* 'Brats18_3'") as caught:
        select(CASES, ["Brats18_1", "Brats18_3", "Brats18"])
    assert caught.value.code == "split"
