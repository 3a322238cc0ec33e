"""Files whose names leave their sequence open: what is asked about them, and what was answered before. No Qt.

An answer is kept by the SHA-256 of the file, in a folder of the user's own: it holds for the same image under any name
or folder, and no name of a patient is written.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from platformdirs import user_state_path

from m3ae_core.errors import InputError
from m3ae_core.files import make_folder, sha256, write_json
from m3ae_core.io.case import CaseFiles
from m3ae_core.io.folders.recognition import recognise
from m3ae_core.modalities import ModalitySet

#: The answer that a file is none of the sequences.
NOT_USED = ""


@dataclass(frozen=True)
class Question:
    """A file, what its name says, and the sequences that it may hold."""

    path: Path
    seen: str
    choices: tuple[str, ...]


#: Returns the sequence of each file (:data:`NOT_USED` for none), or None if the user would rather not say.
Ask = Callable[[Sequence[Question]], Mapping[Path, str] | None]


class Answers:
    """What was answered about files, on disk.

    Parameters
    ----------
    folder
        Where; a folder of the user's own unless told otherwise.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or user_state_path("napari-m3ae", appauthor=False) / "answers"

    def recall(self, path: Path, modalities: ModalitySet) -> str | None:
        """Return what was answered about a file, None if that is none of `modalities` or cannot be read."""
        try:
            answer = json.loads(self._record(path).read_text("utf-8"))["sequence"]
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            return None
        return answer if answer in (*modalities.names, NOT_USED) else None

    def remember(self, path: Path, sequence: str) -> None:
        """Keep an answer.

        Raises
        ------
        OutputError
            If it cannot be written.
        InputError
            If the file cannot be read (``unreadable``).
        """
        try:
            record = self._record(path)
        except OSError as error:
            problem = f"The file cannot be read ({error.strerror})."
            raise InputError(problem, "Check the path.", path=path, code="unreadable") from error
        make_folder(self.folder)
        write_json(record, {"sequence": sequence})

    def _record(self, path: Path) -> Path:
        return self.folder / f"{sha256(path)}.json"


def settle(files: CaseFiles, modalities: ModalitySet, ask: Ask, answers: Answers) -> CaseFiles | None:
    """Return a case of `modalities` without questions: what was answered before holds, all else is asked at once.

    None if the user would rather not say.

    Raises
    ------
    InputError
        If two files are said to hold one sequence (``ambiguous``).
    M3AEError
        If the answers cannot be kept.
    """
    files = recalled(files, modalities, answers)
    choices = tuple(name for name in modalities.names if name not in files.images)
    open_ones = [Question(path, recognise(path.name, modalities).why, choices) for path, _ in files.questions]
    said = ask(open_ones) if open_ones else {}
    if said is None:
        return None
    answered = _with_answers(files, said, modalities)
    for path, sequence in said.items():
        answers.remember(path, sequence)
    return answered


def recalled(files: CaseFiles, modalities: ModalitySet, answers: Answers) -> CaseFiles:
    """Return a case with the questions that were not answered before.

    Raises
    ------
    InputError
        If two files are said to hold one sequence (``ambiguous``).
    """
    paths = [path for path, _ in files.questions]
    known = {path: said for path in paths if (said := answers.recall(path, modalities)) is not None}
    return _with_answers(files, known, modalities)


def repeated(answers: Sequence[str]) -> str:
    """Return a sequence that is named more than once, or nothing."""
    return next((name for name in answers if name != NOT_USED and answers.count(name) > 1), "")


def _with_answers(files: CaseFiles, said: Mapping[Path, str], modalities: ModalitySet) -> CaseFiles:
    """Return the case with the files that were asked for in their places."""
    if twice := repeated([*files.images, *said.values()]):
        raise InputError(
            f"Two files are said to hold {twice}.",
            "Choose each sequence once.",
            path=next(path for path, name in said.items() if name == twice),
            code="ambiguous",
        )
    told = {**files.images, **{name: path for path, name in said.items() if name != NOT_USED}}
    unused = tuple((path, "you left it out") for path, name in said.items() if name == NOT_USED)
    images = {name: told[name] for name in modalities.names if name in told}
    left = tuple(question for question in files.questions if question[0] not in said)
    return replace(files, images=images, unused=(*files.unused, *unused), questions=left)
