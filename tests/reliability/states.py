"""State files of every kind, spoiled one at a time, and what comes of reading them.

Each kind knows how to make a sound file (or folder), and what reads it: that returns what is then believed, which must
be what was believed of the sound one, or raises M3AEError. A fresh start, where there is such a thing, counts as sound.
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import torch
from damage import Rng, damaged
from napari.components import ViewerModel
from test_rel_fuzz_models import mutated

from m3ae_core.bundle import load_bundle, save_bundle
from m3ae_core.card import read_card, reliability_words
from m3ae_core.data.dataset import CachedCase, cache_case
from m3ae_core.data.phantom import write_phantom
from m3ae_core.errors import M3AEError
from m3ae_core.inference.predictor import Prediction
from m3ae_core.inference.reuse import find_result
from m3ae_core.io.case import find_case, read_case, read_case_labels
from m3ae_core.io.folders.manifest import read_manifest, write_manifest
from m3ae_core.io.sidecar import saved_scheme, sidecar_of
from m3ae_core.io.volume import read_labels, write_labels
from m3ae_core.modalities import BRATS
from m3ae_core.regions import BRATS_2023
from m3ae_core.report.curves import read_log, save_curves
from m3ae_core.seal import sealed
from m3ae_core.stage_config import PretrainConfig
from m3ae_core.training.checkpoint import CHECKPOINT, read_state, require_own
from m3ae_core.training.folder import _keep_recipe
from m3ae_core.training.identity import keep_identity
from m3ae_core.training.record import LOG, TIMES, log_sha256, rewind
from napari_m3ae.autosave import EDITED, MODEL, Autosave, _load
from napari_m3ae.editing import put
from napari_m3ae.result import show
from napari_m3ae.runlog import RunLog
from runs import flat
from tiny import RECIPE, random_bundle

SEED = 20_261_127
RELIABILITY = {"FLAIR+T2": {"WT": {"median": 0.8, "q1": 0.7, "q3": 0.9, "n": 5}}}
WEIRD: tuple[Any, ...] = (None, -1, 10**9, float("nan"), "x", [], {}, True, torch.ones(2), 2**70)
CELLS = ("", "x\0y", "a/b", "../..", "=1", "nan", "é" * 300, '"', ";;", "sub\n01", "C:\\x")


@dataclass(frozen=True)
class Kind:
    """A kind of state file.

    Attributes
    ----------
    make
        Writes a sound folder.
    file
        The file in it that is spoiled.
    read
        Returns what is believed of a folder.
    spoil
        Returns other bytes for the file, given its own and those of another run's.
    """

    name: str
    make: Callable[[Path, int], None]
    file: Callable[[Path], Path]
    read: Callable[[Path], Any]
    spoil: Callable[[bytes, bytes, Rng], bytes]


# --- how files are spoiled -------------------------------------------------------------------------


def any_bytes(content: bytes, other: bytes, rng: Rng) -> bytes:
    """Cut, flipped, zeroed and so on; now and then another run's, of another type, or nothing."""
    way = rng.integers(12)
    if way < 3:
        return (other, b"", b"\x93NUMPY" + rng.bytes(40))[way]
    return damaged(content, rng)[1]


def any_json(content: bytes, other: bytes, rng: Rng) -> bytes:
    if rng.integers(2):
        return any_bytes(content, other, rng)
    return json.dumps(mutated(json.loads(content), rng)).encode()


def any_lines(content: bytes, other: bytes, rng: Rng) -> bytes:
    """One line's content changed, a line dropped or doubled."""
    lines = content.splitlines(keepends=True)
    way, at = rng.integers(4), int(rng.integers(len(lines)))
    if way == 0:
        return any_bytes(content, other, rng)
    changed = {
        1: [json.dumps(mutated(json.loads(lines[at]), rng)).encode() + b"\n"],
        2: [],
        3: [lines[at]] * 2,
    }[int(way)]
    return b"".join([*lines[:at], *changed, *lines[at + 1 :]])


def any_array(content: bytes, other: bytes, rng: Rng) -> bytes:
    if rng.integers(2):
        return any_bytes(content, other, rng)
    array = np.load(io.BytesIO(content))
    ways = (array[:1], array.astype(np.float64), array * np.nan, array[..., ::-1], array > 0, np.zeros(0))
    stream = io.BytesIO()
    np.save(stream, ways[rng.integers(len(ways))])
    return stream.getvalue()


def any_state(content: bytes, other: bytes, rng: Rng) -> bytes:
    """One entry of a checkpoint, as version 0.1 wrote it, removed or replaced."""
    if rng.integers(2):
        return any_bytes(content, other, rng)
    state = torch.load(io.BytesIO(content), weights_only=True)
    del state["run"], state["log"]
    _spoil_entry(state, rng)
    stream = io.BytesIO()
    torch.save(state, stream)
    return stream.getvalue()


def any_table(content: bytes, other: bytes, rng: Rng) -> bytes:
    if rng.integers(2):
        return any_bytes(content, other, rng)
    rows = [line.split(b",") for line in content.splitlines()]
    row = rows[rng.integers(len(rows))]
    row[rng.integers(len(row))] = CELLS[rng.integers(len(CELLS))].encode()
    if rng.integers(4) == 0:
        row.append(b"more")
    return b"\n".join(b",".join(row) for row in rows)


def _spoil_entry(tree: Any, rng: Rng) -> None:
    """Change one node of nested dictionaries and lists to what it must not be."""
    keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
    key = keys[rng.integers(len(keys))]
    value = tree[key]
    if isinstance(value, dict | list) and value and rng.integers(5):
        _spoil_entry(value, rng)
    elif rng.integers(3) == 0 and isinstance(tree, dict) and key not in ("lr", "initial_lr"):
        del tree[key]
    elif isinstance(value, torch.Tensor) and rng.integers(2):
        tree[key] = (value * float("nan"), value.double()[None, None], value.to(torch.complex64))[
            rng.integers(3)
        ]
    elif key not in ("lr", "initial_lr"):
        tree[key] = WEIRD[rng.integers(len(WEIRD))]


# --- kinds -----------------------------------------------------------------------------------------


def _line() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    task = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam([{"params": list(task.parameters()), "lr": 0.1}])
    task(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return task, optimizer


def _begin(folder: Path, number: int) -> str:
    """Do what a run does before it trains."""
    recipe = RECIPE.model_copy(update={"pretrain": RECIPE.pretrain.model_copy(update={"seed": number})})
    _keep_recipe(folder / "recipe.json", recipe, "pretrain")
    box = ((0, 0, 0), (1, 1, 1))
    case = CachedCase(f"case-{number}", folder / f"{number:024}-image.npy", None, box, (True,) * 4)
    settings = {"pretrain": recipe.pretrain.model_dump(mode="json")}
    return keep_identity(folder, [case], settings=settings)


def make_run(folder: Path, number: int) -> None:
    identity = _begin(folder, number)
    lines = [{"epoch": epoch, "terms": {"loss": epoch / (7 + number)}} for epoch in range(1, 4)]
    (folder / LOG).write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / TIMES).write_text("".join(f'{{"epoch": {epoch}, "seconds": 1.5}}\n' for epoch in range(1, 4)))
    task, optimizer = _line()
    state = {
        "task": task.state_dict(),
        "optimizer": optimizer.state_dict(),
        "precision": {},
        "epoch": 3,
        "best": 0.5,
        "run": identity,
        "log": log_sha256(folder),
    }
    from m3ae_core.io.weights import save_checkpoint

    save_checkpoint(folder / CHECKPOINT, state)


def resume(folder: Path) -> Any:
    """Do what a run does when it goes on; return its state and its log."""
    identity = _begin(folder, 0)
    if not (folder / CHECKPOINT).exists():
        return "fresh"
    task, optimizer = _line()
    state = read_state(folder / CHECKPOINT, task, optimizer, PretrainConfig(epochs=9).epochs)
    require_own(state, identity, folder / CHECKPOINT)
    task.load_state_dict(state["task"])
    optimizer.load_state_dict(state["optimizer"])
    task(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    for name in (LOG, TIMES):
        rewind(folder / name, int(state["epoch"]))
    RunLog(folder / LOG).read_on()
    kept = {name: state[name] for name in ("task", "optimizer", "precision", "epoch", "best")}
    return {**flat(kept), "log": (folder / LOG).read_text()}


def draw(folder: Path) -> Any:
    """Draw the learning curves; return the lines that the checkpoint knows."""
    save_curves(folder, folder / "curves.png")
    RunLog(folder / LOG).read_on()
    epochs, validations = read_log(folder)
    return [line for line in (*epochs, *validations) if line.epoch <= 3]


def make_cache(folder: Path, number: int) -> None:
    case = write_phantom(folder / "cases", "case", seed=number)
    (folder / "cache").mkdir()
    cache_case(case, RECIPE.model, BRATS_2023, folder / "cache")


def cached(folder: Path) -> Any:
    case = find_case(folder / "cases" / "case")
    found = cache_case(case, RECIPE.model, BRATS_2023, folder / "cache")
    return {"image": np.array(found.image), "regions": np.array(found.regions)}


def make_bundle(folder: Path, number: int) -> None:
    bundle = random_bundle(seed=number)
    bundle.card["reliability"] = RELIABILITY
    save_bundle(bundle, folder)


def loaded(folder: Path) -> Any:
    bundle = load_bundle(folder)
    return {"fingerprint": bundle.fingerprint, "card": json.dumps(bundle.card, sort_keys=True)}


def told(folder: Path) -> Any:
    card = read_card(folder)["card"]
    return [reliability_words(card, subset) for subset in BRATS.subsets()]


def make_result(folder: Path, number: int) -> None:
    labels = np.zeros((8, 9, 10), np.uint8)
    labels[number, 2:5, 3:6] = 3
    path = write_labels(folder / "r.nii.gz", labels, np.diag([1.0, 1, 1, 1]))
    record = {
        "labels": {
            "scheme": "brats2023",
            "values": dict(BRATS_2023.values),
            "sha256": read_labels(path).sha256,
        },
        "model": {"fingerprint": "0" * 64, "inference": {"window": "brain"}},
        "sequences_present": {"T1": f"{number:064}"},
        "warnings": ["w"],
        "made_by": {"napari-m3ae": "x"},
    }
    sidecar_of(path).write_text(json.dumps(sealed(record)))


class _Case:
    shape, affine = (8, 9, 10), np.diag([1.0, 1, 1, 1])


def result(folder: Path) -> Any:
    path = folder / "r.nii.gz"
    wanted = {
        "images": {"T1": f"{0:064}"},
        "model": "0" * 64,
        "options": {"window": "brain"},
        "label scheme": dict(BRATS_2023.values),
    }
    found = find_result(path, _Case, wanted)  # type: ignore[arg-type]
    scheme = saved_scheme(path, read_labels(path).sha256)
    if found is None or found.state != "done before" or scheme is None:
        return "fresh"  # edited, stale, damaged or asked: nothing is believed
    return scheme.name


def _viewing(shown: Any = None, viewer: Any = None) -> Any:
    """Return as much of a session of the viewer as autosaves need."""
    return SimpleNamespace(shown=shown, viewer=viewer, changed=Mock(), closing=Mock())


def make_autosave(folder: Path, number: int) -> None:
    """Keep edits, twice, in the name of a process that then ends."""
    labels = np.zeros((8, 9, 10), np.uint8)
    labels[number, 2:5, 3:6] = 3
    facts = {"sequences_present": {"T1": f"{number:064}"}}
    grid = np.diag([1.0, 1, 2, 1])
    prediction = Prediction(labels, {}, grid, BRATS_2023, BRATS.subset(["T1"]), ("w",), facts)
    viewer = ViewerModel()
    session = _viewing(show(viewer, prediction, f"case-{number}", frozenset({"source"}), None), viewer)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        autosave = Autosave(session, folder, process.pid)
        for tissue in (1, 2):
            edited = labels.copy()
            edited[4 + number, 4:6, 4:6] = tissue
            put(session.shown.layer, edited)
            assert autosave.save_now()
        process.kill()


def restored(folder: Path) -> Any:
    """Return the edits that are offered; those that cannot be read must be said to be there."""
    autosave = Autosave(_viewing(), folder)
    if not (found := autosave.found()):
        assert autosave.damaged
        return "fresh"
    prediction, edited = next(_load(found[0]))
    told = (found[0].case, str(found[0].when), sorted(found[0].content["sources"]), prediction.warnings)
    told += (prediction.scheme.name, str(prediction.subset), prediction.provenance)
    return {"told": told, "affine": prediction.affine, "model": prediction.labels, "edited": edited}


def make_manifest(folder: Path, number: int) -> None:
    write_manifest(
        [write_phantom(folder / "cases", f"case-{number}-{one}") for one in range(2)], folder / "m.csv"
    )


def listed(folder: Path) -> Any:
    """A manifest is corrected by hand: whatever is well formed in it is meant."""
    for files in read_manifest(folder / "m.csv"):
        case = read_case(files)
        if files.labels:
            read_case_labels(files, case)
    return None


def only(name: str) -> Callable[[Path], Path]:
    return lambda folder: folder / name


def _array(ending: str) -> Callable[[Path], Path]:
    return lambda folder: next((folder / "cache").glob(f"*-{ending}.npy"))


KINDS = (
    Kind("recipe.json", make_run, only("recipe.json"), resume, any_json),
    Kind("cases.json", make_run, only("cases.json"), resume, any_json),
    Kind("log.jsonl", make_run, only(LOG), resume, any_lines),
    Kind("log.jsonl, drawn", make_run, only(LOG), draw, any_lines),
    Kind("times.jsonl", make_run, only(TIMES), resume, any_lines),
    Kind("checkpoint.pt", make_run, only(CHECKPOINT), resume, any_state),
    Kind("cached image", make_cache, _array("image"), cached, any_array),
    Kind("cached regions", make_cache, _array("regions"), cached, any_array),
    Kind("bundle.json", make_bundle, only("bundle.json"), loaded, any_json),
    Kind("card", make_bundle, only("bundle.json"), told, any_json),
    Kind("weights", make_bundle, only("weights.safetensors"), loaded, any_bytes),
    Kind("substitute", make_bundle, only("substitute.safetensors"), loaded, any_bytes),
    Kind("sidecar", make_result, only("r.json"), result, any_json),
    Kind("labels", make_result, only("r.nii.gz"), result, any_bytes),
    Kind("autosave", make_autosave, lambda folder: next(folder.glob("*.json")), restored, any_json),
    Kind("autosave, edited", make_autosave, lambda folder: next(folder.glob(f"*{EDITED}")), restored, any_bytes),
    Kind("autosave, model", make_autosave, lambda folder: next(folder.glob(f"*{MODEL}")), restored, any_bytes),
    Kind("manifest", make_manifest, only("m.csv"), listed, any_table),
)  # fmt: skip


def spoiled(kind: Kind, home: Path, count: int) -> Iterator[tuple[int, str, str]]:
    """Spoil a file `count` times; yield each time's number, what came of it, and what was said."""
    sound, another, folder = (home / name for name in ("sound", "another", "spoiled"))
    for number, place in enumerate((sound, another)):
        place.mkdir(parents=True)
        kind.make(place, number)
    content, other = kind.file(sound).read_bytes(), kind.file(another).read_bytes()
    shutil.copytree(sound, folder)
    before = kind.read(folder)
    for number in range(count):
        shutil.rmtree(folder)
        shutil.copytree(sound, folder)
        changed = kind.spoil(content, other, np.random.default_rng([SEED, number]))
        kind.file(folder).write_bytes(changed)
        yield number, *_outcome(kind, folder, before)


def _outcome(kind: Kind, folder: Path, before: Any) -> tuple[str, str]:
    try:
        after = kind.read(folder)
    except M3AEError as error:
        return "refused", str(error)
    except Exception as error:
        return "traceback", f"{type(error).__name__}: {error}"
    if isinstance(after, str) and after == "fresh":
        return "fresh", ""
    return ("sound", "") if same(before, after) else ("silent", f"{before} became {after}"[:300])


def same(one: Any, two: Any) -> bool:
    """Whether two trees are the same, arrays and tensors to the bit."""
    if isinstance(one, dict):
        return isinstance(two, dict) and one.keys() == two.keys() and all(same(one[k], two[k]) for k in one)
    if isinstance(one, np.ndarray | torch.Tensor):
        return (
            type(one) is type(two)
            and one.dtype == two.dtype
            and bool((np.asarray(one) == np.asarray(two)).all())
        )
    return type(one) is type(two) and bool(one == two)
