"""What an artifact says of itself: one JSON text in the file's metadata, read strictly.

Tensors of the file are ``weight/NAME`` (full width, batch norm not folded), ``scale/NAME`` (of its output channels,
where it is stored in eight bits), ``table/I`` (the packed vectors of the I-th width), ``graph/BACKEND/I`` (a
weight-less graph, compressed) and ``extra/BACKEND/I/NAME`` (constants of a graph).

A **part** is one tensor of the network at a width: a slice of a full tensor, such a slice times a scale along one
dimension, or an entry of the width's table. **Entries** say how a table is packed: first the scales and stored
tensors of the first part, then those of the second, each of the size that its dimensions have at the width.

The version of this description is :data:`SCHEMA`. A newer file is refused; an older one is brought up to date by
:data:`UPGRADES`, one function for each version, when it is read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from slimmable.core.axes import Axis, Segment
from slimmable.core.space import Widths, WidthSpace
from slimmable.errors import ArtifactError, WidthError
from slimmable.runtime.quantised import QuantisedLayer

FORMAT = "slimmable artifact"
SCHEMA = 1

UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""What turns a manifest of a version into one of the next."""

Kind = TypeVar("Kind")
Dim = int | Axis
"""A size: constant, or that of an axis at a width."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One tensor of the network at a width.

    Attributes:
        name: In the extracted network.
        source: The full tensor that it is cut from; None where it stands in the table of each width.
        moving: Dimensions that vary, with their axes.
        scale: The dimension along which the cut is multiplied with an entry of the table; None for a plain cut.
        shape: At full width the source's; of an entry its own.
    """

    name: str
    source: str | None
    moving: tuple[tuple[int, Axis], ...] = ()
    scale: int | None = None
    shape: tuple[Dim, ...]


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """An input or output: its name, its shape (None where the batch stands) and its type as numpy calls it."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str


@dataclass(frozen=True, kw_only=True)
class Cost:
    """A cost of a width and its unit."""

    value: float
    unit: str


@dataclass(frozen=True, kw_only=True)
class Latency:
    """A latency that was measured.

    Attributes:
        backend: The runtime.
        device: The machine's description.
        threads: Threads of a run.
        batch: Examples in a run.
        milliseconds: The median.
    """

    backend: str
    device: str
    threads: int
    batch: int
    milliseconds: float


@dataclass(frozen=True, kw_only=True)
class StoredWidths:
    """One of the widths that an artifact holds.

    Attributes:
        name: Such as ``0.5``.
        widths: Channels of each group.
        costs: By name.
        accuracy: Figures of merit by name.
        latencies: Where they were measured.
    """

    name: str
    widths: Widths
    costs: Mapping[str, Cost] = field(default_factory=dict)
    accuracy: Mapping[str, float] = field(default_factory=dict)
    latencies: tuple[Latency, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Graphs:
    """What the graphs of one backend take, for each width.

    Attributes:
        parts: Names of the parts.
        extra: Names of tensors that stand in the file for this graph alone.
        layers: Layers in eight bits, in an artifact that stores integers; empty in any other.
    """

    parts: tuple[tuple[str, ...], ...]
    extra: tuple[tuple[str, ...], ...]
    layers: tuple[tuple[QuantisedLayer, ...], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """All that an artifact says.

    Attributes:
        name: Of the network.
        space: Its widths.
        parts: Its tensors.
        widths: Those that are stored, the cheapest first.
        inputs: What it takes.
        outputs: What it returns.
        graphs: By backend.
        preprocessing: How an image becomes an input, if it takes images.
        labels: Names of the classes.
        checksums: SHA-256 of every tensor of the file.
        environment: Where it was written.
    """

    name: str
    space: WidthSpace
    parts: tuple[Part, ...]
    widths: tuple[StoredWidths, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    graphs: Mapping[str, Graphs]
    preprocessing: Mapping[str, Any] | None = None
    labels: tuple[str, ...] | None = None
    checksums: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)

    def to_text(self) -> str:
        """The manifest as JSON."""
        return _written(self)

    @staticmethod
    def from_text(text: str) -> Manifest:
        """The inverse of :meth:`to_text`.

        Raises:
            ArtifactError: It is damaged, or from a newer version.
        """
        try:
            found = json.loads(text)
            schema = found["schema"]
            if not isinstance(schema, int) or schema > SCHEMA:
                raise ArtifactError(
                    f"the artifact has version {schema!r} of its description, this library reads versions up to "
                    f"{SCHEMA}; update it: pip install --upgrade slimmable"
                )
            for version in range(schema, SCHEMA):
                found = UPGRADES[version](found)
            return _read(found)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, RecursionError, WidthError) as error:
            raise ArtifactError(f"the artifact's description is damaged: {error!r}; copy the file again") from error


# -------------------------------------------------------------------------------------------------------- writing


def _written(manifest: Manifest) -> str:
    axes: dict[Axis, int] = {}

    def place(axis: Axis) -> int:
        return axes.setdefault(axis, len(axes))

    def part(each: Part) -> list[Any]:
        moving = [[dim, place(axis)] for dim, axis in each.moving]
        shape = [size if isinstance(size, int) else [place(size)] for size in each.shape]
        source = 1 if each.source == each.name else each.source
        return [each.name, source, moving, each.scale, shape]

    parts = [part(each) for each in manifest.parts]
    sets: dict[tuple[str, ...], int] = {}
    order = {each.name: at for at, each in enumerate(manifest.parts)}
    graphs = {
        backend: {
            "parts": [sets.setdefault(names, len(sets)) for names in each.parts],
            "extra": list(each.extra),
            "layers": [[_layer(layer, order) for layer in its] for its in each.layers],
        }
        for backend, each in manifest.graphs.items()
    }
    value = {
        "schema": SCHEMA,
        "name": manifest.name,
        "space": manifest.space.to_json(),
        "axes": [[[each.group, each.repeat, each.unit] for each in axis.segments] for axis in axes],
        "parts": parts,
        "sets": [[order[name] for name in names] for names in sets],
        "graphs": graphs,
        "widths": [_stored(each) for each in manifest.widths],
        "inputs": [[each.name, each.shape, each.dtype] for each in manifest.inputs],
        "outputs": [[each.name, each.shape, each.dtype] for each in manifest.outputs],
        "preprocessing": manifest.preprocessing,
        "labels": manifest.labels,
        "checksums": dict(manifest.checksums),
        "environment": dict(manifest.environment),
    }
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _layer(layer: QuantisedLayer, order: Mapping[str, int]) -> list[Any]:
    bias = None if layer.bias is None else order[layer.bias]
    return [order[layer.weight], bias, layer.input_scale, layer.turned]


def _stored(each: StoredWidths) -> dict[str, Any]:
    return {
        "name": each.name,
        "channels": each.widths.channels,
        "costs": {name: [cost.value, cost.unit] for name, cost in each.costs.items()},
        "accuracy": dict(each.accuracy),
        "latencies": [[one.backend, one.device, one.threads, one.batch, one.milliseconds] for one in each.latencies],
    }


# -------------------------------------------------------------------------------------------------------- reading


_MOST_CHANNELS = 1 << 20
"""Of a group: all its choices are listed."""


def _space(found: Any) -> WidthSpace:
    for group in found["groups"]:
        for name in ("base", "minimum", "maximum", "divisor"):
            if _size(group[name]) > _MOST_CHANNELS:
                raise ValueError(f"a group has the {name} {group[name]}")
    return WidthSpace.from_json(found)


def _read(found: dict[str, Any]) -> Manifest:
    space = _space(found["space"])
    count = len(space.groups)
    axes = [Axis(tuple(_segment(each, count) for each in axis)) for axis in found["axes"]]
    parts = tuple(_part(each, axes) for each in found["parts"])
    names = [each.name for each in parts]
    if len(set(names)) < len(names):
        raise ValueError("two parts have one name")
    sets = [tuple(names[_index(at, len(names))] for at in each) for each in found["sets"]]
    widths = tuple(_widths(each, space) for each in found["widths"])
    labels = [each.name for each in widths]
    if not widths or len(set(labels)) < len(labels):
        raise ValueError(f"it has the widths {labels}")
    graphs = {
        _as(str, backend): Graphs(
            parts=tuple(sets[_index(at, len(sets))] for at in each["parts"]),
            extra=tuple(tuple(_as(str, name) for name in extra) for extra in each["extra"]),
            layers=tuple(tuple(_quantised(layer, names) for layer in its) for its in each["layers"]),
        )
        for backend, each in found["graphs"].items()
    }
    for backend, each in graphs.items():
        counts = {len(each.parts), len(each.extra), len(each.layers) or len(widths)}
        if counts != {len(widths)}:
            raise ValueError(f"it has {len(widths)} widths and other numbers of graphs for {backend}")
    return Manifest(
        name=_as(str, found["name"]),
        space=space,
        parts=parts,
        widths=widths,
        inputs=tuple(_tensor(each) for each in found["inputs"]),
        outputs=tuple(_tensor(each) for each in found["outputs"]),
        graphs=graphs,
        preprocessing=None if found["preprocessing"] is None else _as(dict, found["preprocessing"]),
        labels=None if found["labels"] is None else tuple(_as(str, each) for each in found["labels"]),
        checksums={_as(str, name): _as(str, digest) for name, digest in found["checksums"].items()},
        environment=_as(dict, found["environment"]),
    )


def _segment(value: Any, groups: int) -> Segment:
    group, repeat, unit = value
    if group is not None:
        _index(group, groups)
    return Segment(group, _size(repeat), max(_size(unit), 1))


def _part(value: Any, axes: list[Axis]) -> Part:
    name, source, moving, scale, shape = value
    shape = tuple(axes[_index(each[0], len(axes))] if isinstance(each, list) else _size(each) for each in shape)
    return Part(
        name=_as(str, name),
        source=name if source == 1 else None if source is None else _as(str, source),
        moving=tuple((_index(dim, len(shape)), axes[_index(axis, len(axes))]) for dim, axis in moving),
        scale=None if scale is None else _index(scale, len(shape)),
        shape=shape,
    )


def _quantised(value: Any, names: list[str]) -> QuantisedLayer:
    weight, bias, input_scale, turned = value
    if not 0 < _number(input_scale) < math.inf:
        raise ValueError(f"found {input_scale!r} where a scale belongs")
    return QuantisedLayer(
        weight=names[_index(weight, len(names))],
        bias=None if bias is None else names[_index(bias, len(names))],
        input_scale=input_scale,
        turned=_as(bool, turned),
    )


def _widths(value: Any, space: WidthSpace) -> StoredWidths:
    return StoredWidths(
        name=_as(str, value["name"]),
        widths=space.widths([_size(each) for each in value["channels"]]),
        costs={
            _as(str, name): Cost(value=_number(cost), unit=_as(str, unit))
            for name, (cost, unit) in value["costs"].items()
        },
        accuracy={_as(str, name): _number(figure) for name, figure in value["accuracy"].items()},
        latencies=tuple(
            Latency(
                backend=_as(str, backend),
                device=_as(str, device),
                threads=_size(threads),
                batch=_size(batch),
                milliseconds=_number(milliseconds),
            )
            for backend, device, threads, batch, milliseconds in value["latencies"]
        ),
    )


def _tensor(value: Any) -> Tensor:
    name, shape, dtype = value
    shape = tuple(None if size is None else _size(size) for size in shape)
    return Tensor(name=_as(str, name), shape=shape, dtype=_as(str, dtype))


def _as(kind: type[Kind], value: Any) -> Kind:
    if not isinstance(value, kind):
        raise TypeError(f"found {value!r} where a {kind.__name__} belongs")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"found {value!r} where a number belongs")
    return value


def _size(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 40:
        raise ValueError(f"found {value!r} where a size belongs")
    return value


def _index(value: Any, length: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < length:
        raise ValueError(f"found {value!r} where a place below {length} belongs")
    return value
