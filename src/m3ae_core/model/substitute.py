"""The substitute image x_sub: learned by model inversion, fills in for whatever is masked or missing (Eqn. 1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from m3ae_core.config import Shape, SubstituteConfig


class SubstituteImage(nn.Module):
    """One learned full-modal image for all subjects, on the template grid.

    Parameters
    ----------
    modalities
        Number of modalities N.
    shape
        Voxels (D, H, W) of the template grid.
    config
        Standard deviation of the Gaussian noise it starts from; the seed is torch's global one.
    """

    def __init__(self, modalities: int, shape: Shape, config: SubstituteConfig | None = None) -> None:
        super().__init__()
        std = (config or SubstituteConfig()).init_std
        self.image = nn.Parameter(std * torch.randn(modalities, *shape))

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
            from monai.networks.layers import GaussianFilter

            gaussian = GaussianFilter(3, sd)
            self.image.register_hook(lambda gradient: gaussian(gradient[None])[0])  # type: ignore[no-untyped-call]

    def crop(self, starts: Sequence[Sequence[int]], size: Shape) -> Tensor:
        """Return the content (B, N, *size) that corresponds to crops of images on the template grid.

        `starts` holds one voxel (d, h, w) per image of the batch. A crop may reach outside the template: there the
        nearest template voxel is repeated.
        """
        return torch.stack([self._crop(start, size) for start in starts])

    def _crop(self, start: Sequence[int], size: Shape) -> Tensor:
        index = [
            torch.arange(first, first + side, device=self.image.device).clamp(0, limit - 1)
            for first, side, limit in zip(start, size, self.image.shape[1:], strict=True)
        ]
        inside = all(
            first >= 0 and first + side <= limit
            for first, side, limit in zip(start, size, self.image.shape[1:], strict=True)
        )
        if inside:  # a view: no copy of the whole image, and a cheap backward pass
            return self.image[(slice(None), *(slice(f, f + s) for f, s in zip(start, size, strict=True)))]
        return self.image[:, index[0]][:, :, index[1]][:, :, :, index[2]]


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
