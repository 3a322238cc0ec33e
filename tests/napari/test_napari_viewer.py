"""The panel in a real window: the whole way of a user, threads, and what closing does."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from m3ae_core.io.volume import read_labels
from napari_m3ae.jobs import ThreadRunner

pytestmark = pytest.mark.viewer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def panel(make_napari_viewer_proxy, monkeypatch, predictor, files):
    """The panel as napari opens it, over a small sample case and a fake predictor."""
    monkeypatch.setattr("napari_m3ae.session.load_predictor", lambda _: predictor)
    monkeypatch.setattr("napari_m3ae._sample_data.builtin_case", lambda: files)
    viewer = make_napari_viewer_proxy()
    viewer.open_sample("napari-m3ae", "case")
    _, widget = viewer.window.add_plugin_dock_widget("napari-m3ae", "M3AE")
    widget.viewer = viewer
    return widget


def finished(panel, qtbot) -> None:
    qtbot.waitUntil(lambda: panel.session.state.phase == "idle", timeout=20_000)


def test_from_sample_to_saved_file(panel, qtbot, monkeypatch, tmp_path, files):
    viewer = panel.viewer
    assert [str(axis) for axis in viewer.scene.camera.orientation] == ["towards", "up", "left"]
    assert panel.segment.rows["FLAIR"].layer.value == viewer.layers["FLAIR · patient"]
    panel.segment.rows["T1"].tick.click()
    panel.segment.rows["T1c"].tick.click()
    assert panel.segment.plan.text().startswith("FLAIR and T2 will be used. T1 and T1c will be substituted")
    panel.segment.run_button.click()
    assert not panel.segment.run_button.isEnabled()
    finished(panel, qtbot)

    layer = viewer.layers["M3AE segmentation [FLAIR+T2]"]
    assert layer.data.dtype == np.uint8
    assert np.count_nonzero(layer.data) == 3 * 2 * 4
    assert "FLAIR and T2 were used. T1 and T1c were substituted" in panel.banner.text()
    assert "⚠ T1c is missing" in panel.banner.text()

    panel.edit.tissues["enhancing tumour"].click()
    assert (str(layer.mode), layer.selected_label) == ("paint", 3)
    layer.brush_size = 1
    layer.paint((0, 0, 0), layer.selected_label)
    assert layer.data[0, 0, 0] == 3
    assert panel.session.shown.unsaved

    path = tmp_path / "saved.nii.gz"
    monkeypatch.setattr(
        "napari_m3ae.widgets.segment.QFileDialog.getSaveFileName", lambda *_: (str(path), "NIfTI (*.nii.gz)")
    )
    panel.segment.save_button.click()
    assert not panel.session.shown.unsaved
    saved, reference = read_labels(path), read_labels(files.labels)
    np.testing.assert_array_equal(saved.data.transpose(2, 1, 0), layer.data)
    np.testing.assert_array_equal(saved.affine, reference.affine)
    (again,) = viewer.open(path, plugin="napari-m3ae")
    np.testing.assert_array_equal(again.data, layer.data)
    np.testing.assert_array_equal(again.affine.affine_matrix, layer.affine.affine_matrix)
    np.testing.assert_array_equal(again.get_color(3), layer.get_color(3))
    again.save(str(tmp_path / "copy.nii.gz"), plugin="napari-m3ae")
    np.testing.assert_array_equal(read_labels(tmp_path / "copy.nii.gz").data, saved.data)


def test_window_with_unsaved_edits_closes_only_if_the_user_wants(panel, qtbot, monkeypatch):
    panel.segment.run_button.click()
    finished(panel, qtbot)
    panel.session.shown.layer.paint((0, 0, 0), 3)
    answers, window = [False, True], panel.window()
    monkeypatch.setattr(panel.edit, "may_close", lambda: answers.pop(0))
    window.show()
    window.close()
    assert answers == [True]
    assert window.isVisible()


def test_choosers_follow_the_layers(panel):
    viewer, chooser = panel.viewer, panel.segment.rows["T1"].layer
    viewer.layers["T1 · patient"].name = "before treatment"
    assert chooser.current_choice == "before treatment"
    chooser.value = None
    assert panel.segment.plan.text().startswith("FLAIR, T1c and T2 will be used. T1 will be")
    viewer.layers.remove("FLAIR · patient")
    assert panel.segment.rows["FLAIR"].layer.current_choice == "missing"
    assert "FLAIR · patient" not in chooser.choices


@pytest.fixture
def held(predictor):
    """Make the predictor wait at every event until `go_on` is set; `reached` tells that it has begun."""
    reached, go_on, run = threading.Event(), threading.Event(), predictor.run

    def slow(case, *, check=False, same_patient=False):
        for event in run(case):
            reached.set()
            go_on.wait(10)
            yield event

    predictor.run = slow
    return reached, go_on


def test_cancel_stops_a_running_thread_and_discards_its_result(held, panel, qtbot):
    reached, go_on = held
    panel.segment.run_button.click()
    qtbot.waitUntil(reached.is_set, timeout=10_000)
    panel.cancel_button.click()
    assert panel.session.state.phase == "cancelling"
    assert not panel.segment.run_button.isEnabled()
    go_on.set()
    finished(panel, qtbot)
    assert not [layer for layer in panel.viewer.layers if layer.name.startswith("M3AE")]
    assert panel.segment.run_button.isEnabled()


def test_closed_panel_stops_its_session(held, panel, qtbot):
    reached, go_on = held
    session = panel.session
    panel.segment.run_button.click()
    qtbot.waitUntil(reached.is_set, timeout=10_000)
    panel.deleteLater()
    qtbot.waitUntil(lambda: session.state.phase == "cancelling", timeout=10_000)
    go_on.set()
    qtbot.waitUntil(lambda: session.state.phase == "idle", timeout=10_000)
    assert not session.state.result


def test_runtime_error_in_the_thread_reaches_the_user(qtbot):
    """A napari worker would swallow it; torch's errors are of this kind."""

    def job():
        yield "first"
        raise RuntimeError("CUDA out of memory")

    events, ends = [], []
    runner = ThreadRunner()
    runner.start(job(), events.append, ends.append)
    qtbot.waitUntil(lambda: bool(ends), timeout=10_000)
    assert events == ["first"]
    assert str(ends[0]) == "CUDA out of memory"


def test_panel_opens_without_torch():
    code = (
        "import sys; from qtpy.QtWidgets import QApplication; app = QApplication([])\n"
        "from napari.components import ViewerModel; from napari_m3ae.widgets.panel import Panel\n"
        "Panel(ViewerModel())\n"
        "print('torch' in sys.modules, 'monai' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT / "src")
    assert done.stdout.split() == ["False", "False"], done.stderr
