"""The record of a run: what is written, when, and what a resumed run drops of it."""

import json
import sys
from types import ModuleType

import numpy as np
import pytest
import torch

from m3ae_core.events import EpochDone, Resumed, StepDone, Validated
from m3ae_core.training.record import recorded, rewind

EVENTS = (
    Resumed(0),
    StepDone(1, 2, {"loss": 2.0}),
    EpochDone(1, 2, {"loss": 2.0}, 0.25),
    Validated(1, {"WT": 0.5}, {"T2": {"WT": 0.5}}),
    StepDone(2, 2, {"loss": 1.0}),
    EpochDone(2, 2, {"loss": 1.0}, 0.125),
)


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_event_is_written_before_it_is_passed_on(tmp_path):
    for number, event in enumerate(recorded(EVENTS, tmp_path)):
        assert event is EVENTS[number]
        assert len(read(tmp_path / "log.jsonl")) == number if number else True


def test_the_log_has_no_times(tmp_path):
    list(recorded(EVENTS, tmp_path))
    assert read(tmp_path / "log.jsonl") == [
        {"step": 1, "epoch": 1, "terms": {"loss": 2.0}},
        {"epoch": 1, "terms": {"loss": 2.0}},
        {"epoch": 1, "dice": {"WT": 0.5}, "by_subset": {"T2": {"WT": 0.5}}},
        {"step": 2, "epoch": 2, "terms": {"loss": 1.0}},
        {"epoch": 2, "terms": {"loss": 1.0}},
    ]
    assert [line["seconds"] for line in read(tmp_path / "times.jsonl")] == [0.25, 0.125]


@pytest.mark.parametrize("stopped_after", range(2, len(EVENTS) + 1))
def test_a_stopped_run_leaves_the_log_of_one_that_was_not(tmp_path, stopped_after):
    for name in ("alone", "stopped"):
        (tmp_path / name).mkdir()
    list(recorded(EVENTS, tmp_path / "alone"))
    list(recorded(EVENTS[:stopped_after], tmp_path / "stopped"))
    with (tmp_path / "stopped" / "log.jsonl").open("a") as stream:
        stream.write('{"step": 2, "epo')  # killed while writing
    epoch = int(stopped_after >= 4)  # the checkpoint follows the validation
    rest = EVENTS[4:] if epoch else EVENTS[1:]
    list(recorded((Resumed(epoch), *rest), tmp_path / "stopped"))
    assert (tmp_path / "stopped/log.jsonl").read_bytes() == (tmp_path / "alone/log.jsonl").read_bytes()


def test_nothing_to_rewind(tmp_path):
    rewind(tmp_path / "log.jsonl", 3)
    assert not list(tmp_path.iterdir())


def test_the_substitute_is_kept_as_it_evolves(tmp_path):
    image = torch.arange(2 * 4 * 3 * 5.0).reshape(2, 4, 3, 5)
    events = [Resumed(0), *(EpochDone(epoch, 25, {"loss": 1.0}, 0.0) for epoch in range(1, 26))]
    list(recorded(events, tmp_path, lambda: image))
    kept = sorted(path.name for path in (tmp_path / "substitute").iterdir())
    assert kept == [f"epoch-{epoch:05d}.npy" for epoch in (*range(1, 11), 20)]
    np.testing.assert_array_equal(np.load(tmp_path / "substitute" / kept[0]), image[:, 2])


def test_tensorboard_gets_the_same_where_it_is_installed(tmp_path, monkeypatch):
    written = []

    class Writer:
        def __init__(self, folder):
            assert folder == str(tmp_path / "tensorboard")

        def add_scalar(self, name, value, when):
            written.append((name, value, when))

    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    list(recorded(EVENTS, tmp_path))
    assert written == [
        ("step/loss", 2.0, 1),
        ("epoch/loss", 2.0, 1),
        ("dice/WT", 0.5, 1),
        ("step/loss", 1.0, 2),
        ("epoch/loss", 1.0, 2),
    ]
