"""Cases: which file holds which sequence, and the sequences of one patient on one grid."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from m3ae_core.data.affine import Affine, describe, tells_nothing
from m3ae_core.data.grid import Grid
from m3ae_core.data.together import fit_together
from m3ae_core.data.volume import Volume, read_labels, read_volume
from m3ae_core.errors import InputError, printable
from m3ae_core.modalities import BRATS, ModalitySet, Subset

#: File-name tokens that announce a label map.
LABEL_TOKENS = frozenset({"seg", "segm", "dseg", "segmentation", "label", "labels", "mask"})
#: File-name token of our own results, which are neither input nor reference when they lie beside a case.
OWN_RESULT = "m3ae"
#: Channel numbers that end a name in the Medical Segmentation Decathlon, in its order.
CHANNEL_SUFFIXES = {"0000": "FLAIR", "0001": "T1", "0002": "T1c", "0003": "T2"}

_ENDINGS = (".nii", ".nii.gz")
_NO_ORIENTATION = (
    "The headers do not tell the orientation of the images (no directions, no origin); left and right were taken as "
    "the voxels are stored, the first axis towards the right. Compare with the original before you rely on a side."
)
_DEPTH = 2  # HGG/Brats18_x_1 below the chosen folder


@dataclass(frozen=True)
class CaseFiles:
    """The files of one case: one per sequence that is present, by name, and the label map if there is one."""

    name: str
    images: Mapping[str, Path]
    labels: Path | None


@dataclass(frozen=True, eq=False)
class Case:
    """The sequences of one patient, all on one grid.

    Each volume is laid on the grid of the first one by its own affine, and its background made 0
    (:mod:`m3ae_core.data.together`); :attr:`notes` say so.

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
        :func:`~m3ae_core.data.together.fit_together`).
    ConfigError
        If a name does not belong to the modality set.
    """

    name: str
    modalities: ModalitySet
    volumes: Mapping[str, Volume]

    def __post_init__(self) -> None:
        present = self.modalities.subset(self.volumes).present
        if not present:
            raise _no_sequence(f"The case {self.name} has no sequence", self.modalities)
        fitting = fit_together({name: self.volumes[name] for name in present})
        object.__setattr__(self, "volumes", fitting)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user must know about how the images were read and laid together, as sentences."""
        found: dict[str, list[str]] = {}
        for name, volume in self.volumes.items():
            for note in volume.notes:
                found.setdefault(note, []).append(name)
        notes = tuple(f"{', '.join(names)}: {note}" for note, names in found.items())
        return (*notes, _NO_ORIENTATION) if tells_nothing(self.affine) else notes

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
            raise _no_sequence(f"The case {self.name} would be left without any sequence", self.modalities)
        return replace(self, volumes={name: self.volumes[name] for name in subset.present})


def match_files(paths: Iterable[Path | str], modalities: ModalitySet = BRATS) -> CaseFiles:
    """Tell from their names which sequence each of the files of one case holds.

    Names are split at everything that is neither letter nor digit. A word like ``seg`` or ``mask`` marks a
    label map (but not together with ``brain``); else the last known token decides, alone (``t1ce``) or joined
    with its neighbour (``t1_ce``). The case takes its name from what precedes that token if all images agree,
    else from their folder. Files that are not NIfTI, not recognised, or our own results (``m3ae``) are left out.

    Raises
    ------
    InputError
        If two files claim the same sequence, or two are label maps (``ambiguous``).
    """
    images: dict[str, Path] = {}
    labels: dict[str, Path] = {}
    prefixes: set[str] = set()
    folder = ""
    for path in sorted(Path(path) for path in paths):
        kind, prefix = _recognise(path, modalities)
        if not kind:
            continue
        found = labels if kind == "labels" else images
        if kind in found:
            raise InputError(
                f"Both {printable(found[kind].name)} and {printable(path.name)} look like {kind}.",
                "Keep one of them, or assign the files by hand.",
                path=path.parent,
                code="ambiguous",
            )
        found[kind] = path
        folder = path.absolute().parent.name
        if found is images:
            prefixes.add(prefix)
    name = prefixes.pop() if len(prefixes) == 1 else ""
    ordered = {key: images[key] for key in modalities.names if key in images}
    return CaseFiles(name or folder, ordered, labels.get("labels"))


def find_case(folder: Path | str, modalities: ModalitySet = BRATS) -> CaseFiles:
    """Find the sequences of one case in its folder; the case is named after the folder.

    Raises
    ------
    InputError
        If there is no such folder (``missing``, ``not-a-folder``, ``unreadable``), no sequence in it
        (``no-sequence``), or two files for one sequence (``ambiguous``).
    """
    folder = Path(folder)
    files = match_files(_nifti_files(folder), modalities)
    if not files.images:
        raise _no_sequence("No sequence was found here", modalities, folder)
    return replace(files, name=folder.absolute().name)


def find_cases(folder: Path | str, modalities: ModalitySet = BRATS) -> tuple[CaseFiles, ...]:
    """Find all cases in a folder, sorted by name.

    The folder may be a case itself, hold case folders, or hold folders of case folders (as HGG and LGG in
    BraTS 2018).

    Raises
    ------
    InputError
        If there is no case (``no-case``), no such folder (``missing``, ``not-a-folder``, ``unreadable``), or
        two files of a case claim the same sequence (``ambiguous``).
    """
    cases, unusable = scan_cases(folder, modalities)
    if unusable:
        raise next(iter(unusable.values()))
    return cases


def scan_cases(
    folder: Path | str, modalities: ModalitySet = BRATS
) -> tuple[tuple[CaseFiles, ...], dict[str, InputError]]:
    """Find all cases as :func:`find_cases` does, but go on after a folder that cannot be understood.

    Returns the cases, and by name the folders that are none, with what is wrong with them.

    Raises
    ------
    InputError
        If there is neither (``no-case``), or no such folder (``missing``, ``not-a-folder``, ``unreadable``).
    """
    folder = Path(folder)
    unusable: dict[str, InputError] = {}
    cases = sorted(_walk(folder, modalities, _DEPTH, unusable), key=lambda files: files.name)
    if not cases and not unusable:
        raise InputError(
            "No case was found here.",
            "A case is a folder of .nii or .nii.gz files whose names end in the sequence: "
            f"{_expected(modalities)}.",
            path=folder,
            code="no-case",
        )
    return tuple(cases), unusable


def refuse_repeated_names(cases: Iterable[CaseFiles]) -> None:
    """Refuse cases of which two share a name, since results are kept by name.

    Raises
    ------
    InputError
        With code ``case-repeats``.
    """
    counts = Counter(files.name for files in cases)
    if repeated := [name for name, count in counts.items() if count > 1]:
        problem = f"Two cases are called {repeated[0]}."
        raise InputError(problem, "Give each case folder a name of its own.", code="case-repeats")


def read_case(files: CaseFiles, modalities: ModalitySet = BRATS) -> Case:
    """Read the sequences of a case.

    Raises
    ------
    InputError
        If the sequences make no :class:`Case`, or a file cannot be used (the codes of
        :func:`~m3ae_core.data.volume.read_volume`).
    ConfigError
        If a name does not belong to the modality set.
    """
    names = modalities.subset(files.images).present
    if not names:
        raise _no_sequence(f"The case {files.name} has no sequence", modalities)
    with ThreadPoolExecutor(len(names)) as pool:  # decompression runs beside the interpreter
        volumes = dict(zip(names, pool.map(read_volume, (files.images[name] for name in names)), strict=True))
    return Case(files.name, modalities, volumes)


def read_case_labels(files: CaseFiles, case: Case) -> Volume:
    """Read the label map of a case, which must lie on the grid of its images.

    Raises
    ------
    InputError
        If there is no label map (``no-labels``), it lies on another grid (``grids-differ``), or it cannot be
        used (the codes of :func:`~m3ae_core.data.volume.read_labels`).
    """
    if files.labels is None:
        tokens = ", ".join(sorted(LABEL_TOKENS))
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


def _recognise(path: Path, modalities: ModalitySet) -> tuple[str, str]:
    """Return what a file holds (a modality's name, "labels" or "") and the part of its name before that."""
    stem = re.sub(r"\.nii(\.gz)?\Z", "", path.name, flags=re.IGNORECASE)
    words = list(re.finditer(r"[A-Za-z0-9]+", stem))
    tokens = [word.group().lower() for word in words]
    if stem == path.name or not tokens or OWN_RESULT in tokens:
        return "", ""
    if not LABEL_TOKENS.isdisjoint(tokens):
        return ("", "") if "brain" in tokens else ("labels", "")
    known = {token: modality.name for modality in modalities for token in modality.tokens}
    for last in reversed(range(len(tokens))):
        for first in (last - 1, last):
            if first >= 0 and (kind := known.get("".join(tokens[first : last + 1]))):
                return kind, _before(stem, words[first].start())
    kind = CHANNEL_SUFFIXES.get(tokens[-1], "")
    if kind in modalities.names and stem.endswith("_" + tokens[-1]):
        return kind, _before(stem, words[-1].start())
    return "", ""


def _before(stem: str, position: int) -> str:
    """Return the part of a stem before a position, without separators at its end."""
    return re.sub(r"[^A-Za-z0-9]+$", "", stem[:position])


def _nifti_files(folder: Path) -> list[Path]:
    """Return what is called like a NIfTI file in a folder; reading, not this, reports links to nowhere."""
    return [path for path in _visible(folder) if path.name.lower().endswith(_ENDINGS) and not path.is_dir()]


def _visible(folder: Path) -> list[Path]:
    """Return a folder's visible entries, sorted."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith((".", "__MACOSX")))
    except (OSError, ValueError) as error:
        codes = {FileNotFoundError: "missing", NotADirectoryError: "not-a-folder"}
        code = next((code for kind, code in codes.items() if isinstance(error, kind)), "unreadable")
        detail = getattr(error, "strerror", None) or error
        problem = f"The folder cannot be read: {detail}."
        raise InputError(problem, "Check the path and the permissions.", path=folder, code=code) from error


def _walk(
    folder: Path, modalities: ModalitySet, depth: int, unusable: dict[str, InputError]
) -> Iterator[CaseFiles]:
    """Yield the cases in a folder and, where it is none itself, up to `depth` levels below."""
    paths = _nifti_files(folder)
    try:
        files = match_files(paths, modalities)
    except InputError as error:
        unusable[folder.absolute().name] = error
        return
    if files.images:
        yield replace(files, name=folder.absolute().name)
    elif depth:
        for child in _visible(folder):
            if child.is_dir():
                yield from _walk(child, modalities, depth - 1, unusable)


def _describe(volume: Volume) -> str:
    name = "" if volume.path is None else f" ({printable(volume.path.name)})"
    return f"{' × '.join(map(str, volume.shape))} voxels, {describe(volume.affine)}{name}"


def _expected(modalities: ModalitySet) -> str:
    """Name the modalities with a few of the tokens that announce them."""
    tokens = ((modality.name, (modality.name.lower(), *modality.aliases)[:3]) for modality in modalities)
    return "; ".join(f"{name} ({', '.join(some)})" for name, some in tokens)


def _no_sequence(problem: str, modalities: ModalitySet, path: Path | None = None) -> InputError:
    fix = f"At least one is needed, as a .nii or .nii.gz file named after it: {_expected(modalities)}."
    return InputError(f"{problem}.", fix, path=path, code="no-sequence")
