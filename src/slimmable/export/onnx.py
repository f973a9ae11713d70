"""From an extracted network to an ONNX graph without its tensors, which ONNX Runtime and OpenVINO read."""

from __future__ import annotations

import logging
import warnings
from itertools import count
from typing import Any, Final, cast

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.symbolic_shapes import is_concrete_int

from slimmable.core.twins import twin, with_tensors
from slimmable.errors import ExtractionError, MissingDependencyError
from slimmable.export.graph import Graph
from slimmable.export.out_of_place import out_of_place
from slimmable.runtime.base import Signature

OPSET: Final = 20
"""Version of the operators."""

LARGE: Final = 1024
"""Bytes from which on a constant is stored beside the graph."""

_LOG = logging.getLogger(__name__)


def weightless(module: nn.Module, example: tuple[Any, ...], signature: Signature) -> Graph:
    """The ONNX graph of a network, in which its parameters and buffers are names alone.

    PyTorch's exporter simplifies the graph, but never sees what the tensors hold: it can neither merge one into a new
    constant nor drop one because it happens to be zero. So the graph is the same for all values of the tensors, and the
    runtime does with them what it would do with those of an ordinary file.

    Args:
        module: A network in evaluation mode, batch norm folded (``net.extract(widths, fold_batch_norm=True)``).
        example: Its inputs, the batch in the first dimension; that size may vary where the network allows it.
        signature: Names of its inputs and outputs.

    Returns:
        The graph. Tied tensors are one part, under the first of their names.

    Raises:
        ExtractionError: PyTorch cannot export the network, or the names do not fit.
        MissingDependencyError: onnx or onnxscript is not installed.

    Cost:
        Some seconds.
    """
    names = _first_names(module)
    if clash := {*names.values()} & {*signature.inputs, *signature.outputs}:
        raise ExtractionError(f"{sorted(clash)} name tensors of the network; its inputs or outputs need other names")
    program = _exported(module, example, signature)
    graph = program.model.graph
    held = _hide(graph, names)
    program.optimize()
    del graph.inputs[len(signature.inputs) :]
    batches = {size.value for value in graph.inputs for size in value.shape if not isinstance(size, int)}
    program.rename_axes({name: "batch" for name in batches if len(batches) == 1})
    parts = {name: value for name, value in held.items() if value.uses()}
    return without_tensors(program.model, parts, parts=tuple(sorted(parts)))


def without_tensors(model: Any, absent: dict[str, Any], *, parts: tuple[str, ...]) -> Graph:
    """The graph of an ``onnx_ir`` model, which is left cleaned.

    Args:
        model: The model.
        absent: Values whose tensors come later, by the names that they get; neither inputs nor initializers.
        parts: Those of them that are tensors of the module.
    """
    _clean(model, absent)
    initializers = model.graph.initializers
    large = {name: value for name, value in initializers.items() if value.const_value.nbytes > LARGE}
    for name in large:
        del initializers[name]
    return Graph(
        content=_content(model, {**absent, **large}),
        any_batch=any(not isinstance(size, int) for value in model.graph.inputs for size in value.shape[:1]),
        parts=parts,
        extra={name: np.array(value.const_value.numpy()) for name, value in large.items()},
    )


def _first_names(module: nn.Module) -> dict[str, str]:
    """From every name of a parameter or buffer to the first name of that tensor."""
    first: dict[int, str] = {}
    tensors = (*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False))
    return {name: first.setdefault(id(tensor), name) for name, tensor in tensors}


def _exported(module: nn.Module, example: tuple[Any, ...], signature: Signature) -> Any:
    """PyTorch's ONNX program, not yet simplified."""
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingDependencyError(f"{error.name} is not installed: pip install 'slimmable[export]'") from error
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program: Any = torch.onnx.export(
                _traced(module, example),
                dynamo=True,
                optimize=False,
                verbose=False,
                opset_version=OPSET,
                input_names=signature.inputs,
                output_names=signature.outputs,
            )
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or repr(error)
        raise ExtractionError(f"PyTorch cannot export {type(module).__name__} to ONNX: {reason}") from error
    inputs, outputs = (
        tuple(each.name for each in part) for part in (program.model.graph.inputs, program.model.graph.outputs)
    )
    if (inputs, outputs) != (signature.inputs, signature.outputs):
        raise ExtractionError(
            f"{type(module).__name__} takes {len(inputs)} tensors and returns {len(outputs)}; "
            f"the signature names {len(signature.inputs)} and {len(signature.outputs)}"
        )
    return program


def _traced(module: nn.Module, example: tuple[Any, ...]) -> torch.export.ExportedProgram:
    """The network's program; any batch size will do where the network allows it."""

    def batch(tensor: Tensor) -> Any:
        return {0: torch.export.Dim.AUTO} if tensor.ndim else None

    # A dimension of size one would be taken for a constant.
    pairs = with_tensors(example, lambda each: torch.cat([each, each]) if each.shape[:1] == (1,) else each)
    try:
        program = torch.export.export(twin(module), pairs, dynamic_shapes=with_tensors(example, batch), strict=False)
    except Exception:
        program = None
    if program is None or not _varies(program):
        program = torch.export.export(twin(module), example, strict=False)
        _LOG.warning("%s takes batches of the example's size alone", type(module).__name__)
    return _selecting(out_of_place(program))


def _varies(program: torch.export.ExportedProgram) -> bool:
    """Whether the batch of any input may vary."""
    names = program.graph_signature.user_inputs
    inputs = [node.meta["val"] for node in program.graph.find_nodes(op="placeholder") if node.name in names]
    return any(isinstance(each, Tensor) and not is_concrete_int((*each.shape, 1)[0]) for each in inputs)


def _selecting(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Read tables by rows: what ``x[index]`` becomes in ONNX can do more, and OpenVINO would run it at every call."""
    aten = torch.ops.aten
    for node in program.graph.find_nodes(op="call_function", target=aten.index.Tensor):
        table, indices = cast("tuple[fx.Node, list[fx.Node | None]]", node.args)
        given = [(dim, index) for dim, index in enumerate(indices) if index is not None]
        if len(given) == 1 and given[0][1].meta["val"].ndim == 1 and given[0][1].meta["val"].dtype == torch.int64:
            node.target, node.args = aten.index_select.default, (table, *given[0])
    return program


def _hide(graph: Any, names: dict[str, str]) -> dict[str, Any]:
    """Make the module's tensors inputs of the graph; returns its values by the tensors' first names."""
    held: dict[str, Any] = {}
    for name in [name for name in graph.initializers if name in names]:
        value = graph.initializers.pop(name)
        if names[name] in held:
            value.replace_all_uses_with(held[names[name]])
            continue
        value.const_value = None
        held[names[name]] = value
    graph.inputs.extend(held.values())
    return held


def _clean(model: Any, parts: dict[str, Any]) -> None:
    """Take out what tells of the code and the machine, and name every value: parts by their names, others by number."""
    graph = model.graph
    model.producer_name, model.producer_version = "slimmable", None
    nodes, constants = list(graph.all_nodes()), list(graph.initializers.values())
    graph.initializers.clear()
    values = [*constants, *(value for node in nodes for value in node.outputs)]
    fixed = {id(value) for value in (*graph.inputs, *graph.outputs)}
    taken = {*parts, *(value.name for value in (*graph.inputs, *graph.outputs))}
    fresh = (name for name in (f"v{number}" for number in count()) if name not in taken)
    for value in values:
        if id(value) not in fixed:
            value.name = next(fresh)
    for name, value in parts.items():
        value.name = name
    graph.initializers.update((value.name, value) for value in constants)
    for node in nodes:
        node.name = node.doc_string = None
    for each in (model, graph, *nodes, *values, *graph.inputs):
        each.metadata_props.clear()


def _content(graph: Any, absent: dict[str, Any]) -> bytes:
    """The bytes of a model, with the shapes that a reader cannot find by itself."""
    import onnx
    from onnxscript import ir

    model = ir.serde.serialize_model(graph)
    shapes = {each.name: each for each in model.graph.value_info}
    model.graph.ClearField("value_info")
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    for name, value in absent.items():
        whole.graph.input.append(onnx.helper.make_tensor_value_info(name, value.dtype, list(value.shape)))
    found = {each.name: each.type for each in onnx.shape_inference.infer_shapes(whole).graph.value_info}
    made = {name for node in model.graph.node for name in node.output}
    # Runtimes fuse by shapes: without these some would compute the same in another order.
    model.graph.value_info.extend(
        each for name, each in shapes.items() if name in made and found.get(name) != each.type
    )
    return model.SerializeToString(deterministic=True)
