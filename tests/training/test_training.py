"""Both stages on phantoms: they learn, resume bit-exactly after any stop, and end in a bundle that predicts."""

import json
from itertools import islice

import numpy as np
import pytest
import torch

from m3ae_core.bundle import load_bundle, read_card
from m3ae_core.config import parse_recipe
from m3ae_core.data.case import find_case, read_case
from m3ae_core.errors import ConfigError, InputError, OutputError
from m3ae_core.events import EpochDone, Progress, Saved, StepDone, Validated
from m3ae_core.hardware import Hardware
from m3ae_core.inference.predictor import Predictor
from m3ae_core.training import stages
from m3ae_core.training.launch import launch
from m3ae_core.training.loop import cosine
from m3ae_core.training.stages import Plan, run_folder
from m3ae_core.training.tasks import FinetuneTask
from runs import differences
from tiny import RECIPE, write_cases

CPU = Hardware(device="cpu", workers=0)


def pretrain(recipe, cases, folder, hardware=CPU):
    return stages.pretrain(Plan(recipe, cases, folder, hardware=hardware))


def finetune(recipe, cases, pretrained, folder, validation=(), hardware=CPU):
    return stages.finetune(Plan(recipe, cases, folder, hardware=hardware), pretrained, validation)


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


def same_run(one, two):
    """Parameters, substitute, optimiser, bundles and log are the same to the bit."""
    return not differences(one, two)


def test_pretraining_reports_and_learns(first_stage):
    _, events = first_stage
    assert [event.done for event in of(Progress, events)] == [1, 2, 3, 4]
    assert [event.step for event in of(StepDone, events)] == list(range(1, 7))  # 3 epochs of 4 / 2 steps
    epochs = of(EpochDone, events)
    assert set(epochs[0].terms) == {"reconstruction", "regulariser"}
    assert epochs[-1].terms["reconstruction"] < epochs[0].terms["reconstruction"]
    assert isinstance(events[-1], Saved)


def test_the_substitute_moves_from_its_noise(first_stage):
    torch.manual_seed(RECIPE.pretrain.seed)
    bundle = load_bundle(first_stage[0] / "bundle")
    assert bundle.segmenter is None
    assert bundle.substitute.std() < 1  # the regulariser pulls it in
    assert bundle.card["training_cases"] == ["case-0", "case-1", "case-2", "case-3"]


def test_finetuning_reports_validates_and_keeps_both_networks(second_stage, first_stage):
    folder, events = second_stage
    assert set(of(StepDone, events)[0].terms) == {"segmentation", "consistency"}
    assert [event.epoch for event in of(Validated, events)] == [2, 3]
    assert set(of(Validated, events)[0].dice) == {"WT", "TC", "ET"}
    assert len(of(Validated, events)[0].by_subset) == 4
    bundle, pretrained = load_bundle(folder / "bundle"), load_bundle(first_stage[0] / "bundle")
    assert torch.equal(bundle.substitute, pretrained.substitute)
    theirs = pretrained.autoencoder.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in bundle.autoencoder.state_dict().items())
    start = pretrained.autoencoder.backbone.state_dict()
    moved = bundle.segmenter.backbone.state_dict()
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
    run = finetune(recipe, cases[:2], tmp_path / "one/bundle", tmp_path / "two", validation=cases[2:])
    validated = of(Validated, list(run))[0]
    assert list(validated.by_subset) == ["T2", "FLAIR", "T2+FLAIR"]
    predictor = Predictor(load_bundle(tmp_path / "two" / "bundle"), "cpu")
    modalities = recipe.model.modality_set
    case = read_case(find_case(cases[0].images["T2"].parent, modalities), modalities).only("FLAIR")
    assert predictor.predict(case).provenance["sequences_substituted"] == ["T2"]


def test_the_log_is_the_history(second_stage):
    lines = [json.loads(line) for line in (second_stage[0] / "log.jsonl").read_text().splitlines()]
    kinds = ["step" if "step" in line else "dice" if "dice" in line else "epoch" for line in lines]
    assert kinds == [
        "step",
        "step",
        "epoch",
        "step",
        "step",
        "epoch",
        "dice",
        "step",
        "step",
        "epoch",
        "dice",
    ]
    assert [line["epoch"] for line in lines] == [1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3]


@pytest.mark.parametrize("steps", [1, 4, 8])
def test_pretraining_resumes_bit_exactly(first_stage, cases, tmp_path, steps):
    run = pretrain(RECIPE, cases, tmp_path)
    list(islice(run, 4 + steps))  # four cases read, then so many events of training
    run.close()
    torch.manual_seed(123)  # whatever happens in between
    list(pretrain(RECIPE, cases, tmp_path))
    assert same_run(first_stage[0], tmp_path)
    assert load_bundle(tmp_path / "bundle").sha256 == load_bundle(first_stage[0] / "bundle").sha256


@pytest.mark.parametrize("steps", [2, 6])
def test_finetuning_resumes_bit_exactly(second_stage, first_stage, cases, tmp_path, steps):
    def run():
        pretrained = first_stage[0] / "bundle"
        return finetune(RECIPE, cases[:2], pretrained, tmp_path, validation=cases[2:])

    events = run()
    list(islice(events, 4 + steps))
    events.close()
    torch.manual_seed(123)
    list(run())
    assert same_run(second_stage[0], tmp_path)
    assert load_bundle(tmp_path / "bundle").sha256 == load_bundle(second_stage[0] / "bundle").sha256


def test_another_seed_is_another_run(first_stage, cases, tmp_path):
    """Guards the tests above: equality must not come for free."""
    recipe = RECIPE.model_copy(update={"pretrain": RECIPE.pretrain.model_copy(update={"seed": 1})})
    list(pretrain(recipe, cases, tmp_path))
    assert not same_run(first_stage[0], tmp_path)


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


def test_a_run_folder_has_one_run(tmp_path):
    plan, fabric = Plan(RECIPE, (), tmp_path), launch(CPU)
    with (
        run_folder(plan, "pretrain", fabric),
        pytest.raises(OutputError) as caught,
        run_folder(plan, "pretrain", fabric),
    ):
        pass
    assert caught.value.code == "locked"


def test_the_best_bundle_is_of_the_best_epoch(second_stage):
    folder, events = second_stage
    best = max(of(Validated, events), key=lambda event: event.mean)
    card = read_card(folder / "best")["card"]
    assert card["epoch"] == best.epoch
    assert card["validation_dice"] == best.by_subset


def test_the_average_is_what_is_kept(cases, first_stage, tmp_path):
    """Weights averaged by hand over the steps of a run are those of its bundle."""
    recipe = RECIPE.model_copy(update={"finetune": RECIPE.finetune.model_copy(update={"ema": 0.5})})
    seen = []

    def remember(task, original=FinetuneTask.after_step):
        seen.append({name: tensor.clone() for name, tensor in task.segmenter.state_dict().items()})
        original(task)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FinetuneTask, "after_step", remember)
        list(finetune(recipe, cases[:2], first_stage[0] / "bundle", tmp_path / "run"))
    kept = load_bundle(tmp_path / "run" / "bundle").segmenter.state_dict()
    for name, tensor in kept.items():
        average = seen[0][name]
        for weights in seen[1:]:
            average = 0.5 * average + 0.5 * weights[name]
        torch.testing.assert_close(tensor, average, rtol=1e-4, atol=1e-6)
        assert "norm" in name or not torch.equal(tensor, seen[-1][name])


@pytest.mark.parametrize("kind", ["zero", "mean"])
def test_a_substitute_that_is_not_learned(cases, tmp_path, kind):
    content = RECIPE.model_dump()
    content["pretrain"]["substitute"]["kind"] = kind
    content["pretrain"]["epochs"] = 1
    events = list(pretrain(parse_recipe(content), cases, tmp_path / "run"))
    assert set(of(EpochDone, events)[0].terms) == {"reconstruction"}
    substitute = load_bundle(tmp_path / "run" / "bundle").substitute
    images = [np.load(path) for path in (tmp_path / "cache").glob("*-image.npy")]
    expected = np.zeros_like(images[0]) if kind == "zero" else np.mean(images, axis=0)
    np.testing.assert_allclose(substitute, expected, atol=5e-4)  # bundles keep half precision


def test_without_pretraining_the_backbone_is_new(cases, first_stage, tmp_path):
    """Table 3, row a: another start, hence another first loss, than with the pretrained backbone."""
    losses = {}
    for pretrained in (True, False):
        stage = RECIPE.finetune.model_copy(update={"pretrained": pretrained, "epochs": 1})
        recipe = RECIPE.model_copy(update={"finetune": stage})
        run = finetune(recipe, cases[:2], first_stage[0] / "bundle", tmp_path / str(pretrained))
        losses[pretrained] = of(StepDone, list(run))[0].terms["segmentation"]
    assert losses[True] != losses[False]


def test_incomplete_training_case(cases, tmp_path):
    from m3ae_core.data.case import CaseFiles

    images = {name: path for name, path in cases[0].images.items() if name != "T1c"}
    with pytest.raises(InputError) as caught:
        list(pretrain(RECIPE, [CaseFiles("half", images, cases[0].labels)], tmp_path))
    assert "T1c" in str(caught.value)


def test_cosine():
    assert cosine(0, 600) == 1
    assert cosine(300, 600) == pytest.approx(0.5)
    assert 0 < cosine(599, 600) < 1e-4
