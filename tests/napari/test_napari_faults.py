"""Whatever a user does while a job runs: no uncaught error, and no result in the wrong layer.

Random sequences of actions on a session whose job goes on only when told to, so that everything happens between two of
its events.
"""

from __future__ import annotations

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Labels
from opened import open_case

from m3ae_core.data.phantom import write_phantom
from m3ae_core.io.case import CaseFiles
from napari_m3ae import layers
from napari_m3ae.jobs import Events, OnEnd, OnEvent
from napari_m3ae.session import Session

ACTIONS = 25


class SteppingRunner:
    """Runs a job one event at a time, when told to."""

    def __init__(self) -> None:
        self.job: tuple[Events, OnEvent, OnEnd] | None = None
        self.cancelled = False

    def start(self, events: Events, on_event: OnEvent, on_end: OnEnd) -> None:
        assert self.job is None, "a second job was started beside the first"
        self.job, self.cancelled = (events, on_event, on_end), False

    def cancel(self) -> None:
        self.cancelled = True

    def step(self) -> None:
        """Let the job come to its next event, or end it."""
        if self.job is None:
            return
        events, on_event, on_end = self.job
        try:
            event = None if self.cancelled else next(events)
        except StopIteration:
            event = None
        if event is None:
            events.close()
            self.job = None
            on_end(None)
        else:
            on_event(event)


class World:
    """A viewer, its session, and what a user can do to them."""

    def __init__(self, seed: int, predictor: object, cases: list[CaseFiles]) -> None:
        self.rng = np.random.default_rng(seed)
        self.cases = cases
        self.viewer = ViewerModel()
        self.runner = SteppingRunner()
        self.session = Session(self.viewer, self.runner, lambda _: predictor)
        self.edits: dict[Labels, np.ndarray] = {}

    def results(self) -> list[Labels]:
        return [layer for layer in self.viewer.layers if layer.name.startswith("M3AE segmentation")]

    def open_case(self) -> None:
        open_case(self.viewer, self.cases[self.rng.integers(len(self.cases))])

    def delete(self) -> None:
        if self.viewer.layers:
            layer = self.viewer.layers[self.rng.integers(len(self.viewer.layers))]
            self.edits.pop(layer, None)
            self.viewer.layers.remove(layer)

    def edit(self) -> None:
        for layer in self.results()[:1]:
            voxel = tuple(np.array([self.rng.integers(side)]) for side in layer.data.shape)
            layer.data_setitem(voxel, 3 - layer.data[voxel][0] % 2)
            self.edits[layer] = layer.data.copy()

    def toggle(self) -> None:
        slot = self.session.state.slots[self.rng.integers(4)]
        self.session.use(slot.modality, not slot.ticked)

    def rename(self) -> None:
        if self.viewer.layers:
            self.viewer.layers[self.rng.integers(len(self.viewer.layers))].name = "renamed"

    def check(self) -> None:
        """Every result is its own case's, as the model made it or as the user last left it."""
        for layer in self.results():
            if layer in self.edits:
                np.testing.assert_array_equal(layer.data, self.edits[layer])
        shown = self.session.shown
        if shown is None:
            return
        assert shown.layer in self.viewer.layers
        assert layers.facts(shown.layer)["case"] == shown.case
        if shown.layer not in self.edits:
            np.testing.assert_array_equal(shown.labels, shown.prediction.labels)
            painted = 4 * len(shown.prediction.subset) * 3
            assert np.count_nonzero(shown.labels) == painted
        for subset, prediction in self.session.predictions.items():
            assert prediction.subset == subset


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> list[CaseFiles]:
    folder = tmp_path_factory.mktemp("cases")
    shapes = [(20, 24, 16), (20, 24, 16), (24, 20, 20)]
    return [write_phantom(folder, f"case{i}", shape=shape, seed=i) for i, shape in enumerate(shapes)]


@pytest.mark.parametrize("sequences", [15, pytest.param(200, marks=pytest.mark.heavy)])
def test_random_actions_leave_everything_in_its_place(sequences, predictor, cases, monkeypatch):
    said: list[str] = []
    monkeypatch.setattr("napari_m3ae.session.show_error", said.append)
    finished = 0
    for seed in range(sequences):
        world = World(seed, predictor, cases)
        world.open_case()
        session, step = world.session, world.runner.step
        actions = [session.run, session.run, session.cancel, world.open_case, world.delete, world.edit]
        actions += [world.toggle, world.rename, step, step, step, step]
        for _ in range(ACTIONS):
            actions[world.rng.integers(len(actions))]()
            world.check()
        while world.runner.job is not None:
            step()
        world.check()
        finished += session.shown is not None
        session.close()
        assert session.state.phase == "idle"
    assert finished > sequences / 4, "the sequences hardly ever come to a result"
    assert not [sentence for sentence in said if "stopped" in sentence]
