"""A sidecar tells the scheme of the labels beside it, of no others, and whatever it holds stops nobody."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from m3ae_core.io.sidecar import saved_scheme, sidecar_of
from m3ae_core.regions import BRATS_2023, MSD


def beside(folder: Path, content: Any) -> Path:
    """A label file's path, with a sidecar of this content."""
    path = folder / "seg.nii.gz"
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    (folder / "seg.json").write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "sidecar"),
    [
        ("seg.nii.gz", "seg.json"),
        ("seg.nii", "seg.json"),
        ("a.b.nii.gz", "a.b.json"),
        ("nii.gz.nii", "nii.gz.json"),
        ("seg", "seg.json"),
    ],
)
def test_where_it_lies(name: str, sidecar: str, tmp_path: Path) -> None:
    assert sidecar_of(tmp_path / name) == tmp_path / sidecar


def test_it_names_the_scheme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also on a computer whose own encoding is another."""
    monkeypatch.setattr(io, "text_encoding", lambda encoding, *_: encoding or "ascii")
    assert saved_scheme(beside(tmp_path, {"labels": {"scheme": "msd"}})) is MSD
    named = beside(tmp_path, {"labels": {"scheme": "brats2023", "note": "Ödem"}})
    assert saved_scheme(named) is BRATS_2023


def test_it_speaks_of_no_other_labels(tmp_path: Path) -> None:
    path = beside(tmp_path, {"labels": {"scheme": "msd", "sha256": "ab"}})
    assert saved_scheme(path) is MSD
    assert saved_scheme(path, "ab") is MSD
    assert saved_scheme(path, "cd") is None
    path = beside(tmp_path, {"labels": {"scheme": "msd"}})  # of an earlier version, without a sum
    assert saved_scheme(path, "cd") is MSD


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "7", "null", "[" * 100_000, {}, {"labels": None}, {"labels": []}, {"labels": {}},
     {"labels": "msd"}, {"labels": {"scheme": "other"}}, {"labels": {"scheme": ["msd"]}}],
)  # fmt: skip
@pytest.mark.parametrize("voxels", [None, "ab"])
def test_a_sidecar_that_names_none_is_as_good_as_none(
    content: Any, voxels: str | None, tmp_path: Path
) -> None:
    assert saved_scheme(beside(tmp_path, content), voxels) is None
    assert saved_scheme(tmp_path / "other.nii", voxels) is None
