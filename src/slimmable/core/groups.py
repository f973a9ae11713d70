"""From the variables of an analysis to a width space with named groups."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from numbers import Integral, Real

from slimmable.core.analysis import Analysis
from slimmable.core.axes import Axis, axis_of
from slimmable.core.layout import Layout
from slimmable.core.space import WidthGroup, WidthSpace, make_divisible
from slimmable.errors import ConversionError


@dataclass(frozen=True, kw_only=True)
class Ranges:
    """How far groups may vary."""

    min_ratio: float
    max_ratio: float
    divisor: int

    def __post_init__(self) -> None:
        for name in ("min_ratio", "max_ratio"):
            if not isinstance(getattr(self, name), Real):
                raise ConversionError(f"{name} must be a number, got {getattr(self, name)!r}")
            object.__setattr__(self, name, float(getattr(self, name)))
        if not 0 < self.min_ratio <= self.max_ratio:
            raise ConversionError(f"expected 0 < min_ratio <= max_ratio, got {self.min_ratio} and {self.max_ratio}")
        if self.max_ratio < 1:
            raise ConversionError(f"max_ratio must be at least 1 (the network as given), got {self.max_ratio}")
        if not isinstance(self.divisor, Integral) or self.divisor < 1:
            raise ConversionError(f"divisor must be a positive whole number, got {self.divisor}")
        object.__setattr__(self, "divisor", int(self.divisor))


@dataclass(frozen=True, kw_only=True)
class Grouping:
    """A space, and how layouts are read in it."""

    space: WidthSpace
    index: Mapping[int, int]
    units: Mapping[int, int]

    def axis(self, layout: Layout) -> Axis:
        """A resolved layout in terms of the space's groups."""
        return axis_of(layout, self.index, self.units)


def group(
    analysis: Analysis,
    ranges: Ranges,
    *,
    tie: Sequence[Sequence[str]],
    follow: Mapping[str, tuple[str, float]],
) -> Grouping:
    """The width space of an analysis.

    A group's channels count positions of the axis that opens it: a grouped convolution whose groups keep ``u``
    channels each has ``groups * u`` channels, in steps of ``groups``.

    Raises:
        ConversionError: A tie or a follower names no group.
    """
    names, units = _openers(analysis)
    groups = tuple(_group(names[var], analysis.variables[var], units[var], ranges) for var in analysis.variables)
    known = [each.name for each in groups]
    by_name = {each.name: each for each in groups}
    followed = tuple(
        each if each.name not in follow else _following(each, follow[each.name], by_name) for each in groups
    )
    for name in follow:
        if name not in known:
            raise ConversionError(f"follow: there is no width group {name!r}; the groups are {', '.join(known)}")
    ties = tuple(filter(None, (tuple(_matching(patterns, known)) for patterns in tie)))
    space = WidthSpace(followed, ranges.min_ratio, ranges.max_ratio, ties)
    index = {var: place for place, var in enumerate(analysis.variables)}
    return Grouping(space=space, index=index, units=units)


def _openers(analysis: Analysis) -> tuple[dict[int, str], dict[int, int]]:
    """A unique name for every variable, and how many channels one unit of it is, from the first axis that opens it."""
    names: dict[int, str] = {}
    units: dict[int, int] = {}
    openings = [(opened.module, analysis.parameters[opened.parameter][opened.axis]) for opened in analysis.opened]
    bare = [(name, layout) for name, axes in analysis.parameters.items() for layout in axes]
    for name, layout in [*openings, *bare]:
        new = dict.fromkeys(block.var for block in layout if block.var is not None and block.var not in names)
        for place, var in enumerate(new):
            assert var is not None
            parts = len({block.var for block in layout if block.var is not None})
            label = name if parts == 1 else f"{name}[{place}]"
            while label in names.values():
                label += "'"
            names[var] = label
            units[var] = sum(block.repeat for block in layout if block.var == var)
    return names, units


def _group(name: str, count: int, unit: int, ranges: Ranges) -> WidthGroup:
    base = count * unit
    divisor = _step(base, unit, ranges.divisor)
    largest = base if ranges.max_ratio == 1 else max(base, make_divisible(base * ranges.max_ratio, divisor))
    smallest = min(base, make_divisible(base * ranges.min_ratio, divisor))
    if ranges.min_ratio == 1:
        smallest = base
    return WidthGroup(name=name, base=base, minimum=smallest, maximum=largest, divisor=divisor)


def _step(base: int, unit: int, divisor: int) -> int:
    """Channels between two choices: a multiple of ``unit`` and, as far as at least two choices remain, of ``divisor``.

    A convolution in 13 groups of 8 channels takes 52 or 104 channels: multiples of 13 and of 8 would leave 104 alone.
    """
    shared = [part for part in range(divisor, 0, -1) if divisor % part == 0]
    steps = [math.lcm(part, unit) for part in shared]
    return steps[0] if unit == 1 else next((step for step in steps if base >= 2 * step), steps[-1])


def _following(each: WidthGroup, rule: tuple[str, float], groups: Mapping[str, WidthGroup]) -> WidthGroup:
    """``each`` with the range of the group it follows times the factor, so that uniform widths never leave it."""
    if not isinstance(rule, tuple | list) or len(rule) != 2:
        raise ConversionError(
            f"follow takes a group and a factor, such as {{{each.name!r}: ('stem', 6)}}; got {rule!r}"
        )
    name, factor = rule
    if name not in groups:
        raise ConversionError(f"follow: there is no width group {name!r}; the groups are {', '.join(groups)}")
    leader = groups[name]
    smallest = min(each.base, make_divisible(factor * leader.minimum, each.divisor))
    largest = max(each.base, make_divisible(factor * leader.maximum, each.divisor))
    return replace(each, minimum=smallest, maximum=largest, follows=rule)


def _matching(patterns: Sequence[str], known: Iterable[str]) -> list[str]:
    """Groups whose names match any of the patterns of one tie.

    Raises:
        ConversionError: A pattern matches none.
    """
    known = list(known)
    if isinstance(patterns, str):
        raise ConversionError(
            f"tie takes a list of sets of group names, such as [['layer1.*.conv1']]; got the text {patterns!r}"
        )
    if not patterns:
        raise ConversionError("tie: a set of groups is empty; leave it out")
    matched: dict[str, None] = {}
    for pattern in patterns:
        found = [name for name in known if fnmatchcase(name, pattern) or name == pattern]
        if not found:
            raise ConversionError(f"tie: no width group matches {pattern!r}; the groups are {', '.join(known)}")
        matched |= dict.fromkeys(found)
    return list(matched)
