"""Curves over epochs."""

from __future__ import annotations

import math

from qtpy.QtCore import QPointF, QRectF, Qt
from qtpy.QtGui import QColor, QPainter, QPaintEvent, QPolygonF
from qtpy.QtWidgets import QWidget

from napari_m3ae.runs import Points


class Plot(QWidget):
    """Curves over epochs, with their last values as legend."""

    COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b")
    HEIGHT, MARGIN = 140, 16

    def __init__(self, title: str, tooltip: str, *, log: bool) -> None:
        super().__init__()
        self.setFixedHeight(self.HEIGHT)
        self.setToolTip(tooltip)
        self.title, self.log = title, log
        self.series: dict[str, Points] = {}

    def draw(self, series: dict[str, Points]) -> None:
        """Show these curves; none hides the plot."""
        self.series = series
        self.setVisible(bool(series))
        self.update()

    def paintEvent(self, event: QPaintEvent | None) -> None:  # noqa: ARG002, N802  Qt's name
        """Draw the curves, their range and their legend."""
        curves = {name: self._scaled(points) for name, points in self.series.items()}
        places = [point for points in curves.values() for point in points]
        if not places:
            return
        first, last = min(x for x, _ in places), max(x for x, _ in places)
        low, high = (min(y for _, y in places), max(y for _, y in places)) if self.log else (0.0, 1.0)
        box = QRectF(self.rect()).adjusted(2, self.MARGIN, -2, -self.MARGIN)
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(self.palette().mid().color())
        painter.drawRect(box)
        for colour, points in zip(self._colours(), curves.values(), strict=False):
            painter.setPen(colour)
            line = [
                QPointF(
                    box.left() + box.width() * (x - first) / max(last - first, 1),
                    box.bottom() - box.height() * (y - low) / max(high - low, 1e-9),
                )
                for x, y in points
            ]
            painter.drawPolyline(QPolygonF(line))
            for point in line if len(line) < 30 else ():
                painter.drawEllipse(point, 1.5, 1.5)
        self._write(painter, box, (first, last), (low, high))
        painter.end()

    def _scaled(self, points: Points) -> Points:
        """Leave out what cannot be drawn."""
        finite = [(x, y) for x, y in points if math.isfinite(y) and (y > 0 or not self.log)]
        return [(x, math.log10(y)) for x, y in finite] if self.log else finite

    def _colours(self) -> list[QColor]:
        return [QColor(self.COLOURS[i % len(self.COLOURS)]) for i in range(len(self.series))]

    def _write(
        self, painter: QPainter, box: QRectF, epochs: tuple[int, int], values: tuple[float, float]
    ) -> None:
        low, high = (10**value if self.log else value for value in values)
        left, right = Qt.AlignmentFlag.AlignLeft, Qt.AlignmentFlag.AlignRight
        below = QRectF(box.left(), box.bottom(), box.width(), self.MARGIN)
        painter.setPen(self.palette().text().color())
        painter.drawText(below, left, f"epoch {epochs[0]}")
        painter.drawText(below, right, str(epochs[1]))
        painter.drawText(box.adjusted(4, 0, -4, 0), left | Qt.AlignmentFlag.AlignTop, f"{high:.2g}")
        painter.drawText(box.adjusted(4, 0, -4, 0), left | Qt.AlignmentFlag.AlignBottom, f"{low:.2g}")
        above = QRectF(box.left(), 0, box.width(), self.MARGIN)
        painter.drawText(above, left, self.title)
        for colour, (name, points) in reversed(list(zip(self._colours(), self.series.items(), strict=True))):
            words = f"  {name} {points[-1][1]:.3g}"
            painter.setPen(colour)
            painter.drawText(above, right, words)
            above.setRight(above.right() - painter.fontMetrics().horizontalAdvance(words))
