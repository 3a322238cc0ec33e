"""Masking: which content of an image is replaced by the substitute. `True` always means replaced.

Random choices take a numpy generator, so that a mask is a function of (seed, epoch, case) and a run can resume
exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from m3ae_core.errors import ConfigError
from m3ae_core.methods.situations import BoolArray, drop_existing

if TYPE_CHECKING:
    from m3ae_core.stage_config import FinetuneConfig, MaskingConfig, Shape


def two_situations(rng: np.random.Generator, exists: BoolArray, config: FinetuneConfig) -> BoolArray:
    """Draw the two missing-modality situations x_0 and x_1 of Eqn. 2. Returns (2, N), True = dropped.

    Situations are drawn among the modalities that were acquired, `exists` (N,). The paper asks for two *different*
    ones, which a case of one modality does not have; `allow_identical_pair` draws them independently, as the released
    code does.
    """
    uniform = config.situations == "uniform"

    def draw() -> BoolArray:
        return drop_existing(rng, exists, config.max_dropped, uniform=uniform)

    first, second = draw(), draw()
    while exists.sum() > 1 and not config.allow_identical_pair and (first == second).all():
        second = draw()
    return np.stack([first, second])


def mask_patches(rng: np.random.Generator, dropped: BoolArray, tokens: Shape, ratio: float) -> BoolArray:
    """Mask whole modalities and random patches of the others, at one combined ratio.

    Parameters
    ----------
    dropped
        (N,), True = the modality is masked as a whole.
    tokens
        Number of patches along (D, H, W).
    ratio
        Masked share of all N·d·h·w patches, dropped modalities included (paper: 0.875). Patches are drawn
        independently per modality.

    Returns
    -------
    (N, d, h, w), True = masked.

    Raises
    ------
    ConfigError
        If the dropped modalities alone exceed the ratio.
    """
    masked = np.ones((len(dropped), *tokens), bool)
    visible = round((1 - ratio) * masked.size)
    remaining = np.flatnonzero(np.broadcast_to(~dropped[:, None, None, None], masked.shape))
    if visible > remaining.size:
        raise ConfigError(
            f"Dropping {dropped.sum()} of {len(dropped)} modalities masks more than the ratio {ratio}.",
            "Raise the masking ratio or lower max_dropped.",
            code="masking",
        )
    masked.flat[rng.choice(remaining, size=visible, replace=False)] = False
    return masked


def sample_mask(rng: np.random.Generator, exists: BoolArray, crop: Shape, config: MaskingConfig) -> BoolArray:
    """Draw the mask of one pretraining sample: modality dropout, then patches. Returns (N, d, h, w) patches.

    What was not acquired (False in `exists`, (N,)) is masked whatever is drawn, and counts towards the ratio.
    """
    dropped = drop_existing(rng, exists, config.max_dropped)
    tokens: Shape = (crop[0] // config.patch, crop[1] // config.patch, crop[2] // config.patch)
    if not config.patches:
        return np.broadcast_to(dropped[:, None, None, None], (len(exists), *tokens)).copy()
    return mask_patches(rng, dropped, tokens, max(config.ratio, float(dropped.mean())))


def patches_to_voxels(masked: BoolArray, crop: Sequence[int]) -> BoolArray:
    """Enlarge a patch mask (…, d, h, w) to voxels (…, D, H, W)."""
    for axis, side in zip((-3, -2, -1), crop, strict=True):
        masked = np.repeat(masked, side // masked.shape[axis], axis=axis)
    return masked
