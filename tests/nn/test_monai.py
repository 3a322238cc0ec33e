"""MONAI's networks as backbones: shapes, published counts, and that both methods can be trained with them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from m3ae_core.bundle import Bundle, load_bundle, save_bundle
from m3ae_core.config import ModelConfig, NetworkConfig, Recipe
from m3ae_core.errors import ConfigError
from m3ae_core.hardware import Hardware
from m3ae_core.methods.m3ae.networks import Segmenter
from m3ae_core.methods.registry import method_named
from m3ae_core.nn import monai as backbones
from m3ae_core.nn.backbones import build_backbone
from m3ae_core.training.run import Plan, stage_named, train
from tiny import RECIPE, write_cases

TINY = {
    "segresnet": NetworkConfig(name="segresnet", base_channels=4, norm_groups=2),
    "dynunet": NetworkConfig(name="dynunet", base_channels=4),
    "swin-unetr": NetworkConfig(
        name="swin-unetr", base_channels=12, options={"depths": [1, 1, 1, 1], "window_size": 2}
    ),
}
everyone = pytest.mark.parametrize("name", TINY)


def recipe(name: str, method: str = "m3ae") -> Recipe:
    model = RECIPE.model.model_copy(update={"network": TINY[name], "method": method})
    stage = RECIPE.finetune.model_copy(update={"epochs": 1})
    pretrain = RECIPE.pretrain.model_copy(update={"epochs": 1})
    fields = {"crop", "epochs", "learning_rate", "checkpoint_every"}
    supervised = RECIPE.train.model_copy(update={field: getattr(stage, field) for field in fields})
    return RECIPE.model_copy(
        update={"model": model, "pretrain": pretrain, "finetune": stage, "train": supervised}
    )


def parameters(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@everyone
def test_features_have_the_scales_and_the_widths_that_heads_ask_for(name: str) -> None:
    backbone = build_backbone(ModelConfig(modalities=("T1", "T2"), network=TINY[name])).eval()
    features = backbone(torch.randn(2, 2, 16, 40, 24))
    for level, scale in enumerate((features.full, features.half, features.quarter)):
        shape = (side // 2**level for side in (16, 40, 24))
        assert scale.shape == (2, backbone.widths[level], *shape)
    assert features.bottleneck.shape[:2] == (2, backbone.widths[3])


@everyone
def test_every_parameter_learns(name: str) -> None:
    """Nothing is left in a bundle, or in the optimiser, that no output depends on."""
    segmenter = Segmenter(ModelConfig(network=TINY[name]))
    logits, _ = segmenter(torch.randn(1, 4, 32, 32, 64))
    torch.stack([scale.square().mean() for scale in logits]).sum().backward()
    assert not [key for key, value in segmenter.named_parameters() if value.grad is None]


@pytest.mark.parametrize("name", ["segresnet", "dynunet", "swin-unetr"])
def test_the_decoder_is_monais(name: str) -> None:
    """With MONAI's own last layer put back, its forward gives what our features give."""
    torch.manual_seed(0)
    backbone = build_backbone(ModelConfig(network=TINY[name])).eval()
    x = torch.randn(1, 4, 32, 32, 64)
    full = backbone(x).full
    if name == "dynunet":
        settings = {"kernel_size": [3] * 4, "strides": [1, 2, 2, 2], "upsample_kernel_size": [2] * 3}
        net = backbones.monai_network(
            "DynUNet", spatial_dims=3, in_channels=4, out_channels=1, filters=backbone.widths, **settings
        )
        net.input_block, net.bottleneck = backbone.encoder[0], backbone.encoder[-1]
        for ours, theirs in zip(backbone.encoder[1:-1], net.downsamples, strict=True):
            theirs.load_state_dict(ours.state_dict())
        net.upsamples.load_state_dict(backbone.decoder.state_dict())
        net.input_block.load_state_dict(backbone.encoder[0].state_dict())
        net.skip_layers.downsample.load_state_dict(backbone.encoder[0].state_dict())
        deepest = net.skip_layers.next_layer.next_layer.next_layer
        deepest.load_state_dict(backbone.encoder[-1].state_dict())
        expected = net.eval().skip_layers(x)
    else:
        expected = backbone.net(x)
    assert torch.equal(full, expected)


@pytest.mark.parametrize(("width", "published"), [(8, 1_176_843), (16, 4_702_227), (32, 18_798_627)])
def test_segresnet_has_the_published_number_of_parameters(width: int, published: int) -> None:
    """With MONAI's own last layer (normalisation and a convolution with bias), which is no part of the backbone."""
    config = NetworkConfig(name="segresnet", base_channels=width)
    backbone = build_backbone(ModelConfig(network=config))
    assert parameters(backbone) + 2 * width + 3 * width + 3 == published


@everyone
def test_an_unknown_option_is_refused(name: str) -> None:
    config = ModelConfig(network=TINY[name].model_copy(update={"options": {"strides": 3}}))
    with pytest.raises(ConfigError, match="strides") as caught:
        build_backbone(config)
    assert caught.value.code == "options"


@pytest.mark.parametrize("name", ["segresnet", "swin-unetr"])
def test_a_width_that_monai_refuses_is_a_message(name: str) -> None:
    config = ModelConfig(network=TINY[name].model_copy(update={"base_channels": 5}))
    with pytest.raises(ConfigError, match="MONAI cannot build") as caught:
        build_backbone(config)
    assert caught.value.code == "network"


def test_without_monai_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "monai", None)
    with pytest.raises(ConfigError, match=r"napari-m3ae\[train\]"):
        build_backbone(ModelConfig(network=TINY["dynunet"]))


@everyone
def test_a_bundle_gives_the_same_answer_back(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = recipe(name, "unet-dropout").model
    networks = {"segmenter": Segmenter(config).eval()}
    model = method_named("unet-dropout").restored(config, networks)
    loaded = load_bundle(save_bundle(Bundle(model, {"name": name}), tmp_path / "bundle"))
    x, missing = torch.randn(1, 4, 32, 32, 64), torch.zeros(4, dtype=torch.bool)
    assert torch.equal(loaded.model.predict(x, missing), model.predict(x, missing))


@everyone
def test_both_methods_are_trained_with_it(name: str, tmp_path: Path) -> None:
    """Stage 1 and 2 of M3AE and the baseline, one epoch each: the weights move and the bundle can be loaded."""
    cases, cpu = write_cases(tmp_path / "cases", 2), Hardware(device="cpu", workers=0)
    start = None
    for method, stage in (("m3ae", "pretrain"), ("m3ae", "finetune"), ("unet-dropout", "train")):
        plan = Plan(recipe(name, method), cases, tmp_path / stage, hardware=cpu)
        list(train(plan, stage_named(plan.recipe, stage), pretrained=start if stage == "finetune" else None))
        start = tmp_path / stage / "bundle"
        assert load_bundle(start).model.networks
