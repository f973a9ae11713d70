"""Axes in terms of width groups: which positions are active at given widths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from slimmable.core.layout import Layout


@dataclass(frozen=True)
class Segment:
    """A run of positions of an axis: ``repeat`` positions for every ``unit`` channels of a group.

    ``group`` is the group's place in the space; None for ``repeat`` constant positions.
    """

    group: int | None
    repeat: int
    unit: int = 1

    def size(self, channels: Sequence[int]) -> int:
        """Active positions."""
        return self.repeat if self.group is None else channels[self.group] // self.unit * self.repeat


@dataclass(frozen=True)
class Axis:
    """The segments of an axis; a width keeps the first positions of each.

    A concatenation of two groups of at most 4 and 2 channels:

    >>> joined = Axis((Segment(0, 1), Segment(1, 1)))
    >>> joined.active(channels=(3, 1), maximum=(4, 2))
    [(0, 3), (4, 1)]
    """

    segments: tuple[Segment, ...]

    @property
    def varies(self) -> bool:
        """Whether any segment belongs to a group."""
        return any(segment.group is not None for segment in self.segments)

    def size(self, channels: Sequence[int]) -> int:
        """Active positions."""
        total, terms = self._terms
        for group, unit, repeat in terms:
            total += channels[group] // unit * repeat
        return total

    @cached_property
    def _terms(self) -> tuple[int, tuple[tuple[int, int, int], ...]]:
        """Constant positions; group, unit and positions of the segments that vary, those of one group in one term."""
        constant = 0
        terms: dict[tuple[int, int], int] = {}
        for segment in self.segments:
            if segment.group is None:
                constant += segment.repeat
            else:
                key = (segment.group, segment.unit)
                terms[key] = terms.get(key, 0) + segment.repeat
        return constant, tuple((group, unit, repeat) for (group, unit), repeat in terms.items())

    def active(self, channels: Sequence[int], maximum: Sequence[int]) -> list[tuple[int, int]]:
        """Start and length of every active run among the positions at full width; runs that touch are joined."""
        runs: list[tuple[int, int]] = []
        start = 0
        for segment in self.segments:
            length = segment.size(channels)
            if runs and runs[-1][0] + runs[-1][1] == start:
                runs[-1] = (runs[-1][0], runs[-1][1] + length)
            elif length:
                runs.append((start, length))
            start += segment.size(maximum)
        return runs

    def leading(self, channels: Sequence[int], maximum: Sequence[int]) -> bool:
        """Whether the active positions are one run from the first position on.

        >>> joined = Axis((Segment(0, 1), Segment(1, 1)))
        >>> joined.leading(channels=(4, 1), maximum=(4, 2)), joined.leading(channels=(3, 1), maximum=(4, 2))
        (True, False)
        """
        segments = iter(self.segments)
        for segment in segments:
            if segment.size(channels) < segment.size(maximum):
                break
        return all(segment.size(channels) == 0 for segment in segments)


def axis_of(layout: Layout, groups: Mapping[int, int], units: Mapping[int, int]) -> Axis:
    """An axis from a resolved layout, given each variable's place in the space and its channels for one unit."""
    return Axis(
        tuple(
            Segment(None, block.repeat)
            if block.var is None
            else Segment(groups[block.var], block.repeat, units[block.var])
            for block in layout
        )
    )
