"""What if a sequence were missing? The case segmented from every subset of its sequences, and how the results differ.

The paper measures all subsets against an expert's labels (Table 1). Here there is no expert: one result is compared
with another, which says how much the answer depends on a sequence, not how good it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import reduce
from itertools import combinations
from math import comb
from operator import or_
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from m3ae_core.data.preprocess import Standardiser
from m3ae_core.events import Progress
from m3ae_core.inference.predictor import Prediction, Predictor
from m3ae_core.io.case import Case
from m3ae_core.measure import voxel_ml
from m3ae_core.modalities import Subset
from m3ae_core.regions import REGIONS, LabelScheme, encode

Labels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Difference:
    """How a second segmentation of a case differs from a first, per region (WT, TC, ET).

    Attributes
    ----------
    dice
        Dice similarity of the two, in [0, 1]; 1 where both are empty, since they agree.
    before_ml, after_ml
        Volume of the region in the first and in the second, in mL.
    """

    dice: dict[str, float]
    before_ml: dict[str, float]
    after_ml: dict[str, float]


@dataclass(frozen=True, eq=False)
class SubsetDone:
    """The case is segmented from `subset`; to save memory, without probabilities and uncertainty."""

    subset: Subset
    prediction: Prediction


def compare(
    first: Labels, second: Labels, scheme: LabelScheme, affine: npt.NDArray[np.float64]
) -> Difference:
    """Compare two label maps (X, Y, Z) of one `scheme` on the grid of `affine` (4×4, voxel to RAS mm).

    Raises
    ------
    InputError
        If a map holds a value that `scheme` does not know (``labels-unknown``).
    """
    size = voxel_ml(affine)
    masks = zip(encode(first, scheme), encode(second, scheme), strict=True)
    pairs = {region.name: pair for region, pair in zip(REGIONS, masks, strict=True)}
    return Difference(
        {name: _dice(before, after) for name, (before, after) in pairs.items()},
        {name: np.count_nonzero(before) * size for name, (before, _) in pairs.items()},
        {name: np.count_nonzero(after) * size for name, (_, after) in pairs.items()},
    )


def difference_map(first: Labels, second: Labels) -> Labels:
    """Say voxel by voxel how two label maps (X, Y, Z) of one scheme and grid differ.

    Returns (X, Y, Z): 0 the same, 1 tumour in the first alone (lost), 2 in the second alone (gained), 3 tumour in both
    but another tissue.
    """
    kinds = [(first != 0) & (second == 0), (first == 0) & (second != 0), first != second]
    return np.select(kinds, [1, 2, 3], 0).astype(np.uint8)


def sweep(
    predictor: Predictor,
    case: Case,
    scheme: LabelScheme,
    known: Mapping[Subset, Prediction] = MappingProxyType({}),
    *,
    same_patient: bool = False,
) -> Iterator[Progress | SubsetDone]:
    """Segment `case` from every non-empty subset of the model's sequences that it has: 2^n - 1 predictions for n.

    The full subset comes first, then the smaller ones by size. Each ends with a :class:`SubsetDone` and the progress
    in ``subsets``; the progress within one is called ``subset k of n``. Stop asking for the next event to cancel.

    Parameters
    ----------
    known
        Predictions of this very case, model and scheme; they are handed on, not computed again.
    same_patient
        As for :meth:`~m3ae_core.inference.predictor.Predictor.run`.

    Raises
    ------
    InputError
        If the case has none of the model's sequences (``no-sequence``) or does not fit on the model's template.
    BundleError
        If the network's output is not finite.
    """
    modalities = predictor.config.modality_set
    case = case.only(*(name for name in modalities.names if name in case.volumes))
    given = modalities.subset(case.volumes)
    shared = Standardiser(case, predictor.config)
    subsets = sorted((s for s in modalities.subsets() if s <= given), key=len, reverse=True)
    yield Progress("subsets", 0, len(subsets))
    for count, subset in enumerate(subsets, 1):
        events: Iterable[Progress | Prediction] = (
            [known[subset]]
            if subset in known
            else predictor.run(case.only(*subset.present), scheme, shared, same_patient=same_patient)
        )
        for event in events:
            if isinstance(event, Progress):
                yield replace(event, what=f"subset {count} of {len(subsets)}")
            else:
                yield SubsetDone(subset, replace(event, probabilities={}, uncertainty=None))
        yield Progress("subsets", count, len(subsets))


def agreement(masks: Mapping[Subset, Mask]) -> Labels:
    """Count from how many subsets a voxel is tumour; all masks (X, Y, Z) have one grid.

    Returns (X, Y, Z). The count holds 255 subsets, which are all of eight sequences.
    """
    counts = np.zeros(next(iter(masks.values())).shape, np.uint8)
    for mask in masks.values():
        counts += mask
    return counts


def contributions(values: Mapping[Subset, float]) -> dict[str, float]:
    """Share the value of all sequences among them: the exact Shapley value of each, by name.

    `values` holds one number for every non-empty subset of the sequences concerned, such as the Dice to the result
    from all of them; the empty subset is worth 0. A sequence's share is what it adds to those before it, averaged
    over all orders in which the sequences can come. The shares add up to the value of the full set.

    Raises
    ------
    KeyError
        If a subset has no value.
    """
    full: Subset = reduce(or_, values)
    worth: dict[tuple[str, ...], float] = {subset.present: value for subset, value in values.items()}
    worth[()] = 0.0

    def share(name: str) -> float:
        others = [other for other in full.present if other != name]
        total = 0.0
        for size in range(len(full)):
            for before in combinations(others, size):
                after = tuple(other for other in full.present if other in (*before, name))
                total += (worth[after] - worth[before]) / comb(len(others), size)
        return total / len(full)

    return {name: share(name) for name in full.present}


def _dice(first: Mask, second: Mask) -> float:
    total = np.count_nonzero(first) + np.count_nonzero(second)
    return 2 * np.count_nonzero(first & second) / total if total else 1.0
