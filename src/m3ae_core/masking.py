"""Masking: which content of an image is replaced by the substitute. `True` always means replaced.

Random choices take a numpy generator, so that a mask is a function of (seed, epoch, case) and a run can resume
exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

import numpy as np
import numpy.typing as npt

from m3ae_core.config import FinetuneConfig, MaskingConfig, Shape
from m3ae_core.errors import ConfigError

BoolArray = npt.NDArray[np.bool_]


def drop_modalities(
    rng: np.random.Generator, count: int, max_dropped: int | None = None, *, uniform: bool = False
) -> BoolArray:
    """Drop zero to `max_dropped` (default: all but one) of `count` modalities ("Training and Inference").

    The number dropped is uniform, then the subset of that size; with `uniform`, every subset is as likely. Returns
    (N,), True = dropped.
    """
    limit = count - 1 if max_dropped is None else max_dropped
    sizes = np.array([comb(count, size) if uniform else 1 for size in range(limit + 1)])
    dropped = np.zeros(count, bool)
    dropped[rng.choice(count, size=rng.choice(limit + 1, p=sizes / sizes.sum()), replace=False)] = True
    return dropped


def two_situations(rng: np.random.Generator, count: int, config: FinetuneConfig) -> BoolArray:
    """Draw the two missing-modality situations x_0 and x_1 of Eqn. 2. Returns (2, N), True = dropped.

    The paper asks for two *different* situations; `allow_identical_pair` draws them independently, as the released
    code does.
    """

    def draw() -> BoolArray:
        return drop_modalities(rng, count, config.max_dropped, uniform=config.situations == "uniform")

    first, second = draw(), draw()
    while not config.allow_identical_pair and (first == second).all():
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


def sample_mask(rng: np.random.Generator, modalities: int, crop: Shape, config: MaskingConfig) -> BoolArray:
    """Draw the mask of one pretraining sample: modality dropout, then patches. Returns (N, d, h, w) patches."""
    dropped = drop_modalities(rng, modalities, config.max_dropped)
    tokens: Shape = (crop[0] // config.patch, crop[1] // config.patch, crop[2] // config.patch)
    if not config.patches:
        return np.broadcast_to(dropped[:, None, None, None], (modalities, *tokens)).copy()
    return mask_patches(rng, dropped, tokens, config.ratio)


def patches_to_voxels(masked: BoolArray, crop: Sequence[int]) -> BoolArray:
    """Enlarge a patch mask (…, d, h, w) to voxels (…, D, H, W)."""
    for axis, side in zip((-3, -2, -1), crop, strict=True):
        masked = np.repeat(masked, side // masked.shape[axis], axis=axis)
    return masked
