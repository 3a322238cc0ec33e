"""The same input, the same mask: voxels that differ between numbers of threads, in either arithmetic.

    python benchmarks/threads.py [CASE_FOLDER ...] [--bundle DIR]

The built-in case, and any others named, from every sequence; masks are compared with those of one thread.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro

from m3ae_core.bundle import load_bundle
from m3ae_core.data.builtin import builtin_bundle, builtin_case
from m3ae_core.inference.predictor import Predictor
from m3ae_core.io.case import CaseFiles, find_case, read_case

THREADS = (1, 2, 4)


def main(
    cases: Annotated[tuple[Path, ...], tyro.conf.Positional] = (),
    bundle: Path | None = None,
) -> None:
    model = load_bundle(bundle or builtin_bundle())
    modalities = model.config.modality_set
    print("| arithmetic | case | threads | voxels that differ |\n|---|---|---|---|")
    for arithmetic in ("float32", "bfloat16"):
        predictor = Predictor(model, "cpu", arithmetic=arithmetic)
        for files in (builtin_case(), *(find_case(folder, modalities) for folder in cases)):
            for threads, differing in compared(predictor, files):
                print(f"| {arithmetic} | {files.name} | {threads} | {differing} |", flush=True)


def compared(predictor: Predictor, files: CaseFiles) -> list[tuple[int, int]]:
    """Return, for each number of threads, how many voxels differ from the mask of the first."""
    case, masks = read_case(files, predictor.config.modality_set), []
    for threads in THREADS:
        torch.set_num_threads(threads)
        masks.append(predictor.predict(case).labels)
    return [
        (threads, np.count_nonzero(mask != masks[0])) for threads, mask in zip(THREADS, masks, strict=True)
    ]


if __name__ == "__main__":
    tyro.cli(main)
