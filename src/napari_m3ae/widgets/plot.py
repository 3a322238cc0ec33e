"""Plots in the panel, drawn by matplotlib."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qtpy.QtWidgets import QVBoxLayout, QWidget

from m3ae_core.errors import ConfigError
from m3ae_core.report.canvas import new_figure
from napari_m3ae.runs import Points
from napari_m3ae.widgets.parts import text


class Plot(QWidget):
    """One plot in the colours of the panel, hidden until it is drawn; a sentence where matplotlib is not installed."""

    def __init__(self, tooltip: str, height: int) -> None:
        super().__init__()
        self.setToolTip(tooltip)
        self.setFixedHeight(height)
        self.canvas: Any = None
        self.column = QVBoxLayout(self)
        self.column.setContentsMargins(0, 0, 0, 0)
        self.setVisible(False)

    def draw(self, paint: Callable[[Any], object] | None) -> None:
        """Let `paint` draw on empty axes; None hides the plot."""
        self.setVisible(paint is not None)
        if paint is None:
            return
        if self.canvas is None:
            self.canvas = _new_canvas()
            self.column.addWidget(self.canvas)
        if (figure := getattr(self.canvas, "figure", None)) is None:
            return
        from matplotlib import rc_context

        figure.clear()
        parts = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
        colours: dict[Any, Any] = dict.fromkeys(parts, self.palette().text().color().name())
        with rc_context({**colours, "axes.facecolor": "none", "font.size": 7}):
            paint(figure.add_subplot())
            self.canvas.draw()


def draw_curves(axes: Any, title: str, series: dict[str, Points], *, log: bool) -> None:
    """Draw curves over epochs, with their last values as legend; `log` for a logarithmic scale, else from 0 to 1."""
    for name, points in series.items():
        axes.plot(
            *zip(*points, strict=True), ".-", linewidth=1, markersize=3, label=f"{name} {points[-1][1]:.3g}"
        )
    axes.set_title(title, loc="left")
    axes.set_xlabel("epoch")
    if log:
        axes.set_yscale("log", nonpositive="mask")
    else:
        axes.set_ylim(0, 1)
    axes.legend(frameon=False)


def _new_canvas() -> QWidget:
    try:
        figure = new_figure(3.5, 1.5, "none")
    except ConfigError as error:
        return text("", str(error))
    from matplotlib.backends.backend_qtagg import FigureCanvasQTAgg

    canvas: QWidget = FigureCanvasQTAgg(figure)
    canvas.setStyleSheet("background: transparent")
    return canvas
