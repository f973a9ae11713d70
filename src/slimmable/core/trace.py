"""The flat ATen graph of a network, from ``torch.export``: operators, their parameters, modules and lines."""

from __future__ import annotations

import operator
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind
from torch.utils._pytree import TreeSpec, tree_unflatten

from slimmable.core.origins import Origins, Size, origins_of
from slimmable.core.twins import twin
from slimmable.errors import ConversionError


@dataclass(frozen=True, kw_only=True)
class Call:
    """One operator of the graph."""

    node: fx.Node
    name: str
    module: str
    line: str
    values: dict[str, Any] = field(repr=False)

    @property
    def outputs(self) -> list[tuple[int, ...]]:
        """Shapes of the output tensors."""
        return shapes_of(self.node)


@dataclass(frozen=True, kw_only=True)
class Signature:
    """What a traced forward takes and returns.

    Attributes:
        arguments: The forward's arguments as it takes them, nested, with a placeholder node for every tensor.
        constants: Tensors that are neither parameters, buffers nor inputs, by placeholder node.
        returned: What the forward returns as it does, nested, with a node for every tensor.
    """

    arguments: Any
    constants: dict[fx.Node, Tensor]
    returned: Any


@dataclass(frozen=True, kw_only=True)
class Trace:
    """A network's operators in order, and where their inputs come from.

    Attributes:
        calls: Operators in the order in which they run.
        parameters: Name of the parameter or buffer behind a placeholder node.
        buffers: Names of the buffers among them.
        inputs: Placeholder nodes of the example inputs and of constants.
        outputs: Nodes that the network returns.
        batch: Leading size that all example inputs share; 1 if they share none.
        examples: How many examples the inputs hold; the inputs of that leading size hold an entry for each.
        sizes: Attributes of modules that may be sizes, by path and name.
        origins: Those of them that the code passes as sizes, where values alone do not say which.
        signature: How the forward takes its arguments and returns its outputs.
    """

    calls: tuple[Call, ...]
    parameters: dict[fx.Node, str]
    buffers: frozenset[str]
    inputs: tuple[fx.Node, ...]
    outputs: tuple[fx.Node, ...]
    batch: int
    examples: int
    sizes: dict[str, dict[str, Size]]
    origins: Origins
    signature: Signature


def trace(model: nn.Module, example_inputs: tuple[Any, ...]) -> Trace:
    """The graph of ``model`` on ``example_inputs``, in the mode (training or evaluation) in which ``model`` is.

    Raises:
        ConversionError: ``torch.export`` cannot trace the network.
    """
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.export.export(twin(model), example_inputs, strict=False)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise ConversionError(
            f"torch.export cannot trace {type(model).__name__}: {reason}. "
            "Its forward must take and return tensors and must not branch on their values; "
            "convert the part of it that does (the backbone, say) and keep the rest as it is"
        ) from error
    _inline_regions(program.graph_module)
    parameters: dict[fx.Node, str] = {}
    buffers: set[str] = set()
    inputs: list[fx.Node] = []
    placeholders = [node for node in program.graph.nodes if node.op == "placeholder"]
    for node, spec in zip(placeholders, program.graph_signature.input_specs, strict=True):
        if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER) and spec.target is not None:
            parameters[node] = spec.target
            buffers |= {spec.target} if spec.kind is InputKind.BUFFER else set()
        else:
            inputs.append(node)
    paths = _paths(model)
    calls = tuple(_call(node, paths) for node in program.graph.nodes if node.op == "call_function")
    returned = {
        spec.arg.name
        for spec in program.graph_signature.output_specs
        if spec.kind is OutputKind.USER_OUTPUT and hasattr(spec.arg, "name")
    }
    sizes, origins = origins_of(model, example_inputs)
    return Trace(
        calls=calls,
        parameters=parameters,
        buffers=frozenset(buffers),
        inputs=tuple(inputs),
        outputs=tuple(node for node in program.graph.nodes if node.name in returned),
        batch=_batch(example_inputs),
        examples=_batch(example_inputs),
        sizes=sizes,
        origins=origins,
        signature=_signature(program),
    )


def _signature(program: torch.export.ExportedProgram) -> Signature:
    nodes = {node.name: node for node in program.graph.nodes}
    given, made = program.graph_signature.input_specs, program.graph_signature.output_specs
    taken = [_leaf(spec.arg, nodes) for spec in given if spec.kind is InputKind.USER_INPUT]
    yielded = [_leaf(spec.arg, nodes) for spec in made if spec.kind is OutputKind.USER_OUTPUT]
    constants: dict[fx.Node, Tensor] = {}
    for spec in given:
        value = program.constants.get(spec.target) if spec.target is not None else None
        if spec.kind is InputKind.CONSTANT_TENSOR and isinstance(value, Tensor):
            constants[nodes[spec.arg.name]] = value
    arguments, _ = _nested(taken, program.call_spec.in_spec)
    return Signature(arguments=arguments, constants=constants, returned=_nested(yielded, program.call_spec.out_spec))


def _leaf(argument: Any, nodes: Mapping[str, fx.Node]) -> Any:
    """A tensor's node, or the value of what is no tensor."""
    return argument.value if isinstance(argument, ConstantArgument) else nodes[argument.name]


def _nested(leaves: list[Any], structure: TreeSpec | None) -> Any:
    return leaves if structure is None else tree_unflatten(leaves, structure)


def _inline_regions(module: fx.GraphModule) -> None:
    """Put the operators of regions without gradients or autocast, which tracing keeps as graphs, into the whole one."""
    graph = module.graph
    for node in [node for node in graph.nodes if str(node.target).startswith("wrap_with_")]:
        place, inner = next(
            (place, arg) for place, arg in enumerate(node.args) if isinstance(arg, fx.Node) and arg.op == "get_attr"
        )
        region = module.get_submodule(str(inner.target))
        assert isinstance(region, fx.GraphModule)
        entering = [each for each in region.graph.nodes if each.op == "placeholder"]
        given: dict[Any, Any] = dict(zip(entering, node.args[place + 1 :], strict=True))
        with graph.inserting_before(node):
            found: Any = graph.graph_copy(region.graph, given)
        results = found if isinstance(found, tuple | list) else (found,)
        for user in list(node.users):  # each takes one result
            index: Any = user.args[1]
            user.replace_all_uses_with(results[index])
            graph.erase_node(user)
        graph.erase_node(node)


def owner(parameter: str) -> str:
    """Path of the module that a parameter belongs to: the parametrised one, not its parametrisation.

    >>> owner("head.conv.weight"), owner("head.conv.parametrizations.weight.original0")
    ('head.conv', 'head.conv')
    """
    path, parametrised, _ = f".{parameter}".partition(".parametrizations.")
    return path[1:] if parametrised else parameter.rpartition(".")[0]


def shapes_of(node: fx.Node) -> list[tuple[int, ...]]:
    """Shapes of the tensors that a node yields."""
    return [tuple(int(size) for size in value.shape) for value in tensors(node.meta.get("val"))]


def _paths(model: nn.Module) -> dict[str, str]:
    """The first path of every module, by all its paths."""
    first = {module: path for path, module in model.named_modules()}
    return {path: first[module] for path, module in model.named_modules(remove_duplicate=False)}


def _call(node: fx.Node, paths: Mapping[str, str]) -> Call:
    target = node.target
    module, line = _module(node), _line(node)
    module = paths.get(module, module)
    if target is operator.getitem:
        return Call(
            node=node,
            name="getitem",
            module=module,
            line=line,
            values={"self": node.args[0], "index": node.args[1]},
        )
    name = str(target)
    values: dict[str, Any] = {}
    if isinstance(target, torch._ops.OpOverload):
        for position, argument in enumerate(target._schema.arguments):
            if position < len(node.args):
                values[argument.name] = node.args[position]
            else:
                values[argument.name] = node.kwargs.get(argument.name, argument.default_value)
    else:
        values = {str(position): value for position, value in enumerate(node.args)} | dict(node.kwargs)
    return Call(node=node, name=name, module=module, line=line, values=values)


def _module(node: fx.Node) -> str:
    """Path of the innermost module that called the operator."""
    stack = node.meta.get("nn_module_stack") or {}
    path = next(reversed(stack.values()))[0] if stack else ""
    return re.sub(r"@\d+$", "", path)


def _line(node: fx.Node) -> str:
    """File and line of the user's code that called the operator (the last frame outside torch)."""
    frames = re.findall(r'File "([^"]+)", line (\d+)', node.meta.get("stack_trace") or "")
    torch_folder = str(Path(torch.__file__).parent)
    own = [frame for frame in frames if not frame[0].startswith(torch_folder)] or frames
    return f"{Path(own[-1][0]).name}:{own[-1][1]}" if own else ""


def _batch(example_inputs: tuple[Any, ...]) -> int:
    sizes = {tensor.shape[0] if tensor.ndim else 0 for tensor in tensors(example_inputs)}
    return sizes.pop() or 1 if len(sizes) == 1 else 1


def tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in a nested value."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from (tensor for part in value.values() for tensor in tensors(part))
    elif isinstance(value, list | tuple):
        yield from (tensor for part in value for tensor in tensors(part))
