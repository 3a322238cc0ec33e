"""nnU-Net's augmentation of a training crop, with MONAI's transforms: one turn and zoom, and changes of intensity.

Unlike the paper's own (:mod:`m3ae_core.data.augment`) it changes the case alone, before anything is filled in: a head
that lies otherwise on the template, another scanner. The substitute image keeps its place and look. Probabilities and
ranges of the intensities are those of nnU-Net v2 (Isensee et al. 2021, supplementary note 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from m3ae_core.data.batched import PROBABILITY, TURN, ZOOM
from m3ae_core.stage_config import Shape


def spatial_change(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Draw the 3×3 matrix that leads from offsets in the crop to offsets in the case, in voxels about its centre."""
    matrix = np.eye(3)
    if rng.random() < PROBABILITY:
        matrix = Rotation.from_euler("xyz", rng.uniform(-TURN, TURN, 3)).as_matrix()
    if rng.random() < PROBABILITY:
        matrix = matrix * np.exp(rng.uniform(-np.log(ZOOM), np.log(ZOOM)))
    return matrix


def cut(
    array: npt.NDArray[Any], start: Sequence[int], size: Shape, change: npt.NDArray[np.float64]
) -> Tensor:
    """Return the crop (C, *size) of `array` (C, D, H, W) at voxel `start`, turned and zoomed about its own centre.

    Linear interpolation, zero outside, float32.
    """
    from monai.transforms import Affine

    middle = np.array(start) + (np.array(size) - np.array(array.shape[1:])) / 2
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = change, middle
    move = Affine(affine=affine, spatial_size=size, padding_mode="zeros", image_only=True)
    return _plain(move(torch.from_numpy(np.array(array, np.float32))))


def vary(image: Tensor, seed: int) -> Tensor:
    """Change the intensities of each modality of `image` (N, D, H, W) by itself; the background stays 0.

    A function of the image and of `seed` (below 2³²) alone.
    """
    transforms = _intensity()
    transforms.set_random_state(seed=seed)
    changed = torch.cat([_plain(transforms(channel[None])) for channel in image])
    brain = image.any(dim=0)
    result: Tensor = torch.where(brain, changed, 0.0)
    return result


def _plain(tensor: Any) -> Tensor:
    """Return MONAI's tensor without what it adds."""
    from monai.utils import convert_to_tensor

    plain: Tensor = convert_to_tensor(tensor, track_meta=False)
    return plain


@cache
def _intensity() -> Any:
    """Return the chain of MONAI transforms, for a single modality."""
    from monai import transforms as t

    return t.Compose(
        [
            t.RandGaussianNoise(prob=0.1, std=0.1),
            t.RandGaussianSmooth((0.5, 1), (0.5, 1), (0.5, 1), prob=0.1),
            t.RandScaleIntensity(factors=0.25, prob=0.15),
            t.RandScaleIntensityFixedMean(factors=0.25, preserve_range=True, prob=0.15),
            t.RandSimulateLowResolution(prob=0.125, zoom_range=(0.5, 1)),
            t.RandAdjustContrast(prob=0.1, gamma=(0.7, 1.5), invert_image=True, retain_stats=True),
            t.RandAdjustContrast(prob=0.3, gamma=(0.7, 1.5), retain_stats=True),
        ]
    )
