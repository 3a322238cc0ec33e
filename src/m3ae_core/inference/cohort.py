"""Many cases one after the other: while one is segmented, the next are read and the last one is written."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from m3ae_core.data.case import CaseFiles, read_case, refuse_repeated_names
from m3ae_core.data.naming import refuse_names_that_disagree
from m3ae_core.data.preprocess import Standardiser
from m3ae_core.data.sidecar import sidecar_of
from m3ae_core.errors import M3AEError, OutputError
from m3ae_core.events import CaseFailed, CaseSegmented
from m3ae_core.inference.predictor import Predictor, save_prediction, save_uncertainty
from m3ae_core.memory import freed_memory_kept
from m3ae_core.regions import BRATS_2023, LabelScheme

Content = TypeVar("Content")


@dataclass(frozen=True)
class Outcome:
    """What came of a case: the sequences `present`, whether an earlier run had done it, and the result's warnings."""

    present: str
    reused: bool
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cohort:
    """How and whereto cases are segmented.

    Attributes
    ----------
    predictor
        The model.
    folder
        Where the results go; it exists.
    scheme
        Label scheme of the results.
    overwrite
        Replace results of other models, and those edited by hand.
    check
        Look for unprepared images and mixed-up sequences; that may take longer than the segmentation.
    readers
        Cases read ahead, each by a thread of its own.
    uncertainty
        The folder that gets a CASE_uncertainty.nii.gz each; it exists. None: they are not written.
    """

    predictor: Predictor
    folder: Path
    scheme: LabelScheme = BRATS_2023
    overwrite: bool = False
    check: bool = False
    readers: int = 1
    uncertainty: Path | None = None

    def run(
        self, cases: Sequence[CaseFiles], unusable: Mapping[str, M3AEError] = MappingProxyType({})
    ) -> Iterator[CaseSegmented | CaseFailed]:
        """Segment `cases`, each with whichever sequences it has; one that cannot be used does not stop the others.

        Run the same again to go on after a stop: a result stays if model, windows, scheme and sequences are the same
        and no image is newer. Stop asking for the next event to stop; what was reported is safe on disk. Cases that
        are `unusable` from the start are reported with the others.

        Raises
        ------
        InputError
            If two cases share a name (``case-repeats``).
        """
        refuse_repeated_names(cases)
        total = len(unusable) + len(cases)
        refused = ((name, _failed(error)) for name, error in unusable.items())
        for done, (name, outcome) in enumerate(chain(refused, self._outcomes(cases)), 1):
            try:
                found = outcome.result()
                yield CaseSegmented(name, done, total, found.present, found.reused, found.warnings)
            except M3AEError as error:
                yield CaseFailed(name, done, total, error)

    def path_of(self, case: str) -> Path:
        """Return where the labels of a case go."""
        return self.folder / f"{case}-m3ae.nii.gz"

    def uncertainty_of(self, case: str) -> Path | None:
        """Return where the uncertainty of a case goes; None if it is not wanted."""
        return self.uncertainty and self.uncertainty / f"{case}_uncertainty.nii.gz"

    def _outcomes(self, cases: Sequence[CaseFiles]) -> Iterator[tuple[str, Future[Outcome]]]:
        """Yield what comes of each case, one case behind, so that it is written while the next is segmented."""
        behind: deque[tuple[str, Future[Outcome]]] = deque()
        with ThreadPoolExecutor(1) as writer, freed_memory_kept():
            for files, content in _read_ahead(self._read, cases, self.readers):
                try:
                    outcome = writer.submit(self._segment(files, content.result()))
                except M3AEError as error:
                    outcome = _failed(error)
                behind.append((files.name, outcome))
                if len(behind) > 1:
                    yield behind.popleft()
            yield from behind

    def _read(self, files: CaseFiles) -> Standardiser | Outcome:
        """Read a case, unless its result is there; for a GPU lay it on the template as well.

        On the CPU that is left to the network's own turn: two users of all cores slow each other down.
        """
        uncertainty = self.uncertainty_of(files.name)
        complete = uncertainty is None or uncertainty.exists()
        if (known := self._known(files)) is not None and complete:
            return known
        refuse_names_that_disagree(files.images, self.predictor.config.modality_set)
        case = read_case(files, self.predictor.config.modality_set)
        shared = Standardiser(case, self.predictor.config)
        if self.predictor.device.type != "cpu":
            shared.standardise(case.volumes)
        return shared

    def _segment(self, files: CaseFiles, content: Standardiser | Outcome) -> Callable[[], Outcome]:
        """Segment a case, and return what saves the result."""
        if isinstance(content, Outcome):
            return lambda: content
        prediction = self.predictor.predict(content.case, self.scheme, content, check=self.check)

        def save() -> Outcome:
            if uncertainty := self.uncertainty_of(files.name):
                save_uncertainty(prediction, uncertainty)
            save_prediction(prediction, self.path_of(files.name))
            return Outcome(str(prediction.subset), reused=False, warnings=prediction.warnings)

        return save

    def _known(self, files: CaseFiles) -> Outcome | None:
        """Return what an earlier run made of a case, None if it is yet to be made."""
        path = self.path_of(files.name)
        if self.overwrite or not path.exists():
            return None
        subset = self.predictor.config.modality_set.subset(files.images)
        try:
            record = json.loads(sidecar_of(path).read_text("utf-8"))
            same = (
                record["made_by"]["edited"] is False
                and record["model"]["sha256"] == self.predictor.bundle.sha256
                and record["model"]["inference"] == self.predictor.config.inference.model_dump(mode="json")
                and record["labels"]["scheme"] == self.scheme.name
                and set(record["sequences_present"]) == set(subset.present)
            )
            made = path.stat().st_mtime
            if same and all(image.stat().st_mtime <= made for image in files.images.values()):
                return Outcome(str(subset), reused=True)
        except (OSError, ValueError, LookupError, TypeError):
            pass
        raise OutputError(
            "There is another result: of other images, another model or other settings, or edited by hand.",
            "Choose another folder or pass --overwrite.",
            path=path,
            code="exists",
        )


def _read_ahead(
    read: Callable[[CaseFiles], Content], cases: Sequence[CaseFiles], readers: int
) -> Iterator[tuple[CaseFiles, Future[Content]]]:
    """Yield each case with what `read` makes of it, while that of the next `readers` is under way."""
    with ThreadPoolExecutor(readers) as pool:
        ahead: deque[tuple[CaseFiles, Future[Content]]] = deque()
        for files in cases:
            ahead.append((files, pool.submit(read, files)))
            if len(ahead) > readers:
                yield ahead.popleft()
        yield from ahead


def _failed(error: M3AEError) -> Future[Outcome]:
    outcome: Future[Outcome] = Future()
    outcome.set_exception(error)
    return outcome
