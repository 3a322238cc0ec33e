"""U-HVED: the product of experts, the divergence, what each term of the loss teaches, and draws that resume."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from m3ae_core.methods.uhved import Gaussian, divergence, product, reconstruction_loss, segmentation_loss
from one_phantom import dice_by_heart, one_phantom, small

MISSING = torch.tensor([False, True, False, True])
seeds = st.integers(0, 9999)


def drawn(seed: int, count: int = 4) -> Gaussian:
    """Experts (2, N, 3, 2, 2, 2)."""
    generator = torch.Generator().manual_seed(seed)
    shape = (2, count, 3, 2, 2, 2)
    mean = torch.randn(shape, generator=generator)
    return Gaussian(mean, 2 * torch.randn(shape, generator=generator))


def gone(*missing: bool) -> Tensor:
    return torch.tensor([missing, missing])


def test_no_expert_gives_the_prior() -> None:
    mean, log_variance = product(drawn(0), gone(True, True, True, True))
    assert (mean == 0).all()
    assert (log_variance == 0).all()


@given(seeds)
def test_one_expert_is_drawn_to_the_prior(seed: int) -> None:
    experts, alone = drawn(seed), gone(True, True, False, True)
    mu, v = experts.mean[:, 2], experts.log_variance[:, 2].exp()
    mean, log_variance = product(experts, alone)
    torch.testing.assert_close(mean, mu / (1 + v))
    torch.testing.assert_close(log_variance.exp(), v / (1 + v))
    mean, log_variance = product(experts, alone, prior=False)
    torch.testing.assert_close(mean, mu)
    torch.testing.assert_close(log_variance.exp(), v)


@given(seeds, st.permutations(range(4)))
def test_the_order_of_experts_does_not_matter(seed: int, order: list[int]) -> None:
    experts, missing = drawn(seed), gone(False, False, True, False)
    turned = product(Gaussian(*(part[:, order] for part in experts)), missing[:, order])
    for one, two in zip(product(experts, missing), turned, strict=True):
        torch.testing.assert_close(one, two)


@given(seeds)
def test_every_expert_makes_it_surer(seed: int) -> None:
    experts = drawn(seed)
    two = product(experts, gone(False, False, True, True)).log_variance
    three = product(experts, gone(False, False, False, True)).log_variance
    assert (three <= two).all()
    assert (two <= experts.log_variance[:, :2].amin(1) + 1e-6).all()
    assert (two <= 0).all()


@given(seeds)
def test_the_divergence_from_the_prior(seed: int) -> None:
    expert = Gaussian(*(part[:, 0] for part in drawn(seed, 1)))
    ours = torch.distributions.Normal(expert.mean, (expert.log_variance / 2).exp())
    prior = torch.distributions.Normal(torch.zeros(()), torch.ones(()))
    expected = torch.distributions.kl_divergence(ours, prior).flatten(1).mean(1)
    torch.testing.assert_close(divergence(expert), expected)
    assert (divergence(expert) >= 0).all()
    assert (divergence(Gaussian(*(torch.zeros_like(part) for part in expert))) == 0).all()


def test_the_segmentation_loss_of_a_known_answer() -> None:
    y = torch.zeros(1, 2, 2, 2, 2)
    y[0, 1, 0, 0] = 1
    y[0, 0] = 1 - y[0, 1]
    dice = 1 - (6 / (2 + 6) + 2 / (2 + 2)) / 2
    expected = torch.tensor(2.0).log() + dice
    torch.testing.assert_close(segmentation_loss(torch.zeros_like(y), y), expected[None])


def test_what_was_never_acquired_is_no_target() -> None:
    x = torch.ones(2, 3, 2, 2, 2)
    exists = torch.tensor([[True, True, True], [True, False, True]])
    assert reconstruction_loss(x, torch.zeros_like(x), exists).tolist() == [3, 2]


def losses(weights: list[float] | None = None, **options: object) -> tuple[nn.Module, dict[str, Tensor]]:
    """The network and the losses of one phantom."""
    model = small("u-hved", options={"channels": 2, **options})
    x, regions = one_phantom(model.config)
    network = model.networks["segmenter"]
    return network, model.losses(network, x, regions, MISSING[None], weights)


def touched(network: nn.Module, part: str) -> bool:
    return any(
        weights.grad is not None and bool(weights.grad.abs().sum() > 0)
        for name, weights in network.named_parameters()
        if name.startswith(part)
    )


@pytest.mark.parametrize("name", ["segmentation", "reconstruction", "divergence"])
def test_each_term_teaches_its_part(name: str) -> None:
    """All modalities are reconstructed, but only those present are encoded; the divergence acts on every level."""
    network, terms = losses()
    terms[name].backward()
    assert touched(network, "segment.") == (name == "segmentation")
    for n, gone in enumerate(MISSING.tolist()):
        assert touched(network, f"reconstruct.{n}.") == (name == "reconstruction")
        for level in range(4):
            assert touched(network, f"encoders.{n}.gaussians.{level}.") != gone


def test_weights_of_the_terms() -> None:
    _, plain = losses()
    _, weighted = losses([0.5], weight=0.2)
    torch.testing.assert_close(weighted["segmentation"], plain["segmentation"] / 2)
    for name in ("reconstruction", "divergence"):
        torch.testing.assert_close(weighted[name], 2 * plain[name])


def test_masked_voxels_are_targets_but_not_seen() -> None:
    model = small("u-hved", options={"channels": 2})
    x, regions = one_phantom(model.config)
    network = model.networks["segmenter"]
    first, twin = copy.deepcopy(network), copy.deepcopy(network)
    changed = x.clone()
    changed[:, 1] += 1
    one = model.losses(first, x, regions, MISSING[None], None)
    two = model.losses(twin, changed, regions, MISSING[None], None)
    assert torch.equal(one["segmentation"], two["segmentation"])
    assert torch.equal(one["divergence"], two["divergence"])
    assert not torch.equal(one["reconstruction"], two["reconstruction"])


def test_every_draw_is_another_and_goes_on_from_what_is_kept() -> None:
    network, _ = losses()
    kept = copy.deepcopy(network.state_dict())
    posterior = Gaussian(torch.zeros(1, 2, 4, 4, 4), torch.zeros(1, 2, 4, 4, 4))
    draws = [network.sample([posterior])[0] for _ in range(2)]
    assert not torch.equal(*draws)
    network.load_state_dict(kept)
    assert torch.equal(network.sample([posterior])[0], draws[0])


def test_a_sample_has_the_posterior_s_moments() -> None:
    network, _ = losses()
    posterior = Gaussian(torch.full((1, 1, 32, 32, 32), 3.0), torch.full((1, 1, 32, 32, 32), 0.5).log())
    (sample,) = network.sample([posterior])
    assert sample.mean().item() == pytest.approx(3, abs=0.02)
    assert sample.var().item() == pytest.approx(0.5, abs=0.02)


def test_other_modalities_and_regions() -> None:
    model = small("u-hved", modalities=("FLAIR", "T1c"), regions=("TC",), options={"channels": 2})
    x, regions = one_phantom(model.config)
    assert model.predict(x, torch.tensor([False, True])).shape == regions.shape


def test_it_learns_a_phantom_by_heart() -> None:
    """The whole tumour; its small core takes hundreds of noisy steps."""
    model = small("u-hved", regions=("WT",), options={"channels": 4})
    assert (dice_by_heart(model, MISSING, steps=60, learning_rate=3e-2) > 0.8).all()
