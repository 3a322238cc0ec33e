"""How cases lie in folders: a folder each, BIDS, nnU-Net, flat cohorts, a folder per sequence, archives unpacked."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from m3ae_core.errors import InputError, printable
from m3ae_core.io.folders.foreign import foreign_images
from m3ae_core.io.folders.manifest import read_manifest
from m3ae_core.io.folders.matching import (
    ENDINGS,
    CaseFiles,
    expected,
    no_sequence,
    refuse_questions,
    sort_files,
)
from m3ae_core.io.folders.per_sequence import cases_per_sequence
from m3ae_core.io.folders.recognition import NO_WORD, Recognised, recognise
from m3ae_core.modalities import BRATS, ModalitySet

_DEPTH = 5  # Archive/Archive/HGG/Patient/Visit below the chosen folder
_GENERIC = re.compile(r"anat|images?(tr|ts|val)?|nifti|nii|mri?", re.IGNORECASE)
_VISIT = re.compile(
    r"(ses|session|visit|v|tp|timepoint|time|week|day|month|scan|study|date)([-_ ]?\d+)*|ses-\w+|\d{1,8}|"
    r"\d{4}-\d\d-\d\d|baseline|follow[-_ ]?up\d*|fu[-_ ]?\d*|pre[-_]?op|post[-_]?op|pre|post",
    re.IGNORECASE,
)
_NOT_CASES = frozenset({"derivatives", "sourcedata", "labelstr", "labelsts"})
_FOREIGN = (".mha", ".mhd", ".nrrd", ".mgz", ".mgh", ".img", ".hdr", ".dcm", ".mnc")


@dataclass(frozen=True)
class _Search:
    """What is looked for, and what was found in the way: folders that cannot be understood, and unknown files."""

    root: Path
    modalities: ModalitySet
    unusable: dict[str, InputError] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)


def find_case(folder: Path | str, modalities: ModalitySet = BRATS) -> CaseFiles:
    """Find the sequences of one case in its folder; the case is named after the folder.

    Raises
    ------
    InputError
        If there is no such folder (``missing``, ``not-a-folder``, ``unreadable``), no sequence in it
        (``no-sequence``), two files for one sequence (``ambiguous``), or a file that must be asked for (``unclear``).

    Examples
    --------
    >>> from m3ae_core import find_case
    >>> from m3ae_core.data.builtin import builtin_case
    >>> files = find_case(builtin_case().images["FLAIR"].parent)
    >>> files.images["T1c"].name, files.labels.name
    ('BraTS-SSA-00080-000-t1c.nii.gz', 'BraTS-SSA-00080-000-seg.nii.gz')
    """
    files = sort_case(folder, modalities)
    refuse_questions(files)
    return files


def sort_case(folder: Path | str, modalities: ModalitySet = BRATS) -> CaseFiles:
    """Do what :func:`find_case` does, but keep the questions about files.

    Raises
    ------
    InputError
        With the codes of :func:`find_case` but ``unclear``.
    """
    folder = Path(folder)
    home = _images_folder(folder)
    paths = _nifti_files(home) or _one_each(home, modalities)
    files = sort_files(paths, modalities, read_channels(home, modalities))
    if not paths and len(alike := _per_sequence(home, modalities)) == 1:
        files = next(iter(alike.values()))
    if not files.images and not files.questions:
        raise foreign_images(folder) or no_sequence("No sequence was found here", modalities, folder)
    return replace(files, name=folder.absolute().name, unused=files.unused + _left_out(home))


def find_cases(folder: Path | str, modalities: ModalitySet = BRATS) -> tuple[CaseFiles, ...]:
    """Find all cases in a folder, sorted by name.

    The folder may be a case itself, hold case folders at any of five levels (HGG and LGG, patients and visits, BIDS),
    or hold the files of many cases (nnU-Net, or names that start with the case's).

    Raises
    ------
    InputError
        If there is no case (``no-case``), no such folder (``missing``, ``not-a-folder``, ``unreadable``), two files
        of a case claim the same sequence (``ambiguous``), or a file must be asked for (``unclear``).

    Examples
    --------
    >>> from pathlib import Path
    >>> from m3ae_core import find_cases
    >>> from m3ae_core.data.phantom import write_phantom
    >>> for name in ("a", "b"):
    ...     _ = write_phantom(Path("cases"), name, shape=(16, 16, 16))
    >>> [files.name for files in find_cases("cases")]
    ['a', 'b']
    """
    cases, unusable = scan_cases(folder, modalities)
    if unusable:
        raise next(iter(unusable.values()))
    for files in cases:
        refuse_questions(files)
    return cases


def scan_cases(
    folder: Path | str, modalities: ModalitySet = BRATS
) -> tuple[tuple[CaseFiles, ...], dict[str, InputError]]:
    """Find all cases as :func:`find_cases` does, but go on after a folder that cannot be understood.

    A manifest (.csv, see :mod:`~m3ae_core.io.folders.manifest`) stands for a folder of cases.
    Returns the cases, those with questions among them, and by name the folders that are none, with what is wrong.

    Raises
    ------
    InputError
        If there is neither (``no-case``), no such folder (``missing``, ``not-a-folder``, ``unreadable``), or the
        manifest cannot be used (the codes of :func:`~m3ae_core.io.folders.manifest.read_manifest`).
    """
    if Path(folder).suffix.lower() == ".csv":
        return read_manifest(Path(folder), modalities), {}
    search = _Search(Path(folder), modalities)
    found = _with_own_names(_walk(search.root, search, _DEPTH))
    if not found and not search.unusable:
        seen = f" Seen, but not recognised: {', '.join(search.seen[:8])}." if search.seen else ""
        raise foreign_images(search.root) or InputError(
            f"No case was found here.{seen}",
            "A case is a folder of .nii or .nii.gz files whose names say the sequence: "
            f"{expected(modalities)}.",
            path=search.root,
            code="no-case",
        )
    return tuple(sorted(found, key=lambda files: files.name)), search.unusable


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


def read_channels(folder: Path, modalities: ModalitySet) -> Mapping[str, str] | None:
    """Return the sequences of ``0000`` and so on by the ``dataset.json`` in a folder or above it, if there is one."""
    for place in (folder, folder.absolute().parent):
        try:
            content = json.loads((place / "dataset.json").read_text("utf-8"))
            named = content.get("channel_names") or content["modality"]
            return {
                f"{int(key):04}": recognise(f"{value}.nii", modalities).kind for key, value in named.items()
            }
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            continue
    return None


def _walk(folder: Path, search: _Search, depth: int) -> Iterator[tuple[Path | None, CaseFiles]]:
    """Yield the cases in a folder and, where it is none itself, up to `depth` levels below.

    A case that is a folder comes with it; one of many whose files lie in one folder comes with None.
    """
    paths = _nifti_files(folder)
    if paths or (paths := _one_each(folder, search.modalities)) or depth:
        try:
            cases = _cases_among(paths, folder, search) if paths else _cases_per_sequence(folder, search)
        except InputError as error:
            search.unusable[_named(folder, search.root)] = error
            return
        if cases:
            yield from cases
            return
        search.seen.extend(printable(path.relative_to(search.root)) for path in paths)
    for child in _folders(folder) if depth else ():
        yield from _walk(child, search, depth - 1)


def _cases_per_sequence(folder: Path, search: _Search) -> list[tuple[Path | None, CaseFiles]]:
    """Return the cases in a folder of one folder per sequence; a single one that says no number is called after it."""
    found = _per_sequence(folder, search.modalities)
    alone = len(found) == 1 and not re.search(r"\d", next(iter(found)))
    return [(folder if alone else None, files) for files in found.values()]


def _per_sequence(folder: Path, modalities: ModalitySet) -> dict[str, CaseFiles]:
    return cases_per_sequence({child: _nifti_files(child) for child in _folders(folder)}, modalities)


def _images_folder(folder: Path) -> Path:
    """Return where a case's images lie: in BIDS in the folder ``anat``, else in its own."""
    anat = folder / "anat"
    return anat if not _nifti_files(folder) and anat.is_dir() and _nifti_files(anat) else folder


def _cases_among(paths: list[Path], folder: Path, search: _Search) -> list[tuple[Path | None, CaseFiles]]:
    """Return the cases that files of one folder are: none, one, or those of a flat cohort."""
    channels = read_channels(folder, search.modalities)
    groups = _flat_cohort(paths, search.modalities, channels)
    if not groups:
        files = sort_files(paths, search.modalities, channels)
        files = replace(files, unused=files.unused + _left_out(folder))
        return [(folder, files)] if files.images or files.questions else []
    cases: list[tuple[Path | None, CaseFiles]] = []
    for name, group in groups.items():
        files = sort_files(group, search.modalities, channels)
        labels = files.labels or _nnunet_labels(folder, name)
        cases.append((None, replace(files, name=name, labels=labels)))
    return cases


def _flat_cohort(
    paths: list[Path], modalities: ModalitySet, channels: Mapping[str, str] | None
) -> dict[str, list[Path]]:
    """Group the files of a cohort in one folder by what precedes the sequence; nothing if they are of one case.

    Different cases differ in a number, and most have more than one sequence: two series of one patient do not.
    """
    said = {path: recognise(path.name, modalities, channels) for path in paths}
    groups: dict[str, list[Path]] = {}
    for path, found in said.items():
        if found.kind in modalities.names or found.candidates:
            groups.setdefault(found.case, []).append(path)
    nnunet = re.fullmatch(r"images(tr|ts|val)", paths[0].parent.name, re.IGNORECASE)
    if not groups or any(not re.search(r"\d", case) for case in groups):
        return {}
    if len(groups) == 1 and not nnunet:
        return {}
    several = sum(len(group) > 1 for group in groups.values())
    if not nnunet and 2 * several < len(groups):
        return {}
    _refuse_one_case_of_several_names(groups, said)
    for path in paths:
        if path not in {member for group in groups.values() for member in group}:
            owners = [case for case in groups if re.match(re.escape(case) + r"(?![A-Za-z0-9])", path.name)]
            if owners:
                groups[max(owners, key=len)].append(path)
    return groups


def _refuse_one_case_of_several_names(
    groups: Mapping[str, list[Path]], said: Mapping[Path, Recognised]
) -> None:
    """Refuse files with several names in front that share no sequence: they may be one case, or cases cut short."""
    kinds = [said[path].kind for group in groups.values() for path in group]
    if len(groups) > 1 and len(set(kinds)) == len(kinds) and all(kinds):
        raise InputError(
            f"The files are called after {' and '.join(map(printable, sorted(groups)))}, and together they are one set "
            "of sequences: is it one case, or several?",
            "Give a case's files one name in front, or each case a folder of its own.",
            path=next(iter(said)).parent,
            code="unclear",
        )


def _nnunet_labels(folder: Path, case: str) -> Path | None:
    """Return the label map of a case in nnU-Net's folder of labels beside that of its images."""
    labels = folder.absolute().parent / folder.name.lower().replace("images", "labels")
    labels = labels.with_name(labels.name.replace("labelstr", "labelsTr").replace("labelsts", "labelsTs"))
    return next((path for ending in ENDINGS if (path := labels / f"{case}{ending}").is_file()), None)


def _one_each(folder: Path, modalities: ModalitySet) -> list[Path]:
    """Return the files of a case (or cohort) of which each lies in a folder named after itself or its sequence."""
    files: list[Path] = []
    kinds: set[str] = set()
    others = False
    for child in _folders(folder):
        inside = _nifti_files(child)
        said = recognise(
            child.name if child.name.lower().endswith(ENDINGS) else f"{child.name}.nii", modalities
        )
        if not inside or (said.why not in ("", NO_WORD) and not said.candidates):  # a map, a mask
            continue
        if said.kind or said.candidates or child.name.lower().endswith(ENDINGS):
            known = [path for path in inside if recognise(path.name, modalities).kind]
            files += known or inside
            kinds.add(said.kind)
        else:
            others = True
    if others and len(kinds) < 2:
        return []
    return files if any(recognise(path.name, modalities).kind in modalities.names for path in files) else []


def _with_own_names(found: Iterable[tuple[Path | None, CaseFiles]]) -> list[CaseFiles]:
    """Name the cases after their folders, with as many folders above as tell them apart."""
    named = [
        (folder, files if folder is None else replace(files, name=_case_name(folder)))
        for folder, files in found
    ]
    for level in (1, 2):
        counts = Counter(files.name for _, files in named)
        named = [
            (folder, replace(files, name=f"{above}_{files.name}"))
            if folder and counts[files.name] > 1 and (above := _above(folder, level))
            else (folder, files)
            for folder, files in named
        ]
    return [files for _, files in named]


def _case_name(folder: Path) -> str:
    """Return the name of a case's folder: of a visit, with the patient's; of BIDS' ``anat``, of what is above."""
    folder = folder.absolute()
    while _GENERIC.fullmatch(folder.name) and folder.parent.name:
        folder = folder.parent
    if _VISIT.fullmatch(folder.name) and folder.parent.name:
        return f"{folder.parent.name}_{folder.name}"
    return folder.name


def _above(folder: Path, level: int) -> str:
    """Return the name of the folder above that is not in the case's name yet."""
    parts = [part for part in folder.absolute().parts[1:] if part not in _case_name(folder).split("_")]
    parts = [part for part in parts if not _GENERIC.fullmatch(part)]
    return parts[-level] if len(parts) >= level else ""


def _named(folder: Path, root: Path) -> str:
    """Return the name under which a folder that cannot be understood is told."""
    return _case_name(folder) if folder != root else folder.absolute().name


def _nifti_files(folder: Path) -> list[Path]:
    """Return what is called like a NIfTI file in a folder; reading, not this, reports links to nowhere."""
    return [path for path in _visible(folder) if path.name.lower().endswith(ENDINGS) and not path.is_dir()]


def _left_out(folder: Path) -> tuple[tuple[Path, str], ...]:
    """Return the images in a case's folder that are in another format, or in folders below those that are used."""
    foreign = "not NIfTI: convert it to .nii.gz first"
    found = [(path, foreign) for path in _visible(folder) if path.name.lower().endswith(_FOREIGN)]
    if _nifti_files(folder):
        found += [(path, "it lies in a folder below the case's") for path in _nifti_below(folder)]
    return tuple(found)


def _nifti_below(folder: Path) -> list[Path]:
    return [path for child in _folders(folder) for path in _nifti_files(child)]


def _folders(folder: Path) -> list[Path]:
    return [path for path in _visible(folder) if path.name.lower() not in _NOT_CASES and path.is_dir()]


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
