"""M3AE as a method: its networks, its substitute image, and what it can show."""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar, Self, cast

import torch
from torch import Tensor, nn

from m3ae_core.config import ModelConfig
from m3ae_core.io.case import Case
from m3ae_core.methods.m3ae.networks import MaskedAutoencoder, Segmenter
from m3ae_core.methods.m3ae.reconstruction import reconstruct
from m3ae_core.methods.m3ae.substitute import crop, fill
from m3ae_core.methods.method import Capability, Method, Stage
from m3ae_core.methods.reconstructed import Reconstruction
from m3ae_core.stage_config import Shape

#: Why a model lacks something, for users.
_NOT_TRAINED = {
    "segmentation": "It is only pretrained and cannot segment; run `m3ae finetune`.",
    "reconstruction": "It holds no masked autoencoder and cannot reconstruct; use one that `m3ae pretrain` made, "
    "or import released weights together with their `--pretrained` ones.",
}


class M3AE(Method):
    """Missing modalities are filled from the substitute image ("As to inference, we simply substitute …").

    Stage 1 makes the autoencoder and the substitute, stage 2 the segmenter.
    """

    NETWORKS: ClassVar = {"autoencoder": MaskedAutoencoder, "segmenter": Segmenter}
    IMAGES = ("substitute",)

    @classmethod
    def stages(cls) -> tuple[Stage, ...]:
        """Pretraining and fine-tuning."""
        from m3ae_core.methods.m3ae.stages import Finetune, Pretrain

        return Pretrain(), Finetune()

    @classmethod
    def of(
        cls,
        config: ModelConfig,
        substitute: Tensor,
        autoencoder: MaskedAutoencoder | None = None,
        segmenter: Segmenter | None = None,
    ) -> Self:
        """Return the model of a substitute (N, D, H, W) and those networks that are there."""
        networks: dict[str, nn.Module | None] = {"autoencoder": autoencoder, "segmenter": segmenter}
        known = {name: network for name, network in networks.items() if network is not None}
        return cls.restored(config, known, {"substitute": substitute})

    @property
    def substitute(self) -> Tensor:
        """The substitute image (N, D, H, W) on the template."""
        return self.images["substitute"]

    @property
    def autoencoder(self) -> MaskedAutoencoder | None:
        """The pretrained masked autoencoder, None if the model was imported without it."""
        return cast(MaskedAutoencoder | None, self.networks.get("autoencoder"))

    @property
    def segmenter(self) -> Segmenter | None:
        """The segmenter, None before stage 2."""
        return cast(Segmenter | None, self.networks.get("segmenter"))

    def fill(self, image: Tensor, missing: Tensor, start: Shape) -> Tensor:
        """S(x, x_sub) of Eqn. 1 for whole modalities; released models read x_sub from its corner (config.inference)."""
        if self.config.inference.substitute_origin == "window":
            start = (0, 0, 0)
        size: Shape = (image.shape[1], image.shape[2], image.shape[3])
        content = crop(self.substitute.to(image.device), start, size)
        return fill(image, content, missing[:, None, None, None])

    @torch.no_grad()
    def predict(self, x: Tensor, missing: Tensor) -> Tensor:
        """Return the segmenter's region logits (B, R, D, H, W); it is not told what was filled in."""
        del missing
        assert self.segmenter is not None  # noqa: S101  a predictor has asked whether it can segment
        return self.segmenter.predict(x)

    def lacks(self, capability: Capability) -> str | None:
        """Say which network is not there, if the `capability` needs it."""
        network = {"segmentation": self.segmenter, "reconstruction": self.autoencoder}
        return _NOT_TRAINED[capability] if network.get(capability, self) is None else None

    def reconstruct(
        self,
        case: Case,
        *,
        dropped: Collection[str] = (),
        ratio: float | None = None,
        seed: int = 0,
        patch: int = 16,
    ) -> Reconstruction:
        """Mask a case and let the autoencoder reconstruct it; see :func:`~m3ae_core.methods.m3ae.reconstruction`."""
        return reconstruct(self, case, dropped=dropped, ratio=ratio, seed=seed, patch=patch)

    def compile(self) -> None:
        """Compile the segmenter's backbone."""
        if self.segmenter is not None:
            self.segmenter.backbone.compile()


class WithoutSubstitute(M3AE):
    """M3AE's segmenter after another pretraining: the substitute is zero everywhere, and there is nothing to show."""

    @classmethod
    def zeros(cls, config: ModelConfig) -> dict[str, Tensor]:
        """Return the images that a bundle keeps: a substitute of zeros."""
        return {"substitute": torch.zeros(len(config.modalities), *config.grid.shape)}

    def lacks(self, capability: Capability) -> str | None:
        """Say that there is neither substitute nor reconstruction."""
        return super().lacks(capability) if capability == "segmentation" else Method.lacks(self, capability)
