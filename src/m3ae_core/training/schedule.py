"""How far a run is: by its recipe's epochs, or by a budget of wall-clock minutes. The learning rate follows it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from m3ae_core.errors import ConfigError

#: Share of a budget that is kept back to write checkpoint and bundle.
KEPT_BACK = 0.05
#: More epochs than any budget has time for.
UNLIMITED = 10**9


def cosine(share: float) -> float:
    """Factor of the learning rate after a share of the run: cosine decay to zero ("Implementation")."""
    return 0.5 * (1 + math.cos(math.pi * share))


@dataclass
class Budget:
    """Wall-clock minutes that a run has, over all its starts; they begin when the first one does.

    Attributes
    ----------
    before
        Seconds that earlier starts took, as the checkpoint tells.
    validation
        Seconds of the longest validation so far: another one may come last.
    """

    minutes: float
    clock: Callable[[], float] = time.monotonic
    before: float = 0.0
    validation: float = 0.0
    began: float = field(init=False)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.minutes) and self.minutes > 0):
            problem = f"A run cannot take {self.minutes:g} minutes."
            raise ConfigError(problem, "State a number above 0.", code="minutes")
        self.began = self.clock()

    @property
    def spent(self) -> float:
        """Seconds of all starts so far."""
        return self.before + self.clock() - self.began

    @property
    def share(self) -> float:
        """Share of the time for training that is spent, at most 1."""
        time_to_train = 60 * self.minutes * (1 - KEPT_BACK) - self.validation
        return min(1.0, self.spent / time_to_train) if time_to_train > 0 else 1.0


def most_epochs(recipe_epochs: int, budget: Budget | None) -> int:
    """Return the most epochs that there can be."""
    return recipe_epochs if budget is None else UNLIMITED


@dataclass(frozen=True)
class Schedule:
    """The schedule of a run: so many `epochs`, or what a `budget` has time for.

    The learning rate of a recipe's epochs changes with each of them; that of a budget with every step.
    """

    recipe_epochs: int
    budget: Budget | None = None

    @property
    def epochs(self) -> int:
        """The most epochs there can be."""
        return most_epochs(self.recipe_epochs, self.budget)

    def share(self, epoch: int) -> float:
        """Return the share of the run that is over when a step of this epoch begins; 1 ends a budget."""
        return epoch / self.recipe_epochs if self.budget is None else self.budget.share

    def expected(self, done: int, per_epoch: int = 1) -> int:
        """Return of how many steps, or epochs, so many are `done`: a budget's are reckoned from its pace so far."""
        if self.budget is None:
            return self.recipe_epochs * per_epoch
        return max(done, round(done / max(self.budget.share, 1e-9)))
