"""From a case with any subset to labels on its own grid, and a record of how they were made."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from m3ae_core.bundle import Bundle
from m3ae_core.data.case import Case
from m3ae_core.data.grid import Grid, resample
from m3ae_core.data.phantom import AFFINE, phantom
from m3ae_core.data.sidecar import sidecar_of
from m3ae_core.data.volume import Volume, read_labels
from m3ae_core.errors import BundleError, ConfigError
from m3ae_core.events import Progress
from m3ae_core.inference import device as devices
from m3ae_core.inference.predictor import Prediction, Predictor, save_prediction
from m3ae_core.modalities import BRATS
from m3ae_core.model.windows import Extent, fill_extent
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
    image, missing = torch.from_numpy(standard.image), ~torch.tensor(standard.subset.flags)
    filled, brain, before = fill_extent(image, missing, extent, predictor.substitute, inference)
    assert before == (0, 0, 0)
    assert torch.equal(brain, (image != 0).any(0))
    assert torch.equal(filled[[1, 3]], torch.from_numpy(standard.image[[1, 3]]))
    assert torch.equal(filled[[0, 2]], predictor.bundle.substitute[[0, 2]])


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
        Predictor(Bundle(whole.config, whole.substitute, whole.autoencoder, None), "cpu")
    assert caught.value.code == "stage"


def test_output_that_is_not_finite_is_no_segmentation(case):
    bundle = random_bundle()
    with torch.no_grad():
        bundle.segmenter.heads.at_full.weight[0, 0] = float("nan")
    with pytest.raises(BundleError) as caught:
        Predictor(bundle, "cpu").predict(case)
    assert caught.value.code == "nonfinite"


def test_gpu_memory_running_out_moves_the_same_window_to_the_cpu(case, monkeypatch):
    """A fake: the first forward pass fails as CUDA does; no GPU has been available to try the real thing."""
    predictor = Predictor(random_bundle(), "cpu")
    expected = predictor.predict(case)
    forward = predictor.segmenter.predict
    calls = []

    def failing(x):
        calls.append(x.shape)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(x)

    monkeypatch.setattr(predictor.segmenter, "predict", failing)
    predictor.device = torch.device("meta")  # any that is not the CPU
    prediction = predictor.predict(case)
    assert calls[0] == calls[1]
    assert "ran out of memory" in prediction.provenance["device"]["fallbacks"][0]
    assert (prediction.labels == expected.labels).all()
    assert predictor.device == torch.device("cpu")


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
