"""One case stored on other grids of the same space: how much of the answer survives the way there and back.

    python benchmarks/grids.py --case DIR [--bundle DIR]

For each variant the case is rewritten (orientation, origin, crop, voxel size), segmented from all its sequences, and
the mask is compared, on the original grid, with the mask of the case as it was, and with the reference.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tyro

from m3ae_core.bundle import load_bundle
from m3ae_core.data.builtin import builtin_bundle, builtin_case
from m3ae_core.evaluation.metrics import dice
from m3ae_core.inference.predictor import Predictor
from m3ae_core.io.case import Case, find_case, read_case, read_case_labels
from m3ae_core.io.grid import Grid, resample
from m3ae_core.io.volume import Volume
from m3ae_core.regions import BRATS_2023, REGIONS, encode


def variants(own: Grid) -> dict[str, Grid]:
    """Grids to store the case on; offsets keep each in the world of the case."""
    lps = own.affine @ np.diag([-1.0, -1, 1, 1])
    lps[:3, 3] += own.affine[:3, :3] @ [own.shape[0] - 1, own.shape[1] - 1, 0]
    coarse = own.affine @ np.diag([1.5, 1.5, 1.5, 1])
    shape = tuple(int(side / 1.5) for side in own.shape)
    turn = np.eye(4)
    angle = np.deg2rad(10)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    middle = np.eye(4)
    middle[:3, 3] = own.affine[:3, :3] @ (np.array(own.shape) / 2) + own.affine[:3, 3]
    return {
        "as it is": own,
        "stored as LPS": Grid(own.shape, lps),
        "cropped to the brain": own.cropped((40, 14, 0), (164, 196, 155)),
        "1.5 mm voxels": Grid((shape[0], shape[1], shape[2]), coarse),
        "head turned by 10 degrees in the scanner": Grid(
            own.shape, middle @ turn @ np.linalg.inv(middle) @ own.affine
        ),
    }


def main(case: Path | None = None, bundle: Path | None = None) -> None:
    files = find_case(case) if case else builtin_case()
    content = read_case(files)
    own = Grid(content.shape, content.affine)
    reference = encode(read_case_labels(files, content).data, BRATS_2023)
    predictor = Predictor(load_bundle(bundle or builtin_bundle()))
    plain = encode(predictor.predict(content).labels, BRATS_2023)
    names = [region.name for region in REGIONS]
    print(
        f"| stored | placed by | Dice {'/'.join(names)} to the plain answer | to the reference |\n"
        "|---|---|---|---|"
    )
    for name, grid in variants(own).items():
        volumes = {
            key: Volume(resample(v.data, own, grid), grid.affine) for key, v in content.volumes.items()
        }
        prediction = predictor.predict(Case(name, content.modalities, volumes))
        masks = encode(prediction.labels, BRATS_2023)
        back = [resample(mask, grid, own) > 0.5 for mask in masks]
        scores = [
            "/".join(f"{dice(ours, theirs):.3f}" for ours, theirs in zip(back, other, strict=True))
            for other in (plain, reference)
        ]
        print(f"| {name} | {prediction.provenance['placement']['method']} | {scores[0]} | {scores[1]} |")


if __name__ == "__main__":
    tyro.cli(main)
