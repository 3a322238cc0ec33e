"""Kinds of arguments that several sub-commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

OptionalFile = Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")]
OptionalFolder = Annotated[Path | None, arg(metavar="FOLDER", help_behavior_hint="")]
OptionalPath = Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="")]
Device = Literal["auto", "cpu", "cuda"]
Arithmetic = Literal["auto", "float32", "bfloat16"]
KnownScheme = Literal["brats2021", "brats2023", "brats2024", "brats-peds", "msd"]
Scheme = Annotated[KnownScheme | str, arg(metavar="brats2021|brats2023|brats2024|brats-peds|msd|FILE.toml")]
