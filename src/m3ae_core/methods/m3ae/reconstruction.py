"""What stage 1 sees of a case: some content masked, the substitute in its place, all of it reconstructed (Eqn. 1)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from m3ae_core.data.preprocess import standardise
from m3ae_core.errors import BundleError, ConfigError, InputError
from m3ae_core.io.case import Case
from m3ae_core.io.grid import FloatArray
from m3ae_core.methods.m3ae.masking import mask_patches, patches_to_voxels
from m3ae_core.methods.m3ae.networks import MaskedAutoencoder
from m3ae_core.methods.m3ae.substitute import crop, fill
from m3ae_core.methods.reconstructed import Reconstruction
from m3ae_core.methods.situations import BoolArray
from m3ae_core.nn.unet import STRIDE
from m3ae_core.nn.windows import pad_to
from m3ae_core.stage_config import MaskingConfig, Shape

if TYPE_CHECKING:
    from m3ae_core.methods.m3ae.method import M3AE


def reconstruct(
    model: M3AE,
    case: Case,
    *,
    dropped: Collection[str] = (),
    ratio: float | None = None,
    seed: int = 0,
    patch: int = MaskingConfig().patch,
) -> Reconstruction:
    """Mask a case and let the masked autoencoder reconstruct it: x_hat = F(S(x, x_sub)) of Eqn. 1, on the CPU.

    The whole template goes through the network at once. Equal arguments give equal results.

    Parameters
    ----------
    dropped
        Sequences that are masked as a whole, beside those that the case lacks.
    ratio
        Masked share of all patches of all N sequences, dropped ones included (paper: 0.875); None masks no patches
        of the others.
    seed
        Draws the patches.
    patch
        Side of a patch in template voxels, 16 in the paper; :func:`pretrained_patch` tells the model's own. Patches are
        counted from the template's first voxel and cut at its end.

    Raises
    ------
    BundleError
        If the model holds no masked autoencoder (``stage``) or its output is not finite (``nonfinite``).
    InputError
        If no sequence is left (``no-sequence``), or the case does not fit on the model's template.
    ConfigError
        If `dropped` names an unknown sequence (``modalities``), or `ratio` or `patch` is out of range (``masking``).
    """
    if model.autoencoder is None:
        raise BundleError(
            "This model holds no masked autoencoder and cannot reconstruct.",
            "Use one that `m3ae pretrain` made, or import released weights together with their `--pretrained` ones.",
            code="stage",
        )
    standard = standardise(case, model.config)
    left = standard.subset & ~model.config.modality_set.subset(dropped)
    if not left:
        raise InputError(
            f"All sequences of the case {case.name} are dropped: {', '.join(standard.subset.present)}.",
            "Keep at least one.",
            code="no-sequence",
        )
    dropped_flags = ~np.array(standard.modalities.flags(left))
    masked = _draw_mask(dropped_flags, model.config.grid.shape, patch, ratio, seed)
    filled, output = _run(model.autoencoder, standard.image, model.substitute, masked)
    if not np.isfinite(output).all():
        raise BundleError(
            "The model gave values that are not finite.", "Use another model.", code="nonfinite"
        )
    return Reconstruction(
        standard.image, filled, masked, output, standard.grid, standard.subset, standard.modalities.names
    )


def pretrained_patch(card: Mapping[str, Any]) -> int:
    """Return the side of the patches that a model was pretrained with; the paper's if its card does not tell."""
    try:
        return int(card["recipe"]["pretrain"]["masking"]["patch"])
    except (KeyError, TypeError, ValueError):
        return MaskingConfig().patch


def _draw_mask(dropped: BoolArray, shape: Shape, patch: int, ratio: float | None, seed: int) -> BoolArray:
    """Draw the mask (N, *shape) of a template, True = replaced, from `dropped` (N,) and patches of side `patch`."""
    if patch < 1:
        raise ConfigError(
            f"A patch of {patch} voxels cannot be.", "Give a side of 1 or more.", code="masking"
        )
    tokens: Shape = (-(-shape[0] // patch), -(-shape[1] // patch), -(-shape[2] // patch))
    if ratio is None:
        return np.broadcast_to(dropped[:, None, None, None], (len(dropped), *shape)).copy()
    if not dropped.mean() <= ratio < 1:
        raise ConfigError(
            f"A masking ratio of {ratio:g} cannot be had: {dropped.sum()} of {len(dropped)} sequences are masked "
            "as a whole.",
            f"Choose {dropped.mean():g} or more, and less than 1.",
            code="masking",
        )
    patches = mask_patches(np.random.default_rng(seed), dropped, tokens, ratio)
    voxels = patches_to_voxels(patches, [count * patch for count in tokens])
    return np.ascontiguousarray(voxels[:, : shape[0], : shape[1], : shape[2]])


@torch.no_grad()
def _run(
    autoencoder: MaskedAutoencoder, image: FloatArray, substitute: Tensor, masked: BoolArray
) -> tuple[FloatArray, FloatArray]:
    """Return the filled image and its reconstruction, all (N, D, H, W)."""
    depth, height, width = image.shape[1:]
    size: Shape = (-(-depth // STRIDE) * STRIDE, -(-height // STRIDE) * STRIDE, -(-width // STRIDE) * STRIDE)
    padded, before = pad_to(torch.from_numpy(image), size)
    inside = (slice(None), *(slice(b, b + n) for b, n in zip(before, image.shape[1:], strict=True)))
    # Beyond the template: the substitute where a sequence is masked as a whole, as when segmenting; else background.
    where = torch.from_numpy(masked.all(axis=(1, 2, 3)))[:, None, None, None].repeat(1, *size)
    where[inside] = torch.from_numpy(masked)
    content = crop(substitute, [-b for b in before], size)[None]
    filled = fill(padded[None], content, where[None])
    output = autoencoder.eval()(filled)[0][inside]
    return filled[0][inside].numpy().copy(), np.ascontiguousarray(output.numpy())
