"""On a GPU: the same numbers as on the CPU. Needs torch and pytest alone: it runs where nothing is installed."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from m3ae_core.data import batched
from m3ae_core.methods.m3ae.losses import finetuning_loss
from m3ae_core.methods.m3ae.substitute import SubstituteImage, smooth
from m3ae_core.nn.heads import ScaledLogits, SegmentationHeads
from m3ae_core.nn.unet import ResidualUNet

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")

SIZE = (32, 40, 32)


def network(device: str) -> tuple[ResidualUNet, SegmentationHeads]:
    torch.manual_seed(0)
    config = SimpleNamespace(base_channels=16, norm_groups=8, upsample="trilinear")
    backbone = ResidualUNet(4, config)
    return backbone.to(device), SegmentationHeads(backbone.widths, 3).to(device)


def loss(device: str, dtype: torch.dtype = torch.float32, *, compiled: bool = False) -> tuple[float, Tensor]:
    """The loss of one case in two situations, and the gradient of the first filter."""
    backbone, heads = network(device)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 4, *SIZE, generator=generator).to(device)
    target = (torch.rand(1, 3, *SIZE, generator=generator) > 0.9).to(device)
    forward = torch.compile(backbone) if compiled else backbone
    with torch.autocast(torch.device(device).type, dtype, enabled=dtype != torch.float32):
        features = forward(x)
        logits = heads(features)
    logits = ScaledLogits(*(part.float() for part in logits))
    terms = finetuning_loss(logits, target.repeat(2, 1, 1, 1, 1), features.bottleneck.float(), 0.1)
    total = torch.stack(list(terms.values())).sum()
    total.backward()
    return total.item(), backbone.down[0].weight.grad.cpu()


@pytest.mark.parametrize(
    ("dtype", "compiled", "tolerance"),
    [(torch.float32, False, 1e-3), (torch.bfloat16, False, 0.05), (torch.bfloat16, True, 0.05)],
)
def test_loss_and_gradient_are_those_of_the_cpu(dtype: torch.dtype, compiled: bool, tolerance: float) -> None:
    (expected, exact), (found, gradient) = loss("cpu"), loss("cuda", dtype, compiled=compiled)
    assert found == pytest.approx(expected, rel=tolerance)
    assert torch.cosine_similarity(gradient.flatten(), exact.flatten(), 0) > 1 - tolerance


def test_images_are_channels_last() -> None:
    backbone, _ = network("cuda")
    features = backbone(torch.randn(2, 4, *SIZE, device="cuda"))
    assert features.full.is_contiguous(memory_format=torch.channels_last_3d)


def test_the_substitutes_gradient_is_smoothed_alike() -> None:
    image = torch.randn(4, *SIZE, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(smooth(image.cuda(), 2.0).cpu(), smooth(image, 2.0), atol=1e-3, rtol=1e-2)
    learned = SubstituteImage.of(image).cuda()
    learned.smooth_gradients(2.0)
    learned.crop([(0, 0, 0)], (16, 16, 16)).square().sum().backward()
    assert learned.image.grad.is_cuda


def test_augmentation_runs_on_the_device_and_follows_its_seed() -> None:
    x = torch.randn(4, 4, *SIZE, device="cuda")
    shown = [batched.vary(torch.Generator("cuda").manual_seed(3), x) for _ in range(2)]
    assert torch.equal(*shown)
    assert shown[0].is_cuda
    matrices = batched.turns_and_zooms(torch.Generator("cuda").manual_seed(3), 4)
    starts = torch.zeros(4, 3, device="cuda")
    on_cpu = batched.cut(x.cpu(), starts.cpu(), (16, 16, 16), matrices.cpu())
    torch.testing.assert_close(
        batched.cut(x, starts, (16, 16, 16), matrices).cpu(), on_cpu, atol=1e-4, rtol=1e-4
    )


def test_pinned_copies_arrive_whole() -> None:
    x = torch.randn(4, *SIZE).pin_memory()
    copied = x.to("cuda", non_blocking=True)
    torch.cuda.synchronize()
    assert torch.equal(copied.cpu(), x)
