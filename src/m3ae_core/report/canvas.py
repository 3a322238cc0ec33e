"""Empty matplotlib figures that need no display."""

from __future__ import annotations

from typing import Any

from m3ae_core.errors import ConfigError


def blank(size: tuple[float, float], colour: str) -> Any:
    """Return a figure of `size` (width, height; inches) on a background of `colour`, drawn off screen.

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
    figure = Figure(figsize=size, facecolor=colour, layout="constrained")
    FigureCanvasAgg(figure)
    return figure
