"""Lines over time as an SVG, one panel below the other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

WIDE, HIGH, LEFT, GAP = 720, 150, 70, 34
COLOURS = ("#0b62a4", "#c1440e", "#4d8f1f", "#777777")


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Lines that share an axis.

    Attributes:
        title: What is shown, with its unit.
        lines: Points ``(x, y)`` by the name of the line.
        ticks: Values at which the axis is labelled, with their labels.
        logarithmic: Whether the axis is.
    """

    title: str
    lines: Mapping[str, Sequence[tuple[float, float]]]
    ticks: Mapping[float, str] = field(default_factory=dict)
    logarithmic: bool = False

    def height(self, value: float) -> float:
        """Where a value lies, from 0 at the bottom to 1 at the top."""
        values = [y for line in self.lines.values() for _, y in line if math.isfinite(y)] + list(self.ticks)
        scale = math.log if self.logarithmic else float
        low, high = scale(min(values)), scale(max(values))
        return min(1.0, (scale(value) - low) / (high - low or 1.0)) if math.isfinite(value) else 1.0


def svg(panels: Sequence[Panel], *, until: float) -> str:
    """A picture of all panels over the same seconds, from 0 to ``until``."""
    size = f'width="{LEFT + WIDE + 20}" height="{len(panels) * (HIGH + GAP) + 30}"'
    found = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} '
        'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="white"/>'
    ]
    for place, panel in enumerate(panels):
        top = place * (HIGH + GAP) + GAP
        found.append(f'<text x="{LEFT}" y="{top - 8}" font-weight="bold">{escape(panel.title)}</text>')
        found.append(f'<rect x="{LEFT}" y="{top}" width="{WIDE}" height="{HIGH}" fill="none" stroke="#999"/>')
        for value, label in panel.ticks.items():
            y = top + HIGH * (1 - panel.height(value))
            found.append(f'<line x1="{LEFT}" x2="{LEFT + WIDE}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
            found.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{escape(label)}</text>')
        for number, (name, line) in enumerate(panel.lines.items()):
            colour = COLOURS[number % len(COLOURS)]
            points = " ".join(
                f"{LEFT + WIDE * x / until:.1f},{top + HIGH * (1 - panel.height(y)):.1f}" for x, y in line
            )
            found.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
            x = LEFT + WIDE - 8 - 130 * (len(panel.lines) - 1 - number)
            found.append(f'<text x="{x}" y="{top - 8}" fill="{colour}" text-anchor="end">{escape(name)}</text>')
    seconds = range(0, int(until) + 1, 10)
    bottom = len(panels) * (HIGH + GAP) + 14
    found += [
        f'<text x="{LEFT + WIDE * second / until:.1f}" y="{bottom}" text-anchor="middle">{second} s</text>'
        for second in seconds
    ]
    return "\n".join([*found, "</svg>"]) + "\n"
