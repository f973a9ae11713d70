"""From an extracted network to an ONNX graph in eight bits, whose weights come from a store that all widths share."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from slimmable.errors import CalibrationError, ExtractionError
from slimmable.export.graph import Graph
from slimmable.export.onnx import weightless, without_tensors
from slimmable.runtime.base import Signature
from slimmable.runtime.protobuf import with_tensors
from slimmable.runtime.quantised import QuantisedLayer


@dataclass(frozen=True, kw_only=True)
class Quantised:
    """A graph of one width in eight bits.

    Attributes:
        graph: The graph; its ``parts`` are the tensors that stay as they are.
        layers: Layers in eight bits, whose tensors :func:`slimmable.runtime.quantised.layer_tensors` makes.
        floating: Weights (of two or more dimensions) among the parts: layers that stay in float32.
    """

    graph: Graph
    layers: tuple[QuantisedLayer, ...]
    floating: tuple[str, ...]


def quantisable(graph: Graph) -> tuple[str, ...]:
    """Weights of a weight-less graph that can come from a store in eight bits.

    These are weights of convolutions (not transposed ones, for which ONNX Runtime has no operator in eight bits) and
    linear layers that nothing else reads: a layer that is called twice has two scales of its input.
    """
    model = _parsed(graph.content)
    return tuple(sorted(layer.weight for layer in _layers(model, {*graph.parts, *graph.extra})))


def quantised(
    module: nn.Module,
    example: tuple[Any, ...],
    signature: Signature,
    batches: Iterable[tuple[np.ndarray, ...]],
    *,
    weights: Collection[str] | None = None,
) -> Quantised:
    """The graph of a network in eight bits, activations as its own calibration data say.

    ONNX Runtime's static quantisation, with a scale for each output channel and signed weights, unsigned activations
    (fastest on x86 and ARM alike), whose weights are taken out again.

    Args:
        module: A network in evaluation mode, batch norm folded.
        example: Its inputs, as for :func:`slimmable.export.onnx.weightless`.
        signature: Names of its inputs and outputs.
        batches: Inputs like those it will meet; their ranges decide. Read once.
        weights: Weights that the store holds; the rest stays in float32. None takes all that are quantisable.

    Raises:
        CalibrationError: There are no batches.
        ExtractionError: The network cannot be exported, or a layer of ``weights`` cannot be quantised.

    Cost:
        One export, and one pass over the data.
    """
    graph = weightless(module, example, signature)
    tensors = dict((*module.named_parameters(), *module.named_buffers()))
    arrays = {**{name: tensors[name].detach().cpu().numpy() for name in graph.parts}, **graph.extra}
    bare = _parsed(graph.content)
    layers = {layer.weight: layer for layer in _layers(bare, set(arrays))}
    wanted = set(layers if weights is None else weights)
    if missing := sorted(wanted - set(layers)):
        raise ExtractionError(
            f"{', '.join(missing)}: no convolution or linear layer alone reads these; keep them in float32"
        )
    chosen = [layers[name] for name in sorted(wanted)]
    for layer in chosen:
        layer.turn(bare, arrays)
    inside = {layer.node.name for layer in chosen}
    outside = [node.name for node in bare.graph.node if node.name not in inside and set(node.input) & set(arrays)]
    model = _quantise_statically(with_tensors(bare.SerializeToString(), arrays), signature, batches, outside)
    return _taken_out(model, chosen, {name: arrays[name] for name in graph.parts if name not in wanted})


@dataclass(frozen=True, kw_only=True)
class _Layer:
    """A node with a weight of its own; ``flip`` turns the weight before the node reads it."""

    node: Any
    weight: str
    bias: str | None
    flip: Any = None

    def turn(self, model: Any, arrays: dict[str, np.ndarray]) -> None:
        """Let the node read the turned weight itself."""
        if self.flip is not None:
            model.graph.node.remove(self.flip)
            self.node.input[1] = self.weight
            arrays[self.weight] = np.ascontiguousarray(arrays[self.weight].T)


def _layers(model: Any, held: set[str]) -> Iterator[_Layer]:
    """Convolutions and linear layers whose weight and bias only they read."""
    reads = Counter(name for node in model.graph.node for name in _read(node))
    flips = {
        node.output[0]: node
        for node in model.graph.node
        if node.op_type == "Transpose" and list(_attributes(node).get("perm", ())) == [1, 0]
    }

    def own(name: str) -> bool:
        return name in held and reads[name] == 1

    for node in model.graph.node:
        if len(node.input) < 2 or node.input[0] in held:
            continue
        weight, bias = node.input[1], next(iter(node.input[2:]), None)
        plain = node.op_type == "Conv" or (node.op_type == "Gemm" and _attributes(node) == _LINEAR)
        if plain and own(weight) and (bias is None or own(bias)):
            yield _Layer(node=node, weight=weight, bias=bias)
        elif node.op_type == "MatMul" and weight in flips and reads[weight] == 1 and own(flips[weight].input[0]):
            yield _Layer(node=node, weight=flips[weight].input[0], bias=None, flip=flips[weight])


_LINEAR = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 1}


def _attributes(node: Any) -> dict[str, Any]:
    from onnx import helper

    return {each.name: helper.get_attribute_value(each) for each in node.attribute}


def _read(node: Any) -> Iterator[str]:
    """Names that a node reads, those of its branches and loops included."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield from _read(inner)


def _parsed(content: bytes) -> Any:
    """A model whose nodes have names."""
    import onnx

    model = onnx.ModelProto()
    model.ParseFromString(content)
    for number, node in enumerate(model.graph.node):
        node.name = f"n{number}"
    return model


def _quantise_statically(
    model: bytes, signature: Signature, batches: Iterable[tuple[np.ndarray, ...]], outside: list[str]
) -> Any:
    """The model with quantised weights and activations, as ONNX Runtime does it."""
    import onnx
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.count, self.left = 0, iter(batches)

        def get_next(self) -> Any:
            batch = next(self.left, None)
            self.count += batch is not None
            return None if batch is None else dict(zip(signature.inputs, batch, strict=True))

    reader = Reader()
    # It advises to prepare every model that is not marked as prepared.
    marked = onnx.ModelProto()
    marked.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "float.onnx"), Path(folder, "integer.onnx")
        source.write_bytes(model + marked.SerializeToString())
        try:
            quantization.quantize_static(
                source,
                target,
                reader,
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                nodes_to_exclude=outside,
            )
        except Exception as error:
            if not reader.count:
                raise CalibrationError("there are no batches to find the ranges of activations with") from error
            reason = str(error).strip().partition("\n")[0] or repr(error)
            raise ExtractionError(f"ONNX Runtime cannot quantise the network: {reason}") from error
        return onnx.load(target)


def _taken_out(proto: Any, layers: Collection[_Layer], floats: dict[str, np.ndarray]) -> Quantised:
    """The quantised model without its tensors."""
    from onnxscript import ir

    model = ir.serde.deserialize_model(proto)
    absent: dict[str, Any] = {}
    found: list[QuantisedLayer] = []
    by_node = {layer.node.name: layer for layer in layers}
    for node in model.graph:
        if layer := by_node.get(node.name):
            entry, weight, *bias = (_dequantised(node, place) for place in range(len(node.inputs)))
            here = QuantisedLayer(
                weight=layer.weight,
                bias=layer.bias,
                input_scale=float(entry[1].const_value.numpy()),
                turned=layer.flip is not None,
            )
            absent.update(zip(here.names, (*weight, *(value for each in bias for value in each)), strict=True))
            found.append(here)
    initializers = model.graph.initializers
    parts = tuple(sorted(name for name in floats if name in initializers))
    absent.update((name, initializers[name]) for name in parts)
    for value in absent.values():
        del initializers[value.name]
    floating = tuple(name for name in parts if floats[name].ndim > 1)
    graph = without_tensors(model, absent, parts=parts)
    return Quantised(graph=graph, layers=tuple(sorted(found, key=lambda each: each.weight)), floating=floating)


def _dequantised(node: Any, place: int) -> tuple[Any, Any, Any]:
    """Integers, scale and zero point of what a node reads."""
    source = node.inputs[place].producer()
    if source is None or source.op_type != "DequantizeLinear":
        raise ExtractionError(f"ONNX Runtime left the {node.op_type} of {node.name} in float32; keep its weight there")
    return tuple(source.inputs)
