"""The self-test in the viewer: it tries the case's folder, shows what it found, and can be stopped."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from opened import open_case
from qtpy.QtWidgets import QMessageBox

from m3ae_core.events import Progress
from m3ae_core.selftest.check import Check
from napari_m3ae import selftest
from napari_m3ae._sample_data import sample_case
from napari_m3ae.layers import add
from napari_m3ae.selftest import as_text, folder_of_case, start_selftest

FOUND = [Check("model", True, "It is intact."), Check("folder", False, "It is <full>.", "Free some space.")]


@pytest.fixture
def asked(monkeypatch) -> list[tuple[Path | None, str]]:
    """A self-test that finds FOUND at once; what it was asked to test."""
    given: list[tuple[Path | None, str]] = []

    def run(folder, device):
        given.append((folder, device))
        for done, check in enumerate(FOUND):
            yield Progress("testing", done, len(FOUND))
            yield check

    monkeypatch.setattr(selftest, "run_selftest", run)
    return given


def test_it_tries_the_folder_of_the_case(session, viewer, files, asked):
    told: list[list[Check]] = []
    assert start_selftest(session, told.append)
    open_case(viewer, files)
    assert start_selftest(session, told.append)
    assert asked == [(None, "auto"), (files.labels.parent, "auto")]
    assert told == [FOUND, FOUND]
    assert session.state.phase == "idle"


def test_the_built_in_case_is_no_place_to_write(session, viewer):
    for content in sample_case():
        add(viewer, content)
    assert any(slot.layer is not None for slot in session.state.slots)
    assert folder_of_case(session) is None


def test_cancelled_it_tells_nothing(session, asked):
    told: list[list[Check]] = []
    session.changed.connect(lambda state: session.cancel() if state.progress else None)
    assert start_selftest(session, told.append)
    assert not told
    assert session.state.phase == "idle"


def test_the_list_says_what_to_do():
    assert as_text(FOUND) == "✓ model: It is intact.\n\n✗ folder: It is <full>. Free some space."


@pytest.fixture
def panel(make_napari_viewer_proxy, files):
    viewer = make_napari_viewer_proxy()
    viewer.open(files.labels.parent, plugin="napari-m3ae")
    _, widget = viewer.window.add_plugin_dock_widget("napari-m3ae", "M3AE")
    return widget


def shown(panel) -> list[QMessageBox]:
    return panel.findChildren(QMessageBox)


@pytest.mark.viewer
def test_button_shows_what_was_found(panel, qtbot, asked):
    panel.selftest_button.click()
    assert not panel.selftest_button.isEnabled()
    qtbot.waitUntil(lambda: bool(shown(panel)), timeout=10_000)
    (box,) = shown(panel)
    assert box.text() == "Failed: folder."
    assert box.informativeText() == as_text(FOUND)
    assert not box.isModal()
    qtbot.waitUntil(panel.selftest_button.isEnabled, timeout=10_000)
    box.close()
    qtbot.waitUntil(lambda: not shown(panel), timeout=10_000)


@pytest.mark.viewer
def test_the_whole_way_with_the_installed_model(panel, qtbot, files):
    folder = files.labels.parent
    before = sorted(folder.iterdir())
    panel.selftest_button.click()
    qtbot.waitUntil(lambda: bool(shown(panel)), timeout=120_000)
    (box,) = shown(panel)
    assert box.text() == "All checks passed.", box.informativeText()
    assert "none damaged the file" in box.informativeText()
    assert sorted(folder.iterdir()) == before
    box.close()


@pytest.mark.viewer
def test_the_window_says_that_the_folder_of_the_case_is_gone(panel, qtbot, files, monkeypatch):
    shutil.rmtree(files.labels.parent)
    monkeypatch.setattr("m3ae_core.selftest.run.check_model", lambda: iter(()))
    panel.selftest_button.click()
    qtbot.waitUntil(lambda: bool(shown(panel)), timeout=60_000)
    (box,) = shown(panel)
    assert box.text() == "Failed: folder."
    assert "No such file" in box.informativeText()
    box.close()
