"""What a prediction tells about itself, region by region."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

#: A mask smaller than this (mL) counts as none: its Dice is that of a guess whether there is such a region at all.
NOTHING_ML = 0.05


@dataclass(frozen=True)
class Evidence:
    """What one region's probabilities say, within the brain.

    Attributes
    ----------
    confidence
        Soft Dice Confidence (arXiv 2402.10665): the Dice of the mask with the probabilities it was cut from, in [0, 1];
        0 for an empty mask.
    ml
        Volume of the mask, in mL.
    soft_ml
        Sum of the probabilities times the voxel volume, in mL.
    """

    confidence: float
    ml: float
    soft_ml: float

    @property
    def features(self) -> tuple[float, float]:
        """What expected Dice and volume are fitted on: the confidence, and 1 where there is no mask to speak of."""
        return self.confidence, float(self.ml < NOTHING_ML)


def weigh(probabilities: FloatArray, voxel_ml: float) -> Evidence:
    """Return the evidence of one region from its probabilities (V,) in the brain, voxels of `voxel_ml` mL each."""
    inside = probabilities[probabilities > 0.5]
    total = float(probabilities.sum(dtype=np.float64))
    shared = float(inside.sum(dtype=np.float64))
    confidence = 2 * shared / (total + inside.size) if inside.size else 0.0
    return Evidence(confidence, inside.size * voxel_ml, total * voxel_ml)
