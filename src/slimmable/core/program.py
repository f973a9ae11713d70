"""A network that runs from its graph: plain modules that hold the tensors, and one forward that calls the operators."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from slimmable.core.extents import Extents
from slimmable.core.graphs import Batch, Mode, Notes, mapped
from slimmable.core.operators import Extent
from slimmable.core.trace import Call, Trace, shapes_of
from slimmable.errors import CheckpointError, DataError

_SAME = {
    "aten.view.default": torch.ops.aten.reshape.default,
    "aten._unsafe_view.default": torch.ops.aten.reshape.default,
}
"""A tensor that was contiguous where the graph was traced need not be at other widths and batch sizes."""

_CHECKS = ("aten._assert_tensor_metadata",)


class Part(nn.Module):
    """A module of the network: its tensors under their names, its submodules, its mode."""


@dataclass(frozen=True)
class Read:
    """A value that is known when the program runs."""

    get: Callable[[Frame], Any]


@dataclass
class Frame:
    """One run of a program: values of its nodes, batch size and device."""

    program: Program
    values: list[Any]
    batch: int
    device: torch.device


@dataclass(frozen=True, kw_only=True)
class Step:
    """One operator: its arguments, whose outputs it reads, where its own goes, and which nobody reads after it."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    reads: tuple[int, ...]
    output: int
    done: tuple[int, ...]
    scale: tuple[str, int] | None = None
    norm: tuple[str, int] | None = None


@dataclass(frozen=True, kw_only=True)
class Code:
    """A graph ready to run.

    Attributes:
        steps: Operators in order.
        slots: Number of values.
        arguments: The forward's arguments, nested, with the value's place and the shape of every tensor.
        returned: Its outputs, nested, with places.
        batch: Size of the batch when the graph was traced.
        any_batch: Whether it runs at others.
    """

    steps: tuple[Step, ...]
    slots: int
    arguments: Any
    returned: Any
    batch: int
    any_batch: bool

    def __deepcopy__(self, _memo: dict[int, Any]) -> Code:
        return self


@dataclass(frozen=True)
class Entry:
    """An input tensor: where its value goes, and its shape when the graph was traced."""

    place: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Exit:
    """An output tensor: where its value is."""

    place: int


class Program(Part):
    """A network that was read from a file.

    Sizes that follow widths are attributes of it, and constants are buffers.
    """

    def __init__(self) -> None:
        super().__init__()
        self._evaluation: Code
        self._training: Code | None = None
        self._no_training = ""
        self._parts: dict[str, nn.Module] = {}

    def forward(self, *args: Any, **named: Any) -> Any:
        """What the network returns, nested as it did.

        Raises:
            DataError: Inputs of other shapes than the example's, but for the batch size; or inputs by name.
            CheckpointError: The file holds no graph for training.
        """
        if named:
            raise DataError(
                f"a network that was read from its file takes its inputs by position, in the order of the conversion's "
                f"example; got {', '.join(named)} by name: call net(x) instead of net(x=x)"
            )
        code = self._evaluation
        if self.training and self._no_training:
            raise CheckpointError(
                f"the network was saved without a graph for training: {self._no_training}; call net.eval(), or "
                "convert the network from its code and load the file into that: slimmable.load(net, path)"
            )
        if self.training and self._training is not None:
            code = self._training
        values: list[Any] = [None] * code.slots
        found = list(_entered(code.arguments, args, code))
        batch = found[0][1].shape[0] if code.any_batch and found else code.batch
        for entry, tensor in found:
            expected = (batch, *entry.shape[1:]) if code.any_batch else entry.shape
            if tuple(tensor.shape) != expected:
                raise DataError(
                    f"the network was saved for inputs of shape {_shown(entry.shape, code)}, got "
                    f"{tuple(tensor.shape)}; another size needs the network's code: convert it with such an example"
                )
            values[entry.place] = tensor
        frame = Frame(self, values, batch, found[0][1].device if found else torch.device("cpu"))
        for step in code.steps:
            self._run(step, frame)
        return _left(code.returned, values)

    def can_fold(self, norm: str) -> bool:
        """Whether the layer before a batch norm may take it over."""
        return self._before(norm)[0].scale is None

    def fold(self, layer: str, norm: str) -> None:
        """Leave a batch norm out; the layer before it, which has taken it over, has a bias now."""
        before, step = self._before(norm)
        bias = Read(lambda frame: frame.program._parts[layer].bias)
        joined = replace(before, arguments=(*before.arguments[:2], bias, *before.arguments[3:]), output=step.output)
        steps = [joined if each is before else each for each in self._evaluation.steps if each is not step]
        self._evaluation = replace(self._evaluation, steps=tuple(steps))
        self._no_training = "its batch norm was folded into the layers before"

    def _before(self, norm: str) -> tuple[Step, Step]:
        """The step whose output a batch norm reads, and that of the batch norm."""
        steps = self._evaluation.steps
        step = next(each for each in steps if each.norm is not None and each.norm[0] == norm)
        return next(each for each in steps if each.output in step.reads), step

    def _run(self, step: Step, frame: Frame) -> None:
        arguments = [_filled(each, frame) for each in step.arguments]
        options = {name: _filled(each, frame) for name, each in step.options.items()}
        if step.norm is not None and arguments[step.norm[1]]:
            count = getattr(self._parts[step.norm[0]], "num_batches_tracked", None)
            if count is not None:
                count.add_(1)
        output = step.function(*arguments, **options)
        if step.scale is not None:
            factor = step.scale[1] / getattr(self, step.scale[0])
            output = output if factor == 1 else output * factor
        frame.values[step.output] = output
        for place in step.done:
            frame.values[place] = None


def _shown(shape: Sequence[int], code: Code) -> str:
    return f"({', '.join(['any batch' if code.any_batch else str(shape[0]), *map(str, shape[1:])])})" if shape else "()"


def _filled(template: Any, frame: Frame) -> Any:
    if isinstance(template, Read):
        return template.get(frame)
    return [_filled(each, frame) for each in template] if isinstance(template, list) else template


def _entered(expected: Any, given: Any, code: Code) -> Iterator[tuple[Entry, Tensor]]:
    """Input tensors, where arguments are nested as expected."""
    if isinstance(expected, Entry) and isinstance(given, Tensor):
        yield expected, given
    elif isinstance(expected, list | tuple) and isinstance(given, list | tuple) and len(expected) == len(given):
        for one, other in zip(expected, given, strict=True):
            yield from _entered(one, other, code)
    elif isinstance(expected, dict) and isinstance(given, dict) and list(expected) == list(given):
        for key, one in expected.items():
            yield from _entered(one, given[key], code)
    elif isinstance(expected, Entry | list | tuple | dict) or expected != given:
        raise DataError(
            f"the network was saved for other arguments: it takes {_described(expected, code)} where "
            f"{_described(given, code)} was given"
        )


def _described(value: Any, code: Code) -> str:
    if isinstance(value, Entry):
        return f"a tensor of shape {_shown(value.shape, code)}"
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return f"a {type(value).__name__} of {len(value)}" if isinstance(value, list | tuple | dict) else repr(value)


def _left(returned: Any, values: Sequence[Any]) -> Any:
    if isinstance(returned, Exit):
        return values[returned.place]
    if isinstance(returned, dict):
        return {key: _left(each, values) for key, each in returned.items()}
    if isinstance(returned, tuple) and hasattr(returned, "_fields"):
        return type(returned)(*(_left(each, values) for each in returned))
    if isinstance(returned, list | tuple):
        return type(returned)(_left(each, values) for each in returned)
    return returned


# ------------------------------------------------------------------------------------------------- making programs


@dataclass
class Sizes:
    """Attributes of a program that follow axes: the name of each, by what it follows."""

    names: dict[Extent, str] = field(default_factory=dict)

    def name(self, extent: Extent) -> str:
        """The attribute that follows ``extent``."""
        return self.names.setdefault(extent, f"_size_{len(self.names)}")


def compiled(
    trace: Trace,
    notes: Notes,
    extents: Callable[[Call], Extents],
    sizes: Sizes,
    scales: Mapping[fx.Node, tuple[Extent, int]],
    *,
    constants: str,
    any_batch: bool,
) -> Code:
    """A graph ready to run in a :class:`Program`.

    Args:
        trace: The graph.
        notes: Arguments that depend on the batch or the mode.
        extents: Arguments of a call that are sizes of axes.
        sizes: Gathers the attributes that the program needs.
        scales: What a call's output is multiplied with: a number over the extent's size.
        constants: What the names of the constants begin with.
        any_batch: Whether the graph runs at other batch sizes.
    """
    nodes = [*trace.inputs, *(call.node for call in trace.calls)]
    place = {node: at for at, node in enumerate(nodes)}
    kept = {*trace.outputs, *trace.parameters}
    last = {source: call.node for call in trace.calls for source in call.node.all_input_nodes if source not in kept}
    names = {node: f"{constants}{at}" for at, node in enumerate(trace.signature.constants)}

    def node_value(node: fx.Node) -> Any:
        if node in trace.parameters:
            path, _, name = trace.parameters[node].rpartition(".")
            return Read(lambda frame: getattr(frame.program._parts[path], name))
        if node in names:
            name = names[node]
            return Read(lambda frame: getattr(frame.program, name))
        at = place[node]
        return Read(lambda frame: frame.values[at])

    def template(call: Call, name: str, value: Any, its: Extents) -> Any:
        def change(at: int | None, each: Any) -> Any:
            note, extent = notes.get((call.node, name, at)), its.get((name, at))
            if isinstance(each, fx.Node):
                return node_value(each)
            if isinstance(note, Mode):
                yes, no, module = note.training, note.evaluation, call.module
                return Read(lambda frame: yes if frame.program._parts[module].training else no)
            if extent is not None:
                size = sizes.name(extent)
                if note is None:
                    return Read(lambda frame: getattr(frame.program, size))
                return Read(lambda frame: getattr(frame.program, size) * frame.batch // trace.batch)
            if isinstance(note, Batch):
                scale, offset = note.scale, note.offset
                return Read(lambda frame: scale * frame.batch + offset)
            if isinstance(each, torch.device):
                return Read(lambda frame: frame.device)
            return each

        return mapped(value, change)

    steps: list[Step] = []
    for call in trace.calls:
        if call.name.startswith(_CHECKS):
            continue
        its = extents(call)
        values = {name: template(call, name, value, its) for name, value in call.values.items()}
        leading, options = _placed(call, values)
        norm = call.name.startswith("aten.batch_norm")
        scale = scales.get(call.node)
        steps.append(
            Step(
                function=_SAME.get(call.name, call.node.target),  # pyright: ignore[reportArgumentType]
                arguments=leading,
                options=options,
                reads=tuple(place[source] for source in call.node.all_input_nodes if source in place),
                output=place[call.node],
                done=tuple(place[source] for source in call.node.all_input_nodes if last.get(source) is call.node),
                scale=None if scale is None else (sizes.name(scale[0]), scale[1]),
                norm=(call.module, list(call.values).index("training")) if norm else None,
            )
        )

    def entry(value: Any) -> Any:
        return Entry(place[value], shapes_of(value)[0]) if isinstance(value, fx.Node) else value

    return Code(
        steps=tuple(steps),
        slots=len(nodes),
        arguments=_renested(trace.signature.arguments, entry),
        returned=_renested(
            trace.signature.returned, lambda value: _exit(value, place) if isinstance(value, fx.Node) else value
        ),
        batch=trace.batch,
        any_batch=any_batch,
    )


def _exit(node: fx.Node, place: Mapping[fx.Node, int]) -> Exit:
    if node not in place:
        raise CheckpointError(f"the network returns a parameter ({node.name}) as it is")
    return Exit(place[node])


def _placed(call: Call, values: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments as the operator takes them: those that may be given by place, and the others by name."""
    schema = getattr(call.node.target, "_schema", None)
    named = set() if schema is None else {each.name for each in schema.arguments if each.kwarg_only}
    leading = tuple(value for name, value in values.items() if name not in named)
    return leading, {name: value for name, value in values.items() if name in named and value is not None}


def _renested(value: Any, leaf: Callable[[Any], Any]) -> Any:
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_renested(each, leaf) for each in value))
    if isinstance(value, list | tuple):
        return type(value)(_renested(each, leaf) for each in value)
    if isinstance(value, dict):
        return {key: _renested(each, leaf) for key, each in value.items()}
    return leaf(value)
