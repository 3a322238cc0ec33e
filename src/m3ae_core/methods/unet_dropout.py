"""The baseline that every comparison needs: a plain U-Net, modality dropout, and zeros where a modality is missing.

It has no twin in the literature; all of it is our choice. Augmentation comes before the zeros, so that it does not mark
what is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from m3ae_core.methods.m3ae.losses import segmentation_loss
from m3ae_core.methods.m3ae.networks import Segmenter
from m3ae_core.methods.method import Method, Stage


class UNetDropout(Method):
    """M3AE's backbone and deep supervision, trained from random weights, without pretraining or substitute."""

    NETWORKS: ClassVar = {"segmenter": Segmenter}

    @classmethod
    def stages(cls) -> tuple[Stage, ...]:
        """One training."""
        from m3ae_core.methods.supervised import Supervised

        return (Supervised(cls),)

    @torch.no_grad()
    def predict(self, x: Tensor, missing: Tensor) -> Tensor:
        """Return the region logits (B, R, D, H, W); the network is not told what is missing."""
        del missing
        logits: Tensor = self.networks["segmenter"].predict(x)  # type: ignore[operator]
        return logits

    def losses(
        self, network: nn.Module, x: Tensor, regions: Tensor, missing: Tensor, weights: Sequence[float] | None
    ) -> dict[str, Tensor]:
        """Dice and cross entropy on three scales (Eqn. 5) of images with zeros where they are `missing`."""
        logits, _ = network(torch.where(missing[:, :, None, None, None], x.new_zeros(()), x))
        scales = type(logits)(*(scale.float() for scale in logits))
        return {"segmentation": segmentation_loss(scales, regions, weights=weights)}
