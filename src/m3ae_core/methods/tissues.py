"""Classes that exclude one another, as softmax methods tell them apart, and the regions that they make up."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from m3ae_core.regions import ENHANCING, NECROSIS, OEDEMA, Region


def memberships(regions: Sequence[Region]) -> Tensor:
    """Return which of K classes lie in which of R `regions`, (K, R) boolean; the first class is the background.

    Tissues that lie in the same regions are one class, and those in none are background. For WT, TC and ET the classes
    are background, necrotic core, oedema and enhancing tumour.
    """
    tissues = (NECROSIS, OEDEMA, ENHANCING)
    kinds = dict.fromkeys(tuple(tissue in region.tissues for region in regions) for tissue in tissues)
    return torch.tensor([[False] * len(regions), *(kind for kind in kinds if any(kind))])


def class_masks(regions: Tensor, members: Tensor) -> Tensor:
    """Return the classes (B, K, D, H, W) of boolean `regions` (B, R, D, H, W), one-hot, for `members` (K, R)."""
    return (regions[:, None] == members[:, :, None, None, None]).all(2)


def region_logits(logits: Tensor, members: Tensor) -> Tensor:
    """Return the logits (B, R, D, H, W) of p_r = Σ_{k in r} p_k, where p is the softmax of `logits` (B, K, D, H, W).

    Since all p_k sum to 1, log p_r / (1 - p_r) is the difference of two logsumexp, over the classes inside and outside.
    """
    inside = members.T[:, :, None, None, None]
    within = logits[:, None].masked_fill(~inside, -torch.inf).logsumexp(2)
    return within - logits[:, None].masked_fill(inside, -torch.inf).logsumexp(2)
