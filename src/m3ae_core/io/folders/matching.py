"""The files of one case: which is which, which are left out and why, and which must be asked for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from m3ae_core.errors import InputError, printable
from m3ae_core.io.folders.recognition import LABELS, Recognised, recognise
from m3ae_core.io.folders.vocabulary import VARIANTS
from m3ae_core.modalities import BRATS, ModalitySet

ENDINGS = (".nii", ".nii.gz")


@dataclass(frozen=True)
class CaseFiles:
    """The files of one case: one per sequence that is present, by name, and the label map if there is one.

    Attributes
    ----------
    name
        What the case is called.
    images
        The file of each sequence.
    labels
        The label map.
    unused
        The image files that were left out, each with the reason.
    questions
        The files whose names contradict themselves, each with what is asked; a case with questions is not read.
    scheme
        The label scheme of the label map, where a manifest states it.
    """

    name: str
    images: Mapping[str, Path]
    labels: Path | None
    unused: tuple[tuple[Path, str], ...] = ()
    questions: tuple[tuple[Path, str], ...] = ()
    scheme: str | None = None

    @property
    def unused_names(self) -> dict[str, str]:
        """The names of the files that were left out, each with the reason, ready for JSON."""
        return {printable(path.name): why for path, why in self.unused}


def match_files(
    paths: Iterable[Path | str],
    modalities: ModalitySet = BRATS,
    channels: Mapping[str, str] | None = None,
) -> CaseFiles:
    """Tell from their names which sequence each of the files of one case holds.

    Every word of a name counts (:mod:`~m3ae_core.io.folders.vocabulary`). The case takes its name from what comes
    before the sequence if all images agree, else from their folder. `channels` gives the sequences of ``0000`` and so
    on, if a ``dataset.json`` says them.

    Raises
    ------
    InputError
        If two files claim the same sequence, or two are label maps (``ambiguous``), or the words of a name
        contradict each other (``unclear``).
    """
    files = sort_files(paths, modalities, channels)
    refuse_questions(files)
    return files


def sort_files(
    paths: Iterable[Path | str],
    modalities: ModalitySet = BRATS,
    channels: Mapping[str, str] | None = None,
) -> CaseFiles:
    """Do what :func:`match_files` does, but keep the questions.

    Raises
    ------
    InputError
        If two files claim the same sequence, or two are label maps (``ambiguous``).
    """
    said = {path: recognise(path.name, modalities, channels) for path in sorted(Path(path) for path in paths)}
    claims: dict[str, list[Path]] = {}
    for path, found in said.items():
        if found.kind:
            claims.setdefault(found.kind, []).append(path)
    chosen = {kind: _plainest(kind, files) for kind, files in claims.items()}
    images = {name: chosen[name] for name in modalities.names if name in chosen}
    questions = {path: found for path, found in said.items() if _is_open(found, images)}
    used = {*chosen.values(), *questions}
    unused = tuple((path, _why(found, chosen)) for path, found in said.items() if path not in used)
    asked = tuple((path, _question(path, found)) for path, found in questions.items())
    return CaseFiles(_name(images, questions, said), images, chosen.get(LABELS), unused, asked)


def refuse_questions(files: CaseFiles) -> None:
    """Refuse a case of which a file must be asked for.

    Raises
    ------
    InputError
        With code ``unclear``.
    """
    if files.questions:
        more = f" ({len(files.questions) - 1} more like it)" if len(files.questions) > 1 else ""
        path, question = files.questions[0]
        fix = question.partition("? ")[2]
        raise InputError(question.partition("? ")[0] + f"?{more}", fix, path=path, code="unclear")


def expected(modalities: ModalitySet) -> str:
    """Name the modalities with a few of the tokens that announce them."""
    tokens = ((modality.name, (modality.name.lower(), *modality.aliases)[:3]) for modality in modalities)
    return "; ".join(f"{name} ({', '.join(some)})" for name, some in tokens)


def no_sequence(problem: str, modalities: ModalitySet, path: Path | None = None) -> InputError:
    """Return the error of a case without any sequence."""
    fix = f"At least one is needed, as a .nii or .nii.gz file named after it: {expected(modalities)}."
    return InputError(f"{problem}.", fix, path=path, code="no-sequence")


def _plainest(kind: str, files: list[Path]) -> Path:
    """Return the file that claims a kind; one that was prepared (``_bias``) gives way to the plain one."""
    plain = [path for path in files if not _variant(path)] or files
    if len(plain) > 1:
        first, second = plain[:2]
        raise InputError(
            f"Both {printable(first.name)} and {printable(second.name)} look like {kind}.",
            "Keep one of them, or assign the files by hand.",
            path=second.parent,
            code="ambiguous",
        )
    return plain[0]


def _variant(path: Path) -> bool:
    return not VARIANTS.isdisjoint(re.findall(r"[a-z0-9]+", path.name.lower()))


def _is_open(found: Recognised, images: Mapping[str, Path]) -> bool:
    """Whether a file must be asked for: not if the others hold all that it may be, or it is only numbered."""
    return (
        bool(found.candidates)
        and not images.keys() >= set(found.candidates)
        and not (found.channel and images)
    )


def _why(found: Recognised, chosen: Mapping[str, Path]) -> str:
    if found.kind:
        return f"{printable(chosen[found.kind].name)} was taken for {found.kind}"
    return found.why


def _question(path: Path, found: Recognised) -> str:
    flags = " or ".join(f"--image {name}={printable(path.name)}" for name in found.candidates)
    column = " or ".join(found.candidates)
    split = (
        " Numbers have no fixed order: name the files after their sequences, put the dataset.json beside them, or "
        "split a 4-D file with `m3ae split-4d FILE --order NAME,NAME,… --output FOLDER`."
        if found.channel
        else ""
    )
    return (
        f"The name {printable(path.name)} does not tell what it holds ({found.why}): which sequence is it? "
        f"Give it as {flags}; in a folder of cases, write it into the column {column} of the manifest that "
        f"`m3ae scan FOLDER --csv FILE` makes.{split}"
    )


def _name(
    images: Mapping[str, Path], questions: Mapping[Path, Recognised], said: Mapping[Path, Recognised]
) -> str:
    """Return what all names of images have in front, or the name of their folder."""
    told = [*images.values()] or [*questions]
    cases = {said[path].case for path in told}
    alone = cases.pop() if len(cases) == 1 else ""
    return alone or (told[-1].absolute().parent.name if told else "")
