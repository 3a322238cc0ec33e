"""The defaults are the paper's numbers; every recipe that cannot work is refused by name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from m3ae_core.config import GridConfig, Recipe, builtin_recipes, load_recipe, parse_recipe
from m3ae_core.errors import ConfigError

SRC = Path(__file__).resolve().parent.parent / "src"


def flat(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as {"pretrain.masking.ratio": 0.875, …}."""
    found: dict[str, Any] = {}
    for name, value in content.items():
        inner = flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
        found |= inner
    return found


def test_the_defaults_are_the_papers_numbers() -> None:
    """Liu et al. 2023: "Implementation", "Datasets", Eqn. 3 and the supplement."""
    settings = flat(Recipe().model_dump())
    paper = {
        "model.network.base_channels": 16,
        "model.network.norm_groups": 8,
        "model.network.upsample": "trilinear",
        "model.grid.shape": (155, 240, 240),
        "model.preprocess.percentiles": (1, 99),
        "pretrain.crop": (128, 128, 128),
        "pretrain.epochs": 600,
        "pretrain.batch_size": 2,
        "pretrain.learning_rate": 0.0003,
        "pretrain.masking.ratio": 0.875,
        "pretrain.masking.patch": 16,
        "pretrain.masking.max_dropped": None,
        "pretrain.substitute.gamma": 0.005,
        "pretrain.substitute.regulariser": "mean-square",
        "finetune.crop": (128, 128, 128),
        "finetune.epochs": 300,
        "finetune.batch_size": 1,  # one subject in two situations
        "finetune.learning_rate": 0.0003,
        "finetune.consistency_weight": 0.1,
        "finetune.consistency_at": "bottleneck",
        "finetune.segmentation_loss": "paper",
        "finetune.allow_identical_pair": False,
        "finetune.augment.flip": (0.5, 0.5, 0.5),
        "finetune.augment.scale": 0.1,
        "finetune.augment.shift": 0.1,
        "finetune.augment.jitter_per_slice": False,
    }
    assert {name: settings[name] for name in paper} == paper


def test_a_model_knows_its_modalities_and_regions() -> None:
    content = {"modalities": ["T2", "CT"], "regions": ["ET", "WT"]}
    model = parse_recipe({"model": content, "finetune": {"validate_on": "all"}}).model
    assert model.modality_set.names == ("T2", "CT")
    assert "t2w" in model.modality_set.modalities[0].aliases
    assert [region.name for region in model.region_set] == ["ET", "WT"]


def test_the_template_is_sri24_as_brats_stores_it() -> None:
    """Array axes run to superior, posterior, left; voxel (0, 0, 0) is the LPS origin (0, -239, 0) in RAS."""
    grid = GridConfig()
    affine = np.array(grid.affine)
    assert (affine @ [0, 0, 0, 1]).tolist() == [0, 239, 0, 1]
    assert (affine @ [154, 239, 239, 1]).tolist() == [-239, 0, 154, 1]
    low, high = np.array(grid.field_of_view)
    corners = np.array([affine @ [*corner, 1] for corner in ([-0.5] * 3, [154.5, 239.5, 239.5])])[:, :3]
    np.testing.assert_array_equal(low, corners.min(axis=0))
    np.testing.assert_array_equal(high, corners.max(axis=0))


# --- recipes that are shipped ----------------------------------------------------------------------


@pytest.mark.parametrize("name", builtin_recipes())
def test_built_in_recipes_load_and_survive_json(name: str) -> None:
    recipe = load_recipe(name)
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
    assert parse_recipe(json.loads(json.dumps(recipe.model_dump(mode="json")))) == recipe


def test_four_recipes_are_built_in() -> None:
    assert {"paper", "official", "demo-2mm", "long-2mm"} <= set(builtin_recipes())


def test_paper_is_all_defaults() -> None:
    assert load_recipe("paper") == Recipe()


def test_official_departs_from_the_paper_in_these_settings_alone() -> None:
    paper, official = (flat(load_recipe(name).model_dump()) for name in ("paper", "official"))
    assert {name: value for name, value in official.items() if paper[name] != value} == {
        "model.preset": "official",
        "model.modalities": ("T1", "T1c", "T2", "FLAIR"),
        "model.regions": ("ET", "TC", "WT"),
        "model.network.upsample": "nearest",
        "pretrain.substitute.regulariser": "norm",
        "pretrain.substitute.init_std": 1,
        "model.preprocess.foreground": "positive",
        "model.inference.substitute_origin": "window",
        "finetune.consistency_at": "logits",
        "finetune.segmentation_loss": "official",
        "finetune.allow_identical_pair": True,
        "finetune.augment.jitter_per_slice": True,
    }


def test_the_demo_recipe_averages_whole_blocks_of_the_atlas() -> None:
    """Its voxel centres lie in the middle of 2×2×2 blocks of the 1 mm template, and it holds every slice."""
    demo = load_recipe("demo-2mm")
    coarse, fine = np.array(demo.model.grid.affine), np.array(GridConfig().affine)
    first, last = (0, 0, 0, 1), (*np.subtract(demo.model.grid.shape, 1), 1)
    index = np.linalg.inv(fine) @ coarse @ np.array([first, last]).T
    np.testing.assert_allclose(index[:3] % 1, 0.5)
    assert index[0, 0] <= 0.5
    assert index[0, 1] >= 153.5
    assert (index[1:3] > 0).all()
    assert (index[1:3] < 239).all()
    assert demo.pretrain.masking.patch * 2 == 16
    assert demo.pretrain.crop == demo.finetune.crop == demo.model.grid.shape


#: Rows (a) to (e) of the paper's Table 3.
ABLATIONS = {
    "finetune.pretrained = false": ("finetune.pretrained", False),
    "pretrain.masking.patches = false": ("pretrain.masking.patches", False),
    'pretrain.substitute.kind = "zero"': ("pretrain.substitute.kind", "zero"),
    'pretrain.substitute.kind = "mean"': ("pretrain.substitute.kind", "mean"),
    "finetune.consistency_weight = 0.0": ("finetune.consistency_weight", 0),
}


@pytest.mark.parametrize("line", ABLATIONS)
def test_a_row_of_the_ablation_is_one_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "row.toml"
    path.write_text(line)
    paper, row = (flat(load_recipe(name).model_dump()) for name in ("paper", path))
    name, value = ABLATIONS[line]
    assert {name: value for name, value in row.items() if paper[name] != value} == {name: value}


def test_options_beyond_the_paper_are_off() -> None:
    settings = flat(Recipe().model_dump())
    for stage in ("pretrain", "finetune"):
        assert settings[f"{stage}.foreground"] == 0
        assert settings[f"{stage}.nnunet"] is False
    assert settings["finetune.ema"] == 0
    assert settings["finetune.situations"] == "count"
    assert settings["pretrain.substitute.kind"] == "learned"


# --- recipes that are refused ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "setting"),
    [
        ("[model]\npresset = 'paper'", "model.presset"),
        ("[finetune]\naugment.flop = 1", "finetune.augment.flop"),
        ("[test]", "test"),
        ("[pretrain]\nepochs = 0", "pretrain.epochs"),
        ("[pretrain]\nepochs = 'many'", "pretrain.epochs"),
        ("[pretrain]\nlearning_rate = 0", "pretrain.learning_rate"),
        ("[pretrain]\nbatch_size = -1", "pretrain.batch_size"),
        ("[pretrain]\ncrop = [0, 8, 8]", "pretrain.crop.0"),
        ("[pretrain]\ncrop = [128, 128]", "pretrain.crop"),
        ("[pretrain]\nmasking.ratio = 1.0", "pretrain.masking.ratio"),
        ("[pretrain]\nmasking.patch = 0", "pretrain.masking.patch"),
        ("[pretrain]\nsubstitute.gamma = -0.1", "pretrain.substitute.gamma"),
        ("[finetune]\nconsistency_weight = -1", "finetune.consistency_weight"),
        ("[finetune]\nconsistency_at = 'decoder'", "finetune.consistency_at"),
        ("[finetune]\naugment.flip = [0, 0, 1.5]", "finetune.augment.flip.2"),
        ("[finetune]\naugment.flip = 0.5", "finetune.augment.flip"),
        ("[finetune]\nema = 1.0", "finetune.ema"),
        ("[finetune]\nsituations = 'all'", "finetune.situations"),
        ("[finetune]\nforeground = 1.1", "finetune.foreground"),
        ("[pretrain]\nsubstitute.kind = 'noise'", "pretrain.substitute.kind"),
        ("[model]\nnetwork.upsample = 'cubic'", "model.network.upsample"),
        ("[model]\ninference.overlap = 1", "model.inference.overlap"),
        ("[model]\ninference.window = [128, 128, 100]", "model.inference: window"),
        ("[model]\ngrid.shape = [-1, 240, 240]", "model.grid.shape.0"),
        ("[model]\ngrid.affine = [[1, 0, 0, 0], [0, 1, 0, 0]]", "model.grid.affine"),
        ("[model]\npreprocess.percentiles = [99, 1]", "model.preprocess.percentiles: percentiles"),
        ("[model]\npreprocess.percentiles = [1, 101]", "model.preprocess.percentiles: percentiles"),
        ("[model]\nmodalities = []", "model: A modality set is empty"),
        ("[model]\nmodalities = ['T1', 'T1']", "model: The modality names T1, T1"),
        ("[model]\nregions = ['WT', 'NET']", "model: Unknown region 'NET'"),
        ("[model]\nregions = ['WT', 'WT']", "model: regions"),
        ("[pretrain]\ncrop = [100, 128, 128]", "crop (100, 128, 128) must be multiples of 8"),
        ("[finetune]\ncrop = [128, 128, 12]", "crop (128, 128, 12) must be multiples of 8"),
        (
            "[pretrain]\ncrop = [128, 128, 120]",
            "pretrain.crop (128, 128, 120) is not divisible by the patch 16",
        ),
        ("[pretrain]\nmasking.ratio = 0.7", "masking.ratio 0.7 is less than the 3 of 4"),
        ("[pretrain]\nmasking.max_dropped = 4", "masking.max_dropped 4"),
        ("[finetune]\nmax_dropped = 4", "finetune.max_dropped 4"),
        ("[finetune]\nmax_dropped = 0", "allow_identical_pair"),
        ("[finetune]\nvalidate_on = [['T1', 'CT']]", "finetune.validate_on names CT"),
        ("[model]\nmodalities = ['CT']\n[finetune]\nvalidate_on = 'all'", "allow_identical_pair"),
    ],
)
def test_what_cannot_work_is_refused_by_file_and_setting(tmp_path: Path, text: str, setting: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_recipe(path)
    assert caught.value.code == "recipe"
    assert caught.value.path == path
    assert setting in str(caught.value)
    assert "mine.toml" in str(caught.value)


def test_every_wrong_setting_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_recipe({"pretrain": {"epochs": 0, "seed": "x"}, "finetune": {"colour": 1}})
    for setting in ("pretrain.epochs", "pretrain.seed", "finetune.colour"):
        assert setting in caught.value.problem


@pytest.mark.parametrize(
    "content",
    [
        {"pretrain": {"masking": {"ratio": 0.75}}},
        {"pretrain": {"masking": {"ratio": 0.5, "max_dropped": 2}}},
        {"pretrain": {"masking": {"ratio": 0.1, "patches": False}}},
        {"finetune": {"max_dropped": 0, "allow_identical_pair": True}},
        {"finetune": {"max_dropped": 1}},
        {"model": {"inference": {"window": "brain"}}},
        {"model": {"modalities": ["T1", "T2"]}, "finetune": {"validate_on": [["T1"], ["T1", "T2"]]}},
    ],
)
def test_what_is_just_possible_is_accepted(content: dict[str, Any]) -> None:
    parse_recipe(content)


@pytest.mark.parametrize("content", [b"[pretrain\nepochs = 1", b"a = 1\na = 2", b"name = '\xff'"])
def test_what_is_not_toml(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"broken\.toml.*TOML") as caught:
        load_recipe(path)
    assert caught.value.code == "toml"


def test_a_recipe_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.toml", tmp_path):
        with pytest.raises(ConfigError, match=r"demo-2mm, gpu-1.5mm, long-2mm, official, paper") as caught:
            load_recipe(path)
        assert caught.value.code == "no-recipe"
        assert caught.value.path == path


def test_settings_cannot_be_changed_afterwards() -> None:
    recipe = Recipe()
    with pytest.raises(ValidationError):
        recipe.model.preset = "mine"


def test_settings_load_without_torch() -> None:
    code = "import sys, m3ae_core.config as c; c.load_recipe('paper'); print('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(SRC)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "False", done.stderr
