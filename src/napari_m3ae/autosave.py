"""`Autosave`: keeps a copy of unsaved edits on disk, and brings back what a crash left there. No Qt, no timer.

Of each edited result there are three files, named by a hash so that the folder's listing names no patient: a record
(JSON), the labels as edited and the labels as the model made them (NIfTI). The record names the process that wrote
it; only what a process left that no longer runs is offered.
"""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Generator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import psutil  # type: ignore[import-untyped]
from napari.utils.notifications import show_error, show_warning
from platformdirs import user_state_path

from m3ae_core.errors import InputError, M3AEError, printable
from m3ae_core.files import remove_stale, write_json
from m3ae_core.io.case import Case
from m3ae_core.io.volume import read_labels, voxel_sha256, write_labels
from m3ae_core.modalities import ModalitySet
from m3ae_core.regions import scheme_named
from m3ae_core.seal import record_is_whole, sealed
from napari_m3ae import layers
from napari_m3ae.chosen import Recovered
from napari_m3ae.editing import put

if TYPE_CHECKING:
    from m3ae_core.inference.predictor import Prediction
    from napari_m3ae.result import Shown
    from napari_m3ae.session import Session

EDITED, MODEL = "-edited.nii.gz", "-model.nii.gz"
#: What a record says of the voxels of the model's own labels and of the edited ones (those kept before and those that
#: are written next, so that it holds whenever the process is killed), of the process that wrote it, and of the result
#: besides case and time.
HASH, EDITED_HASHES = "model_sha256", "edited_sha256"
OWNER = ("host", "pid", "started")
CONTENT = ("sources", "scheme", "modalities", "present", "warnings", "affine", "provenance")
#: A process is another one than the writer of its number if it was started at another time (s); the system's clock may
#: have been set right meanwhile.
SAME_START = 60.0
#: Label maps without a record are being written now, or were when their process was killed: by then long ago (s).
ABANDONED = 3600.0


@dataclass(frozen=True)
class Record:
    """Edits that were left behind: of which case, when they were last kept, and the file that tells more."""

    case: str
    when: datetime
    path: Path
    content: Mapping[str, Any] = field(repr=False, compare=False)


@dataclass
class _Kept:
    """A result that is watched: where its copy goes, and the edited labels (X, Y, Z) that lie there, if any."""

    shown: Shown
    path: Path
    labels: npt.NDArray[np.uint8] | None = None


class Autosave:
    """Keeps the unsaved edits of a session.

    An edited result that a rerun left alone is kept too, until its layer is removed. With the session's normal end
    all copies go: whoever closes it has been asked before.

    Parameters
    ----------
    session
        Whose edits are kept.
    folder
        Where to; a folder of the user's own unless told otherwise.
    pid
        The process that the edits belong to; this one unless told otherwise.
    """

    def __init__(self, session: Session, folder: Path | None = None, pid: int | None = None) -> None:
        self.session = session
        self.folder = folder or user_state_path("napari-m3ae", appauthor=False) / "autosave"
        process = psutil.Process(pid)
        self._owner = {"host": platform.node(), "pid": process.pid, "started": process.create_time()}
        self._kept: dict[Any, _Kept] = {}
        self._latest: Shown | None = None
        self._written: set[Path] = set()
        self._failed = self._closed = False
        _sweep(self.folder)
        if damaged := self.damaged:
            show_warning(
                f"{printable(damaged[0])}: Edits that were kept here cannot be read any more ({len(damaged)} of them). "
                "Remove the file."
            )
        session.changed.connect(self._on_changed)
        # A lambda, because signals hold methods weakly: the copies must go even if the panel went first.
        session.closing.connect(lambda: self._remove_all())

    @property
    def unsaved(self) -> list[str]:
        """The names of the layers with edits that were not saved."""
        return [kept.shown.layer.name for kept in self._watched() if kept.shown.unsaved]

    def save_now(self) -> bool:
        """Write what was edited since the last time, drop what was saved meanwhile; say whether all is on disk."""
        if self._closed:
            return True
        try:
            for kept in self._watched():
                self._keep(kept)
        except M3AEError as error:
            if not self._failed:  # once, not every half minute
                show_warning(f"Edits cannot be kept for the case of a crash. {error}")
            self._failed = True
            return False
        self._failed = False
        return True

    @property
    def damaged(self) -> list[Path]:
        """The records that cannot be read."""
        return [path for path in sorted(self.folder.glob("*.json")) if _read(path) is None]

    def found(self) -> list[Record]:
        """Return what processes left that no longer run, the latest first."""
        records = [record for path in self.folder.glob("*.json") if (record := _read(path)) is not None]
        left = [record for record in records if not _runs(record.content["owner"])]
        return sorted(left, key=lambda record: record.when, reverse=True)

    def restore(self, record: Record) -> bool:
        """Put a result that was left behind on display, edits and all; say whether that was begun.

        It must be of the images that are open, voxel by voxel: else the user is told, and nothing changes.
        This is a job of the session's. The copy on disk goes once the edits are kept in this session's name.
        """
        if all(record.path != other.path for other in self.found()):
            show_error(f"The edits of {record.case} were restored or discarded elsewhere.")
            return False
        try:
            _require_images(record, self.session)
        except M3AEError as error:
            show_error(str(error))
            return False

        def show(left: tuple[Prediction, npt.NDArray[np.uint8]]) -> None:
            prediction, edited = left
            self.session.show(prediction, Recovered(record.case, record.content["sources"], {}))
            shown = self.session.shown
            if shown is not None:
                put(shown.layer, edited)
                shown.layer.name = f"recovered edits · {record.case}"
            if self.save_now():
                self.discard(record)

        return self.session.start(_load(record), show)

    def discard(self, record: Record) -> None:
        """Remove what was left behind."""
        _remove(record.path)

    def _on_changed(self, *_: Any) -> None:
        if self.session.shown is not self._latest:
            self.save_now()

    def _watched(self) -> list[_Kept]:
        """The results that are open, the one on display among them."""
        shown = self._latest = self.session.shown
        if shown is not None:
            known = self._kept.get(shown.layer.unique_id)
            if known is None or known.shown.prediction is not shown.prediction:
                # A rerun into the same layer takes over the file, which is then out of date, and so goes.
                path = self._path_of(shown) if known is None else known.path
                self._kept[shown.layer.unique_id] = _Kept(shown, path)
            else:
                known.shown = shown
        present = self.session.viewer.layers
        self._kept = {key: kept for key, kept in self._kept.items() if kept.shown.layer in present}
        return list(self._kept.values())

    def _path_of(self, shown: Shown) -> Path:
        parts = (shown.case, *sorted(shown.sources), self._owner, shown.layer.unique_id)
        name = hashlib.sha256("\n".join(map(str, parts)).encode("utf-8", "surrogatepass")).hexdigest()[:20]
        return self.folder / f"{name}.json"

    def _keep(self, kept: _Kept) -> None:
        shown, labels = kept.shown, kept.shown.labels
        if not shown.unsaved:
            if kept.path in self._written:
                _remove(kept.path)
            self._written.discard(kept.path)
            kept.labels = None
            return
        if kept.labels is not None and np.array_equal(kept.labels, labels):
            return
        with suppress(OSError):  # the writing below says what is wrong
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        affine = shown.prediction.affine
        hashes = [voxel_sha256(each) for each in (kept.labels, labels) if each is not None]
        record = sealed({**_describe(shown, self._owner), EDITED_HASHES: hashes})
        self._written.add(kept.path)
        if kept.labels is None:
            write_labels(_beside(kept.path, MODEL), shown.prediction.labels, affine)
            write_labels(_beside(kept.path, EDITED), labels, affine)
            write_json(kept.path, record)
        else:
            write_json(kept.path, record)
            write_labels(_beside(kept.path, EDITED), labels, affine)
        kept.labels = labels.copy()

    def _remove_all(self) -> None:
        self._closed = True
        for path in self._written:
            _remove(path)
        self._written.clear()
        self._kept.clear()


def _describe(shown: Shown, owner: dict[str, Any]) -> dict[str, Any]:
    """All of a result but its labels, as JSON."""
    prediction = shown.prediction
    return {
        "case": shown.case,
        "when": datetime.now().astimezone().isoformat(timespec="seconds"),
        "owner": owner,
        "sources": sorted(shown.sources),
        "scheme": prediction.scheme.name,
        "modalities": prediction.subset.of,
        "present": prediction.subset.present,
        "warnings": prediction.warnings,
        "affine": prediction.affine.tolist(),
        "provenance": prediction.provenance,
        "model_sha256": voxel_sha256(prediction.labels),
    }


def _require_images(record: Record, session: Session) -> None:
    """Refuse edits that are not of the images which are open, by the hashes of their voxels.

    Raises
    ------
    InputError
        If they are of others (``other-images``) or of these turned otherwise (``other-orientation``), or the images
        make no case.
    """
    noted = record.content["provenance"].get("sequences_present")
    wanted = noted if isinstance(noted, dict) else {}
    present = {slot.modality: slot.layer for slot in session.state.slots if slot.layer is not None}
    used = {name: layers.to_volume(present[name]) for name in wanted if name in present}
    if used and len(used) == len(wanted):
        case = Case(record.case, session.state.model.modalities, used)
        same = {name: volume.sha256 for name, volume in case.volumes.items()} == wanted
        if same and _lies_elsewhere(record, case):
            raise InputError(
                f"The edits of {record.case} were made with another orientation of these images.",
                "Set the switch for left and right as it was.",
                code="other-orientation",
            )
        if same:
            return
    raise InputError(
        f"The edits of {record.case} are not of the images that are open.",
        f"Open {record.case} first, with the images that were segmented ({', '.join(wanted) or 'not recorded'}).",
        code="other-images",
    )


def _lies_elsewhere(record: Record, case: Case) -> bool:
    """Whether the edits lie on another grid than the images; what is no affine is for the loading to tell."""
    noted = record.content["affine"]
    try:
        return not np.allclose(np.array(noted, float).reshape(4, 4), case.affine, atol=1e-3)
    except (ValueError, TypeError):
        return False


def _read(path: Path) -> Record | None:
    """Return the record in a file, or None if that is none, or not what was written."""
    try:
        content = json.loads(path.read_text("utf-8"))
        if not record_is_whole(content):
            return None
        host, pid, started = (content["owner"][key] for key in OWNER)
        owner = {"host": str(host), "pid": pid, "started": float(started)}
        _process_of(owner)
        when = datetime.fromisoformat(content["when"]).astimezone()
        told = {key: content[key] for key in CONTENT}
        if not isinstance(told["provenance"], dict):
            return None
        told |= {name: content.get(name) for name in (HASH, EDITED_HASHES)}
        told |= {"owner": owner, "sources": frozenset(map(str, told["sources"]))}
        return Record(str(content["case"]), when, path, told)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError):
        return None


def _load(record: Record) -> Generator[tuple[Prediction, npt.NDArray[np.uint8]], None, None]:
    """Read what was left behind: the prediction, and the labels (X, Y, Z) as edited. A job, because torch loads.

    Raises
    ------
    InputError
        If a label map is damaged or not what was written (``damaged``), or the record cannot be used (``record``).
    """
    model, edited = (read_labels(_beside(record.path, ending)) for ending in (MODEL, EDITED))
    if record.content[HASH] not in (None, model.sha256):
        raise _damaged(record, _beside(record.path, MODEL))
    if edited.sha256 not in (record.content[EDITED_HASHES] or [edited.sha256]):  # none, of an older version
        raise _damaged(record, _beside(record.path, EDITED))
    try:
        prediction = _prediction(record.content, model.data)
    except (ValueError, LookupError, TypeError, AttributeError, M3AEError) as error:
        raise _damaged(record, record.path, "record") from error
    if not model.shape == edited.shape or not np.allclose(prediction.affine, model.affine, atol=1e-3):
        raise _damaged(record, record.path)
    yield prediction, edited.data


def _prediction(content: Mapping[str, Any], labels: npt.NDArray[np.generic]) -> Prediction:
    from m3ae_core.inference.predictor import Prediction

    affine = np.array(content["affine"], float)
    if affine.shape != (4, 4):
        raise ValueError
    return Prediction(
        labels=labels.astype(np.uint8),
        probabilities={},
        affine=affine,
        scheme=scheme_named(content["scheme"]),
        subset=ModalitySet.named(map(str, content["modalities"])).subset(map(str, content["present"])),
        warnings=tuple(map(str, content["warnings"])),
        provenance=content["provenance"],
    )


def _damaged(record: Record, path: Path, code: str = "damaged") -> InputError:
    return InputError(f"The kept edits of {record.case} are damaged.", "Discard them.", path=path, code=code)


def _process_of(owner: Mapping[str, Any]) -> tuple[int, float]:
    """Return the number and the start (s since 1970) of the process that wrote a record.

    Raises
    ------
    ValueError, TypeError
        If they are no such numbers.
    """
    pid, started = owner["pid"], float(owner["started"])
    if not isinstance(pid, int) or not 0 < pid < 1 << 31:
        raise ValueError(pid)
    return pid, started


def _runs(owner: Mapping[str, Any]) -> bool:
    """Whether the process that wrote a record still runs here, whatever this computer was called then.

    A computer's name changes with its network, so edits kept under another name are offered too.
    """
    try:
        pid, started = _process_of(owner)
        process = psutil.Process(pid)
        same = abs(process.create_time() - started) < SAME_START
        return bool(same and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def _beside(path: Path, ending: str) -> Path:
    """The label map that belongs to a record."""
    return path.with_name(path.stem + ending)


def _sweep(folder: Path) -> None:
    """Remove what a killed process was writing, and the label maps that it had no time to write a record for."""
    remove_stale(folder)
    before = time.time() - ABANDONED
    for ending in (EDITED, MODEL):
        for labels in folder.glob(f"*{ending}"):
            record = labels.with_name(labels.name.removesuffix(ending) + ".json")
            with suppress(OSError):  # another process may have removed it
                if labels.stat().st_mtime < before and not record.exists():
                    labels.unlink()


def _remove(path: Path) -> None:
    """Remove a record, first, and its label maps."""
    with suppress(OSError):
        for each in (path, _beside(path, EDITED), _beside(path, MODEL)):
            each.unlink(missing_ok=True)
