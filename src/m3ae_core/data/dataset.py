"""Cached cases, and the training samples drawn from them.

Cases are decoded, normalised and laid on the template once, into memory-mapped arrays. A sample is a function of
(seed, its number): whatever the number of workers or restarts, sample k is the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from m3ae_core import files
from m3ae_core.config import ModelConfig, Shape, StageConfig
from m3ae_core.data import nnunet
from m3ae_core.data.case import CaseFiles, read_case, read_case_labels
from m3ae_core.data.grid import Grid, resample
from m3ae_core.data.preprocess import Box, brain_box, standardise
from m3ae_core.errors import InputError
from m3ae_core.regions import LabelScheme, encode

Sample = TypeVar("Sample")

#: To be raised when the code that prepares cases changes what it makes, so that old caches are not used.
PREPARATION = 1


@dataclass(frozen=True)
class CachedCase:
    """A training case on the template grid, in two files that are mapped into memory; `brain` is its brain's box.

    Holds paths, not arrays, so that worker processes receive no copies.
    """

    name: str
    image_file: Path
    regions_file: Path
    brain: Box

    @property
    def image(self) -> npt.NDArray[np.float32]:
        """The image (N, D, H, W), float32 on the scale of the preprocessing."""
        return np.load(self.image_file, mmap_mode="r")  # type: ignore[no-any-return]

    @property
    def regions(self) -> npt.NDArray[np.bool_]:
        """The regions (R, D, H, W)."""
        return np.load(self.regions_file, mmap_mode="r")  # type: ignore[no-any-return]


def cache_case(case: CaseFiles, model: ModelConfig, scheme: LabelScheme, folder: Path) -> CachedCase:
    """Return `case` from the cache in `folder`, made now if it is not there.

    The key is made of the content of the files and of everything that shapes the arrays.

    Raises
    ------
    InputError
        If a modality or the label map is missing, or the files cannot be used.
    """
    if absent := [name for name in model.modalities if name not in case.images]:
        raise InputError(
            f"The training case {case.name} lacks {', '.join(absent)}.",
            "Train on complete cases.",
            code="incomplete",
        )
    key = _key(case, model, scheme)
    image_file, regions_file = folder / f"{key}-image.npy", folder / f"{key}-regions.npy"
    if not (image_file.exists() and regions_file.exists()):
        image, regions = _prepare(case, model, scheme)
        files.write_array(image_file, image)
        files.write_array(regions_file, regions)
    image = np.load(image_file, mmap_mode="r")
    return CachedCase(case.name, image_file, regions_file, brain_box(np.asarray(image.any(axis=0))))


def random_start(rng: np.random.Generator, brain: Box, crop: Shape, template: Sequence[int]) -> Shape:
    """Draw the first voxel of a crop: within the brain box where that is larger, else around it.

    The crop stays on the template wherever it fits; it overhangs only along axes where it is larger than that.
    """
    start = []
    for low, high, side, limit in zip(*brain, crop, template, strict=True):
        slack = (high - low) - side
        first = low + int(rng.integers(abs(slack) + 1)) * (1 if slack >= 0 else -1)
        start.append(min(max(first, min(0, limit - side)), max(0, limit - side)))
    return start[0], start[1], start[2]


def onto_foreground(
    rng: np.random.Generator, regions: npt.NDArray[np.bool_], start: Shape, size: Shape
) -> Shape:
    """Move a crop so that it holds a random voxel of a random region (R, D, H, W), and no further than needed."""
    present = [region for region in regions if region.any()]
    if not present:
        return start
    voxels = np.argwhere(present[rng.integers(len(present))])
    voxel = voxels[rng.integers(len(voxels))]
    moved = [int(min(max(first, v - side + 1), v)) for first, v, side in zip(start, voxel, size, strict=True)]
    return moved[0], moved[1], moved[2]


def crop(array: npt.NDArray[Any], start: Sequence[int], size: Shape) -> npt.NDArray[Any]:
    """Return a copy (…, *size) of `array` from voxel `start` on, zero outside."""
    result = np.zeros((*array.shape[:-3], *size), array.dtype)
    source: list[Any] = [...]
    target: list[Any] = [...]
    for first, side, limit in zip(start, size, array.shape[-3:], strict=True):
        low = max(first, 0)
        high = max(low, min(first + side, limit))
        source.append(slice(low, high))
        target.append(slice(low - first, high - first))
    result[tuple(target)] = array[tuple(source)]
    return result


class Samples(Dataset[Sample], Generic[Sample]):
    """All samples of a training stage, numbered: sample k belongs to epoch k // len(cases).

    Parameters
    ----------
    cases
        Cached training cases.
    stage
        Crop size, epochs and seed.
    draw
        Makes a sample of an image crop (N, D, H, W), a region crop (R, D, H, W), the crop's first voxel, and a
        random generator that belongs to this sample alone.
    """

    def __init__(
        self,
        cases: Sequence[CachedCase],
        stage: StageConfig,
        draw: Callable[[Tensor, Tensor, Shape, np.random.Generator], Sample],
    ) -> None:
        self.cases, self.stage, self.draw = cases, stage, draw

    def __len__(self) -> int:
        return len(self.cases) * self.stage.epochs

    def __getitem__(self, number: int) -> Sample:
        if not 0 <= number < len(self):
            raise IndexError(number)  # ends a plain loop over the samples
        epoch, position = divmod(number, len(self.cases))
        order = np.random.default_rng([self.stage.seed, 0, epoch]).permutation(len(self.cases))
        rng = np.random.default_rng([self.stage.seed, 1, epoch, position])
        case = self.cases[order[position]]
        start = random_start(rng, case.brain, self.stage.crop, case.image.shape[1:])
        if rng.random() < self.stage.foreground:
            start = onto_foreground(rng, case.regions, start, self.stage.crop)
        image, regions = _cut(case, start, self.stage, rng)
        return self.draw(image, regions, start, rng)


def _cut(
    case: CachedCase, start: Shape, stage: StageConfig, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Return the crop of the image and of the regions at `start`; with `stage.nnunet`, changed as drawn from `rng`."""
    if not stage.nnunet:
        image, regions = (crop(array, start, stage.crop) for array in (case.image, case.regions))
        return torch.from_numpy(image), torch.from_numpy(regions)
    change = nnunet.spatial_change(rng)
    turned = nnunet.cut(case.image, start, stage.crop, change)
    masks = nnunet.cut(case.regions, start, stage.crop, change) > 0.5
    return nnunet.vary(turned, int(rng.integers(2**32))), masks


def _prepare(
    case: CaseFiles, model: ModelConfig, scheme: LabelScheme
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    wanted = {name: case.images[name] for name in model.modalities}
    content = read_case(replace(case, images=wanted), model.modality_set)
    standard = standardise(content, model)
    own = Grid(content.shape, content.affine)
    masks = encode(read_case_labels(case, content).data, scheme, model.region_set)
    return standard.image, np.stack([resample(mask, own, standard.grid) > 0.5 for mask in masks])


def _key(case: CaseFiles, model: ModelConfig, scheme: LabelScheme) -> str:
    digest = hashlib.sha256(f"{PREPARATION} {scheme.name}".encode())
    for part in (model.grid, model.preprocess):
        digest.update(part.model_dump_json().encode())
    digest.update(",".join((*model.modalities, *model.regions)).encode())
    for path in (*(case.images[name] for name in model.modalities), case.labels):
        digest.update(files.sha256(path).encode() if path else b"")
    return digest.hexdigest()[:24]
