"""What an analysis foresees that a network does at given widths."""

from __future__ import annotations

from collections import Counter

from torch import fx

from slimmable.core.analysis import Analysis
from slimmable.core.groups import Grouping
from slimmable.core.space import Widths
from slimmable.core.trace import Call


class Foreseen:
    """Shapes that an analysis foresees at given widths."""

    def __init__(self, analysis: Analysis, grouping: Grouping, widths: Widths) -> None:
        self.calls = analysis.trace.calls
        self._tensors = analysis.tensors
        self._expected = analysis.expected
        self._grouping = grouping
        self._channels = widths.channels
        self._of_node = {call.node: call for call in self.calls}

    def shapes(self, node: fx.Node) -> list[tuple[int, ...]]:
        """Shapes of a node's outputs."""
        axes_of = self._grouping.axis
        return [tuple(axes_of(layout).size(self._channels) for layout in axes) for axes in self._tensors[node]]

    def arguments(self, node: fx.Node) -> dict[str, int]:
        """Values of a call's arguments that are sizes of axes."""
        axis_of = self._grouping.axis
        return {
            name: axis_of(layout).size(self._channels)
            for (call, name), layout in self._expected.items()
            if call is node
        }

    def inputs(self) -> dict[str, tuple[Call, tuple[int, ...]]]:
        """For modules called once that begin with another module's tensor: the call that makes it, and its shape."""
        found: dict[str, tuple[Call, tuple[int, ...]]] = {}
        entries: Counter[str] = Counter()
        for call in self.calls:
            source = call.values.get("input", call.values.get("self"))
            maker = self._of_node.get(source) if isinstance(source, fx.Node) else None
            if maker is not None and call.module and not f"{maker.module}.".startswith(f"{call.module}."):
                entries[call.module] += 1
                found[call.module] = (maker, self.shapes(maker.node)[0])
        return {path: entry for path, entry in found.items() if entries[path] == 1}
