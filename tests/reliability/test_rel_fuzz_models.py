"""Whatever bytes a model, its card, a checkpoint or a sidecar holds, nothing but a BundleError comes out."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from damage import Rng, damaged
from safetensors.torch import save

from m3ae_core.bundle import load_bundle, save_bundle
from m3ae_core.card import read_card, reliability_words
from m3ae_core.errors import BundleError
from m3ae_core.io.sidecar import saved_scheme
from m3ae_core.io.weights import load_pickle, load_tensors
from m3ae_core.modalities import BRATS
from m3ae_core.regions import SCHEMES
from published import Figures, Trials
from tiny import random_bundle

PROPERTY = "fuzz executions (bytes and header-aware)"
GOAL = "≥ 2,000,000, 0 escapes from the error family"
SEED = 20_230_210
LIMIT = 2.0
ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 3, 7, 2**31, 2**63, 2**70, -1e308, 0.5, float("nan"), float("inf"), "", "x", "T1",
    "0" * 64, [], [[]], [1, 2, 3], [0, 8], {}, {"a": 1}, "F64", "F16", "I64", "BOOL", "F8_E4M3", "BF16", "C64", "U16",
)  # fmt: skip
RELIABILITY = {"FLAIR+T2": {"WT": {"median": 0.8, "q1": 0.7, "q3": 0.9, "n": 5}}}

Act = Callable[[Path], Any]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    bundle = random_bundle()
    bundle.card["reliability"] = RELIABILITY
    return save_bundle(bundle, tmp_path_factory.mktemp("fuzz") / "model")


def mutated(tree: Any, rng: Rng) -> Any:
    """JSON with one node somewhere replaced, removed, renamed or doubled."""
    if not isinstance(tree, dict | list) or not tree or rng.integers(4) == 0:
        return ODD[rng.integers(len(ODD))]
    keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
    key = keys[rng.integers(len(keys))]
    changed = tree.copy()
    way = rng.integers(8)
    if way == 0:
        del changed[key]
    elif way == 1 and isinstance(changed, dict):
        changed[f"{key}x"] = changed.pop(key)
    elif way == 2 and isinstance(changed, list):
        changed.append(changed[key])
    else:
        changed[key] = mutated(tree[key], rng)
    return changed


def json_mutant(content: dict[str, Any], rng: Rng) -> bytes:
    """JSON of another content, or (one in four) damaged as text."""
    for _ in range(rng.integers(1, 4)):
        content = mutated(content, rng) if isinstance(content, dict) else content
    text = json.dumps(content).encode()
    return damaged(text, rng)[1] if rng.integers(4) == 0 else text


def tensors_mutant(content: bytes, rng: Rng) -> bytes:
    """A safetensors file with another header, or damaged as bytes."""
    if rng.integers(2):
        return damaged(content, rng)[1]
    size = int.from_bytes(content[:8], "little")
    header = json_mutant(json.loads(content[8 : 8 + size]), rng)
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


def fuzz(count: int, make: Callable[[Rng], bytes], act: Act, path: Path) -> tuple[Counter[str], list[str]]:
    """Write `count` mutants to `path` and act on each; return the outcomes, and what must not have happened."""
    outcomes, wrong = Counter[str](), []
    for index in range(count):
        path.write_bytes(make(np.random.default_rng([SEED, index])))
        before = time.process_time()
        try:
            act(path)
            outcome = "read"
        except BundleError as error:
            outcome = error.code
            if error.path not in {path, path.parent} and path.parent not in error.path.parents:
                wrong.append(f"execution {index}: the file is not named in {error}")
        except Exception as error:
            outcome = "escape"
            wrong.append(f"execution {index}: {type(error).__name__} escaped: {error}")
        if (spent := time.process_time() - before) > LIMIT:
            wrong.append(f"execution {index}: took {spent:.1f} s")
        outcomes[outcome] += 1
    return outcomes, wrong


def report(figures: Figures, what: str, outcomes: Counter[str], wrong: list[str]) -> None:
    note = f"{what}: {dict(outcomes.most_common())}"
    figures.add(PROPERTY, goal=GOAL, tried=outcomes.total(), failed=len(wrong), note=note)
    assert not wrong, wrong[:10]
    assert len(outcomes) > 1, "the mutants do not get far"


def read_and_tell(path: Path) -> None:
    """What the viewer does with a card: read it and put its figures in words, for every subset."""
    card = read_card(path.parent)["card"]
    for subset in BRATS.subsets():
        assert all(isinstance(sentence, str) for sentence in reliability_words(card, subset))


def test_cards(model: Path, tmp_path: Path, trials: Trials, figures: Figures) -> None:
    content = json.loads((model / "bundle.json").read_text("utf-8"))
    count = trials(ci=1_000, long=60_000)
    found = fuzz(count, lambda rng: json_mutant(content, rng), read_and_tell, tmp_path / "bundle.json")
    report(figures, "cards", *found)


def test_bundles(model: Path, tmp_path: Path, trials: Trials, figures: Figures) -> None:
    folder = Path(shutil.copytree(model, tmp_path / "model"))
    content = json.loads((model / "bundle.json").read_text("utf-8"))
    count = trials(ci=60, long=5_000)
    found = fuzz(
        count,
        lambda rng: json_mutant(content, rng),
        lambda path: load_bundle(path.parent),
        folder / "bundle.json",
    )
    report(figures, "bundles", *found)


def load_finite(path: Path) -> None:
    for tensor in load_tensors(path).values():
        assert not tensor.is_floating_point() or torch.isfinite(tensor.float()).all()


def test_tensors(tmp_path: Path, trials: Trials, figures: Figures) -> None:
    content = save({"a": torch.ones(3, 4), "b": torch.arange(6), "c": torch.ones(5, dtype=torch.float16)})
    count = trials(ci=500, long=60_000)
    found = fuzz(count, lambda rng: tensors_mutant(content, rng), load_finite, tmp_path / "w.safetensors")
    report(figures, "safetensors", *found)


@pytest.mark.filterwarnings("ignore")
def test_checkpoints(tmp_path: Path, trials: Trials, figures: Figures) -> None:
    state = {"state_dict": {"a": torch.ones(3, 4), "b": torch.arange(6)}, "epoch": 3}
    contents = []
    for new in (True, False):
        torch.save(state, tmp_path / "c.pt", _use_new_zipfile_serialization=new)
        contents.append((tmp_path / "c.pt").read_bytes())

    def make(rng: Rng) -> bytes:
        return damaged(contents[rng.integers(2)], rng)[1]

    found = fuzz(trials(ci=300, long=30_000), make, load_pickle, tmp_path / "c.pt")
    report(figures, "checkpoints", *found)


def test_sidecars(tmp_path: Path, trials: Trials, figures: Figures) -> None:
    """A sidecar that cannot be read counts as none: the scheme is then asked for."""
    content = {"labels": {"scheme": "brats2021", "values": {"oedema": 2}}, "case": "x"}
    named = []

    def act(path: Path) -> None:
        named.append(saved_scheme(path.with_name("seg.nii.gz")))

    count = trials(ci=500, long=60_000)
    outcomes, wrong = fuzz(count, lambda rng: json_mutant(content, rng), act, tmp_path / "seg.json")
    assert {scheme and scheme.name for scheme in named} <= {None, *SCHEMES}
    assert None in named
    figures.add(PROPERTY, goal=GOAL, tried=count, failed=len(wrong), note=f"sidecars: {dict(outcomes)}")
    assert not wrong, wrong[:10]


# --- these tests can fail --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "broken",
    [
        lambda path: json.loads(path.read_text("utf-8"))["card"]["reliability"],
        lambda path: time.sleep(0) or 1 / 0,
    ],
    ids=["unguarded", "crashing"],
)
def test_an_escape_is_found_out(broken: Act, model: Path, tmp_path: Path) -> None:
    content = json.loads((model / "bundle.json").read_text("utf-8"))
    _, wrong = fuzz(50, lambda rng: json_mutant(content, rng), broken, tmp_path / "bundle.json")
    assert len(wrong) > 3


def test_an_execution_can_be_repeated() -> None:
    makes = [json_mutant({"a": [1, {"b": 2}], "c": "d"}, np.random.default_rng([1, 2])) for _ in range(2)]
    assert hashlib.sha256(makes[0]).digest() == hashlib.sha256(makes[1]).digest()
