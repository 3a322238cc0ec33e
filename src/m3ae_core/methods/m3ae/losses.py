"""The paper's equations, one function each. Logits go in, never probabilities: autocast stays safe."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from m3ae_core.nn.heads import ScaledLogits


def reconstruction_loss(x: Tensor, reconstruction: Tensor, exists: Tensor | None = None) -> Tensor:
    """L_mse of Eqns. 1 and 3: mean squared error over all voxels, masked and visible, of the modalities that exist.

    `exists` (B, N) is True where a modality of `x` (B, N, D, H, W) was acquired, None where all were; what was not is
    no target.
    """
    if exists is None or exists.all():
        return F.mse_loss(reconstruction, x)
    return F.mse_loss(reconstruction[exists], x[exists])


def substitute_regulariser(image: Tensor, form: str = "mean-square") -> Tensor:
    """R(x_sub) of Eqns. 1 and 3, of x_sub (N, D, H, W).

    The paper says "a small amount of L2 regularization" without fixing the norm. A sum of squares outweighs the
    reconstruction loss by four orders of magnitude and erases x_sub; ``mean-square`` pulls alike on every grid.
    ``norm`` is the released code's: the Frobenius norm of x_sub minus each modality's spatial mean.
    """
    if form == "mean-square":
        return image.square().mean()
    norm: Tensor = torch.linalg.vector_norm(image - image.mean(dim=(-3, -2, -1), keepdim=True))
    return norm


def consistency_loss(f0: Tensor, f1: Tensor) -> Tensor:
    """L_con of Eqn. 2: mean squared error between the features of two situations; both receive gradients."""
    return F.mse_loss(f0, f1)


def dice_loss(logits: Tensor, target: Tensor, dims: tuple[int, ...] = (-3, -2, -1)) -> Tensor:
    """Soft Dice loss 1 - (2Σpy + 1) / (Σp² + Σy² + 1), summed over `dims`, averaged over what is left."""
    p, y = logits.sigmoid(), target.to(logits.dtype)
    overlap = 2 * (p * y).sum(dims) + 1
    return (1 - overlap / (p.square().sum(dims) + y.square().sum(dims) + 1)).mean()


def region_loss(logits: Tensor, target: Tensor) -> Tensor:
    """L of Eqn. 5: Dice plus cross entropy of one prediction (B, R, D, H, W), averaged over B and R."""
    return dice_loss(logits, target) + cross_entropy(logits, target)


def pooled_region_loss(logits: Tensor, target: Tensor) -> Tensor:
    """L as released: 0.7 Dice + 0.3 cross entropy, the batch pooled in the Dice sums, averaged over regions."""
    return 0.7 * dice_loss(logits, target, (0, -3, -2, -1)) + 0.3 * cross_entropy(logits, target)


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross entropy, averaged over everything: regions overlap, so each is a question of its own."""
    return F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype))


def segmentation_loss(
    logits: ScaledLogits, target: Tensor, form: str = "paper", weights: Sequence[float] | None = None
) -> Tensor:
    """Eqn. 5: the sum over scales α = 1, 1/2, 1/4 of L between the upsampled prediction and the ground truth.

    With `weights`, one an image of the batch, L is their weighted sum over the images divided by their number.
    """
    loss = region_loss if form == "paper" else pooled_region_loss
    if weights is None:
        return torch.stack([loss(scale, target) for scale in logits]).sum()
    each = [
        weight * loss(scale[n : n + 1], target[n : n + 1])
        for scale in logits
        for n, weight in enumerate(weights)
    ]
    return torch.stack(each).sum() / len(target)


def teacher_loss(logits: Tensor, taught: Tensor) -> Tensor:
    """Cross entropy of both situations' logits (2B, R, D, H, W) with what a teacher said of all sequences, (B, R, …).

    Not in the paper: knowledge distillation (Hinton et al. 2015) from a mean teacher (Tarvainen and Valpola 2017). Like
    L_seg it is summed over the two situations.
    """
    return 2 * cross_entropy(logits, taught.sigmoid().repeat(2, 1, 1, 1, 1))


def finetuning_loss(
    logits: ScaledLogits,
    target: Tensor,
    features: Tensor,
    weight: float,
    form: str = "paper",
    weights: Sequence[float] | None = None,
) -> dict[str, Tensor]:
    """Eqn. 4: λ L_con plus L_seg of both situations.

    Parameters
    ----------
    logits, target
        Logits and ground truth of x_0 and x_1, stacked on the batch axis: the first half is x_0, the second x_1.
    features
        What L_con compares, stacked likewise (the bottleneck; the quarter-scale logits in the released code).
    weight
        λ.
    form
        ``paper`` sums L_seg over both situations; ``official`` pools them in one batch.
    weights
        How much the labels of each image count, both situations of a case alike; None: all the same.

    Returns
    -------
    The two weighted terms; their sum is the loss.
    """
    f0, f1 = features.chunk(2)
    # L averages over the batch axis, so the paper's sum over i = 0, 1 is twice the batch mean.
    situations = 2 if form == "paper" else 1
    return {
        "segmentation": situations * segmentation_loss(logits, target, form, weights),
        "consistency": weight * consistency_loss(f0, f1),
    }
