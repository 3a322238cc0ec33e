"""The one training loop, for both stages: a generator of events that resumes exactly where it was stopped.

Randomness is counter-based (see :mod:`m3ae_core.data.dataset`), so the state of a run is its parameters, its
optimiser and the number of epochs done. Devices, precision and processes are Lightning Fabric's.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from m3ae_core.config import StageConfig
from m3ae_core.data.dataset import Samples
from m3ae_core.errors import BundleError
from m3ae_core.events import EpochDone, Saved, StepDone, Validated
from m3ae_core.files import write_text
from m3ae_core.model.weights import load_pickle, save_checkpoint

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Event = StepDone | EpochDone | Validated | Saved


class Task(Protocol):
    """What the loop needs of a task, beyond being a module that maps a batch to loss terms."""

    def parameter_groups(self) -> list[dict[str, object]]:
        """Parameters with their learning rates."""


def train(
    task: nn.Module,
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
    optimizer = torch.optim.Adam(task.parameter_groups(), weight_decay=stage.weight_decay, fused=True)  # type: ignore[operator]
    model, optimizer = fabric.setup(task, optimizer)
    checkpoint = folder / "checkpoint.pt"
    first, history = _resume(checkpoint, task, optimizer, stage)
    rates = [group["lr"] for group in optimizer.param_groups] if first == 0 else history[-1]["rates"]
    count, step = len(samples.cases), first * math.ceil(len(samples.cases) / stage.batch_size)
    for epoch in range(first, stage.epochs):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * cosine(epoch, stage.epochs)
        numbers = range(epoch * count, (epoch + 1) * count)
        loader = fabric.setup_dataloaders(
            DataLoader(Subset(samples, numbers), stage.batch_size, collate_fn=list), move_to_device=False
        )
        started, sums = time.monotonic(), dict[str, float]()
        for batch in loader:
            optimizer.zero_grad()
            terms: dict[str, Tensor] = model(batch)
            fabric.backward(torch.stack(list(terms.values())).sum())
            optimizer.step()
            step += 1
            values = {name: term.item() for name, term in terms.items()}
            sums = {name: sums.get(name, 0.0) + value for name, value in values.items()}
            yield StepDone(step, math.ceil(count / stage.batch_size) * stage.epochs, values)
        means = {name: total / len(loader) for name, total in sums.items()}
        done = EpochDone(epoch + 1, stage.epochs, means, time.monotonic() - started)
        history.append({**asdict(done), "rates": rates})
        yield done
        if validate is not None and (validated := validate(epoch + 1)) is not None:
            history.append({**asdict(validated), "rates": rates})
            yield validated
        write_text(folder / "log.jsonl", "".join(json.dumps(line) + "\n" for line in history))
        if (epoch + 1) % stage.checkpoint_every == 0 or epoch + 1 == stage.epochs:
            _save(checkpoint, task, optimizer, epoch + 1, stage, history)
            yield Saved(str(checkpoint), epoch + 1)


def cosine(epoch: int, epochs: int) -> float:
    """Factor of the learning rate in an epoch: cosine decay to zero, stepped per epoch ("Implementation")."""
    return 0.5 * (1 + math.cos(math.pi * epoch / epochs))


def _save(
    path: Path, task: nn.Module, optimizer: Any, epoch: int, stage: StageConfig, history: list[dict[str, Any]]
) -> None:
    state = {
        "task": task.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": epoch,
        "stage": stage.model_dump_json(),
        "history": history,
    }
    save_checkpoint(path, state)


def _resume(
    path: Path, task: nn.Module, optimizer: Any, stage: StageConfig
) -> tuple[int, list[dict[str, Any]]]:
    """Load the checkpoint, if there is one; return the number of epochs done and the history."""
    if not path.exists():
        return 0, []
    state = load_pickle(path)
    if state["stage"] != stage.model_dump_json():
        raise BundleError(
            "The run in this folder was started with other settings.",
            "Choose another output folder, or use the recipe stored in this one.",
            path=path,
            code="other-recipe",
        )
    task.load_state_dict(state["task"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["epoch"]), list(state["history"])
