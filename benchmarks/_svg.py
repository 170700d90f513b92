"""Two kinds of plots as SVG: dots on a logarithmic scale, one line for each column of a table; and lines."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final
from xml.sax.saxutils import escape

COLORS: Final = (
    *("#1b6ca8", "#d1495b", "#66a182", "#edae49", "#7d4e9e", "#3a3a3a", "#00a6a6", "#b5651d"),
    *("#8d99ae", "#e07a9b", "#5f7f3a", "#c0c000", "#ff7f50", "#4060ff", "#a0522d", "#00c060"),
)
WIDTH: Final = 940
LEFT: Final = 210
RIGHT: Final = 290
ROW: Final = 26
STYLE: Final = "font-family:sans-serif;font-size:12px;fill:#222;stroke:none"


class _Plot:
    """The elements of a plot, and its two logarithmic scales."""

    def __init__(self, title: str, height: int, x: Sequence[float], y: Sequence[float] = ()) -> None:
        self.height = height
        self._x = (math.log10(min(x)), math.log10(max(x)))
        self._y = (math.log10(min(y)), math.log10(max(y))) if y else (0.0, 1.0)
        self.elements = [f'<text x="{LEFT}" y="18" style="{STYLE};font-weight:bold">{escape(title)}</text>']

    def x(self, value: float) -> float:
        low, high = self._x
        return LEFT + (math.log10(value) - low) / (high - low or 1) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        low, high = self._y
        return self.height - 40 - (math.log10(value) - low) / (high - low or 1) * (self.height - 80)

    def text(self, x: float, y: float, text: str, anchor: str = "start") -> None:
        self.elements.append(
            f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" style="{STYLE}">{escape(text)}</text>'
        )

    def line(self, x1: float, y1: float, x2: float, y2: float, color: str = "#ddd") -> None:
        self.elements.append(f'<path d="M{x1:.0f} {y1:.0f}L{x2:.0f} {y2:.0f}" stroke="{color}"/>')

    def dot(self, x: float, y: float, color: str, hint: str) -> None:
        title = f"<title>{escape(hint)}</title>"
        self.elements.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{color}">{title}</circle>')

    def legend(self, names: Sequence[str]) -> None:
        for number, name in enumerate(names):
            y = 50 + number * 18
            self.dot(WIDTH - RIGHT + 18, y - 4, COLORS[number % len(COLORS)], name)
            self.text(WIDTH - RIGHT + 30, y, name.replace("`", ""))

    def svg(self) -> str:
        head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {self.height}" width="{WIDTH}">'
        background = f'<rect width="{WIDTH}" height="{self.height}" fill="#fff"/>'
        return "\n".join([head, background, *self.elements, "</svg>\n"])


def _ticks(low: float, high: float) -> list[float]:
    """Return powers of ten, and for a short scale also twice and five times these."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if high / low < 2_000 else (1,)
    return [each for power in powers for factor in factors if low <= (each := factor * 10.0**power) <= high]


def _shortened(number: float) -> str:
    """Return a round number with k or M for thousands or millions."""
    return f"{number / 1e6:g}M" if number >= 1e6 else f"{number / 1e3:g}k" if number >= 1e3 else f"{number:g}"


def dots(title: str, rows: Mapping[str, Mapping[str, float]], columns: Sequence[str]) -> str:
    """Return a plot with a line for each of *columns*, and on it a dot for each of *rows* that has a value there."""
    values = [value for row in rows.values() for value in row.values()]
    plot = _Plot(title, max(ROW * len(columns) + 80, 18 * len(rows) + 70), (min(0.9, *values), max(1.2, *values)))
    bottom = 34 + ROW * len(columns)
    for tick in _ticks(min(0.9, *values), max(1.2, *values)):
        plot.line(plot.x(tick), 34, plot.x(tick), bottom, "#999" if tick == 1 else "#e4e4e4")
        plot.text(plot.x(tick), bottom + 16, f"{tick:g}", "middle")
    for number, column in enumerate(columns):
        y = 34 + ROW * (number + 0.5)
        plot.line(LEFT, y, WIDTH - RIGHT, y)
        plot.text(LEFT - 10, y + 4, column, "end")
        for color, (name, row) in zip(COLORS, rows.items(), strict=False):
            if row.get(column, 0) > 0:
                plot.dot(plot.x(row[column]), y, color, f"{name}, {column}: {row[column]:.2f}")
    plot.legend(list(rows))
    return plot.svg()


def lines(title: str, rows: Mapping[str, Mapping[float, float]]) -> str:
    """Return a plot with a line for each of *rows*, whose values are points; both scales are logarithmic."""
    xs = [x for row in rows.values() for x in row]
    ys = [y for row in rows.values() for y in row.values()]
    plot = _Plot(title, max(380, 18 * len(rows) + 70), xs, ys)
    for tick in _ticks(min(xs), max(xs)):
        plot.line(plot.x(tick), plot.y(min(ys)), plot.x(tick), plot.y(max(ys)))
        plot.text(plot.x(tick), plot.height - 20, _shortened(tick), "middle")
    for tick in _ticks(min(ys), max(ys)):
        plot.line(LEFT, plot.y(tick), WIDTH - RIGHT, plot.y(tick))
        plot.text(LEFT - 10, plot.y(tick) + 4, f"{tick:,g}", "end")
    for number, (name, row) in enumerate(rows.items()):
        color = COLORS[number % len(COLORS)]
        points = [(plot.x(x), plot.y(y)) for x, y in row.items()]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        plot.elements.append(f'<path d="M{path}" fill="none" stroke="{color}" stroke-width="1.5"/>')
        for (x, y), (size, value) in zip(points, row.items(), strict=True):
            plot.dot(x, y, color, f"{name}, {size:,.0f}: {value:,.2f}")
    plot.legend(list(rows))
    return plot.svg()
