"""Heads are 1×1×1 convolutions; the coarse ones are brought to the input's size."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from m3ae_core.nn.heads import ReconstructionHead, SegmentationHeads, enlarge
from m3ae_core.nn.unet import Features

WIDTHS = (2, 3, 4, 5)


def features() -> Features:
    torch.manual_seed(0)
    return Features(
        torch.randn(2, 5, 1, 2, 1),
        torch.randn(2, 4, 2, 4, 2),
        torch.randn(2, 3, 4, 8, 4),
        torch.randn(2, 2, 8, 16, 8),
    )


@pytest.mark.parametrize("modalities", [1, 2, 4, 5])
def test_reconstruction_is_a_linear_map_of_each_voxel(modalities: int) -> None:
    head = ReconstructionHead(WIDTHS, modalities)
    full = features().full
    expected = torch.einsum("mc,bcdhw->bmdhw", head.weight[:, :, 0, 0, 0], full)
    assert head(full).shape == (2, modalities, 8, 16, 8)
    torch.testing.assert_close(head(full), expected + head.bias[:, None, None, None], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("regions", [1, 3])
def test_all_scales_come_at_the_inputs_size(regions: int) -> None:
    heads = SegmentationHeads(WIDTHS, regions)
    logits = heads(features())
    for scale in logits:
        assert scale.shape == (2, regions, 8, 16, 8)


def test_every_scale_comes_from_its_own_features() -> None:
    heads, given = SegmentationHeads(WIDTHS, 3), features()
    logits = heads(given)
    torch.testing.assert_close(logits.full, heads.at_full(given.full))
    size = (8, 16, 8)
    half = F.interpolate(heads.at_half(given.half), size, mode="trilinear", align_corners=True)
    quarter = F.interpolate(heads.at_quarter(given.quarter), size, mode="trilinear", align_corners=True)
    torch.testing.assert_close(logits.half, half)
    torch.testing.assert_close(logits.quarter, quarter)


def test_corners_are_aligned() -> None:
    """The corner voxels of a coarse map stay the corner voxels, as in the published network."""
    row = torch.tensor([0.0, 1.0]).reshape(1, 1, 2, 1, 1)
    torch.testing.assert_close(enlarge(row, 2)[0, 0, :, 0, 0], torch.tensor([0, 1 / 3, 2 / 3, 1]))
