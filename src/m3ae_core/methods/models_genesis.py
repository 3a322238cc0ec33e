"""Models Genesis (Zhou et al. 2019) as another stage 1 of our backbone: restore an image from a distorted one.

Intensities are mapped by a random curve, voxels shuffled within small boxes, boxes painted over (in-painting) or all
but some boxes (out-painting), in any combination (known). The original knows one sequence of CT and a network of 19
million parameters; several sequences, our backbone, and stage 2 with modality dropout and zeros for what is missing are
our choice, and so are the optimiser and its schedule, M3AE's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor, nn

from m3ae_core.config import ModelConfig, Recipe, options_of
from m3ae_core.data.dataset import CachedCase, Crop, Draw
from m3ae_core.errors import ConfigError
from m3ae_core.methods.m3ae.losses import reconstruction_loss
from m3ae_core.methods.m3ae.method import WithoutSubstitute
from m3ae_core.methods.m3ae.networks import MaskedAutoencoder
from m3ae_core.methods.m3ae.stages import Finetune
from m3ae_core.methods.method import Method, Stage, Task
from m3ae_core.stage_config import Frozen, PretrainConfig, Share

FloatArray = npt.NDArray[np.float32]
Box = tuple[slice, slice, slice, slice]
Range = tuple[Share, Share]


class ModelsGenesisOptions(Frozen):
    """How images are distorted; probabilities of 0 leave them as they are.

    Attributes
    ----------
    flip
        Probability of a flip along each axis, of input and target (doubtful).
    shuffling
        Probability of shuffling (doubtful).
    shuffled_boxes
        How many boxes are shuffled in 64³ voxels (our choice).
    shuffled_side
        Their longest side, as a share of the crop's (doubtful).
    intensity
        Probability of the curves (doubtful).
    decreasing
        Probability that a curve falls (known).
    painting
        Probability of painting (doubtful).
    outpainting
        How much of it is out-painting (doubtful); never both happen (known).
    painted_boxes
        Most boxes of one painting (doubtful); their number is uniform from 1 on (our choice).
    inside_side, outside_side
        Shortest and longest side of the boxes of in-painting and of out-painting, as shares of the crop's (doubtful).
        That at most a quarter may be lost is doubtful as well: in-painting loses less, out-painting mostly more.
    inside
        What in-painting fills a box with: one random value a sequence (``constant``), or ``noise`` (our choice).
    sigmoid
        Whether the restored image is the sigmoid of the network's answer (doubtful).
    """

    flip: Share = 0.4
    shuffling: Share = 0.5
    shuffled_boxes: int = Field(1000, ge=0)
    shuffled_side: Share = 0.1
    intensity: Share = 0.9
    decreasing: Share = 0.5
    painting: Share = 0.9
    outpainting: Share = 0.8
    painted_boxes: int = Field(5, ge=1)
    inside_side: Range = (1 / 6, 1 / 3)
    outside_side: Range = (3 / 7, 4 / 7)
    inside: Literal["constant", "noise"] = "constant"
    sigmoid: bool = True


def bezier(values: FloatArray, first: Sequence[float], second: Sequence[float]) -> FloatArray:
    """Map intensities in [0, 1] by the cubic Bézier curve from (0, 0) to (1, 1) with the control points (x, y) given.

    B(t) = 3(1-t)²t P1 + 3(1-t)t² P2 + t³ (1, 1) (known). It rises, for the control points lie in [0, 1]².
    """
    t = np.linspace(0, 1, 1001)
    x, y = (
        3 * (1 - t) ** 2 * t * a + 3 * (1 - t) * t**2 * b + t**3 for a, b in zip(first, second, strict=True)
    )
    return np.interp(values, x, y).astype(np.float32)


def map_intensities(rng: np.random.Generator, image: FloatArray, decreasing: float) -> FloatArray:
    """Map each sequence of `image` (N, D, H, W) by a curve of its own (our choice), some of which fall (known).

    1 - B is distributed as the curve from (0, 1) to (1, 0).
    """
    curves = [bezier(sequence, *rng.random((2, 2))) for sequence in image]
    falls = rng.random(len(image)) < decreasing
    return np.stack([1 - mapped if fall else mapped for mapped, fall in zip(curves, falls, strict=True)])


def random_box(rng: np.random.Generator, image: FloatArray, sides: Range) -> Box:
    """Draw a box within `image` (N, D, H, W) whose sides are shares of the image's."""
    shape = np.array(image.shape[1:])
    shortest, longest = (np.maximum(1, (share * shape).astype(int)) for share in sides)
    size = rng.integers(shortest, longest + 1)
    start = rng.integers(0, shape - size + 1)
    d, h, w = (slice(first, first + side) for first, side in zip(start.tolist(), size.tolist(), strict=True))
    return slice(None), d, h, w


def shuffle(rng: np.random.Generator, image: FloatArray, boxes: Sequence[Box]) -> FloatArray:
    """Permute the voxels within each box, one after the other; all sequences alike (our choice)."""
    image = image.copy()
    for box in boxes:
        voxels = image[box].reshape(len(image), -1)
        image[box] = voxels[:, rng.permutation(voxels.shape[1])].reshape(image[box].shape)
    return image


def inpaint(
    rng: np.random.Generator, image: FloatArray, boxes: Sequence[Box], inside: Literal["constant", "noise"]
) -> FloatArray:
    """Fill the boxes with random values in [0, 1]; the same boxes in all sequences (our choice)."""
    image = image.copy()
    for box in boxes:
        size = (len(image), 1, 1, 1) if inside == "constant" else image[box].shape
        image[box] = rng.random(size, np.float32)
    return image


def outpaint(rng: np.random.Generator, image: FloatArray, boxes: Sequence[Box]) -> FloatArray:
    """Fill all but the boxes with noise in [0, 1]; the same boxes in all sequences (our choice)."""
    painted = rng.random(image.shape, np.float32)
    for box in boxes:
        painted[box] = image[box]
    return painted


def distort(rng: np.random.Generator, image: FloatArray, options: ModelsGenesisOptions) -> FloatArray:
    """T(x) of an image (N, D, H, W) in [0, 1]: shuffling, then intensities, then painting (order doubtful)."""
    if rng.random() < options.shuffling:
        count = round(options.shuffled_boxes * image[0].size / 64**3)
        sides = (0.0, options.shuffled_side)
        image = shuffle(rng, image, [random_box(rng, image, sides) for _ in range(count)])
    if rng.random() < options.intensity:
        image = map_intensities(rng, image, options.decreasing)
    if rng.random() < options.painting:
        outside = rng.random() < options.outpainting
        sides = options.outside_side if outside else options.inside_side
        count = int(rng.integers(1, options.painted_boxes + 1))
        boxes = [random_box(rng, image, sides) for _ in range(count)]
        image = outpaint(rng, image, boxes) if outside else inpaint(rng, image, boxes, options.inside)
    return image


class GenesisSample(NamedTuple):
    """A crop (N, D, H, W), the same distorted, and which modalities were acquired (N,); the others are zero."""

    image: Tensor
    distorted: Tensor
    exists: Tensor


@dataclass(frozen=True)
class GenesisDraw:
    """Draws what is random about a sample: flips of the crop, and how it is distorted."""

    options: ModelsGenesisOptions

    def __call__(self, crop: Crop, rng: np.random.Generator) -> GenesisSample:
        """Flip and distort one crop; labels are never looked at."""
        axes = [axis for axis in (1, 2, 3) if rng.random() < self.options.flip]
        image = np.where(crop.exists[:, None, None, None], crop.image.numpy(), np.float32(0))
        image = np.ascontiguousarray(np.flip(image, tuple(axes)))
        distorted = np.array(distort(rng, image, self.options))
        distorted[~crop.exists] = 0
        return GenesisSample(*map(torch.from_numpy, (image, distorted, crop.exists)))


class GenesisTask(Task):
    """Restore the distorted image."""

    def __init__(self, model: ModelConfig, config: PretrainConfig, options: ModelsGenesisOptions) -> None:
        super().__init__()
        self.model_config, self.config, self.options = model, config, options
        self.autoencoder = MaskedAutoencoder(model)

    @property
    def trained(self) -> nn.Module:
        """The network that restores."""
        return self.autoencoder

    @property
    def model(self) -> Method:
        """The network as it is now; missing modalities will be zeros."""
        images = ModelsGenesis.zeros(self.model_config)
        return ModelsGenesis.restored(self.model_config, {"autoencoder": self.autoencoder}, images)

    def parameter_groups(self) -> list[dict[str, object]]:
        """All parameters, with one learning rate."""
        return [{"params": list(self.autoencoder.parameters()), "lr": self.config.learning_rate}]

    def restored(self, distorted: Tensor) -> Tensor:
        """G(T(x)): the restored image (B, N, D, H, W) of a distorted one."""
        answer: Tensor = self.autoencoder(distorted).float()
        return answer.sigmoid() if self.options.sigmoid else answer

    def forward(self, batch: Sequence[GenesisSample]) -> dict[str, Tensor]:
        """Return the mean of (x - G(T(x)))² over all voxels of the modalities that exist (known)."""
        device = next(self.autoencoder.parameters()).device
        x, distorted, exists = (
            torch.stack(part).to(device, non_blocking=True) for part in zip(*batch, strict=True)
        )
        return {"restoration": reconstruction_loss(x, self.restored(distorted), exists)}


@dataclass(frozen=True)
class PretrainGenesis(Stage):
    """The pretraining; of ``[pretrain]``, what concerns masks and the substitute has no meaning here."""

    name: str = "pretrain"
    makes: str = "pretrained"
    labelled: bool = False

    def draw(self, recipe: Recipe) -> Draw[Any]:
        """Return what distorts a sample.

        Raises
        ------
        ConfigError
            If the preprocessing does not bring intensities to [0, 1] (``scale``).
        """
        if any(step.span != 1 for step in recipe.model.steps):
            raise ConfigError(
                "Models Genesis distorts intensities between 0 and 1.",
                'Choose scale = "minmax" in [model.preprocess].',
                code="scale",
            )
        return GenesisDraw(options_of(recipe.model, ModelsGenesisOptions))

    def task(self, recipe: Recipe, start: Method | None, cases: Sequence[CachedCase]) -> Task:
        """Start from random weights."""
        del start, cases
        options = options_of(recipe.model, ModelsGenesisOptions)
        return GenesisTask(recipe.model, recipe.pretrain, options)


class ModelsGenesis(WithoutSubstitute):
    """M3AE's stage 2 after restoring; masked content is nothing that it was trained to restore."""

    @classmethod
    def stages(cls) -> tuple[Stage, ...]:
        """A pretraining of its own, and M3AE's fine-tuning: all layers learn, the heads are new (known)."""
        return PretrainGenesis(), Finetune()
