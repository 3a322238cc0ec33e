"""Seals: the SHA-256 of a content, kept within it, so that whoever reads it later knows whether it is what was written.

A file's seal is a line at its end, which the readers of numpy and PyTorch pass over. A record's is its first entry.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: The entry of a JSON record that holds its seal.
KEY = "content_sha256"

_LINE = re.compile(rb"\nsha256 ([0-9a-f]{64})\n")
_LENGTH = 73
_BLOCK = 1 << 20


def seal_file(path: Path, name: str = "") -> None:
    """Add the seal to the end of a file that was just written; with `name`, it holds under that name only."""
    size = path.stat().st_size
    with path.open("ab") as stream:
        stream.write(f"\nsha256 {_digest(path, size, name)}\n".encode())


def file_is_whole(path: Path, name: str = "") -> bool | None:
    """Return whether a file is what was sealed, under `name` if it was given one; None if there is no seal.

    Raises
    ------
    OSError
        If it cannot be read.
    """
    size = path.stat().st_size - _LENGTH
    if size < 0:
        return None
    with path.open("rb") as stream:
        stream.seek(size)
        line = _LINE.fullmatch(stream.read())
    return None if line is None else line[1].decode() == _digest(path, size, name)


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON record with its seal in front."""
    content = {key: value for key, value in record.items() if key != KEY}
    return {KEY: _record_digest(content), **content}


def record_is_whole(record: Mapping[str, Any]) -> bool:
    """Return whether a record, read from JSON, is what was sealed; one without a seal, of an older version, is."""
    content = {key: value for key, value in record.items() if key != KEY}
    return KEY not in record or record[KEY] == _record_digest(content)


def _digest(path: Path, size: int, name: str) -> str:
    """Return the SHA-256 of the first `size` bytes of a file, followed by a name."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while size > 0 and (block := stream.read(min(size, _BLOCK))):
            digest.update(block)
            size -= len(block)
    digest.update(name.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _record_digest(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a record as it is after a way through JSON, in whatever order its entries are."""
    plain = json.loads(json.dumps(content))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
