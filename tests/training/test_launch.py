"""Hardware options reach Lightning Fabric and the backbone."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import lightning_fabric
import pytest
import torch
from torch import nn

from m3ae_core.errors import ConfigError
from m3ae_core.hardware import Hardware
from m3ae_core.methods.m3ae.networks import MaskedAutoencoder
from m3ae_core.training.launch import launch, prepare
from tiny import RECIPE


def test_fabric_is_told_what_the_user_said(monkeypatch: pytest.MonkeyPatch) -> None:
    told = []

    class Fabric:
        def __init__(self, **settings: object) -> None:
            told.append(settings)
            self.strategy = SimpleNamespace(precision=SimpleNamespace())

        def launch(self) -> None:
            told.append("launched")

    monkeypatch.setattr(lightning_fabric, "Fabric", Fabric)
    launch(Hardware(device="cuda", devices=8, nodes=4, precision="16-mixed"))
    launch(Hardware(device="cpu"))
    common = {"accelerator": "cuda", "devices": 8, "num_nodes": 4, "strategy": "ddp"}
    alone = {"accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": "auto"}
    assert told == [
        {**common, "precision": "16-mixed"},
        "launched",
        {**alone, "precision": "32-true"},
        "launched",
    ]


def test_without_fabric_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    with pytest.raises(ConfigError, match=r"napari-m3ae\[train\]") as caught:
        launch(Hardware())
    assert caught.value.code == "missing-extra"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there() -> None:
    with pytest.raises(ConfigError) as caught:
        launch(Hardware(device="cuda"))
    assert caught.value.code == "device"


def test_mixed_precision_computes_in_bfloat16() -> None:
    fabric = launch(Hardware(device="cpu", precision="bf16-mixed"))
    seen = []

    class Probe(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = super().forward(x)
            seen.extend([x.dtype, y.dtype])
            return y

    model = fabric.setup(Probe(2, 2))
    assert model(torch.ones(1, 2)).dtype == torch.float32
    assert seen == [
        torch.float32,
        torch.bfloat16,
    ]  # images are rounded by the layers, not before augmentation
    assert model.weight.dtype == torch.float32


# --- the backbone ----------------------------------------------------------------------------------


def test_nothing_is_prepared_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn.Module, "compile", None)
    network = MaskedAutoencoder(RECIPE.model)
    prepare(network, Hardware())
    assert network.backbone.checkpointing is False


def test_the_backbone_alone_is_compiled_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda self: compiled.append(self))
    network = MaskedAutoencoder(RECIPE.model)
    names = set(network.state_dict())
    prepare(network, Hardware(compile=True))
    assert compiled == [network.backbone]
    assert set(network.state_dict()) == names  # bundles and checkpoints do not know of it


def test_checkpointing_changes_no_digit_and_keeps_less(monkeypatch: pytest.MonkeyPatch) -> None:
    """Same reconstruction, same gradients; of the activations, a share is kept for the backward pass."""
    torch.manual_seed(0)
    network, x = MaskedAutoencoder(RECIPE.model), torch.rand(1, 4, 16, 16, 16)
    results, kept = [], []
    for checkpointing in (False, True):
        prepare(network, Hardware(checkpointing=checkpointing))
        network.zero_grad()
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, s=sizes: (s.append(t.numel()), t)[1], lambda t: t
        ):
            loss = (network(x) - x).square().mean()
        loss.backward()
        results.append([loss.detach(), *(p.grad.clone() for p in network.parameters())])
        kept.append(sum(sizes))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert kept[1] < 0.5 * kept[0]


def test_a_backbone_that_knows_no_checkpointing() -> None:
    network = nn.Module()
    network.backbone = nn.Linear(1, 1)
    with pytest.raises(ConfigError, match="Linear knows no gradient checkpointing") as caught:
        prepare(network, Hardware(checkpointing=True))
    assert caught.value.code == "checkpointing"
