"""Validation during training: Dice on whole cached cases, on the template grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from m3ae_core.config import ModelConfig
from m3ae_core.data.dataset import CachedCase
from m3ae_core.events import Validated
from m3ae_core.methods.method import Method
from m3ae_core.modalities import ModalitySet, Subset
from m3ae_core.nn.windows import Extent, whole_logits
from m3ae_core.stage_config import StageConfig, SupervisedConfig

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Validation:
    """Mean Dice per region over cases and subsets of their modalities, every `validate_every` epochs.

    The cases are shared among the processes of `fabric`. Without cases, or in a stage without labels, it is never due.
    """

    def __init__(
        self, model: ModelConfig, stage: StageConfig, cases: Sequence[CachedCase], fabric: Fabric
    ) -> None:
        self.model, self.stage, self.cases, self.fabric = model, stage, cases, fabric
        self.subsets = subsets_of(stage, model.modality_set) if isinstance(stage, SupervisedConfig) else ()

    def due(self, epoch: int) -> bool:
        """Whether this epoch is one after which to validate."""
        if not isinstance(self.stage, SupervisedConfig):
            return False
        return bool(self.cases) and (epoch % self.stage.validate_every == 0 or epoch == self.stage.epochs)

    @torch.no_grad()
    def run(self, epoch: int, model: Method) -> Validated:
        """Segment every case from every subset, as inference will."""
        regions = self.model.regions
        sums = torch.zeros(len(self.subsets), len(regions), dtype=torch.float64)
        for case in self.cases[self.fabric.global_rank :: self.fabric.world_size]:
            sums += torch.tensor([self._dice(case, subset, model) for subset in self.subsets])
        total: Tensor = self.fabric.all_reduce(sums.to(self.fabric.device), reduce_op="sum")  # type: ignore[assignment]
        means = total.cpu() / len(self.cases)
        by_subset = {
            str(subset): dict(zip(regions, row, strict=True))
            for subset, row in zip(self.subsets, means.tolist(), strict=True)
        }
        return Validated(epoch, dict(zip(regions, means.mean(0).tolist(), strict=True)), by_subset)

    def _dice(self, case: CachedCase, subset: Subset, model: Method) -> list[float]:
        device = self.fabric.device
        image = torch.tensor(case.image, device=device)
        missing = ~torch.tensor(self.model.modality_set.flags(subset), device=device)
        extent = Extent.of(self.model.inference, self.model.grid.shape, case.brain)
        *_, (_, _, logits) = whole_logits(
            lambda x: model.predict(x, missing),
            lambda part, start: model.fill(part, missing, start),
            image,
            extent,
            self.model.inference,
        )
        assert logits is not None  # noqa: S101  the last window brings them
        target = torch.tensor(case.regions, device=device)
        mask = torch.zeros_like(target)
        mask[(slice(None), *(slice(a, a + n) for a, n in zip(*extent, strict=True)))] = logits > 0
        return [_hard_dice(p, y) for p, y in zip(mask, target, strict=True)]


def subsets_of(stage: SupervisedConfig, modalities: ModalitySet) -> tuple[Subset, ...]:
    """Return the subsets that a stage is validated from."""
    if stage.validate_on == "all":
        return modalities.subsets()
    names = modalities.names
    nested = tuple(names[lost:] for lost in range(len(names)))
    return tuple(map(modalities.subset, nested if stage.validate_on == "nested" else stage.validate_on))


def _hard_dice(prediction: Tensor, target: Tensor) -> float:
    total = (prediction.sum() + target.sum()).item()
    return 2 * (prediction & target).sum().item() / total if total else 1.0
