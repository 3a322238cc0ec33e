"""A small case in a viewer model, and a predictor that needs no network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.utils.notifications import Notification, notification_manager

from m3ae_core.data.phantom import write_phantom
from m3ae_core.events import Progress
from m3ae_core.inference.predictor import Prediction
from m3ae_core.io.case import Case, CaseFiles
from m3ae_core.regions import BRATS_2023
from napari_m3ae.jobs import InlineRunner
from napari_m3ae.session import Session

SHAPE = (20, 24, 16)


@dataclass
class FakePredictor:
    """Paints one block of each tissue, the larger the more sequences there are; `error` stops it half-way."""

    windows: int = 4
    error: Exception | None = None
    bundle: object = None
    cases: list[Case] = field(default_factory=list)

    def run(self, case: Case, *, check: bool = False, same_patient: bool = False) -> Iterator[object]:
        self.cases.append(case)
        for window in range(self.windows):
            if self.error is not None and window == 2:
                raise self.error
            yield Progress("window", window + 1, self.windows)
        labels = np.zeros(case.shape, np.uint8)
        for value in (1, 2, 3):
            labels[4 * value : 4 * value + len(case.subset), 5:9, 6] = value
        missing = ("T1c is missing: enhancing tumour is unreliable.",) if "T1c" not in case.subset else ()
        warnings = (*case.notes, *missing)
        yield Prediction(
            labels=labels,
            affine=case.affine,
            scheme=BRATS_2023,
            subset=case.subset,
            probabilities={},
            warnings=warnings,
            provenance={
                "made_by": {"edited": False},
                "present": list(case.subset.present),
                "sequences_present": {name: volume.sha256 for name, volume in case.volumes.items()},
                "labels": {"scheme": BRATS_2023.name, "volumes_ml": {}},
                "warnings": list(warnings),
                "same_patient": same_patient,
            },
        )


@pytest.fixture
def files(tmp_path: Path) -> CaseFiles:
    """A written case with all four sequences."""
    return write_phantom(tmp_path, "patient", shape=SHAPE)


@pytest.fixture
def predictor() -> FakePredictor:
    return FakePredictor()


@pytest.fixture
def told() -> Iterator[list[str]]:
    """What was said to the user in notifications."""
    said: list[str] = []

    def note(notification: Notification) -> None:
        said.append(notification.message)

    notification_manager.notification_ready.connect(note)
    yield said
    notification_manager.notification_ready.disconnect(note)


@pytest.fixture
def viewer() -> ViewerModel:
    return ViewerModel()


@pytest.fixture
def session(viewer: ViewerModel, predictor: FakePredictor) -> Session:
    return Session(viewer, InlineRunner(), lambda _: predictor)


@pytest.fixture(autouse=True)
def state_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unsaved edits are kept in a folder of the test, not the user's."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
