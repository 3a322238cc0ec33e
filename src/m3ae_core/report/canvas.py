"""Figures drawn without a display: the one place that finds matplotlib (extra ``report``)."""

from __future__ import annotations

import base64
import io
from typing import Any

from m3ae_core.errors import ConfigError


def new_figure(width: float, height: float, colour: str = "white") -> Any:
    """Return an empty figure of this size in inches, on a background of this colour.

    Raises
    ------
    ConfigError
        If matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError(
            "Figures need matplotlib, which is not installed.",
            "Run: pip install 'napari-m3ae[report]'.",
            code="no-matplotlib",
        ) from error
    figure = Figure(figsize=(width, height), facecolor=colour, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def data_uri(figure: Any) -> str:
    """Return a figure as a PNG that can stand in an HTML page itself."""
    stream = io.BytesIO()
    figure.savefig(stream, dpi=110, format="png")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
