"""Validation during training: Dice on whole cached cases, on the template grid."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from m3ae_core.config import FinetuneConfig, ModelConfig
from m3ae_core.data.dataset import CachedCase
from m3ae_core.events import Validated
from m3ae_core.modalities import Subset
from m3ae_core.model.m3ae import Segmenter
from m3ae_core.model.substitute import SubstituteImage
from m3ae_core.model.windows import Extent, whole_logits


class Validation:
    """Mean Dice per region over cases and missing-modality situations, every `validate_every` epochs."""

    def __init__(self, model: ModelConfig, config: FinetuneConfig, cases: Sequence[CachedCase]) -> None:
        self.model, self.config, self.cases = model, config, cases
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
        by_subset = {}
        for subset in self.subsets:
            scores = [self._dice(case, subset, segmenter, substitute) for case in self.cases]
            by_subset[str(subset)] = dict(
                zip(self.model.regions, np.mean(scores, axis=0).tolist(), strict=True)
            )
        means = np.mean([list(dice.values()) for dice in by_subset.values()], axis=0)
        return Validated(epoch, dict(zip(self.model.regions, means.tolist(), strict=True)), by_subset)

    def _dice(
        self, case: CachedCase, subset: Subset, segmenter: Segmenter, substitute: SubstituteImage
    ) -> list[float]:
        device = substitute.image.device
        image = torch.from_numpy(np.array(case.image)).to(device)
        missing = ~torch.tensor(subset.flags, device=device)
        inference = self.model.inference
        extent = Extent.of(inference, self.model.grid.shape, case.brain)
        *_, (_, _, logits) = whole_logits(segmenter.predict, image, missing, extent, substitute, inference)
        assert logits is not None  # noqa: S101  the last window brings them
        mask = torch.zeros(case.regions.shape, dtype=torch.bool, device=device)
        mask[(slice(None), *(slice(a, a + n) for a, n in zip(*extent, strict=True)))] = logits > 0
        target = torch.from_numpy(np.array(case.regions)).to(device)
        return [_hard_dice(p, y) for p, y in zip(mask, target, strict=True)]


def _hard_dice(prediction: Tensor, target: Tensor) -> float:
    total = (prediction.sum() + target.sum()).item()
    return 2 * (prediction & target).sum().item() / total if total else 1.0
