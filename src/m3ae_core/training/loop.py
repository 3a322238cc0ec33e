"""The one training loop, for every stage of every method: a generator of events that resumes exactly.

Randomness is counter-based (see :mod:`m3ae_core.data.dataset`), so the state of a run is its parameters, its
optimiser and the number of epochs done. Devices, precision and processes are Lightning Fabric's.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from m3ae_core.data.dataset import Samples
from m3ae_core.errors import ConfigError
from m3ae_core.events import EpochDone, Event, Resumed, Saved, StepDone, Validated
from m3ae_core.hardware import Hardware
from m3ae_core.io.weights import save_checkpoint
from m3ae_core.methods.method import Task
from m3ae_core.stage_config import StageConfig
from m3ae_core.training.checkpoint import CHECKPOINT, read_state, require_own
from m3ae_core.training.record import log_sha256
from m3ae_core.training.schedule import Budget, Schedule, cosine

if TYPE_CHECKING:
    from lightning_fabric import Fabric


#: Measures the model after so many epochs, where it is due; called in every process.
Validate = Callable[[int], Validated | None]


@dataclass(frozen=True)
class Setting:
    """Where a run keeps its state, what tells it from others, and what is done beside its steps.

    Attributes
    ----------
    folder
        That of the run.
    hardware
        How many processes prepare samples, and in how many parts a batch is computed.
    identity
        What tells the run from others (:func:`~m3ae_core.training.identity.keep_identity`).
    budget
        The minutes it has, instead of the stage's epochs.
    validate
        Measures the model where it is due.
    keep_best
        Called with every best validation.
    """

    folder: Path
    hardware: Hardware
    identity: str = ""
    budget: Budget | None = None
    validate: Validate = lambda _: None
    keep_best: Callable[[Validated], object] = lambda _: None

    @property
    def checkpoint(self) -> Path:
        """Where the state is kept."""
        return self.folder / CHECKPOINT


@dataclass
class Run:
    """One run in progress: everything a step needs.

    Attributes
    ----------
    model
        The task as Fabric wraps it.
    epoch, best
        Epochs done, and the best mean Dice validated so far. With the parameters and the optimiser they are the state.
    """

    task: Task
    model: Any
    optimizer: Any
    fabric: Fabric
    setting: Setting
    epoch: int = 0
    best: float = -1.0

    def save(self) -> Saved:
        """Write the state, with the hash of the log so far; only the first process does."""
        if self.fabric.is_global_zero:
            budget = self.setting.budget
            state = {
                "task": self.task.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "precision": self.fabric.strategy.precision.state_dict(),
                "epoch": self.epoch,
                "best": self.best,
                **({} if budget is None else {"seconds": budget.spent}),
                "run": self.setting.identity,
                "log": log_sha256(self.setting.folder),
            }
            save_checkpoint(self.setting.checkpoint, state)
        self.fabric.barrier()
        return Saved(str(self.setting.checkpoint), self.epoch)

    def load(self, epochs: int) -> None:
        """Read the state of a run of so many epochs, if there is one; the first process checks whose it is."""
        path = self.setting.checkpoint
        if path.exists():
            state = read_state(path, self.task, self.optimizer, epochs)
            if self.fabric.is_global_zero:
                require_own(state, self.setting.identity, path)
            self.task.load_state_dict(state["task"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.fabric.strategy.precision.load_state_dict(state["precision"])
            self.epoch, self.best = int(state["epoch"]), float(state["best"])
            if self.setting.budget is not None:
                self.setting.budget.before = float(state.get("seconds", 0.0))

    def validate(self) -> Validated | None:
        """Validate where it is due, and keep the best; a budget remembers how long it takes."""
        started, budget = time.monotonic(), self.setting.budget
        validated = self.setting.validate(self.epoch)
        if budget is not None:
            budget.validation = max(budget.validation, time.monotonic() - started)
        if validated is not None and validated.mean > self.best:
            self.best = validated.mean
            self.setting.keep_best(validated)
        return validated

    def step(self, batch: list[Any]) -> dict[str, float]:
        """Take one optimiser step on this process's share of a batch; return the mean of every loss term."""
        self.optimizer.zero_grad()
        count = self.setting.hardware.accumulate
        parts = [batch[part::count] for part in range(count)]
        sums: dict[str, Tensor] = {}
        for number, part in enumerate(parts, 1):
            waiting = number < len(parts)
            with self.fabric.no_backward_sync(self.model) if waiting else nullcontext():
                terms: dict[str, Tensor] = self.model(part)
                self.fabric.backward(torch.stack(list(terms.values())).sum() / len(parts))
            for name, term in terms.items():
                sums[name] = sums.get(name, 0) + term.detach().double() / len(parts)
        self.optimizer.step()
        self.task.after_step()
        means: Tensor = self.fabric.all_reduce(torch.stack(list(sums.values())), reduce_op="mean")  # type: ignore[assignment]
        return dict(zip(sums, means.tolist(), strict=True))


def fit(
    task: Task, samples: Samples[Any], stage: StageConfig, fabric: Fabric, setting: Setting
) -> Iterator[Event]:
    """Train `task`, resuming from the run's checkpoint if it is there.

    Yields :class:`Resumed` first, then a :class:`StepDone` per optimiser step, an :class:`EpochDone` per epoch, a
    :class:`Validated` where one was due, and a :class:`Saved` per checkpoint. A budget of minutes may cut the last
    epoch short.

    Raises
    ------
    ConfigError
        If the batch cannot be divided among processes and accumulated parts, there are too few cases for one, or the
        loss stops being finite (``nonfinite-loss``); the last checkpoint stays.
    BundleError
        If the checkpoint cannot be gone on from (the codes of :mod:`~m3ae_core.training.checkpoint`).
    """
    optimizer = torch.optim.Adam(task.parameter_groups(), weight_decay=stage.weight_decay, fused=True)
    model, optimizer = fabric.setup(task, optimizer)
    run = Run(task, model, optimizer, fabric, setting)
    schedule, accumulate = Schedule(stage.epochs, setting.budget), setting.hardware.accumulate
    rates = [group["lr"] for group in run.optimizer.param_groups]
    run.load(schedule.epochs)
    yield Resumed(run.epoch)
    epochs = range(run.epoch, schedule.epochs)
    batches = _batches(epochs, len(samples.cases), stage, fabric, accumulate)
    loader = iter(_loader(samples, batches, fabric, setting.hardware.workers))
    for _ in epochs:
        taken = yield from _epoch(run, loader, schedule, rates, len(samples.cases) // stage.batch_size)
        if not taken:
            return
        if (validated := run.validate()) is not None:
            yield validated
        if run.epoch % stage.checkpoint_every == 0 or schedule.share(run.epoch) >= 1:
            yield run.save()


def _epoch(
    run: Run, loader: Iterator[list[Any]], schedule: Schedule, rates: Sequence[float], per_epoch: int
) -> Generator[Event, None, int]:
    """Take the steps of one epoch, as far as the schedule lets it; return how many there were."""
    started, steps = time.monotonic(), list[dict[str, float]]()
    while len(steps) < per_epoch and (share := run.fabric.broadcast(schedule.share(run.epoch))) < 1:
        for group, rate in zip(run.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * cosine(share)
        steps.append(run.step(next(loader)))
        step = run.epoch * per_epoch + len(steps)
        _require_finite(steps[-1], step, run.epoch)
        yield StepDone(step, schedule.expected(step, per_epoch), steps[-1])
    if steps:
        run.epoch += 1
        means = {name: statistics.fmean(terms[name] for terms in steps) for name in steps[0]}
        yield EpochDone(run.epoch, schedule.expected(run.epoch), means, time.monotonic() - started)
    return len(steps)


def _require_finite(terms: dict[str, float], step: int, epoch: int) -> None:
    """Stop a run whose loss is lost, before it is saved over a good checkpoint."""
    if lost := [name for name, value in terms.items() if not math.isfinite(value)]:
        raise ConfigError(
            f"The loss is not finite any more at step {step} ({', '.join(lost)}); the run stops.",
            f"Lower the learning rate or compute in float32; the same command goes on after epoch {epoch}.",
            code="nonfinite-loss",
        )


def _batches(
    epochs: Iterable[int], cases: int, stage: StageConfig, fabric: Fabric, accumulate: int
) -> Iterable[list[int]]:
    """Return the sample numbers of every batch of these epochs that this process computes.

    Recipes state the batch of all processes together, so that they mean the same everywhere. Cases that do not fill
    an epoch's last batch wait for another epoch, whose order is another.
    """
    size, shares = stage.batch_size, fabric.world_size * accumulate
    if size % shares:
        raise ConfigError(
            f"A batch of {size} cannot be divided among {fabric.world_size} processes in {accumulate} parts each.",
            "Change batch_size, the number of devices or the accumulation.",
            code="batch",
        )
    if cases < size:
        problem = f"{cases} training cases are fewer than a batch of {size}."
        raise ConfigError(problem, "Add cases or lower batch_size.", code="batch")
    return (
        list(range(epoch * cases + first, epoch * cases + first + size))[
            fabric.global_rank :: fabric.world_size
        ]
        for epoch in epochs
        for first in range(0, cases - size + 1, size)
    )


def _loader(
    samples: Samples[Any], batches: Iterable[list[int]], fabric: Fabric, workers: int
) -> DataLoader[Any]:
    """Return one loader for all epochs that are left, so that its workers are ahead of the step throughout."""
    return DataLoader(
        samples,
        batch_sampler=batches,
        collate_fn=list,
        num_workers=workers,
        pin_memory=fabric.device.type == "cuda",
    )
