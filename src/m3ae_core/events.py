"""Typed progress events. Long jobs are generators of these; to cancel is to stop asking for the next one."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

from m3ae_core.errors import M3AEError


@dataclass(frozen=True)
class Progress:
    """`done` of `total` units of `what` are finished."""

    what: str
    done: int
    total: int


@dataclass(frozen=True)
class Resumed:
    """Training goes on after `epoch` epochs (0: it starts)."""

    epoch: int


@dataclass(frozen=True)
class StepDone:
    """One optimiser step: the named terms of its loss."""

    step: int
    total_steps: int
    terms: dict[str, float]


@dataclass(frozen=True)
class EpochDone:
    """One pass over the training cases, with the mean of each loss term and the seconds it took."""

    epoch: int
    epochs: int
    terms: dict[str, float]
    seconds: float


@dataclass(frozen=True)
class Validated:
    """Mean Dice per region over the validation cases and situations, and per situation."""

    epoch: int
    dice: dict[str, float]
    by_subset: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        """Mean Dice over the regions: what the best model is chosen by."""
        return statistics.fmean(self.dice.values())


@dataclass(frozen=True)
class Inverted:
    """Inversion is done: per modality, the substitute's deviation before and after, and their correlation."""

    before: dict[str, float]
    after: dict[str, float]
    correlation: dict[str, float]


@dataclass(frozen=True)
class Saved:
    """A file or folder now holds the state after `epoch` epochs."""

    path: str
    epoch: int


@dataclass(frozen=True)
class CaseMeasured:
    """Case `done` of `total` (each model counts) is measured from every subset, and safe on disk.

    `dice` is the mean over the subsets per region; `reused` tells that an earlier run had done it.
    """

    model: str
    case: str
    done: int
    total: int
    dice: dict[str, float]
    reused: bool


@dataclass(frozen=True)
class CaseSegmented:
    """Case `done` of `total` is segmented from the sequences `present`; labels and sidecar are safe on disk.

    `reused` tells that an earlier run had done it, `edited` that somebody changed it since; `warnings` are what a user
    must know about the result.
    """

    case: str
    done: int
    total: int
    present: str
    reused: bool
    warnings: tuple[str, ...] = ()
    edited: bool = False


@dataclass(frozen=True)
class CaseFailed:
    """Case `done` of `total` could not be segmented; `error` says why."""

    case: str
    done: int
    total: int
    error: M3AEError


#: What a training stage yields.
Event = Progress | Resumed | StepDone | EpochDone | Validated | Inverted | Saved
