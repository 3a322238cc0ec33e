"""The command line as a user meets it: results on success; one message, exit code 2 and no file on a mistake."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import psutil
import pytest

from m3ae_core.bundle import save_bundle
from m3ae_core.cli import main
from m3ae_core.cli.printed import seen_words
from m3ae_core.cli.progress import follow
from m3ae_core.cli.training import chosen_cases
from m3ae_core.data.phantom import write_phantom
from m3ae_core.events import CaseSegmented
from m3ae_core.inference.summary import read_summary
from m3ae_core.io.volume import read_labels, read_volume, write_image
from m3ae_core.modalities import BRATS, ModalitySet
from tiny import RECIPE, random_bundle, recipe_toml


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write_phantom(tmp_path / "cases", "p1")
    save_bundle(random_bundle(), tmp_path / "model")
    return tmp_path


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def run(*arguments) -> int:
    return main([str(argument) for argument in arguments])


def test_predict_a_folder(place, capsys):
    out = place / "labels.nii.gz"
    assert run("predict", place / "cases" / "p1", "--bundle", place / "model", "--output", out) == 0
    assert read_labels(out).data.any()
    printed = capsys.readouterr().out
    assert "substituted nothing" in printed
    assert "not measured" in printed
    assert json.loads((place / "labels.json").read_text())["sequences_substituted"] == []


def test_predict_names_what_it_left_out(place, capsys):
    (place / "cases" / "p1" / "p1-adc.nii.gz").touch()
    case, out = place / "cases" / "p1", place / "labels.nii.gz"
    assert run("predict", case, "--bundle", place / "model", "--output", out, "--check", "no") == 0
    assert "left out p1-adc.nii.gz: 'adc'" in capsys.readouterr().out
    assert list(json.loads((place / "labels.json").read_text())["files_unused"]) == ["p1-adc.nii.gz"]


def test_predict_takes_a_manifest_and_goes_on_after_a_question(place, capsys):
    (place / "cases" / "p2").mkdir()
    (place / "cases" / "p2" / "post_T1.nii").touch()
    assert run("scan", place / "cases", "--csv", place / "cases.csv") == 2
    for cases in (place / "cases", place / "cases.csv"):
        out = place / f"results-{len(cases.name)}"
        assert run("predict", cases, "--bundle", place / "model", "--output", out) == 2
        assert [path.name for path in out.glob("*.nii.gz")] == ["p1-m3ae.nii.gz"]
        assert "which sequence is it?" in capsys.readouterr().err.lower()


def test_predict_quotes_the_reliability_of_the_subset(place, capsys):
    figures = {region: {"median": 0.5, "q1": 0.25, "q3": 0.75, "n": 5} for region in ("WT", "TC", "ET")}
    save_bundle(replace(random_bundle(), card={"reliability": {"T2": figures}}), place / "measured")
    case = place / "cases" / "p1" / "p1-t2w.nii.gz"
    assert run("predict", "--t2", case, "--bundle", place / "measured", "--output", place / "o.nii.gz") == 0
    assert "5 validation cases, median Dice (quartiles): WT 0.50 (0.25-0.75)" in capsys.readouterr().out
    assert json.loads((place / "o.json").read_text())["reliability"] == figures


def test_predict_single_files(place, capsys):
    case = place / "cases" / "p1"
    out = place / "labels.nii"
    files = ("--t2", case / "p1-t2w.nii.gz", "--flair", case / "p1-t2f.nii.gz")
    assert run("predict", *files, "--bundle", place / "model", "--output", out, "--scheme", "brats2021") == 0
    assert "used FLAIR+T2; substituted T1, T1c" in capsys.readouterr().out
    assert set(np.unique(read_labels(out).data)) <= {0, 1, 2, 4}


def test_predict_takes_images_of_whatever_modalities_the_model_has(place, capsys):
    recipe = RECIPE.model_copy(
        update={"model": RECIPE.model.model_copy(update={"modalities": ("T1c", "CT")})}
    )
    save_bundle(random_bundle(recipe), place / "ct")
    case = place / "cases" / "p1"
    t2 = read_volume(case / "p1-t2w.nii.gz")
    hounsfield = np.where(t2.data == 0, -1000, 80 * t2.data / t2.data.max()).astype(np.float32)
    write_image(case / "p1-ct.nii.gz", hounsfield, t2.affine)
    out = ("--bundle", place / "ct", "--output", place / "o.nii.gz")
    given = ("--image", f"CT={case / 'p1-ct.nii.gz'}")
    assert run("predict", *given, *out) == 0
    assert "used CT; substituted T1c" in capsys.readouterr().out
    assert run("predict", *given, "--t1c", case / "p1-t1c.nii.gz", *out, "--overwrite") == 0
    assert "used CT+T1c; substituted nothing" in capsys.readouterr().out
    assert run("predict", "--image", f"PET={case / 'p1-ct.nii.gz'}", *out, "--overwrite") == 2
    assert "Unknown modality PET. Choose from T1c, CT." in capsys.readouterr().err


MISTAKES = [
    ("arguments", lambda p: ["--output", p / "o.nii.gz"]),
    ("both", lambda p: [p / "cases/p1", "--t2", p / "cases/p1/p1-t2w.nii.gz", "--output", p / "o.nii.gz"]),
    ("no folder", lambda p: [p / "nowhere", "--output", p / "o.nii.gz"]),
    ("no sequence", lambda p: [p / "model", "--output", p / "o.nii.gz"]),
    ("missing file", lambda p: ["--t1", p / "nothing.nii.gz", "--output", p / "o.nii.gz"]),
    ("not an image", lambda p: ["--t1", p / "model/bundle.json", "--output", p / "o.nii.gz"]),
    (
        "same file twice",
        lambda p: [
            "--t1",
            p / "cases/p1/p1-t1n.nii.gz",
            "--t1c",
            p / "cases/p1/p1-t1n.nii.gz",
            "--output",
            p / "o.nii.gz",
        ],
    ),
    ("no modality", lambda p: ["--image", p / "cases/p1/p1-t1n.nii.gz", "--output", p / "o.nii.gz"]),
    (
        "modality twice",
        lambda p: [
            "--t1",
            p / "cases/p1/p1-t1n.nii.gz",
            "--image",
            f"T1={p / 'cases/p1/p1-t1c.nii.gz'}",
            "--output",
            p / "o.nii.gz",
        ],
    ),
    ("bad suffix", lambda p: [p / "cases/p1", "--output", p / "o.mha"]),
    ("over an input", lambda p: [p / "cases/p1", "--output", p / "cases/p1/p1-t2w.nii.gz", "--overwrite"]),
    ("exists", lambda p: [p / "cases/p1", "--output", p / "cases/p1/p1-seg.nii.gz"]),
    ("no output folder", lambda p: [p / "cases/p1", "--output", p / "none" / "o.nii.gz"]),
]


@pytest.mark.parametrize(("name", "arguments"), MISTAKES, ids=[name for name, _ in MISTAKES])
def test_mistakes(place, capsys, name, arguments):
    before = snapshot(place)
    assert run("predict", *arguments(place), "--bundle", place / "model") == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("m3ae: ")
    assert snapshot(place) == before


def test_a_missing_bundle(place, capsys):
    before = snapshot(place)
    assert run("predict", place / "cases" / "p1", "--bundle", place, "--output", place / "o.nii.gz") == 2
    assert "not a model bundle" in capsys.readouterr().err
    assert snapshot(place) == before


def test_overwriting_must_be_asked_for(place):
    arguments = (
        "predict",
        place / "cases" / "p1",
        "--bundle",
        place / "model",
        "--output",
        place / "o.nii.gz",
    )
    assert run(*arguments) == 0
    assert run(*arguments) == 2
    assert run(*arguments, "--overwrite") == 0


def test_evaluate(place, capsys):
    reference = place / "cases" / "p1" / "p1-seg.nii.gz"
    assert (
        run("evaluate", reference, reference, "--scheme", "brats2023", "--reference-scheme", "brats2023") == 0
    )
    assert "WT 1.000  TC 1.000  ET 1.000" in capsys.readouterr().out
    assert run("evaluate", reference, reference) == 2
    assert "ambiguous" in capsys.readouterr().err


def test_evaluate_reads_the_scheme_from_the_sidecar(place, capsys):
    out = place / "labels.nii.gz"
    case = place / "cases" / "p1"
    assert run("predict", case, "--bundle", place / "model", "--output", out, "--scheme", "brats2021") == 0
    assert run("evaluate", out, case / "p1-seg.nii.gz", "--reference-scheme", "brats2023") == 0
    assert "Dice" in capsys.readouterr().out


def test_info(place, capsys):
    assert run("info", place / "model") == 0
    assert json.loads(capsys.readouterr().out)["card"]["name"] == "random"


def test_both_stages(place, capsys):
    write_phantom(place / "cases", "p2", seed=1)
    recipe = place / "recipe.toml"
    recipe.write_text(recipe_toml(RECIPE))
    common = (recipe, "--cases", place / "cases", "--device", "cpu", "--workers", "0")
    assert run("pretrain", *common, "--output", place / "one") == 0
    second = ("finetune", *common, "--pretrained", place / "one" / "bundle", "--output", place / "two")
    assert run(*second) == 2
    assert "The label scheme of p1, p2 is not stated." in capsys.readouterr().err
    assert run(*second, "--scheme", "brats2023") == 0
    assert run("info", place / "two" / "bundle") == 0
    assert "epoch 3/3" in capsys.readouterr().out


def test_a_recipe_with_an_unknown_setting(place, capsys):
    recipe = place / "recipe.toml"
    recipe.write_text("[pretrain]\nepoch = 3\n")
    before = snapshot(place)
    assert run("pretrain", recipe, "--cases", place / "cases", "--output", place / "one") == 2
    assert "pretrain.epoch" in capsys.readouterr().err
    assert snapshot(place) == before


def test_cases_are_found_by_the_modalities_of_the_recipe(tmp_path):
    for name in ("a-ct", "a-t1w", "a-seg", "b-ct", "b-seg"):
        (tmp_path / name[0]).mkdir(exist_ok=True)
        (tmp_path / name[0] / f"{name}.nii.gz").touch()
    found = chosen_cases(tmp_path, None, ModalitySet.named(("CT", "T1")))
    assert [(case.name, list(case.images)) for case in found] == [("a", ["CT", "T1"]), ("b", ["CT"])]


def test_cases_to_train_on_whose_files_are_called_after_two_patients_are_named(tmp_path, capsys):
    for name in ("a/p1_t1.nii", "a/p2_flair.nii", "b/p3_t1.nii"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert len(chosen_cases(tmp_path, None, BRATS)) == 2
    printed = capsys.readouterr().out
    assert (
        "warning: a: The file names speak of two patients: p2_flair.nii (FLAIR) and p1_t1.nii (T1)."
        in printed
    )
    assert "warning: b" not in printed


@pytest.mark.parametrize(
    ("card", "said"),
    [
        ({"training_cases": ["a"], "validation_cases": ["a"]}, "was trained on this case"),
        ({"validation_cases": ["a"]}, "not trained on this case"),
        ({"training_case_count": 3}, "does not tell"),
    ],
)
def test_what_a_model_saw_of_a_case_is_said(card, said):
    assert said in seen_words(card, "a")


def test_demo_on_the_built_in_case_and_model(tmp_path, capsys):
    """The main job as a newcomer meets it: real images, the shipped model, two of four sequences."""
    out = tmp_path / "out"
    assert run("demo", "--output", out, "--device", "cpu") == 0
    printed = capsys.readouterr().out
    assert "given FLAIR+T2; substituted T1, T1c" in printed
    assert "not trained on this case, but the case had a say in the choice of the recipe" in printed
    dice = {region: float(value) for region, value in re.findall(r"(WT|TC|ET) ([01]\.\d{3})\b", printed)}
    assert dice["WT"] > 0.6  # far from a random model, safely below what the model card says
    name = "BraTS-SSA-00080-000-m3ae"
    assert {path.name for path in out.iterdir()} == {f"{name}.nii.gz", f"{name}.json", f"{name}.png"}
    record = json.loads((out / f"{name}.json").read_text())
    assert record["sequences_substituted"] == ["T1", "T1c"]
    assert record["model"]["licence"] == "CC BY 4.0"
    assert record["reliability"]["WT"]["n"] == 5
    assert read_labels(out / f"{name}.nii.gz").shape == (240, 240, 155)


def test_the_built_in_model_has_a_card(capsys):
    assert run("info") == 0
    card = json.loads(capsys.readouterr().out)["card"]
    assert "BraTS-Africa" in card["data"]
    assert len(card["reliability"]) == 15
    assert len(card["training_cases"]) == 22
    assert not set(card["training_cases"]) & set(card["validation_cases"])


def test_benchmark(place, capsys):
    arguments = ("benchmark", "--cases", place / "cases", "--bundle", place / "model", "--device", "cpu")
    arguments += ("--scheme", "brats2023")
    assert run(*arguments, "--output", place / "out") == 0
    printed = capsys.readouterr().out
    assert "1/1  p1  random  mean Dice WT 0." in printed
    names = {"benchmark.json", "scores.csv", "statistics.json", "tables.md", "tables.tex", "report.html"}
    assert {path.name for path in (place / "out").iterdir() if path.is_file()} == names
    before = snapshot(place / "out")
    assert run(*arguments, "--output", place / "out") == 0
    assert "(measured before)" in capsys.readouterr().out
    assert snapshot(place / "out") == before


def test_benchmark_takes_a_scheme_of_ones_own(place, capsys):
    """As default, and for one case by its manifest."""
    own = place / "ours.toml"
    own.write_text('"necrotic core" = 1\noedema = 2\n"enhancing tumour" = 3\n"resection cavity" = 7\n')
    assert run("scan", place / "cases", "--csv", place / "plain.csv") == 0
    header, line = (place / "plain.csv").read_text().split()
    place.joinpath("stated.csv").write_text(f"{header}\n{line.removesuffix(',,')},ours.toml,\n")
    fixed = ("--bundle", place / "model", "--device", "cpu", "--output", place / "out")
    assert run("benchmark", "--cases", place / "plain.csv", "--scheme", own, *fixed) == 0
    assert "label scheme (cases): ours (enhancing tumour 3, necrotic core 1," in capsys.readouterr().out
    assert run("benchmark", "--cases", place / "stated.csv", *fixed) == 0
    assert "(measured before)" in capsys.readouterr().out
    own.write_text(own.read_text().replace("7", "8"))
    assert run("benchmark", "--cases", place / "stated.csv", *fixed) == 0
    assert "(measured before)" not in capsys.readouterr().out
    assert "resection cavity 8" in (place / "out" / "report.html").read_text()


def test_benchmark_without_a_reference(place, capsys):
    (place / "cases" / "p1" / "p1-seg.nii.gz").unlink()
    before = snapshot(place)
    arguments = ("--cases", place / "cases", "--bundle", place / "model", "--output", place / "out")
    assert run("benchmark", *arguments, "--device", "cpu", "--scheme", "brats2023") == 2
    assert "p1 has no label map" in capsys.readouterr().err
    assert snapshot(place) == before


# --- a folder of cases ------------------------------------------------------------------------------


def test_a_cohort(place, capsys):
    write_phantom(place / "cases", "p2", seed=1)
    where = ("predict", place / "cases", "--bundle", place / "model", "--output", place / "results")
    assert run(*where) == 0
    assert sorted(path.name for path in (place / "results").iterdir()) == [
        *(f"p{n}-m3ae.{end}" for n in (1, 2) for end in ("json", "nii.gz")),
        "summary.csv",
    ]
    printed = capsys.readouterr().out
    assert "2/2  p2  from FLAIR+T1+T1c+T2" in printed
    assert "2 folders: 2 done\n" in printed
    summary = place / "results" / "summary.csv"
    assert "p1,done,FLAIR+T1+T1c+T2," in summary.read_text()
    summary.unlink()
    before = snapshot(place)
    assert run(*where) == 0
    assert "(done before)" in capsys.readouterr().out
    assert "p1,done before,FLAIR+T1+T1c+T2," in summary.read_text()
    summary.unlink()
    assert snapshot(place) == before


def test_a_cohort_with_a_bad_case_ends_with_the_list_of_failures(place, capsys):
    write_phantom(place / "cases", "p2", seed=1)
    bad = place / "cases" / "p1" / "p1-t2w.nii.gz"
    bad.write_bytes(b"")
    (place / "cases" / "p3").mkdir()
    assert run("predict", place / "cases", "--bundle", place / "model", "--output", place / "results") == 2
    printed, error = capsys.readouterr()
    assert "3 folders: 1 done, 1 refused, 1 empty\n" in printed
    assert "refused: p1\nempty: p3\n" in printed
    assert "1 of the cases could not be segmented" in error
    assert f"p1: {bad}: The file is empty." in error
    assert (place / "results" / "p2-m3ae.nii.gz").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="file systems whose names are bytes")
def test_names_that_are_not_utf_8_stop_nothing(place, capsys):
    """Neither as the name of a case nor as that of an image; a damaged case among them is told like any other."""
    cases = place / "cases"
    for seed, name in enumerate(("p2", "p3"), 1):
        write_phantom(cases, name, seed=seed)
    odd = (cases / "p1").rename(cases / "caf\udce9")
    for image in list((cases / "p2").iterdir()):
        image.rename(image.with_name(f"na\udcef-{image.name}"))
    (cases / "p3" / "p3-t2w.nii.gz").rename(cases / "p3" / "\udce9-t2w.nii.gz").write_bytes(b"")
    assert run("predict", cases, "--bundle", place / "model", "--output", place / "results") == 2
    printed, error = capsys.readouterr()
    assert "3 folders: 2 done, 1 refused\n" in printed
    assert "caf\\udce9  from FLAIR" in printed
    assert "\\udce9-t2w.nii.gz: The file is empty." in error
    record = json.loads((place / "results" / f"{odd.name}-m3ae.json").read_text())
    assert odd.name in json.dumps(record, ensure_ascii=False)
    summary = (place / "results" / "summary.csv").read_text("utf-8")
    assert [line.split(",")[:2] for line in summary.splitlines()[1:]] == [
        ["caf\\udce9", "done"],
        ["p2", "done"],
        ["p3", "refused"],
    ]


def test_names_that_speak_of_another_sequence_are_asked_about(place, capsys):
    case, out = place / "cases" / "p1", place / "labels.nii.gz"
    line = ("predict", "--t1", case / "p1-t1c.nii.gz", "--bundle", place / "model", "--output", out)
    assert run(*line) == 2
    assert "p1-t1c.nii.gz was given as T1 but is called T1c" in capsys.readouterr().err
    assert not out.exists()
    assert run(*line, "--check", "no") == 0
    assert json.loads((place / "labels.json").read_text())["checked"] is False


def test_images_of_two_patients_are_refused_unless_told_otherwise(place, capsys):
    """Names and folders both speak of two, the outlines of one."""
    write_phantom(place / "cases", "p2", seed=1)
    pair = [f"--t1={place}/cases/p1/p1-t1n.nii.gz", f"--t2={place}/cases/p2/p2-t2w.nii.gz"]
    line = ("predict", *pair, "--bundle", place / "model", "--output", place / "labels.nii.gz")
    assert run(*line) == 2
    error = capsys.readouterr().err
    assert "p1-t1n.nii.gz (T1) and p2-t2w.nii.gz (T2)" in error
    assert "--same-patient" in error
    assert not (place / "labels.nii.gz").exists()
    assert run(*line, "--same-patient") == 0
    assert json.loads((place / "labels.json").read_text())["same_patient"] is True


def test_an_existing_record_is_not_overwritten_unasked(place, capsys):
    (place / "labels.json").write_text("mine")
    line = (
        "predict",
        place / "cases" / "p1",
        "--bundle",
        place / "model",
        "--output",
        place / "labels.nii.gz",
    )
    assert run(*line) == 2
    assert (place / "labels.json").read_text() == "mine"
    assert run(*line, "--overwrite") == 0


@pytest.mark.parametrize(("window", "code"), [("brain", 0), ("16", 0), ("20", 2)])
def test_another_window(place, capsys, window, code):
    case, out = place / "cases" / "p1", place / "labels.nii.gz"
    assert run("predict", case, "--bundle", place / "model", "--output", out, "--window", window) == code
    printed = capsys.readouterr()
    assert "validated with" in printed.out if code == 0 else "multiples of 8" in printed.err


def test_warnings_of_a_folder_of_cases_are_printed(capsys):
    event = CaseSegmented("p1", 1, 1, "T1", False, ("T1: odd.", "T1: very odd."))
    assert follow([event]) == event
    printed = "".join(capsys.readouterr())
    assert "warning: T1: odd." in printed
    assert "warning: T1: very odd." in printed


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full")
@pytest.mark.parametrize("sink", ["closed pipe", "/dev/full"])
def test_output_that_nobody_takes_ends_quietly(sink):
    program = [sys.executable, "-m", "m3ae_core.cli", "info"]
    if sink == "/dev/full":
        with Path(sink).open("wb") as stream:
            done = subprocess.run(program, stdout=stream, stderr=subprocess.PIPE, check=False)
        code, said = done.returncode, done.stderr
    else:
        with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
            child.stdout.close()
            said, code = child.stderr.read(), child.wait()
    assert (code, said) == (1, b"")


def test_several_processes_end_as_one(place, capsys):
    """The same files, summary and exit code, with a bad case among them."""
    for seed in (2, 3):
        write_phantom(place / "cases", f"q{seed}", seed=seed)
    next((place / "cases" / "q2").glob("*t2w*")).write_bytes(b"")
    said = []
    for name, options in (("one", ()), ("several", ("--devices", 3))):
        line = ("predict", place / "cases", "--bundle", place / "model", "--output", place / name)
        assert run(*line, *options, "--arithmetic", "float32") == 2
        said.append(capsys.readouterr().err.splitlines()[-3:])
    one, several = ({path.name: path for path in (place / name).iterdir()} for name in ("one", "several"))
    assert one.keys() == several.keys()
    for name, path in one.items():
        if name.endswith((".nii.gz", ".csv")):
            assert path.read_bytes() == several[name].read_bytes()
    assert "q2: " in "".join(said[0])
    assert said[0][-2:] == said[1][-2:]


@pytest.mark.heavy
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_one_bad_case_in_eight_and_one_killed_process(tmp_path):
    """With 1 and with 4 processes the others are done, the summary is the same, and the exit code 2."""
    for seed in range(8):
        write_phantom(tmp_path / "cases", f"p{seed}", seed=seed)
    next((tmp_path / "cases" / "p5").glob("*t2w*")).write_bytes(b"")
    save_bundle(random_bundle(), tmp_path / "model")
    line = [
        "predict",
        tmp_path / "cases",
        "--bundle",
        tmp_path / "model",
        "--arithmetic",
        "float32",
        "--output",
    ]
    assert run(*line, tmp_path / "one") == 2
    assert run(*line, tmp_path / "four", "--devices", 4) == 2
    summary = (tmp_path / "one" / "summary.csv").read_text()
    assert summary.count(",done,") == 7
    assert (tmp_path / "four" / "summary.csv").read_text() == summary
    command = [
        sys.executable,
        "-m",
        "m3ae_core.cli",
        *map(str, line),
        str(tmp_path / "killed"),
        "--devices",
        "4",
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as parent:
        third = None
        while third is None:
            assert parent.poll() is None
            children = psutil.Process(parent.pid).children()
            third = next((child for child in children if "3/4" in child.cmdline()), None)
        third.kill()  # it has p2 and p6
    assert parent.returncode == 2
    states = [record.state for record in read_summary(tmp_path / "killed" / "summary.csv")]
    assert states == ["done", "done", "refused", "done", "done", "refused", "refused", "done"]
    assert run(*line, tmp_path / "killed", "--devices", 4) == 2  # the same again does the rest
    again = (tmp_path / "killed" / "summary.csv").read_text()
    assert again.replace("done before", "done") == summary


# --- files without an orientation -------------------------------------------------------------------


def without_orientation(folder: Path) -> None:
    """Leave nothing but voxel sizes in the headers of a folder."""
    for path in folder.glob("*.nii.gz"):
        image = nib.load(path)
        bare = nib.Nifti1Image(np.asarray(image.dataobj), None)
        bare.header.set_zooms(image.header.get_zooms())
        nib.save(bare, path)


def test_orientation_is_given_for_files_without_one(place, capsys):
    without_orientation(place / "cases" / "p1")
    line = ("predict", place / "cases" / "p1", "--bundle", place / "model", "--orientation", "LPS")
    assert run(*line, "--output", place / "labels.nii.gz") == 0
    assert "".join(nib.aff2axcodes(read_labels(place / "labels.nii.gz").affine)) == "LPS"
    warnings = json.loads((place / "labels.json").read_text())["warnings"]
    assert any("the user gave LPS" in warning for warning in warnings)
    assert not any("taken as" in warning for warning in warnings)


def test_orientation_is_refused_for_files_that_tell_it(place, capsys):
    line = ("predict", place / "cases" / "p1", "--bundle", place / "model", "--orientation", "LPS")
    assert run(*line, "--output", place / "labels.nii.gz") == 2
    assert "The header tells the orientation" in capsys.readouterr().err
    assert not (place / "labels.nii.gz").exists()


def test_what_is_no_orientation_is_refused(place, capsys):
    line = ("predict", place / "cases" / "p1", "--bundle", place / "model", "--orientation", "LEFT")
    assert run(*line, "--output", place / "labels.nii.gz") == 2
    assert "'LEFT' is no orientation" in capsys.readouterr().err


def test_result_of_another_orientation_is_stale(place, capsys):
    without_orientation(place / "cases" / "p1")
    line = ("predict", place / "cases", "--bundle", place / "model", "--output", place / "out")
    assert run(*line) == 0
    assert run(*line, "--orientation", "LPS") == 2
    assert "it lies on another grid" in capsys.readouterr().err
    assert run(*line, "--orientation", "LPS", "--overwrite") == 0
    assert run(*line, "--orientation", "LPS") == 0
