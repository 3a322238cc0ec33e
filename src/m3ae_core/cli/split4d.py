"""``m3ae split-4d``."""

from __future__ import annotations

from pathlib import Path

from tyro.conf import Positional

from m3ae_core.errors import printable


def split_4d(file: Positional[Path], *, order: str, output: Path) -> None:
    """Split a 4-D file into one file per sequence, named after it.

    Args:
        file: A NIfTI file of several volumes.
        order: The sequence of each volume, for instance FLAIR,T1,T1c,T2 (Medical Segmentation Decathlon).
        output: Folder of the files; made if needed.
    """
    from m3ae_core.io.split4d import split_4d as split

    names = [name.strip() for name in order.split(",")]
    print("\n".join(f"wrote {printable(path)}" for path in split(file, names, output)))
