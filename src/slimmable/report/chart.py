"""Line charts as SVG: no library, no script, one small text that any browser shows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from slimmable.errors import DataError

Point = tuple[float, float]

WIDTH, HEIGHT = 760, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 180, 40, 50
_COLOURS = ("#1b6ca8", "#c8553d", "#3c8d5a", "#8a5fb0", "#b8862b", "#4a4a4a", "#2aa5a0", "#d0649a")


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float
    ticks: tuple[float, ...]
    first: float
    last: float

    def place(self, value: float) -> float:
        return self.first + (value - self.low) / (self.high - self.low) * (self.last - self.first)


def line_chart(
    series: Mapping[str, Sequence[Point]],
    *,
    title: str,
    x: str,
    y: str,
    steps: bool = False,
    levels: Mapping[str, float] | None = None,
) -> str:
    """A chart of lines with markers, a legend, and levels as dashed lines.

    Args:
        series: Points of each line, by its name.
        title: Above the chart.
        x: What the horizontal axis shows, with its unit.
        y: What the vertical axis shows, with its unit.
        steps: Whether a line keeps its value until the next point.
        levels: Values of ``y`` to mark, by name.

    Returns:
        The text of an SVG file.

    Raises:
        DataError: No finite point.

    >>> line_chart({"a": [(0, 1), (1, 2)]}, title="t", x="s", y="ms").startswith("<svg")
    True
    """
    levels = levels or {}
    points = [point for each in series.values() for point in each if all(map(math.isfinite, point))]
    if not points:
        raise DataError("a chart needs at least one point whose coordinates are finite")
    across = _axis([point[0] for point in points], _LEFT, WIDTH - _RIGHT)
    up = _axis([0.0, *(point[1] for point in points), *levels.values()], HEIGHT - _BOTTOM, _TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(WIDTH / 2, 22, title, anchor="middle", size=15),
        _text((_LEFT + WIDTH - _RIGHT) / 2, HEIGHT - 12, x, anchor="middle"),
        f'<g transform="rotate(-90 18 {HEIGHT / 2})">{_text(18, HEIGHT / 2, y, anchor="middle")}</g>',
    ]
    for tick in up.ticks:
        at = up.place(tick)
        parts += [
            _line((_LEFT, at), (WIDTH - _RIGHT, at), "#dddddd"),
            _text(_LEFT - 8, at + 4, f"{tick:g}", anchor="end"),
        ]
    for tick in across.ticks:
        at = across.place(tick)
        parts += [
            _line((at, HEIGHT - _BOTTOM), (at, HEIGHT - _BOTTOM + 5), "#888888"),
            _text(at, HEIGHT - _BOTTOM + 19, f"{tick:g}", anchor="middle"),
        ]
    parts.append(_line((_LEFT, HEIGHT - _BOTTOM), (WIDTH - _RIGHT, HEIGHT - _BOTTOM), "#888888"))
    for name, level in levels.items():
        at = up.place(level)
        parts.append(_line((_LEFT, at), (WIDTH - _RIGHT, at), "#555555", dash="6 4"))
        parts.append(_text(WIDTH - _RIGHT + 8, at + 4, name))
    for place, (name, its) in enumerate(series.items()):
        colour = _COLOURS[place % len(_COLOURS)]
        drawn = [(across.place(a), up.place(b)) for a, b in its if math.isfinite(a) and math.isfinite(b)]
        if steps:
            drawn = [
                corner for a, b in zip(drawn, [*drawn[1:], drawn[-1]], strict=True) for corner in (a, (b[0], a[1]))
            ]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in drawn)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        if not steps and len(drawn) <= 40:
            parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{colour}"/>' for a, b in drawn]
        at = _TOP + 18 * place + 10
        parts += [
            _line((WIDTH - _RIGHT + 10, at), (WIDTH - _RIGHT + 30, at), colour),
            _text(WIDTH - _RIGHT + 36, at + 4, name),
        ]
    return "\n".join([*parts, "</svg>", ""])


def stacked(charts: Sequence[str]) -> str:
    """Charts of :func:`line_chart`, one below the other.

    >>> chart = line_chart({"a": [(0, 1)]}, title="t", x="s", y="ms")
    >>> stacked([chart, chart]).count("<svg")
    3
    """
    size = f'width="{WIDTH}" height="{HEIGHT * len(charts)}"'
    placed = [chart.replace("<svg ", f'<svg y="{HEIGHT * place}" ', 1) for place, chart in enumerate(charts)]
    return "\n".join([f'<svg xmlns="http://www.w3.org/2000/svg" {size}>', *placed, "</svg>", ""])


def _axis(values: Sequence[float], first: float, last: float) -> _Axis:
    """Ticks at multiples of 1, 2 or 5 times a power of ten around some values.

    >>> _axis([0, 7.2], 0, 100).ticks
    (0.0, 2.0, 4.0, 6.0, 8.0)
    """
    low, high = min(values), max(values)
    if high == low:
        low, high = low - 0.5, high + 0.5
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    begin, end = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(round(at * step, 12) for at in range(begin, end + 1))
    return _Axis(ticks[0], ticks[-1], ticks, first, last)


def _line(start: Point, end: Point, colour: str, *, dash: str = "") -> str:
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'<line x1="{start[0]:.1f}" y1="{start[1]:.1f}" x2="{end[0]:.1f}" y2="{end[1]:.1f}" stroke="{colour}"{dashed}/>'
    )


def _text(x: float, y: float, content: str, *, anchor: str = "start", size: int = 12) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">{escape(content)}</text>'
