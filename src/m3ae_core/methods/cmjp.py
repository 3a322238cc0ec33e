"""CMJP (Taleb et al. 2019), made 3-D, as another stage 1 of our backbone's encoder: solve a puzzle of mixed modalities.

Each piece is taken from a random modality; the network predicts the permutation of the shuffled pieces as a matrix that
Sinkhorn's iterations make doubly stochastic; the puzzle that it puts together must equal the ordered one (known). The
original is 2-D; the grid of pieces, their size, the network's layers, and stage 2 with modality dropout and zeros for
what is missing are our choice, and so are the optimiser and its schedule, M3AE's. The recipe's crop is cut into pieces:
96³ and 8 crops a batch are ours to recommend (``pretrain.crop``, ``pretrain.batch_size``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor, nn

from m3ae_core.config import ModelConfig, Recipe, options_of
from m3ae_core.data.dataset import CachedCase, Crop, Draw
from m3ae_core.errors import ConfigError
from m3ae_core.methods.m3ae.method import M3AE, WithoutSubstitute
from m3ae_core.methods.m3ae.networks import Segmenter
from m3ae_core.methods.m3ae.stages import Finetune, starting_segmenter
from m3ae_core.methods.m3ae.tasks import FinetuneTask
from m3ae_core.methods.method import Method, Stage, Task, require_start
from m3ae_core.nn.backbones import build_backbone
from m3ae_core.nn.unet import ResidualUNet
from m3ae_core.stage_config import Frozen, PretrainConfig, Shape

FloatArray = npt.NDArray[np.float32]


class CMJPOptions(Frozen):
    """How the puzzle is made and solved.

    Attributes
    ----------
    grid
        Pieces along each axis; their number is n = grid³ (our choice).
    gap
        How much of a piece's side is cut off, at a random offset, against continuous edges (our choice).
    embedding
        Numbers that describe a piece (known as a layer, its width is our choice).
    iterations, temperature
        Of Sinkhorn's iterations, in log space and without noise (our choice).
    """

    grid: int = Field(3, ge=2)
    gap: float = Field(1 / 8, ge=0, lt=1)
    embedding: int = Field(256, ge=1)
    iterations: int = Field(20, ge=1)
    temperature: float = Field(1.0, gt=0)


def sinkhorn(scores: Tensor, iterations: int, temperature: float) -> Tensor:
    """Return the doubly stochastic matrices S (B, n, n) of scores X: exp(X/τ), rows and columns normalised in turn."""
    log = scores / temperature
    for _ in range(iterations):
        log = log - log.logsumexp(dim=-1, keepdim=True)
        log = log - log.logsumexp(dim=-2, keepdim=True)
    return log.exp()


def puzzle_loss(matrix: Tensor, ordered: Tensor, shuffled: Tensor) -> Tensor:
    """Mean of (P* - SᵀP)² of pieces in order, P* (B, n, v), and shuffled, P = ΠP* (known); S = Π (B, n, n) gives 0."""
    return (ordered - matrix.transpose(-1, -2) @ shuffled).square().mean()


class PuzzleSample(NamedTuple):
    """The pieces (n, d, h, w) of a crop in order, and which of them comes k-th in the shuffled puzzle, (n,)."""

    pieces: Tensor
    order: Tensor


@dataclass(frozen=True)
class PuzzleDraw:
    """Draws a puzzle: a modality and an offset for each piece, and the order."""

    options: CMJPOptions

    def __call__(self, crop: Crop, rng: np.random.Generator) -> PuzzleSample:
        """Cut one crop; what was not acquired is never chosen."""
        image, grid = crop.image.numpy(), self.options.grid
        side: Shape = (image.shape[1] // grid, image.shape[2] // grid, image.shape[3] // grid)
        chosen = rng.choice(np.flatnonzero(crop.exists), size=grid**3)
        places = np.ndindex(grid, grid, grid)
        pieces = [self._piece(image[m], place, side, rng) for m, place in zip(chosen, places, strict=True)]
        order = torch.from_numpy(rng.permutation(grid**3))
        return PuzzleSample(torch.from_numpy(np.stack(pieces)), order)

    def _piece(
        self, image: FloatArray, place: tuple[int, ...], side: Shape, rng: np.random.Generator
    ) -> FloatArray:
        """Cut a piece at `place` in the grid out of one modality (D, H, W), with zero mean and unit deviation."""
        gaps = [int(self.options.gap * length) for length in side]
        starts = [p * s + int(rng.integers(gap + 1)) for p, s, gap in zip(place, side, gaps, strict=True)]
        d, h, w = (slice(a, a + s - gap) for a, s, gap in zip(starts, side, gaps, strict=True))
        piece = image[d, h, w] - image[d, h, w].mean()
        return np.asarray(piece / max(float(piece.std()), 1e-6), np.float32)


class PuzzleSolver(nn.Module):
    """The encoder, of one channel and shared by all pieces; average pooling; two linear layers."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        options = options_of(config, CMJPOptions)
        unet = build_backbone(config.model_copy(update={"modalities": config.modalities[:1]}))
        if not isinstance(unet, ResidualUNet):
            raise ConfigError(
                f"CMJP cannot take the encoder out of the backbone {config.network.name!r}.",
                'Choose "residual-unet" in [model.network].',
                code="network",
            )
        self.down, self.encoder = unet.down, unet.encoder
        pieces = options.grid**3
        self.embed = nn.Linear(unet.widths[-1], options.embedding)
        self.score = nn.Linear(pieces * options.embedding, pieces**2)

    def forward(self, shuffled: Tensor) -> Tensor:
        """Return the scores X (B, n, n) of shuffled pieces (B, n, d, h, w): row k tells where the k-th belongs."""
        batch, pieces = shuffled.shape[:2]
        x = shuffled.flatten(0, 1)[:, None].contiguous(memory_format=ResidualUNet.LAYOUT)
        for down, encode in zip(self.down, self.encoder, strict=True):
            x = encode(down(x))
        embedded = torch.relu(self.embed(x.mean(dim=(2, 3, 4)))).reshape(batch, -1)
        scores: Tensor = self.score(embedded)
        return scores.reshape(batch, pieces, pieces)

    def encoder_weights(self, modalities: int) -> dict[str, Tensor]:
        """Return the encoder's weights for N channels: the first convolution is repeated and divided (our choice)."""
        weights = {
            name: weight
            for name, weight in self.state_dict().items()
            if name.startswith(("down.", "encoder."))
        }
        weights["down.0.weight"] = weights["down.0.weight"].repeat(1, modalities, 1, 1, 1) / modalities
        return weights


class PuzzleTask(Task):
    """Put the puzzle together."""

    def __init__(self, model: ModelConfig, config: PretrainConfig) -> None:
        super().__init__()
        self.model_config, self.config = model, config
        self.options = options_of(model, CMJPOptions)
        self.solver = PuzzleSolver(model)

    @property
    def trained(self) -> nn.Module:
        """The network that solves puzzles."""
        return self.solver

    @property
    def model(self) -> Method:
        """The network as it is now; missing modalities will be zeros."""
        images = CMJP.zeros(self.model_config)
        return CMJP.restored(self.model_config, {"solver": self.solver}, images)

    def parameter_groups(self) -> list[dict[str, object]]:
        """All parameters, with one learning rate."""
        return [{"params": list(self.solver.parameters()), "lr": self.config.learning_rate}]

    def forward(self, batch: Sequence[PuzzleSample]) -> dict[str, Tensor]:
        """Return the loss of the puzzles put together."""
        device = next(self.solver.parameters()).device
        ordered = torch.stack([sample.pieces for sample in batch]).to(device)
        shuffled = torch.stack([sample.pieces[sample.order] for sample in batch]).to(device)
        scores = self.solver(shuffled)
        with torch.autocast(device.type, enabled=False):
            matrix = sinkhorn(scores.float(), self.options.iterations, self.options.temperature)
            return {"puzzle": puzzle_loss(matrix, ordered.flatten(2), shuffled.flatten(2))}


@dataclass(frozen=True)
class PretrainPuzzle(Stage):
    """The pretraining; of ``[pretrain]``, what concerns masks and the substitute has no meaning here."""

    name: str = "pretrain"
    makes: str = "pretrained"
    labelled: bool = False

    def draw(self, recipe: Recipe) -> Draw[Any]:
        """Return what draws a puzzle."""
        return PuzzleDraw(options_of(recipe.model, CMJPOptions))

    def task(self, recipe: Recipe, start: Method | None, cases: Sequence[CachedCase]) -> Task:
        """Start from random weights."""
        del start, cases
        return PuzzleTask(recipe.model, recipe.pretrain)


@dataclass(frozen=True)
class FinetuneEncoder(Finetune):
    """M3AE's stage 2 from the encoder; decoder and heads are new (our choice)."""

    def require(self, start: Method | None) -> None:
        """Refuse to start without an encoder."""
        require_start(start, "solver", "Run CMJP's pretraining first.")

    def task(self, recipe: Recipe, start: Method | None, cases: Sequence[CachedCase]) -> Task:
        """Start from the segmenter, or the encoder, of `start`."""
        del cases
        assert isinstance(start, M3AE)  # noqa: S101  require() has seen to it
        segmenter = starting_segmenter(recipe, start)
        if recipe.finetune.pretrained and start.segmenter is None:
            solver = cast(PuzzleSolver, start.networks["solver"])
            weights = solver.encoder_weights(len(recipe.model.modalities))
            segmenter.backbone.load_state_dict(weights, strict=False)
        return FinetuneTask(recipe.finetune, segmenter, start)


class CMJP(WithoutSubstitute):
    """M3AE's stage 2 after puzzles."""

    NETWORKS: ClassVar = {"solver": PuzzleSolver, "segmenter": Segmenter}

    @classmethod
    def stages(cls) -> tuple[Stage, ...]:
        """A pretraining of its own, and M3AE's fine-tuning from its encoder."""
        return PretrainPuzzle(), FinetuneEncoder()
