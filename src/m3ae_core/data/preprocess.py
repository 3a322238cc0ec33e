"""From a case to what the network sees: intensities on a common scale, on the template grid ("Implementation")."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from m3ae_core.config import ModelConfig
from m3ae_core.errors import InputError
from m3ae_core.intensity import Step
from m3ae_core.io.case import Case
from m3ae_core.io.grid import FloatArray, Grid, Placement, locate, resample
from m3ae_core.io.volume import Volume
from m3ae_core.modalities import ModalitySet, Subset

BoolArray = npt.NDArray[np.bool_]
Box = tuple[tuple[int, int, int], tuple[int, int, int]]


@dataclass(frozen=True, eq=False)
class StandardCase:
    """A case on the template grid.

    Attributes
    ----------
    image
        (N, D, H, W) float32, as :func:`normalise` scales it; missing modalities are zero.
    modalities
        The N modalities in channel order.
    subset
        Which of them are present.
    grid
        The template grid, translated to where the case lies: its affine leads to the case's own world.
    placement
        How the case was placed on the template.
    brain
        Lowest and highest (exclusive) template voxel of the brain, over the modalities present.
    """

    image: FloatArray
    modalities: ModalitySet
    subset: Subset
    grid: Grid
    placement: Placement
    brain: Box

    @property
    def exists(self) -> tuple[bool, ...]:
        """For each of the N modalities, whether it is present."""
        return self.modalities.flags(self.subset)


class Standardiser:
    """Resamples a case to a model's template, once per sequence, for as many subsets of its sequences as are asked for.

    What depends on one sequence alone (its box, its percentiles, its place on the template) is kept; which box holds
    the brain, and hence where the case lies, is each subset's own matter, as if the others had never been acquired.
    """

    def __init__(self, case: Case, model: ModelConfig) -> None:
        self.case = case
        self._model = model
        self._own = Grid(case.shape, case.affine)
        self._boxes: dict[str, Box | None] = {}
        self._images: dict[tuple[str, tuple[float, float, float]], FloatArray] = {}

    def standardise(self, names: Iterable[str]) -> StandardCase:
        """Return the case as it is with the sequences of these names; those that the model does not know are left out.

        Raises
        ------
        InputError
            If none is left, a volume has no foreground or no contrast, or no part of the brain falls on the template.
        """
        model = self._model
        modalities = model.modality_set
        subset = modalities.subset(set(names) & set(model.modalities))
        if not subset:
            raise InputError(
                f"The case {self.case.name} has none of the model's sequences.",
                f"Add at least one of {', '.join(model.modalities)}.",
                code="no-sequence",
            )
        low, high = _union([self._box(name) for name in subset.present], self._own.shape)
        placement = locate(self._own, low, high, model.grid)
        grid = Grid.of(model.grid).moved(placement.offset)
        image = np.zeros((len(modalities), *grid.shape), np.float32)
        for channel, (name, step) in enumerate(zip(modalities.names, model.steps, strict=True)):
            if name in subset:
                image[channel] = self._on_template(name, step, grid, placement)
        occupied: BoolArray = np.asarray(image.any(axis=0))
        if not occupied.any():
            raise InputError(
                "No part of the brain lies in the model's field of view.",
                "Register the images to the model's template (SRI24) first.",
                path=self.case.name,
                code="off-template",
            )
        return StandardCase(image, modalities, subset, grid, placement, brain_box(occupied))

    def _box(self, name: str) -> Box | None:
        if name not in self._boxes:
            self._boxes[name] = _occupied_box(self.case.volumes[name].data != 0)
        return self._boxes[name]

    def _on_template(self, name: str, step: Step, grid: Grid, placement: Placement) -> FloatArray:
        """Return the sequence (D, H, W), normalised; only the box around what is not zero is touched."""
        key = name, placement.offset
        if key not in self._images:
            volume = self.case.volumes[name]
            low, high = self._box(name) or ((0, 0, 0), volume.shape)
            part = volume.data[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
            cropped = self._own.cropped(low, part.shape)
            scaled = normalise(replace(volume, data=part), step)
            self._images[key] = resample(scaled, cropped, grid)
        return self._images[key]


def standardise(case: Case, model: ModelConfig) -> StandardCase:
    """Normalise every modality present and resample the case to the template grid of `model`.

    Raises
    ------
    InputError
        If the case has none of the model's modalities, a volume has no foreground or no contrast, or no part of the
        brain falls on the template.
    """
    return Standardiser(case, model).standardise(case.volumes)


def normalise(volume: Volume, step: Step) -> FloatArray:
    """Return the image (X, Y, Z), float32, with its foreground scaled by `step`; the background stays 0.

    Raises
    ------
    InputError
        If there is no foreground, or all of it gets one value.
    """
    data = np.ascontiguousarray(volume.data.T)  # as it lies in memory: files store X fastest
    foreground = step.foreground(data)
    values = np.asarray(data[foreground], np.float32)
    if values.size:
        values = step.scaled(values)
    if not values.size or values.min() == values.max():
        raise InputError(
            "The image has no contrast: its brightest and darkest percentiles are the same.",
            "Check that this is the right file.",
            path=volume.path or "image",
            code="no-contrast",
        )
    scaled = np.zeros(data.shape, np.float32)
    scaled[foreground] = values
    return scaled.T


def brain_box(mask: BoolArray) -> Box:
    """Return the lowest and the highest (exclusive) voxel of `mask` (D, H, W), with a margin of one voxel inside it.

    An empty mask gives the whole array.
    """
    return _union([_occupied_box(mask)], (mask.shape[0], mask.shape[1], mask.shape[2]))


def _occupied_box(mask: BoolArray) -> Box | None:
    """Return the box of :func:`brain_box`, None for an empty mask."""
    low, high = [], []
    for axis in range(3):
        occupied = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        if not occupied.size:
            return None
        low.append(max(int(occupied[0]) - 1, 0))
        high.append(min(int(occupied[-1]) + 2, mask.shape[axis]))
    return (low[0], low[1], low[2]), (high[0], high[1], high[2])


def _union(boxes: Iterable[Box | None], shape: tuple[int, int, int]) -> Box:
    """Return the box around several; without any, the whole array."""
    known = np.array([box for box in boxes if box is not None])
    if not known.size:
        return (0, 0, 0), shape
    low, high = known[:, 0].min(axis=0).tolist(), known[:, 1].max(axis=0).tolist()
    return (low[0], low[1], low[2]), (high[0], high[1], high[2])
