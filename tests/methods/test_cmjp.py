"""CMJP: Sinkhorn's iterations, the puzzle and its loss, the encoder that stage 2 starts from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from m3ae_core.bundle import load_bundle
from m3ae_core.config import Recipe, parse_recipe
from m3ae_core.data.dataset import Crop
from m3ae_core.errors import BundleError, ConfigError
from m3ae_core.hardware import Hardware
from m3ae_core.methods.cmjp import (
    CMJP,
    CMJPOptions,
    PretrainPuzzle,
    PuzzleDraw,
    PuzzleSolver,
    PuzzleTask,
    puzzle_loss,
    sinkhorn,
)
from m3ae_core.training.run import Plan, train
from tiny import RECIPE, write_cases

N = 27


def recipe(**options: Any) -> Recipe:
    content = RECIPE.model_dump(mode="json", exclude_defaults=True)
    content["model"] |= {"method": "cmjp", "options": {"grid": 2, "embedding": 8, **options}}
    content["pretrain"] |= {"crop": (16,) * 3, "epochs": 2, "batch_size": 1, "learning_rate": 3e-3}
    content["finetune"] |= {"crop": (16,) * 3, "epochs": 1}
    return parse_recipe(content)


def scores(seed: int = 0, count: int = 2) -> torch.Tensor:
    return torch.randn(count, N, N, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def permutation(order: torch.Tensor) -> torch.Tensor:
    """The matrix Π whose row k picks the piece order[k]."""
    return torch.eye(len(order), dtype=torch.float64)[order]


# --- the solution ----------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_rows_and_columns_sum_to_1(temperature: float) -> None:
    matrix = sinkhorn(scores(), 50, temperature)
    for axis in (-1, -2):
        torch.testing.assert_close(matrix.sum(axis), torch.ones(2, N).double(), atol=1e-4, rtol=0)


def test_what_is_added_to_rows_and_columns_does_not_matter() -> None:
    rows, columns = torch.arange(N).double()[:, None] / 9, torch.arange(N).double()[None] / 7
    x = scores()
    torch.testing.assert_close(sinkhorn(x + rows + columns, 200, 1.0), sinkhorn(x, 200, 1.0))


def test_equal_scores_give_the_mean_piece_everywhere() -> None:
    matrix = sinkhorn(torch.full((1, N, N), 3.0), 20, 1.0)
    torch.testing.assert_close(matrix, torch.full((1, N, N), 1 / N))
    pieces = torch.rand(1, N, 5, generator=torch.Generator().manual_seed(0))
    together = matrix.transpose(1, 2) @ pieces
    torch.testing.assert_close(together, pieces.mean(1, keepdim=True).expand(1, N, 5))


def test_the_true_permutation_solves_the_puzzle() -> None:
    """Scores 50 Π give S = Π and no loss; another permutation does not."""
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(N, generator=generator)
    ordered = torch.randn(1, N, 8, generator=generator, dtype=torch.float64)
    shuffled = ordered[:, order]
    truth = permutation(order)[None]
    torch.testing.assert_close(truth @ ordered, shuffled)
    matrix = sinkhorn(50 * truth, 20, 1.0)
    torch.testing.assert_close(matrix, truth)
    assert puzzle_loss(matrix, ordered, shuffled).item() < 1e-12
    assert puzzle_loss(truth.roll(1, 1), ordered, shuffled).item() > 0.5


# --- the puzzle ------------------------------------------------------------------------------------


def puzzle(options: CMJPOptions, image: torch.Tensor, exists: tuple[bool, ...] = (True,) * 4) -> Any:
    crop = Crop(image, torch.zeros(0), (0, 0, 0), np.array(exists))
    return PuzzleDraw(options)(crop, np.random.default_rng(0))


def test_pieces_are_standardised_parts_of_their_place() -> None:
    """Without a gap, each is one eighth of one modality, in the order of the grid."""
    image = torch.rand(4, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    sample = puzzle(CMJPOptions(grid=2, gap=0), image)
    assert sample.pieces.shape == (8, 8, 8, 8)
    assert sorted(sample.order.tolist()) == list(range(8))
    blocks = image.unfold(1, 8, 8).unfold(2, 8, 8).unfold(3, 8, 8).reshape(4, 8, 8, 8, 8)
    blocks = (blocks - blocks.mean((2, 3, 4), keepdim=True)) / blocks.std(
        (2, 3, 4), correction=0, keepdim=True
    )
    alike = (blocks - sample.pieces).abs().amax((2, 3, 4)) < 1e-4
    assert (alike.sum(0) == 1).all()
    assert alike.any(1).sum() > 1  # modalities are mixed


def test_a_gap_is_cut_off() -> None:
    image = torch.rand(4, 96, 96, 96, generator=torch.Generator().manual_seed(0))
    assert puzzle(CMJPOptions(), image).pieces.shape == (27, 28, 28, 28)


def test_what_was_not_acquired_is_no_piece_and_air_stays_finite() -> None:
    image = torch.full((4, 16, 16, 16), float("nan"))
    image[2] = 0
    sample = puzzle(CMJPOptions(grid=2), image, (False, False, True, False))
    assert not sample.pieces.any()


# --- what is learned -------------------------------------------------------------------------------


def test_the_network_learns_one_puzzle() -> None:
    torch.manual_seed(0)
    image = torch.rand(4, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    sample = puzzle(CMJPOptions(grid=2), image)
    task = PretrainPuzzle().task(recipe(), None, [])
    assert isinstance(task, PuzzleTask)
    optimizer, losses = torch.optim.Adam(task.parameters(), 1e-2), []
    for _ in range(8):
        optimizer.zero_grad()
        loss = task([sample])["puzzle"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 4, losses
    assert all(weight.grad is not None for weight in task.solver.parameters())


def test_the_first_convolution_sees_the_mean_of_the_modalities() -> None:
    torch.manual_seed(0)
    solver = PuzzleSolver(recipe().model)
    weights = solver.encoder_weights(4)
    x = torch.rand(1, 4, 8, 8, 8)
    several = torch.nn.functional.conv3d(x, weights["down.0.weight"], weights["down.0.bias"], padding=1)
    torch.testing.assert_close(several, solver.down[0](x.mean(1, keepdim=True)), atol=1e-5, rtol=1e-4)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="temperature") as caught:
        PretrainPuzzle().draw(recipe(temperature=0))
    assert caught.value.code == "options"
    with pytest.raises(BundleError, match="no solver"):
        CMJP.stages()[1].require(None)


# --- as a whole ------------------------------------------------------------------------------------


def test_both_stages_run_and_the_second_starts_from_the_first(tmp_path: Path) -> None:
    cases = write_cases(tmp_path / "cases", 1)
    plan = Plan(recipe(), cases, tmp_path / "first", hardware=Hardware(device="cpu", workers=0))
    pretrain, finetune = CMJP.stages()
    list(train(plan, pretrain))
    pretrained = load_bundle(plan.folder / "bundle").model
    assert isinstance(pretrained, CMJP)
    weights = pretrained.networks["solver"].encoder_weights(4)
    begun = finetune.task(plan.recipe, pretrained, []).trained.backbone.state_dict()
    assert all(torch.equal(weight, begun[name]) for name, weight in weights.items())
    second = replace(plan, folder=tmp_path / "second")
    list(train(second, finetune, pretrained=plan.folder / "bundle"))
    model = load_bundle(second.folder / "bundle").model
    assert isinstance(model, CMJP)
    assert model.lacks("segmentation") is None
    assert not model.fill(torch.ones(4, 8, 8, 8), torch.ones(4, dtype=torch.bool), (0, 0, 0)).any()
