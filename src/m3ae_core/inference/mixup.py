"""Two sequences given in each other's place: told by what the pretrained model makes of either from the other.

The masked autoencoder sees one sequence alone and reconstructs the other, once as they were given and once with the two
exchanged. Where the exchange leaves a smaller error, they are probably mixed up; no other threshold is involved. A
sequence alone, or one in the place of another that is missing, cannot be told in this way.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from m3ae_core.bundle import Bundle
from m3ae_core.data.preprocess import StandardCase
from m3ae_core.model.m3ae import MaskedAutoencoder
from m3ae_core.model.substitute import SubstituteImage
from m3ae_core.model.unet import STRIDE
from m3ae_core.model.windows import pad_to

Pair = tuple[str, str]

#: At half resolution, the sign of a smaller gain is not relied on: in training cases it is wrong up to 0.014.
CLOSE = 0.05


class Rates(NamedTuple):
    """What was measured on held-out cases: swaps flagged of those tried, false alarms in correct sets of sequences."""

    cases: int
    flagged: int
    swaps: int
    false: int
    correct: int


#: By the SHA-256 of a bundle's weights; ``benchmarks/mixup.py`` measures them. Without rates no alarm is given. The
#: built-in model has none: after 0 false alarms in 55 sets of five cases, it accused 9 of 21 right cases of others.
RATES: dict[str, Rates] = {}


def find_mixup(standard: StandardCase, bundle: Bundle) -> str | None:
    """Return a sentence naming the two sequences that are probably mixed up, and how far to trust it; None if none are.

    None too if fewer than two sequences are present, the bundle holds no autoencoder, or it has no :data:`RATES`.
    """
    rates = RATES.get(bundle.sha256)
    if rates is None or bundle.autoencoder is None or len(standard.subset) < 2:
        return None
    gains = swap_gains(standard, bundle)
    (first, second), gain = max(gains.items(), key=lambda item: item[1])
    if gain <= 0:
        return None
    return (
        f"{first} and {second} may be mixed up: the model reconstructs them better from each other when they are "
        f"exchanged. Check the files. (On {rates.cases} held-out cases this check flagged {rates.flagged} "
        f"of {rates.swaps} swaps, with {rates.false} false alarms in {rates.correct} correct sets of sequences.)"
    )


def swap_gains(standard: StandardCase, bundle: Bundle) -> dict[Pair, float]:
    """Return, for every two sequences present, the share of the error that exchanging them takes away (below 0: adds).

    Looks at half the template's resolution first, and at all of it where that is not clear.
    """
    if bundle.autoencoder is None:
        return {}
    image, substitute = torch.from_numpy(standard.image), bundle.substitute
    channels = {name: standard.subset.of.index(name) for name in standard.subset.present}
    gains = _gains(
        bundle.autoencoder, _halved(image), _halved(substitute), channels, combinations(channels, 2)
    )
    close = [pair for pair, gain in gains.items() if abs(gain) < CLOSE]
    return gains | _gains(bundle.autoencoder, image, substitute, channels, close)


def _gains(
    autoencoder: MaskedAutoencoder,
    image: Tensor,
    substitute: Tensor,
    channels: dict[str, int],
    pairs: Iterable[Pair],
) -> dict[Pair, float]:
    """Return the gains of `pairs` for an image and a substitute (N, D, H, W)."""
    brain, pairs = image.any(dim=0), list(pairs)
    told: dict[
        tuple[int, int], Tensor
    ] = {}  # by sequence and by what it is taken for: (N, voxels of the brain)
    for name, source in channels.items():
        places = sorted({channels[member] for pair in pairs if name in pair for member in pair})
        if places:
            outputs = _alone(autoencoder, image[source], places, substitute)[:, :, brain]
            told |= {(source, place): output for place, output in zip(places, outputs, strict=True)}

    def error(source: int, place: int, target: int, at: int) -> float:
        return float(F.mse_loss(told[source, place][at], image[target][brain]))

    gains = {}
    for pair in pairs:
        i, j = (channels[name] for name in pair)
        given = error(i, i, j, j) + error(j, j, i, i)
        exchanged = error(i, j, j, i) + error(j, i, i, j)
        gains[pair] = 1 - exchanged / given if given else 0.0
    return gains


@torch.no_grad()
def _alone(
    autoencoder: MaskedAutoencoder, source: Tensor, places: Sequence[int], substitute: Tensor
) -> Tensor:
    """Reconstruct (P, N, D, H, W) from `source` (D, H, W) alone, taken for each of P sequences.

    The passes are one batch: several small images at once take the network less time than one.
    """
    depth, height, width = (-(-side // STRIDE) * STRIDE for side in source.shape)
    size = (depth, height, width)
    padded, before = pad_to(source, size)
    filled = SubstituteImage.fixed(substitute).crop([[-first for first in before]] * len(places), size)
    filled[range(len(places)), list(places)] = padded
    inside = (slice(first, first + side) for first, side in zip(before, source.shape, strict=True))
    output: Tensor = autoencoder.eval()(filled)
    return output[(slice(None), slice(None), *inside)]


def _halved(image: Tensor) -> Tensor:
    """Average (N, D, H, W) over blocks of 2×2×2 voxels."""
    return F.avg_pool3d(image[None], 2)[0]
