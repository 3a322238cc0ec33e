"""How the intensities of one modality are brought to a common scale: a class for each preprocessing step.

A recipe chooses a step by its name, ``scale``, and sets its options beside it::

    [model.preprocess.modalities.CT]
    scale = "window"
    low = -20
    high = 100

An outside package adds steps of its own through the hook ``m3ae_preprocessing`` of :mod:`m3ae_core.plugins`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, BaseModel, BeforeValidator, SerializeAsAny, model_validator

from m3ae_core import plugins
from m3ae_core.modalities import Kind, Modality

FloatArray = npt.NDArray[np.float32]

#: The percentiles 1 and 99 of a brain lie this many standard deviations apart (5.1 to 5.5 in the training cases).
ZSCORE_SPAN = 5.3


def _rising(percentiles: tuple[float, float]) -> tuple[float, float]:
    low, high = percentiles
    if not 0 <= low < high <= 100:
        raise ValueError(f"percentiles {percentiles} must rise from at least 0 to at most 100")
    return percentiles


Percentiles = Annotated[tuple[float, float], AfterValidator(_rising)]


class Step(BaseModel, frozen=True, extra="forbid"):
    """A preprocessing step, registered under the name `scale`; its other fields are its options."""

    scale: str

    @property
    def span(self) -> float:
        """The paper's intensity range [0, 1] in units of this scale."""
        return 1.0

    def foreground(self, data: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Return which voxels of an image (X, Y, Z), whose background is 0, are scaled; the others become 0."""
        return np.asarray(data != 0)

    def scaled(self, values: FloatArray) -> FloatArray:
        """Return the values (V,) of the foreground, V > 0, on the common scale; they may be changed in place."""
        raise NotImplementedError


class MinMax(Step):
    """Clip to percentiles, which become 0 and 1, as in the paper ("Implementation").

    The foreground is where an image is not zero: released volumes hold negative voxels inside the brain. With
    `positive` it is where the image is positive, as in the released code.
    """

    percentiles: Percentiles = (1.0, 99.0)
    positive: bool = False

    def foreground(self, data: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Return which voxels are positive, or not zero."""
        return np.asarray(data > 0) if self.positive else super().foreground(data)

    def scaled(self, values: FloatArray) -> FloatArray:
        """Return values in [0, 1]; all 0 where the percentiles coincide."""
        low, high = np.percentile(values, self.percentiles)
        if not low < high:
            return np.zeros_like(values)
        values -= np.float32(low)
        values /= np.float32(high - low)
        return np.clip(values, 0, 1, out=values)


class ZScore(MinMax):
    """Clip to percentiles; then the foreground gets zero mean and unit standard deviation, as in nnU-Net."""

    @property
    def span(self) -> float:
        """The distance between the percentiles."""
        return ZSCORE_SPAN

    def scaled(self, values: FloatArray) -> FloatArray:
        """Return standard deviations from the mean; all 0 where the percentiles coincide."""
        values = super().scaled(values)
        if values.any():
            values -= values.mean()
            values /= values.std()
        return values


class Window(Step):
    """Clip to a window of Hounsfield units, whose ends become 0 and 1; the default shows brain (level 40, width 80)."""

    low: float = 0.0
    high: float = 80.0

    def scaled(self, values: FloatArray) -> FloatArray:
        """Return values in [0, 1]."""
        values -= np.float32(self.low)
        values /= np.float32(self.high - self.low)
        return np.clip(values, 0, 1, out=values)

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"the window from {self.low:g} to {self.high:g} must rise")
        return self


#: The steps that are built in, by name.
STEPS: dict[str, type[Step]] = {"minmax": MinMax, "zscore": ZScore, "window": Window}
#: What is done to modalities of a kind that has a scale of its own, where a recipe says nothing.
DEFAULTS: dict[Kind, Step] = {"CT": Window(scale="window")}


def step_of(content: object) -> object:
    """Return the step that a table of settings describes; what is no such table is returned as it is.

    Raises
    ------
    ValueError
        If no step has its name, or an option is unknown or out of range.
    ConfigError
        If two plugins register the same name.
    """
    if not isinstance(content, dict):
        return content
    name = str(content.get("scale"))
    known = STEPS if name in STEPS else STEPS | plugins.registered("preprocessing")
    if name not in known:
        raise ValueError(f"scale {name!r} is none of {', '.join(known)}")
    return known[name].model_validate(content)


class PreprocessConfig(BaseModel, frozen=True, extra="forbid"):
    """Intensity standardisation ("Implementation"): clip to percentiles, then scale.

    `foreground` says which voxels count: all non-zero ones, or only positive ones. `scale` is ``minmax`` to [0, 1], as
    in the paper, or ``zscore``: zero mean and unit standard deviation over the foreground, as in nnU-Net. The
    background is 0 either way. `modalities` gives a modality, by its name, a step of its own; a CT without one is
    seen through :class:`Window`'s default.
    """

    percentiles: Percentiles = (1.0, 99.0)
    foreground: Literal["nonzero", "positive"] = "nonzero"
    scale: Literal["minmax", "zscore"] = "minmax"
    modalities: dict[str, Annotated[SerializeAsAny[Step], BeforeValidator(step_of)]] = {}

    @property
    def default(self) -> Step:
        """The step of modalities that have none of their own."""
        kind = {"minmax": MinMax, "zscore": ZScore}[self.scale]
        return kind(scale=self.scale, percentiles=self.percentiles, positive=self.foreground == "positive")

    def step(self, modality: Modality) -> Step:
        """Return what is done to one modality."""
        return self.modalities.get(modality.name) or DEFAULTS.get(modality.kind) or self.default
