"""The substitute image x_sub: learned by model inversion, fills in for whatever is masked or missing (Eqn. 1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from m3ae_core.stage_config import Shape


class SubstituteImage(nn.Module):
    """One learned full-modal image for all subjects, on the template grid.

    Parameters
    ----------
    modalities
        Number of modalities N.
    shape
        Voxels (D, H, W) of the template grid.
    init_std
        Standard deviation of the Gaussian noise it starts from; the seed is torch's global one.
    """

    def __init__(self, modalities: int, shape: Shape, init_std: float = 0.01) -> None:
        super().__init__()
        self.image = nn.Parameter(init_std * torch.randn(modalities, *shape))

    @classmethod
    def of(cls, image: Tensor) -> SubstituteImage:
        """Return a substitute that starts as `image` (N, D, H, W)."""
        substitute = cls(1, (1, 1, 1))
        substitute.image = nn.Parameter(image.clone())
        return substitute

    @classmethod
    def fixed(cls, image: Tensor) -> SubstituteImage:
        """Return a substitute that is not learned (any more): `image` (N, D, H, W), frozen."""
        return cls.of(image).requires_grad_(False)

    def smooth_gradients(self, sd: float) -> None:
        """Smooth every gradient of the image with a Gaussian of `sd` voxels from now on; 0 leaves them as they are."""
        if sd > 0:
            self.image.register_hook(lambda gradient: smooth(gradient, sd))  # type: ignore[no-untyped-call]

    def crop(self, starts: Sequence[Sequence[int]], size: Shape) -> Tensor:
        """Return the content (B, N, *size) that corresponds to crops of images on the template grid.

        `starts` holds one voxel (d, h, w) per image of the batch; see :func:`crop`.
        """
        return torch.stack([crop(self.image, start, size) for start in starts])


def crop(image: Tensor, start: Sequence[int], size: Shape) -> Tensor:
    """Return the content (N, *size) of an `image` (N, D, H, W) on the template from the voxel `start` (d, h, w) on.

    It may reach outside the template: there the nearest template voxel is repeated.
    """
    axes = list(zip(start, size, image.shape[1:], strict=True))
    if all(first >= 0 and first + side <= limit for first, side, limit in axes):
        # A view: no copy of the whole image, and a cheap backward pass.
        return image[:, *(slice(first, first + side) for first, side, _ in axes)]
    d, h, w = (
        torch.arange(first, first + side, device=image.device).clamp(0, limit - 1)
        for first, side, limit in axes
    )
    return image[:, d][:, :, h][:, :, :, w]


def fill(x: Tensor, substitute: Tensor, masked: Tensor) -> Tensor:
    """S(x, x_sub) of Eqn. 1: replace the masked content of `x` with the corresponding content of the substitute.

    Parameters
    ----------
    x
        Images (B, N, D, H, W).
    substitute
        Content at the same locations, of the same shape or without the batch axis.
    masked
        Boolean, broadcastable to `x`; True = replaced.
    """
    return torch.where(masked, substitute, x)


def smooth(image: Tensor, sd: float) -> Tensor:
    """Convolve `image` (N, D, H, W) with a Gaussian of `sd` voxels, cut at four of them; it is zero outside."""
    reach = int(4 * sd + 0.5)
    kernel = torch.exp(-torch.arange(-reach, reach + 1, device=image.device).square() / (2 * sd**2))
    smoothed = image[:, None]
    for axis in range(3):
        shape, padding = [1, 1, 1, 1, 1], [0, 0, 0]
        shape[2 + axis], padding[axis] = len(kernel), reach
        weight = (kernel / kernel.sum()).to(image.dtype).reshape(shape)
        smoothed = F.conv3d(smoothed, weight, padding=padding)
    return smoothed[:, 0]
