"""Quantities of a graph that a network's latency is made of: monotone, and each of two width groups at most."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, fx

from slimmable.core.analysis import Analysis
from slimmable.core.axes import Axis
from slimmable.core.model import SlimmableModel
from slimmable.core.operators import Axes
from slimmable.core.trace import Call

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

LANES = (1, 16, 32)
"""Channels that kernels take at once: a part of such a run costs as much as the whole."""

CONSTANT = "constant"


@dataclass(frozen=True)
class Extent:
    """Positions of an axis: ``constant`` and, for every ``unit`` channels of each of its groups, ``repeat``.

    Args:
        constant: Positions that do not vary.
        parts: Group, unit and repeat of those that do.
        lane: What each part is rounded up to a multiple of.

    >>> Extent(1, ((0, 1, 1),), 16)(np.array([[8], [16], [24]]))
    array([17, 17, 33])
    """

    constant: int
    parts: tuple[tuple[int, int, int], ...]
    lane: int = 1

    @staticmethod
    def of(axis: Axis, lane: int = 1) -> Extent:
        """That of an axis; segments of one group are one part."""
        constant = 0
        parts: dict[tuple[int, int], int] = defaultdict(int)
        for segment in axis.segments:
            if segment.group is None:
                constant += segment.repeat
            else:
                parts[segment.group, segment.unit] += segment.repeat
        return Extent(constant, tuple((group, unit, repeat) for (group, unit), repeat in parts.items()), lane)

    def __call__(self, channels_NG: Integers) -> Integers:
        """Positions at each row of channels by group, shape ``(N,)``."""
        total = np.full(len(channels_NG), self.constant, dtype=np.int64)
        for group, unit, repeat in self.parts:
            total += -(-(channels_NG[:, group] // unit * repeat) // self.lane) * self.lane
        return total

    @property
    def groups(self) -> frozenset[int]:
        """Groups it varies with."""
        return frozenset(group for group, _, _ in self.parts)


@dataclass(frozen=True)
class Product:
    """``constant`` times the positions of a few axes that vary."""

    constant: float
    extents: tuple[Extent, ...]

    @staticmethod
    def of(constant: float, axes: Iterable[Axis], lane: int = 1) -> Product:
        """That of some axes; those of fixed size enter the constant."""
        extents: list[Extent] = []
        for axis in axes:
            extent = Extent.of(axis, lane)
            if extent.parts:
                extents.append(extent)
            else:
                constant *= extent.constant
        return Product(constant, tuple(sorted(extents, key=lambda extent: extent.parts)))

    @property
    def pairwise(self) -> bool:
        """Whether it is a sum of functions of at most two groups each."""
        if len(self.extents) <= 2:
            return True
        picks = product(*([{group} for group in extent.groups] for extent in self.extents))
        return all(len(set().union(*pick)) <= 2 for pick in picks)


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A call that multiplies and accumulates.

    Attributes:
        module: Path of its module.
        kind: What it has in common with layers whose time follows the same law.
        work: Multiply-accumulates, as a constant and axes.
        reads: Elements it reads, the same way for every tensor.
        writes: Elements it writes.
        channels: The axes of the channels that it reads and writes, where it has weights.
    """

    module: str
    kind: str
    work: tuple[int, tuple[Axis, ...]]
    reads: tuple[tuple[Axis, ...], ...]
    writes: tuple[Axis, ...]
    channels: tuple[Axis, Axis] | None

    @property
    def varies(self) -> bool:
        """Whether its work does."""
        return any(axis.varies for axis in self.work[1])


def layers(net: SlimmableModel) -> list[Layer]:
    """The calls of a network that multiply and accumulate, in order."""
    analysis, axis = net.analysis, net.grouping.axis
    found: list[Layer] = []
    for call, term in analysis.macs:
        read = [node for node in call.node.all_input_nodes if node not in analysis.trace.parameters]
        reads = [tuple(map(axis, _axes(analysis, node))) for node in read]
        writes = tuple(map(axis, _axes(analysis, call.node)))
        weighted = len(read) < len(call.node.all_input_nodes) and len(reads) == 1
        place = _channel_axis(call, len(writes))
        found.append(
            Layer(
                module=call.module,
                kind=_kind(call),
                work=(term.constant, tuple(map(axis, term.layouts))),
                reads=tuple(reads),
                writes=writes,
                channels=(reads[0][place], writes[place]) if weighted else None,
            )
        )
    return found


@dataclass(frozen=True, kw_only=True)
class Feature:
    """A sum of products; ``own`` says that it is one layer's, not that of all layers of a kind."""

    name: str
    products: tuple[Product, ...]
    own: bool


def features(net: SlimmableModel) -> list[Feature]:
    """What a network's latency may be made of, each monotone in the channels of every group.

    * a constant;
    * for all layers of a kind (operator, kernel, stride, map, depthwise or not) together, and for each of them alone:
      work, with channels as they are and rounded up to what vector units take at once, elements read, and elements
      written. (The bytes of the weights are the work times a constant, within a kind.)
    * for each other operator: elements written.

    A product of more than two groups' channels is left out.
    """
    shared: dict[str, list[Product]] = defaultdict(list)
    own: dict[str, list[Product]] = defaultdict(list)
    multiplying = layers(net)
    for place, layer in enumerate(multiplying):
        for name, products in _of_layer(layer).items():
            shared[f"{layer.kind}: {name}"] += products
            own[f"{layer.module} ({place}): {name}"] += products
    nodes = {call.node for call, _ in net.analysis.macs}
    for call in net.analysis.trace.calls:
        if call.node not in nodes:
            for axes in net.analysis.tensors[call.node]:
                shared[f"{_name(call)}: written"].append(Product.of(1, map(net.grouping.axis, axes)))
    found = [Feature(name=CONSTANT, products=(Product(1, ()),), own=False)]
    for alone, named in ((False, shared), (True, own)):
        for name, products in named.items():
            kept = tuple(each for each in products if each.extents and each.pairwise)
            if kept:
                found.append(Feature(name=name, products=kept, own=alone))
    return found


def _of_layer(layer: Layer) -> Mapping[str, list[Product]]:
    constant, axes = layer.work
    works = {f"work by {lane}": [Product.of(constant, axes, lane)] for lane in LANES}
    return {**works, "read": [Product.of(1, each) for each in layer.reads], "written": [Product.of(1, layer.writes)]}


def _axes(analysis: Analysis, node: fx.Node) -> Axes:
    """Axes of a node's first output."""
    found = analysis.tensors[node]
    return found[0] if found else ()


def _channel_axis(call: Call, rank: int) -> int:
    """Which axis holds channels: the one before the map of a convolution, else the last."""
    weight = call.values.get("weight")
    if "conv" in _name(call) and isinstance(weight, fx.Node):
        return rank - weight.meta["val"].ndim + 1
    return rank - 1


def _name(call: Call) -> str:
    return call.name.removeprefix("aten.").partition(".")[0]


def _kind(call: Call) -> str:
    """Operator, kernel, stride and map; layers of one kind differ in channels only."""
    name, shape = _name(call), next(iter(call.outputs), ())
    weight = call.values.get("weight")
    if "conv" not in name or not isinstance(weight, fx.Node):
        return f"{name} of {prod(shape[:-1])} rows"
    size: Tensor = weight.meta["val"]
    kernel, map_ = size.shape[2:], shape[len(shape) - size.ndim + 2 :]
    groups = int(call.values.get("groups") or 1)
    how = "" if groups == 1 else " depthwise" if size.shape[1] == 1 else " grouped"
    return f"{name}{how} {_by(kernel)} stride {_by(call.values['stride'])} to {_by(map_)}"


def _by(values: Any) -> str:
    return "x".join(map(str, [values] if isinstance(values, int) else values))


class Features:
    """Many features at once: the products that they share are evaluated once.

    Attributes:
        products: Extents of every distinct product.
        weights: How often each feature holds each product, shape ``(products, features)``.
        own: Which features are one layer's.
    """

    def __init__(self, chosen: Sequence[Feature]) -> None:
        place: dict[tuple[Extent, ...], int] = {}
        entries: list[tuple[int, int, float]] = []
        for column, feature in enumerate(chosen):
            for each in feature.products:
                entries.append((place.setdefault(each.extents, len(place)), column, each.constant))  # noqa: PERF401
        self.products = list(place)
        self.weights = np.zeros((len(place), len(chosen)))
        for row, column, constant in entries:
            self.weights[row, column] += constant
        self.own = np.array([feature.own for feature in chosen])

    def __call__(self, channels_NG: Integers) -> Floats:
        """Features at each row of channels, shape ``(N, features)``."""
        return evaluate(self.products, channels_NG) @ self.weights


def evaluate(products: Sequence[tuple[Extent, ...]], channels_NG: Integers) -> Floats:
    """Products of extents at each row of channels, shape ``(N, products)``."""
    known: dict[Extent, Floats] = {}
    values = np.ones((len(channels_NG), len(products)))
    for place, extents in enumerate(products):
        for extent in extents:
            if extent not in known:
                known[extent] = extent(channels_NG).astype(np.float64)
            values[:, place] *= known[extent]
    return values
