"""Two traces of one network: which arguments of its operators differ where the batch, the mode or the widths do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from slimmable.core.graphs import Batch, Mode, Place, parts
from slimmable.core.trace import Call, Trace, shapes_of

COPIES = ("aten.contiguous.default", "aten.clone.default")
"""Left out by tracing where a tensor happens to be contiguous."""


def without_copies(graph: Trace) -> list[Call]:
    """Calls that do not depend on how tensors lie in memory."""
    return [call for call in graph.calls if call.name not in COPIES]


def uncounted(graph: Trace) -> Trace:
    """The graph without batch norm's counting of batches, which a program does itself."""

    def counts(call: Call) -> bool:
        source = call.values.get("self")
        name = graph.parameters.get(source, "") if isinstance(source, fx.Node) else ""
        return call.name.startswith("aten.add_") and name.endswith("num_batches_tracked") and not call.node.users

    return replace(graph, calls=tuple(call for call in graph.calls if not counts(call)))


def pairs(call: Call, other: Call) -> Iterator[tuple[str, int | None, Any, Any]]:
    """Arguments of two calls of one operator; what one has and the other has not is paired with None."""
    for name, value in call.values.items():
        one, two = dict(parts(value)), dict(parts(other.values.get(name)))
        for at in dict.fromkeys([*one, *two]):
            yield name, at, one.get(at), two.get(at)


def alike(value: Any, other: Any) -> bool:
    """Whether two arguments are the same; which node an argument is follows from the order of the calls."""
    if isinstance(value, fx.Node) or isinstance(other, fx.Node):
        return isinstance(value, fx.Node) and isinstance(other, fx.Node)
    if isinstance(value, torch.device):
        return isinstance(other, torch.device)
    return type(value) is type(other) and (value == other or value != value)


def same_slice(call: Call, name: str, value: Any, other: Any) -> bool:
    """Whether two numbers mean one place of the axis that a slice cuts."""
    if name not in ("start", "end") or not call.name.startswith("aten.slice"):
        return False
    length = shapes_of(call.values["self"])[0][call.values["dim"] or 0]

    def place(number: int | None) -> int:
        if number is None:
            return 0 if name == "start" else length
        return min(number if number >= 0 else number + length, length)

    return place(value) == place(other)


def shares_batch(graph: Trace) -> bool:
    """Whether all inputs begin with the batch."""
    inputs = [node for node in graph.inputs if node not in graph.signature.constants and shapes_of(node)]
    return bool(inputs) and all(shapes_of(node)[0][:1] == (graph.batch,) for node in inputs)


def compared(graph: Trace, other: Trace, *, modes: bool) -> dict[Place, Batch | Mode] | None:
    """What differs in the graph of a batch larger by one, or of training mode; None if it is no number and no flag."""
    notes: dict[Place, Batch | Mode] = {}
    mine, theirs = without_copies(graph), without_copies(other)
    if [(call.name, call.module) for call in mine] != [(call.name, call.module) for call in theirs]:
        return None
    for call, partner in zip(mine, theirs, strict=True):
        for name, at, value, found in pairs(call, partner):
            if alike(value, found):
                continue
            if modes and _are_flags(value, found):
                notes[call.node, name, at] = Mode(value, found)
            elif type(value) is int and type(found) is int and other.batch == graph.batch + 1:
                notes[call.node, name, at] = Batch(found - value, value - (found - value) * graph.batch)
            else:
                return None
    return notes


def flags(graph: Trace, other: Trace, *, swapped: bool = False) -> dict[Place, Batch | Mode]:
    """Flags of calls that differ in the graph of the other mode, in so far as it has the same calls."""
    partners: dict[tuple[str, str], list[Call]] = {}
    for call in without_copies(other):
        partners.setdefault((call.name, call.module), []).append(call)
    notes: dict[Place, Batch | Mode] = {}
    for call in without_copies(graph):
        its = partners.get((call.name, call.module))
        for name, at, value, theirs in pairs(call, its.pop(0)) if its else ():
            if _are_flags(value, theirs) and value != theirs:
                notes[call.node, name, at] = Mode(theirs, value) if swapped else Mode(value, theirs)
    return notes


def _are_flags(value: Any, other: Any) -> bool:
    return type(value) in (bool, float) and type(other) is type(value)
