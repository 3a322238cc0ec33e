"""What methods cost: the paper's parameters, arithmetic that can be counted by hand, and a table."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from m3ae_core.cli import main
from m3ae_core.config import Recipe
from m3ae_core.errors import ConfigError
from m3ae_core.evaluation import cost
from m3ae_core.evaluation.cost import case_cost, compare_costs, peak_memory, training_cost, untrained
from tiny import RECIPE, recipe_toml

CPU = torch.device("cpu")
SMALL = RECIPE.model_copy(
    update={
        "model": RECIPE.model.model_copy(
            update={"grid": RECIPE.model.grid.model_copy(update={"shape": (16, 16, 16)})}
        ),
        "pretrain": RECIPE.pretrain.model_copy(update={"crop": (16, 16, 16)}),
        "finetune": RECIPE.finetune.model_copy(update={"crop": (16, 16, 16)}),
        "train": RECIPE.train.model_copy(update={"crop": (16, 16, 16)}),
    }
)


def test_layers_that_are_computed_are_counted_and_others_are_not() -> None:
    """A convolution of 8 weights on 4³ voxels: 2·8·64 operations; the layer beside it counts for nothing."""
    used, beside = torch.nn.Conv3d(4, 2, 1, bias=False), torch.nn.Conv3d(4, 2, 1)
    layers = torch.nn.ModuleList([used, beside])
    assert cost._computed(lambda: layers[0](torch.zeros(1, 4, 4, 4, 4))) == (8, 2 * 8 * 64)


def test_m3ae_deploys_what_the_paper_says() -> None:
    """4,704,211 at inference, without the two heads of deep supervision."""
    model = untrained(Recipe(model=SMALL.model.model_copy(update={"network": Recipe().model.network})))
    crop, missing = torch.rand(1, 4, 8, 8, 8), torch.zeros(4, dtype=torch.bool)
    parameters, _ = cost._computed(lambda: model.predict(crop, missing))
    assert parameters == 4_704_211


def test_training_counts_every_stage_and_what_it_learns() -> None:
    found = training_cost(SMALL, "cpu", repeats=1)
    pretrain, finetune = found.stages
    assert (pretrain.name, finetune.name) == ("pretrain", "finetune")
    model = untrained(SMALL)
    networks = {name: sum(p.numel() for p in part.parameters()) for name, part in model.networks.items()}
    assert pretrain.parameters == networks["autoencoder"] + 4 * 16**3
    assert finetune.parameters == networks["segmenter"]
    assert min(pretrain.seconds, finetune.seconds) > 0


def test_a_branch_that_is_thrown_away_costs_nothing_to_deploy() -> None:
    recipe = SMALL.for_method("segresnet-vae")
    (stage,), deployed = training_cost(recipe, "cpu", repeats=1).stages, case_cost(recipe, "cpu", repeats=1)
    segmenter = untrained(recipe).networks["segmenter"]
    assert deployed.parameters == sum(p.numel() for p in segmenter.parameters()) < stage.parameters
    assert deployed.image_values == 0


def test_peak_memory_sees_what_was_freed() -> None:
    before = peak_memory(CPU)
    torch.ones(2**28).sum()  # 1 GiB
    assert peak_memory(CPU) >= min(before, 2**30) >= 2**20


def test_an_unknown_method_is_refused_before_anything_is_measured() -> None:
    with pytest.raises(ConfigError, match="'alchemy'"):
        list(compare_costs(SMALL, ["unet-dropout", "alchemy"], "cpu"))


def test_the_command_prints_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "small.toml"
    recipe.write_text(recipe_toml(SMALL), encoding="utf-8")
    command = ["compare-cost", "unet-dropout", "--recipe", str(recipe), "--device", "cpu", "--repeats", "1"]
    assert main(command) == 0
    header, rule, row = capsys.readouterr().out.strip().splitlines()
    assert header.count("|") == rule.count("|") == row.count("|") == 9
    assert row.startswith("| unet-dropout |")
