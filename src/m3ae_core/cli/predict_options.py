"""The options of ``m3ae predict``, in groups."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import UseAppendAction, arg

from m3ae_core.cli.arguments import Arithmetic, Device, OptionalFile, OptionalFolder, OptionalPath, Scheme
from m3ae_core.errors import ConfigError

if TYPE_CHECKING:
    from m3ae_core.inference.predictor import Predictor

OptionalCodes = Annotated[str | None, arg(metavar="RAS|LPS|...", help_behavior_hint="")]
NamedFiles = Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="NAME=FILE", help_behavior_hint="")]
Windows = Annotated[Literal["brain", "template"] | int | None, arg(metavar="brain|template|SIDE")]


@dataclass(frozen=True)
class Images:
    """The images of one case, one by one.

    Attributes
    ----------
    flair
        The FLAIR image.
    t1
        The T1 image.
    t1c
        The T1 image after contrast.
    t2
        The T2 image.
    image
        An image of any modality that the model has; may be repeated.
    """

    flair: OptionalFile = None
    t1: OptionalFile = None
    t1c: OptionalFile = None
    t2: OptionalFile = None
    image: NamedFiles = ()

    @property
    def files(self) -> dict[str, Path]:
        """The files that are given, by modality.

        Raises
        ------
        ConfigError
            If a file has no name, or two have the same (``arguments``).
        """
        flags = {"FLAIR": self.flair, "T1": self.t1, "T1c": self.t1c, "T2": self.t2}
        given = [(name, path) for name, path in flags.items() if path is not None]
        for word in self.image:
            name, sign, path = word.partition("=")
            if not (name and sign and path):
                fix = "Write the modality before it, as in --image T1=FILE."
                raise ConfigError(f"--image {word} names no modality.", fix, code="arguments")
            given.append((name, Path(path)))
        names = [name for name, _ in given]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ConfigError(f"{twice[0]} is given twice.", "Give each image once.", code="arguments")
        return dict(given)


@dataclass(frozen=True)
class Results:
    """Where the results go.

    Attributes
    ----------
    output
        Where to write the labels (.nii.gz or .nii); for a folder of cases, the folder of the results.
    uncertainty
        Where to write the chance, voxel by voxel, that the tissue is wrong (.nii.gz or .nii); for a folder of cases,
        the folder that gets one CASE_uncertainty.nii.gz each.
    scheme
        Label values to write: brats2023 1/2/3, brats2021 1/2/4 (necrosis, oedema, enhancing), msd 2/1/3.
    overwrite
        Replace the output if it exists; labels that were edited stay.
    discard_edits
        Replace edited labels, too.
    """

    output: Path
    uncertainty: OptionalPath = None
    scheme: Scheme = "brats2023"
    overwrite: bool = False
    discard_edits: bool = False


@dataclass(frozen=True)
class Applied:
    """The model, and how it is computed.

    Attributes
    ----------
    bundle
        The model's folder; the built-in model if left out.
    device
        auto takes CUDA where there is any.
    arithmetic
        Numbers the network computes in; auto takes what the device computes fastest.
    window
        Segment in windows of this side (voxels), or in one pass over the brain or the template, where the model was
        validated otherwise: another answer.
    assess_et
        Call the enhancing tumour assessable without T1c, too; the labels are the same.
    compiled
        Compile the network first; worth it for many cases on a GPU.
    readers
        Cases of a folder that are read ahead.
    """

    bundle: OptionalFolder = None
    device: Device = "auto"
    arithmetic: Arithmetic = "auto"
    window: Windows = None
    assess_et: bool = False
    compiled: bool = False
    readers: int = 1

    @property
    def folder(self) -> Path:
        """The folder of the model to use."""
        from m3ae_core.data.builtin import builtin_bundle

        return self.bundle or builtin_bundle()

    @property
    def predictor(self) -> Predictor:
        """The model, ready to be applied."""
        from m3ae_core.bundle import load_bundle
        from m3ae_core.inference.predictor import Predictor

        side = self.window
        window = (side, side, side) if isinstance(side, int) else side
        return Predictor(
            load_bundle(self.folder),
            self.device,
            window=window,
            compiled=self.compiled,
            arithmetic=self.arithmetic,
            assess_et=self.assess_et,
        )


@dataclass(frozen=True)
class Input:
    """How the images of each case are read and judged.

    Attributes
    ----------
    check
        Look for images that were not prepared and for sequences that are mixed up, and warn. That may take longer than
        the segmentation; auto: for one case, not for a folder of them.
    same_patient
        The images of each case are of one patient, though names, folders or outlines of the brain speak against it;
        the sidecar records that you said so.
    orientation
        Where the stored axes of files run whose headers do not tell it, as RAS or LPS; files that tell it are refused.
    same_grid
        Refuse images of a case that lie on different grids; else they are resampled to the first one's, with a warning.
    """

    check: Literal["auto", "yes", "no"] = "auto"
    same_patient: bool = False
    orientation: OptionalCodes = None
    same_grid: bool = False


def as_words(*groups: object) -> list[str]:
    """Return groups of options as a command line has them."""
    words: list[str] = []
    for name, value in (pair for group in groups for pair in vars(group).items()):
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            words.append(flag)
        elif value is not None and value is not False:
            words += [flag, str(value)]
    return words
