"""Everything that can be set, as frozen pydantic models; the defaults are the paper's numbers.

A :class:`Recipe` describes a model and how it is trained (:mod:`m3ae_core.stage_config`). It is read from TOML, stored
in every run folder and bundle as JSON, and names the preset it came from. Two presets are shipped beside this module:
``paper`` (all defaults) and ``official`` (what the released code does where it departs from the paper), beside
``demo-2mm``, the recipe of the built-in model, and ``long-2mm``, that of the next one.

No torch is imported here, so that command lines and panels open quickly.
"""

from __future__ import annotations

import tomllib
from importlib.resources import files
from math import inf, isfinite
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import Field, ValidationError, field_validator, model_validator

from m3ae_core.errors import ConfigError
from m3ae_core.intensity import PreprocessConfig, Step
from m3ae_core.modalities import BRATS, ModalitySet
from m3ae_core.regions import Region, regions_named
from m3ae_core.stage_config import FinetuneConfig, Frozen, PretrainConfig, Sides, SupervisedConfig

#: A sliding window in voxels (D, H, W) over the brain box, or one pass over that box or over the template.
Window = Sides | Literal["brain", "template"]
#: The class of the own options of a method or a network.
Options = TypeVar("Options", bound=Frozen)
Affine = tuple[tuple[float, float, float, float], ...]

#: SRI24 at 1 mm as BraTS stores it (LPS), with axes D (towards superior), H (posterior), W (left); RAS world in mm.
SRI24_AFFINE: Affine = (
    (0.0, 0.0, -1.0, 0.0),
    (0.0, -1.0, 0.0, 239.0),
    (1.0, 0.0, 0.0, 0.0),
    (0.0, 0.0, 0.0, 1.0),
)


class GridConfig(Frozen):
    """The template grid: the voxels on which network and substitute image live.

    Attributes
    ----------
    shape
        Voxels along (D, H, W).
    affine
        4×4 matrix from voxel indices (d, h, w) to RAS world millimetres.
    frames
        Translations in mm (RAS) that lead from the template's world to other worlds in which the same space is
        stored. BraTS-Africa keeps SRI24 images with the LPS origin under RAS axes: (239, 239, 0).
    field_of_view
        Lowest and highest corner, in the template's world (RAS, mm), of the images of this space as released. An
        image of that extent under any other origin is aligned with it.
    """

    shape: Sides = (155, 240, 240)
    affine: Affine = SRI24_AFFINE
    frames: tuple[tuple[float, float, float], ...] = ((239.0, 239.0, 0.0),)
    field_of_view: tuple[tuple[float, float, float], tuple[float, float, float]] = (
        (-239.5, -0.5, -0.5),
        (0.5, 239.5, 154.5),
    )

    @field_validator("affine")
    @classmethod
    def _invertible(cls, affine: Affine) -> Affine:
        if len(affine) != 4 or list(affine[3]) != [0, 0, 0, 1]:
            raise ValueError("must be 4×4, with the last row 0 0 0 1")
        (a, b, c, _), (d, e, f, _), (g, h, i, _) = affine[:3]
        volume = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
        if not 0 < abs(volume) < inf or not all(isfinite(value) for row in affine for value in row):
            raise ValueError(f"must be finite and give voxels a volume, not {volume:g} mm³")
        return affine


class NetworkConfig(Frozen):
    """The backbone: which registered architecture, and its size (supplement, Fig. S1).

    `options` are the own settings of another package's backbone.
    """

    name: str = "residual-unet"
    base_channels: int = Field(16, ge=1)
    norm_groups: int = Field(8, ge=1)
    upsample: Literal["trilinear", "nearest"] = "trilinear"
    options: dict[str, Any] = Field(default_factory=dict)


class InferenceConfig(Frozen):
    """How a trained model is applied to a whole case.

    `window` is the sliding window in voxels over the brain box, or ``brain`` for one pass over that box, or
    ``template`` for one pass over the whole template (normalisation statistics depend on the extent, so a model is
    best applied to the extent it was trained on). `substitute_origin` is
    ``template`` (the location-corresponding content, as the paper says) or ``window`` (the released evaluation,
    which reads the substitute at each window's own coordinates). `mirror` averages the answers to the image and to the
    image mirrored between left and right, in twice the time.
    """

    window: Window = (128, 128, 128)
    overlap: float = Field(0.5, ge=0, lt=1)
    substitute_origin: Literal["template", "window"] = "template"
    mirror: bool = False

    @model_validator(mode="after")
    def _halvable(self) -> Self:
        if not isinstance(self.window, str) and any(side % 8 for side in self.window):
            raise ValueError(f"window {self.window} must be multiples of 8 (three halvings)")
        return self


class ModelConfig(Frozen):
    """What a model is: stored in its bundle and obeyed by inference.

    `method` is the name of a registered one, `options` are its own settings.
    """

    preset: str = "paper"
    method: str = "m3ae"
    options: dict[str, Any] = Field(default_factory=dict)
    modalities: tuple[str, ...] = BRATS.names
    regions: tuple[str, ...] = ("WT", "TC", "ET")
    network: NetworkConfig = NetworkConfig()
    grid: GridConfig = GridConfig()
    preprocess: PreprocessConfig = PreprocessConfig()
    inference: InferenceConfig = InferenceConfig()

    @property
    def modality_set(self) -> ModalitySet:
        """The modalities in channel order."""
        return ModalitySet.named(self.modalities)

    @property
    def steps(self) -> tuple[Step, ...]:
        """The preprocessing step of each modality, in channel order."""
        return tuple(self.preprocess.step(modality) for modality in self.modality_set)

    @property
    def region_set(self) -> tuple[Region, ...]:
        """The regions in output order."""
        return regions_named(self.regions)

    def with_window(self, window: Window) -> ModelConfig:
        """Return the model as applied in another `window`.

        Raises
        ------
        ConfigError
            If the sides are no multiples of 8.
        """
        try:
            inference = InferenceConfig.model_validate(self.inference.model_dump() | {"window": window})
        except ValidationError as error:
            detail = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise ConfigError(
                f"Windows of {window} cannot be: {detail}.", "Choose others.", code="window"
            ) from error
        return self.model_copy(update={"inference": inference})

    @model_validator(mode="after")
    def _known(self) -> Self:
        try:
            _ = self.modality_set, self.region_set
        except ConfigError as error:
            raise ValueError(error.problem) from error
        if unknown := self.preprocess.modalities.keys() - {*self.modalities}:
            raise ValueError(f"preprocess.modalities names {', '.join(sorted(unknown))}, not in modalities")
        if len(set(self.regions)) < len(self.regions) or not self.regions:
            raise ValueError(f"regions {self.regions} must be one or more, each once")
        return self


class Recipe(Frozen):
    """A model and its trainings: M3AE's two stages, and `train`, the one of methods that need no other."""

    model: ModelConfig = ModelConfig()
    pretrain: PretrainConfig = PretrainConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    train: SupervisedConfig = SupervisedConfig()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = self.model.modalities
        for stage in (self.pretrain, self.finetune, self.train):
            if any(side % 8 for side in stage.crop):
                raise ValueError(f"crop {stage.crop} must be multiples of 8 (three halvings)")
        _require_maskable(self.pretrain, len(names))
        for name, supervised in (("finetune", self.finetune), ("train", self.train)):
            dropped = _require_droppable(f"{name}.max_dropped", supervised.max_dropped, len(names))
            if supervised is self.finetune and not (dropped or self.finetune.allow_identical_pair):
                problem = "finetune drops no modality, so no two situations differ"
                raise ValueError(f"{problem}; set allow_identical_pair")
            situations = () if isinstance(supervised.validate_on, str) else supervised.validate_on
            if unknown := {m for situation in situations for m in situation} - set(names):
                raise ValueError(
                    f"{name}.validate_on names {', '.join(sorted(unknown))}, not in model.modalities"
                )
        return self

    def for_method(self, name: str) -> Recipe:
        """Return the recipe of another method, otherwise the same."""
        return self.model_copy(update={"model": self.model.model_copy(update={"method": name})})


def _require_maskable(pretrain: PretrainConfig, count: int) -> None:
    """Refuse masks of stage 1 that cannot be drawn for `count` modalities."""
    masking = pretrain.masking
    if any(side % masking.patch for side in pretrain.crop):
        raise ValueError(f"pretrain.crop {pretrain.crop} is not divisible by the patch {masking.patch}")
    dropped = _require_droppable("masking.max_dropped", masking.max_dropped, count)
    if masking.patches and masking.ratio < dropped / count:
        raise ValueError(
            f"masking.ratio {masking.ratio} is less than the {dropped} of {count} modalities dropped"
        )


def _require_droppable(setting: str, most: int | None, count: int) -> int:
    """Return how many of `count` modalities are dropped at most; one always stays."""
    dropped = count - 1 if most is None else most
    if dropped >= count:
        raise ValueError(f"{setting} {dropped} leaves none of the {count} modalities")
    return dropped


def options_of(settings: ModelConfig | NetworkConfig, kind: type[Options]) -> Options:
    """Return the own options of a model's method, or of a network, as their class reads them.

    Raises
    ------
    ConfigError
        If one is unknown or out of range (``options``).
    """
    try:
        return kind.model_validate(settings.options)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        name, table = (
            (settings.method, "model.options")
            if isinstance(settings, ModelConfig)
            else (settings.name, "model.network.options")
        )
        raise ConfigError(
            f"{name} cannot have these options ({wrong}).",
            f"It knows {', '.join(kind.model_fields)}; correct [{table}].",
            code="options",
        ) from error


def load_recipe(source: str | Path) -> Recipe:
    """Read a recipe: the name of a built-in one (``paper``, ``official``, …) or a TOML file.

    Raises
    ------
    ConfigError
        If there is no such recipe, or a setting is unknown or out of range (the message names it).
    """
    path = Path(source)
    builtin = files("m3ae_core") / "recipes" / f"{source}.toml"
    try:
        text = builtin.read_text("utf-8") if builtin.is_file() else path.read_text("utf-8")
        return parse_recipe(tomllib.loads(text))
    except OSError as error:
        raise ConfigError(
            f"The recipe cannot be read: {error.strerror}.",
            f"Give a TOML file or one of {', '.join(builtin_recipes())}.",
            path=path,
            code="no-recipe",
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"This is not valid TOML: {error}.", "Correct the file.", path=path, code="toml"
        ) from error
    except ConfigError as error:
        raise ConfigError(error.problem, error.fix, path=path, code=error.code) from error


def parse_recipe(content: dict[str, Any]) -> Recipe:
    """Validate the content of a recipe.

    Raises
    ------
    ConfigError
        If a setting is unknown or out of range.
    """
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        details = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'recipe'}: {e['msg'].removeprefix('Value error, ')}"
            for e in error.errors()
        )
        raise ConfigError(
            f"The recipe is not valid ({details}).", "Correct these settings.", code="recipe"
        ) from error


def builtin_recipes() -> tuple[str, ...]:
    """Names of the recipes shipped with the package."""
    folder = files("m3ae_core") / "recipes"
    return tuple(sorted(Path(item.name).stem for item in folder.iterdir() if item.name.endswith(".toml")))
