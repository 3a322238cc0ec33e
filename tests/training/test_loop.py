"""The loop: batches, their parts, and what trades time for memory, on phantoms."""

from dataclasses import replace

import pytest

from m3ae_core.errors import ConfigError
from m3ae_core.events import StepDone
from m3ae_core.hardware import Hardware
from m3ae_core.model.unet import ResidualUNet
from m3ae_core.training.launch import launch
from m3ae_core.training.loop import _batches
from m3ae_core.training.stages import Plan, pretrain
from tiny import RECIPE, write_cases

CPU = Hardware(device="cpu", workers=0)


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    return write_cases(tmp_path_factory.mktemp("cases"), 4)


@pytest.fixture(scope="module")
def plain(cases, tmp_path_factory):
    return losses(cases, tmp_path_factory.mktemp("plain") / "run", CPU)


def losses(cases, folder, hardware):
    events = pretrain(Plan(RECIPE, cases, folder, hardware=hardware))
    return [event.terms["reconstruction"] for event in events if isinstance(event, StepDone)]


@pytest.mark.parametrize(
    "change",
    [{"accumulate": 2}, {"checkpointing": True}, {"workers": 1}],
    ids=lambda change: next(iter(change)),
)
def test_how_it_is_computed_does_not_matter(plain, cases, tmp_path, change):
    found = losses(cases, tmp_path / "run", replace(CPU, **change))
    assert found == pytest.approx(plain, rel=1e-4)
    assert found[0] != found[1]


def test_compiling_compiles_the_backbone(cases, tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(ResidualUNet, "compile", lambda self: compiled.append(self))
    losses(cases, tmp_path / "run", replace(CPU, compile=True))
    assert [type(backbone) for backbone in compiled] == [ResidualUNet]


@pytest.mark.parametrize(("count", "accumulate"), [(1, 1), (4, 3)])
def test_a_batch_must_be_whole(count, accumulate):
    """Two to a batch: one case is too few, and three parts do not divide it."""
    with pytest.raises(ConfigError) as caught:
        _batches(count, RECIPE.pretrain, launch(CPU), accumulate)
    assert caught.value.code == "batch"


def test_every_epoch_has_full_batches_of_its_own_samples():
    batches = _batches(5, RECIPE.pretrain, launch(CPU), 1)
    assert batches == [[0, 1], [2, 3], [5, 6], [7, 8], [10, 11], [12, 13]]


class Rank:
    """Stands in for Fabric in one of two processes."""

    world_size = 2

    def __init__(self, rank):
        self.global_rank = rank


def test_processes_share_a_batch():
    shares = [_batches(4, RECIPE.pretrain, Rank(rank), 1) for rank in (0, 1)]
    whole = _batches(4, RECIPE.pretrain, launch(CPU), 1)
    assert [sorted(a + b) for a, b in zip(*shares, strict=True)] == whole
