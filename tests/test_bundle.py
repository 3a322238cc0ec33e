"""A bundle comes back as it was saved, or is refused with one sentence."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from m3ae_core import bundle as bundles
from m3ae_core.bundle import Bundle, load_bundle, save_bundle
from m3ae_core.errors import BundleError
from m3ae_core.methods.m3ae.method import M3AE
from m3ae_core.seal import sealed
from tiny import random_bundle, with_substitute


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_bundle(random_bundle(), tmp_path / "model")


def refused(folder: Path) -> BundleError:
    with pytest.raises(BundleError) as caught:
        load_bundle(folder)
    assert caught.value.fix
    return caught.value


def test_round_trip(folder):
    saved, loaded = random_bundle(), load_bundle(folder)
    assert loaded.config == saved.config
    assert loaded.card == saved.card
    assert torch.equal(loaded.model.substitute, saved.model.substitute)
    for mine, theirs in (
        (saved.model.autoencoder, loaded.model.autoencoder),
        (saved.model.segmenter, loaded.model.segmenter),
    ):
        theirs = theirs.state_dict()
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in mine.state_dict().items())
    assert len(loaded.sha256) == 64


def test_either_network_may_be_absent(tmp_path):
    whole = random_bundle()
    pretrained = Bundle(M3AE.of(whole.config, whole.model.substitute, whole.model.autoencoder))
    loaded = load_bundle(save_bundle(pretrained, tmp_path / "pretrained"))
    assert loaded.model.segmenter is None
    assert loaded.model.autoencoder is not None


def test_a_flipped_byte_is_noticed(folder):
    path = folder / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    error = refused(folder)
    assert (error.code, error.path) == ("hash", path)


def test_truncated_weights(folder):
    path = folder / "substitute.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert refused(folder).code == "hash"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(tmp_path, value):
    bundle = random_bundle()
    with torch.no_grad():
        bundle.model.segmenter.heads.at_full.bias[0] = value
    error = refused(save_bundle(bundle, tmp_path))
    assert error.code == "nonfinite"
    assert "segmenter.heads.at_full.bias" in error.problem


@pytest.mark.parametrize("name", ["weights.safetensors", "substitute.safetensors"])
def test_missing_tensors(folder, name):
    (folder / name).unlink()
    assert refused(folder).path == folder / name


def test_not_a_bundle(tmp_path):
    assert refused(tmp_path).code == "no-bundle"


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": 99}', '{"format": 1}', '{"format": 1, "model": {}}']
)
def test_damaged_json(folder, text):
    (folder / "bundle.json").write_text(text)
    assert refused(folder).code == "format"


def test_weights_of_another_architecture(folder):
    path = folder / "bundle.json"
    content = json.loads(path.read_text())
    content["model"]["network"]["base_channels"] = 8
    path.write_text(json.dumps(sealed(content)))
    error = refused(folder)
    assert error.code == "architecture"
    assert "expected" in error.problem


def test_substitute_of_another_template(folder):
    path = folder / "bundle.json"
    content = json.loads(path.read_text())
    content["model"]["grid"]["shape"] = [40, 56, 56]
    path.write_text(json.dumps(sealed(content)))
    assert "template" in refused(folder).problem


# --- overwriting ------------------------------------------------------------------------------------


@pytest.mark.parametrize("written", ["weights.new.safetensors", "substitute.new.safetensors", "bundle.json"])
def test_the_old_bundle_can_be_loaded_until_the_new_one_is_complete(tmp_path, monkeypatch, written):
    """As after a kill just before each of the three files."""
    old, new = random_bundle(seed=0), random_bundle(seed=1)
    before = load_bundle(save_bundle(old, tmp_path))

    def stops_at(path, *_):
        if path.name == written:
            raise KeyboardInterrupt
        return real[path.suffix](path, *_)

    real = {".safetensors": bundles.save_tensors, ".json": bundles.write_json}
    monkeypatch.setattr(bundles, "save_tensors", stops_at)
    monkeypatch.setattr(bundles, "write_json", stops_at)
    monkeypatch.setattr(bundles, "_settle", lambda folder: None)  # nobody tidies up after a kill
    for _ in range(2):  # a second save that is stopped, too
        with pytest.raises(KeyboardInterrupt):
            save_bundle(new, tmp_path)
        found = load_bundle(tmp_path)
        assert found.sha256 == before.sha256
        assert torch.equal(found.model.substitute, old.model.substitute)
    monkeypatch.undo()
    save_bundle(new, tmp_path)
    assert torch.equal(load_bundle(tmp_path).model.substitute, new.model.substitute)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "bundle.json",
        "substitute.safetensors",
        "weights.safetensors",
    ]


def test_a_kill_before_the_files_have_their_names_loses_nothing(tmp_path, monkeypatch):
    """bundle.json speaks of the new bundle already; a further save that is stopped does not take its files away."""
    save_bundle(random_bundle(seed=0), tmp_path)
    new = random_bundle(seed=1)
    with monkeypatch.context() as killed:
        killed.setattr(bundles, "_settle", lambda folder: None)
        save_bundle(new, tmp_path)
    assert torch.equal(load_bundle(tmp_path).model.substitute, new.model.substitute)
    monkeypatch.setattr(bundles, "write_json", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_bundle(random_bundle(seed=2), tmp_path)
    assert torch.equal(load_bundle(tmp_path).model.substitute, new.model.substitute)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_busy_file_is_renamed_the_second_time(tmp_path, monkeypatch):
    save_bundle(random_bundle(seed=0), tmp_path)
    replace, calls = Path.replace, []

    def busy(self, target):
        calls.append(self.name)
        if calls.count(self.name) == 1 and ".new." in self.name and not self.name.startswith("."):
            raise PermissionError
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", busy)
    save_bundle(random_bundle(seed=1), tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    assert calls.count("weights.new.safetensors") == 2


def test_the_fingerprint_covers_weights_substitute_and_settings(tmp_path):
    bundle = random_bundle()
    reordered = bundle.config.model_copy(update={"modalities": ("T1", "T1c", "T2", "FLAIR")})
    prints = set()
    for number, other in enumerate(
        (
            bundle,
            with_substitute(bundle, bundle.model.substitute + 1),
            Bundle(M3AE.restored(reordered, bundle.model.networks, bundle.model.images), bundle.card),
            random_bundle(seed=1),
        )
    ):
        folder = save_bundle(other, tmp_path / str(number))
        prints.add(load_bundle(folder).fingerprint)
    assert len(prints) == 4
    described = replace(bundle, card={**bundle.card, "name": "another"})
    again = load_bundle(save_bundle(described, tmp_path / "described"))
    assert again.fingerprint == load_bundle(tmp_path / "0").fingerprint


def test_settings_edited_in_a_bundle_are_refused(tmp_path):
    """The order of the sequences decides what the network takes for what."""
    folder = save_bundle(random_bundle(), tmp_path)
    content = json.loads((folder / "bundle.json").read_text())
    content["model"]["modalities"] = ["T1", "T1c", "T2", "FLAIR"]
    (folder / "bundle.json").write_text(json.dumps(sealed(content)))
    with pytest.raises(BundleError) as caught:
        load_bundle(folder)
    assert caught.value.code == "hash"


@pytest.mark.parametrize("part", ["card", "m3ae_core"])
def test_what_is_said_of_a_model_cannot_be_edited(tmp_path, part):
    """A figure on the card decides how far a result is trusted."""
    folder = save_bundle(random_bundle(), tmp_path)
    content = json.loads((folder / "bundle.json").read_text())
    content[part] = {"name": "better"} if part == "card" else "9.9"
    (folder / "bundle.json").write_text(json.dumps(content))
    assert refused(folder).code == "hash"
    del content["content_sha256"], content["fingerprint"]  # as 0.1 wrote it
    (folder / "bundle.json").write_text(json.dumps(content))
    load_bundle(folder)
