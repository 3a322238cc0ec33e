"""Two sequences given in each other's place: told by their contrast, by a rule that a model's card holds.

`m3ae calibrate --mixup` fits the rule and measures it on collections left out. A sequence alone, or one in the place of
another that is missing, cannot be told in this way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from m3ae_core.bundle import Bundle
from m3ae_core.card import card_entry
from m3ae_core.data.preprocess import StandardCase
from m3ae_core.inference.contrast import FloatArray, Pair, Signs, compare, exchanged

#: The key of a card.
KEY = "mixup"
#: Log odds: an alarm needs "exchanged" to be twice as likely as "right".
DOUBT = float(np.log(2))
#: No alarm is given by a rule that accused more correct sets of any collection it was not fitted on.
MOST_FALSE = 0.05
#: Signs count in multiples of their usual size, up to this.
CAP = 2.0


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class PairRule(_Frozen):
    """How the signs of two sequences are weighed; `scale` is their usual size."""

    scale: tuple[float, ...]
    weights: tuple[float, ...]

    def score(self, signs: FloatArray) -> float:
        """Return the log odds that two images with these signs are named right."""
        return float(np.clip(signs / np.array(self.scale), -CAP, CAP) @ np.array(self.weights))


class LeftOut(_Frozen):
    """What the rule, fitted on the other collections, said of one collection.

    Attributes
    ----------
    cases
        How many.
    false, correct
        Alarms over correctly named sets of two and more sequences, and such sets.
    found, swaps
        By pair of sequences: exchanges that were named, and exchanges tried, in all those sets.
    """

    cases: int
    false: int
    correct: int
    found: dict[str, int]
    swaps: dict[str, int]


class MixupRule(_Frozen):
    """A model's rule: `pairs` by the names of two sequences, and how it did on each collection `left_out`."""

    pairs: dict[str, PairRule]
    left_out: tuple[LeftOut, ...]

    @classmethod
    def of(cls, card: Mapping[str, Any]) -> MixupRule | None:
        """Return the rule on a bundle's `card`; None if there is none.

        Raises
        ------
        BundleError
            If it is damaged.
        """
        return card_entry(card, KEY, cls, ("mix-up rule", "m3ae calibrate --mixup"))

    @property
    def is_trusted(self) -> bool:
        """Whether it accused few enough correct sets of every collection that was left out."""
        return all(left.false <= MOST_FALSE * left.correct for left in self.left_out)

    def accused(self, signs: Signs) -> Pair | None:
        """Return the two sequences that are probably exchanged; None if no two probably are.

        Any two in doubt give the alarm; what it names is the exchange that leaves the least doubt about all of them.
        """
        known = {pair: own for pair, own in signs.items() if pair_key(pair) in self.pairs}
        if not any(self._score(pair, own) < -DOUBT for pair, own in known.items()):
            return None
        return max(known, key=lambda pair: self._total(exchanged(signs, pair)))

    def _total(self, signs: Signs) -> float:
        return sum(self._score(pair, own) for pair, own in signs.items() if pair_key(pair) in self.pairs)

    def _score(self, pair: Pair, signs: FloatArray) -> float:
        return self.pairs[pair_key(pair)].score(signs)

    def rates(self, pair: Pair) -> str:
        """Say in one sentence how often this rule finds exchanges of `pair`, and how often it is wrong."""
        key, left = pair_key(pair), self.left_out
        found, swaps = (sum(getattr(own, kind).get(key, 0) for own in left) for kind in ("found", "swaps"))
        false, correct = sum(own.false for own in left), sum(own.correct for own in left)
        return (
            f"On {sum(own.cases for own in left)} cases of {len(left)} collections, each left out of the fit in turn, "
            f"this check found {found} of {swaps} such exchanges, with {false} false alarms in {correct} correct sets "
            "of sequences."
        )


def pair_key(pair: Pair) -> str:
    """Return the name of a pair on a card."""
    return "+".join(pair)


def find_mixup(standard: StandardCase, bundle: Bundle) -> str | None:
    """Return a sentence naming the two sequences that are probably mixed up, and how far to trust it; None if none are.

    None too if fewer than two sequences are present, or the bundle's card holds no rule that is trusted.

    Raises
    ------
    BundleError
        If the rule on the card is damaged.
    """
    rule = MixupRule.of(bundle.card)
    if rule is None or not rule.is_trusted or len(standard.subset) < 2:
        return None
    pair = rule.accused(compare(standard))
    if pair is None:
        return None
    return (
        f"{' and '.join(pair)} may be mixed up: beside each other they look as if they had been exchanged. "
        f"Check the files. ({rule.rates(pair)})"
    )
