"""Missing-modality situations: which modalities of a training case are dropped. `True` always means dropped.

Random choices take a numpy generator, so that a situation is a function of (seed, epoch, case) and a run can resume
exactly.
"""

from __future__ import annotations

from math import comb

import numpy as np
import numpy.typing as npt

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


def drop_existing(
    rng: np.random.Generator, exists: BoolArray, max_dropped: int | None, *, uniform: bool = False
) -> BoolArray:
    """Return what does not exist and a draw of what does, (N,); one modality always stays."""
    count = int(exists.sum())
    limit = count - 1 if max_dropped is None else min(max_dropped, count - 1)
    dropped = ~exists
    dropped[exists] = drop_modalities(rng, count, limit, uniform=uniform)
    return dropped
