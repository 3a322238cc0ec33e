"""Learning curves, from records made by hand."""

import json

import numpy as np
import pytest

from m3ae_core.errors import BundleError, InputError
from m3ae_core.io.weights import save_checkpoint
from m3ae_core.report.curves import read_log, save_curves
from m3ae_core.training.record import log_sha256

EPOCHS = [{"epoch": epoch, "terms": {"segmentation": 1 / epoch}} for epoch in (1, 2, 3)]
STEP = {"step": 1, "epoch": 1, "terms": {"segmentation": 1.0}}
DICE = {"epoch": 3, "dice": {"WT": 0.5, "TC": 0.25}, "by_subset": {"T2": {"WT": 0.5, "TC": 0.25}}}


def write(folder, lines, tail=""):
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + tail)
    return folder


def width(path):
    return int.from_bytes(path.read_bytes()[16:20], "big")  # of a PNG's header


def test_a_panel_for_each_thing_recorded(tmp_path):
    widths = []
    for lines, substitute in (([STEP, *EPOCHS], False), ([*EPOCHS, DICE], False), ([*EPOCHS, DICE], True)):
        run = write(tmp_path, lines)
        if substitute:
            (run / "substitute").mkdir()
            for epoch in (1, 2, 10):
                np.save(
                    run / "substitute" / f"epoch-{epoch:05d}.npy", np.random.default_rng(0).random((4, 6, 5))
                )
        widths.append(width(save_curves(run, tmp_path / "curves.png")))
    assert widths == [630, 1260, 1890]


def test_a_line_being_written_is_left_out(tmp_path):
    epochs, validations = read_log(write(tmp_path, EPOCHS, '{"epoch": 4, "ter'))
    assert [line.model_dump(exclude_unset=True) for line in epochs] == EPOCHS
    assert validations == []


@pytest.mark.parametrize(
    "line",
    [
        {"epoch": 4},
        {"epoch": "4", "terms": {"segmentation": 1.0}},
        {"epoch": True, "terms": {"segmentation": 1.0}},
        {"epoch": 4, "terms": {"segmentation": "1"}},
        {"epoch": 4, "terms": {"reconstruction": 1.0}},
        {"epoch": 4, "dice": {"WT": 0.5}},
        {**DICE, "dice": {"WT": 0.5}},
        ["terms"],
    ],
)
def test_a_line_that_cannot_be_drawn(tmp_path, line):
    with pytest.raises(InputError) as caught:
        save_curves(write(tmp_path, [*EPOCHS, DICE, line]), tmp_path / "curves.png")
    assert caught.value.code == "no-run"


def test_a_loss_that_is_not_finite_is_read(tmp_path):
    epochs, _ = read_log(write(tmp_path, [{"epoch": 1, "terms": {"segmentation": float("nan")}}]))
    assert np.isnan(epochs[0].terms["segmentation"])


@pytest.mark.parametrize("change", ["value", "line", "order", None])
def test_a_log_that_was_changed_since_the_checkpoint_is_refused(tmp_path, change):
    """What was written after the checkpoint is not in its hash, and is drawn."""
    write(tmp_path, EPOCHS)
    save_checkpoint(tmp_path / "checkpoint.pt", {"epoch": 3, "log": log_sha256(tmp_path)})
    later = {"epoch": 4, "terms": {"segmentation": 0.2}}
    changed = {
        "value": [*EPOCHS[:2], {"epoch": 3, "terms": {"segmentation": 0.1}}],
        "line": EPOCHS[1:],
        "order": EPOCHS[::-1],
        None: EPOCHS,
    }[change]
    write(tmp_path, [*changed, later])
    if change is None:
        assert [line.epoch for line in read_log(tmp_path)[0]] == [1, 2, 3, 4]
        return
    with pytest.raises(InputError, match=r"not what it was when the run's checkpoint was written") as caught:
        save_curves(tmp_path, tmp_path / "curves.png")
    assert caught.value.code == "other-log"
    assert not (tmp_path / "curves.png").exists()


def test_a_log_beside_a_damaged_checkpoint_is_refused_and_beside_an_older_one_drawn(tmp_path):
    write(tmp_path, EPOCHS)
    save_checkpoint(tmp_path / "checkpoint.pt", {"epoch": 1})
    assert [line.epoch for line in read_log(tmp_path)[0]] == [1, 2, 3]
    (tmp_path / "checkpoint.pt").write_bytes(b"x")
    with pytest.raises(BundleError):
        read_log(tmp_path)


@pytest.mark.parametrize(("lines", "code"), [(None, "no-run"), ([STEP], "no-epoch"), ([], "no-epoch")])
def test_nothing_to_draw(tmp_path, lines, code):
    if lines is not None:
        write(tmp_path, lines)
    with pytest.raises(InputError) as caught:
        save_curves(tmp_path, tmp_path / "curves.png")
    assert caught.value.code == code
    assert not (tmp_path / "curves.png").exists()
