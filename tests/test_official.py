"""Released checkpoints become bundles that run under the `official` preset."""

import pickle

import pytest
import torch

from golden import OUTPUTS, X, released_weights
from m3ae_core.bundle import load_bundle, save_bundle
from m3ae_core.errors import BundleError
from m3ae_core.official import import_official

LIMAGE = torch.zeros(1, 1, 1, 1, 1).expand(1, 4, 155, 240, 240)  # one stored value: the file stays small


def checkpoint(path, head, **changes):
    tensors = {f"module.unet.{name}": tensor for name, tensor in released_weights(head).items()}
    tensors |= {"module.limage": LIMAGE, **changes}
    state = {
        "epoch": 3,
        "state_dict": {k: v for k, v in tensors.items() if v is not None},
        "optimizer": {"lr": 3e-4},
    }
    torch.save(state, path)
    return path


@pytest.fixture
def finetuned(tmp_path):
    return checkpoint(tmp_path / "model.pth.tar", 3)


def test_finetuned_checkpoint_gives_the_published_outputs(finetuned, tmp_path):
    bundle = load_bundle(save_bundle(import_official(finetuned), tmp_path / "bundle"))
    assert bundle.config.preset == "official"
    assert bundle.config.network.upsample == "nearest"
    assert bundle.config.modalities == ("T1", "T1c", "T2", "FLAIR")
    assert bundle.config.inference.substitute_origin == "window"
    ours = bundle.segmenter.predict(X)[..., ::2, ::2, ::2]
    assert (ours - torch.from_numpy(OUTPUTS["segment_logits"])).abs().max() <= 1e-4
    assert bundle.autoencoder is None


def test_pretraining_checkpoint(tmp_path):
    bundle = import_official(checkpoint(tmp_path / "pre.pth.tar", 4))
    assert bundle.segmenter is None
    assert (
        bundle.autoencoder(X)[..., ::2, ::2, ::2] - torch.from_numpy(OUTPUTS["reconstruct_logits"])
    ).abs().max() <= 1e-4


def test_both_stages(finetuned, tmp_path):
    bundle = import_official(finetuned, checkpoint(tmp_path / "pre.pth.tar", 4), origin="template")
    assert bundle.autoencoder is not None
    assert bundle.segmenter is not None
    assert bundle.config.inference.substitute_origin == "template"


def test_without_deep_supervision_heads(tmp_path):
    absent = {f"module.unet.ds_out.{i}.{kind}": None for i in (0, 1) for kind in ("weight", "bias")}
    bundle = import_official(checkpoint(tmp_path / "test.pth.tar", 3, **absent))
    ours = bundle.segmenter.predict(X)[..., ::2, ::2, ::2]
    assert (ours - torch.from_numpy(OUTPUTS["segment_logits"])).abs().max() <= 1e-4


@pytest.mark.parametrize(
    "changes",
    [
        {"module.unet.conv1a.weight": None},
        {"module.unet.conv1a.weight": torch.zeros(16, 4, 1, 1, 1)},
        {"module.unet.extra.weight": torch.zeros(3)},
        {"module.limage": None},
        {"module.limage": torch.zeros(1, 4, 8, 8, 8)},
    ],
)
def test_other_weights_are_refused(tmp_path, changes):
    path = checkpoint(tmp_path / "model.pth.tar", 3, **changes)
    with pytest.raises(BundleError) as caught:
        import_official(path)
    assert caught.value.code == "architecture"
    assert caught.value.path == path


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
