"""Trainings started as processes of their own, and what their folders tell."""

from __future__ import annotations

import ast
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from napari.components import ViewerModel

import runs as whole_runs
from m3ae_core.cli import main
from m3ae_core.data.phantom import write_phantom
from m3ae_core.errors import M3AEError
from m3ae_core.files import write_json
from m3ae_core.training import record
from napari_m3ae import runs
from napari_m3ae.jobs import InlineRunner
from napari_m3ae.runs import Run
from napari_m3ae.session import Session
from napari_m3ae.training import Training, start

EPOCHS = 25


@pytest.fixture
def training(tmp_path) -> Training:
    """Stage 1 of a tiny recipe on one case, in a run folder that does not exist yet."""
    write_phantom(tmp_path / "cases", "p1", shape=(16, 16, 16))
    return Training("pretrain", "demo-2mm", tmp_path / "cases", tmp_path / "run")


@pytest.fixture
def begin(monkeypatch) -> Callable[[Training], Run]:
    """Start a real process, which does not outlive the test."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # threads that wait for one another crawl on a busy machine
    begun: list[Run] = []

    def begin(training: Training) -> Run:
        begun.append(start(training))
        return begun[-1]

    yield begin
    for run in begun:
        run.stop()
        run._child.wait(60)


@pytest.fixture
def children(monkeypatch) -> list[list[str]]:
    """The commands that would have been run as processes; none is."""
    commands: list[list[str]] = []

    class Child:
        pid = 0

        def poll(self):
            return 0

    def popen(command, **_):
        commands.append(command)
        return Child()

    monkeypatch.setattr("napari_m3ae.training.subprocess.Popen", popen)
    return commands


def until(true, seconds: float = 600) -> None:
    """Wait; a busy machine takes its time."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def refused(training: Training) -> str:
    with pytest.raises(M3AEError) as caught:
        start(training)
    return caught.value.code


# --- real processes ---------------------------------------------------------------------------------


@pytest.mark.heavy
@pytest.mark.timeout(1500)
def test_a_run_is_followed_stopped_and_resumed_to_its_end(tmp_path, begin):
    place = whole_runs.prepare(tmp_path, EPOCHS)
    training = Training("pretrain", str(place / "recipe.toml"), place / "cases", place / "run")
    run = begin(training)
    assert run.alive
    assert run.words() == "Training starts: the cases are read."
    assert refused(training) == "locked"  # though it holds the lock only once it has loaded torch
    until(lambda: run.progress().epoch > 1)
    assert Run(place / "run").alive  # as a viewer that is opened later sees it
    assert run.words().startswith("Training, about ")
    Run(place / "run").stop()
    until(lambda: not run.alive)
    assert not run.finished
    stopped = run.progress()
    assert 1 < stopped.epoch < stopped.epochs == EPOCHS
    assert run.words().startswith("Stopped. Start goes on from its last checkpoint. It last said:\nepoch")

    again = begin(training)
    until(lambda: not again.alive)
    assert again.finished, again.last_words()
    assert "resumed after epoch" in (place / "run" / runs.CONSOLE).read_text()
    for seen in (run, again):  # the first one has lived through the rewinding of the log
        losses = seen.curves().losses
        assert list(losses) == ["reconstruction", "regulariser"]
        assert [epoch for epoch, _ in losses["reconstruction"]] == list(range(1, EPOCHS + 1))
        assert seen.words().startswith("Finished. The model is in ")
    assert again.progress()[:3] == (EPOCHS, EPOCHS, 0)
    assert [path.name for path in again.substitutes()[:2]] == ["epoch-00001.npy", "epoch-00002.npy"]
    assert np.load(again.substitutes()[-1]).shape == (4, 24, 20)
    assert again.modalities == ("FLAIR", "T1", "T1c", "T2")


def test_a_run_that_cannot_begin_tells_why(training, begin, monkeypatch):
    monkeypatch.setattr(
        Training, "arguments", property(lambda self: ["curves", "/nowhere", "--output", "x.png"])
    )
    run = begin(training)
    until(lambda: not run.alive)
    assert "m3ae: " in run.last_words()
    assert "/nowhere" in run.words()
    assert not run.finished


def test_a_process_that_got_the_number_later_is_not_taken_for_the_run(tmp_path):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        write_json(
            tmp_path / runs.PROCESS, {"pid": other.pid, "command": [sys.executable, "-m", "m3ae_core.cli"]}
        )
        run = Run(tmp_path)
        assert not run.alive
        run.stop()
        time.sleep(0.2)
        assert other.poll() is None
        other.kill()


# --- what a start refuses, and what it runs --------------------------------------------------------


def test_a_folder_in_use_is_refused(training, children):
    training.output.mkdir()
    with FileLock(training.output / ".lock"):
        assert refused(training) == "locked"
    assert not children
    start(training)
    assert children == [[sys.executable, "-m", "m3ae_core.cli", *training.arguments]]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"recipe": "nonsense"}, "no-recipe"),
        ({"cases": Path("/nowhere")}, "missing"),
        ({"stage": "finetune"}, "no-pretrained"),
        ({"stage": "finetune", "pretrained": Path("/nowhere")}, "no-scheme"),
        ({"stage": "finetune", "pretrained": Path("/nowhere"), "scheme": "msd"}, "no-bundle"),
        ({"output": Path("/proc/nowhere")}, "not-writable"),
    ],
)
def test_what_cannot_be_trained_is_refused_at_once(training, children, changes, code):
    assert refused(Training(**{**vars(training), **changes})) == code
    assert not children
    assert not training.output.exists()


def test_the_second_stage_needs_a_folder_of_its_own(training, children):
    bundle = training.output / "bundle"
    bundle.mkdir(parents=True)
    write_json(bundle / "bundle.json", {"format": 1, "model": {}, "sha256": {}, "card": {}})
    second = Training("finetune", "demo-2mm", training.cases, training.output, bundle, scheme="brats2023")
    assert refused(second) == "same-folder"


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_command_and_program_do_the_same(stage, training, monkeypatch):
    own = (
        {}
        if stage == "pretrain"
        else {
            "pretrained": Path("/a 'b'/c"),
            "validation": training.cases,
            "scheme": "brats2021",
        }
    )
    told = Training(**{**vars(training), "stage": stage, **own})
    seen = []

    def train(plan, chosen, *, pretrained=None, validation=()):
        seen.append((plan, chosen.name, pretrained, tuple(validation)))
        return iter(())

    monkeypatch.setattr("m3ae_core.training.run.train", train)
    program, *arguments = shlex.split(told.command)
    assert program == "m3ae"
    assert main(arguments) == 0
    exec(compile(ast.parse(told.python), "program", "exec"), {"__name__": "__main__"})
    assert seen[0][0].folder == told.output
    assert seen[0] == seen[1]
    assert seen[0][1:3] == (stage, own.get("pretrained"))
    assert len(seen[0][3]) == (stage == "finetune")
    if stage == "finetune":
        assert {scheme.name for scheme in seen[0][0].schemes.values()} == {"brats2021"}


def test_names_in_a_run_folder_are_the_cores():
    assert (runs.LOG, runs.TIMES, runs.SUBSTITUTE) == (record.LOG, record.TIMES, record.SUBSTITUTE)


def test_following_loads_no_torch():
    code = (
        "import sys; from pathlib import Path; from napari_m3ae.training import start; "
        "from napari_m3ae.runs import Run; Run(Path('.')).words(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


# --- what a folder tells ---------------------------------------------------------------------------


def step(number: int, epoch: int, value: float = 0.5) -> str:
    return json.dumps({"step": number, "epoch": epoch, "terms": {"segmentation": value, "consistency": 0.1}})


def epoch_line(epoch: int, value: float) -> str:
    return json.dumps({"epoch": epoch, "terms": {"segmentation": value, "consistency": 0.1}})


def dice_line(epoch: int, value: float) -> str:
    return json.dumps({"epoch": epoch, "dice": {"WT": value}, "by_subset": {}})


def write_log(folder: Path, *lines: str, end: str = "\n") -> None:
    (folder / runs.LOG).write_text("\n".join(lines) + end)


def test_a_folder_without_a_run_is_said_to_be_one(tmp_path):
    assert Run(tmp_path).words() == "This folder holds no training run."
    assert Run(tmp_path).curves() == ({}, {})
    assert Run(tmp_path).last_words() == ""


def test_the_log_is_followed_as_it_grows(tmp_path):
    run = Run(tmp_path)
    write_json(tmp_path / "recipe.json", {"finetune": {"epochs": 12}, "pretrain": {"epochs": 7}})
    write_log(tmp_path, step(1, 1), end="")  # torn
    assert run.progress().steps == 0
    write_log(tmp_path, step(1, 1), epoch_line(1, 0.9), step(2, 2), step(3, 2, 0.7))
    now = run.progress()
    assert (now.epoch, now.epochs, now.steps, now.terms["segmentation"]) == (1, 12, 2, 0.7)
    assert now.seconds_left is None
    assert "1 of 12 epochs are done, and 2 steps of the next." in run.words()
    (tmp_path / "times.jsonl").write_text(
        '{"epoch": 1, "seconds": 30.0}\n{"epoch": 2, "seconds": 60.0}\n{"ep'
    )
    with (tmp_path / runs.LOG).open("a") as log:
        log.write(epoch_line(2, 0.6) + "\n" + dice_line(2, 0.25) + "\n")
    now = run.progress()
    assert (now.epoch, now.steps, now.terms["segmentation"], now.dice, now.validated) == (
        2,
        0,
        0.6,
        {"WT": 0.25},
        2,
    )
    assert now.seconds_left == 450
    assert run.curves() == (
        {"segmentation": [(1, 0.9), (2, 0.6)], "consistency": [(1, 0.1), (2, 0.1)]},
        {"WT": [(2, 0.25)]},
    )
    assert run.words().splitlines() == [
        "Started elsewhere, so that it cannot be stopped here.",
        "2 of 12 epochs are done.",
        "Losses: segmentation 0.6000, consistency 0.1000",
        "Dice after 2 epochs: WT 0.250",
    ]


def test_a_log_that_was_rewound_and_grew_again_is_read_anew(tmp_path):
    run = Run(tmp_path)
    write_log(tmp_path, epoch_line(1, 0.9), epoch_line(2, 0.8))
    assert run.progress().epoch == 2
    record.rewind(tmp_path / runs.LOG, 1)
    with (tmp_path / runs.LOG).open("a") as log:
        log.write("\n".join([epoch_line(2, 0.7), epoch_line(3, 0.6)]) + "\n")
    assert run.curves().losses["segmentation"] == [(1, 0.9), (2, 0.7), (3, 0.6)]


@pytest.mark.parametrize(("stage", "epochs"), [("first", 7), ("second", 12), ("third", None)])
def test_stage_is_what_the_run_has_noted(tmp_path, stage, epochs):
    write_json(tmp_path / "recipe.json", {"second": {"epochs": 12}, "first": {"epochs": 7}, "stage": stage})
    write_log(tmp_path, epoch_line(1, 0.9))
    assert Run(tmp_path).progress().epochs == epochs


def test_pictures_of_the_substitute_keep_left_and_right(tmp_path):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from napari_m3ae.widgets.evolution import draw_slices

    slices = np.zeros((2, 5, 4), np.float32)
    slices[1, 0, 3] = 1
    np.save(tmp_path / "one.npy", slices)
    figure = Figure(figsize=(0.8, 0.5), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1))
    draw_slices(axes, tmp_path / "one.npy")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    (picture,) = axes.images
    assert picture.get_array().shape == (5, 8)
    drawn = np.asarray(canvas.buffer_rgba())[..., 0]
    assert np.argwhere(drawn == 255).min(axis=0).tolist() == [0, 70]
    assert drawn[:10, 70:].all()


# --- the widget ------------------------------------------------------------------------------------


@pytest.fixture
def part(qtbot):
    from napari_m3ae.widgets.train import TrainPart

    part = TrainPart(Session(ViewerModel(), InlineRunner()))
    qtbot.addWidget(part)
    return part


def choose(part, training: Training) -> None:
    part.stage.setCurrentIndex(part.stage.findData(training.stage))
    part.recipe.setCurrentText(training.recipe)
    part.recipe.activated.emit(part.recipe.currentIndex())
    for name, chooser in part.folders.items():
        chooser.value = getattr(training, name)
    part.scheme.setCurrentText(training.scheme)


@pytest.mark.viewer
def test_the_controls_describe_the_training(part, training, children, qtbot):
    from qtpy.QtGui import QGuiApplication

    training = Training(
        **{**vars(training), "stage": "finetune", "pretrained": training.cases, "scheme": "brats2021"}
    )
    choose(part, training)
    part.command_button.click()
    assert QGuiApplication.clipboard().text() == training.command
    part.python_button.click()
    assert QGuiApplication.clipboard().text() == training.python
    choose(part, Training(**{**vars(training), "stage": "pretrain"}))
    assert part.folders["pretrained"].native.isHidden()
    part.start_button.click()
    assert children[0][3:] == [
        *("pretrain", "demo-2mm", "--cases", str(training.cases), "--output", str(training.output))
    ]
    assert part.run.folder == training.output
    assert str(training.output) in part.state.toolTip()


@pytest.mark.viewer
def test_what_is_missing_is_said(part, children, told, tmp_path):
    part.folders["cases"].value = tmp_path
    part.start_button.click()
    part.python_button.click()
    assert len(told) == 2
    assert told[0].startswith("'Run folder' is empty.")
    part.folders["output"].value = tmp_path / "run"
    part.start_button.click()
    assert "No case was found here" in told[2]
    assert not children
    assert part.run is None


@pytest.mark.viewer
def test_a_run_that_is_opened_is_followed_while_it_is_seen(part, qtbot, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "napari_m3ae.widgets.train.QFileDialog.getExistingDirectory", lambda *_: str(tmp_path)
    )
    write_json(tmp_path / "recipe.json", {"model": {"modalities": ["A", "B"]}, "finetune": {"epochs": 12}})
    write_log(tmp_path, *(epoch_line(epoch, 1 / epoch) for epoch in range(1, 8)), dice_line(7, 0.5))
    (tmp_path / "substitute").mkdir()
    rng = np.random.default_rng(0)
    for epoch in (1, 2):
        np.save(tmp_path / "substitute" / f"epoch-{epoch:05d}.npy", rng.random((2, 12, 10)))
    part.timer.setInterval(20)
    assert not part.timer.isActive()
    part.show()
    part.open_button.click()
    assert "7 of 12 epochs" in part.state.text()
    assert not part.stop_button.isEnabled()
    caption = part.substitute.caption.text()
    assert caption == "SYNTHETIC substitute image after epoch 2 (learned, not a patient scan): A, B"
    before = part.losses.grab().toImage()
    with (tmp_path / runs.LOG).open("a") as log:
        log.write(epoch_line(8, float("nan")) + "\n" + epoch_line(9, 0.5) + "\n")
    np.save(tmp_path / "substitute" / "epoch-00009.npy", rng.random((2, 12, 10)))
    qtbot.waitUntil(lambda: "9 of 12 epochs" in part.state.text(), timeout=5000)
    assert "after epoch 9" in part.substitute.caption.text()
    assert part.losses.grab().toImage() != before
    assert part.dice.isVisible()
    part.substitute.slider.setValue(0)
    assert "after epoch 1 " in part.substitute.caption.text()
    part.refresh()
    assert "after epoch 1 " in part.substitute.caption.text()
    part.hide()
    assert not part.timer.isActive()
