"""From a case with any subset to labels on its own grid, and a record of how they were made."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from m3ae_core.bundle import Bundle
from m3ae_core.data import preprocess
from m3ae_core.data.phantom import AFFINE, phantom
from m3ae_core.data.preprocess import Standardiser
from m3ae_core.errors import BundleError, ConfigError, InputError, OutputError
from m3ae_core.evaluation.metrics import compare_files
from m3ae_core.events import Progress
from m3ae_core.inference import device as devices
from m3ae_core.inference import predictor as predictors
from m3ae_core.inference.device import cpu_has_bfloat16
from m3ae_core.inference.predictor import Prediction, Predictor, save_prediction
from m3ae_core.io.case import Case
from m3ae_core.io.grid import Grid, resample
from m3ae_core.io.sidecar import saved_scheme, sidecar_of
from m3ae_core.io.volume import Volume, read_labels, write_labels
from m3ae_core.methods.m3ae.method import M3AE
from m3ae_core.modalities import BRATS
from m3ae_core.nn.windows import Extent, fill_extent
from m3ae_core.regions import BRATS_2021, BRATS_2023, REGIONS, encode
from tiny import RECIPE, random_bundle


@pytest.fixture(scope="module")
def case() -> Case:
    images, _ = phantom()
    return Case("phantom", BRATS, {name: Volume(data, AFFINE) for name, data in images.items()})


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(random_bundle(), "cpu")


@pytest.mark.parametrize("subset", BRATS.subsets(), ids=str)
def test_every_subset(case, predictor, subset):
    prediction = predictor.predict(case.only(*subset.present))
    assert prediction.labels.shape == case.shape
    assert prediction.labels.dtype == np.uint8
    assert (prediction.affine == case.affine).all()
    assert prediction.subset == subset
    assert list(prediction.provenance["sequences_present"]) == list(subset.present)
    assert prediction.provenance["sequences_substituted"] == list(subset.missing)
    json.dumps(prediction.provenance)


def test_the_filled_image_is_what_the_paper_says(case, predictor):
    """S(x, x_sub): present channels are the case's, missing ones the substitute's, voxel by voxel."""
    from m3ae_core.data.preprocess import standardise

    standard = standardise(case.only("T1", "T2"), predictor.config)
    inference = predictor.config.inference
    extent = Extent.of(inference, predictor.config.grid.shape, standard.brain)
    image, missing = torch.from_numpy(standard.image), ~torch.tensor(standard.exists)
    filled, brain, before = fill_extent(
        lambda part, start: predictor.model.fill(part, missing, start), image, extent, inference
    )
    assert before == (0, 0, 0)
    assert torch.equal(brain, (image != 0).any(0))
    assert torch.equal(filled[[1, 3]], torch.from_numpy(standard.image[[1, 3]]))
    assert torch.equal(filled[[0, 2]], predictor.bundle.model.substitute[[0, 2]])


def test_the_subset_matters(case, predictor):
    full, one = predictor.predict(case), predictor.predict(case.only("T2"))
    assert any(
        np.abs(full.probabilities[name] - one.probabilities[name]).max() > 1e-3 for name in ("WT", "TC", "ET")
    )


def test_labels_follow_from_the_probabilities(case, predictor):
    prediction = predictor.predict(case)
    masks = {
        region.name: mask for region, mask in zip(REGIONS, encode(prediction.labels, BRATS_2023), strict=True)
    }
    assert (masks["ET"] == (prediction.probabilities["ET"] > 0.5)).all()
    assert masks["WT"].any()


def test_the_label_scheme_is_the_users(case, predictor):
    new, old = predictor.predict(case, BRATS_2023), predictor.predict(case, BRATS_2021)
    assert ((new.labels == 3) == (old.labels == 4)).all()
    assert old.provenance["labels"]["scheme"] == "brats2021"


@pytest.mark.parametrize("flips", [(0,), (1, 2), (0, 1, 2)])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_orientation_does_not_change_the_answer(case, predictor, flips, order):
    """The same image stored along other axes gives the same labels, stored along those axes."""

    def turned(array):
        return np.flip(array, flips).transpose(order)

    affine = AFFINE.copy()
    for axis in flips:
        affine[:3, 3] += affine[:3, axis] * (case.shape[axis] - 1)
        affine[:3, axis] *= -1
    affine = affine[:, [*order, 3]]
    other = Case(
        "turned",
        BRATS,
        {n: Volume(np.ascontiguousarray(turned(v.data)), affine) for n, v in case.volumes.items()},
    )
    prediction = predictor.predict(other)
    assert (prediction.labels == turned(predictor.predict(case).labels)).all()


def test_another_grid_of_the_same_space(case, predictor):
    """A case at 2 mm is resampled to the 4 mm template; its labels come back on its own grid."""
    fine = Grid(
        (90, 104, 76), np.array([[2.0, 0, 0, -205.5], [0, 2.0, 0, 19.5], [0, 0, 2.0, -1], [0, 0, 0, 1]])
    )
    own = Grid(case.shape, case.affine)
    volumes = {name: Volume(resample(v.data, own, fine), fine.affine) for name, v in case.volumes.items()}
    prediction = predictor.predict(Case("fine", BRATS, volumes))
    assert prediction.labels.shape == fine.shape
    coarse = predictor.predict(case)
    back = {name: resample(p, fine, own) for name, p in prediction.probabilities.items()}
    inner = (slice(8, -8),) * 3
    assert np.abs(back["WT"] - coarse.probabilities["WT"])[inner].mean() < 0.05


def test_unknown_space_is_said(case, predictor):
    affine = case.affine.copy()
    affine[:3, 3] += (3000, 0, 0)
    moved = Case("moved", BRATS, {name: Volume(v.data, affine) for name, v in case.volumes.items()})
    prediction = predictor.predict(moved)
    assert "not in the model's space" in prediction.warnings[0]
    assert prediction.provenance["warnings"] == list(prediction.warnings)
    assert predictor.predict(case).warnings == ()


@pytest.mark.parametrize("window", ["brain", (16, 24, 16), (64, 64, 64)])
def test_other_windows(case, window):
    inference = RECIPE.model.inference.model_copy(update={"window": window})
    predictor = Predictor(random_bundle(inference=inference), "cpu")
    *progress, prediction = predictor.run(case.only("FLAIR"))
    assert prediction.labels.shape == case.shape
    assert all(isinstance(event, Progress) for event in progress)
    steps = [event for event in progress if event.what == "segmenting"]
    assert steps[-1].done == steps[-1].total == len(steps)
    assert (len(steps) > 1) == (window == (16, 24, 16))


def test_to_cancel_is_to_stop_asking(case, predictor):
    run = predictor.run(case)
    assert isinstance(next(run), Progress)
    run.close()
    assert isinstance(predictor.predict(case), Prediction)


def test_runs_repeat(case, predictor):
    assert (predictor.predict(case).labels == predictor.predict(case).labels).all()


def test_a_pretrained_bundle_cannot_segment():
    whole = random_bundle()
    with pytest.raises(BundleError) as caught:
        Predictor(Bundle(M3AE.of(whole.config, whole.model.substitute, whole.model.autoencoder)), "cpu")
    assert caught.value.code == "stage"


def test_output_that_is_not_finite_is_no_segmentation(case):
    bundle = random_bundle()
    with torch.no_grad():
        bundle.model.segmenter.heads.at_full.weight[0, 0] = float("nan")
    with pytest.raises(BundleError) as caught:
        Predictor(bundle, "cpu").predict(case)
    assert caught.value.code == "nonfinite"


def fails(times: int, predictor: Predictor, monkeypatch, message: str = "CUDA out of memory") -> list[int]:
    """Make the first forward passes fail as torch does when memory runs out; collect the batch of each pass.

    A fake: no GPU has been available to try the real thing.
    """
    forward, batches = predictor.model.segmenter.predict, []

    def failing(x):
        batches.append(len(x))
        if len(batches) <= times:
            raise torch.OutOfMemoryError(message)
        return forward(x)

    monkeypatch.setattr(predictor.model.segmenter, "predict", failing)
    return batches


def test_gpu_memory_running_out_moves_the_same_window_to_the_cpu(case, monkeypatch):
    predictor = Predictor(random_bundle(), "cpu")
    expected = predictor.predict(case)
    batches = fails(1, predictor, monkeypatch)
    predictor.device = torch.device("meta")  # any that is not the CPU
    prediction = predictor.predict(case)
    assert batches == [1, 1]
    assert "ran out of memory" in prediction.provenance["device"]["fallbacks"][0]
    assert (prediction.labels == expected.labels).all()
    assert predictor.device == torch.device("cpu")


def test_memory_running_out_with_two_windows_tries_them_one_at_a_time(case, monkeypatch):
    """Then on the CPU; each step is told, and the answer is the same."""
    inference = RECIPE.model.inference.model_copy(update={"mirror": True})
    predictor = Predictor(random_bundle(inference=inference), "cpu")
    expected = predictor.predict(case)
    batches = fails(2, predictor, monkeypatch)
    predictor.device = torch.device("meta")
    prediction = predictor.predict(case)
    assert batches == [2, 1, 1, 1]
    assert len(prediction.provenance["device"]["fallbacks"]) == 2
    assert (prediction.labels == expected.labels).all()


@pytest.mark.parametrize("failing_window", [1, 2, 3])
def test_any_window_may_be_the_one(case, monkeypatch, failing_window):
    inference = RECIPE.model.inference.model_copy(update={"window": (16, 24, 16)})
    predictor = Predictor(random_bundle(inference=inference), "cpu")
    expected = predictor.predict(case)
    forward, calls = predictor.model.segmenter.predict, []

    def failing(x):
        calls.append(1)
        if len(calls) == failing_window:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(x)

    monkeypatch.setattr(predictor.model.segmenter, "predict", failing)
    predictor.device = torch.device("meta")
    prediction = predictor.predict(case)
    assert (prediction.labels == expected.labels).all()
    assert len(prediction.provenance["device"]["fallbacks"]) == 1


def test_the_cpus_memory_running_out_is_said(case, monkeypatch):
    predictor = Predictor(random_bundle(), "cpu")
    fails(99, predictor, monkeypatch, "DefaultCPUAllocator: can't allocate memory")
    with pytest.raises(InputError) as caught:
        predictor.predict(case)
    assert caught.value.code == "memory"


def test_a_pass_that_cannot_fit_is_not_begun(case, monkeypatch):
    """Linux promises memory it does not have, and kills."""
    predictor = Predictor(random_bundle(), "cpu")
    batches = fails(0, predictor, monkeypatch)
    needed = 6 * 4 * 4 * np.prod(RECIPE.model.grid.shape)
    for available, enough in ((needed, True), (needed - 1, False)):
        memory = SimpleNamespace(available=available)
        monkeypatch.setattr(devices.psutil, "virtual_memory", lambda memory=memory: memory)
        batches.clear()
        if enough:
            predictor.predict(case)
            assert batches == [1]
            continue
        with pytest.raises(InputError) as caught:
            predictor.predict(case)
        assert caught.value.code == "memory"
        assert "GiB" in str(caught.value)
        assert batches == []


def test_other_errors_are_not_taken_for_a_lack_of_memory(case, monkeypatch):
    predictor = Predictor(random_bundle(), "cpu")
    monkeypatch.setattr(predictor.model.segmenter, "predict", lambda x: torch.zeros(2) + torch.zeros(3))
    with pytest.raises(RuntimeError, match="size"):
        predictor.predict(case)


@pytest.mark.parametrize(("native", "name"), [(True, "bfloat16"), (False, "float32")])
def test_the_arithmetic_is_the_devices_and_is_told(case, monkeypatch, native, name):
    monkeypatch.setattr(devices, "cpu_has_bfloat16", lambda: native)
    predictor = Predictor(random_bundle(), "cpu")
    seen = []
    predictor.model.segmenter.backbone.down[0].register_forward_hook(
        lambda _, __, out: seen.append(out.dtype)
    )
    prediction = predictor.predict(case)
    assert seen == [getattr(torch, name)]
    assert prediction.provenance["device"]["precision"] == name


def test_float32_can_be_asked_for_where_the_device_is_faster_otherwise(case, monkeypatch):
    bundle = random_bundle()
    expected = Predictor(bundle, "cpu").predict(case)
    monkeypatch.setattr(devices, "cpu_has_bfloat16", lambda: True)
    prediction = Predictor(bundle, "cpu", arithmetic="float32").predict(case)
    assert prediction.provenance["device"]["precision"] == "float32"
    np.testing.assert_array_equal(prediction.labels, expected.labels)


def test_bfloat16_can_be_asked_for_and_anything_else_is_refused(monkeypatch):
    monkeypatch.setattr(devices, "cpu_has_bfloat16", lambda: False)
    assert Predictor(random_bundle(), "cpu", arithmetic="bfloat16").precision == torch.bfloat16
    with pytest.raises(ConfigError) as caught:
        Predictor(random_bundle(), "cpu", arithmetic="float64")
    assert caught.value.code == "arithmetic"


@pytest.mark.parametrize("unit", ["_is_amx_tile_supported", "_is_avx512_bf16_supported"])
def test_either_unit_of_a_cpu_computes_in_bfloat16(monkeypatch, unit):
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
    assert not cpu_has_bfloat16()
    monkeypatch.setattr(torch.cpu, unit, lambda: True, raising=False)
    assert cpu_has_bfloat16()


def test_half_the_digits_give_nearly_the_same_labels(case, monkeypatch):
    """bfloat16, emulated where the CPU lacks it, is what most GPUs will compute."""
    monkeypatch.setattr(devices, "cpu_has_bfloat16", lambda: False)
    whole = Predictor(random_bundle(), "cpu").predict(case)
    monkeypatch.setattr(devices, "cpu_has_bfloat16", lambda: True)
    half = Predictor(random_bundle(), "cpu").predict(case)
    assert 0.9 < (whole.labels == half.labels).mean() < 1
    assert half.labels.any()


def test_the_gpus_arithmetic(monkeypatch):
    for supported, dtype in ((True, torch.bfloat16), (False, torch.float16)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda supported=supported: supported)
        assert devices.precision(torch.device("cuda")) == dtype


def test_cuda_tries_algorithms_out_only_for_windows_of_one_shape(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    found = {}
    for one_shape in (True, False):
        with devices.fast(torch.device("cuda"), torch.bfloat16, one_shape):
            found[one_shape] = (torch.backends.cudnn.benchmark, torch.is_autocast_enabled("cuda"))
    assert found == {True: (True, True), False: (False, True)}


def test_another_window_is_another_answer_and_is_told(case):
    bundle = random_bundle()
    usual, other = Predictor(bundle, "cpu"), Predictor(bundle, "cpu", window=(16, 24, 16))
    assert bundle.config.inference.window == usual.config.inference.window == "template"
    prediction = other.predict(case)
    assert "validated with" in prediction.warnings[0]
    assert prediction.provenance["model"]["inference"]["window"] == [16, 24, 16]
    assert (prediction.labels != usual.predict(case).labels).any()
    with pytest.raises(ConfigError) as caught:
        Predictor(bundle, "cpu", window=(20, 24, 16))
    assert caught.value.code == "window"


@pytest.mark.parametrize("subset", BRATS.subsets(), ids=str)
def test_what_subsets_share_changes_none_of_them(case, predictor, subset):
    """Sequences cover unequal parts of the brain, so that each subset has its own box."""
    volumes = {name: Volume(volume.data.copy(), AFFINE) for name, volume in case.volumes.items()}
    for cut, volume in enumerate(volumes.values()):
        volume.data[: 10 + 3 * cut] = 0
    uneven = Case("uneven", BRATS, volumes)
    shared = Standardiser(uneven, predictor.config)
    for warm in (uneven, uneven.only("FLAIR")):
        shared.standardise(warm.volumes)
    part = uneven.only(*subset.present)
    one, other = predictor.predict(part), predictor.predict(part, BRATS_2023, shared)
    assert (one.labels == other.labels).all()
    assert {**one.provenance, "made_at": ""} == {**other.provenance, "made_at": ""}
    for name, values in one.probabilities.items():
        np.testing.assert_array_equal(values, other.probabilities[name])


def test_subsets_share_the_work(case, predictor, monkeypatch):
    calls = []
    normalise = preprocess.normalise
    monkeypatch.setattr(preprocess, "normalise", lambda *a: calls.append(1) or normalise(*a))
    shared = Standardiser(case, predictor.config)
    for subset in BRATS.subsets():
        shared.standardise(subset.present)
    assert len(calls) == 4


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert devices.choose_device("auto").type == "cpu"
    for name in ("cuda", "tpu"):
        with pytest.raises(ConfigError) as caught:
            devices.choose_device(name)
        assert caught.value.code == "device"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert devices.choose_device("auto").type == "cuda"
    assert devices.is_out_of_memory(torch.OutOfMemoryError("x"))
    assert devices.is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    assert not devices.is_out_of_memory(RuntimeError("shapes differ"))


def test_saving(case, predictor, tmp_path: Path):
    prediction = predictor.predict(case.only("T1c"))
    labels, sidecar = save_prediction(prediction, tmp_path / "out.nii.gz")
    assert sidecar == sidecar_of(labels) == tmp_path / "out.json"
    loaded = read_labels(labels)
    assert (loaded.data == prediction.labels).all()
    assert np.allclose(loaded.affine, case.affine, atol=1e-5)
    record = json.loads(sidecar.read_text())
    assert record["sequences_substituted"] == ["FLAIR", "T1", "T2"]
    assert "Not a medical device" in record["notice"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.json", "out.nii.gz"]


def test_a_sidecar_is_believed_only_beside_its_own_labels(case, predictor, tmp_path: Path):
    """A kill between the two files leaves new labels beside an old sidecar, whose numbers may mean other tissues."""
    path = tmp_path / "out.nii.gz"
    save_prediction(predictor.predict(case, BRATS_2021), path)
    assert saved_scheme(path, read_labels(path).sha256) == BRATS_2021
    write_labels(path, predictor.predict(case.only("T2"), BRATS_2023).labels, case.affine)
    assert saved_scheme(path, read_labels(path).sha256) is None
    with pytest.raises(InputError) as caught:
        compare_files(path, path)
    assert caught.value.code == "scheme-ambiguous"


def test_no_labels_are_written_where_their_sidecar_cannot_be(case, predictor, tmp_path: Path):
    (tmp_path / "out.json").mkdir()
    with pytest.raises(OutputError):
        save_prediction(predictor.predict(case), tmp_path / "out.nii.gz")
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


def test_checking_warns_and_is_recorded(case, predictor, monkeypatch):
    monkeypatch.setattr(predictors, "find_mixup", lambda standard, bundle: "T1 and T2 may be mixed up.")
    air = np.random.default_rng(0).uniform(0.05, 0.2, case.shape).astype(np.float32)
    head = {
        name: Volume(np.where(volume.data == 0, air, volume.data), AFFINE)
        for name, volume in case.volumes.items()
    }
    unstripped = Case("head", BRATS, head)
    checked, unchecked = predictor.predict(unstripped, check=True), predictor.predict(unstripped)
    assert unchecked.warnings == ()
    assert unchecked.provenance["checked"] is False
    assert checked.provenance["checked"] is True
    assert [("background is not 0" in line, "mixed up" in line) for line in checked.warnings] == [
        (True, False),
        (False, True),
    ]
    assert checked.provenance["warnings"] == list(checked.warnings)
    assert (checked.labels == unchecked.labels).all()
