"""SegResNet-VAE: its parameters, its three terms and its branch, which a bundle does not hold."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from m3ae_core.config import ModelConfig, NetworkConfig
from m3ae_core.data.augment import Augmentation
from m3ae_core.data.phantom import phantom
from m3ae_core.errors import ConfigError
from m3ae_core.methods.segresnet_vae import (
    Branch,
    Regularised,
    SegResNetVAE,
    SegResNetVAEOptions,
    WithBranch,
    dice_loss,
    kl_loss,
    segmenter,
)
from m3ae_core.methods.supervised import SupervisedSample
from m3ae_core.nn.monai import monai_network
from m3ae_core.regions import BRATS_2023, encode
from tiny import RECIPE

CROP = (16, 32, 24)
TINY = RECIPE.for_method("segresnet-vae").model
KEPT = torch.zeros(1, 4, dtype=torch.bool)


@pytest.fixture
def network() -> Regularised:
    torch.manual_seed(0)
    return Regularised(TINY, CROP)


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(1, 4, *CROP, generator=generator), torch.rand(1, 3, *CROP, generator=generator) < 0.3


def losses(network: nn.Module, batch: tuple[Tensor, Tensor], missing: Tensor = KEPT, **options: object):
    config = TINY.model_copy(update={"options": options})
    torch.manual_seed(2)
    return SegResNetVAE.restored(config, {}).losses(network, *batch, missing, None)


@pytest.mark.parametrize(("width", "published"), [(8, 1_176_843), (16, 4_702_227), (32, 18_798_627)])
def test_the_segmenter_has_the_published_number_of_parameters(width: int, published: int) -> None:
    network = segmenter(ModelConfig(network=NetworkConfig(base_channels=width)))
    assert sum(parameter.numel() for parameter in network.parameters()) == published


def test_dice_is_summed_over_regions() -> None:
    """Three regions that are wholly wrong cost 3; right ones nothing; half a batch's weight halves its share."""
    regions = torch.zeros(2, 3, 4, 4, 4, dtype=torch.bool)
    regions[..., :2] = True
    right = torch.where(regions, 40.0, -40.0)
    assert dice_loss(right, regions).item() == pytest.approx(0, abs=1e-5)
    assert dice_loss(-right, regions).item() == pytest.approx(3, abs=1e-5)
    half = torch.cat([right[:1], -right[1:]])
    assert dice_loss(half, regions, [1.0, 0.5]).item() == pytest.approx(0.75, abs=1e-5)


def test_kl_is_zero_only_for_the_standard_normal() -> None:
    mean, std = torch.zeros(2, 8), torch.ones(2, 8)
    assert kl_loss(mean, std, 1) == 0
    for other in (kl_loss(mean + 0.1, std, 1), kl_loss(mean, std * 1.1, 1), kl_loss(mean, std * 0.9, 1)):
        assert other > 0
    assert kl_loss(mean + 2, std, 4).item() == pytest.approx(8 * 4 / 4)
    assert kl_loss(mean, std * 3, 1).item() == pytest.approx(8 * (9 - math.log(9) - 1), rel=1e-6)


def test_the_weights_are_those_of_the_terms(network: Regularised, batch: tuple[Tensor, Tensor]) -> None:
    """total − dice = 0.1 (L2 + KL), and each weight acts on its own term."""
    plain, published = (losses(network, batch, reconstruction_weight=w, kl_weight=w) for w in (1.0, 0.1))
    total = torch.stack(list(published.values())).sum()
    expected = 0.1 * (plain["reconstruction"] + plain["divergence"])
    assert torch.allclose(total - published["dice"], expected)
    assert torch.equal(torch.stack(list(losses(network, batch).values())).sum(), total)
    only = losses(network, batch, kl_weight=0.0)
    assert only["divergence"] == 0
    assert only["reconstruction"] > 0


def gradient(network: Regularised, term: Tensor, part: Callable[[str], bool]) -> float:
    named = [parameter for name, parameter in network.named_parameters() if part(name)]
    found = torch.autograd.grad(term, named, retain_graph=True, allow_unused=True)
    return sum(float(g.abs().sum()) for g in found if g is not None)


def test_each_term_teaches_its_own_part(network: Regularised, batch: tuple[Tensor, Tensor]) -> None:
    """The branch teaches the encoder and not the segmenter's decoder; KL teaches what makes μ and σ."""
    terms = losses(network, batch)
    decoder = ("segmenter.up_", "segmenter.conv_final")
    for name in ("reconstruction", "divergence"):
        assert gradient(network, terms[name], lambda part: part.startswith(decoder)) == 0
        assert gradient(network, terms[name], lambda part: part.startswith("segmenter.down_layers")) > 0
    assert gradient(network, terms["dice"], lambda part: part.startswith("branch.")) == 0
    assert gradient(network, terms["dice"], lambda part: part.startswith(decoder)) > 0
    assert gradient(network, terms["divergence"], lambda part: part.startswith("branch.last")) == 0
    for made in ("branch.mean", "branch.std"):
        assert gradient(network, terms["divergence"], lambda part, made=made: part.startswith(made)) > 0


def test_the_target_is_the_complete_image_unless_told(
    network: Regularised, batch: tuple[Tensor, Tensor]
) -> None:
    missing = torch.tensor([[False, True, False, False]])
    brighter = (batch[0].clone(), batch[1])
    brighter[0][:, 1] += 1
    for target, differs in (("complete", True), ("given", False)):
        first, second = (losses(network, some, missing, target=target) for some in (batch, brighter))
        assert torch.equal(first["dice"], second["dice"])
        assert torch.equal(first["reconstruction"], second["reconstruction"]) != differs


def test_what_was_not_acquired_is_no_target(network: Regularised, batch: tuple[Tensor, Tensor]) -> None:
    x = batch[0].clone()
    x[:, 2] = 0
    torch.manual_seed(2)
    _, rebuilt = network(x)
    there = [0, 1, 3]
    expected = 0.1 * (rebuilt.image[:, there] - x[:, there]).square().mean()
    missing = torch.tensor([[False, False, True, False]])
    assert torch.allclose(losses(network, (x, batch[1]), missing)["reconstruction"], expected)


def test_the_answer_is_the_same_without_the_branch(
    network: Regularised, batch: tuple[Tensor, Tensor]
) -> None:
    network.eval()
    alone = SegResNetVAE.restored(TINY, {"segmenter": network.segmenter}).predict(batch[0], KEPT[0])
    assert torch.equal(network(batch[0])[0], alone)


@torch.no_grad()
def test_the_branch_computes_what_monais_does() -> None:
    """Given MONAI's weights and its decoder, the branch's squared error and KL are MONAI's own loss."""
    torch.manual_seed(0)
    crop = (16, 32, 48)
    theirs = monai_network(
        "SegResNetVAE",
        input_image_size=crop,
        vae_nz=5,
        vae_estimate_std=True,
        in_channels=4,
        init_filters=4,
        out_channels=3,
        norm=("group", {"num_groups": 2}),
    )
    branch = Branch(TINY.model_copy(update={"options": {"latent": 5}}), crop)
    branch.down, branch.mean, branch.std = theirs.vae_down, theirs.vae_fc1, theirs.vae_fc2
    branch.expand, branch.up, branch.last = theirs.vae_fc3, theirs.vae_fc_up_sample, theirs.vae_conv_final
    pairs = zip(theirs.up_samples, theirs.up_layers, strict=True)
    branch.levels = nn.Sequential(*(layer for pair in pairs for layer in pair))
    x = torch.rand(2, 4, *crop)
    bottleneck, _ = theirs.encode(x)
    torch.manual_seed(3)
    rebuilt = branch(bottleneck)
    ours = (rebuilt.image - x).square().mean() + kl_loss(rebuilt.mean, rebuilt.std, 1) / (2 * 5)
    torch.manual_seed(3)
    assert torch.allclose(ours, theirs.train()(x)[1], rtol=1e-4)


@pytest.mark.parametrize("crop", [(16, 16, 16), (8, 40, 24), (32, 24, 56)])
def test_it_rebuilds_crops_of_any_multiple_of_8(crop: tuple[int, int, int]) -> None:
    x = torch.rand(2, 4, *crop)
    logits, rebuilt = Regularised(TINY, crop)(x)
    assert rebuilt.image.shape == x.shape
    assert logits.shape == (2, 3, *crop)
    assert rebuilt.mean.shape == rebuilt.std.shape == (2, SegResNetVAEOptions().latent)


def test_any_modalities_and_regions() -> None:
    config = TINY.model_copy(update={"modalities": ("T1", "T2"), "regions": ("ET",)})
    logits, rebuilt = Regularised(config, CROP)(torch.rand(1, 2, *CROP))
    assert (logits.shape[1], rebuilt.image.shape[1]) == (1, 2)


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(ConfigError, match="latent"):
        segmenter(TINY.model_copy(update={"options": {"latents": 3}}))


def sample(seed: int) -> SupervisedSample:
    image, regions = torch.rand(4, *CROP, generator=torch.Generator().manual_seed(1)), torch.zeros(3, *CROP)
    dropped, exists = torch.tensor([[True, False, False, False]]), torch.ones(4, dtype=torch.bool)
    unchanged = Augmentation(torch.ones(4, 1, 1, 1), torch.zeros(4, 1, 1, 1), ())
    return SupervisedSample(image, regions.bool(), (0, 0, 0), dropped, exists, unchanged, None, 1.0, seed)


def test_what_is_random_in_a_step_follows_from_the_sample() -> None:
    """Dropout and the draw of z are the same after a resumption, whatever has been drawn in between."""
    recipe = RECIPE.for_method("segresnet-vae")
    recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"crop": CROP})})
    task = WithBranch(SegResNetVAE).task(recipe, None, [])
    first, again, other = (task([sample(seed)]) for seed in (5, 5, 6))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert first["reconstruction"] != other["reconstruction"]


def test_it_overfits_one_phantom() -> None:
    """Without dropout, a case that lacks a modality is soon known by heart."""
    torch.manual_seed(0)
    config = TINY.model_copy(update={"options": {"dropout": 0.0}})
    images, labels = phantom((16, 24, 16))
    image = np.stack([images[name] / images[name].max() for name in TINY.modalities])
    x, regions = torch.from_numpy(image)[None], torch.from_numpy(encode(labels, BRATS_2023, TINY.region_set))
    missing = torch.tensor([False, True, False, False])
    network = Regularised(config, (16, 24, 16))
    model = SegResNetVAE.restored(config, {"segmenter": network.segmenter})
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(120):
        optimizer.zero_grad()
        terms = model.losses(network, x, regions[None], missing[None], None)
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()
    network.eval()
    found = model.predict(model.fill(x[0], missing, (0, 0, 0))[None], missing)[0] > 0
    dice = 2 * (found & regions).sum((1, 2, 3)) / (found.sum((1, 2, 3)) + regions.sum((1, 2, 3)))
    assert dice.min() > 0.7, dice
