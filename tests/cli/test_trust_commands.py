"""``predict --uncertainty`` and ``calibrate`` as a user meets them."""

import json
from pathlib import Path

import numpy as np
import pytest

from m3ae_core.bundle import load_bundle, save_bundle
from m3ae_core.cli import main
from m3ae_core.data.phantom import write_phantom
from m3ae_core.inference.predictor import Predictor
from m3ae_core.io.case import read_case
from m3ae_core.io.volume import read_volume
from tiny import random_bundle


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write_phantom(tmp_path / "cases", "p1")
    save_bundle(random_bundle(), tmp_path / "model")
    return tmp_path


def run(*arguments) -> int:
    return main([str(argument) for argument in arguments])


def test_the_uncertainty_of_one_case(place, capsys):
    case, out = place / "cases" / "p1", place / "u.nii.gz"
    arguments = ("predict", case, "--bundle", place / "model", "--output", place / "o.nii.gz")
    assert run(*arguments, "--uncertainty", out) == 0
    found, image = read_volume(out), read_volume(case / "p1-t2w.nii.gz")
    assert (found.affine == image.affine).all()
    assert found.data.min() == 0
    assert 0 < found.data.max() <= 1
    assert (found.data[image.data == 0] == 0).all()
    record = json.loads((place / "o.json").read_text())
    assert record["expected_dice"] is None
    assert record["volume_ml"] is None
    assert "was not calibrated" in capsys.readouterr().out
    assert run(*arguments, "--uncertainty", out, "--overwrite") == 0
    assert run(*arguments[:-1], place / "other.nii.gz", "--uncertainty", out) == 2  # it is there


@pytest.mark.parametrize("name", ["o.nii.gz", "u.txt"])
def test_mistakes(place, name):
    case = place / "cases" / "p1"
    arguments = ("predict", case, "--bundle", place / "model", "--output", place / "o.nii.gz")
    before = sorted(place.iterdir())
    assert run(*arguments, "--uncertainty", place / name) == 2
    assert sorted(place.iterdir()) == before


def test_the_uncertainty_of_a_folder_is_written_for_results_that_lack_it(place, capsys):
    arguments = ("predict", place / "cases", "--bundle", place / "model", "--output", place / "out")
    assert run(*arguments) == 0
    uncertainty = place / "maps" / "p1_uncertainty.nii.gz"
    assert run(*arguments, "--uncertainty", place / "maps") == 0
    assert read_volume(uncertainty).data.any()
    capsys.readouterr()
    assert run(*arguments, "--uncertainty", place / "maps") == 0
    assert "done before" in capsys.readouterr().out


def test_calibrate(tmp_path, capsys):
    names = ("FLAIR", "T2")
    files = [write_phantom(tmp_path / "cases", f"case-{seed}", seed=seed, present=names) for seed in range(9)]
    save_bundle(random_bundle(modalities=names), tmp_path / "model")
    arguments = ("calibrate", tmp_path / "model", "--cases", tmp_path / "cases", "--device", "cpu")
    assert run(*arguments, "--output", tmp_path / "better", "--scheme", "brats2023") == 0
    printed = capsys.readouterr().out
    assert "label scheme (cases): brats2023 (9)" in printed
    assert "calibrated on 9 cases" in printed
    before, after = load_bundle(tmp_path / "model"), load_bundle(tmp_path / "better")
    assert before.sha256 == after.sha256
    assert "calibration" not in before.card
    case = read_case(files[0], after.config.modality_set)
    prediction = Predictor(after, "cpu").predict(case.only("T2"))
    for key in ("expected_dice", "volume_ml"):
        assert set(prediction.provenance[key]) == {"WT", "TC", "ET"}
        assert all(0 <= r["low"] <= r["estimate"] <= r["high"] for r in prediction.provenance[key].values())
    assert all(r["high"] <= 1 for r in prediction.provenance["expected_dice"].values())
    assert "9 labelled cases" in prediction.provenance["calibrated_on"]
    other = Predictor(after, "cpu", window=(32, 32, 32)).predict(case)
    assert other.provenance["expected_dice"] is None  # it holds for the window it was measured with
    assert np.isfinite(other.uncertainty).all()


def test_calibrate_refuses_training_cases_and_schemes_that_do_not_match(place, capsys):
    bundle = random_bundle()
    bundle.card["training_cases"] = ["p1"]
    save_bundle(bundle, place / "model")
    arguments = ("calibrate", place / "model", "--cases", place / "cases")
    assert run(*arguments) == 2
    assert "label scheme of p1 is not stated" in capsys.readouterr().err
    assert run(*arguments, "--scheme", "brats2023") == 2
    assert "was trained on p1" in capsys.readouterr().err
    assert run(*arguments, place / "cases", place / "cases", "--scheme", "msd", "brats2021") == 2
    assert "3 folders and 2 label schemes" in capsys.readouterr().err


def test_calibrate_fits_the_mix_up_rule_and_the_alarm_names_an_exchange(tmp_path, capsys):
    for seed in range(18):
        write_phantom(tmp_path / ("a" if seed < 9 else "b"), f"case-{seed}", seed=seed)
    save_bundle(random_bundle(), tmp_path / "model")
    arguments = ("calibrate", tmp_path / "model", "--mixup", tmp_path / "a", tmp_path / "b")
    assert run(*arguments, "--output", tmp_path / "told") == 0
    said = capsys.readouterr().out
    assert "mix-up, b left out: 0 false alarms in 99 correct sets" in said
    assert "mix-up alarm: on" in said
    files = write_phantom(tmp_path / "new", "p", seed=99).images
    for name in ("FLAIR", "T2"):
        files[name] = files[name].rename(tmp_path / f"scan{len(name)}.nii.gz")
    exchanged = ("--flair", files["T2"], "--t2", files["FLAIR"])
    assert run("predict", *exchanged, "--bundle", tmp_path / "told", "--output", tmp_path / "o.nii.gz") == 0
    assert "warning: FLAIR and T2 may be mixed up" in capsys.readouterr().out


def test_calibrate_needs_something_to_learn_from(place, capsys):
    assert run("calibrate", place / "model") == 2
    assert "Give --cases, --mixup, or both" in capsys.readouterr().err
    assert run("calibrate", place / "model", "--mixup", place / "cases") == 2
    assert "there is only one" in capsys.readouterr().err


def test_without_contrast_the_enhancing_tumour_is_not_assessable_unless_asked_for(tmp_path, capsys):
    image = write_phantom(tmp_path, "p").images["T2"]
    arguments = ("predict", "--t2", image, "--output", tmp_path / "o.nii.gz")  # with the built-in model
    assert run(*arguments) == 0
    said, record = capsys.readouterr().out, json.loads((tmp_path / "o.json").read_text())
    assert "Enhancing tumour: not assessable. Without T1c" in said
    assert "ET" not in next(line for line in said.splitlines() if line.startswith("expected Dice"))
    assert record["not_assessable"]["label_values"] == [3]
    assert set(record["expected_dice"]) == {"WT", "TC", "ET"}
    more = record["one_more_sequence"]
    assert (
        f"one more sequence: with {more['sequence']} the median Dice of {more['cases']} calibration" in said
    )
    labels = read_volume(tmp_path / "o.nii.gz").data
    assert run(*arguments, "--assess-et", "--overwrite") == 0
    said, record = capsys.readouterr().out, json.loads((tmp_path / "o.json").read_text())
    assert "not assessable" not in said
    assert "ET" in next(line for line in said.splitlines() if line.startswith("expected Dice"))
    assert record["not_assessable"] is None
    np.testing.assert_array_equal(read_volume(tmp_path / "o.nii.gz").data, labels)
