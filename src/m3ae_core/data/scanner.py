"""Augmentation by another scanner: a bias field, gamma and thick slices, of the case alone.

Unlike the paper's own (:mod:`m3ae_core.data.augment`) it changes what was acquired, before anything is filled in: the
substitute keeps its look. Parameters are drawn first, from numpy, and applied afterwards, to tensors on any device. The
result is standardised again, as the changed image would have been.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from m3ae_core.intensity import Step
    from m3ae_core.stage_config import ScannerConfig, Shape


#: Powers of x, y and z in a polynomial of the second order, the constant left out.
TERMS = tuple(pair for order in (1, 2) for pair in combinations_with_replacement(range(3), order))
#: A sequence's own share of the bias field, beside what all share.
OWN = 2 / 3


class Scanner(NamedTuple):
    """One drawn scanner, for N modalities.

    Attributes
    ----------
    bias
        (N, 9) coefficients of the field's logarithm over :data:`TERMS`, on coordinates from -1 to 1.
    floor
        (N,) intensity of the darkest tissue, as a share of the range above it.
    gamma
        (N,) exponents.
    thickness
        (N,) slice thickness in voxels along `axis`; 1 changes nothing.
    """

    bias: Tensor
    floor: Tensor
    gamma: Tensor
    thickness: tuple[float, ...]
    axis: int

    @classmethod
    def draw(cls, rng: np.random.Generator, config: ScannerConfig, modalities: int) -> Scanner:
        """Draw a scanner; each kind of change happens with the probability of the recipe."""
        happens = rng.random(1 + 2 * modalities) < config.probability
        shared = rng.normal(0, config.bias, len(TERMS))
        own = rng.normal(0, OWN * config.bias, (modalities, len(TERMS)))
        low, high = np.log(config.gamma)
        gamma = np.where(happens[1 : 1 + modalities], np.exp(rng.uniform(low, high, modalities)), 1)
        thickness = np.where(happens[1 + modalities :], rng.uniform(1, config.thickness, modalities), 1)
        return cls(
            torch.from_numpy((shared + own) * happens[0]).float(),
            torch.from_numpy(rng.uniform(0, 0.5, modalities)).float(),
            torch.from_numpy(gamma).float(),
            tuple(thickness.tolist()),
            int(rng.integers(3)),
        )

    def apply(self, image: Tensor, steps: Sequence[Step]) -> Tensor:
        """Return `image` (N, D, H, W), background 0, as this scanner would have shown it; zero stays zero.

        `steps` are the N modalities' preprocessing; those in absolute units, as CT, keep their intensities.
        """
        brain = image != 0
        field = self._field((image.shape[1], image.shape[2], image.shape[3]), image.device).exp()
        changed = image.clone()
        for n, (inside, step) in enumerate(zip(brain, steps, strict=True)):
            if inside.any() and (again := _AGAIN.get(step.scale)):
                changed[n][inside] = again(self._intensities(n, image[n][inside], field[n][inside]))
        return self._thickened(changed) * brain

    def _intensities(self, n: int, values: Tensor, field: Tensor) -> Tensor:
        low, high = values.aminmax()
        unit = (values - low) / (high - low).clamp(min=1e-6)
        return (unit.pow(self.gamma[n].item()) + self.floor[n].item()) * field

    def _field(self, shape: Shape, device: torch.device) -> Tensor:
        """Return the logarithm of the field (N, D, H, W)."""
        logarithm: Tensor = torch.tensordot(self.bias.to(device), polynomials(shape, device), 1)
        return logarithm

    def _thickened(self, image: Tensor) -> Tensor:
        if not any(thickness > 1 for thickness in self.thickness):
            return image
        side = image.shape[1 + self.axis]
        shown = []
        for channel, thickness in zip(image, self.thickness, strict=True):
            size = list(channel.shape)
            size[self.axis] = max(1, round(side / thickness))
            thin = channel[None, None]
            thick = F.interpolate(thin, size=size, mode="area")
            shown.append(F.interpolate(thick, size=tuple(channel.shape), mode="trilinear")[0, 0])
        return torch.stack(shown)


def polynomials(shape: Sequence[int], device: torch.device) -> Tensor:
    """Return :data:`TERMS` (9, D, H, W) over an image, on coordinates from -1 to 1."""
    axes = [torch.linspace(-1, 1, side, device=device) for side in shape]
    grid = torch.meshgrid(*axes, indexing="ij")
    return torch.stack([torch.stack([grid[axis] for axis in term]).prod(0) for term in TERMS])


def _unit(values: Tensor) -> Tensor:
    low, high = values.aminmax()
    return (values - low) / (high - low).clamp(min=1e-6)


def _standardised(values: Tensor) -> Tensor:
    return (values - values.mean()) / values.std(correction=0).clamp(min=1e-6)


#: What standardises a changed image again, by the name of its preprocessing step.
_AGAIN = {"minmax": _unit, "zscore": _standardised}
