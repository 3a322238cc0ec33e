"""Both stages on phantoms: they learn, resume bit-exactly after any stop, and end in a bundle that predicts."""

import hashlib
import json
from itertools import islice

import numpy as np
import pytest
import torch

from m3ae_core.bundle import load_bundle, save_bundle
from m3ae_core.config import parse_recipe
from m3ae_core.errors import ConfigError, InputError, OutputError
from m3ae_core.events import EpochDone, Progress, Resumed, Saved, StepDone, Validated
from m3ae_core.hardware import Hardware
from m3ae_core.inference.predictor import Predictor
from m3ae_core.io.case import CaseFiles, find_case, read_case
from m3ae_core.io.weights import load_pickle
from m3ae_core.methods.m3ae.stages import Finetune, Pretrain, starting_segmenter
from m3ae_core.stage_config import ScannerConfig
from m3ae_core.training import run as runs_of
from m3ae_core.training.run import Plan, train
from runs import flat
from tiny import RECIPE, with_substitute, write_cases

CPU = Hardware(device="cpu", workers=0)


def pretrain(recipe, cases, folder, hardware=CPU):
    return train(Plan(recipe, cases, folder, hardware=hardware), Pretrain())


def finetune(recipe, cases, pretrained, folder, validation=(), hardware=CPU):
    plan = Plan(recipe, cases, folder, hardware=hardware)
    return train(plan, Finetune(), pretrained=pretrained, validation=validation)


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    return write_cases(tmp_path_factory.mktemp("cases"), 4)


@pytest.fixture(scope="module")
def first_stage(cases, tmp_path_factory):
    folder = tmp_path_factory.mktemp("one") / "pretrain"
    return folder, list(pretrain(RECIPE, cases, folder))


@pytest.fixture(scope="module")
def second_stage(cases, first_stage, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two") / "finetune"
    pretrained = first_stage[0] / "bundle"
    return folder, list(finetune(RECIPE, cases[:2], pretrained, folder, validation=cases[2:]))


def of(kind, events):
    return [event for event in events if isinstance(event, kind)]


def same_state(one, two):
    a, b = (flat(load_pickle(folder / "checkpoint.pt")) for folder in (one, two))
    assert a.keys() == b.keys()
    return all(
        torch.equal(value, b[name]) if isinstance(value, torch.Tensor) else value == b[name]
        for name, value in a.items()
    )


def test_pretraining_reports_and_learns(first_stage):
    _, events = first_stage
    assert [event.done for event in of(Progress, events)] == [1, 2, 3, 4]
    assert [event.step for event in of(StepDone, events)] == list(range(1, 7))  # 3 epochs of 2 batches of 2
    epochs = of(EpochDone, events)
    assert set(epochs[0].terms) == {"reconstruction", "regulariser"}
    assert epochs[-1].terms["reconstruction"] < epochs[0].terms["reconstruction"]
    assert isinstance(events[-1], Saved)


def test_the_substitute_moves_from_its_noise(first_stage):
    torch.manual_seed(RECIPE.pretrain.seed)
    bundle = load_bundle(first_stage[0] / "bundle")
    assert bundle.model.segmenter is None
    assert bundle.model.substitute.std() < 1  # the regulariser pulls it in


def test_a_bundle_tells_how_many_cases_trained_it_and_the_run_folder_which(first_stage):
    folder, names = first_stage[0], ["case-0", "case-1", "case-2", "case-3"]
    card = load_bundle(folder / "bundle").card
    assert card["training_case_count"] == 4
    assert card["training_cases_sha256"] == hashlib.sha256(b"case-0\ncase-1\ncase-2\ncase-3\n").hexdigest()
    assert "case-0" not in (folder / "bundle" / "bundle.json").read_text()
    assert list(json.loads((folder / "cases.json").read_text())["training"]) == names


def test_a_bundle_names_its_cases_where_asked(tmp_path):
    cases = [CaseFiles(name, {}, None) for name in ("b", "a")]
    named, unnamed = (
        Plan(RECIPE, cases, tmp_path, name_cases=asked).card(Pretrain(), None, {}) for asked in (True, False)
    )
    assert named["training_cases"] == ["b", "a"]
    assert {**named, "made": ""} == {**unnamed, "made": "", "training_cases": ["b", "a"]}


def test_finetuning_reports_validates_and_keeps_both_networks(second_stage, first_stage):
    folder, events = second_stage
    assert set(of(StepDone, events)[0].terms) == {"segmentation", "consistency"}
    assert [event.epoch for event in of(Validated, events)] == [2, 3]
    assert set(of(Validated, events)[0].dice) == {"WT", "TC", "ET"}
    assert len(of(Validated, events)[0].by_subset) == 4
    bundle, pretrained = load_bundle(folder / "bundle"), load_bundle(first_stage[0] / "bundle")
    assert torch.equal(bundle.model.substitute, pretrained.model.substitute)
    theirs = pretrained.model.autoencoder.state_dict()
    assert all(
        torch.equal(tensor, theirs[name]) for name, tensor in bundle.model.autoencoder.state_dict().items()
    )
    start = pretrained.model.autoencoder.backbone.state_dict()
    moved = bundle.model.segmenter.backbone.state_dict()
    assert not all(torch.equal(tensor, moved[name]) for name, tensor in start.items())


def test_the_bundle_predicts(second_stage, cases):
    predictor = Predictor(load_bundle(second_stage[0] / "bundle"), "cpu")
    case = read_case(cases[0]).only("T2")
    assert predictor.predict(case).labels.shape == case.shape


def test_two_modalities(cases, tmp_path):
    """Nothing is wired to four: a model of FLAIR and T2 trains and predicts from either."""
    content = RECIPE.model_dump()
    content["model"]["modalities"] = ("T2", "FLAIR")
    content["finetune"]["validate_on"] = "all"
    for stage in ("pretrain", "finetune"):
        content[stage]["epochs"] = 1
    content["pretrain"]["masking"]["ratio"] = 0.75
    recipe = parse_recipe(content)
    list(pretrain(recipe, cases, tmp_path / "one"))
    run = finetune(recipe, cases[:2], tmp_path / "one/bundle", tmp_path / "two", validation=cases[2:3])
    validated = of(Validated, list(run))[0]
    assert list(validated.by_subset) == ["FLAIR", "T2", "FLAIR+T2"]
    predictor = Predictor(load_bundle(tmp_path / "two" / "bundle"), "cpu")
    modalities = recipe.model.modality_set
    case = read_case(find_case(cases[0].images["T2"].parent, modalities), modalities).only("FLAIR")
    assert predictor.predict(case).provenance["sequences_substituted"] == ["T2"]


def test_the_log_is_the_history(second_stage):
    lines = [json.loads(line) for line in (second_stage[0] / "log.jsonl").read_text().splitlines()]
    steps, epochs, validations = (
        [line for line in lines if key in line] for key in ("step", "terms", "dice")
    )
    assert [line["step"] for line in steps] == [1, 2, 3, 4, 5, 6]
    assert [line["epoch"] for line in epochs if "step" not in line] == [1, 2, 3]
    assert [line["epoch"] for line in validations] == [2, 3]
    events = of(Validated, second_stage[1])
    assert [line["by_subset"] for line in validations] == [event.by_subset for event in events]


@pytest.mark.parametrize("steps", [4, 8])
def test_pretraining_resumes_bit_exactly(first_stage, cases, tmp_path, steps):
    run = pretrain(RECIPE, cases, tmp_path)
    list(islice(run, 4 + steps))  # four cases read, then so many events of training
    run.close()
    torch.manual_seed(123)  # whatever happens in between
    list(pretrain(RECIPE, cases, tmp_path))
    assert same_state(first_stage[0], tmp_path)
    assert load_bundle(tmp_path / "bundle").sha256 == load_bundle(first_stage[0] / "bundle").sha256


@pytest.mark.parametrize("steps", [6])
def test_finetuning_resumes_bit_exactly(second_stage, first_stage, cases, tmp_path, steps):
    def run():
        pretrained = first_stage[0] / "bundle"
        return finetune(RECIPE, cases[:2], pretrained, tmp_path, validation=cases[2:])

    events = run()
    list(islice(events, 4 + steps))
    events.close()
    torch.manual_seed(123)
    list(run())
    assert same_state(second_stage[0], tmp_path)
    assert load_bundle(tmp_path / "bundle").sha256 == load_bundle(second_stage[0] / "bundle").sha256


def test_another_seed_is_another_run(first_stage, cases, tmp_path):
    """Guards the tests above: equality must not come for free."""
    recipe = RECIPE.model_copy(update={"pretrain": RECIPE.pretrain.model_copy(update={"seed": 1})})
    list(pretrain(recipe, cases, tmp_path))
    assert not same_state(first_stage[0], tmp_path)


def test_a_run_of_other_settings_is_not_resumed(first_stage, cases):
    recipe = RECIPE.model_copy(
        update={"pretrain": RECIPE.pretrain.model_copy(update={"learning_rate": 1e-5})}
    )
    before = {path: path.read_bytes() for path in first_stage[0].rglob("*") if path.is_file()}
    with pytest.raises(OutputError) as caught:
        list(pretrain(recipe, cases, first_stage[0]))
    assert caught.value.code == "other-recipe"
    assert before == {path: path.read_bytes() for path in first_stage[0].rglob("*") if path.is_file()}


def test_finetuning_refuses_another_model(first_stage, cases, tmp_path):
    network = RECIPE.model.network.model_copy(update={"upsample": "nearest"})
    recipe = RECIPE.model_copy(update={"model": RECIPE.model.model_copy(update={"network": network})})
    with pytest.raises(ConfigError) as caught:
        list(finetune(recipe, cases, first_stage[0] / "bundle", tmp_path))
    assert caught.value.code == "other-recipe"
    assert not list(tmp_path.iterdir())


def test_a_run_folder_has_one_run(cases, tmp_path):
    run = pretrain(RECIPE, cases, tmp_path / "run")
    next(run)
    with pytest.raises(OutputError) as caught:
        list(pretrain(RECIPE, cases, tmp_path / "run"))
    assert caught.value.code == "locked"
    run.close()  # and the folder is free again
    next(pretrain(RECIPE, cases, tmp_path / "run"))


def test_what_a_killed_run_left_half_written_goes(cases, tmp_path):
    """Not in the cache, which other runs may be writing to."""
    left = [
        tmp_path / name for name in ("run/.tmp-1-2-checkpoint.pt", "run/best/.tmp-1-2-weights.safetensors")
    ]
    others = tmp_path / "cache/.tmp-3-4-image.npy"
    for path in (*left, others):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    next(pretrain(RECIPE, cases, tmp_path / "run"))
    assert [path.exists() for path in (*left, others)] == [False, False, True]


def test_the_best_bundle_is_that_of_the_best_epoch(cases, first_stage, tmp_path, monkeypatch):
    """Validation follows a script; what is kept is the moving average after the best epoch, and its figures."""
    scores, seen = {1: 0.3, 2: 0.8, 3: 0.5}, {}

    def scripted(self, epoch, model):
        seen[epoch] = {name: tensor.clone() for name, tensor in model.segmenter.state_dict().items()}
        return Validated(epoch, {"WT": scores[epoch]}, {"T2": {"WT": scores[epoch]}})

    monkeypatch.setattr(runs_of.Validation, "run", scripted)
    changes = {"ema": 0.5, "validate_every": 1}
    recipe = RECIPE.model_copy(update={"finetune": RECIPE.finetune.model_copy(update=changes)})
    list(finetune(recipe, cases[:1], first_stage[0] / "bundle", tmp_path, validation=cases[2:3]))
    best, last = (load_bundle(tmp_path / name) for name in ("best", "bundle"))
    for bundle, epoch in ((best, 2), (last, 3)):
        found = bundle.model.segmenter.state_dict()
        assert all(torch.equal(tensor, seen[epoch][name]) for name, tensor in found.items())
        assert bundle.card["epoch"] == epoch
    assert best.card["validation_dice"] == {"T2": {"WT": 0.8}}
    raw = load_pickle(tmp_path / "checkpoint.pt")["task"]
    assert any(not torch.equal(raw[f"network.{name}"], tensor) for name, tensor in seen[3].items())


def test_without_validation_there_is_no_best_bundle(cases, first_stage, tmp_path):
    run = finetune(one_epoch(RECIPE), cases[:1], first_stage[0] / "bundle", tmp_path)
    assert not of(Validated, list(run))
    assert not (tmp_path / "best").exists()


# --- the ablation (Table 3) ------------------------------------------------------------------------


def one_epoch(recipe, **changes):
    content = recipe.model_dump()
    for stage in ("pretrain", "finetune"):
        content[stage] |= {"epochs": 1} | changes.get(stage, {})
    return parse_recipe(content)


def test_row_a_starts_from_random_weights(cases, first_stage, tmp_path, monkeypatch):
    """The network before the first step: the pretrained one, or one that the seed decides."""
    starts = []
    monkeypatch.setattr(runs_of, "prepare", lambda network, _: starts.append(network.backbone.state_dict()))
    for pretrained in (True, False):
        recipe = one_epoch(RECIPE, finetune={"pretrained": pretrained})
        run = finetune(recipe, cases[:1], first_stage[0] / "bundle", tmp_path / str(pretrained))
        events = iter(run)
        while not isinstance(next(events), Resumed):
            pass
        starts[-1] = {name: tensor.clone() for name, tensor in starts[-1].items()}
        run.close()
    theirs = load_bundle(first_stage[0] / "bundle").model.autoencoder.backbone.state_dict()
    same = [all(torch.equal(start[name], tensor) for name, tensor in theirs.items()) for start in starts]
    assert same == [True, False]


def test_a_bundle_that_segments_is_gone_on_from(cases, second_stage):
    """The weights to start from are its segmenter's, heads and all, unless random ones are asked for."""
    start = load_bundle(second_stage[0] / "bundle")
    theirs = start.model.segmenter.state_dict()
    found = starting_segmenter(RECIPE, start.model).state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in theirs.items())
    random = one_epoch(RECIPE, finetune={"pretrained": False})
    assert not torch.equal(
        starting_segmenter(random, start.model).state_dict()["heads.at_full.weight"],
        theirs["heads.at_full.weight"],
    )


def test_rows_c_and_d_replace_the_substitute(cases, tmp_path):
    """Zero, or the mean of the training images; bundles hold it unchanged, in half precision."""
    found, used = {}, [cases[0], cases[1]]
    for kind in ("zero", "mean"):
        recipe = one_epoch(RECIPE, pretrain={"substitute": {"kind": kind}})
        events = list(pretrain(recipe, used, tmp_path / kind))
        assert set(of(EpochDone, events)[0].terms) == {"reconstruction"}
        assert not (tmp_path / kind / "substitute").exists()
        found[kind] = load_bundle(tmp_path / kind / "bundle").model.substitute
    images = [np.load(path) for path in (tmp_path / "cache").glob("*-image.npy")]
    assert len(images) == 2
    assert not found["zero"].any()
    mean = torch.from_numpy(np.mean(images, axis=0))
    torch.testing.assert_close(found["mean"], mean.half().float(), atol=1e-3, rtol=0)


def test_the_substitute_is_recorded_as_it_evolves(first_stage):
    folder = first_stage[0] / "substitute"
    assert sorted(path.name for path in folder.iterdir()) == [f"epoch-0000{epoch}.npy" for epoch in (1, 2, 3)]
    last = np.load(folder / "epoch-00003.npy")
    image = load_bundle(first_stage[0] / "bundle").model.substitute
    np.testing.assert_allclose(last, image[:, image.shape[1] // 2], atol=2e-3)
    assert not np.array_equal(last, np.load(folder / "epoch-00001.npy"))


def test_incomplete_validation_cases_are_refused(cases, first_stage, tmp_path):
    images = {name: path for name, path in cases[0].images.items() if name != "T1c"}
    half = [CaseFiles("half", images, cases[0].labels)]
    with pytest.raises(InputError, match="half lacks T1c") as caught:
        list(finetune(RECIPE, cases, first_stage[0] / "bundle", tmp_path, half))
    assert caught.value.code == "incomplete"


def test_stage_1_takes_cases_without_labels_or_sequences(cases, tmp_path):
    images = {name: path for name, path in cases[0].images.items() if name != "T1c"}
    list(pretrain(RECIPE, [CaseFiles("half", images, None), *cases[1:]], tmp_path))
    assert load_bundle(tmp_path / "bundle").model.autoencoder is not None


def test_a_run_is_not_resumed_with_other_cases(first_stage, cases):
    """Nor with the same names over other images."""
    folder = first_stage[0]
    before = (folder / "checkpoint.pt").read_bytes(), (folder / "bundle" / "bundle.json").read_bytes()
    swapped = dict(cases[0].images) | {"T1": cases[0].images["T2"], "T2": cases[0].images["T1"]}
    for other, said in ((cases[:3], "case-3"), ([CaseFiles("case-0", swapped, None), *cases[1:]], "case-0")):
        with pytest.raises(OutputError, match=said) as caught:
            list(pretrain(RECIPE, other, folder))
        assert caught.value.code == "other-data"
    assert before == (
        (folder / "checkpoint.pt").read_bytes(),
        (folder / "bundle" / "bundle.json").read_bytes(),
    )


def test_stage_2_is_not_resumed_from_another_stage_1(second_stage, first_stage, cases, tmp_path):
    bundle = load_bundle(first_stage[0] / "bundle")
    other = save_bundle(with_substitute(bundle, bundle.model.substitute + 1), tmp_path / "other")
    with pytest.raises(OutputError, match="another pretrained model") as caught:
        list(finetune(RECIPE, cases[:2], other, second_stage[0], validation=cases[2:]))
    assert caught.value.code == "other-data"
    with pytest.raises(OutputError, match="other validation cases"):
        list(finetune(RECIPE, cases[:2], first_stage[0] / "bundle", second_stage[0]))


def test_mixed_precision_differs_by_rounding_alone(cases, tmp_path):
    """Both stages, with all that makes images: they are made in float32, and losses computed in it."""
    recipe = RECIPE.model_copy(
        update={
            "pretrain": RECIPE.pretrain.model_copy(update={"epochs": 1}),
            "finetune": RECIPE.finetune.model_copy(
                update={"epochs": 1, "scanner": ScannerConfig(probability=1), "ema": 0.9, "teacher": 0.5}
            ),
        }
    )
    losses = []
    for precision in ("32-true", "bf16-mixed"):
        hardware, folder = Hardware(device="cpu", workers=0, precision=precision), tmp_path / precision
        events = list(pretrain(recipe, cases, folder / "one", hardware))
        events += finetune(recipe, cases, folder / "one/bundle", folder / "two", hardware=hardware)
        losses.append([sum(event.terms.values()) for event in of(EpochDone, events)])
    exact, mixed = losses
    assert exact != mixed
    assert mixed == pytest.approx(exact, rel=0.02)
