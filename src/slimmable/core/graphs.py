"""A traced graph as JSON and back: names of operators, arguments, shapes, and nothing that could be executed.

Arguments that are no plain value are objects with one key: ``node`` (a place in the graph), ``float`` (an infinity or
NaN), ``dtype``, ``layout``, ``memory_format``, ``device``; ``batch`` (a whole number ``a * batch + c`` of the batch
size) and ``mode`` (the value in evaluation and in training).
"""

from __future__ import annotations

import math
import operator
import re
from collections import namedtuple
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from slimmable.core.operators import RULES
from slimmable.core.trace import Call, Signature, Trace
from slimmable.errors import CheckpointError

Place = tuple[fx.Node, str, int | None]
"""An argument of a call, and the place in it if it is a list."""


@dataclass(frozen=True)
class Batch:
    """A whole number ``scale * batch + offset``.

    >>> Batch(4, 1).at(3)
    13
    """

    scale: int
    offset: int

    def at(self, batch: int) -> int:
        """The number for a batch of a size."""
        return self.scale * batch + self.offset


@dataclass(frozen=True)
class Mode:
    """A value that depends on the calling module's mode."""

    evaluation: Any
    training: Any


Notes = Mapping[Place, Batch | Mode]
"""Arguments that depend on the batch or on the mode."""


def parts(value: Any) -> Iterator[tuple[int | None, Any]]:
    """An argument's values with their places: one without a place, or those of a list."""
    if isinstance(value, list | tuple):
        yield from enumerate(value)
    else:
        yield None, value


def mapped(value: Any, change: Callable[[int | None, Any], Any]) -> Any:
    """An argument with every value changed."""
    if isinstance(value, list | tuple):
        return [change(place, each) for place, each in enumerate(value)]
    return change(None, value)


# ------------------------------------------------------------------------------------------------------- to JSON


def encoded(trace: Trace, notes: Notes) -> dict[str, Any]:
    """A graph as JSON.

    Raises:
        CheckpointError: It holds something that has no form there; the message names it.
    """
    nodes = [*trace.parameters, *(node for node in trace.inputs if node not in trace.parameters)]
    place = {node: at for at, node in enumerate([*nodes, *(call.node for call in trace.calls)])}
    constants = {node: at for at, node in enumerate(trace.signature.constants)}

    def tensors(node: fx.Node) -> Any:
        found = node.meta.get("val")
        if isinstance(found, Tensor):
            return _shaped(found)
        return [_shaped(each) for each in found] if isinstance(found, list | tuple) else None

    def kind(node: fx.Node) -> dict[str, Any]:
        if node in trace.parameters:
            name = trace.parameters[node]
            return {"buffer": name} if name in trace.buffers else {"parameter": name}
        return {"constant": constants[node]} if node in constants else {"input": None}

    def leaf(value: Any) -> Any:
        return {"node": place[value]} if isinstance(value, fx.Node) else {"value": _plain(value)}

    def argument(call: Call, name: str, value: Any) -> Any:
        def change(at: int | None, each: Any) -> Any:
            note = notes.get((call.node, name, at))
            if isinstance(note, Batch):
                return {"batch": [note.scale, note.offset]}
            if isinstance(note, Mode):
                return {"mode": [_plain(note.evaluation), _plain(note.training)]}
            return {"node": place[each]} if isinstance(each, fx.Node) else _plain(each)

        return mapped(value, change)

    return {
        "batch": trace.batch,
        "examples": trace.examples,
        "placeholders": [[node.name, kind(node), tensors(node)] for node in nodes],
        "calls": [
            [
                call.node.name,
                _operator_name(call),
                call.module,
                call.line,
                {name: argument(call, name, value) for name, value in _given(call)},
                tensors(call.node),
            ]
            for call in trace.calls
        ],
        "outputs": [place[node] for node in trace.outputs],
        "arguments": _nested(trace.signature.arguments, leaf),
        "returned": _nested(trace.signature.returned, leaf),
        "sizes": {path: {k: _size(v) for k, v in found.items()} for path, found in trace.sizes.items()},
        "origins": [[*key, sorted(names)] for key, names in trace.origins.items()],
    }


def _operator_name(call: Call) -> str:
    if call.name != "getitem" and not isinstance(call.node.target, torch._ops.OpOverload):
        raise CheckpointError(f"it calls {call.name} (module {call.module!r}, {call.line}), which is no plain operator")
    return call.name


def _given(call: Call) -> Iterator[tuple[str, Any]]:
    """Arguments that are not the operator's defaults."""
    schema = getattr(call.node.target, "_schema", None)
    default = {} if schema is None else {each.name: each.default_value for each in schema.arguments}
    for name, value in call.values.items():
        if name not in default or isinstance(value, fx.Node) or (value is not default[name] and value != default[name]):
            yield name, value


def _shaped(tensor: Tensor) -> list[Any]:
    return [[int(size) for size in tensor.shape], str(tensor.dtype).removeprefix("torch.")]


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": str(value)}
    for name, cls in _TORCH.items():
        if isinstance(value, cls):
            return {name: str(value).removeprefix("torch.")}
    if isinstance(value, torch.device):
        return {"device": None}
    raise CheckpointError(f"it passes {value!r}, a {type(value).__name__}, to an operator")


_TORCH: dict[str, type] = {"dtype": torch.dtype, "layout": torch.layout, "memory_format": torch.memory_format}


def _size(value: Any) -> Any:
    return {"tuple": list(value)} if isinstance(value, tuple) else value


def _nested(value: Any, leaf: Callable[[Any], Any]) -> Any:
    """Nested arguments or outputs as JSON."""
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        fields = list(value._fields)  # pyright: ignore[reportAttributeAccessIssue]
        return {"named": [type(value).__name__, fields, [_nested(each, leaf) for each in value]]}
    if type(value) in (tuple, list):
        return {type(value).__name__: [_nested(each, leaf) for each in value]}
    if isinstance(value, dict) and all(isinstance(key, str | int) for key in value):
        return {"dict": [[key, _nested(each, leaf)] for key, each in value.items()]}
    return leaf(value)


# ------------------------------------------------------------------------------------------------------ from JSON


def decoded(found: Mapping[str, Any], constants: Mapping[str, Tensor]) -> tuple[Trace, dict[Place, Batch | Mode]]:
    """The inverse of :func:`encoded`; no tensor but the constants has data.

    Raises:
        CheckpointError: An operator is unknown here.
    """
    graph = fx.Graph()
    nodes: list[fx.Node] = []
    parameters: dict[fx.Node, str] = {}
    buffers: set[str] = set()
    inputs: list[fx.Node] = []
    kept: dict[fx.Node, Tensor] = {}
    notes: dict[Place, Batch | Mode] = {}
    for name, kind, tensors in found["placeholders"]:
        node = graph.create_node("placeholder", name, name=name)
        node.meta["val"] = _blank(tensors)
        nodes.append(node)
        ((what, target),) = kind.items()
        if what in ("parameter", "buffer"):
            parameters[node] = target
            buffers |= {target} if what == "buffer" else set()
            continue
        inputs.append(node)
        if what == "constant":
            kept[node] = constants[str(target)]
    calls: list[Call] = []
    for name, operator_name, module, line, given, tensors in found["calls"]:
        target = resolved(operator_name)
        noted: dict[tuple[str, int | None], Batch | Mode] = {}
        values = {key: _argument(key, value, nodes, noted, found["batch"]) for key, value in given.items()}
        node = graph.create_node("call_function", target, *_positional(target, values), name=name)
        node.meta["val"] = _blank(tensors)
        nodes.append(node)
        calls.append(
            Call(node=node, name=operator_name, module=module, line=line, values=_with_defaults(target, values))
        )
        notes |= {(node, key, at): note for (key, at), note in noted.items()}

    def leaf(value: Any) -> Any:
        return nodes[value["node"]] if "node" in value else _restored(value["value"])

    trace = Trace(
        calls=tuple(calls),
        parameters=parameters,
        buffers=frozenset(buffers),
        inputs=tuple(inputs),
        outputs=tuple(nodes[at] for at in found["outputs"]),
        batch=found["batch"],
        examples=found.get("examples", found["batch"]),  # files of before had none
        sizes={path: {k: _unsized(v) for k, v in each.items()} for path, each in found["sizes"].items()},
        origins={(path, count, at, size): frozenset(names) for path, count, at, size, names in found["origins"]},
        signature=Signature(
            arguments=_unnested(found["arguments"], leaf),
            constants=kept,
            returned=_unnested(found["returned"], leaf),
        ),
    )
    return trace, notes


def _argument(
    key: str, value: Any, nodes: list[fx.Node], noted: dict[tuple[str, int | None], Batch | Mode], batch: int
) -> Any:
    """An argument at the example's batch in evaluation; what depends on either is put into ``noted``."""

    def change(at: int | None, each: Any) -> Any:
        if isinstance(each, dict) and "batch" in each:
            noted[key, at] = note = Batch(*each["batch"])
            return note.at(batch)
        if isinstance(each, dict) and "mode" in each:
            noted[key, at] = note = Mode(*map(_restored, each["mode"]))
            return note.evaluation
        return nodes[each["node"]] if isinstance(each, dict) and "node" in each else _restored(each)

    return mapped(value, change)


def resolved(name: str) -> Callable[..., Any]:
    """The operator called ``name``: one of PyTorch's own, or one that has a rule.

    Raises:
        CheckpointError: There is none.

    >>> resolved("aten.relu.default")
    <OpOverload(op='aten.relu', overload='default')>
    """
    if name == "getitem":
        return operator.getitem
    namespace, _, rest = name.partition(".")
    allowed = namespace == "aten" or RULES.get(name) or RULES.get(name.rpartition(".")[0])
    if re.fullmatch(r"\w+\.\w+\.\w+", name) and allowed and rest.partition(".")[0] not in _REFUSED:
        packet, _, overload = rest.partition(".")
        found = getattr(getattr(getattr(torch.ops, namespace), packet, None), overload, None)
        if isinstance(found, torch._ops.OpOverload):
            return found
    raise CheckpointError(
        f"the network calls the operator {name!r}, which is not known here; import the package that registers it, give "
        "it a rule (slimmable.operator_rule), or install the version of torch that the file was written with"
    )


_REFUSED = frozenset({"from_file"})
"""Operators that reach for more than tensors."""


def _positional(target: Callable[..., Any], values: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """An operator's arguments by place, as far as they are given without a gap, and the others by name."""
    schema = getattr(target, "_schema", None)
    names = list(values) if schema is None else [each.name for each in schema.arguments if not each.kwarg_only]
    leading: list[Any] = []
    for name in names:
        if name not in values:
            break
        leading.append(values[name])
    return tuple(leading), {name: value for name, value in values.items() if name not in names[: len(leading)]}


def _with_defaults(target: Callable[..., Any], values: dict[str, Any]) -> dict[str, Any]:
    schema = getattr(target, "_schema", None)
    if schema is None:
        return values
    return {each.name: values.get(each.name, each.default_value) for each in schema.arguments}


def _blank(tensors: Any) -> Any:
    """Tensors without data."""
    if not tensors:
        return tensors
    if isinstance(tensors[-1], str):
        shape, dtype = tensors
        return torch.empty(shape, dtype=dtype_of(dtype), device="meta")
    return [_blank(each) for each in tensors]


def dtype_of(name: str) -> torch.dtype:
    """The type called ``name``.

    >>> dtype_of("float32")
    torch.float32
    """
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise ValueError(f"{name!r} is no type of tensors")
    return found


def _restored(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, text),) = value.items()
    if kind == "float":
        return float(text)
    if kind == "device":
        return torch.device("meta")
    found = getattr(torch, text)
    if not isinstance(found, _TORCH[kind]):
        raise ValueError(f"{text!r} is no {kind}")
    return found


def _unsized(value: Any) -> Any:
    return tuple(value["tuple"]) if isinstance(value, dict) else value


def _unnested(value: Any, leaf: Callable[[Any], Any]) -> Any:
    ((kind, content),) = value.items()
    if kind == "named":
        name, fields, each = content
        return namedtuple(name, fields)(*(_unnested(part, leaf) for part in each))
    if kind == "dict":
        return {key: _unnested(part, leaf) for key, part in content}
    if kind in ("tuple", "list"):
        its = [_unnested(part, leaf) for part in content]
        return tuple(its) if kind == "tuple" else its
    return leaf(value)
