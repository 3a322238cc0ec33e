"""Released checkpoints become bundles that run under the `official` preset."""

import pickle
from itertools import product

import numpy as np
import pytest
import torch

from golden import OUTPUTS, X, draw, layout, released_weights
from m3ae_core.bundle import Bundle, load_bundle, save_bundle
from m3ae_core.config import SRI24_AFFINE, load_recipe
from m3ae_core.data.preprocess import standardise
from m3ae_core.errors import BundleError, ConfigError
from m3ae_core.inference.predictor import Predictor
from m3ae_core.io.case import Case
from m3ae_core.io.volume import Volume
from m3ae_core.methods.m3ae.method import M3AE
from m3ae_core.methods.m3ae.networks import Segmenter
from m3ae_core.methods.m3ae.official import SEGMENTATION_HEADS, import_official, translate
from m3ae_core.modalities import BRATS

LIMAGE = torch.zeros(1, 1, 1, 1, 1).expand(1, 4, 155, 240, 240)  # one stored value: the file stays small


def checkpoint(path, head, **changes):
    tensors = {f"module.unet.{name}": tensor for name, tensor in released_weights(head).items()}
    tensors |= {"module.limage": LIMAGE, **changes}
    torch.save(training_state({k: v for k, v in tensors.items() if v is not None}), path)
    return path


def training_state(tensors):
    """What the released training writes beside the weights: an optimiser that has stepped, and a schedule."""
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.Adam([parameter], lr=3e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=600)
    parameter.sum().backward()
    optimizer.step()
    schedule.step()
    return {
        "epoch": 3,
        "state_dict": tensors,
        "optimizer": optimizer.state_dict(),
        "scheduler": schedule.state_dict(),
    }


@pytest.fixture
def finetuned(tmp_path):
    return checkpoint(tmp_path / "model.pth.tar", 3)


def test_finetuned_checkpoint_gives_the_published_outputs(finetuned, tmp_path):
    bundle = load_bundle(save_bundle(Bundle(*import_official(finetuned)), tmp_path / "bundle"))
    assert bundle.config.preset == "official"
    assert bundle.config.network.upsample == "nearest"
    assert bundle.config.modalities == ("T1", "T1c", "T2", "FLAIR")
    assert bundle.config.inference.substitute_origin == "window"
    ours = bundle.model.segmenter.predict(X)[..., ::2, ::2, ::2]
    assert (ours - torch.from_numpy(OUTPUTS["segment_logits"])).abs().max() <= 1e-4
    assert bundle.model.autoencoder is None


def test_pretraining_checkpoint(tmp_path):
    bundle = Bundle(*import_official(checkpoint(tmp_path / "pre.pth.tar", 4)))
    assert bundle.model.segmenter is None
    assert (
        bundle.model.autoencoder(X)[..., ::2, ::2, ::2] - torch.from_numpy(OUTPUTS["reconstruct_logits"])
    ).abs().max() <= 1e-4


def test_both_stages(finetuned, tmp_path):
    bundle = Bundle(*import_official(finetuned, checkpoint(tmp_path / "pre.pth.tar", 4), origin="template"))
    assert bundle.model.autoencoder is not None
    assert bundle.model.segmenter is not None
    assert bundle.config.inference.substitute_origin == "template"


def test_without_deep_supervision_heads(tmp_path):
    absent = {f"module.unet.ds_out.{i}.{kind}": None for i in (0, 1) for kind in ("weight", "bias")}
    bundle = Bundle(*import_official(checkpoint(tmp_path / "test.pth.tar", 3, **absent)))
    ours = bundle.model.segmenter.predict(X)[..., ::2, ::2, ::2]
    assert (ours - torch.from_numpy(OUTPUTS["segment_logits"])).abs().max() <= 1e-4


def test_every_released_name_has_a_place_in_our_network():
    names = {name: torch.empty(shape) for name, shape in layout().items()}
    names.pop("limage")
    released = {name.removeprefix("unet."): tensor for name, tensor in names.items()}
    assert len(released) == 116
    ours = {
        name: tensor.shape for name, tensor in Segmenter(load_recipe("official").model).state_dict().items()
    }
    assert {name: t.shape for name, t in translate(released, SEGMENTATION_HEADS).items()} == ours


@pytest.mark.parametrize("head", [3, 4], ids=["finetuned", "pretrained"])
@pytest.mark.parametrize("inner", ["unet.", ""])
@pytest.mark.parametrize("outer", ["module.", ""])
@pytest.mark.parametrize("wrapped", [True, False], ids=["checkpoint", "state_dict"])
def test_every_way_the_weights_are_wrapped(tmp_path, wrapped, outer, inner, head):
    """DataParallel's prefix or none, the wrapper's or none, in a training checkpoint or bare, of either stage."""
    weights = released_weights(head)
    tensors = {f"{outer}{inner}{name}": tensor for name, tensor in weights.items()}
    tensors[f"{outer}limage"] = LIMAGE
    path = tmp_path / "model.pth.tar"
    torch.save(training_state(tensors) if wrapped else tensors, path)
    bundle = Bundle(*import_official(path))
    network = bundle.model.segmenter if head == 3 else bundle.model.autoencoder
    other = bundle.model.autoencoder if head == 3 else bundle.model.segmenter
    assert other is None
    state = network.state_dict()
    assert len(state) == len(weights)
    assert torch.equal(state["backbone.encoder.3.3.conv2.weight"], weights["conv4d.conv2.weight"])
    assert torch.equal(state["heads.at_full.bias" if head == 3 else "head.bias"], weights["up1conv.bias"])
    assert bundle.model.substitute.shape == (4, 155, 240, 240)


WRONG = {
    "missing": ("conv1a.weight", {"module.unet.conv1a.weight": None}),
    "misshapen": ("conv1a.weight", {"module.unet.conv1a.weight": torch.zeros(16, 4, 1, 1, 1)}),
    "extra": ("extra.weight", {"module.unet.extra.weight": torch.zeros(3)}),
    "a head by half": ("ds_out.0.bias", {"module.unet.ds_out.0.bias": None}),
    "no last layer": ("up1conv.weight", {"module.unet.up1conv.weight": None}),
    "twice": ("conv1a.weight", {"module.conv1a.weight": torch.zeros(16, 4, 3, 3, 3)}),
    "no substitute": ("limage", {"module.limage": None}),
    "a smaller substitute": ("limage", {"module.limage": torch.zeros(1, 4, 8, 8, 8)}),
}


@pytest.mark.parametrize(("name", "changes"), WRONG.values(), ids=WRONG)
def test_other_weights_are_refused_by_their_released_name(tmp_path, name, changes):
    path = checkpoint(tmp_path / "model.pth.tar", 3, **changes)
    with pytest.raises(BundleError, match=f"'{name}'") as caught:
        import_official(path)
    assert caught.value.code == "architecture"
    assert caught.value.path == path


def test_the_error_says_what_was_expected_and_what_was_found(tmp_path):
    changes = {"module.unet.ds1.bias": torch.zeros(31), "module.unet.ds2.bias": None}
    path = checkpoint(tmp_path / "model.pth.tar", 4, **changes)
    with pytest.raises(BundleError, match=r"2 weights .* 'ds1\.bias': expected \(32,\), found \(31,\)"):
        import_official(path)


@pytest.mark.parametrize("content", [{"state_dict": torch.zeros(3)}, {3: torch.zeros(3)}, {}])
def test_dictionaries_of_something_else(tmp_path, content):
    path = tmp_path / "model.pth.tar"
    torch.save(content, path)
    with pytest.raises(BundleError) as caught:
        import_official(path)
    assert caught.value.code == "architecture"


def test_two_pretraining_checkpoints_are_one_too_many(tmp_path, finetuned):
    first = checkpoint(tmp_path / "pre.pth.tar", 4)
    with pytest.raises(ConfigError) as caught:
        import_official(first, first)
    assert caught.value.code == "arguments"
    with pytest.raises(BundleError, match=r"'ds_out\.0\.bias'") as caught:
        import_official(finetuned, finetuned)
    assert caught.value.code == "architecture"


# --- the substitute's origin -----------------------------------------------------------------------

PLANES = torch.from_numpy(draw("planes", (1, 4, 155, 1, 1)))  # a substitute that varies along D alone
WINDOW = 32  # the published 128 would take minutes here


def head(low, size) -> Case:
    """All four sequences of a box of noise at template voxel `low`, stored as BraTS stores SRI24, cropped to the box.

    The model puts a margin of one voxel around it, where the template has room.
    """
    rng = np.random.default_rng(0)
    affine = np.array(SRI24_AFFINE) @ [[0, 0, 1, low[0]], [0, 1, 0, low[1]], [1, 0, 0, low[2]], [0, 0, 0, 1]]
    volumes = {name: Volume(rng.uniform(1, 9, size[::-1]).astype(np.float32), affine) for name in BRATS.names}
    return Case("head", BRATS, volumes)


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """The same checkpoint, imported with either origin."""
    limage = PLANES.expand(1, 4, 155, 240, 240)
    path = checkpoint(tmp_path_factory.mktemp("official") / "model.pth.tar", 3, **{"module.limage": limage})
    bundles = {}
    for origin in ("template", "window"):
        bundle = Bundle(*import_official(path, origin=origin))
        inference = bundle.config.inference
        assert (inference.window, inference.overlap) == ((128, 128, 128), 0.5)
        inference = inference.model_copy(update={"window": (WINDOW, WINDOW, WINDOW)})
        config = bundle.config.model_copy(update={"inference": inference})
        bundles[origin] = Bundle(M3AE.restored(config, bundle.model.networks, bundle.model.images))
    return bundles


def predicted(bundle, case):
    """Probabilities (R, d, h, w) of the regions in the model's order, in the case's box."""
    maps = Predictor(bundle, "cpu").predict(case).probabilities
    return np.stack([maps[name].transpose(2, 1, 0) for name in bundle.config.regions])


def by_hand(bundle, case, first_plane):
    """The same, by a plain loop over windows; the box's plane d with its padding gets the substitute's first + d."""
    standard = standardise(case, bundle.config)
    box = tuple(slice(low, high) for low, high in zip(*standard.brain, strict=True))
    sides = [part.stop - part.start for part in box]
    before = [max(0, WINDOW - side) // 2 for side in sides]
    padded = torch.zeros(4, *(max(WINDOW, side) for side in sides))
    inner = tuple(slice(b, b + side) for b, side in zip(before, sides, strict=True))
    padded[(slice(None), *inner)] = torch.from_numpy(standard.image[(slice(None), *box)])
    for channel, name in enumerate(bundle.config.modalities):
        if name not in case.volumes:
            padded[channel] = PLANES[0, channel, first_plane : first_plane + padded.shape[1]]
    total, count = torch.zeros(3, *padded.shape[1:]), torch.zeros(padded.shape[1:])
    starts = [sorted({min(s, n - WINDOW) for s in range(0, n, WINDOW // 2)}) for n in padded.shape[1:]]
    for corner in product(*starts):
        where = tuple(slice(s, s + WINDOW) for s in corner)
        total[(slice(None), *where)] += bundle.model.segmenter.predict(padded[(slice(None), *where)][None])[0]
        count[where] += 1
    return (total / count)[(slice(None), *inner)].sigmoid().numpy()[:, 1:-1, 1:-1, 1:-1]


@pytest.mark.parametrize("size", [(38, 18, 30), (18, 38, 30)], ids=["two windows deep", "padded in depth"])
def test_what_is_missing_comes_from_its_own_place_or_from_the_windows(imported, size):
    case = head((50, 90, 100), size).only("T1", "T2")
    padding = max(0, WINDOW - (size[0] + 2)) // 2
    maps = {}
    for origin, bundle in imported.items():
        maps[origin] = predicted(bundle, case)
        first = 50 - 1 - padding if origin == "template" else 0
        np.testing.assert_allclose(maps[origin], by_hand(bundle, case, first), atol=1e-4)
    assert np.abs(maps["template"] - maps["window"]).max() > 0.1


def test_the_origin_does_not_matter_where_nothing_is_missing(imported):
    maps = [predicted(bundle, head((50, 90, 100), (20, 20, 20))) for bundle in imported.values()]
    assert maps[0].any()
    np.testing.assert_array_equal(*maps)


def test_the_origin_does_not_matter_where_the_box_starts_with_the_template(imported):
    """The substitute varies along D alone, and both rules begin at its first plane."""
    case = head((0, 90, 100), (39, 20, 20)).only("T1")
    maps = [predicted(bundle, case) for bundle in imported.values()]
    np.testing.assert_array_equal(*maps)


# --- files that are none of these ------------------------------------------------------------------


class Evil:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was executed",))


def contents():
    yield "missing", None
    yield "format", b""
    yield "format", b"not a checkpoint"
    yield "format", b"PK\x03\x04" + bytes(40)
    yield "unsafe", pickle.dumps(Evil())


@pytest.mark.parametrize(("code", "content"), list(contents()))
def test_foreign_files(tmp_path, code, content):
    path = tmp_path / "model.pth.tar"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BundleError) as caught:
        import_official(path)
    assert path.name in str(caught.value)
    assert caught.value.code in {code, "unsafe"}  # torch reads any non-zip file as a pickle


def test_an_object_inside_a_checkpoint_is_not_run(tmp_path):
    path = tmp_path / "model.pth.tar"
    torch.save({"state_dict": {"a": torch.zeros(1)}, "config": Evil()}, path)
    with pytest.raises(BundleError) as caught:
        import_official(path)
    assert caught.value.code == "unsafe"


def test_weights_that_are_not_finite(tmp_path):
    bad = torch.full((16,), float("nan"))
    path = checkpoint(tmp_path / "model.pth.tar", 3, **{"module.unet.conv1a.bias": bad})
    with pytest.raises(BundleError) as caught:
        import_official(path)
    assert caught.value.code == "nonfinite"
