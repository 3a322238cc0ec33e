"""Figures drawn without a display: the one place that finds matplotlib (extra ``report``), and how images look."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from m3ae_core.extras import require_extra
from m3ae_core.regions import ALL_COLOURS


def new_figure(width: float, height: float, colour: str = "white") -> Any:
    """Return an empty figure of this size in inches, on a background of this colour.

    Raises
    ------
    ConfigError
        If matplotlib is not installed.
    """
    require_extra("report")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor=colour, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def tissue_overlay(masks: Mapping[str, npt.NDArray[np.bool_]]) -> npt.NDArray[np.float32]:
    """Return a translucent RGBA overlay (…, 4) of one mask (…) a tissue."""
    from matplotlib.colors import to_rgba

    overlay = np.zeros((*next(iter(masks.values())).shape, 4), np.float32)
    for tissue, mask in masks.items():
        overlay[mask] = to_rgba(ALL_COLOURS[tissue], 0.6)
    return overlay


def grey_range(image: npt.NDArray[Any]) -> tuple[float, float]:
    """Return limits of grey that ignore the empty background and a few bright voxels."""
    tissue = image[image != 0]
    low, high = np.percentile(tissue, (0.5, 99.5)).tolist() if tissue.size else (0.0, 1.0)
    return min(low, 0.0), max(high, low + 1e-6)


def draw_slice(
    panel: Any,
    image: npt.NDArray[Any],
    limits: Sequence[float],
    title: str,
    overlay: npt.NDArray[np.float32] | None = None,
    **look: Any,
) -> None:
    """Draw a slice (H, W) in greys between `limits`, and an RGBA overlay (H, W, 4) on it; `look` is imshow's."""
    panel.imshow(image, cmap="gray", vmin=limits[0], vmax=limits[1], **look)
    if overlay is not None:
        panel.imshow(overlay, **look)
    panel.set_title(title, color="white", fontsize=9)
    panel.set_axis_off()


def data_uri(figure: Any) -> str:
    """Return a figure as a PNG that can stand in an HTML page itself."""
    stream = io.BytesIO()
    figure.savefig(stream, dpi=110, format="png")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
