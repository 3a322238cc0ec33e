"""Augmentation ("Implementation"): parameters are drawn first, from numpy, and applied afterwards, to tensors.

The same change is applied to both situations of a case and to its labels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from m3ae_core.config import AugmentConfig


class Augmentation(NamedTuple):
    """One drawn change: intensity `scale` and `shift`, each (N, D or 1, 1, 1), and the spatial axes to `flip`."""

    scale: Tensor
    shift: Tensor
    flip: tuple[int, ...]

    @classmethod
    def draw(
        cls, rng: np.random.Generator, config: AugmentConfig, modalities: int, depth: int, span: float = 1.0
    ) -> Augmentation:
        """Draw the parameters for images of N modalities and D slices, whose percentiles lie `span` apart."""
        size = (modalities, depth if config.jitter_per_slice else 1, 1, 1)
        scale = rng.uniform(1 - config.scale, 1 + config.scale, size)
        shift = span * rng.uniform(-config.shift, config.shift, size)
        flip = tuple(int(axis) - 3 for axis in np.flatnonzero(rng.random(3) < np.array(config.flip)))
        return cls(torch.from_numpy(scale).float(), torch.from_numpy(shift).float(), flip)

    def intensity(self, image: Tensor) -> Tensor:
        """Return `image` (…, N, D, H, W) scaled and shifted."""
        return image * self.scale.to(image.device) + self.shift.to(image.device)

    def space(self, tensor: Tensor) -> Tensor:
        """Return a tensor (…, D, H, W) flipped."""
        return tensor.flip(self.flip) if self.flip else tensor
