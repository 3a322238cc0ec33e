"""Cases go out in parts and come back as a bundle; the training between needs torch, numpy and safetensors alone."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch

from m3ae_core.bundle import load_bundle
from m3ae_core.cli import main
from m3ae_core.config import GridConfig, Recipe
from m3ae_core.data.dataset import cache_case
from m3ae_core.errors import ConfigError, InputError, OutputError
from m3ae_core.inference.predictor import Predictor
from m3ae_core.intensity import PreprocessConfig
from m3ae_core.io.case import CaseFiles, read_case
from m3ae_core.packed import train
from m3ae_core.packed.pack import pack
from m3ae_core.packed.parts import INDEX, quantise, read_parts, settings
from m3ae_core.packed.train import FILE_SIZE, RESULT, read_state, train_packed
from m3ae_core.packed.unpack import bundle_from_packed
from m3ae_core.regions import BRATS_2023
from tiny import RECIPE, recipe_toml, write_cases

#: Trains while this package may import torch, numpy, safetensors and the standard library alone.
ALONE = """
import builtins, sys
usual, allowed = builtins.__import__, {"m3ae_core", "torch", "numpy", "safetensors"}
def checked(name, globals=None, *rest):
    ours = (globals or {}).get("__name__", "").startswith("m3ae_core")
    if ours and name.partition(".")[0] not in allowed | sys.stdlib_module_names:
        raise ImportError(f"{name} may not be imported here")
    return usual(name, globals, *rest)
builtins.__import__ = checked
from m3ae_core.packed.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[CaseFiles]:
    return write_cases(tmp_path_factory.mktemp("cases"), 3)


@pytest.fixture(scope="module")
def parts(cases: list[CaseFiles], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    schemes = {case.name: BRATS_2023 for case in cases[:2]}
    done = list(pack(RECIPE, cases, schemes, folder, weights={cases[1].name: 0.3}, part_size=300_000))
    assert [event.done for event in done] == [1, 2, 3]
    return folder


def ticks(step: float = 1.0):  # type: ignore[no-untyped-def]
    """A clock that moves whenever it is read."""
    numbers = count()
    return lambda: next(numbers) * step


@pytest.fixture(scope="module")
def stages(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Both stages, of a few steps each."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    train_packed(parts, one, 1, 0.2, clock=ticks())
    train_packed(parts, two, 2, 0.2, pretrained=one, clock=ticks())
    return one, two


# --- parts -----------------------------------------------------------------------------------------


def test_cases_come_back_within_half_a_step(parts: Path, cases: list[CaseFiles], tmp_path: Path) -> None:
    device = torch.device("cpu")
    for files, packed in zip(cases, read_parts(parts), strict=True):
        cached = cache_case(files, RECIPE.model, BRATS_2023, tmp_path)
        image, regions = packed.on_template(RECIPE.model.grid.shape, device)
        tolerance = packed.levels[:, 1, None, None, None].numpy() / 2 + 1e-6
        assert (np.abs(image.numpy() - cached.image) <= tolerance).all()
        np.testing.assert_array_equal(image.numpy() == 0, cached.image == 0)
        if len(packed.regions):
            np.testing.assert_array_equal(regions.numpy() > 0.5, cached.regions)
    found = read_parts(parts)
    assert [len(case.regions) for case in found] == [3, 3, 0]
    assert [case.weight for case in found] == [1, 0.3, 1]


def test_parts_stay_below_their_size_and_name_nobody(parts: Path, cases: list[CaseFiles]) -> None:
    sizes = [path.stat().st_size for path in parts.glob("part-*")]
    assert len(sizes) > 1
    assert max(sizes) < 300_000 + 4096
    assert not any(case.name in (parts / INDEX).read_text() for case in cases)


def test_a_case_larger_than_a_part_is_refused(cases: list[CaseFiles], tmp_path: Path) -> None:
    with pytest.raises(OutputError) as caught:
        list(pack(RECIPE, cases, {}, tmp_path, part_size=1000))
    assert caught.value.code == "part-size"


def test_a_step_for_one_modality_is_refused(cases: list[CaseFiles], tmp_path: Path) -> None:
    own = PreprocessConfig(modalities={"T2": {"scale": "zscore"}})
    recipe = RECIPE.model_copy(update={"model": RECIPE.model.model_copy(update={"preprocess": own})})
    with pytest.raises(ConfigError, match="'zscore' beside it"):
        next(pack(recipe, cases, {}, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_spoiled_part_is_told(parts: Path, tmp_path: Path) -> None:
    for path in parts.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    content = bytearray((tmp_path / "part-000.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "part-000.safetensors").write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_parts(tmp_path)
    assert caught.value.code == "hash"
    with pytest.raises(InputError, match="no folder of packed cases"):
        read_parts(tmp_path / "nowhere")


def test_steps_of_a_constant_image() -> None:
    image = np.zeros((2, 2, 2, 2), np.float32)
    image[0] = 3
    steps, levels = quantise(image)
    assert (steps[0] == 1).all()
    assert not steps[1].any()
    assert levels[0].tolist() == [3, 1]


def test_settings_are_plain_attributes() -> None:
    plain = settings(RECIPE.model_dump(mode="json"))
    assert plain.model.grid.shape == RECIPE.model.grid.shape
    assert plain.pretrain.masking.patch == RECIPE.pretrain.masking.patch


# --- training --------------------------------------------------------------------------------------


def test_both_stages_become_a_bundle_that_predicts(
    parts: Path, stages: tuple[Path, Path], cases: list[CaseFiles], tmp_path: Path
) -> None:
    bundle = load_bundle(bundle_from_packed(parts, stages, tmp_path / "bundle"))
    prediction = Predictor(bundle, "cpu").predict(read_case(cases[0]))
    assert prediction.labels.shape == read_case(cases[0]).shape
    assert bundle.card["training_case_count"] == 3
    torch.testing.assert_close(bundle.model.substitute, read_state(stages[1])["substitute"].float())


def test_the_substitute_learns_in_stage_1_and_stays_in_stage_2(stages: tuple[Path, Path]) -> None:
    one, two = (read_state(stage)["substitute"] for stage in stages)
    assert torch.equal(one, two)
    assert one.float().std() > 1.2 * RECIPE.pretrain.substitute.init_std


def test_a_run_goes_on_where_it_stopped(parts: Path, tmp_path: Path) -> None:
    first = train_packed(parts, tmp_path, 1, 0.2, now=0.1, clock=ticks())
    second = train_packed(parts, tmp_path, 1, 0.2, clock=ticks())
    assert 0 < first["steps"] < second["steps"]
    assert first["seconds"] < second["seconds"] <= 12 + 2
    assert train_packed(parts, tmp_path, 1, 0.2, clock=ticks()) == second  # its minutes are over
    with pytest.raises(InputError, match="other minutes"):
        train_packed(parts, tmp_path, 1, 0.4, clock=ticks())
    with pytest.raises(InputError) as caught:
        train_packed(parts, tmp_path, 2, 0.2, clock=ticks())
    assert caught.value.code == "other-run"


def test_a_loss_that_is_not_finite_leaves_what_was_saved(
    parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_packed(parts, tmp_path, 1, 0.4, now=0.1, clock=ticks())
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr("m3ae_core.packed.train.reconstruction_loss", lambda *_: torch.tensor(float("nan")))
    with pytest.raises(InputError) as caught:
        train_packed(parts, tmp_path, 1, 0.4, clock=ticks())
    assert caught.value.code == "nonfinite-loss"
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_long_call_saves_on_its_way(parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[int] = []
    usual = train.save_state
    monkeypatch.setattr(
        train, "save_state", lambda output, run, about: saved.append(run.steps) or usual(output, run, about)
    )
    result = train_packed(parts, tmp_path, 1, 12, clock=ticks(100))
    assert len(saved) > 2
    assert saved[-1] == result["steps"]
    assert len(list(tmp_path.glob("state-*"))) == len(result["files"])


def test_a_save_that_fails_leaves_the_former_state(
    parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_packed(parts, tmp_path, 1, 0.4, now=0.1, clock=ticks())
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(path: Path, content: object) -> None:
        raise OutputError("The disk is full.", "Make room.", path=path, code="disk-full")

    monkeypatch.setattr(train, "write_json", fail)
    with pytest.raises(OutputError):
        train_packed(parts, tmp_path, 1, 0.4, clock=ticks())
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_spoiled_state_is_told(stages: tuple[Path, Path], tmp_path: Path) -> None:
    for path in stages[0].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (state,) = tmp_path.glob("state-*")
    content = bytearray(state.read_bytes())
    content[-1] ^= 1
    state.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_state(tmp_path)
    assert caught.value.code == "hash"


def test_stages_of_other_cases_make_no_bundle(
    stages: tuple[Path, Path], cases: list[CaseFiles], tmp_path: Path
) -> None:
    list(pack(RECIPE, cases[:2], {}, tmp_path / "other"))
    with pytest.raises(InputError) as caught:
        bundle_from_packed(tmp_path / "other", stages, tmp_path / "bundle")
    assert caught.value.code == "other-cases"


def test_stage_2_needs_labels(stages: tuple[Path, Path], cases: list[CaseFiles], tmp_path: Path) -> None:
    list(pack(RECIPE, cases[:2], {}, tmp_path / "bare"))
    assert sorted(path.name for path in (tmp_path / "bare").iterdir()) == [INDEX, "part-000.safetensors"]
    with pytest.raises(InputError) as caught:
        train_packed(tmp_path / "bare", tmp_path / "out", 2, 0.2, pretrained=stages[0], clock=ticks())
    assert caught.value.code == "no-labels"


def test_stage_2_needs_stage_1(parts: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        train_packed(parts, tmp_path, 2, 0.2, clock=ticks())
    assert caught.value.code == "no-stage-1"


def test_few_small_files_are_left(stages: tuple[Path, Path]) -> None:
    for stage in stages:
        sizes = [path.stat().st_size for path in stage.iterdir()]
        assert len(sizes) <= 8
        assert max(sizes) <= FILE_SIZE + 65_536


def test_it_needs_torch_numpy_and_safetensors_alone(parts: Path, tmp_path: Path) -> None:
    options = [str(parts), "--output", str(tmp_path / "out"), "--stage", "1", "--minutes", "0.05"]
    done = subprocess.run(
        [sys.executable, "-c", ALONE, *options], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] >= 1
    wrong = subprocess.run(
        [sys.executable, "-c", ALONE, str(tmp_path), *options[1:]],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert wrong.returncode == 2
    assert "no folder of packed cases" in wrong.stderr


# --- the command line ------------------------------------------------------------------------------


def test_the_commands_from_cases_to_a_bundle(
    cases: list[CaseFiles], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = Recipe(
        **{**RECIPE.model_dump(), "model": {**RECIPE.model.model_dump(), "grid": RECIPE.model.grid}}
    )
    assert isinstance(small.model.grid, GridConfig)
    (tmp_path / "recipe.toml").write_text(recipe_toml(small))
    folder = str(next(iter(cases[0].images.values())).parent.parent)
    packed, one, two, bundle = (str(tmp_path / name) for name in ("packed", "one", "two", "bundle"))
    recipe = str(tmp_path / "recipe.toml")
    assert main(["pack", recipe, "--cases", folder, "--output", packed, "--scheme", "brats2023"]) == 0
    assert "packed 3 cases" in capsys.readouterr().out
    common = ["--minutes", "0.02"]
    assert main(["train-packed", packed, "--output", one, "--stage", "1", *common]) == 0
    assert main(["train-packed", packed, "--output", two, "--stage", "2", "--pretrained", one, *common]) == 0
    assert main(["bundle-from-packed", packed, "--first", one, "--second", two, "--output", bundle]) == 0
    assert json.loads((Path(one) / RESULT).read_text())["stage"] == 1
    assert load_bundle(bundle).model.segmenter is not None
    assert main(["pack", recipe, "--cases", folder, "--output", packed]) == 2  # it is not empty
    assert main(["pack", recipe, "--cases", folder, "--output", packed, "--part-size", "much"]) == 2
