"""The published network's weights give the published network's outputs (design: `official` preset)."""

import numpy as np
import pytest
import torch

from golden import OUTPUTS, REGIONS, SCALARS, X, draw, released_weights, sigmoid
from m3ae_core.config import load_recipe
from m3ae_core.methods.m3ae import losses
from m3ae_core.methods.m3ae.networks import MaskedAutoencoder, Segmenter
from m3ae_core.methods.m3ae.official import RECONSTRUCTION_HEAD, SEGMENTATION_HEADS, translate
from m3ae_core.nn.heads import ScaledLogits
from m3ae_core.nn.windows import Extent, whole_logits
from tiny import filling

CONFIG = load_recipe("official").model
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    network = Segmenter(CONFIG)
    network.load_state_dict(translate(released_weights(3), SEGMENTATION_HEADS))
    return network.eval()


@pytest.fixture(scope="module")
def segmented(segmenter):
    with torch.no_grad():
        return segmenter(X)


@pytest.fixture(scope="module")
def reconstructed():
    network = MaskedAutoencoder(CONFIG)
    network.load_state_dict(translate(released_weights(4), RECONSTRUCTION_HEAD))
    with torch.no_grad():
        return network.head(network.backbone(X).full), network.backbone(X).bottleneck


def difference(ours: torch.Tensor, name: str) -> float:
    reference = OUTPUTS[name]
    ours = ours.numpy()
    if ours.shape != reference.shape:
        ours = ours[..., ::2, ::2, ::2]
    return float(np.abs(ours - reference).max())


def test_the_draw_is_the_reference_draw():
    assert (REGIONS[0][..., ::2, ::2, ::2] == OUTPUTS["regions_first"]).all()


@pytest.mark.parametrize(
    ("scale", "name"), [("full", "logits"), ("half", "deep_half"), ("quarter", "deep_quarter")]
)
def test_segmentation_logits(segmented, scale, name):
    assert difference(getattr(segmented[0], scale), f"segment_{name}") <= TOLERANCE


def test_segmentation_bottleneck(segmented):
    assert difference(segmented[1].bottleneck, "segment_bottleneck") <= TOLERANCE


def test_reconstruction(reconstructed):
    assert difference(reconstructed[0], "reconstruct_logits") <= TOLERANCE
    assert difference(reconstructed[1], "reconstruct_bottleneck") <= TOLERANCE


def test_the_decoder_must_be_nearest(segmented):
    """Trilinear upsampling fits the same weights and gives other outputs: why the preset is part of a bundle."""
    network = CONFIG.network.model_copy(update={"upsample": "trilinear"})
    other = Segmenter(CONFIG.model_copy(update={"network": network}))
    other.load_state_dict(translate(released_weights(3), SEGMENTATION_HEADS))
    assert difference(other.predict(X), "segment_logits") > 0.01


@pytest.mark.parametrize("scale", ["full", "half", "quarter"])
def test_official_segmentation_loss(segmented, scale):
    loss = losses.pooled_region_loss(getattr(segmented[0], scale), torch.from_numpy(REGIONS))
    assert loss.item() == pytest.approx(SCALARS[f"official_seg_loss_{scale}"], abs=TOLERANCE)


def test_official_loss_sums_the_scales(segmented):
    total = losses.segmentation_loss(segmented[0], torch.from_numpy(REGIONS), "official")
    expected = sum(SCALARS[f"official_seg_loss_{scale}"] for scale in ScaledLogits._fields)
    assert total.item() == pytest.approx(expected, abs=3 * TOLERANCE)


def test_consistency(segmented):
    logits, features = segmented
    at_logits = losses.consistency_loss(*logits.quarter.chunk(2)).item()
    at_bottleneck = losses.consistency_loss(*features.bottleneck.chunk(2)).item()
    assert at_logits == pytest.approx(SCALARS["consistency_mse_quarter_logits"], abs=TOLERANCE)
    assert at_bottleneck == pytest.approx(SCALARS["consistency_mse_bottleneck"], abs=TOLERANCE)


def test_reconstruction_loss(reconstructed):
    loss = losses.reconstruction_loss(X, reconstructed[0]).item()
    assert loss == pytest.approx(SCALARS["mse_reconstruct_vs_x"], abs=TOLERANCE)


def test_regulariser():
    substitute = torch.from_numpy(draw("substitute", (1, 4, 16, 24, 24)))[0]
    value = losses.substitute_regulariser(substitute, "norm").item()
    assert value == pytest.approx(SCALARS["regulariser_norm"], rel=1e-6)


def test_filled_sliding_window(segmenter):
    """The released evaluation reads the substitute at each window's own coordinates; filling first gives the same."""
    image = torch.from_numpy(sigmoid(draw("vol", (1, 4, 40, 24, 48)))[0])
    inference = CONFIG.inference.model_copy(update={"window": (32, 32, 32)})
    substitute = torch.from_numpy(draw("limage", (1, 4, 64, 64, 64)))[0]
    missing = torch.tensor([True, False, True, False])  # T1 and T2
    extent = Extent((0, 0, 0), (40, 24, 48))
    *_, (_, _, logits) = whole_logits(
        segmenter.predict, filling(substitute, missing, "window"), image, extent, inference
    )
    assert difference(logits[None], "window_logits") <= TOLERANCE
    *_, (_, _, other) = whole_logits(
        segmenter.predict, filling(substitute, missing), image, extent, inference
    )
    assert difference(other[None], "window_logits") > 0.01  # the padded axis shifts the released origin
