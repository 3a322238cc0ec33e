"""Cached cases, and the training samples drawn from them.

Cases are decoded, normalised and resampled to the template once, into memory-mapped arrays. A sample is a function of
(seed, its number): whatever the number of workers or restarts, sample k is the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from m3ae_core import files
from m3ae_core.config import ModelConfig
from m3ae_core.data import nnunet
from m3ae_core.data.preprocess import Box, brain_box, standardise
from m3ae_core.data.transplant import can_give, transplant
from m3ae_core.io.case import Case, CaseFiles, read_case, read_case_labels
from m3ae_core.io.grid import Grid, resample
from m3ae_core.io.patients import find_two_patients
from m3ae_core.regions import LabelScheme, encode
from m3ae_core.seal import file_is_whole
from m3ae_core.stage_config import Shape, StageConfig

Sample = TypeVar("Sample")
#: Image (N, D, H, W) and regions (R, D, H, W) of a case on the template.
Content = tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]

#: To be raised when the code that prepares cases changes what it makes, so that old caches are not used.
PREPARATION = 2


@dataclass(frozen=True)
class CachedCase:
    """A training case on the template grid, in files that are mapped into memory.

    Holds paths, not arrays, so that worker processes receive no copies. `brain` is its brain's box; `exists` tells for
    each modality whether it was acquired; `regions_file` is None where labels were not asked for; `weight` is how much
    they count.
    """

    name: str
    image_file: Path
    regions_file: Path | None
    brain: Box
    exists: tuple[bool, ...]
    weight: float = 1.0

    @property
    def image(self) -> npt.NDArray[np.float32]:
        """The image (N, D, H, W), float32 on the scale of the preprocessing; zero where a modality does not exist."""
        return np.load(self.image_file, mmap_mode="r")  # type: ignore[no-any-return]

    @property
    def regions(self) -> npt.NDArray[np.bool_]:
        """The regions (R, D, H, W), none (R = 0) without labels."""
        if self.regions_file is None:
            return np.zeros((0, *self.image.shape[1:]), bool)
        return np.load(self.regions_file, mmap_mode="r")  # type: ignore[no-any-return]


def prepare_case(case: CaseFiles, model: ModelConfig, scheme: LabelScheme | None) -> Content:
    """Return a case on the template, with whichever modalities it has; without a scheme no regions (R = 0).

    Raises
    ------
    InputError
        If all modalities or the label map are missing, the images seem to be of two patients (``two-patients``), or
        the files cannot be used.
    """
    content = _read(case, model)
    find_two_patients(content.volumes, model.modality_set)
    standard = standardise(content, model)
    if scheme is None:
        return standard.image, np.zeros((0, *model.grid.shape), bool)
    return standard.image, _regions(case, content, standard.grid, model, scheme)


def cache_case(
    case: CaseFiles, model: ModelConfig, scheme: LabelScheme, folder: Path, *, labelled: bool = True
) -> CachedCase:
    """Return `case`, with whichever of the model's modalities it has, from the cache in `folder`, made now if need be.

    The key is made of the content of the files and of everything that shapes the arrays; an array that is not what was
    written under it is made anew. Without `labelled`, labels are neither needed nor read.

    Raises
    ------
    InputError
        If all modalities or the label map are missing, or the files cannot be used.
    """
    key = _key(case, model, scheme if labelled else None)
    image_file = folder / f"{key}-image.npy"
    regions_file = folder / f"{key}-regions.npy" if labelled else None
    if not all(_is_whole(path) for path in (image_file, regions_file) if path):
        prepared, regions = prepare_case(case, model, scheme if labelled else None)
        files.write_array(image_file, prepared)
        if regions_file:
            files.write_array(regions_file, regions)
    image = np.load(image_file, mmap_mode="r")
    exists = tuple(name in case.images for name in model.modalities)
    return CachedCase(case.name, image_file, regions_file, brain_box(np.asarray(image.any(axis=0))), exists)


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


class Crop(NamedTuple):
    """A crop of a training case.

    Attributes
    ----------
    image, regions
        (N, D, H, W) float32 and (R, D, H, W) boolean.
    start
        Its first template voxel (d, h, w).
    exists
        (N,), which modalities were acquired.
    weight
        How much the labels count.
    """

    image: Tensor
    regions: Tensor
    start: Shape
    exists: npt.NDArray[np.bool_]
    weight: float = 1.0


#: Makes a sample of a crop and of a random generator that belongs to this sample alone.
Draw = Callable[[Crop, np.random.Generator], Sample]


class Samples(Dataset[Sample], Generic[Sample]):
    """All samples of a training stage, numbered: sample k belongs to epoch k // len(cases).

    Parameters
    ----------
    cases
        Cached training cases.
    stage
        Crop size, epochs and seed.
    draw
        Makes a sample of a crop.
    """

    def __init__(
        self,
        cases: Sequence[CachedCase],
        stage: StageConfig,
        draw: Draw[Sample],
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
        image, regions = _cut(self._content(case, rng), start, self.stage, rng)
        return self.draw(Crop(image, regions, start, np.array(case.exists), case.weight), rng)

    def _content(self, case: CachedCase, rng: np.random.Generator) -> Content:
        """Return a case's image and regions, some with the lesion of another case whose labels count as much."""
        if not self.stage.transplant or rng.random() >= self.stage.transplant:
            return case.image, case.regions
        donor = self.cases[int(rng.integers(len(self.cases)))]
        if donor.weight < case.weight or not can_give(donor.exists, case.exists, donor.regions):
            return case.image, case.regions
        return transplant(rng, (case.image, case.regions), (donor.image, donor.regions))


def _cut(
    content: Content, start: Shape, stage: StageConfig, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Return the crop of the image and of the regions at `start`; with `stage.nnunet`, changed as drawn from `rng`."""
    image, regions = content
    if not stage.nnunet:
        return torch.from_numpy(crop(image, start, stage.crop)), torch.from_numpy(
            crop(regions, start, stage.crop)
        )
    change = nnunet.spatial_change(rng)
    turned = nnunet.cut(image, start, stage.crop, change)
    masks = torch.zeros(0, *stage.crop, dtype=torch.bool)
    if len(regions):
        masks = nnunet.cut(regions, start, stage.crop, change) > 0.5
    return nnunet.vary(turned, int(rng.integers(2**32))), masks


def _is_whole(path: Path) -> bool:
    """Whether an array is there, as it was written under this name."""
    try:
        return bool(file_is_whole(path, path.name))
    except OSError:
        return False


def _read(case: CaseFiles, model: ModelConfig) -> Case:
    wanted = {name: case.images[name] for name in model.modalities if name in case.images}
    return read_case(replace(case, images=wanted), model.modality_set)


def _regions(
    case: CaseFiles, content: Case, grid: Grid, model: ModelConfig, scheme: LabelScheme
) -> npt.NDArray[np.bool_]:
    """Return the case's regions (R, D, H, W) on the template where it lies."""
    own = Grid(content.shape, content.affine)
    masks = encode(read_case_labels(case, content).data, scheme, model.region_set)
    return np.stack([resample(mask, own, grid) > 0.5 for mask in masks])


def _key(case: CaseFiles, model: ModelConfig, scheme: LabelScheme | None) -> str:
    """Hash what shapes the arrays; without a scheme, of the image alone."""
    digest = hashlib.sha256(f"{PREPARATION} {scheme.identity if scheme else ''}".encode())
    digest.update(model.grid.model_dump_json().encode())
    digest.update(model.preprocess.model_dump_json(exclude={"modalities"}).encode())
    for name, step in zip(model.modalities, model.steps, strict=True):
        if step != model.preprocess.default:
            digest.update(f"{name} {step.model_dump_json()}".encode())
    digest.update(",".join((*model.modalities, *model.regions)).encode())
    for path in (*(case.images.get(name) for name in model.modalities), case.labels if scheme else None):
        digest.update(files.sha256(path).encode() if path else b"-")
    return digest.hexdigest()[:24]
