"""What every refusal of a bad file must be: quick, of one kind and code, in words that help, and without a trace."""

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from m3ae_core.errors import M3AEError

PROPERTY = "bad inputs tried (files, sets, labels, checkpoints)"
GOAL = "≥ 250, all with the right code, file named, nothing changed on disk, ≤ 2 s each"

Error = TypeVar("Error", bound=M3AEError)


def digest(folder: Path) -> str:
    """Names, kinds and contents of everything below a folder."""
    state = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        state.update(os.fsencode(path) + str(path.lstat().st_mode).encode())
        if path.is_file() and not path.is_symlink():
            state.update(path.read_bytes())
    return state.hexdigest()


def refusal(kind: type[Error], folder: Path, read: Callable[[], Any], code: str, says: str) -> Error:
    """Run `read`, which must refuse quickly, leave everything on disk as it was and say what to do."""
    before, start = digest(folder), time.process_time()
    with pytest.raises(kind) as caught:
        read()
    assert time.process_time() - start < 2
    assert digest(folder) == before
    error = caught.value
    assert (type(error), error.code) == (kind, code)
    assert says in str(error)
    assert error.problem.strip().endswith((".", ")"))
    assert error.fix.endswith(".")
    assert error.fix in str(error)
    return error
