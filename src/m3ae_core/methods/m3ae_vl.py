"""M3AE-VL (Geng et al. 2022) as another stage 1 of our backbone: tokens of all modalities are masked alike.

No modality is dropped as a whole (known). The original is a vision transformer for an image and a text; what M3AE's
authors made of it for their comparison is not told. Network, loss and stage 2 are M3AE's here, so that only the masking
differs: all our choice. The masked share is ``pretrain.masking.ratio`` (0.875 as in M3AE, our choice; 0.75 in the
original). What fills in is ``pretrain.substitute.kind`` (``learned`` as in M3AE, our choice; ``zero`` is the pure
form). ``pretrain.masking.patches`` has no meaning here, nor has ``max_dropped``, but that a recipe with a ratio of less
than 3/4 must set it to 0: recipes have to hold for M3AE as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from m3ae_core.config import Recipe, options_of
from m3ae_core.data.dataset import CachedCase, Draw
from m3ae_core.methods.m3ae.method import M3AE
from m3ae_core.methods.m3ae.stages import Finetune, Pretrain, starting_substitute
from m3ae_core.methods.m3ae.tasks import PretrainDraw, PretrainTask
from m3ae_core.methods.method import Method, Stage, Task
from m3ae_core.stage_config import Frozen


class M3AEVLOptions(Frozen):
    """What is M3AE-VL's own.

    Attributes
    ----------
    loss_on
        Where the reconstruction is compared: on ``all`` voxels as in M3AE (our choice), or on the ``masked`` tokens
        alone as in the original (known).
    """

    loss_on: Literal["all", "masked"] = "all"


class M3AEVL(M3AE):
    """M3AE, pretrained with uniformly masked tokens."""

    @classmethod
    def stages(cls) -> tuple[Stage, ...]:
        """A pretraining of its own, and M3AE's fine-tuning."""
        return PretrainVL(), Finetune()


@dataclass(frozen=True)
class PretrainVL(Pretrain):
    """Stage 1 of M3AE with another mask."""

    def draw(self, recipe: Recipe) -> Draw[Any]:
        """Return what masks round(ρ·tokens) of all modalities' tokens, drawn uniformly without replacement."""
        masking = recipe.pretrain.masking.model_copy(update={"max_dropped": 0, "patches": True})
        return PretrainDraw(recipe.pretrain.model_copy(update={"masking": masking}))

    def task(self, recipe: Recipe, start: Method | None, cases: Sequence[CachedCase]) -> Task:
        """Start from random weights."""
        del start
        kinds = {"all": PretrainTask, "masked": MaskedTokensTask}
        kind = kinds[options_of(recipe.model, M3AEVLOptions).loss_on]
        return kind(recipe.model, recipe.pretrain, starting_substitute(recipe, cases))


class MaskedTokensTask(PretrainTask):
    """Stage 1 whose reconstruction is compared on masked tokens alone."""

    def compared(self, x: Tensor, reconstruction: Tensor, masked: Tensor, exists: Tensor) -> Tensor:
        """Return the mean squared error of the masked tokens of the modalities that `exists`."""
        where = masked & exists[:, :, None, None, None]
        return (reconstruction - x)[where].square().mean()
