"""Width groups, the space they span, and widths as plain values.

A *width group* is a set of channel axes that must have the same size; a *width space* is the ordered list of a
network's groups; *widths* say how many channels of each group are kept. Nothing here needs torch.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Integral, Real
from random import Random
from typing import Any, TypeAlias

from slimmable.errors import WidthError

Generator: TypeAlias = Random | Any
"""What random widths are drawn with: a ``random.Random`` or a ``torch.Generator``."""


def make_divisible(value: float, divisor: int) -> int:
    r"""The multiple of ``divisor`` nearest to ``value``, never losing more than a tenth of it.

    :math:`n = \max(d, \lfloor (v + d/2) / d \rfloor d)`, and :math:`n + d` if that is below :math:`0.9 v`: the
    rounding of the MobileNet family and of all networks in the papers of this library.

    >>> [make_divisible(32 * width, 8) for width in (0.25, 0.5, 0.75, 1.0)]
    [8, 16, 24, 32]
    >>> make_divisible(11, 8)
    16
    """
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


@dataclass(frozen=True, slots=True, repr=False)
class Widths(Mapping[str, int]):
    """Channels kept in each group of a space: an immutable mapping that hashes and is written to JSON.

    >>> widths = Widths.of({"stem": 16, "head": 32})
    >>> widths["head"], widths.channels
    (32, (16, 32))
    >>> Widths.from_json(widths.to_json()) == widths
    True
    """

    names: tuple[str, ...]
    channels: tuple[int, ...]

    def __post_init__(self) -> None:
        if any(type(kept) is not int for kept in self.channels):  # whole numbers of NumPy's
            plain = (int(kept) if isinstance(kept, Integral) else kept for kept in self.channels)
            object.__setattr__(self, "channels", tuple(plain))

    @staticmethod
    def of(channels: Mapping[str, int]) -> Widths:
        """Widths from a mapping of group names to channels, in its order."""
        return Widths(tuple(channels), tuple(channels.values()))

    def __getitem__(self, name: str) -> int:
        try:
            return self.channels[self.names.index(name)]
        except ValueError:
            raise KeyError(name) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        shown = [f"{name}={kept}" for name, kept in zip(self.names[:4], self.channels, strict=False)]
        more = [f"... {len(self) - 4} more"] if len(self) > 4 else []
        return f"Widths({', '.join(shown + more)})"

    def to_json(self) -> dict[str, int]:
        """A JSON object: channels by group name."""
        return dict(zip(self.names, self.channels, strict=True))

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Widths:
        """The inverse of :meth:`to_json`.

        Raises:
            WidthError: A value is not a whole number.
        """
        for name, kept in value.items():
            if not isinstance(kept, Integral) or isinstance(kept, bool):
                raise WidthError(f"widths: group {name!r} has {kept!r}, expected a whole number of channels")
        return Widths.of(value)


@dataclass(frozen=True, kw_only=True)
class WidthGroup:
    """One width that may vary: the channel axes that share it have the same size.

    Args:
        name: The layer that opens the group.
        base: Channels of the network as it was given (ratio 1).
        minimum: Fewest channels allowed.
        maximum: Most channels allowed; above ``base`` in a widened network.
        divisor: Channels are multiples of it, except ``minimum``, ``base`` and ``maximum`` themselves.
        follows: Another group and a factor: :meth:`WidthSpace.uniform` gives this group ``factor`` times the rounded
            channels of that one, rounded itself where it must be (the expanded width of an inverted bottleneck is 6
            times its *rounded* input, a squeeze a quarter of the *rounded* width it squeezes).

    >>> group = WidthGroup(name="stem", base=32, minimum=8, maximum=32, divisor=8)
    >>> group.choices, group.at(0.6)
    ((8, 16, 24, 32), 24)
    """

    name: str
    base: int
    minimum: int
    maximum: int
    divisor: int
    follows: tuple[str, float] | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.minimum <= self.base <= self.maximum or self.divisor < 1:
            raise WidthError(
                f"group {self.name!r}: expected 1 <= minimum <= base <= maximum and a positive divisor, "
                f"got {self.minimum}, {self.base}, {self.maximum} and {self.divisor}"
            )

    @cached_property
    def choices(self) -> tuple[int, ...]:
        """All allowed channel counts, ascending."""
        first = math.ceil(self.minimum / self.divisor) * self.divisor
        multiples = range(first, self.maximum + 1, self.divisor)
        return tuple(sorted({self.minimum, self.base, self.maximum, *multiples}))

    def at(self, ratio: float) -> int:
        """Channels at ``ratio`` of ``base``, rounded by :func:`make_divisible` and kept inside the range."""
        if ratio == 1:
            return self.base
        rounded = make_divisible(self.base * ratio, self.divisor)
        if ratio < 1:
            rounded = min(rounded, self.base)
        return self.snap(rounded)

    def behind(self, channels: int) -> int:
        """Channels of a group that ``follows`` another one, where that one keeps ``channels``."""
        assert self.follows is not None
        wanted = self.follows[1] * channels
        return self.snap(int(wanted) if wanted in self.choices else make_divisible(wanted, self.divisor))

    def snap(self, channels: int) -> int:
        """The allowed channel count nearest to ``channels`` (the larger of two equally near ones)."""
        return min(self.choices, key=lambda choice: (abs(choice - channels), -choice))


@dataclass(frozen=True)
class WidthSpace:
    """The ordered width groups of a network, and which of them share one ratio.

    ``len(space)`` counts the independent widths: groups joined by ``ties`` count once.

    Args:
        groups: Groups in the order in which the network meets them.
        min_ratio: Smallest multiplier of ``base``.
        max_ratio: Largest multiplier of ``base``.
        ties: Names of groups that share one ratio, a tuple for each set of them.

    >>> stem = WidthGroup(name="stem", base=32, minimum=8, maximum=32, divisor=8)
    >>> space = WidthSpace((stem,), min_ratio=0.25, max_ratio=1.0)
    >>> space.uniform(0.5), len(space)
    (Widths(stem=16), 1)
    """

    groups: tuple[WidthGroup, ...]
    min_ratio: float
    max_ratio: float
    ties: tuple[tuple[str, ...], ...] = ()
    names: tuple[str, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        names = tuple(group.name for group in self.groups)
        object.__setattr__(self, "names", names)
        if len(set(names)) < len(names):
            raise WidthError(f"a width space has two groups of one name: {sorted(names)}")
        tied = [name for tie in self.ties for name in tie]
        for name in [*tied, *(group.follows[0] for group in self.groups if group.follows)]:
            if name not in names:
                raise WidthError(f"there is no width group {name!r}; the groups are {', '.join(names) or 'none'}")
        if len(set(tied)) < len(tied):
            raise WidthError(f"a width group stands in two ties: {self.ties}")
        self._follow_order()

    def __len__(self) -> int:
        return len(self.dimensions)

    def __getitem__(self, name: str) -> WidthGroup:
        if name not in self.names:
            raise WidthError(f"there is no width group {name!r}; the groups are {', '.join(self.names) or 'none'}")
        return self.groups[self.names.index(name)]

    @cached_property
    def dimensions(self) -> tuple[tuple[WidthGroup, ...], ...]:
        """The independent widths: each a tuple of groups that share one ratio; its first one, the finest, leads.

        Groups whose divisor leaves one choice are no width of their own.
        """
        of_tie = {name: tie for tie in self.ties for name in tie}
        sets: dict[tuple[str, ...], list[WidthGroup]] = {}
        for group in self.groups:
            sets.setdefault(of_tie.get(group.name, (group.name,)), []).append(group)
        led = (sorted(members, key=lambda group: (-len(group.choices), -group.base)) for members in sets.values())
        return tuple(tuple(members) for members in led if len(members[0].choices) > 1)

    @property
    def largest(self) -> Widths:
        """Every group at its maximum."""
        return self.led([leader.maximum for leader, *_ in self.dimensions])

    @property
    def smallest(self) -> Widths:
        """Every group at its minimum."""
        return self.led([leader.minimum for leader, *_ in self.dimensions])

    @property
    def base(self) -> Widths:
        """The network as it was given: every group at ratio 1."""
        return Widths(self.names, tuple(group.base for group in self.groups))

    def uniform(self, ratio: float) -> Widths:
        """Every group at ``ratio`` of its base, rounded to its divisor.

        Raises:
            WidthError: ``ratio`` lies outside ``[min_ratio, max_ratio]``.
        """
        return self._at_ratios([self._inside(ratio)] * len(self), follow=True)

    def at_ratios(self, ratios: Sequence[float]) -> Widths:
        """One ratio for each of the ``len(space)`` independent widths, rounded to the divisors.

        Raises:
            WidthError: Another number of ratios, or one outside the range.
        """
        if len(ratios) != len(self):
            raise WidthError(f"expected {len(self)} ratios, one for each independent width, got {len(ratios)}")
        return self._at_ratios(map(self._inside, ratios), follow=False)

    def led(self, channels: Sequence[int]) -> Widths:
        """One choice of the leading group's for each of the ``len(space)`` independent widths.

        Tied groups follow at the ratio of the one that leads them; groups with one choice keep it.

        Raises:
            WidthError: Another number of choices, or one that the leading group does not allow.
        """
        if len(channels) != len(self):
            raise WidthError(f"expected {len(self)} choices, one for each independent width, got {len(channels)}")
        kept = {group.name: group.base for group in self.groups}
        for (leader, *others), wanted in zip(self.dimensions, channels, strict=True):
            _check_choice(leader, wanted)
            kept[leader.name] = wanted
            for group in others:
                kept[group.name] = _tied(leader, wanted, group)
        return Widths.of(kept)

    def random(self, generator: Generator) -> Widths:
        """One ratio for every independent width, drawn uniformly from the range (non-uniform US-Net)."""
        return self._at_ratios([self._drawn(generator) for _ in self.dimensions], follow=False)

    def random_uniform(self, generator: Generator) -> Widths:
        """One ratio for the whole network, drawn uniformly from the range (US-Net's sandwich rule)."""
        return self.uniform(self._drawn(generator))

    def widths(self, channels: Mapping[str, int] | Sequence[int]) -> Widths:
        """Checked widths from channels by name, or from channels in the order of the groups.

        Raises:
            WidthError: A name is unknown or missing, or a value is not allowed.
        """
        if isinstance(channels, Mapping):
            unknown = [name for name in channels if name not in self.names]
            missing = [name for name in self.names if name not in channels]
            if unknown or missing:
                raise WidthError(f"widths do not fit this space: unknown groups {unknown}, missing groups {missing}")
            channels = [channels[name] for name in self.names]
        if len(channels) != len(self.names):
            raise WidthError(f"expected channels for {len(self.names)} groups, got {len(channels)}")
        widths = Widths(self.names, tuple(channels))
        self.check(widths)
        return widths

    def check(self, widths: Widths) -> None:
        """Pass if ``widths`` belong to this space.

        Raises:
            WidthError: Other groups, a channel count that is not allowed, or tied groups at different ratios.
        """
        if not isinstance(widths, Widths):
            raise WidthError(
                f"expected Widths, such as net.space.uniform(0.5), got {type(widths).__name__}: {widths!r}"
            )
        if widths.names != self.names:
            theirs, ours = set(widths.names), set(self.names)
            if theirs == ours:
                raise WidthError("these widths name the groups in another order; read them with space.widths(mapping)")
            raise WidthError(
                "these widths belong to another space: "
                f"unknown groups {sorted(theirs - ours)[:5]}, missing groups {sorted(ours - theirs)[:5]}"
            )
        for group, kept in zip(self.groups, widths.channels, strict=True):
            _check_choice(group, kept)
        for leader, *others in self.dimensions:
            for group in others:
                if widths[group.name] != _tied(leader, widths[leader.name], group):
                    raise WidthError(
                        f"groups {leader.name!r} and {group.name!r} are tied to one ratio, "
                        f"got {widths[leader.name]} of {leader.base} and {widths[group.name]} of {group.base} channels"
                    )

    def to_json(self) -> dict[str, Any]:
        """A JSON object that :meth:`from_json` reads."""
        groups = [
            {"name": g.name, "base": g.base, "minimum": g.minimum, "maximum": g.maximum, "divisor": g.divisor}
            | ({"follows": list(g.follows)} if g.follows else {})
            for g in self.groups
        ]
        ties = [list(tie) for tie in self.ties]
        return {"groups": groups, "min_ratio": self.min_ratio, "max_ratio": self.max_ratio, "ties": ties}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> WidthSpace:
        """The inverse of :meth:`to_json`."""
        entries = ({**entry, "follows": tuple(entry.get("follows") or ()) or None} for entry in value["groups"])
        groups = tuple(WidthGroup(**entry) for entry in entries)
        return WidthSpace(groups, value["min_ratio"], value["max_ratio"], tuple(map(tuple, value["ties"])))

    def _inside(self, ratio: float) -> float:
        if not isinstance(ratio, Real) or not self.min_ratio - 1e-9 <= ratio <= self.max_ratio + 1e-9:
            raise WidthError(
                f"a width ratio of {ratio} lies outside [{self.min_ratio}, {self.max_ratio}]; "
                "convert the network with another min_ratio or max_ratio to reach it"
            )
        return float(ratio)

    def _at_ratios(self, ratios: Iterable[float], *, follow: bool) -> Widths:
        widths = self.led([leader.at(ratio) for (leader, *_), ratio in zip(self.dimensions, ratios, strict=True)])
        if not follow:
            return widths
        kept = dict(widths)
        for group in self._follow_order():
            assert group.follows is not None
            kept[group.name] = group.behind(kept[group.follows[0]])
        return Widths.of(kept)

    def _drawn(self, generator: Generator) -> float:
        """A ratio drawn uniformly from the range."""
        if isinstance(generator, Random):
            return generator.uniform(self.min_ratio, self.max_ratio)
        if type(generator).__module__.partition(".")[0] != "torch":
            raise WidthError(f"expected a random.Random or a torch.Generator to draw from, got {generator!r}")
        torch = sys.modules["torch"]  # loaded, since a generator of it is here; nothing else in this module needs it
        share = torch.rand((), generator=generator, dtype=torch.float64).item()
        return self.min_ratio + share * (self.max_ratio - self.min_ratio)

    def _follow_order(self) -> list[WidthGroup]:
        """Groups that follow another one, each behind the one it follows."""
        ordered: list[WidthGroup] = []
        waiting = {group.name: group for group in self.groups if group.follows}
        while waiting:
            ready = [group for group in waiting.values() if group.follows and group.follows[0] not in waiting]
            if not ready:
                raise WidthError(f"width groups follow each other in a circle: {', '.join(waiting)}")
            ordered += ready
            for group in ready:
                del waiting[group.name]
        return ordered


def _tied(leader: WidthGroup, kept: int, group: WidthGroup) -> int:
    """Channels of ``group`` at the ratio of ``leader``, whose ``kept`` channels say which."""
    if kept == leader.base:
        return group.base
    if kept == leader.maximum:
        return group.maximum
    return group.minimum if kept == leader.minimum else group.at(kept / leader.base)


def _check_choice(group: WidthGroup, kept: int) -> None:
    if kept not in group.choices or not isinstance(kept, Integral):
        raise WidthError(
            f"group {group.name!r} cannot keep {kept} channels; it takes {_listed(group.choices)}; "
            f"the nearest is {group.snap(kept)}"
        )


def _listed(choices: Sequence[int]) -> str:
    if len(choices) <= 8:
        return ", ".join(map(str, choices))
    return f"{choices[0]}, {choices[1]}, {choices[2]}, ..., {choices[-1]}"
