"""The loop by itself, on a line to be fitted: order, division of batches, accumulation, and exact resumption."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from itertools import chain, islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from torch import Tensor, nn

from m3ae_core.errors import ConfigError
from m3ae_core.events import EpochDone, Event, Resumed, Saved, StepDone, Validated
from m3ae_core.hardware import Hardware
from m3ae_core.io.weights import load_pickle
from m3ae_core.methods.method import Task
from m3ae_core.stage_config import PretrainConfig, StageConfig
from m3ae_core.training.loop import CHECKPOINT, Setting, _batches, _loader, fit
from m3ae_core.training.schedule import Budget, cosine


class Points:
    """Samples as the loop sees them: (x, y) by number; notes which were asked for."""

    def __init__(self, cases: int = 5) -> None:
        self.cases, self.asked = range(cases), list[int]()

    def __getitem__(self, number: int) -> Tensor:
        self.asked.append(number)
        return torch.randn(4, generator=torch.Generator().manual_seed(number))


class Line(Task):
    """Fit y = w · x; validation follows a script."""

    def __init__(self, dice: tuple[float, ...] = ()) -> None:
        super().__init__()
        self.weight, self.dice = nn.Parameter(torch.ones(3)), dice

    def parameter_groups(self) -> list[dict[str, object]]:
        return [{"params": [self.weight], "lr": 0.1}]

    def forward(self, batch: list[Tensor]) -> dict[str, Tensor]:
        points = torch.stack(batch)
        fit = (points[:, :3] @ self.weight - points[:, 3]).square().mean()
        return {"fit": fit, "size": 0.01 * self.weight.square().sum()}

    def validate(self, epoch: int) -> Validated | None:
        return Validated(epoch, {"WT": self.dice[epoch - 1]}) if self.dice else None


def stage(**settings: Any) -> StageConfig:
    return PretrainConfig(**{"epochs": 4, "batch_size": 2, "weight_decay": 0.1, **settings})


def run(folder: Path, task: Task | None = None, **options: Any) -> Iterator[Event]:
    config = options.pop("stage", stage())
    samples, fabric = (
        options.pop("samples", Points()),
        options.pop("fabric", Fabric(accelerator="cpu", devices=1)),
    )
    task = task or Line()
    setting = Setting(folder, options.pop("hardware", Hardware(workers=0)), validate=task.validate, **options)
    return fit(task, samples, config, fabric, setting)


def of(kind: type, events: list[Event]) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def state(folder: Path) -> dict[str, Any]:
    content = load_pickle(folder / CHECKPOINT)
    moments = content["optimizer"]["state"][0]
    tensors = {"weight": content["task"]["weight"], **{name: moments[name] for name in moments}}
    return {name: tensor.tolist() for name, tensor in tensors.items()} | content["precision"]


# --- order -----------------------------------------------------------------------------------------


def test_what_a_run_says_in_which_order(tmp_path: Path) -> None:
    events = list(run(tmp_path, Line(dice=(0.1,) * 4), stage=stage(checkpoint_every=3)))
    plain = [Resumed, StepDone, StepDone, EpochDone, Validated]
    assert [type(event) for event in events[:5]] == plain
    assert [event.step for event in of(StepDone, events)] == list(range(1, 9))
    assert {event.total_steps for event in of(StepDone, events)} == {8}
    assert [event.epoch for event in of(EpochDone, events)] == [1, 2, 3, 4]
    assert [event.epoch for event in of(Saved, events)] == [3, 4]  # the last always
    assert {event.path for event in of(Saved, events)} == {str(tmp_path / CHECKPOINT)}
    assert {event.epochs for event in of(EpochDone, events)} == {4}
    assert all(0 < event.seconds < 60 for event in of(EpochDone, events))
    for epoch, done in enumerate(of(EpochDone, events)):
        steps = of(StepDone, events)[2 * epoch : 2 * epoch + 2]
        assert done.terms["fit"] == pytest.approx(sum(step.terms["fit"] for step in steps) / 2)


def test_cases_that_fill_no_batch_wait_for_another_epoch(tmp_path: Path) -> None:
    samples = Points(cases=5)
    list(run(tmp_path, samples=samples))
    assert samples.asked == [0, 1, 2, 3, 5, 6, 7, 8, 10, 11, 12, 13, 15, 16, 17, 18]


@pytest.mark.parametrize("decay", [0.1, 50])
def test_the_first_step_by_hand(tmp_path: Path, decay: float) -> None:
    """Adam's first step moves each weight by the learning rate against its gradient, weight decay included."""
    points = torch.stack([Points()[0], Points()[1]])
    weight = torch.ones(3, requires_grad=True)
    fit, size = (points[:, :3] @ weight - points[:, 3]).square().mean(), 0.01 * weight.square().sum()
    (fit + size).backward()
    task = Line()
    events = run(tmp_path, task, stage=stage(weight_decay=decay))
    step = list(islice(events, 2))[1]
    events.close()
    assert step == StepDone(1, 8, pytest.approx({"fit": fit.item(), "size": size.item()}))
    gradient = weight.grad + decay * weight.detach()
    assert (weight.grad < 0).any(), "else decay, however strong, would change no direction"
    torch.testing.assert_close(task.weight.detach(), 1 - 0.1 * gradient.sign(), atol=1e-5, rtol=0)


def test_the_learning_rate_falls_like_a_cosine() -> None:
    assert cosine(0) == 1
    assert cosine(0.5) == pytest.approx(0.5)
    assert 0 < cosine(599 / 600) < 1e-4


def test_the_rate_of_the_last_epoch_is_the_recipes_times_the_cosine(tmp_path: Path) -> None:
    """Also after a stop: the checkpoint holds a rate that had fallen already."""
    for events in (islice(run(tmp_path), 6), run(tmp_path)):
        list(events)
    (group,) = load_pickle(tmp_path / CHECKPOINT)["optimizer"]["param_groups"]
    assert group["lr"] == pytest.approx(0.1 * cosine(3 / 4))


# --- batches ---------------------------------------------------------------------------------------


def place(rank: int, world: int) -> Any:
    return SimpleNamespace(global_rank=rank, world_size=world)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_processes_share_every_batch(world: int) -> None:
    config = stage(batch_size=4, epochs=3)
    shares = [list(_batches(range(3), 9, config, place(rank, world), 1)) for rank in range(world)]
    assert {len(batches) for batches in shares} == {6}
    for together, *parts in zip(_batches(range(3), 9, config, place(0, 1), 1), *shares, strict=True):
        assert sorted(chain(*parts)) == together
        assert {len(part) for part in parts} == {4 // world}


@pytest.mark.parametrize(("batch", "world", "accumulate"), [(2, 4, 1), (3, 2, 1), (4, 2, 4), (2, 1, 3)])
def test_a_batch_that_cannot_be_divided_is_refused(batch: int, world: int, accumulate: int) -> None:
    with pytest.raises(
        ConfigError, match=f"batch of {batch}.*{world} processes in {accumulate} parts"
    ) as caught:
        _batches(range(4), 20, stage(batch_size=batch), place(0, world), accumulate)
    assert caught.value.code == "batch"
    assert caught.value.fix == "Change batch_size, the number of devices or the accumulation."


def test_fewer_cases_than_a_batch_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="1 training cases are fewer than a batch of 2") as caught:
        list(run(tmp_path, samples=Points(cases=1)))
    assert caught.value.code == "batch"
    assert caught.value.fix == "Add cases or lower batch_size."


def test_as_many_cases_as_a_batch_are_enough() -> None:
    assert list(_batches(range(4), 2, stage(), place(0, 1), 1)) == [[0, 1], [2, 3], [4, 5], [6, 7]]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_loader_has_the_workers_asked_for(device: str) -> None:
    fabric: Any = SimpleNamespace(device=SimpleNamespace(type=device))
    loader = _loader(Points(), [[4, 2], [1, 0]], fabric, 1)
    assert (loader.num_workers, loader.pin_memory) == (1, device == "cuda")
    assert list(loader.batch_sampler) == [[4, 2], [1, 0]]


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulation_changes_nothing_but_rounding(tmp_path: Path, parts: int) -> None:
    tasks, config = (Line(), Line()), stage(batch_size=4)
    one, other = (
        of(
            StepDone,
            list(
                run(tmp_path / str(parts), task, stage=config, hardware=Hardware(accumulate=parts, workers=0))
            ),
        )
        for task, parts in zip(tasks, (1, parts), strict=True)
        if not (tmp_path / str(parts)).mkdir()
    )
    for a, b in zip(one, other, strict=True):
        assert a.terms == pytest.approx(b.terms, abs=1e-6)
    torch.testing.assert_close(tasks[0].weight, tasks[1].weight, atol=1e-6, rtol=0)


def test_processes_exchange_gradients_with_a_batch_s_last_part_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[Any] = []
    fabric = Fabric(accelerator="cpu", devices=1)
    monkeypatch.setattr(fabric, "no_backward_sync", lambda model: held.append(model) or nullcontext())
    for parts in (1, 2):
        events = run(tmp_path, fabric=fabric, hardware=Hardware(accumulate=parts, workers=0))
        list(islice(events, 2))  # one step
        assert len(held) == parts - 1


def test_what_a_step_reports_is_the_mean_over_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fabric = Fabric(accelerator="cpu", devices=1)

    def reduced(terms: Tensor, reduce_op: str) -> Tensor:
        """As if another process had found nothing."""
        return terms / 2 if reduce_op == "mean" else terms

    alone = list(islice(run(tmp_path), 2))[1]
    monkeypatch.setattr(fabric, "all_reduce", reduced)
    together = list(islice(run(tmp_path, fabric=fabric), 2))[1]
    assert together.terms == pytest.approx({name: term / 2 for name, term in alone.terms.items()})


# --- resuming --------------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [1, 2])
def test_stopped_after_any_event_it_ends_the_same(tmp_path: Path, every: int) -> None:
    config = stage(checkpoint_every=every)
    (tmp_path / "whole").mkdir()
    events = list(run(tmp_path / "whole", stage=config))
    for stop in range(len(events)):
        folder = tmp_path / str(stop)
        folder.mkdir()
        first = run(folder, stage=config)
        list(islice(first, stop))
        first.close()
        torch.manual_seed(stop)  # whatever happens in between
        rest = list(run(folder, stage=config))
        assert state(folder) == state(tmp_path / "whole")
        (resumed,) = of(Resumed, rest)
        steps = [event for event in of(StepDone, events) if event.step > 2 * resumed.epoch]
        assert of(StepDone, rest) == steps


def test_a_finished_run_stays_as_it_is(tmp_path: Path) -> None:
    list(run(tmp_path))
    before = (tmp_path / CHECKPOINT).read_bytes()
    assert list(run(tmp_path)) == [Resumed(4)]
    assert (tmp_path / CHECKPOINT).read_bytes() == before


@pytest.mark.parametrize("stop", [None, 5, 9, 13])
def test_only_a_better_validation_is_kept_after_a_stop_too(tmp_path: Path, stop: int | None) -> None:
    dice, kept = (0.2, 0.5, 0.4, 0.5), list[int]()
    if stop is not None:
        first = run(tmp_path, Line(dice), keep_best=lambda validated: None)
        list(islice(first, stop))
        first.close()
    done = int(load_pickle(tmp_path / CHECKPOINT)["epoch"]) if (tmp_path / CHECKPOINT).exists() else 0
    list(run(tmp_path, Line(dice), keep_best=lambda validated: kept.append(validated.epoch)))
    assert kept == [epoch for epoch in (1, 2) if epoch > done]
    assert load_pickle(tmp_path / CHECKPOINT)["best"] == 0.5


def test_the_gradient_scaler_is_part_of_the_state(tmp_path: Path) -> None:
    """Half precision on the CPU, for the wiring: the scale grows every so many steps, and goes on growing."""

    def fabric() -> Fabric:
        scaler = torch.amp.GradScaler("cpu", init_scale=16.0, growth_interval=3)
        return Fabric(accelerator="cpu", devices=1, plugins=[MixedPrecision("16-mixed", "cpu", scaler)])

    for name, stop in (("whole", None), ("stopped", 6)):
        (tmp_path / name).mkdir()
        if stop:
            first = run(tmp_path / name, fabric=fabric())
            list(islice(first, stop))
            first.close()
        list(run(tmp_path / name, fabric=fabric()))
    assert state(tmp_path / "whole") == state(tmp_path / "stopped")
    assert state(tmp_path / "whole")["scale"] == 64  # 8 steps: doubled after 3 and 6


def test_a_loss_that_is_lost_stops_the_run_and_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    class Lost(Line):
        """Diverges in its third epoch."""

        steps = 0

        def forward(self, batch: list[Tensor]) -> dict[str, Tensor]:
            self.steps += 1
            terms = super().forward(batch)
            return terms if self.steps <= 5 else {**terms, "fit": terms["fit"] * float("nan")}

    with pytest.raises(ConfigError, match=r"step 6 \(fit\).*\n?.*after epoch 2") as caught:
        list(run(tmp_path, Lost()))
    assert caught.value.code == "nonfinite-loss"
    state = load_pickle(tmp_path / CHECKPOINT)
    assert state["epoch"] == 2
    assert torch.isfinite(state["task"]["weight"]).all()


# --- a budget of minutes ---------------------------------------------------------------------------


class Clock:
    """A clock that a step moves by one second."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


class Timed(Line):
    """A task whose steps take a second each."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock, self.rates = clock, list[float]()

    def after_step(self) -> None:
        self.clock.now += 1


def timed(folder: Path, clock: Clock, minutes: float = 0.5, stop: int | None = None) -> list[Event]:
    events = run(folder, Timed(clock), budget=Budget(minutes, clock))
    return list(islice(events, stop))


def test_a_run_ends_within_its_minutes_and_is_saved(tmp_path: Path) -> None:
    """Half a minute of which a twentieth is kept back: 29 steps of a second, in epochs of two, the last one cut."""
    events = timed(tmp_path, Clock())
    steps = [event for event in events if isinstance(event, StepDone)]
    assert len(steps) == 29
    assert isinstance(events[-1], Saved)
    assert events[-1].epoch == 15
    assert load_pickle(tmp_path / CHECKPOINT)["seconds"] == pytest.approx(29)
    assert steps[14].total_steps == pytest.approx(29, abs=2)


def test_the_learning_rate_follows_the_time(tmp_path: Path) -> None:
    timed(tmp_path, Clock())
    (group,) = load_pickle(tmp_path / CHECKPOINT)["optimizer"]["param_groups"]
    assert group["lr"] == pytest.approx(0.1 * cosine(28 / 28.5), rel=1e-4)


def test_minutes_count_over_all_starts(tmp_path: Path) -> None:
    clock = Clock()
    first = timed(tmp_path, clock, stop=20)
    clock.now += 1000  # nobody computes
    done = load_pickle(tmp_path / CHECKPOINT)["seconds"]
    rest = [event for event in timed(tmp_path, clock) if isinstance(event, StepDone)]
    assert len(rest) + done == 29
    assert any(isinstance(event, Saved) for event in first)
    assert [type(event) for event in timed(tmp_path, clock)] == [Resumed]  # nothing is left
    assert any(isinstance(event, StepDone) for event in timed(tmp_path, clock, minutes=1))


@pytest.mark.parametrize("minutes", [0, -1, float("nan"), float("inf")])
def test_minutes_that_cannot_be(minutes: float) -> None:
    with pytest.raises(ConfigError) as caught:
        Budget(minutes)
    assert caught.value.code == "minutes"


def test_time_for_a_last_validation_is_kept_back() -> None:
    clock = Clock()
    budget = Budget(1, clock, validation=27)
    clock.now += 15
    assert budget.share == pytest.approx(0.5)
    assert Budget(1, clock, validation=60).share == 1
