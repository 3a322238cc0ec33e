"""The two models: published size, shapes for every number of modalities, and what stage 2 takes over."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from m3ae_core.config import ModelConfig, NetworkConfig
from m3ae_core.methods.m3ae.networks import MaskedAutoencoder, Segmenter

TINY = ModelConfig(network=NetworkConfig(base_channels=4, norm_groups=2))


def with_modalities(count: int) -> ModelConfig:
    names = ("FLAIR", "T1", "T1c", "T2", "CT")[:count]
    return TINY.model_copy(update={"modalities": names})


def size(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_the_published_number_of_parameters() -> None:
    """4.7 million, counted on the released network (deep-supervision heads: the last 294 of the segmenter)."""
    assert size(MaskedAutoencoder(ModelConfig())) == 4_704_228
    segmenter = Segmenter(ModelConfig())
    assert size(segmenter) == 4_704_505
    assert size(segmenter) - size(segmenter.heads.at_half) - size(segmenter.heads.at_quarter) == 4_704_211


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_shapes(count: int) -> None:
    config, x = with_modalities(count), torch.randn(2, count, 16, 8, 24)
    with torch.no_grad():
        assert MaskedAutoencoder(config)(x).shape == x.shape
        segmenter = Segmenter(config)
        logits, features = segmenter(x)
        assert {tuple(scale.shape) for scale in logits} == {(2, 3, 16, 8, 24)}
        assert features.bottleneck.shape == (2, 32, 2, 1, 3)
        assert segmenter.predict(x).shape == (2, 3, 16, 8, 24)


def test_fewer_regions_give_fewer_logits() -> None:
    segmenter = Segmenter(TINY.model_copy(update={"regions": ("WT",)}))
    assert segmenter.predict(torch.randn(1, 4, 8, 8, 8)).shape[1] == 1


def test_predict_gives_the_full_scale_without_gradients() -> None:
    torch.manual_seed(0)
    segmenter, x = Segmenter(TINY), torch.randn(1, 4, 16, 16, 16)
    logits, _ = segmenter(x)
    prediction = segmenter.predict(x)
    torch.testing.assert_close(prediction, logits.full)
    assert logits.full.requires_grad
    assert not prediction.requires_grad


def test_outputs_are_linear() -> None:
    """No sigmoid in either head: the losses and the predictor apply it."""
    torch.manual_seed(0)
    for network in (MaskedAutoencoder(TINY).head, Segmenter(TINY).heads.at_full):
        nn.init.constant_(network.bias, -7)
        assert network(torch.zeros(1, 4, 2, 2, 2)).unique().item() == -7


def test_stage_2_takes_over_the_backbone_and_draws_new_heads() -> None:
    torch.manual_seed(0)
    autoencoder = MaskedAutoencoder(TINY)
    first, second = (Segmenter.from_pretrained(TINY, autoencoder) for _ in range(2))
    for name, tensor in autoencoder.backbone.state_dict().items():
        assert torch.equal(first.backbone.state_dict()[name], tensor)
    assert (first.heads.at_full.weight != second.heads.at_full.weight).any()
    assert (first.heads.at_full.weight[0] != autoencoder.head.weight[0]).any()


def test_stage_2_leaves_the_autoencoder_alone() -> None:
    """The pretrained network stays in the bundle: a copy is fine-tuned."""
    autoencoder = MaskedAutoencoder(TINY)
    before = autoencoder.backbone.down[0].weight.clone()
    segmenter = Segmenter.from_pretrained(TINY, autoencoder)
    with torch.no_grad():
        segmenter.backbone.down[0].weight.add_(1)
    assert torch.equal(autoencoder.backbone.down[0].weight, before)
