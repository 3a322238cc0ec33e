"""Plots in the panel: what they show, and what is said where matplotlib is missing."""

from __future__ import annotations

import math
import sys
from functools import partial

import pytest

from napari_m3ae.widgets.plot import Plot, draw_curves

pytestmark = pytest.mark.viewer


@pytest.fixture
def plot(qtbot) -> Plot:
    plot = Plot("What it shows.", 160)
    plot.resize(380, 160)
    qtbot.addWidget(plot)
    return plot


def test_curves_carry_their_last_values_and_the_colours_of_the_panel(plot):
    series = {"segmentation": [(1, 0.9), (2, math.nan), (3, 0.25)], "consistency": [(1, 0.0), (3, 0.125)]}
    plot.setStyleSheet("color: #123456")
    plot.draw(partial(draw_curves, title="Losses", series=series, log=True))
    (axes,) = plot.canvas.figure.axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "segmentation 0.25",
        "consistency 0.125",
    ]
    assert axes.get_yscale() == "log"
    assert axes.xaxis.label.get_color() == plot.palette().text().color().name()
    assert not plot.isHidden()


def test_another_drawing_takes_the_place_of_the_first_and_none_hides_the_plot(plot):
    for last in (0.5, 0.75):
        plot.draw(partial(draw_curves, title="Dice", series={"WT": [(1, last)]}, log=False))
    (axes,) = plot.canvas.figure.axes
    assert axes.lines[0].get_ydata() == [0.75]
    assert axes.get_ylim() == (0, 1)
    plot.draw(None)
    assert plot.isHidden()


def test_without_matplotlib_a_sentence_says_what_to_install(plot, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for _ in range(2):
        plot.draw(lambda axes: axes.plot([1, 2]))
    assert "pip install 'napari-m3ae[report]'" in plot.canvas.text()
    assert plot.column.count() == 1
