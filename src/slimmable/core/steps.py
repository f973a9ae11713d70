"""What a network does, without tracing it again: the elementary operators that it comes down to while it runs.

Tracing takes milliseconds for each operator. To prove that a narrow network does what was foreseen, it is enough to see
it do that: its operators come down to elementary ones, which a dispatch mode sees at hardly any cost. The traced graph,
run the same way, says which of them belong to which of its own operators. Where the two sequences agree, each
operator's shape is that of its last step. Where they do not, nothing is proved, and a trace has to tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import fx, nn
from torch.fx.node import map_aggregate
from torch.utils._python_dispatch import TorchDispatchMode

from slimmable.core.foreseen import Foreseen
from slimmable.core.trace import Call, Trace, tensors
from slimmable.core.twins import with_tensors, without_data

_ATEN = torch.ops.aten
_IGNORED = frozenset(
    {
        _ATEN._assert_tensor_metadata.default,
        _ATEN.clone.default,
        _ATEN.detach.default,
        _ATEN.alias.default,
        _ATEN._to_copy.default,
        _ATEN.lift_fresh.default,
        _ATEN.lift_fresh_copy.default,
    }
)
"""Copies, whose shape is their input's, and checks, which yield nothing: they come and go with strides and tracing."""
_VIEWS = {_ATEN._unsafe_view.default: _ATEN.view.default, _ATEN._reshape_alias.default: _ATEN.view.default}
"""Other names of one operator, which reshapes choose by strides."""

Shape = tuple[int, ...]


class Step(NamedTuple):
    """An elementary operator that ran: its output shapes; where a slice begins, and the length of its axis."""

    operator: Any
    shapes: list[Shape]
    cut: tuple[int, int] | None


class Watch(TorchDispatchMode):
    """Notes the steps that run inside the context."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[Step] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func not in _IGNORED:
            shapes = [tuple(each.shape) for each in tensors(found)]
            cut = _cut(*args, **(kwargs or {})) if func is _ATEN.slice.Tensor else None
            self.steps.append(Step(_VIEWS.get(func, func), shapes, cut))
        return found


def _cut(whole: torch.Tensor, dim: int = 0, start: int | None = None, *_: Any, **__: Any) -> tuple[int, int]:
    return start or 0, whole.shape[dim]


Reference = Sequence[tuple[Call, Sequence[Step]]]
"""The steps of each call of a graph."""


def reference(graph: Trace, model: nn.Module, *, hollow: bool) -> Reference | None:
    """The steps of every operator of a model's graph, run with or without data; None if it does not run so.

    Tracing leaves out copies of what is contiguous there, and need not be so here: views may have to copy.
    """
    found: list[tuple[Call, Sequence[Step]]] = []
    values = {node: _entering(graph, model, node) for node in (*graph.parameters, *graph.inputs)}
    if hollow:
        values = {node: with_tensors(value, without_data) for node, value in values.items()}
    devices = {each.device for each in model.parameters() if each.is_cuda}
    try:
        with (
            torch.random.fork_rng(devices),
            torch.no_grad(),
            torch.device("meta") if hollow else nullcontext(),
            Watch() as watch,
        ):
            for call in graph.calls:
                before = len(watch.steps)
                args, kwargs = _given(call.node, values, hollow=hollow)
                target: Any = _ATEN.reshape.default if call.node.target is _ATEN.view.default else call.node.target
                values[call.node] = target(*args, **kwargs)
                found.append((call, watch.steps[before:]))
    except Exception:
        return None
    return found


def _entering(graph: Trace, model: nn.Module, node: fx.Node) -> Any:
    """The value of a placeholder: its tensor of the model, a constant, or zeros for an input."""
    name = graph.parameters.get(node)
    if name is not None:
        return model.get_buffer(name).clone() if name in graph.buffers else model.get_parameter(name)
    if node in graph.signature.constants:
        return graph.signature.constants[node]
    return with_tensors(
        node.meta.get("val"), lambda each: torch.zeros(each.shape, dtype=each.dtype, device=each.device)
    )


def _given(node: fx.Node, values: Mapping[fx.Node, Any], *, hollow: bool) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments of a call, with values for nodes."""

    def value(each: Any) -> Any:
        if isinstance(each, fx.Node):
            return values[each]
        return torch.device("meta") if hollow and isinstance(each, torch.device) else each

    return map_aggregate((node.args, node.kwargs), value)


def agree(expected: Reference, foreseen: Foreseen, steps: Sequence[Step]) -> bool:
    """Whether steps that ran are those of the graph, of the shapes foreseen; False also where that cannot be told."""
    if [step.operator for _, its in expected for step in its] != [step.operator for step in steps]:
        return False
    at = 0
    for call, its in expected:
        found = steps[at : at + len(its)]
        at += len(its)
        outputs = foreseen.shapes(call.node)
        if found:
            known = its[-1].shapes[: len(outputs)] == call.outputs and found[-1].shapes[: len(outputs)] == outputs
        else:
            known = not outputs or outputs == _passed_on(call, foreseen)
        if not known or not all(_begins(found, *each) for each in foreseen.arguments(call.node).items()):
            return False
    return True


def _begins(found: Sequence[Step], name: str, value: int) -> bool:
    """Whether a call is a slice that begins at a position; any other argument cannot be told from its steps."""
    cut = found[-1].cut if found and name == "start" else None
    return cut is not None and cut[0] % cut[1] == value % cut[1]


def _passed_on(call: Call, foreseen: Foreseen) -> list[Shape] | None:
    """Shapes of a call that runs no operator: it returns its input, or one of several outputs of a call."""
    sources = call.node.all_input_nodes
    if not sources:
        return None
    source = foreseen.shapes(sources[0])
    return [source[call.values["index"]]] if call.name == "getitem" else source[:1]
