"""RFNet: the algebra of its fusion, what each term of the loss teaches, and that what is missing adds nothing."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from m3ae_core.config import ModelConfig
from m3ae_core.errors import ConfigError
from m3ae_core.methods.rfnet import (
    RegionFusion,
    RegionFusionNetwork,
    class_weights,
    cross_entropy,
    dice_loss,
    fuse,
    map_loss,
    normalise,
    pool,
)
from one_phantom import dice_by_heart, one_phantom, small

MISSING = torch.tensor([False, True, False, True])
norms = pytest.mark.parametrize("weight_norm", ["sigmoid", "softmax"])
seeds = st.integers(0, 9999)


def drawn(seed: int) -> tuple[Tensor, Tensor]:
    """Features (2, 3, 5, 2, 3, 4) of three modalities, and maps (2, 4, 2, 3, 4)."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(2, 3, 5, 2, 3, 4, generator=generator)
    return features, torch.randn(2, 4, 2, 3, 4, generator=generator).softmax(1)


@given(seeds)
def test_the_classes_of_one_modality_sum_to_its_features(seed: int) -> None:
    features, maps = drawn(seed)
    only = torch.zeros(2, 4, 3)
    only[:, :, 1] = 1
    torch.testing.assert_close(fuse(features, maps, only).sum(1), features[:, 1])


@given(seeds, st.integers(1, 3))
def test_equal_features_with_equal_weights_come_back(seed: int, present: int) -> None:
    features, maps = drawn(seed)
    same = features[:, :1].expand(-1, 3, -1, -1, -1, -1)
    weights = torch.zeros(2, 4, 3)
    weights[:, :, :present] = 1 / present
    torch.testing.assert_close(fuse(same, maps, weights).sum(1), features[:, 0])


@given(seeds)
def test_pooling_is_the_mean_over_a_region(seed: int) -> None:
    features, maps = drawn(seed)
    hard = torch.nn.functional.one_hot(maps.argmax(1), 4).movedim(-1, 1).float()
    hard[:, 0, 0, 0, 0] = 1
    expected = features[1, 2, :, hard[1, 0] > 0].mean(1)
    torch.testing.assert_close(pool(features, hard)[1, 0, 2], expected, rtol=1e-4, atol=1e-5)
    assert torch.isfinite(pool(features, torch.zeros_like(hard))).all()


@norms
@given(seed=seeds)
def test_what_is_missing_has_no_weight(seed: int, weight_norm: str) -> None:
    scores = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(seed))
    weights = normalise(scores, torch.tensor([[False, True, False], [False, True, True]]), weight_norm)
    assert (weights[:, :, 1] == 0).all()
    assert (weights[1, :, 2] == 0).all()
    assert (weights[:, :, 0] > 0).all()
    if weight_norm == "softmax":
        torch.testing.assert_close(weights.sum(2), torch.ones(2, 4))
    else:
        torch.testing.assert_close(weights[:, :, 0], scores[:, :, 0].sigmoid())


@norms
def test_missing_features_add_nothing(weight_norm: str) -> None:
    torch.manual_seed(0)
    module = RegionFusion(4, 3, 4, weight_norm)
    features, missing = torch.randn(2, 3, 4, 4, 4, 4), torch.tensor([[False, True, False]] * 2)
    fused, maps = module(features, missing)
    torch.testing.assert_close(maps.sum(1), torch.ones(2, 4, 4, 4))
    features[:, 1] = torch.nan
    for one, two in zip(module(features, missing), (fused, maps), strict=True):
        assert torch.equal(one, two)
    features[:, 0] += torch.randn(4, 4, 4)
    assert not torch.equal(module(features, missing)[0], fused)


@given(seeds)
def test_class_weights_sum_to_one_less_than_the_classes(seed: int) -> None:
    labels = torch.randint(4, (2, 3, 3, 3), generator=torch.Generator().manual_seed(seed))
    y = torch.nn.functional.one_hot(labels, 4).movedim(-1, 1).float()
    torch.testing.assert_close(class_weights(y).sum(1), torch.full((2,), 3.0))


def test_the_loss_of_a_known_answer() -> None:
    """Two voxels of eight are class 1; all probabilities are a half."""
    y = torch.zeros(1, 2, 2, 2, 2)
    y[0, 1, 0, 0] = 1
    y[0, 0] = 1 - y[0, 1]
    half = torch.full_like(y, 0.5)
    weighted = 0.25 * 0.75 + 0.75 * 0.25
    assert cross_entropy(half.log(), y).item() == pytest.approx(weighted * math.log(2))
    assert dice_loss(half, y).item() == pytest.approx(1 - (3 / 10 + 1 / 6), abs=1e-5)
    assert dice_loss(y, y).item() == pytest.approx(0, abs=1e-5)


def terms(missing: Tensor = MISSING, **options: object) -> tuple[RegionFusionNetwork, dict[str, Tensor]]:
    """The network and the losses of one phantom."""
    model = small("rfnet", options=options)
    x, regions = one_phantom(model.config)
    network = model.networks["segmenter"]
    return network, model.losses(network, x, regions, missing[None], None)


@pytest.mark.parametrize("name", ["fused", "separate", "maps"])
def test_each_term_teaches_its_part(name: str) -> None:
    network, losses = terms()
    losses[name].backward()
    learned = {part for part, weights in network.named_parameters() if weights.grad is not None}
    decoders = {decoder for decoder in ("fused", "separate") if f"{decoder}.head.weight" in learned}
    assert decoders == {name} - {"maps"}
    levels = {level for level in range(4) if f"fusions.{level}.maps.0.0.weight" in learned}
    assert levels == (set() if name == "separate" else {0, 1, 2, 3})
    grad = network.encoders[1].levels[0].first[0].weight.grad
    assert (name == "separate") == bool(grad.abs().sum() > 0)  # it is missing in the fusion


def test_all_levels_of_maps_count() -> None:
    _, y = one_phantom(ModelConfig())
    one_hot = torch.cat([~y[:, :1], y[:, :1]], 1).float()
    maps = [torch.rand(1, 2, 16 // 2**n, 24 // 2**n, 16 // 2**n).softmax(1) for n in range(4)]
    alone = [map_loss([level], one_hot, torch.ones(1)) for level in maps]
    torch.testing.assert_close(map_loss(maps, one_hot, torch.ones(1)), torch.stack(alone).sum())


def test_weights_of_the_terms() -> None:
    _, plain = terms()
    _, weighted = terms(separate_weight=0.5, map_weight=2.0)
    assert torch.equal(weighted["fused"], plain["fused"])
    assert torch.equal(weighted["separate"], plain["separate"] / 2)
    assert torch.equal(weighted["maps"], plain["maps"] * 2)


def test_masked_modalities_segment_alone_and_those_never_acquired_do_not() -> None:
    model = small("rfnet")
    x, regions = one_phantom(model.config)
    network = model.networks["segmenter"]

    def separate(missing: Tensor) -> float:
        return model.losses(network, x, regions, missing[None], None)["separate"].item()

    all_four = separate(torch.zeros(4, dtype=torch.bool))
    assert separate(MISSING) == all_four
    x[:, 1] = 0
    assert separate(MISSING) == pytest.approx(all_four * 3 / 4, rel=0.1)


def test_labels_without_weight_teach_nothing() -> None:
    model = small("rfnet")
    x, regions = one_phantom(model.config)
    network = model.networks["segmenter"]
    alone = model.losses(network, x, regions, MISSING[None], None)
    both = torch.cat([x, x.flip(2)]), torch.cat([regions, regions])
    weighted = model.losses(network, *both, torch.stack([MISSING, MISSING]), [1.0, 0.0])
    for name, term in alone.items():
        torch.testing.assert_close(weighted[name], term / 2)


def test_it_is_as_large_as_published() -> None:
    network = RegionFusionNetwork(ModelConfig(method="rfnet"))
    assert sum(weights.numel() for weights in network.parameters()) == pytest.approx(8.4e6, rel=0.1)


def test_other_modalities_and_regions() -> None:
    model = small("rfnet", modalities=("FLAIR", "T1c"), regions=("ET", "WT"))
    x, regions = one_phantom(model.config)
    assert model.predict(x, torch.tensor([False, True])).shape == regions.shape
    assert model.networks["segmenter"].members.tolist() == [
        [False, False],
        [False, True],
        [True, True],
    ]


def test_unknown_options_are_refused() -> None:
    with pytest.raises(ConfigError, match="weight_norm") as caught:
        small("rfnet", options={"weight_norm": "none"})
    assert caught.value.code == "options"


def test_it_learns_a_phantom_by_heart() -> None:
    model = small("rfnet")
    assert (dice_by_heart(model, MISSING, steps=60, learning_rate=3e-2) > 0.85).all()
