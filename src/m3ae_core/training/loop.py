"""The one training loop, for both stages: a generator of events that resumes exactly where it was stopped.

Randomness is counter-based (see :mod:`m3ae_core.data.dataset`), so the state of a run is its parameters, its
optimiser and the number of epochs done. Devices, precision and processes are Lightning Fabric's.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from m3ae_core.config import StageConfig
from m3ae_core.data.dataset import Samples
from m3ae_core.events import EpochDone, Saved, StepDone, Validated
from m3ae_core.files import write_text
from m3ae_core.model.weights import load_pickle, save_checkpoint

if TYPE_CHECKING:
    from lightning_fabric import Fabric

CHECKPOINT = "checkpoint.pt"

Event = StepDone | EpochDone | Validated | Saved


class Task(nn.Module):
    """What the loop needs of a task: a module that maps a batch to named loss terms, and its learning rates."""

    def parameter_groups(self) -> list[dict[str, object]]:
        """Return the parameters to learn, with a learning rate for each group."""
        raise NotImplementedError

    def after_step(self) -> None:
        """Do what has to follow every optimiser step; nothing by default."""


def train(
    task: Task,
    samples: Samples[Any],
    stage: StageConfig,
    fabric: Fabric,
    folder: Path,
    validate: Callable[[int], Validated | None] | None = None,
) -> Iterator[Event]:
    """Train `task`, resuming from `folder`/checkpoint.pt if it is there.

    Yields a :class:`StepDone` per optimiser step, an :class:`EpochDone` per epoch, what `validate(epoch)` returns,
    and a :class:`Saved` per checkpoint. The run's history is `folder`/log.jsonl, one event a line.
    """
    optimizer = torch.optim.Adam(task.parameter_groups(), weight_decay=stage.weight_decay, fused=True)
    model, optimizer = fabric.setup(task, optimizer)
    rates = [group["lr"] for group in optimizer.param_groups]
    first, history = _resume(folder / CHECKPOINT, task, optimizer)
    cases = len(samples.cases)
    for epoch in range(first, stage.epochs):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * cosine(epoch, stage.epochs)
        numbers = range(epoch * cases, (epoch + 1) * cases)
        loader: Any = DataLoader(Subset(samples, numbers), stage.batch_size, collate_fn=list, num_workers=1)
        loader = fabric.setup_dataloaders(loader, move_to_device=False)
        started, steps = time.monotonic(), list[dict[str, float]]()
        for batch in loader:
            steps.append(_step(model, optimizer, batch, fabric))
            task.after_step()
            yield StepDone(epoch * len(loader) + len(steps), stage.epochs * len(loader), steps[-1])
        means = {name: statistics.fmean(terms[name] for terms in steps) for name in steps[0]}
        done = EpochDone(epoch + 1, stage.epochs, means, time.monotonic() - started)
        history.append(asdict(done))
        yield done
        if validate is not None and (validated := validate(epoch + 1)) is not None:
            history.append(asdict(validated))
            yield validated
        write_text(folder / "log.jsonl", "".join(json.dumps(line) + "\n" for line in history))
        if (epoch + 1) % stage.checkpoint_every == 0 or epoch + 1 == stage.epochs:
            _save(folder / CHECKPOINT, task, optimizer, epoch + 1, history)
            yield Saved(str(folder / CHECKPOINT), epoch + 1)


def cosine(epoch: int, epochs: int) -> float:
    """Factor of the learning rate in an epoch: cosine decay to zero, stepped per epoch ("Implementation")."""
    return 0.5 * (1 + math.cos(math.pi * epoch / epochs))


def _step(model: Any, optimizer: Any, batch: Any, fabric: Fabric) -> dict[str, float]:
    """Take one optimiser step on the sum of the task's terms; return their values."""
    optimizer.zero_grad()
    terms: dict[str, Tensor] = model(batch)
    fabric.backward(torch.stack(list(terms.values())).sum())
    optimizer.step()
    return {name: term.item() for name, term in terms.items()}


def _save(path: Path, task: nn.Module, optimizer: Any, epoch: int, history: list[dict[str, Any]]) -> None:
    state = {
        "task": task.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": epoch,
        "history": history,
    }
    save_checkpoint(path, state)


def _resume(path: Path, task: nn.Module, optimizer: Any) -> tuple[int, list[dict[str, Any]]]:
    """Load the checkpoint, if there is one; return the number of epochs done and the history."""
    if not path.exists():
        return 0, []
    state = load_pickle(path)
    task.load_state_dict(state["task"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["epoch"]), list(state["history"])
