"""How a stage of training is set: masking, the substitute image, augmentation, schedules. Defaults are the paper's."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

Shape = tuple[int, int, int]
Sides = tuple[PositiveInt, PositiveInt, PositiveInt]
Share = Annotated[float, Field(ge=0, le=1)]


class Frozen(BaseModel):
    """Base of all settings: immutable, and unknown names are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class MaskingConfig(Frozen):
    """Modality dropout and patch masking ("Self-Supervised Multimodal Representation Learning").

    `ratio` counts all patches of all modalities, dropped modalities included; `patch` is their side in voxels;
    `max_dropped` is the largest number of modalities dropped, None for all but one; `patches` False keeps modality
    dropout alone (Table 3, row b).
    """

    ratio: float = Field(0.875, gt=0, lt=1)
    patch: int = Field(16, ge=1)
    max_dropped: int | None = Field(None, ge=0)
    patches: bool = True


class SubstituteConfig(Frozen):
    """The substitute image x_sub (Eqns. 1 and 3): what it is, γ, its own learning rate, and its Gaussian start.

    `kind` is ``learned`` (by model inversion), or one that stays as it is: ``zero``, or the ``mean`` of the training
    images (Table 3, rows c and d). `regulariser` is the ``mean-square`` of its voxels, which pulls alike on every grid,
    or the ``norm`` of the released code. The start is weak: what a short training leaves of it is all that it shows.
    `gradient_sd` is the standard deviation, in voxels, of the Gaussian that smooths the image's gradient before Adam
    scales it (a Sobolev gradient: Neuberger 1985); 0, as in the paper, takes it as it is. On fine grids a voxel's own
    gradient is nearly all noise, and Adam makes a random walk of it.
    """

    kind: Literal["learned", "zero", "mean"] = "learned"
    regulariser: Literal["mean-square", "norm"] = "mean-square"
    gamma: float = Field(0.005, ge=0)
    learning_rate: float = Field(0.005, gt=0)
    init_std: float = Field(0.01, ge=0)
    gradient_sd: float = Field(0.0, ge=0)


class AugmentConfig(Frozen):
    """Random intensity scale and shift per modality, and flips along each axis ("Implementation").

    `flip` is the probability along each of the axes (D, H, W). `shift` is in the paper's units: shares of the range
    between an image's darkest and brightest percentile.
    """

    flip: tuple[Share, Share, Share] = (0.5, 0.5, 0.5)
    scale: float = Field(0.1, ge=0)
    shift: float = Field(0.1, ge=0)
    jitter_per_slice: bool = False


class ScannerConfig(Frozen):
    """Another scanner (:mod:`m3ae_core.data.scanner`): bias field, gamma and thick slices, of the case alone.

    `bias` is the standard deviation of the coefficients of the field's logarithm, a polynomial of the second order;
    `gamma` the range of exponents; `thickness` the thickest slices in voxels. Each kind happens with `probability`.
    """

    bias: float = Field(0.15, ge=0)
    gamma: tuple[PositiveFloat, PositiveFloat] = (0.7, 1.5)
    thickness: float = Field(3.0, ge=1)
    probability: Share = 0.5


class StageConfig(Frozen):
    """What both training stages share. `epochs` counts passes over the training cases.

    `foreground` is the share of crops that are moved onto the tumour. `nnunet` adds nnU-Net's turns, zooms, noise,
    blur, contrast, low resolution and gamma, to the case alone: the substitute keeps its place and look. `transplant`
    is the share of samples that get the lesion of another case (stage 2: without labels there is none to give).
    """

    crop: Sides = (128, 128, 128)
    epochs: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    learning_rate: float = Field(3e-4, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    seed: int = 0
    foreground: Share = 0.0
    nnunet: bool = False
    transplant: Share = 0.0
    checkpoint_every: int = Field(1, gt=0, description="epochs between checkpoints")


class PretrainConfig(StageConfig):
    """Stage 1 (Eqn. 3)."""

    epochs: int = Field(600, gt=0)
    batch_size: int = Field(2, gt=0)
    masking: MaskingConfig = MaskingConfig()
    substitute: SubstituteConfig = SubstituteConfig()


class SupervisedConfig(StageConfig):
    """What trainings with label maps share.

    Each sample loses some of its modalities: `situations` draws the number dropped uniformly, up to `max_dropped`
    (None: all but one), and then a subset of that size (``count``), or all subsets with equal probability
    (``uniform``). `ema` is the decay of an exponential moving average of the weights, which is then validated and kept
    (0: none). `scanner` lets each case look as if another scanner had made it. Validation is from the subsets
    `validate_on`: ``all``, or those ``nested`` in each other, which lose the first modality, then the second too, ….
    """

    epochs: int = Field(300, gt=0)
    batch_size: int = Field(1, gt=0)
    weight_decay: float = Field(1e-4, ge=0)
    max_dropped: int | None = Field(None, ge=0)
    situations: Literal["count", "uniform"] = "count"
    augment: AugmentConfig = AugmentConfig()
    scanner: ScannerConfig | None = None
    ema: float = Field(0.0, ge=0, lt=1)
    validate_every: int = Field(20, gt=0, description="epochs between validations")
    validate_on: tuple[tuple[str, ...], ...] | Literal["all", "nested"] = "nested"


class FinetuneConfig(SupervisedConfig):
    """Stage 2 (Eqns. 2, 4 and 5): two missing-modality situations of each case per step.

    `consistency_at` places L_con at the ``bottleneck`` (paper) or on the quarter-scale ``logits`` (released code);
    `segmentation_loss` is ``paper`` (Dice + cross entropy per situation, summed) or ``official`` (0.7 Dice + 0.3
    cross entropy, both situations pooled); `allow_identical_pair` lets the two situations coincide. `pretrained` False
    starts from random weights (Table 3, row a); `consistency_weight` 0 is row (e). `teacher` weighs a third term: the
    moving average's answer to all sequences that a case has, as soft target of both situations.
    """

    pretrained: bool = True
    consistency_weight: float = Field(0.1, ge=0)
    consistency_at: Literal["bottleneck", "logits"] = "bottleneck"
    segmentation_loss: Literal["paper", "official"] = "paper"
    allow_identical_pair: bool = False
    teacher: float = Field(0.0, ge=0)

    @model_validator(mode="after")
    def _teachable(self) -> Self:
        if self.teacher and not self.ema:
            raise ValueError("teacher is the moving average of the weights: set ema as well")
        return self
