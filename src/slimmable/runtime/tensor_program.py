"""A weight-less graph of tensor operators, read once into a list of steps, and its runs with the tensors of a width.

The graph is JSON (:mod:`slimmable.export.pytorch` writes it)::

    {"format": 1, "batch": 2, "any_batch": true,
     "inputs": [[[2, 3, 32, 32], "float32"]],
     "tensors": [["features.0.weight", [16, 3, 3, 3], "float32", "part"]],
     "calls": [["aten.conv2d.default", {"input": {"node": 0}, "weight": {"node": 1}, "padding": [1, 1]}]],
     "outputs": [2]}

Inputs, tensors and calls are numbered in this order. Arguments that are no plain value are objects with one key:
``node`` (one of these numbers), ``batch`` (the whole number ``a * batch + c``), ``float`` (an infinity or NaN),
``dtype``, ``layout``, ``memory_format``, ``device``. A tensor is a ``part`` of the module, which has the memory order
``channels_last`` if it has four axes, or an ``extra`` of the code, which lies as it is.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from slimmable.errors import ArtifactError
from slimmable.runtime.tensor_inputs import Entry
from slimmable.runtime.tensor_operators import Function, function_of, resolved, shared

FORMAT = 1

_LINEAR = "aten.linear.default"

_MAXIMUM_BYTES = 1 << 26
_MAXIMUM_NUMBER = 1 << 31
_LAST = (1 << 63) - 1
"""What a slice that goes to the end says."""

Step = tuple[Function, Callable[[Sequence[Any]], Any], int, tuple[int, ...]]
"""What is called, what picks its arguments from the values, where its output goes, which values nobody reads after."""


@dataclass(frozen=True)
class Stored:
    """A tensor that the graph reads: where its value goes, its shape, type and strides (bytes).

    ``plain``: one that lies as its axes stand needs no copy. ``strided``: nor does one whose rows lie apart.
    """

    name: str
    place: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    strides: tuple[int, ...]
    plain: bool
    strided: bool = False


@dataclass(frozen=True)
class Sized:
    """An argument of whole numbers ``a * batch + c``."""

    place: int
    terms: tuple[tuple[int, int], ...]
    single: bool

    def at(self, batch: int) -> Any:
        """The argument for a batch of a size."""
        found = tuple(scale * batch + offset for scale, offset in self.terms)
        return found[0] if self.single else found


@dataclass(frozen=True, kw_only=True)
class Program:
    """A graph ready to run.

    Attributes:
        batch: Size of the batch when the graph was traced.
        any_batch: Whether it runs at others.
        inputs: What it is given.
        tensors: What it reads of the artifact.
        values: Places of all values; those of plain arguments are filled.
        sized: Arguments that depend on the batch.
        steps: Operators in order.
        outputs: Places of the outputs, and whether they may share memory with what is not theirs.
    """

    batch: int
    any_batch: bool
    inputs: tuple[Entry, ...]
    tensors: tuple[Stored, ...]
    values: tuple[Any, ...]
    sized: tuple[Sized, ...]
    steps: tuple[Step, ...]
    outputs: tuple[tuple[int, bool], ...]


# ----------------------------------------------------------------------------------------------------------- reading


def read(graph: bytes) -> Program:
    """The steps of a graph.

    Raises:
        ArtifactError: It is damaged, or calls what is not allowed.
    """
    try:
        if len(graph) > _MAXIMUM_BYTES:
            raise ValueError(f"it has {len(graph)} bytes, more than any network's")
        found = json.loads(graph)
        if found["format"] != FORMAT:
            raise ValueError(f"it has format {found['format']!r}, this version reads {FORMAT}")
        return _Reader(found).program()
    except (KeyError, ValueError, TypeError, IndexError, AttributeError, RecursionError, OverflowError) as error:
        raise ArtifactError(
            f"the graph for PyTorch is damaged ({error!r}); export the network again, or copy the file again"
        ) from error


@dataclass
class _Reader:
    found: dict[str, Any]
    values: list[Any] = field(default_factory=list)
    sized: list[Sized] = field(default_factory=list)
    steps: list[tuple[Function, list[int], int]] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    roots: list[frozenset[int]] = field(default_factory=list)
    written: set[int] = field(default_factory=set)
    packed: set[int] = field(default_factory=set)
    """Values that are used otherwise than as the weight of a linear layer, and so may have to lie without gaps."""

    def program(self) -> Program:
        its = self.found
        inputs = [(_shape(shape), _dtype(dtype)) for shape, dtype in its["inputs"]]
        for _ in inputs:
            self._numbered(frozenset({len(self.places)}))
        tensors = [self._stored(*each) for each in its["tensors"]]
        for name, given in its["calls"]:
            self._call(name, given)
        outputs = [self._node(each) for each in its["outputs"]]
        if not outputs or not inputs:
            raise ValueError("it has no inputs or no outputs")
        if self.written - set(range(len(inputs))):
            raise ValueError("it writes into the network's own tensors")
        own = [self.places[each] for each in outputs]
        self.packed.update(outputs)
        stored = [
            replace(each, strided=len(each.shape) == 2 and at not in self.packed)
            for at, each in enumerate(tensors, len(inputs))
        ]
        passing = {*self.places[: len(inputs)], *(place for _, _, place in self.steps)}
        return Program(
            batch=_whole(its["batch"]),
            any_batch=bool(its["any_batch"]),
            inputs=tuple(Entry(*each, at in self.written) for at, each in enumerate(inputs)),
            tensors=tuple(stored),
            values=tuple(self.values),
            sized=tuple(self.sized),
            steps=tuple(_finished(self.steps, freed=passing - set(own))),
            outputs=tuple((place, bool(self.roots[each])) for place, each in zip(own, outputs, strict=True)),
        )

    def _place(self, value: Any = None) -> int:
        self.values.append(value)
        return len(self.values) - 1

    def _numbered(self, roots: frozenset[int]) -> int:
        """A new value that arguments may name; ``roots`` are inputs and tensors that it may share memory with."""
        self.places.append(self._place())
        self.roots.append(roots)
        return self.places[-1]

    def _node(self, at: Any) -> int:
        if type(at) is not int or not 0 <= at < len(self.places):
            raise ValueError(f"{at!r} is no earlier value")
        return at

    def _stored(self, name: str, shape: list[int], dtype: str, kind: str) -> Stored:
        if type(name) is not str or kind not in ("part", "extra"):
            raise ValueError(f"{name!r} is no name, or {kind!r} no kind of tensors")
        sizes, its = _shape(shape), torch.empty(0, dtype=_dtype(dtype)).numpy().dtype
        axes = (0, 2, 3, 1) if kind == "part" and len(sizes) == 4 else range(len(sizes))
        strides, step = [0] * len(sizes), its.itemsize
        for axis in reversed(axes):
            strides[axis] = step
            step *= max(sizes[axis], 1)
        plain = len(sizes) != 4 or sizes[1] == 1 or sizes[2] * sizes[3] == 1 or axes[1] == 1
        return Stored(name, self._numbered(frozenset({len(self.places)})), sizes, its, tuple(strides), plain)

    def _call(self, name: str, given: dict[str, Any]) -> None:
        free = "weight" if name == _LINEAR else None
        self.packed.update(node for key, each in given.items() if key != free for node in _nodes(each))
        if name == "getitem":
            self._step(operator.getitem, [given["self"], given["index"]], self._roots(given, ["self"]))
            return
        found = resolved(name)
        arguments = found._schema.arguments
        if unknown := given.keys() - {each.name for each in arguments}:
            raise ValueError(f"{name} has no arguments {sorted(unknown)}")
        required = {each.name for each in arguments if not each.has_default_value()}
        optional = {each.name for each in arguments if isinstance(each.type, torch.OptionalType)}
        if missing := required - optional - given.keys():
            raise ValueError(f"{name} is not given {sorted(missing)}")
        given = {each: given.get(each) for each in required} | given
        last = max((at for at, each in enumerate(arguments) if each.name in given and not each.kwarg_only), default=-1)
        leading = [given.get(each.name, each.default_value) for each in arguments[: last + 1]]
        named = {each.name: given[each.name] for each in arguments[last + 1 :] if each.name in given}
        function = function_of(found, positional=len(leading), named=len(named))
        if named:
            function = _by_name(function, len(leading), tuple(named))
        passed, written = shared(found)
        self.written |= self._roots(given, written)
        self._step(function, [*leading, *named.values()], self._roots(given, passed))

    def _roots(self, given: dict[str, Any], names: list[str]) -> frozenset[int]:
        return frozenset(
            root for name in names for node in _nodes(given.get(name)) for root in self.roots[self._node(node)]
        )

    def _step(self, function: Function, arguments: list[Any], roots: frozenset[int]) -> None:
        places = [self._argument(each) for each in arguments]
        self.steps.append((function, places, self._numbered(roots)))

    def _argument(self, value: Any) -> int:
        """Place of an argument's value."""
        if isinstance(value, dict) and "node" in value:
            return self.places[self._node(value["node"])]
        if isinstance(value, list) and any(_nodes(value)):
            its = [self._argument(each) for each in value]
            place = self._place()
            self.steps.append((_listed, its, place))
            return place
        if any(isinstance(each, dict) and "batch" in each for each in (value if isinstance(value, list) else [value])):
            return self._sized(value)
        return self._place(_plain(value))

    def _sized(self, value: Any) -> int:
        terms = [
            (_whole(each["batch"][0]), _whole(each["batch"][1])) if isinstance(each, dict) else (0, _whole(each))
            for each in (value if isinstance(value, list) else [value])
        ]
        place = self._place()
        self.sized.append(Sized(place, tuple(terms), not isinstance(value, list)))
        return place


def _nodes(value: Any) -> Iterator[Any]:
    """Numbers of the values that an argument names."""
    for each in value if isinstance(value, list) else [value]:
        if isinstance(each, dict) and "node" in each:
            yield each["node"]


def _listed(*values: Any) -> tuple[Any, ...]:
    return values


def _by_name(function: Function, count: int, names: tuple[str, ...]) -> Function:
    def call(*values: Any) -> Any:
        return function(*values[:count], **dict(zip(names, values[count:], strict=True)))

    return call


def _finished(steps: Sequence[tuple[Function, list[int], int]], *, freed: set[int]) -> Iterator[Step]:
    """Steps with what each is the last to read, of values that may be let go."""
    last = {place: at for at, (_, places, output) in enumerate(steps) for place in (output, *places)}
    for at, (function, places, output) in enumerate(steps):
        done = {place for place in (output, *places) if last[place] == at}
        yield function, _picking(places), output, tuple(sorted(done & freed))


def _picking(places: Sequence[int]) -> Callable[[Sequence[Any]], Any]:
    """What picks the values at some places, as a sequence also where it is one."""
    return operator.itemgetter(slice(places[0], places[0] + 1)) if len(places) == 1 else operator.itemgetter(*places)


def _whole(value: Any) -> int:
    if type(value) is not int or (abs(value) > _MAXIMUM_NUMBER and value != _LAST):
        raise ValueError(f"{value!r} is no whole number of a graph")
    return value


def _shape(value: Any) -> tuple[int, ...]:
    found = tuple(map(_whole, value))
    if any(each < 0 for each in found):
        raise ValueError(f"{value!r} is no shape")
    return found


def _dtype(name: Any) -> torch.dtype:
    return _constant("dtype", name)


_KINDS: dict[str, type] = {"dtype": torch.dtype, "layout": torch.layout, "memory_format": torch.memory_format}


def _constant(kind: str, name: Any) -> Any:
    found = getattr(torch, name) if isinstance(name, str) and name.isidentifier() else None
    if not isinstance(found, _KINDS[kind]) or (kind == "layout" and found != torch.strided):
        raise ValueError(f"{name!r} is no {kind}")
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(map(_plain, value))
    if isinstance(value, dict):
        ((kind, text),) = value.items()
        if kind == "device":
            return torch.device("cpu")
        return float(text) if kind == "float" else _constant(kind, text)
    return _whole(value) if type(value) is int else value
