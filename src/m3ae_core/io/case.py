"""Cases: the sequences of one patient on one grid. What finds their files can be imported from here too."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from m3ae_core.errors import InputError, printable
from m3ae_core.io.affine import Affine, describe, tells_nothing
from m3ae_core.io.folders.layouts import find_case as find_case
from m3ae_core.io.folders.layouts import find_cases as find_cases
from m3ae_core.io.folders.layouts import refuse_repeated_names as refuse_repeated_names
from m3ae_core.io.folders.layouts import scan_cases as scan_cases
from m3ae_core.io.folders.matching import CaseFiles as CaseFiles
from m3ae_core.io.folders.matching import match_files as match_files
from m3ae_core.io.folders.matching import no_sequence, refuse_questions
from m3ae_core.io.folders.vocabulary import LABELS as LABEL_WORDS
from m3ae_core.io.grid import Grid
from m3ae_core.io.orientation import oriented, was_told
from m3ae_core.io.together import fit_together
from m3ae_core.io.volume import Volume, read_labels, read_volume
from m3ae_core.modalities import BRATS, ModalitySet, Subset

#: What is said of images without an orientation.
NO_ORIENTATION = (
    "The headers do not tell the orientation of the images (no directions, no origin); left and right were taken as "
    "the voxels are stored, the first axis towards the right. Compare with the original before you rely on a side."
)


@dataclass(frozen=True, eq=False)
class Case:
    """The sequences of one patient, all on one grid.

    Each volume is resampled to the grid of the first one by its own affine, and its background made 0
    (:mod:`m3ae_core.io.together`); :attr:`notes` say so.

    Attributes
    ----------
    name
        What the case is called.
    modalities
        The modality set; those of its members that are not in `volumes` are missing.
    volumes
        The images by name, in the set's order. All have the same shape and affine.

    Raises
    ------
    InputError
        If there is no volume (``no-sequence``), or they do not fit together (the codes of
        :func:`~m3ae_core.io.together.fit_together`).
    ConfigError
        If a name does not belong to the modality set.

    Examples
    --------
    >>> from m3ae_core import read_case
    >>> from m3ae_core.data.builtin import builtin_case
    >>> case = read_case(builtin_case())
    >>> case.shape, case.affine.shape
    ((240, 240, 155), (4, 4))
    >>> str(case.without("T1", "T1c").subset)
    'FLAIR+T2'
    """

    name: str
    modalities: ModalitySet
    volumes: Mapping[str, Volume]

    def __post_init__(self) -> None:
        names = self.modalities.ordered(self.subset)
        if not names:
            raise no_sequence(f"The case {self.name} has no sequence", self.modalities)
        fitting = fit_together({name: self.volumes[name] for name in names}, self.modalities.kinds)
        object.__setattr__(self, "volumes", fitting)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user must know about how the images were read and laid together, as sentences."""
        found: dict[str, list[str]] = {}
        for name, volume in self.volumes.items():
            for note in volume.notes:
                found.setdefault(note, []).append(name)
        notes = tuple(f"{', '.join(names)}: {note}" for note, names in found.items())
        return (*notes, NO_ORIENTATION) if tells_nothing(self.affine) and not was_told(found) else notes

    @property
    def subset(self) -> Subset:
        """Which sequences are present."""
        return self.modalities.subset(self.volumes)

    @property
    def affine(self) -> Affine:
        """4×4 matrix from voxel indices to RAS world millimetres."""
        return next(iter(self.volumes.values())).affine

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along the three axes (X, Y, Z)."""
        return next(iter(self.volumes.values())).shape

    def without(self, *names: str) -> Case:
        """Return the case as if the named sequences had not been acquired.

        Raises
        ------
        InputError
            If none would be left (``no-sequence``).
        ConfigError
            If a name does not belong to the modality set.
        """
        return self._keep(self.subset & ~self.modalities.subset(names))

    def only(self, *names: str) -> Case:
        """Return the case with the named sequences alone.

        Raises
        ------
        InputError
            If one of them is not there, or none is named (``no-sequence``).
        ConfigError
            If a name does not belong to the modality set.
        """
        wanted = self.modalities.subset(names)
        if lacking := wanted & ~self.subset:
            raise InputError(
                f"The case {self.name} has no {', '.join(lacking.present)}.",
                f"Choose from {', '.join(self.subset.present)}.",
                code="no-sequence",
            )
        return self._keep(wanted)

    def _keep(self, subset: Subset) -> Case:
        if not subset:
            raise no_sequence(f"The case {self.name} would be left without any sequence", self.modalities)
        return replace(self, volumes={name: self.volumes[name] for name in self.modalities.ordered(subset)})


def read_case(
    files: CaseFiles,
    modalities: ModalitySet = BRATS,
    orientation: str | None = None,
    *,
    same_grid: bool = False,
) -> Case:
    """Read the sequences of a case, whose headers tell no orientation if `orientation` (``LPS``, ...) is given.

    `same_grid` refuses images that would have to be resampled.

    Raises
    ------
    InputError
        If a file must be asked for (``unclear``), there is no sequence (``no-sequence``), the sequences make no
        :class:`Case`, they differ in their grid and must not (``grids-differ``), or a file cannot be used (the codes
        of :func:`~m3ae_core.io.volume.read_volume` and, with `orientation`,
        :func:`~m3ae_core.io.orientation.oriented`).
    ConfigError
        If a name does not belong to the modality set, or the orientation is none.

    Examples
    --------
    >>> from m3ae_core import read_case
    >>> from m3ae_core.data.builtin import builtin_case
    >>> case = read_case(builtin_case())
    >>> case.name, sorted(case.volumes)
    ('BraTS-SSA-00080-000', ['FLAIR', 'T1', 'T1c', 'T2'])
    """
    refuse_questions(files)
    names = modalities.ordered(modalities.subset(files.images))
    if not names:
        raise no_sequence(f"The case {files.name} has no sequence", modalities)
    with ThreadPoolExecutor(len(names)) as pool:  # decompression runs beside the interpreter
        paths, kinds = [files.images[name] for name in names], [modalities.kinds[name] for name in names]
        volumes = dict(zip(names, pool.map(read_volume, paths, kinds), strict=True))
    if orientation is not None:
        volumes = {name: oriented(volume, orientation) for name, volume in volumes.items()}
    if same_grid:
        require_same_grid(volumes)
    return Case(files.name, modalities, volumes)


def read_case_labels(files: CaseFiles, case: Case) -> Volume:
    """Read the label map of a case, which must lie on the grid of its images.

    Raises
    ------
    InputError
        If there is no label map (``no-labels``), it lies on another grid (``grids-differ``), or it cannot be
        used (the codes of :func:`~m3ae_core.io.volume.read_labels`).
    """
    if files.labels is None:
        tokens = ", ".join(sorted(LABEL_WORDS))
        fix = f"Add a .nii or .nii.gz file with one of these words in its name: {tokens}."
        raise InputError(f"The case {files.name} has no label map.", fix, code="no-labels")
    labels = read_labels(files.labels)
    require_same_grid({**case.volumes, "labels": labels})
    return labels


def require_same_grid(volumes: Mapping[str, Volume]) -> None:
    """Check that all volumes have one shape and, within a tenth of a voxel at every voxel, one affine.

    Raises
    ------
    InputError
        If they differ (``grids-differ``); the message lists shape and geometry of each.
    """
    first = next(iter(volumes.values()))
    grid = Grid(first.shape, first.affine)
    if all(grid.is_like(Grid(volume.shape, volume.affine)) for volume in volumes.values()):
        return
    rows = [f"{name}: {_describe(volume)}" for name, volume in volumes.items()]
    raise InputError(
        "The images do not lie on one grid:\n  " + "\n  ".join(rows) + "\n",
        "Resample them to one grid (and register them, if the patient moved) first.",
        path=None if first.path is None else first.path.parent,
        code="grids-differ",
    )


def _describe(volume: Volume) -> str:
    name = "" if volume.path is None else f" ({printable(volume.path.name)})"
    return f"{' × '.join(map(str, volume.shape))} voxels, {describe(volume.affine)}{name}"
