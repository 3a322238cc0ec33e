"""From a case to what the network sees: percentile clip, min-max, and the template grid ("Implementation")."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from m3ae_core.config import ModelConfig, PreprocessConfig
from m3ae_core.data.case import Case
from m3ae_core.data.grid import FloatArray, Grid, Placement, locate, resample
from m3ae_core.data.volume import Volume
from m3ae_core.errors import InputError
from m3ae_core.modalities import Subset

BoolArray = npt.NDArray[np.bool_]
Box = tuple[tuple[int, int, int], tuple[int, int, int]]


@dataclass(frozen=True, eq=False)
class StandardCase:
    """A case on the template grid.

    Attributes
    ----------
    image
        (N, D, H, W) float32, as :func:`normalise` scales it; missing modalities are zero.
    subset
        Which modalities are present.
    grid
        The template grid, translated to where the case lies: its affine leads to the case's own world.
    placement
        How the case was laid on the template.
    brain
        Lowest and highest (exclusive) template voxel of the brain, over the modalities present.
    """

    image: FloatArray
    subset: Subset
    grid: Grid
    placement: Placement
    brain: Box


def standardise(case: Case, model: ModelConfig) -> StandardCase:
    """Normalise every modality present and lay the case on the template grid of `model`.

    Raises
    ------
    InputError
        If the case has none of the model's modalities, a volume has no foreground or no contrast, or no part of the
        brain falls on the template.
    """
    volumes = {name: case.volumes[name] for name in model.modalities if name in case.volumes}
    if not volumes:
        raise InputError(
            f"The case {case.name} has none of the model's sequences.",
            f"Add at least one of {', '.join(model.modalities)}.",
            code="no-sequence",
        )
    own = Grid(case.shape, case.affine)
    low, high = brain_box(np.asarray(np.stack([volume.data != 0 for volume in volumes.values()]).any(axis=0)))
    placement = locate(own, low, high, model.grid)
    grid = Grid.of(model.grid).moved(placement.offset)
    image = np.zeros((len(model.modalities), *grid.shape), np.float32)
    for name, volume in volumes.items():
        image[model.modalities.index(name)] = resample(normalise(volume, model.preprocess), own, grid)
    if not image.any():
        raise InputError(
            "No part of the brain lies in the model's field of view.",
            "Register the images to the model's template (SRI24) first.",
            path=case.name,
            code="off-template",
        )
    subset = model.modality_set.subset(volumes)
    return StandardCase(image, subset, grid, placement, brain_box(np.asarray(image.any(axis=0))))


def normalise(volume: Volume, config: PreprocessConfig) -> FloatArray:
    """Clip to the percentiles of the foreground and scale; the background stays 0.

    The percentiles become 0 and 1, or with the rule ``zscore`` the foreground gets zero mean and unit variance.

    The brain is where a skull-stripped image is not zero: released volumes hold negative voxels inside the brain.
    The rule ``positive`` counts positive voxels only, as the released code does.

    Raises
    ------
    InputError
        If there is no foreground, or its percentiles coincide.
    """
    data = volume.data
    foreground = data > 0 if config.foreground == "positive" else data != 0
    values = data[foreground]
    low, high = np.percentile(values, config.percentiles) if values.size else (0.0, 0.0)
    if not low < high:
        raise InputError(
            "The image has no contrast: its brightest and darkest percentiles are the same.",
            "Check that this is the right file.",
            path=volume.path or "image",
            code="no-contrast",
        )
    scaled = np.clip((data - np.float32(low)) / np.float32(high - low), 0, 1)
    if config.scale == "zscore":
        clipped = scaled[foreground]
        scaled = (scaled - clipped.mean()) / clipped.std()
    scaled[~foreground] = 0
    return np.asarray(scaled, np.float32)


def brain_box(mask: BoolArray) -> Box:
    """Return the lowest and the highest (exclusive) voxel of `mask` (D, H, W), with a margin of one voxel inside it.

    An empty mask gives the whole array.
    """
    low, high = [], []
    for axis in range(3):
        occupied = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        first, last = (occupied[0], occupied[-1]) if occupied.size else (0, mask.shape[axis] - 1)
        low.append(max(int(first) - 1, 0))
        high.append(min(int(last) + 2, mask.shape[axis]))
    return (low[0], low[1], low[2]), (high[0], high[1], high[2])
