"""The self-test tells a healthy installation from a broken one, touches nothing, and names no path."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from m3ae_core.card import read_card
from m3ae_core.data.builtin import builtin_bundle
from m3ae_core.events import Progress
from m3ae_core.files import sha256
from m3ae_core.io.sidecar import sidecar_of
from m3ae_core.io.volume import read_labels, write_labels
from m3ae_core.measure import tissue_volumes
from m3ae_core.regions import BRATS_2023
from m3ae_core.seal import sealed
from m3ae_core.selftest import device, folder, golden
from m3ae_core.selftest.check import Check
from m3ae_core.selftest.device import check_device
from m3ae_core.selftest.folder import KILLS, check_folder
from m3ae_core.selftest.golden import Run, check_model
from m3ae_core.selftest.run import run_selftest, versions

NAMES = ["model", "device", "folder", "versions"]
#: Writes in place, a piece at a time, as a program does that takes no care.
CARELESS = """
import sys, time
path, size = sys.argv[1], int(sys.argv[2])
for count in range(1, 1000):
    with open(path, "wb") as stream:
        for _ in range(16):
            stream.write(bytes([count % 256]) * (size // 16))
            stream.flush()
            time.sleep(0.002)
            print("writing", flush=True)
"""


def checks(events: Iterator[object]) -> list[Check]:
    return [event for event in events if isinstance(event, Check)]


def only(events: Iterator[object]) -> Check:
    (check,) = checks(events)
    return check


def listing(place: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in place.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def reference() -> Run:
    """What the installed model says; `check_model` is asked for it once."""
    events, run = check_model(), None
    try:
        while True:
            next(events)
    except StopIteration as end:
        run = end.value
    assert run is not None
    return run


@pytest.fixture
def no_waiting(reference: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the model say at once what it said before."""
    monkeypatch.setattr(golden, "segment", saying(reference))


def saying(run: Run | Exception):
    """A stand-in for `segment`."""

    def segment(*_):
        yield Progress("segmenting", 1, 1)
        if isinstance(run, Exception):
            raise run
        return run

    return segment


# --- all is well -----------------------------------------------------------------------------------


def test_healthy_installation_passes_and_leaves_nothing(tmp_path):
    (tmp_path / "mine.nii.gz").write_bytes(b"mine")
    before = listing(tmp_path)
    events = list(run_selftest(tmp_path, "cpu"))
    found = checks(iter(events))
    assert [check.name for check in found] == NAMES
    assert all(check.ok and not check.fix for check in found), found
    assert re.search(r": \d{1,2} voxels differ", found[0].detail)
    assert re.search(
        r"The CPU will be used with \d+ threads, in float32\. A case takes about \d+\.\d s", found[1].detail
    )
    assert f"Of {KILLS} killed writes" in found[2].detail
    assert any(isinstance(event, Progress) for event in events)
    assert listing(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["mine.nii.gz"]


def test_golden_mask_belongs_to_the_model_that_ships():
    record = json.loads(sidecar_of(golden.GOLDEN).read_text("utf-8"))
    assert record["sha256"] == read_card(builtin_bundle())["sha256"], "write_golden() after shipping a model"
    labels = read_labels(golden.GOLDEN)
    assert record["labels"]["volumes_ml"] == tissue_volumes(labels.data, BRATS_2023, labels.affine)
    assert all(volume > 1 for volume in record["labels"]["volumes_ml"].values())
    assert golden.GOLDEN.stat().st_size < 50_000


def test_writing_the_golden_mask_again_gives_the_same(tmp_path, monkeypatch):
    shipped = golden.GOLDEN
    monkeypatch.setattr(golden, "GOLDEN", tmp_path / "golden.nii.gz")
    written = golden.write_golden()
    assert sidecar_of(written).read_text("utf-8") == sidecar_of(shipped).read_text("utf-8")
    differ = np.count_nonzero(read_labels(written).data != read_labels(shipped).data)
    assert differ < 100


def test_it_loads_no_torch_before_it_runs():
    code = "import sys, m3ae_core.selftest.run, m3ae_core.cli.selftest; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


def test_versions_are_one_line_without_a_path():
    line = versions()
    assert re.search(
        r"napari-m3ae \d.*, Python 3\.\d+.*, torch \d.*, numpy \d.*, nibabel \d.*, napari ", line
    )
    assert not re.search(r"[/\\\n]", line)


# --- the model -------------------------------------------------------------------------------------


@pytest.fixture
def model(tmp_path, monkeypatch) -> Path:
    """A copy of the installed model, in its place."""
    copy = shutil.copytree(builtin_bundle(), tmp_path / "Jane Doe" / "model")
    monkeypatch.setattr(golden, "builtin_bundle", lambda: copy)
    return copy


@pytest.mark.parametrize("name", ["weights.safetensors", "substitute.safetensors"])
@pytest.mark.parametrize("where", [0.1, 0.5, 0.99])
def test_a_flipped_byte_is_found(model, name, where):
    content = bytearray((model / name).read_bytes())
    content[int(where * len(content))] ^= 1
    (model / name).write_bytes(content)
    check = only(check_model())
    assert not check.ok
    assert check.detail.startswith(f"{name}: The file is damaged")
    assert "Reinstall" in check.fix
    assert "Jane" not in check.detail + check.fix


@pytest.mark.parametrize("name", ["bundle.json", "weights.safetensors"])
def test_a_missing_file_is_found_and_the_rest_is_still_tested(model, tmp_path, name):
    (model / name).unlink()
    found = {check.name: check for check in checks(run_selftest(tmp_path, "cpu"))}
    assert list(found) == NAMES
    assert [check.name for check in found.values() if not check.ok] == ["model"]
    assert "A case takes" not in found["device"].detail


def test_another_model_has_no_golden_mask(model, no_waiting):
    card = json.loads((model / "bundle.json").read_text("utf-8"))
    card["sha256"]["weights.safetensors"] = "0" * 64
    (model / "bundle.json").write_text(json.dumps(sealed(card)))
    assert "its SHA-256 differs" in only(check_model()).detail  # a card that lies about the weights
    shutil.copytree(builtin_bundle(), model, dirs_exist_ok=True)
    content = bytearray((model / "weights.safetensors").read_bytes())
    content[-1] ^= 1
    (model / "weights.safetensors").write_bytes(content)
    card["sha256"]["weights.safetensors"] = sha256(model / "weights.safetensors")
    (model / "bundle.json").write_text(json.dumps(sealed(card)))
    check = only(check_model())
    assert not check.ok
    assert "its golden mask is not available" in check.detail


@pytest.fixture
def other_golden(tmp_path, monkeypatch) -> Path:
    """A copy of the golden mask, in its place."""
    copy = tmp_path / "golden.nii.gz"
    shutil.copy(golden.GOLDEN, copy)
    shutil.copy(sidecar_of(golden.GOLDEN), sidecar_of(copy))
    monkeypatch.setattr(golden, "GOLDEN", copy)
    return copy


@pytest.mark.parametrize(("changed", "ok"), [(5, True), (500, False)])
def test_voxels_that_differ_are_counted_and_many_are_a_failure(no_waiting, other_golden, changed, ok):
    volume = read_labels(other_golden)
    labels = volume.data.copy()
    enhancing = np.argwhere(labels == 3)[:changed]
    labels[tuple(enhancing.T)] = 2
    write_labels(other_golden, labels, volume.affine)
    check = only(check_model())
    assert check.ok is ok
    differ = int(re.search(r"(\d+) voxels differ", check.detail)[1])
    assert abs(differ - changed) < 100
    assert ("Dice WT 1.0000" in check.detail) is not ok


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"{")])
@pytest.mark.parametrize("record", [False, True])
def test_a_damaged_golden_mask_is_said(no_waiting, other_golden, damage, record):
    damage(sidecar_of(other_golden) if record else other_golden)
    check = only(check_model())
    assert not check.ok
    assert "Reinstall" in check.fix
    assert ("record of the golden mask" if record else "golden.nii.gz") in check.detail


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            RuntimeError("can't allocate memory\n at /home/jane/aten.cpp"),
            "RuntimeError: can't allocate memory",
        ),
        (MemoryError(), "MemoryError: "),
        (
            ImportError("/home/jane/lib/libtorch.so: no such file", name="torch._C"),
            "torch._C cannot be loaded.",
        ),
    ],
)
def test_what_nobody_foresaw_is_a_failed_check(monkeypatch, error, said):
    monkeypatch.setattr(golden, "segment", saying(error))
    check = only(check_model())
    assert not check.ok
    assert check.detail == said
    assert check.fix


# --- the device ------------------------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_a_device_that_is_not_there(reference):
    check = only(check_device("cuda", reference))
    assert not check.ok
    assert "no CUDA device" in check.detail
    why = only(check_device("auto", reference))
    assert why.ok
    assert re.search(r"built without CUDA|finds no CUDA device", why.detail)


@pytest.fixture
def gpu(monkeypatch):
    """A GPU that says what it is told to."""
    monkeypatch.setattr("m3ae_core.inference.device.choose_device", lambda _: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Some GPU")
    return lambda run: monkeypatch.setattr(device, "segment", saying(run))


def with_labels(run: Run, labels: np.ndarray) -> Run:
    return replace(run, prediction=replace(run.prediction, labels=labels))


def test_a_gpu_that_agrees(gpu, reference):
    labels = reference.prediction.labels.copy()
    labels[tuple(np.argwhere(labels == 3)[:300].T)] = 1
    gpu(with_labels(reference, labels))
    check = only(check_device("auto", reference))
    assert check.ok
    assert check.detail.startswith(
        "Some GPU (CUDA) will be used and agrees with the CPU: 300 voxels differ. A case"
    )


@pytest.mark.parametrize("wrong", [np.zeros_like, lambda labels: np.roll(labels, 1, axis=0)])
def test_a_gpu_that_computes_something_else(gpu, reference, wrong):
    gpu(with_labels(reference, wrong(reference.prediction.labels)))
    check = only(check_device("auto", reference))
    assert not check.ok
    assert "does not compute what the CPU does" in check.detail
    assert "Choose the CPU" in check.fix


def test_a_gpu_that_gives_up(gpu, reference):
    gpu(RuntimeError("CUDA error: no kernel image is available for execution on the device\nSee /home/jane"))
    check = only(check_device("cuda", reference))
    assert not check.ok
    assert check.detail.endswith("execution on the device")
    assert "Choose the CPU" in check.fix


def test_a_gpu_without_enough_memory(gpu, reference):
    record = {**reference.prediction.provenance, "device": {"fallbacks": ["The GPU ran out of memory."]}}
    gpu(replace(reference, prediction=replace(reference.prediction, provenance=record)))
    check = only(check_device("auto", reference))
    assert not check.ok
    assert "ran out of memory" in check.detail


def test_a_gpu_is_not_called_well_untried(gpu):
    check = only(check_device("auto", None))
    assert not check.ok
    assert "was not tried" in check.detail


# --- the folder ------------------------------------------------------------------------------------


def test_kills_meet_writes_half_done(tmp_path):
    """Kills that come between two writes would prove nothing."""
    midway = [int(re.search(r"\((\d+) midway\)", only(check_folder(tmp_path)).detail)[1]) for _ in range(2)]
    assert sum(midway) > 0


def test_a_writer_that_takes_no_care_is_found_out(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "WRITER", CARELESS)
    check = only(check_folder(tmp_path))
    assert not check.ok
    assert re.search(rf"Of {KILLS} killed writes .* [1-{KILLS}] damaged the file", check.detail)
    assert check.fix
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("loss", ["path.unlink()", "path.write_bytes(b'')"])
def test_a_file_that_is_gone_counts_as_damaged(tmp_path, monkeypatch, loss):
    losing = f"import sys, pathlib; path = pathlib.Path(sys.argv[1]); path.touch(); {loss}; print('writing')"
    monkeypatch.setattr(folder, "WRITER", losing)
    check = only(check_folder(tmp_path))
    assert not check.ok
    assert f"{KILLS} damaged the file" in check.detail


def test_a_process_that_cannot_write_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "WRITER", "raise OSError")
    check = only(check_folder(tmp_path))
    assert not check.ok
    assert "Another process could not write" in check.detail
    assert not list(tmp_path.iterdir())


def a_file(place: Path) -> Path:
    (place / "Jane Doe").write_text("")
    return place / "Jane Doe"


def read_only(place: Path) -> Path:
    """A folder that nobody may write, root included."""
    system = Path("/proc")
    if not system.is_dir():
        pytest.skip("needs Linux")
    return system


@pytest.mark.parametrize("make", [lambda place: place / "Jane Doe", a_file, read_only])
def test_a_folder_that_cannot_be_written(tmp_path, make):
    place = make(tmp_path)
    before = listing(tmp_path)
    check = only(check_folder(place))
    assert not check.ok
    assert check.detail.startswith("It cannot be written: ")
    assert check.fix
    assert "Jane" not in check.detail + check.fix
    assert str(place) not in check.detail
    assert listing(tmp_path) == before


def test_a_full_disk(tmp_path, monkeypatch):
    def write_bytes(self, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    check = only(check_folder(tmp_path))
    assert not check.ok
    assert "No space left on device" in check.detail
    assert str(tmp_path) not in check.detail
    assert not list(tmp_path.iterdir())


def is_writer(process: psutil.Process) -> bool:
    """Whether it is one that the check of a folder started; what another test has left may end meanwhile."""
    try:
        return "-P" in process.cmdline()
    except psutil.Error:
        return False


def test_cancelled_it_leaves_neither_file_nor_process(tmp_path):
    events = check_folder(tmp_path)
    while next(events).done < 2:
        pass
    assert list(tmp_path.iterdir())
    events.close()
    assert not list(tmp_path.iterdir())
    assert not [child for child in psutil.Process().children() if is_writer(child)]
