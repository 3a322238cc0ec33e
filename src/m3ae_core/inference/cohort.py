"""Many cases one after the other: while one is segmented, the next are read and the last one is written."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from m3ae_core.data.preprocess import Standardiser
from m3ae_core.errors import M3AEError, OutputError
from m3ae_core.events import CaseFailed, CaseSegmented
from m3ae_core.inference.predictor import Predictor, save_prediction, save_uncertainty
from m3ae_core.inference.reuse import find_result, made_from, put_aside
from m3ae_core.io.case import Case, CaseFiles, read_case, refuse_repeated_names
from m3ae_core.io.folders.naming import refuse_names_that_disagree
from m3ae_core.io.sidecar import recorded_warnings
from m3ae_core.regions import BRATS_2023, LabelScheme

Content = TypeVar("Content")


@dataclass(frozen=True)
class Outcome:
    """What came of a case: the sequences `present`, whether an earlier run had done it, and the result's warnings."""

    present: str
    reused: bool
    warnings: tuple[str, ...] = ()
    edited: bool = False


@dataclass(frozen=True)
class Reading:
    """How the images of each case are read and judged.

    Attributes
    ----------
    check
        Look for unprepared images and mixed-up sequences; that may take longer than the segmentation.
    same_patient
        The images of each case are known to be of one patient, whatever their names, folders and outlines tell.
    orientation
        The orientation of images whose headers tell none; None if they are taken as stored.
    same_grid
        Refuse a case whose images lie on different grids, which are resampled otherwise.
    """

    check: bool = False
    same_patient: bool = False
    orientation: str | None = None
    same_grid: bool = False


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
    reading
        How the images of each case are read and judged.
    uncertainty
        The folder that gets a CASE_uncertainty.nii.gz each; it exists. None: they are not written.
    overwrite
        Do results over; those edited by hand stay.
    discard_edits
        Replace results that were edited, too.
    readers
        Cases read ahead, each by a thread of its own.
    """

    predictor: Predictor
    folder: Path
    scheme: LabelScheme = BRATS_2023
    reading: Reading = Reading()
    uncertainty: Path | None = None
    overwrite: bool = False
    discard_edits: bool = False
    readers: int = 1

    def run(
        self, cases: Sequence[CaseFiles], unusable: Mapping[str, M3AEError] = MappingProxyType({})
    ) -> Iterator[CaseSegmented | CaseFailed]:
        """Segment `cases`, each with whichever sequences it has; one that cannot be used does not stop the others.

        Run the same again to go on after a stop: a result stays if it was made of the same images by the same model in
        the same way, and if it was edited; a damaged one is done over, its file kept as ``.bad``. Stop asking for the
        next event to stop; what was reported is safe on disk. Cases that are `unusable` from the start are reported
        with the others.

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
                yield CaseSegmented(
                    name, done, total, found.present, found.reused, found.warnings, found.edited
                )
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
        with ThreadPoolExecutor(1) as writer:
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
        """Read a case, unless its result is there; for a GPU resample it to the template as well.

        On the CPU that is left to the network's own turn: two users of all cores slow each other down.
        """
        modalities, reading = self.predictor.config.modality_set, self.reading
        refuse_names_that_disagree(files.images, modalities)
        case = read_case(files, modalities, reading.orientation, same_grid=reading.same_grid)
        uncertainty = self.uncertainty_of(files.name)
        complete = uncertainty is None or uncertainty.exists()
        if (known := self._known(files, case)) is not None and (complete or known.edited):
            return known
        shared = Standardiser(case, self.predictor.config)
        if self.predictor.device.type != "cpu":
            shared.standardise(case.volumes)
        return shared

    def _segment(self, files: CaseFiles, content: Standardiser | Outcome) -> Callable[[], Outcome]:
        """Segment a case, and return what saves the result."""
        if isinstance(content, Outcome):
            return lambda: content
        prediction = self.predictor.predict(
            content.case,
            self.scheme,
            content,
            check=self.reading.check,
            same_patient=self.reading.same_patient,
        )
        prediction.provenance["files_unused"] = files.unused_names

        def save() -> Outcome:
            if uncertainty := self.uncertainty_of(files.name):
                save_uncertainty(prediction, uncertainty)
            save_prediction(prediction, self.path_of(files.name))
            return Outcome(str(prediction.subset), reused=False, warnings=prediction.warnings)

        return save

    def _known(self, files: CaseFiles, case: Case) -> Outcome | None:
        """Return what stays of an earlier run, None if the case is to be segmented; a damaged result is put aside."""
        path, predictor = self.path_of(files.name), self.predictor
        inference = predictor.config.inference.model_dump(mode="json")
        wanted = made_from(case, predictor.bundle.fingerprint, inference, self.scheme)
        found = find_result(path, case, wanted)
        if found is None or (self.discard_edits and found.state == "edited"):
            return None
        if found.state == "edited":
            kept = f"The result was kept as it is: {found.why}. --discard-edits replaces it."
            return Outcome(str(case.subset), reused=True, warnings=(kept,), edited=True)
        if found.state == "done before" and not self.overwrite:
            return Outcome(str(case.subset), reused=True, warnings=recorded_warnings(path))
        if found.state == "stale" and not self.overwrite:
            raise OutputError(
                f"There is a result of something else: {found.why}.",
                "Choose another folder or pass --overwrite.",
                path=path,
                code="stale",
            )
        if found.state == "damaged":
            put_aside(path)
        return None


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
