"""The two models of the paper's Fig. 2: the masked autoencoder of stage 1 and the segmenter of stage 2."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from m3ae_core.config import ModelConfig
from m3ae_core.nn.backbones import build_backbone
from m3ae_core.nn.heads import ReconstructionHead, ScaledLogits, SegmentationHeads
from m3ae_core.nn.unet import Features


class MaskedAutoencoder(nn.Module):
    """F of Eqn. 1: backbone f and a linear regression head; reconstructs all modalities from a filled image."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.backbone = build_backbone(config)
        self.head = ReconstructionHead(self.backbone.widths, len(config.modalities))

    def forward(self, filled: Tensor) -> Tensor:
        """Return the reconstruction (B, N, D, H, W) of a filled image of the same shape."""
        reconstruction: Tensor = self.head(self.backbone(filled).full)
        return reconstruction


class Segmenter(nn.Module):
    """Backbone f with the segmentation head f_s and the deep-supervision heads f_d (Eqns. 4 and 5)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.backbone = build_backbone(config)
        self.heads = SegmentationHeads(self.backbone.widths, len(config.regions))

    @classmethod
    def from_pretrained(cls, config: ModelConfig, autoencoder: MaskedAutoencoder) -> Segmenter:
        """Start stage 2: take over the pretrained backbone; the heads are new and random ("f_s", Eqn. 4)."""
        segmenter = cls(config)
        segmenter.backbone.load_state_dict(autoencoder.backbone.state_dict())
        return segmenter

    def forward(self, filled: Tensor) -> tuple[ScaledLogits, Features]:
        """Return the region logits of all scales, and the features, of a filled image (B, N, D, H, W)."""
        features: Features = self.backbone(filled)
        logits: ScaledLogits = self.heads(features)
        return logits, features

    @torch.no_grad()
    def predict(self, filled: Tensor) -> Tensor:
        """Return the full-scale region logits (B, R, D, H, W) alone; no deep supervision is computed."""
        logits: Tensor = self.heads.at_full(self.backbone(filled).full)
        return logits
