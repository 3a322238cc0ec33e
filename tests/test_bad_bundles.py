"""Nothing but `BundleError` may come out of a bad model, with the file, what is wrong, and what to do.

One row per way in which a bundle, its tensors or a checkpoint can be bad; each kind of fault has a sentence of its own.
"""

from __future__ import annotations

import json
import pickle
import shutil
import struct
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save

import refused
from m3ae_core.bundle import load_bundle, save_bundle
from m3ae_core.card import read_card
from m3ae_core.errors import BundleError
from m3ae_core.files import sha256
from m3ae_core.io.weights import load_pickle, load_tensors
from m3ae_core.methods.m3ae.official import import_official
from m3ae_core.seal import sealed
from published import Figures
from refused import GOAL, PROPERTY
from tiny import random_bundle

WEIGHTS, SUBSTITUTE, CARD = "weights.safetensors", "substitute.safetensors", "bundle.json"

Spoil = Callable[[Path], Any]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bundle(random_bundle(), tmp_path_factory.mktemp("whole") / "model")


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "model"))


def refusal(folder: Path, read: Callable[[], Any], code: str, says: str) -> BundleError:
    error = refused.refusal(BundleError, folder, read, code, says)
    assert error.problem == error.problem.strip()
    return error


# --- bundle.json -----------------------------------------------------------------------------------


def text(content: bytes | str) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / CARD).write_bytes(content if isinstance(content, bytes) else content.encode())

    return spoil


def changed(*keys: str, to: Any) -> Spoil:
    """One value in bundle.json replaced; ... removes it."""

    def spoil(folder: Path) -> None:
        content = json.loads((folder / CARD).read_text("utf-8"))
        place = content
        for key in keys[:-1]:
            place = place[key]
        if to is ...:
            del place[keys[-1]]
        else:
            place[keys[-1]] = to
        (folder / CARD).write_text(json.dumps(sealed(content)), "utf-8")

    return spoil


def cut_card(folder: Path) -> None:
    content = (folder / CARD).read_bytes()
    (folder / CARD).write_bytes(content[: len(content) // 2])


def removed(name: str) -> Spoil:
    return lambda folder: (folder / name).unlink()


def folder_for(name: str) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return spoil


def nowhere(folder: Path) -> None:
    (folder / CARD).unlink()
    (folder / CARD).symlink_to(folder / "gone.json")


NO_CARD = "no readable bundle.json"
CARDS: list[tuple[str, Spoil, str, str]] = [
    # id, what is done to a good bundle, code, what the message must say
    ("no-card", removed(CARD), "no-bundle", NO_CARD),
    ("card-is-a-folder", folder_for(CARD), "no-bundle", NO_CARD),
    ("card-links-to-nowhere", nowhere, "no-bundle", NO_CARD),
    ("card-empty", text(""), "format", "damaged"),
    ("card-cut", cut_card, "format", "damaged"),
    ("card-binary", text(bytes(range(256))), "format", "damaged"),
    ("card-not-utf8", text('{"format": "é"}'.encode("latin-1")), "format", "damaged"),
    ("card-html", text("<!doctype html><html>"), "format", "damaged"),
    ("card-nested-without-end", text("[" * 200_000), "format", "damaged"),
    ("card-a-list", text("[1, 2]"), "format", "not of a format"),
    ("card-a-number", text("1"), "format", "not of a format"),
    ("card-null", text("null"), "format", "not of a format"),
    ("card-of-something-else", text('{"name": "x", "version": 3}'), "format", "not of a format"),
    ("format-missing", changed("format", to=...), "format", "not of a format"),
    ("format-later", changed("format", to=99), "format", "Update napari-m3ae"),
    ("format-text", changed("format", to="1"), "format", "not of a format"),
    ("no-model", changed("model", to=...), "format", "incomplete"),
    ("model-null", changed("model", to=None), "format", "incomplete"),
    ("model-a-list", changed("model", to=[]), "format", "incomplete"),
    ("model-unknown-setting", changed("model", "dropout", to=0.5), "format", "incomplete"),
    ("model-text-for-number", changed("model", "network", "base_channels", to="many"), "format", "incomplete"),
    ("model-no-channels", changed("model", "network", "base_channels", to=0), "format", "incomplete"),
    ("model-no-groups", changed("model", "network", "norm_groups", to=0), "format", "incomplete"),
    ("model-no-modality", changed("model", "modalities", to=[]), "format", "incomplete"),
    ("model-modality-twice", changed("model", "modalities", to=["T1", "T1"]), "format", "incomplete"),
    ("model-no-region", changed("model", "regions", to=[]), "format", "incomplete"),
    ("model-unknown-region", changed("model", "regions", to=["WT", "XY"]), "format", "incomplete"),
    ("model-flat-grid", changed("model", "grid", "shape", to=[40, 56]), "format", "incomplete"),
    ("model-negative-grid", changed("model", "grid", "shape", to=[40, -56, 48]), "format", "incomplete"),
    ("model-odd-window", changed("model", "inference", "window", to=[30, 30, 30]), "format", "incomplete"),
    ("model-overlap-1", changed("model", "inference", "overlap", to=1.0), "format", "incomplete"),
    ("no-hashes", changed("sha256", to=...), "format", "incomplete"),
    ("hashes-null", changed("sha256", to=None), "format", "incomplete"),
    ("hash-of-weights-missing", changed("sha256", WEIGHTS, to=...), "format", "incomplete"),
    ("hash-of-substitute-missing", changed("sha256", SUBSTITUTE, to=...), "format", "incomplete"),
    ("no-description", changed("card", to=...), "format", "incomplete"),
    ("description-a-list", changed("card", to=[1]), "format", "incomplete"),
    ("reliability-a-list", changed("card", "reliability", to=["good"]), "format", "incomplete"),
    ("reliability-text", changed("card", "reliability", to={"T2": {"WT": "good"}}), "format", "incomplete"),
    ("reliability-half", changed("card", "reliability", to={"T2": {"WT": {"n": 5}}}), "format", "incomplete"),
    ("hash-of-another-file", changed("sha256", WEIGHTS, to="0" * 64), "hash", "SHA-256 differs"),
    ("hash-a-number", changed("sha256", WEIGHTS, to=7), "hash", "SHA-256 differs"),
    ("more-channels", changed("model", "network", "base_channels", to=8), "architecture", "do not fit"),
    ("absurdly-many-channels", changed("model", "network", "base_channels", to=8192), "architecture", "do not fit"),
    ("endless-channels", changed("model", "network", "base_channels", to=2**40), "architecture", "cannot be built"),
    ("groups-do-not-divide", changed("model", "network", "norm_groups", to=3), "network", "no multiple"),
    ("other-template", changed("model", "grid", "shape", to=[40, 56, 56]), "invalid", "template's shape"),
    ("unknown-backbone", changed("model", "network", "name", to="unet"), "no-backbone", "'unet'"),
    ("one-region-less", changed("model", "regions", to=["WT", "TC"]), "architecture", "do not fit"),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "code", "says"), [row[1:] for row in CARDS], ids=[row[0] for row in CARDS])
def test_bad_card(spoil: Spoil, code: str, says: str, folder: Path, figures: Figures) -> None:
    with figures.trial(PROPERTY, goal=GOAL):
        spoil(folder)
        error = refusal(folder, lambda: load_bundle(folder), code, says)
        assert error.path in {folder, folder / WEIGHTS, folder / SUBSTITUTE}


@pytest.mark.parametrize("place", ["gone", "model/bundle.json", "empty"])
def test_no_folder_of_a_bundle(place: str, folder: Path, tmp_path: Path, figures: Figures) -> None:
    (tmp_path / "empty").mkdir()
    with figures.trial(PROPERTY, goal=GOAL):
        error = refusal(tmp_path, lambda: load_bundle(tmp_path / place), "no-bundle", NO_CARD)
        assert error.path == tmp_path / place


# --- tensors ---------------------------------------------------------------------------------------


def bytes_of(name: str, change: Callable[[bytes], bytes]) -> Spoil:
    """A damaged copy: the hash in bundle.json is the old one."""

    def spoil(folder: Path) -> None:
        (folder / name).write_bytes(change((folder / name).read_bytes()))

    return spoil


def replaced(name: str, change: Callable[[bytes], bytes]) -> Spoil:
    """A file that somebody made so: its hash is in bundle.json."""

    def spoil(folder: Path) -> None:
        bytes_of(name, change)(folder)
        changed("sha256", name, to=sha256(folder / name))(folder)

    return spoil


def tensors(name: str, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Spoil:
    def spoil(folder: Path) -> None:
        content = save({key: t.contiguous() for key, t in change(load_file(folder / name)).items()})
        replaced(name, lambda _: content)(folder)

    return spoil


def flipped(content: bytes) -> bytes:
    return content[:-5] + bytes([content[-5] ^ 1]) + content[-4:]


def with_first(tensors: dict[str, torch.Tensor], change: Callable[[torch.Tensor], torch.Tensor]) -> dict:
    name = min(tensors)
    return {**tensors, name: change(tensors[name])}


def poisoned(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def change(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.clone()
        tensor.view(-1)[0] = value
        return tensor

    return change


def with_header(change: Callable[[dict[str, Any]], Any]) -> Callable[[bytes], bytes]:
    """A safetensors file with another header."""

    def spoil(content: bytes) -> bytes:
        (size,) = struct.unpack("<Q", content[:8])
        header = json.dumps(change(json.loads(content[8 : 8 + size]))).encode()
        return struct.pack("<Q", len(header)) + header + content[8 + size :]

    return spoil


def first_entry(**fields: Any) -> Callable[[dict[str, Any]], Any]:
    def change(header: dict[str, Any]) -> dict[str, Any]:
        name = min(key for key in header if key != "__metadata__")
        return {**header, name: {**header[name], **fields}}

    return change


def pickled(content: Any) -> Callable[[bytes], bytes]:
    return lambda _: pickle.dumps(content)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("a pickle was executed",))


DAMAGED, UNREADABLE = "SHA-256 differs", "not a readable safetensors file"
#: What can happen to either of the two files, with what the message must say.
TENSORS: list[tuple[str, Callable[[str], Spoil], str, str]] = [
    ("missing", removed, "missing", "missing"),
    ("a-folder", folder_for, "missing", "missing"),
    ("flipped", lambda n: bytes_of(n, flipped), "hash", DAMAGED),
    ("first-byte-flipped", lambda n: bytes_of(n, lambda c: bytes([c[0] ^ 1]) + c[1:]), "hash", DAMAGED),
    ("truncated", lambda n: bytes_of(n, lambda c: c[:-100]), "hash", DAMAGED),
    ("emptied", lambda n: bytes_of(n, lambda c: b""), "hash", DAMAGED),
    ("lengthened", lambda n: bytes_of(n, lambda c: c + b"\0"), "hash", DAMAGED),
    ("zeroed-block", lambda n: bytes_of(n, lambda c: c[:900] + bytes(512) + c[1412:]), "hash", DAMAGED),
    ("git-lfs", lambda n: bytes_of(n, lambda c: b"version https://git-lfs"), "hash", DAMAGED),
    ("foreign-text", lambda n: replaced(n, lambda c: b"hello"), "format", UNREADABLE),
    ("foreign-empty", lambda n: replaced(n, lambda c: b""), "format", UNREADABLE),
    ("foreign-png", lambda n: replaced(n, lambda c: b"\x89PNG\r\n\x1a\n" + bytes(99)), "format", UNREADABLE),
    ("pickle", lambda n: replaced(n, pickled({"a": 1})), "format", UNREADABLE),
    ("pickle-that-runs-code", lambda n: replaced(n, pickled(Evil())), "format", UNREADABLE),
    ("header-cut", lambda n: replaced(n, lambda c: c[:50]), "format", UNREADABLE),
    ("header-of-huge-size", lambda n: replaced(n, lambda c: b"\xff" * 8 + c[8:]), "format", UNREADABLE),
    ("header-a-list", lambda n: replaced(n, with_header(lambda h: [])), "format", UNREADABLE),
    ("voxels-cut", lambda n: replaced(n, lambda c: c[:-4]), "format", UNREADABLE),
    ("voxels-too-many", lambda n: replaced(n, lambda c: c + bytes(4)), "format", UNREADABLE),
    ("unknown-type", lambda n: replaced(n, with_header(first_entry(dtype="F7"))), "format", UNREADABLE),
    ("other-type", lambda n: replaced(n, with_header(first_entry(dtype="F64"))), "format", UNREADABLE),
    ("shape-too-large", lambda n: replaced(n, with_header(first_entry(shape=[2**40]))), "format", UNREADABLE),
    ("offsets-overlap", lambda n: replaced(n, with_header(first_entry(data_offsets=[0, 2]))), "format", UNREADABLE),
    ("nan", lambda n: tensors(n, lambda t: with_first(t, poisoned(float("nan")))), "nonfinite", "not finite"),
    ("infinite", lambda n: tensors(n, lambda t: with_first(t, poisoned(float("-inf")))), "nonfinite", "not finite"),
]  # fmt: skip


@pytest.mark.parametrize("name", [WEIGHTS, SUBSTITUTE])
@pytest.mark.parametrize(
    ("make", "code", "says"), [row[1:] for row in TENSORS], ids=[row[0] for row in TENSORS]
)
def test_bad_tensors(
    name: str, make: Callable[[str], Spoil], code: str, says: str, folder: Path, figures: Figures
) -> None:
    with figures.trial(PROPERTY, goal=GOAL):
        make(name)(folder)
        error = refusal(folder, lambda: load_bundle(folder), code, says)
        assert error.path == folder / name


def prefixed(prefix: str) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    return lambda tensors: {prefix + key: tensor for key, tensor in tensors.items()}


def without_first(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: tensor for key, tensor in tensors.items() if key != min(tensors)}


FOREIGN = "no network of this software"
FITTING: list[tuple[str, Spoil, str, str]] = [
    ("wrapped-in-module", tensors(WEIGHTS, prefixed("module.")), "architecture", FOREIGN),
    ("another-networks-names", tensors(WEIGHTS, prefixed("unet.")), "architecture", FOREIGN),
    ("one-foreign-tensor", tensors(WEIGHTS, lambda t: {**t, "mean": torch.ones(1)}), "architecture", "'mean'"),
    ("one-tensor-missing", tensors(WEIGHTS, without_first), "architecture", "found nothing"),
    (
        "one-tensor-too-many",
        tensors(WEIGHTS, lambda t: {**t, "segmenter.extra": torch.ones(1)}),
        "architecture",
        "expected nothing",
    ),
    ("other-shape", tensors(WEIGHTS, lambda t: with_first(t, lambda x: x[None])), "architecture", "do not fit"),
    (
        "parallel-inside",
        tensors(WEIGHTS, lambda t: {k.replace("segmenter.", "segmenter.module."): v for k, v in t.items()}),
        "architecture",
        "do not fit",
    ),
    ("substitute-renamed", tensors(SUBSTITUTE, prefixed("x_")), "invalid", "substitute image"),
    ("substitute-flat", tensors(SUBSTITUTE, lambda t: {"substitute": torch.ones(4)}), "invalid", "substitute image"),
    (
        "substitute-of-three",
        tensors(SUBSTITUTE, lambda t: {"substitute": t["substitute"][:3]}),
        "invalid",
        "substitute image",
    ),
    ("substitute-empty", tensors(SUBSTITUTE, lambda t: {}), "invalid", "substitute image"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("spoil", "code", "says"), [row[1:] for row in FITTING], ids=[row[0] for row in FITTING]
)
def test_weights_that_do_not_fit(spoil: Spoil, code: str, says: str, folder: Path, figures: Figures) -> None:
    with figures.trial(PROPERTY, goal=GOAL):
        spoil(folder)
        refusal(folder, lambda: load_bundle(folder), code, says)


# --- checkpoints -----------------------------------------------------------------------------------


def torched(content: Any) -> Callable[[Path], None]:
    return lambda path: torch.save(content, path)


def raw(content: bytes) -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(content)


def cut(path: Path) -> None:
    torch.save({"state_dict": {"a": torch.ones(1000)}}, path)
    path.write_bytes(path.read_bytes()[:-400])


NOT_TORCH, UNSAFE, MISFIT = "not a readable PyTorch checkpoint", "asks to run code", "released"
STATE = {"a": torch.zeros(2)}
LIMAGE = torch.zeros(1, 1, 1, 1, 1).expand(1, 4, 155, 240, 240)
CHECKPOINTS: list[tuple[str, Callable[[Path], Any], Callable[[Path], Any], str, str]] = [
    # id, what is there, what is done with it, code, what the message must say
    ("gone", lambda path: None, load_pickle, "missing", "does not exist"),
    ("folder", lambda path: path.mkdir(), load_pickle, "missing", "does not exist"),
    ("empty", raw(b""), load_pickle, "format", NOT_TORCH),
    ("text", raw(b"not a checkpoint at all"), load_pickle, "format", NOT_TORCH),
    ("html", raw(b"<!doctype html><html>"), load_pickle, "format", NOT_TORCH),
    ("zeros", raw(bytes(500)), load_pickle, "format", NOT_TORCH),
    ("png", raw(b"\x89PNG\r\n\x1a\n" + bytes(99)), load_pickle, "format", NOT_TORCH),
    ("gzip", raw(b"\x1f\x8b\x08" + bytes(99)), load_pickle, "format", NOT_TORCH),
    ("broken-zip", raw(b"PK\x03\x04" + bytes(40)), load_pickle, "format", NOT_TORCH),
    ("safetensors", raw(save(STATE)), load_pickle, "format", NOT_TORCH),
    ("truncated", cut, load_pickle, "format", NOT_TORCH),
    ("pickle-that-runs-code", raw(pickle.dumps(Evil())), load_pickle, "unsafe", UNSAFE),
    ("code-inside", torched({"state_dict": STATE, "config": Evil()}), load_pickle, "unsafe", UNSAFE),
    ("whole-module", torched(torch.nn.Linear(2, 2)), load_pickle, "unsafe", UNSAFE),
    ("path-inside", torched({"path": Path("x")}), load_pickle, "unsafe", UNSAFE),
    ("numpy-generator-inside", torched({"rng": np.random.default_rng(0)}), load_pickle, "unsafe", UNSAFE),
    ("list", torched([1, 2]), load_pickle, "format", "not a dictionary"),
    ("tensor", torched(torch.ones(3)), load_pickle, "format", "not a dictionary"),
    ("number", torched(7), load_pickle, "format", "not a dictionary"),
    ("none", torched(None), load_pickle, "format", "not a dictionary"),
    ("not-weights", torched({"state_dict": [1]}), import_official, "architecture", "no dictionary of tensors"),
    ("no-weights", torched({"epoch": 3}), import_official, "architecture", "no substitute image"),
    ("other-network", torched({"state_dict": STATE}), import_official, "architecture", "no substitute image"),
    ("flat-substitute", torched({"limage": torch.ones(4)}), import_official, "architecture", "of shape"),
    ("substitute-alone", torched({"limage": LIMAGE}), import_official, "architecture", MISFIT),
    ("one-foreign-layer", torched({"limage": LIMAGE, **STATE}), import_official, "architecture", MISFIT),
    (
        "twice-with-and-without-module",
        torched(OrderedDict({"a": torch.ones(1), "module.a": torch.ones(1)})),
        import_official,
        "architecture",
        "twice",
    ),
    ("nan", torched({"module.a": torch.tensor([1, float("nan")])}), import_official, "nonfinite", "not finite"),
    ("infinite", torched({"a": torch.tensor([float("inf")])}), import_official, "nonfinite", "not finite"),
    ("tensors-gone", lambda path: None, load_tensors, "missing", "missing"),
    ("tensors-text", raw(b"text"), load_tensors, "format", UNREADABLE),
    ("tensors-pickled", torched(STATE), load_tensors, "format", UNREADABLE),
]  # fmt: skip


@pytest.mark.parametrize(
    ("place", "read", "code", "says"), [row[1:] for row in CHECKPOINTS], ids=[row[0] for row in CHECKPOINTS]
)
def test_bad_checkpoint(
    place: Callable[[Path], Any],
    read: Callable[[Path], Any],
    code: str,
    says: str,
    tmp_path: Path,
    figures: Figures,
) -> None:
    path = tmp_path / "model.pth.tar"
    with figures.trial(PROPERTY, goal=GOAL):
        place(path)
        error = refusal(tmp_path, lambda: read(path), code, says)
        assert error.path == path
        assert "model.pth.tar" in str(error)


# --- what is promised ------------------------------------------------------------------------------


def test_the_good_bundle_is_good(folder: Path) -> None:
    """The tables prove nothing if the bundle that they spoil is refused anyway."""
    load_bundle(folder)
    changed("card", "remark", to="another")(folder)
    tensors(WEIGHTS, dict)(folder)
    assert load_bundle(folder).sha256 == sha256(folder / WEIGHTS)
    assert read_card(folder)["card"]["remark"] == "another"


def test_each_kind_of_fault_has_its_own_sentence() -> None:
    said = [row[-1] for row in (*CARDS, *TENSORS, *FITTING, *CHECKPOINTS)]
    assert len(set(said)) >= 20


def test_the_tables_have_no_rows_twice() -> None:
    for table in (CARDS, TENSORS, FITTING, CHECKPOINTS):
        assert len({row[0] for row in table}) == len(table)
