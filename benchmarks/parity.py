"""Largest differences between our network, under the `official` preset, and the published network's numbers.

    python benchmarks/parity.py

The same weights, inputs and references as tests/nn/test_parity.py, which holds them to 1e-4.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from golden import OUTPUTS, REGIONS, SCALARS, X, draw, released_weights, sigmoid
from m3ae_core.config import load_recipe
from m3ae_core.methods.m3ae import losses
from m3ae_core.methods.m3ae.networks import MaskedAutoencoder, Segmenter
from m3ae_core.methods.m3ae.official import RECONSTRUCTION_HEAD, SEGMENTATION_HEADS, translate
from m3ae_core.nn.windows import Extent, whole_logits
from tiny import filling


def arrays(segmenter: Segmenter, autoencoder: MaskedAutoencoder, config) -> dict[str, torch.Tensor]:
    logits, features = segmenter(X)
    inference = config.inference.model_copy(update={"window": (32, 32, 32)})
    volume = torch.from_numpy(sigmoid(draw("vol", (1, 4, 40, 24, 48)))[0])
    substitute = torch.from_numpy(draw("limage", (1, 4, 64, 64, 64)))[0]
    missing, extent = torch.tensor([True, False, True, False]), Extent((0, 0, 0), (40, 24, 48))
    fill = filling(substitute, missing, config.inference.substitute_origin)
    *_, (_, _, windows) = whole_logits(segmenter.predict, fill, volume, extent, inference)
    return {
        "segment_logits": logits.full,
        "segment_deep_half": logits.half,
        "segment_deep_quarter": logits.quarter,
        "segment_bottleneck": features.bottleneck,
        "reconstruct_logits": autoencoder(X),
        "reconstruct_bottleneck": autoencoder.backbone(X).bottleneck,
        "window_logits": windows[None],
    }


def scalars(found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    target = torch.from_numpy(REGIONS)
    quarter, bottleneck = found["segment_deep_quarter"], found["segment_bottleneck"]
    return {
        "official_seg_loss_full": losses.pooled_region_loss(found["segment_logits"], target),
        "official_seg_loss_half": losses.pooled_region_loss(found["segment_deep_half"], target),
        "official_seg_loss_quarter": losses.pooled_region_loss(quarter, target),
        "consistency_mse_quarter_logits": losses.consistency_loss(*quarter.chunk(2)),
        "consistency_mse_bottleneck": losses.consistency_loss(*bottleneck.chunk(2)),
        "mse_reconstruct_vs_x": losses.reconstruction_loss(X, found["reconstruct_logits"]),
        "regulariser_norm": losses.substitute_regulariser(
            torch.from_numpy(draw("substitute", (1, 4, 16, 24, 24)))[0], "norm"
        ),
    }


@torch.no_grad()
def main() -> None:
    config = load_recipe("official").model
    segmenter, autoencoder = Segmenter(config).eval(), MaskedAutoencoder(config).eval()
    segmenter.load_state_dict(translate(released_weights(3), SEGMENTATION_HEADS))
    autoencoder.load_state_dict(translate(released_weights(4), RECONSTRUCTION_HEAD))
    found = arrays(segmenter, autoencoder, config)
    print("| array or scalar | largest difference |\n|---|---|")
    for name, ours in found.items():
        ours = ours if ours.shape == OUTPUTS[name].shape else ours[..., ::2, ::2, ::2]
        print(f"| {name} | {np.abs(ours.numpy() - OUTPUTS[name]).max():.1e} |")
    for name, ours in scalars(found).items():
        print(f"| {name} | {abs(ours.item() - SCALARS[name]):.1e} |")


if __name__ == "__main__":
    main()
