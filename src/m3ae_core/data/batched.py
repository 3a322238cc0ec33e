"""Augmentation of whole batches on the device that trains: one function a change, on torch alone.

Images are (B, N, D, H, W) on the template, z-scored, background 0; every case of a batch and every sequence gets a draw
of its own from a generator on the same device. All of it changes the case, before anything is filled in: the substitute
keeps its place and look. Ranges are those of :mod:`m3ae_core.data.nnunet` and :mod:`m3ae_core.data.scanner`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from m3ae_core.data.scanner import OWN, TERMS, polynomials

#: Largest turn about each axis (radians) and largest zoom, and how often each happens. Heads on a template differ less,
#: and cases are fewer, than nnU-Net expects (30 degrees, 1.4, 0.2).
TURN, ZOOM, PROBABILITY = math.radians(15), 1.25, 0.5
#: Deviation of the bias field's coefficients that all sequences share, and the thickest slices in voxels.
BIAS, THICKEST = 0.15, 3.0


def uniform(generator: Generator, low: float, high: float, *shape: int) -> Tensor:
    """Draw numbers between `low` and `high`."""
    return low + (high - low) * torch.rand(shape, generator=generator, device=generator.device)


def sometimes(generator: Generator, probability: float, value: Tensor, otherwise: float) -> Tensor:
    """Return `value` where something happens, element by element, else `otherwise`."""
    happens = torch.rand(value.shape, generator=generator, device=value.device) < probability
    return torch.where(happens, value, otherwise)


def turns_and_zooms(generator: Generator, batch: int, strength: float = 1.0) -> Tensor:
    """Draw matrices (B, 3, 3) from offsets in a crop to offsets in a case, in voxels (d, h, w)."""
    angles = sometimes(generator, PROBABILITY, uniform(generator, -TURN, TURN, batch), 0)[:, None]
    angles = strength * angles * uniform(generator, -1, 1, batch, 3)
    zoom = strength * uniform(generator, -math.log(ZOOM), math.log(ZOOM), batch)
    zoom = sometimes(generator, PROBABILITY, zoom, 0).exp()
    matrix = zoom[:, None, None] * torch.eye(3, device=generator.device)
    for axis in range(3):
        turn = torch.eye(3, device=generator.device).repeat(batch, 1, 1)
        one, two = (axis + 1) % 3, (axis + 2) % 3
        cos, sin = angles[:, axis].cos(), angles[:, axis].sin()
        turn[:, one, one], turn[:, one, two], turn[:, two, one], turn[:, two, two] = cos, -sin, sin, cos
        matrix = matrix @ turn
    return matrix


def cut(x: Tensor, starts: Tensor, size: Sequence[int], matrices: Tensor) -> Tensor:
    """Return crops (B, C, *size) of `x` (B, C, D, H, W) from voxels `starts` (B, 3), turned about their own centres.

    Linear interpolation, zero outside.
    """
    shape = torch.tensor(x.shape[2:], device=x.device, dtype=torch.float32)
    half = (torch.tensor(size, device=x.device, dtype=torch.float32) - 1) / 2
    axes = [torch.arange(side, device=x.device, dtype=torch.float32) for side in size]
    offsets = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1) - half
    voxels = torch.einsum("bij,dhwj->bdhwi", matrices.float(), offsets) + (starts + half)[:, None, None, None]
    grid = (2 * voxels + 1) / shape - 1
    return F.grid_sample(x.float(), grid.flip(-1), mode="bilinear", padding_mode="zeros", align_corners=False)


def bias_field(generator: Generator, x: Tensor) -> Tensor:
    """Draw fields (B, N, D, H, W) to multiply intensities with: exponentials of polynomials of the second order."""
    batch, modalities, *shape = x.shape
    basis = polynomials(shape, x.device)
    size = (batch, modalities, len(TERMS))
    shared = BIAS * torch.randn(size[0], 1, size[2], generator=generator, device=x.device)
    own = OWN * BIAS * torch.randn(size, generator=generator, device=x.device)
    happens = sometimes(generator, PROBABILITY, torch.ones(batch, 1, 1, device=x.device), 0)
    return torch.einsum("bnt,tdhw->bndhw", (shared + own) * happens, basis).exp()


def scanner(generator: Generator, x: Tensor) -> Tensor:
    """Show the cases as another scanner would: gamma, a dark floor, a bias field; z-scored again."""
    per_sequence = (*x.shape[:2], 1, 1, 1)
    brain = x != 0
    low = torch.where(brain, x, math.inf).amin((2, 3, 4), keepdim=True)
    high = torch.where(brain, x, -math.inf).amax((2, 3, 4), keepdim=True)
    unit = ((x - low) / (high - low).clamp(min=1e-6)).nan_to_num(0, 0, 0).clamp(0, 1)
    gamma = uniform(generator, math.log(0.7), math.log(1.5), *per_sequence).exp()
    shown = unit ** sometimes(generator, PROBABILITY, gamma, 1) + uniform(generator, 0, 0.5, *per_sequence)
    return standardise(shown * bias_field(generator, x), brain)


def standardise(x: Tensor, brain: Tensor) -> Tensor:
    """Return `x` with mean 0 and deviation 1 over each image's `brain` (B, N, D, H, W), 0 elsewhere."""
    count = brain.sum((2, 3, 4), keepdim=True).clamp(min=1)
    mean = (x * brain).sum((2, 3, 4), keepdim=True) / count
    centred = (x - mean) * brain
    deviation = (centred.square().sum((2, 3, 4), keepdim=True) / count).sqrt()
    return centred / deviation.clamp(min=1e-6)


def thick_slices(generator: Generator, x: Tensor) -> Tensor:
    """Average along one axis as thick slices do, half of the sequences; the axis is the batch's."""
    axis = int(torch.randint(3, (1,), generator=generator, device=x.device)) + 2
    thickness = sometimes(generator, PROBABILITY, uniform(generator, 1, THICKEST, *x.shape[:2]), 1)
    brain, shown = x != 0, x.clone()
    for factor in (2, 3):
        size = list(x.shape[2:])
        size[axis - 2] = max(1, size[axis - 2] // factor)
        thick = F.interpolate(F.interpolate(x, size=size, mode="area"), size=x.shape[2:], mode="trilinear")
        shown = torch.where((thickness.round() == factor)[:, :, None, None, None], thick, shown)
    return shown * brain


def noise_and_blur(generator: Generator, x: Tensor) -> Tensor:
    """Add noise to a tenth of the sequences (deviation up to .1) and smooth a tenth, as nnU-Net does."""
    per_sequence = (*x.shape[:2], 1, 1, 1)
    deviation = sometimes(generator, 0.1, uniform(generator, 0, 0.1, *per_sequence), 0)
    noisy = x + deviation * torch.randn(x.shape, generator=generator, device=x.device)
    weight = sometimes(generator, 0.1, uniform(generator, 0.1, 0.5, *per_sequence), 0)
    return ((1 - weight) * noisy + weight * F.avg_pool3d(noisy, 3, stride=1, padding=1)) * (x != 0)


def contrast(generator: Generator, x: Tensor) -> Tensor:
    """Multiply the distance from the mean, 0, by .75 to 1.25 in 15 % of the sequences."""
    return x * sometimes(generator, 0.15, uniform(generator, 0.75, 1.25, *x.shape[:2], 1, 1, 1), 1)


def vary(generator: Generator, x: Tensor) -> Tensor:
    """Change intensities alone: scanner, thick slices, contrast, noise and blur. The background stays 0."""
    return noise_and_blur(generator, contrast(generator, thick_slices(generator, scanner(generator, x))))
