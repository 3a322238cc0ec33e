"""What methods cost on this machine, as in the paper's Table S2: parameters, arithmetic, memory and time.

Every method is trained a few steps and applied to one case of random numbers, each in a process of its own, so that
peaks of memory are its own. All is computed in float32.
"""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils.flop_counter import FlopCounterMode

from m3ae_core.config import Recipe
from m3ae_core.data.dataset import Crop
from m3ae_core.events import Progress
from m3ae_core.inference.device import choose_device
from m3ae_core.methods.method import Method, Stage, Task
from m3ae_core.methods.registry import method_named
from m3ae_core.nn.windows import Extent, whole_logits

Result = TypeVar("Result")


@dataclass(frozen=True)
class StageCost:
    """One stage of training: the values that it learns (images among them), and the seconds of one step."""

    name: str
    parameters: int
    seconds: float


@dataclass(frozen=True)
class TrainingCost:
    """The stages of a method's training, and the peak of memory (bytes) over them all."""

    stages: tuple[StageCost, ...]
    memory: int


@dataclass(frozen=True)
class CaseCost:
    """What segmenting a case of all modalities takes.

    Attributes
    ----------
    parameters
        Of the layers that are computed; heads for training alone do not count.
    image_values
        Voxels of the images kept beside them.
    flops
        Of one crop, two for each multiplication with addition.
    seconds, memory
        Of a whole template, all of which counts as brain; bytes at the peak.
    """

    parameters: int
    image_values: int
    flops: int
    seconds: float
    memory: int


@dataclass(frozen=True)
class Cost:
    """What a method costs to train and to apply."""

    method: str
    training: TrainingCost
    case: CaseCost


def compare_costs(
    recipe: Recipe, methods: Sequence[str], device: str = "auto", repeats: int = 3
) -> Iterator[Progress | tuple[Cost, ...]]:
    """Measure `methods` with the model, crops and batches of a recipe; ends with their costs, in the same order.

    Times are medians of `repeats`, after one that is not counted.

    Raises
    ------
    ConfigError, BundleError
        If there is no such method or device, or a method cannot be built.
    """
    for name in methods:
        untrained(recipe.for_method(name))  # what cannot be built is told before anything is measured
    costs: list[Cost] = []
    for name in methods:
        yield Progress(f"measuring {name}", len(costs), len(methods))
        own = recipe.for_method(name)
        training = _in_own_process(training_cost, own, device, repeats)
        costs.append(Cost(name, training, _in_own_process(case_cost, own, device, repeats)))
    yield tuple(costs)


def training_cost(recipe: Recipe, device: str = "auto", repeats: int = 3) -> TrainingCost:
    """Take some steps of every stage of the recipe's method, each stage from what the one before it makes."""
    where, start, costs = choose_device(device), None, []
    for stage in method_named(recipe.model.method).stages():
        task = _task(recipe, stage, start).to(where).train()
        groups = task.parameter_groups()
        count = sum(parameter.numel() for group in groups for parameter in _parameters(group))
        optimizer = torch.optim.Adam(groups, fused=True)
        batch = _batch(recipe, stage)
        seconds = _median_seconds(lambda: _step(task, optimizer, batch), where, repeats)  # noqa: B023  called at once
        costs.append(StageCost(stage.name, count, seconds))
        start = task.model
    return TrainingCost(tuple(costs), peak_memory(where))


def case_cost(recipe: Recipe, device: str = "auto", repeats: int = 3) -> CaseCost:
    """Segment a case of random numbers with an untrained model of the recipe's method."""
    where, model = choose_device(device), untrained(recipe)
    for network in model.networks.values():
        network.to(where).eval()
    missing = torch.zeros(len(recipe.model.modalities), dtype=torch.bool, device=where)
    image = torch.rand(len(missing), *recipe.model.grid.shape, device=where)
    seconds = _median_seconds(lambda: _segment(model, image, missing), where, repeats)
    memory = peak_memory(where)
    crop = torch.rand(1, len(missing), *_crop(recipe), device=where)
    parameters, flops = _computed(lambda: model.predict(crop, missing))
    values = sum(kept.numel() for kept in model.images.values())
    return CaseCost(parameters, values, flops, seconds, memory)


def untrained(recipe: Recipe) -> Method:
    """Return a model of the recipe's method as its stages start it."""
    start: Method | None = None
    for stage in method_named(recipe.model.method).stages():
        start = _task(recipe, stage, start).model
    assert start is not None  # noqa: S101  every method has a stage
    return start


def peak_memory(device: torch.device) -> int:
    """Return the most memory (bytes) so far: tensors on the GPU, or the whole process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():  # Linux: getrusage would count the parent's memory in
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text("ascii"))
        return int(found[1]) * 1024 if found else 0
    import psutil  # type: ignore[import-untyped]

    info = psutil.Process().memory_info()
    return int(getattr(info, "peak_wset", info.rss))


def _in_own_process(measure: Callable[..., Result], *arguments: Any) -> Result:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measure, *arguments).result()


def _task(recipe: Recipe, stage: Stage, start: Method | None) -> Task:
    stage.require(start)
    torch.manual_seed(stage.settings(recipe).seed)
    return stage.task(recipe, start, ())


def _batch(recipe: Recipe, stage: Stage) -> list[Any]:
    """Return a batch of random numbers, as the stage draws it from complete cases."""
    settings, draw = stage.settings(recipe), stage.draw(recipe)
    rng = np.random.default_rng(settings.seed)
    count, exists = len(recipe.model.regions), np.ones(len(recipe.model.modalities), bool)
    samples = []
    for _ in range(settings.batch_size):
        image = torch.from_numpy(rng.random((len(exists), *settings.crop), np.float32))
        regions = torch.from_numpy(rng.random((count, *settings.crop), np.float32) < 0.1)
        samples.append(draw(Crop(image, regions, (0, 0, 0), exists), rng))
    return samples


def _step(task: Task, optimizer: torch.optim.Optimizer, batch: list[Any]) -> None:
    optimizer.zero_grad()
    torch.stack(list(task(batch).values())).sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    task.after_step()


def _parameters(group: dict[str, Any]) -> list[Tensor]:
    return list(group["params"])


def _segment(model: Method, image: Tensor, missing: Tensor) -> None:
    inference, template = model.config.inference, model.config.grid.shape
    extent = Extent.of(inference, template, ((0, 0, 0), template))
    windows = whole_logits(
        lambda x: model.predict(x, missing),
        lambda part, start: model.fill(part, missing, start),
        image,
        extent,
        inference,
    )
    for _ in windows:
        pass


def _crop(recipe: Recipe) -> tuple[int, int, int]:
    """Return the crop of the last stage of the recipe's method."""
    *_, last = method_named(recipe.model.method).stages()
    return last.settings(recipe).crop


def _median_seconds(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def _computed(work: Callable[[], object]) -> tuple[int, int]:
    """Return the parameters of the layers that `work` computes, and its floating-point operations."""
    used: dict[int, int] = {}

    def note(layer: nn.Module, _: Any) -> None:
        used.update({id(own): own.numel() for own in layer.parameters(recurse=False)})

    handle = register_module_forward_pre_hook(note)
    try:
        with FlopCounterMode(display=False) as counter:
            work()
    finally:
        handle.remove()
    return sum(used.values()), counter.get_total_flops()
