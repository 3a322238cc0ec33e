"""Validation during training: Dice on whole cached cases, on the template grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from m3ae_core.config import FinetuneConfig, ModelConfig
from m3ae_core.data.dataset import CachedCase
from m3ae_core.events import Validated
from m3ae_core.methods.m3ae.networks import Segmenter
from m3ae_core.methods.m3ae.substitute import SubstituteImage
from m3ae_core.modalities import Subset
from m3ae_core.nn.windows import Extent, whole_logits

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Validation:
    """Mean Dice per region over cases and missing-modality situations, every `validate_every` epochs.

    The cases are shared among the processes of `fabric`.
    """

    def __init__(
        self, model: ModelConfig, config: FinetuneConfig, cases: Sequence[CachedCase], fabric: Fabric
    ) -> None:
        self.model, self.config, self.cases, self.fabric = model, config, cases, fabric
        modalities = model.modality_set
        chosen = config.validate_on
        self.subsets: tuple[Subset, ...] = (
            modalities.subsets() if chosen == "all" else tuple(modalities.subset(names) for names in chosen)
        )

    def due(self, epoch: int) -> bool:
        """Whether this epoch is one after which to validate."""
        return bool(self.cases) and (epoch % self.config.validate_every == 0 or epoch == self.config.epochs)

    @torch.no_grad()
    def run(self, epoch: int, segmenter: Segmenter, substitute: SubstituteImage) -> Validated:
        """Segment every case in every situation, as inference will."""
        regions = self.model.regions
        sums = torch.zeros(len(self.subsets), len(regions), dtype=torch.float64)
        for case in self.cases[self.fabric.global_rank :: self.fabric.world_size]:
            sums += torch.tensor([self._dice(case, subset, segmenter, substitute) for subset in self.subsets])
        total: Tensor = self.fabric.all_reduce(sums.to(self.fabric.device), reduce_op="sum")  # type: ignore[assignment]
        means = total.cpu() / len(self.cases)
        by_subset = {
            str(subset): dict(zip(regions, row, strict=True))
            for subset, row in zip(self.subsets, means.tolist(), strict=True)
        }
        return Validated(epoch, dict(zip(regions, means.mean(0).tolist(), strict=True)), by_subset)

    def _dice(
        self, case: CachedCase, subset: Subset, segmenter: Segmenter, substitute: SubstituteImage
    ) -> list[float]:
        device = substitute.image.device
        image = torch.tensor(case.image, device=device)
        missing = ~torch.tensor(self.model.modality_set.flags(subset), device=device)
        inference = self.model.inference
        extent = Extent.of(inference, self.model.grid.shape, case.brain)
        *_, (_, _, logits) = whole_logits(segmenter.predict, image, missing, extent, substitute, inference)
        assert logits is not None  # noqa: S101  the last window brings them
        target = torch.tensor(case.regions, device=device)
        mask = torch.zeros_like(target)
        mask[(slice(None), *(slice(a, a + n) for a, n in zip(*extent, strict=True)))] = logits > 0
        return [_hard_dice(p, y) for p, y in zip(mask, target, strict=True)]


def _hard_dice(prediction: Tensor, target: Tensor) -> float:
    total = (prediction.sum() + target.sum()).item()
    return 2 * (prediction & target).sum().item() / total if total else 1.0
