"""Multiply-accumulates, parameters and activation memory of any widths, in closed form from the graph.

Conventions: one MAC per multiply-accumulate of convolutions, linear layers, matrix products and attention
(``torch.utils.flop_counter`` counts two FLOPs for each); element-wise operators, poolings and normalisation count
nothing, as in all papers of this library.

Figures are those of one example (a batch of one): what depends on the inputs that hold an entry for each example is
divided by their number, and all else, such as what is computed from a table of positions, counts once. Where the
inputs that the network was converted with have no leading size that counts examples (an image without a batch), figures
are those of these inputs as they are (see :func:`slimmable.core.examples.count_examples`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from math import prod
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from slimmable.core.axes import Axis
from slimmable.core.layout import Layout
from slimmable.core.model import SlimmableModel
from slimmable.core.space import Widths, WidthSpace
from slimmable.core.trace import Call, Trace, shapes_of

Integers = NDArray[np.int64]


class CostModel:
    """Costs of a network as functions of its widths, for thousands of widths at once.

    Every cost is a sum of products of axis sizes, and every axis size is linear in the channels of the groups.

    Args:
        net: A converted network.

    Example:
        >>> import torch, slimmable
        >>> plain = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
        >>> net = slimmable.convert(plain, torch.zeros(1, 8))
        >>> costs = slimmable.CostModel(net)
        >>> costs.macs([net.space.smallest, net.space.largest])      # 8 k + 4 k for k hidden units
        array([ 96, 384])
    """

    def __init__(self, net: SlimmableModel) -> None:
        self.space: WidthSpace = net.space
        self._axes = _AxisTable(net)
        analysis, repeated = net.analysis, _repeated(net.analysis.trace)
        self._examples = analysis.trace.examples
        terms = [(call.node, (term.constant, self._axes.places(term.layouts))) for call, term in analysis.macs]
        self._macs = [term for node, term in terms if node in repeated]
        self._macs_once = [term for node, term in terms if node not in repeated]
        reached = {name: axes for name, axes in analysis.parameters.items() if name not in analysis.buffers}
        self._parameters = [(1, self._axes.places(axes)) for axes in reached.values()]
        self._parameters += [(count, []) for count in _unreached(net)]
        self._live = _Liveness(net, self._axes, repeated)

    def macs(self, widths: Sequence[Widths]) -> Integers:
        """Multiply-accumulates of one example at each of the widths, shape ``(len(widths),)``."""
        sizes = self._sizes(widths)
        return _products(self._macs, sizes) // self._examples + _products(self._macs_once, sizes)

    def parameters(self, widths: Sequence[Widths]) -> Integers:
        """Parameters of the extracted network at each of the widths, batch norm's gains and shifts included."""
        return _products(self._parameters, self._sizes(widths))

    def activation_bytes(self, widths: Sequence[Widths]) -> Integers:
        """Peak bytes of live activations of one example in inference, at each of the widths.

        A tensor lives from the operator that makes it to the last one that reads it (or to the end, if it is
        returned); views and in-place results share their source's memory. Operators run in the order of the graph.
        The network's input counts, its weights do not.
        """
        return self._live.peak(self._sizes(widths))

    def memory_bytes(self, widths: Sequence[Widths]) -> Integers:
        """Bytes of all parameters and buffers of the graph plus the peak of live activations, at each of the widths.

        PareCO's second cost, which its texts do not define, for devices that hold the whole network in memory.
        """
        sizes = self._sizes(widths)
        return _products(self._live.weights, sizes) + self._live.peak(sizes)

    def peak_memory_bytes(self, widths: Sequence[Widths]) -> Integers:
        """Most bytes, over the operators, of live activations and of the weights that the operator reads.

        PareCO's second cost for devices that fetch each layer's weights when its turn comes.
        """
        return self._live.peak_with_weights(self._sizes(widths))

    def _sizes(self, widths: Sequence[Widths]) -> Integers:
        return self._axes.sizes(channels_of(self.space, widths))


def channels_of(space: WidthSpace, widths_list: Sequence[Widths]) -> Integers:
    """Channels of many widths, shape ``(len(widths_list), groups)``.

    Raises:
        WidthError: Widths of other groups than those of ``space``.
    """
    for each in widths_list:
        if each.names != space.names:
            space.check(each)
    channels = np.array([each.channels for each in widths_list], dtype=np.int64)
    return channels.reshape(len(widths_list), len(space.groups))


def macs(net: SlimmableModel, widths: Widths) -> int:
    """Multiply-accumulates of one example at ``widths``: convolutions, linear layers, matrix products, attention.

    Raises:
        WidthError: ``widths`` do not belong to the network.
    """
    return _one(net, "macs", widths)


def parameters(net: SlimmableModel, widths: Widths) -> int:
    """Parameters of the network extracted at ``widths``.

    Raises:
        WidthError: ``widths`` do not belong to the network.
    """
    return _one(net, "parameters", widths)


def activation_bytes(net: SlimmableModel, widths: Widths) -> int:
    """Peak bytes of live activations of one example at ``widths`` (see :meth:`CostModel.activation_bytes`).

    Raises:
        WidthError: ``widths`` do not belong to the network.
    """
    return _one(net, "activation_bytes", widths)


_MODELS: WeakKeyDictionary[SlimmableModel, CostModel] = WeakKeyDictionary()


def _one(net: SlimmableModel, cost: str, widths: Widths) -> int:
    net.space.check(widths)
    if net not in _MODELS:
        _MODELS[net] = CostModel(net)
    return int(getattr(_MODELS[net], cost)([widths])[0])


class _AxisTable:
    """All different axes of a network, with their sizes as a linear function of channels."""

    def __init__(self, net: SlimmableModel) -> None:
        self._axis = net.grouping.axis
        self._groups = len(net.space.groups)
        self._place: dict[Axis, int] = {}

    def places(self, layouts: Iterable[Layout]) -> list[int]:
        """Places of axes in the table."""
        return [self._place.setdefault(self._axis(layout), len(self._place)) for layout in layouts]

    def sizes(self, channels: Integers) -> Integers:
        """Positions of every axis, shape ``(len(channels), axes)``."""
        sizes = np.zeros((len(channels), len(self._place)), dtype=np.int64)
        for axis, place in self._place.items():
            for segment in axis.segments:
                if segment.group is None:
                    sizes[:, place] += segment.repeat
                else:
                    sizes[:, place] += channels[:, segment.group] // segment.unit * segment.repeat
        return sizes


def _repeated(trace: Trace) -> set[fx.Node]:
    """Nodes that hold an entry for each example: what depends on such an input, and what code makes as long."""
    found = {node for node in trace.inputs if node not in trace.signature.constants and _is_as_long(trace, node)}
    for call in trace.calls:
        sources = call.node.all_input_nodes
        makes = not sources or call.name.startswith(("aten.expand", "aten.repeat"))
        if not found.isdisjoint(sources) or (makes and _is_as_long(trace, call.node)):
            found.add(call.node)
    return found


def _is_as_long(trace: Trace, node: fx.Node) -> bool:
    return trace.examples > 1 and any(shape[:1] == (trace.examples,) for shape in shapes_of(node))


class _Liveness:
    """Which tensors are alive at which operator."""

    def __init__(self, net: SlimmableModel, axes: _AxisTable, repeated: AbstractSet[fx.Node]) -> None:
        analysis = net.analysis
        self._examples = analysis.trace.examples
        trace = analysis.trace
        roots: dict[fx.Node, fx.Node] = {}
        self._terms: list[tuple[int, list[int]]] = []
        spans: dict[fx.Node, list[int]] = {}
        for node in trace.inputs:
            roots[node] = node
            spans[node] = [0, 0]
        for position, call in enumerate(trace.calls):
            source = call.values.get("self", call.values.get("input"))
            shared = isinstance(source, fx.Node) and source in roots and _shares_memory(call)
            root = roots[source] if shared else call.node  # pyright: ignore[reportArgumentType]
            roots[call.node] = root
            spans.setdefault(root, [position, position])
            for read in [call.node, *call.node.all_input_nodes]:
                if read in roots:
                    spans[roots[read]][1] = position
        for node in trace.outputs:
            if node in roots:
                spans[roots[node]][1] = len(trace.calls)
        alive: list[tuple[int, int]] = []
        once: list[bool] = []
        for node, (first, last) in spans.items():
            for shape_axes, tensor in zip(analysis.tensors[node], _values(node), strict=False):
                self._terms.append((tensor.dtype.itemsize, axes.places(shape_axes)))
                alive.append((first, last))
                once.append(node not in repeated)
        self._once = np.array(once, dtype=bool)
        self._alive = np.zeros((len(alive), len(trace.calls) + 1), dtype=np.int64)
        for row, (first, last) in enumerate(alive):
            self._alive[row, first : last + 1] = 1
        places = {name: row for row, name in enumerate(dict.fromkeys(trace.parameters.values()))}
        self._read = np.zeros((len(places), len(trace.calls) + 1), dtype=np.int64)
        self.weights: list[tuple[int, list[int]]] = [(0, []) for _ in places]
        for node, name in trace.parameters.items():
            if node in analysis.tensors:
                [shape_axes], [tensor] = analysis.tensors[node], _values(node)
                self.weights[places[name]] = (tensor.dtype.itemsize, axes.places(shape_axes))
        for position, call in enumerate(trace.calls):
            for node in call.node.all_input_nodes:
                if node in trace.parameters:
                    self._read[places[trace.parameters[node]], position] = 1

    def peak(self, sizes: Integers) -> Integers:
        """Most bytes of one example's activations alive at once."""
        return self._activations(sizes).max(axis=1)

    def peak_with_weights(self, sizes: Integers) -> Integers:
        """Most bytes of one example's live activations and of the weights being read."""
        return (self._activations(sizes) + self._bytes(self.weights, sizes, self._read)).max(axis=1)

    def _activations(self, sizes: Integers) -> Integers:
        """Bytes of one example's live activations at every operator, shape ``(len(sizes), operators + 1)``."""
        repeated = self._bytes(self._terms, sizes, self._alive * ~self._once[:, None])
        return repeated // self._examples + self._bytes(self._terms, sizes, self._alive * self._once[:, None])

    @staticmethod
    def _bytes(terms: Sequence[tuple[int, Sequence[int]]], sizes: Integers, when: Integers) -> Integers:
        """Bytes at every operator, shape ``(len(sizes), operators + 1)``."""
        if not terms:
            return np.zeros((len(sizes), when.shape[1]), dtype=np.int64)
        return np.stack([_products([term], sizes) for term in terms], axis=1) @ when


_VIEWS = frozenset(
    (
        *(
            "view",
            "reshape",
            "flatten",
            "unflatten",
            "_unsafe_view",
            "contiguous",
            "to",
            "expand",
            "permute",
            "transpose",
        ),
        *("t", "squeeze", "unsqueeze", "slice", "select", "narrow", "chunk", "split", "split_with_sizes", "unbind"),
        *("detach", "alias", "dropout", "feature_dropout", "lift_fresh_copy"),
    )
)


def _shares_memory(call: Call) -> bool:
    """Whether an operator's result is its first argument or a view of it, in inference."""
    name = call.name.removeprefix("aten.").partition(".")[0]
    return call.name == "getitem" or name in _VIEWS or (name.endswith("_") and not name.startswith("_"))


def _values(node: fx.Node) -> list[Tensor]:
    value = node.meta.get("val")
    parts = value if isinstance(value, list | tuple) else [value]  # an argument may be a plain number
    return [part for part in parts if isinstance(part, Tensor)]


def _products(terms: Iterable[tuple[int, Sequence[int]]], sizes: Integers) -> Integers:
    total = np.zeros(len(sizes), dtype=np.int64)
    for constant, places in terms:
        total += constant * prod((sizes[:, place] for place in places), start=np.ones(len(sizes), dtype=np.int64))
    return total


def _unreached(net: SlimmableModel) -> list[int]:
    named: dict[str, nn.Parameter] = dict(net.model.named_parameters())
    return [named[name].numel() for name in net.report.unreached if name in named]
