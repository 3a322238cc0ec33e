"""What the training commands hand to the stages: the recipe, the cases, and how to compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from m3ae_core.cli import main, training
from m3ae_core.data.builtin import builtin_bundle
from m3ae_core.data.phantom import write_phantom
from m3ae_core.hardware import Hardware
from m3ae_core.training import run as runs

FLAGS = {
    "--device cpu": {"device": "cpu"},
    "--devices 8 --nodes 4": {"devices": 8, "nodes": 4},
    "--precision bf16-mixed": {"precision": "bf16-mixed"},
    "--accumulate 2": {"accumulate": 2},
    "--checkpointing": {"checkpointing": True},
    "--compile": {"compile": True},
    "--workers 3": {"workers": 3},
}


@pytest.fixture
def plans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[runs.Plan]:
    """Stages that only note what they are told."""
    seen: list[runs.Plan] = []

    def fake(plan: runs.Plan, *_: Any, **__: Any) -> list[None]:
        seen.append(plan)
        return []

    monkeypatch.setattr(runs, "train", fake)
    write_phantom(tmp_path / "cases", "p1", shape=(16, 16, 16))
    return seen


def run(stage: str, folder: Path, *options: str) -> int:
    own = ["--pretrained", str(folder), "--scheme", "brats2023"] if stage == "finetune" else []
    paths = ["--cases", str(folder / "cases"), "--output", str(folder / "run")]
    return main([stage, "paper", *paths, *own, *options])


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_every_flag_reaches_the_hardware(stage: str, tmp_path: Path, plans: list[runs.Plan]) -> None:
    assert run(stage, tmp_path) == 0
    for flags in FLAGS:
        assert run(stage, tmp_path, *flags.split()) == 0
    assert run(stage, tmp_path, *" ".join(FLAGS).split()) == 0
    together = Hardware(**{name: value for given in FLAGS.values() for name, value in given.items()})
    assert [plan.hardware for plan in plans] == [
        Hardware(),
        *(Hardware(**given) for given in FLAGS.values()),
        together,
    ]
    assert {(plan.folder, plan.cases[0].name) for plan in plans} == {(tmp_path / "run", "p1")}


def test_what_cannot_be_is_refused(
    tmp_path: Path, plans: list[runs.Plan], capsys: pytest.CaptureFixture[str]
) -> None:
    for flags in (["--precision", "64-true"], ["--device", "tpu"], ["--accumulate", "half"]):
        with pytest.raises(SystemExit):
            run("pretrain", tmp_path, *flags)
        assert flags[0] in capsys.readouterr().err
    assert not plans


def test_builtin_names_the_built_in_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless there is a folder of that name."""
    monkeypatch.chdir(tmp_path)
    assert training._bundle(Path("builtin")) == builtin_bundle()
    (tmp_path / "builtin").mkdir()
    assert training._bundle(Path("builtin")) == Path("builtin")
    assert training._bundle(tmp_path) == tmp_path


def test_a_method_is_trained_through_all_of_its_stages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each starts from the bundle of the one before, in a folder of its own, with an equal share of the minutes."""
    seen: list[tuple[Any, ...]] = []

    def fake(plan: runs.Plan, stage: Any, *, pretrained: Path | None, validation: Any) -> list[str]:
        seen.append((plan.recipe.model.method, stage.name, plan.folder, pretrained, plan.budget.minutes))
        return ["done"]

    monkeypatch.setattr(runs, "train", fake)
    write_phantom(tmp_path / "cases", "p1", shape=(16, 16, 16))
    common = ["--cases", str(tmp_path / "cases"), "--scheme", "brats2023", "--minutes", "6", "--output"]
    assert main(["train", "m3ae", *common, str(tmp_path / "two")]) == 0
    assert main(["train", "unet-dropout", *common, str(tmp_path / "one")]) == 0
    two = tmp_path / "two"
    assert seen == [
        ("m3ae", "pretrain", two / "pretrain", None, 3),
        ("m3ae", "finetune", two / "finetune", two / "pretrain" / "bundle", 3),
        ("unet-dropout", "train", tmp_path / "one", None, 6),
    ]
