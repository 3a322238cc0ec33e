"""Run folders of version 0.1 (recipe written by its code) and of today without what 0.1 did not write."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from m3ae_core.errors import BundleError, OutputError
from m3ae_core.events import Resumed
from m3ae_core.hardware import Hardware
from m3ae_core.io.weights import load_pickle, save_checkpoint
from m3ae_core.methods.m3ae.stages import Pretrain
from m3ae_core.training.run import Plan, train
from tiny import RECIPE, write_cases

OLD_RECIPE = Path(__file__).parent / "older" / "recipe-0.1.json"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Path]:
    home = tmp_path_factory.mktemp("older")
    stage = RECIPE.pretrain.model_copy(update={"epochs": 2})
    recipe = RECIPE.model_copy(update={"pretrain": stage})
    plan = Plan(
        recipe, write_cases(home / "cases", 2), home / "run", hardware=Hardware(device="cpu", workers=0)
    )
    run = train(plan, Pretrain())
    for event in run:
        if getattr(event, "epoch", 0) == 1 and (plan.folder / "checkpoint.pt").exists():
            break
    run.close()
    return plan, shutil.copytree(plan.folder, home / "kept")


@pytest.fixture
def plan(place: tuple[Plan, Path]) -> Plan:
    """A run that was stopped after its first epoch."""
    shutil.rmtree(place[0].folder)
    shutil.copytree(place[1], place[0].folder)
    return place[0]


def as_0_1(folder: Path, **changes: object) -> None:
    """Write the checkpoint as version 0.1 did, and what else it did not write, away."""
    state = {
        name: part
        for name, part in load_pickle(folder / "checkpoint.pt").items()
        if name not in ("run", "log")
    }
    torch.save(state | changes, folder / "checkpoint.pt")
    (folder / "cases.json").unlink()


def refused(plan: Plan, kind: type[BundleError | OutputError]) -> BundleError | OutputError:
    with pytest.raises(kind) as caught:
        list(train(plan, Pretrain()))
    return caught.value


def test_a_checkpoint_of_0_1_is_gone_on_from(plan: Plan) -> None:
    as_0_1(plan.folder)
    events = list(train(plan, Pretrain()))
    assert [event.epoch for event in events if isinstance(event, Resumed)] == [1]
    assert load_pickle(plan.folder / "checkpoint.pt")["epoch"] == 2


@pytest.mark.parametrize(
    "changes",
    [{"epoch": 10**9}, {"epoch": -1}, {"task": {}}, {"optimizer": {"state": {}, "param_groups": []}}],
)
def test_a_checkpoint_that_does_not_fit_is_refused(plan: Plan, changes: dict[str, object]) -> None:
    as_0_1(plan.folder, **changes)
    assert refused(plan, BundleError).code in ("checkpoint", "architecture")


def test_the_recipe_of_0_1_is_told_by_what_it_could_not_set(plan: Plan) -> None:
    """Its regulariser was another one where today's default says so: to go on would be to train something else."""
    shutil.copy(OLD_RECIPE, plan.folder / "recipe.json")
    error = refused(plan, OutputError)
    assert error.code == "other-recipe"
    assert "pretrain.substitute.regulariser" in error.problem


@pytest.mark.parametrize("content", [None, "", "[]", '{"model": '])
def test_a_run_without_its_recipe_is_refused(plan: Plan, content: str | None) -> None:
    (plan.folder / "recipe.json").unlink()
    if content is not None:
        (plan.folder / "recipe.json").write_text(content)
    assert refused(plan, OutputError).code == "damaged"


def test_a_log_that_was_changed_is_refused(plan: Plan) -> None:
    log = plan.folder / "log.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    lines[0]["terms"]["reconstruction"] += 0.25
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert refused(plan, BundleError).code == "other-log"


def test_the_checkpoint_of_another_run_is_refused(plan: Plan) -> None:
    state = load_pickle(plan.folder / "checkpoint.pt")
    save_checkpoint(plan.folder / "checkpoint.pt", state | {"run": "0" * 64})
    assert refused(plan, BundleError).code == "other-run"
