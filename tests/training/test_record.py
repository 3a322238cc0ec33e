"""The record of a run is written from its events alone, and is the same however often the run was stopped."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from m3ae_core.events import EpochDone, Event, Progress, Resumed, Saved, StepDone, Validated
from m3ae_core.training.record import recorded, rewind


def events(first: int, last: int = 4) -> list[Event]:
    """A run of two steps an epoch, resumed after `first` epochs."""
    found: list[Event] = [Progress("cases read", 1, 1), Resumed(first)]
    for epoch in range(first + 1, last + 1):
        found += [StepDone(2 * epoch - 2 + step, 8, {"loss": epoch + step / 7}) for step in (1, 2)]
        found.append(EpochDone(epoch, 4, {"loss": epoch + 3 / 14}, 1.0 + first))
        found.append(Validated(epoch, {"WT": 0.1 * epoch}, {"T1": {"WT": 0.1 * epoch}}))
        found.append(Saved("checkpoint.pt", epoch))
    return found


@pytest.fixture(autouse=True)
def no_tensorboard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_events_pass_through_and_are_written_before(tmp_path: Path) -> None:
    given = events(0)
    run = recorded(given, tmp_path)
    seen = []
    for event in run:
        seen.append(event)
        if isinstance(event, StepDone):
            assert lines(tmp_path / "log.jsonl")[-1]["step"] == event.step
    assert seen == given
    log = lines(tmp_path / "log.jsonl")
    assert log[:4] == [
        {"step": 1, "epoch": 1, "terms": {"loss": 1 + 1 / 7}},
        {"step": 2, "epoch": 1, "terms": {"loss": 1 + 2 / 7}},
        {"epoch": 1, "terms": {"loss": 1 + 3 / 14}},
        {"epoch": 1, "dice": {"WT": 0.1}, "by_subset": {"T1": {"WT": 0.1}}},
    ]
    assert len(log) == 16
    assert lines(tmp_path / "times.jsonl") == [{"epoch": epoch, "seconds": 1.0} for epoch in (1, 2, 3, 4)]


def test_a_run_that_was_not_resumed_starts_with_its_first_epoch(tmp_path: Path) -> None:
    done = EpochDone(1, 4, {"loss": 2.0}, 1.23456)
    assert list(recorded([StepDone(1, 8, {"loss": 1.0}), done], tmp_path))[1] is done
    assert lines(tmp_path / "log.jsonl")[0]["epoch"] == 1
    assert lines(tmp_path / "times.jsonl") == [{"epoch": 1, "seconds": 1.235}]


def test_the_log_does_not_know_that_a_run_was_stopped(tmp_path: Path) -> None:
    """Stopped after any event, resumed from any checkpoint before it: the same bytes."""
    whole = events(0)
    list(recorded(whole, tmp_path))
    expected = (tmp_path / "log.jsonl").read_bytes()
    for stop in range(len(whole)):
        saved = sum(isinstance(event, Saved) for event in whole[:stop])
        for done in {0, saved}:  # a checkpoint may be older than the log
            folder = tmp_path / f"{stop}-{done}"
            folder.mkdir()
            list(recorded(whole[:stop], folder))
            list(recorded(events(done), folder))
            assert (folder / "log.jsonl").read_bytes() == expected
            assert [line["epoch"] for line in lines(folder / "times.jsonl")] == [1, 2, 3, 4]


@pytest.mark.parametrize("torn", ['{"epoch": 1, "ter', '{"epoch": 9}', '{"epoch": 9}\n{"ep', "\0\0\0"])
def test_rewinding_drops_torn_and_later_lines(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "log.jsonl"
    kept = '{"step": 1, "epoch": 1}\n{"epoch": 2}\n'
    path.write_text(kept + '{"step": 5, "epoch": 3}\n' + torn)
    rewind(path, 2)
    assert path.read_text() == kept
    rewind(path, 0)
    assert path.read_text() == ""
    rewind(tmp_path / "none.jsonl", 1)
    assert not (tmp_path / "none.jsonl").exists()


def test_rewinding_goes_on_after_a_line_it_cannot_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(io, "text_encoding", lambda encoding, *_: encoding or "ascii")  # the computer's own
    path = tmp_path / "log.jsonl"
    path.write_text('{"epoch": 1, "note": "é"}\ntorn\n{"epoch": 3}\n{"epoch": 2}\n', encoding="utf-8")
    rewind(path, 2)
    assert path.read_text("utf-8") == '{"epoch": 1, "note": "é"}\n{"epoch": 2}\n'


def test_the_substitute_is_kept_less_and_less_often(tmp_path: Path) -> None:
    image = torch.rand(2, 5, 3, 4)
    steps: list[Event] = [EpochDone(epoch, 250, {"loss": 1.0}, 0.1) for epoch in range(1, 251)]
    list(recorded(steps, tmp_path, lambda: image))
    found = sorted(path.name for path in (tmp_path / "substitute").iterdir())
    epochs = [*range(1, 10), *range(10, 100, 10), 100, 200]
    assert found == [f"epoch-{epoch:05d}.npy" for epoch in epochs]
    np.testing.assert_array_equal(np.load(tmp_path / "substitute" / found[0]), image[:, 2])


def test_tensorboard_gets_the_same_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []

    class Writer:
        def __init__(self, folder: str) -> None:
            calls.append(("folder", folder))

        def add_scalar(self, name: str, value: float, when: int) -> None:
            calls.append((name, value, when))

        def add_image(self, name: str, image: np.ndarray, when: int, dataformats: str) -> None:
            calls.append((name, image.tolist(), when, dataformats))

    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    image = torch.full((2, 5, 1, 2), 7.0)
    image[:, 2] = torch.tensor([[[-0.5, 0.25]], [[0.75, 1.5]]])
    list(recorded(events(0, 1), tmp_path, lambda: image))
    assert calls == [
        ("folder", str(tmp_path / "tensorboard")),
        ("step/loss", 1 + 1 / 7, 1),
        ("step/loss", 1 + 2 / 7, 2),
        ("epoch/loss", 1 + 3 / 14, 1),
        ("substitute", [[0, 0.25, 0.75, 1]], 1, "HW"),
        ("dice/WT", 0.1, 1),
    ]
