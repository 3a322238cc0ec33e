"""Dice lesion by lesion, as the BraTS challenges score it since 2023.

From their published outline (Synapse syn51156910; gliomas, sub-Saharan Africa, paediatrics): the reference is dilated
to tell which of its parts are one lesion, and not changed otherwise; small lesions are not scored; a lesion that was
missed and a predicted component where there is none count 0.

What the outline leaves open is read as their programme is described: three dilations of 1 mm by faces and edges;
parts are one if they touch at a face, an edge or a corner; a lesion of 50 mm³ is not scored yet; a lesion is compared
with all predicted components that touch it dilated; one that touches none, however small, is false.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from m3ae_core.evaluation.metrics import Mask, bounding_box, dice

Parts = npt.NDArray[np.signedinteger]

DILATION_MM = 3.0
UNSCORED_MM3 = 50.0

_TOUCHING = ndimage.generate_binary_structure(3, 3)
_BY_EDGES = ndimage.generate_binary_structure(3, 2)


def lesionwise_dice(prediction: Mask, reference: Mask, spacing: Sequence[float]) -> float | None:
    """Return the mean Dice over lesions and false positives, of two masks (X, Y, Z); None if there is neither.

    `spacing` is the voxel size along the axes in mm.
    """
    box = bounding_box(prediction | reference)
    prediction, reference = prediction[box], reference[box]
    lesions, count = ndimage.label(_dilated(reference, spacing), _TOUCHING)
    components, found = ndimage.label(prediction, _TOUCHING)
    touching = _touching(lesions, components)
    scores = [0.0] * (found - len({component for _, component in touching}))
    for lesion in range(1, count + 1):
        own = reference & (lesions == lesion)
        if np.count_nonzero(own) * np.prod(spacing) > UNSCORED_MM3:
            scores.append(dice(np.isin(components, [c for other, c in touching if other == lesion]), own))
    return float(np.mean(scores)) if scores else None


def _dilated(mask: Mask, spacing: Sequence[float]) -> Mask:
    """Return a mask dilated voxel by voxel, along each axis as far as 3 mm reach."""
    reach = [int(DILATION_MM / mm + 1e-6) for mm in spacing]
    for step in range(max(reach)):
        axes = tuple(slice(None) if step < voxels else slice(1, 2) for voxels in reach)
        mask = ndimage.binary_dilation(mask, _BY_EDGES[axes])
    return mask


def _touching(lesions: Parts, components: Parts) -> set[tuple[int, int]]:
    """Return which lesion, dilated, shares a voxel with which predicted component."""
    both = (lesions > 0) & (components > 0)
    return set(zip(lesions[both].tolist(), components[both].tolist(), strict=True))
