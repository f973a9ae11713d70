"""What conversion found: every group with its layers and range, and every layer that stays fixed, with the reason."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from slimmable.core.layout import Pin
from slimmable.core.space import WidthSpace


@dataclass(frozen=True, kw_only=True)
class GroupReport:
    """A group: the layers whose output it is, and those that read it."""

    name: str
    minimum: int
    base: int
    maximum: int
    divisor: int
    producers: tuple[str, ...]
    consumers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class PinReport:
    """A layer whose output cannot vary, whole or in part.

    Attributes:
        layer: Module path.
        channels: Channels that cannot vary, of how many (``of``).
        reason: Why.
        operator: The operator that pinned it, the module that called it and the line of its code.
    """

    layer: str
    channels: int
    of: int
    reason: str
    operator: str = ""
    module: str = ""
    line: str = ""

    def __str__(self) -> str:
        part = f"{self.channels} of {self.of}" if self.channels < self.of else f"all {self.of}"
        where = _where(self.operator, self.module, self.line)
        return f"{self.layer}: {part} channels stay: {self.reason}{where}"


def _where(operator: str, module: str, line: str) -> str:
    """The operator behind a reason, the module that called it and the line of its code."""
    return f" [{call_place(Pin(reason='', operator=operator, module=module, line=line))}]" if operator else ""


def call_place(pin: Pin) -> str:
    """An operator, the module that called it and the line of its code.

    >>> call_place(Pin(reason="", operator="aten.sort.default", module="head", line="net.py:12"))
    'aten.sort.default in head, net.py:12'
    """
    return pin.operator + (f" in {pin.module}" if pin.module else "") + (f", {pin.line}" if pin.line else "")


@dataclass(frozen=True, kw_only=True)
class OrderReport:
    """In which order the units of a group stand, where channels were sorted by importance.

    Attributes:
        group: Its name.
        score: What its units were sorted by; empty if they kept the given order.
        order: The numbers that its units had in the given network, most important first; empty if they kept it.
        reason: Why they kept it, with the operator and the line of the code that called it.
    """

    group: str
    score: str = ""
    order: tuple[int, ...] = ()
    reason: str = ""

    @staticmethod
    def kept(group: str, why: Pin) -> OrderReport:
        """A group whose units kept the given order."""
        return OrderReport(group=group, reason=why.reason + _where(why.operator, why.module, why.line))


@dataclass(frozen=True, kw_only=True)
class PinSummary:
    """Pins for one reason.

    Attributes:
        pins: At least one.
        reason: Why; numbers in which the pins' reasons differ are left out.
    """

    pins: tuple[PinReport, ...]
    reason: str

    @property
    def layers(self) -> tuple[str, ...]:
        """Module paths, each once."""
        return tuple(dict.fromkeys(pin.layer for pin in self.pins))

    def __str__(self) -> str:
        count = f"{len(self.layers)} layers" if len(self.layers) > 1 else "1 layer"
        lines = {pin.line for pin in self.pins}
        where = ", ".join(filter(None, (self.pins[0].operator, *(lines if len(lines) == 1 else ()))))
        return f"{count}: {self.reason}" + (f" [{where}]" if where else "")


def summarise(pinned: Iterable[PinReport]) -> tuple[PinSummary, ...]:
    """Pins by their reason, the most frequent first: a network of equal blocks has few reasons and many layers.

    Reasons are the same if they differ in nothing but numbers, and no other operator or line of code gave them.

    >>> pins = [PinReport(layer=f"b.{n}", channels=8, of=8, reason=f"size {n}", operator="add") for n in range(12)]
    >>> print(*summarise(pins))
    12 layers: size … [add]
    """
    alike: dict[tuple[str, str, str], list[PinReport]] = {}
    for pin in pinned:
        line = pin.line if pin.operator else ""  # of a layer's own code, which is not what holds it
        alike.setdefault((without_numbers(pin.reason), pin.operator, line), []).append(pin)
    summaries = [
        PinSummary(pins=tuple(pins), reason=pins[0].reason if len({pin.reason for pin in pins}) == 1 else general)
        for (general, *_), pins in alike.items()
    ]
    return tuple(sorted(summaries, key=lambda summary: -len(summary.layers)))


def without_numbers(text: str) -> str:
    """What texts have in common that differ in nothing but numbers.

    >>> without_numbers("12 of 1,024 channels")
    '… of … channels'
    """
    return re.sub(r"\d+([.,]\d+)*", "…", text)


@dataclass(frozen=True, kw_only=True)
class ConversionReport:
    """The outcome of a conversion; ``print(net.report)`` shows it.

    Attributes:
        groups: What varies.
        pinned: What does not, and why.
        layers: Convolution, linear and embedding layers that the network runs.
        elastic: Those of them with an input or output that varies.
        uncounted: Layers whose multiply-accumulates no cost counts, as their operator is not known.
        unknown: Operators without a rule and where they are called, whether they hold anything or not.
        unreached: Parameters that the network did not read on the example; they stay as they are.
        order: In which order the units of each group stand, if channels were sorted by importance.
    """

    groups: tuple[GroupReport, ...]
    pinned: tuple[PinReport, ...]
    layers: tuple[str, ...]
    elastic: tuple[str, ...]
    uncounted: tuple[str, ...]
    unreached: tuple[str, ...]
    space: WidthSpace
    order: tuple[OrderReport, ...] = ()
    unknown: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"{len(self.elastic)} of {len(self.layers)} layers are elastic, in {len(self.groups)} groups"]
        lines += [
            f"  {g.name}: {g.minimum}..{g.maximum} by {g.divisor} (given {g.base}); "
            f"out of {', '.join(g.producers)}; into {', '.join(g.consumers) or 'nothing'}"
            for g in self.groups
        ]
        if self.order:
            by = Counter(each.score for each in self.order if each.score)
            sorted_by = ", ".join(f"{count} by {score}" for score, count in by.items())
            lines += [f"groups sorted, most important channels first: {sorted_by or 'none'}"]
            lines += [f"  {each.group} keeps the given order: {each.reason}" for each in self.order if each.reason]
        if self.pinned:
            lines += ["fixed:", *(f"  {pin}" for pin in self.pinned)]
        if self.unknown:
            lines += [f"operators without a rule: {', '.join(self.unknown)}"]
        if self.uncounted:
            lines += [f"not counted in MACs: {', '.join(self.uncounted)}"]
        if self.unreached:
            lines += [f"not reached by the example: {', '.join(self.unreached)}"]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON object."""
        return {
            "groups": [
                vars(group) | {"producers": list(group.producers), "consumers": list(group.consumers)}
                for group in self.groups
            ],
            "pinned": [dict(vars(pin)) for pin in self.pinned],
            "layers": list(self.layers),
            "elastic": list(self.elastic),
            "uncounted": list(self.uncounted),
            "unknown": list(self.unknown),
            "unreached": list(self.unreached),
            "space": self.space.to_json(),
            "order": [vars(each) | {"order": list(each.order)} for each in self.order],
        }
