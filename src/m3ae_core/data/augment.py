"""Augmentation ("Implementation"): parameters are drawn first, from numpy, and applied afterwards, to tensors.

The same change is applied to both situations of a case and to its labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from m3ae_core.stage_config import AugmentConfig


class Augmentation(NamedTuple):
    """One drawn change: intensity `scale` and `shift`, each (N, D or 1, 1, 1), and the spatial axes to `flip`."""

    scale: Tensor
    shift: Tensor
    flip: tuple[int, ...]

    @classmethod
    def draw(
        cls, rng: np.random.Generator, config: AugmentConfig, spans: Sequence[float], depth: int
    ) -> Augmentation:
        """Draw the parameters for D slices; `spans` are the paper's range [0, 1] on the scales of N modalities."""
        size = (len(spans), depth if config.jitter_per_slice else 1, 1, 1)
        scale = rng.uniform(1 - config.scale, 1 + config.scale, size)
        shift = np.reshape(spans, (-1, 1, 1, 1)) * rng.uniform(-config.shift, config.shift, size)
        flip = tuple(int(axis) - 3 for axis in np.flatnonzero(rng.random(3) < np.array(config.flip)))
        return cls(torch.from_numpy(scale).float(), torch.from_numpy(shift).float(), flip)

    def intensity(self, image: Tensor) -> Tensor:
        """Return `image` (…, N, D, H, W) scaled and shifted."""
        return image * self.scale.to(image.device) + self.shift.to(image.device)

    def space(self, tensor: Tensor) -> Tensor:
        """Return a tensor (…, D, H, W) flipped."""
        return tensor.flip(self.flip) if self.flip else tensor
