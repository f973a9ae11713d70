"""Writing ``model.slim``: one network's weights once, and for every stored width a table and weight-less graphs."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from slimmable.core.model import SlimmableModel
from slimmable.core.parts import Dissected
from slimmable.core.space import Widths
from slimmable.cost.analytic import activation_bytes, macs, parameters
from slimmable.errors import ArtifactError, ExtractionError
from slimmable.export.flat import described, fixed, flatten
from slimmable.export.graph import Graph
from slimmable.export.store import save_aligned
from slimmable.record import atomic_path, environment
from slimmable.runtime.artifact import Artifact, deflated
from slimmable.runtime.backends import BackendName, graphs_of
from slimmable.runtime.base import Layout, Signature
from slimmable.runtime.manifest import FORMAT, Cost, Graphs, Latency, Manifest, Part, StoredWidths
from slimmable.runtime.parts import cut, entries, table_size
from slimmable.runtime.quantised import QuantisedLayer, quantise

Made = tuple[Graph, tuple[QuantisedLayer, ...]]
"""A graph and its layers in eight bits."""

Exporter = Callable[[nn.Module, tuple[Any, ...], Signature], Graph]
Tables = Literal["float32", "float16"]
Store = Literal["float32", "int8"]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What an artifact tells beside the network.

    Attributes:
        name: Of the network.
        accuracy: Figures of merit by the name of the width.
        latencies: Measured latencies by the name of the width.
        labels: Names of the classes.
        preprocessing: How an image becomes an input: ``size`` (height and width), ``resize`` (of the shorter side,
            before the centre is cut out), ``mean``, ``std`` (of channels between 0 and 1).

    Raises:
        ExtractionError: A figure is no finite number, or the preprocessing has values that JSON has not.

    >>> Facts(accuracy={"0.5": {"top1": None, "top5": np.float32(0.75)}}, preprocessing={"size": (32, 32)})
    Facts(name='network', accuracy={'0.5': {'top5': 0.75}}, latencies={}, labels=None, preprocessing={'size': [32, 32]})
    """

    name: str = "network"
    accuracy: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    latencies: Mapping[str, Sequence[Latency]] = field(default_factory=dict)
    labels: Sequence[str] | None = None
    preprocessing: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        known = {
            name: {key: _figure(key, it) for key, it in its.items() if it is not None}
            for name, its in self.accuracy.items()
        }
        object.__setattr__(self, "accuracy", known)
        if self.labels is not None:
            object.__setattr__(self, "labels", tuple(map(str, self.labels)))
        try:
            object.__setattr__(self, "preprocessing", json.loads(json.dumps(self.preprocessing, allow_nan=False)))
        except (TypeError, ValueError) as error:
            raise ExtractionError(
                f"the preprocessing cannot be stored: {error}; give plain numbers and lists"
            ) from error


def _figure(name: str, value: Any) -> float:
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        raise ExtractionError(f"{name} is {value!r}, and an artifact tells finite numbers; leave that figure out")
    return found


def write_artifact(
    net: SlimmableModel,
    path: str | Path,
    widths: Mapping[str, Widths],
    *,
    example_inputs: Tensor | tuple[Tensor, ...],
    backends: Sequence[BackendName] = ("onnx",),
    tables: Tables = "float32",
    store: Store = "float32",
    calibration: Iterable[tuple[Tensor, ...]] = (),
    facts: Facts | None = None,
) -> Artifact:
    """Write a network at several widths as one file of about one network's size, and check what was written.

    Full weights stand in it once, with batch norm not folded. For each width it holds one packed table of vectors into
    which batch norm is folded (8 bytes for each output channel of a convolution), and one graph without weights for
    each backend. Every tensor that a runtime will cut from it is compared, bit for bit, with that of the extracted
    network before the file appears.

    Args:
        net: A converted network, trained, with current batch-norm statistics at the widths.
        path: The file, by custom ``NAME.slim``.
        widths: Those to store, by name.
        example_inputs: What the network takes; their first dimension is the batch.
        backends: Runtimes to write graphs for.
        tables: Precision of the folded vectors; ``float16`` halves what another width costs.
        store: ``int8`` holds weights of convolutions and linear layers as integers, about a quarter of the size, for
            ONNX Runtime and OpenVINO; each width has its own ranges of activations.
        calibration: With ``int8``, inputs like those it will meet, some hundred in all; read once.
        facts: What else the file is to tell.

    Returns:
        The artifact, opened.

    Raises:
        CalibrationError: Batch norm has no current statistics for some of the widths, or there is no data for ``int8``.
        ExtractionError: A backend cannot take the network, or a tensor cannot be made again.
        MissingDependencyError: The exporter of a backend is not installed.
    """
    facts = facts or Facts()
    if not widths or not backends:
        raise ExtractionError("an artifact needs at least one width and one backend to run it")
    example = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
    ordered = sorted(widths, key=lambda name: macs(net, widths[name]))
    rounding = torch.float16 if tables == "float16" else None
    with torch.no_grad():
        taken = net.dissect([widths[name] for name in ordered], rounding=rounding)
        inputs, outputs = described(taken.networks[-1], example)
        networks = [flatten(each) for each in taken.networks]
        signature = Signature(inputs=tuple(each.name for each in inputs), outputs=tuple(each.name for each in outputs))
        kinds = list(dict.fromkeys(map(graphs_of, backends)))
        if store == "int8":
            made = _in_eight_bits(kinds, networks, example, signature, list(calibration))
        else:
            made = {kind: [(exporter(kind)(module, example, signature), ()) for module in networks] for kind in kinds}
    if not all(graph.any_batch for its in made.values() for graph, _ in its):
        batch = len(example[0])
        inputs, outputs = ([fixed(each, batch) for each in its] for its in (inputs, outputs))
    needed = {name for its in made.values() for graph, _ in its for name in graph.parts}
    layers = [layer for its in made.values() for _, its_layers in its for layer in its_layers]
    integers = {layer.weight for layer in layers}
    needed |= integers | {layer.bias for layer in layers if layer.bias is not None}
    parts = tuple(part for part in taken.parts if part.name in needed)
    if unknown := needed - {part.name for part in parts}:
        raise ExtractionError(f"a graph takes the tensors {', '.join(sorted(unknown)[:3])}, which the network has not")
    tensors = _weights(taken, parts)
    for at, name in enumerate(ordered):
        tensors[f"table/{at}"] = _table(taken, parts, at, widths[name], tables)
        _verify(taken, parts, at, widths[name], tensors, net.space.largest)
    for part in parts:
        if part.name in integers:
            whole = tensors[f"weight/{part.source}"]
            tensors[f"weight/{part.source}"], tensors[f"scale/{part.source}"] = quantise(whole)
    for kind, its in made.items():
        for at, (graph, _) in enumerate(its):
            packed = deflated(graph.content, its[0][0].content if at else b"")
            tensors[f"graph/{kind}/{at}"] = np.frombuffer(packed, np.uint8)
            tensors |= {f"extra/{kind}/{at}/{name}": each for name, each in graph.extra.items()}
    manifest = Manifest(
        name=facts.name,
        space=net.space,
        parts=parts,
        widths=tuple(_stored(net, name, widths[name], facts) for name in ordered),
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        graphs={
            kind: Graphs(
                parts=tuple(graph.parts for graph, _ in its),
                extra=tuple(tuple(graph.extra) for graph, _ in its),
                layers=tuple(own for _, own in its) if integers else (),
            )
            for kind, its in made.items()
        },
        preprocessing=facts.preprocessing,
        labels=None if facts.labels is None else tuple(facts.labels),
        checksums={name: hashlib.sha256(np.ascontiguousarray(each).data).hexdigest() for name, each in tensors.items()},
        environment=environment(),
    )
    save(path, manifest, tensors)
    return Artifact(path)


def save(path: str | Path, manifest: Manifest, tensors: Mapping[str, np.ndarray]) -> None:
    """Write an artifact's file whole or not at all, and read it once before it appears.

    Raises:
        ArtifactError: What was written cannot be read.
    """
    text = manifest.to_text()
    metadata = {"format": FORMAT, "manifest": text, "sha256": hashlib.sha256(text.encode()).hexdigest()}
    with atomic_path(path) as temporary:
        save_aligned(tensors, temporary, metadata)
        if Artifact(temporary).manifest != manifest:
            raise ArtifactError(f"{path}: the description reads back otherwise than it was written")


def exporter(backend: str) -> Exporter:
    """What makes a weight-less graph for a backend.

    Raises:
        ExtractionError: There is none of that name.
    """
    match backend:
        case "onnx":
            from slimmable.export.onnx import weightless
        case "torch":
            from slimmable.export.pytorch import weightless
        case "executorch":
            from slimmable.export.executorch import weightless
        case _:
            raise ExtractionError(f"there is no backend {backend!r}; expected one of onnx, openvino, executorch, torch")
    return weightless


def _in_eight_bits(
    kinds: Sequence[str],
    networks: Sequence[nn.Module],
    example: tuple[Any, ...],
    signature: Signature,
    calibration: Sequence[tuple[Tensor, ...]],
) -> dict[str, list[Made]]:
    """Graphs whose weights are integers, the same layers at every width."""
    from slimmable.export.onnx import weightless
    from slimmable.export.quantised import quantisable, quantised

    if kinds != ["onnx"]:
        raise ExtractionError(
            f"weights in eight bits are for onnx and openvino, got {', '.join(kinds)}; write another file in float32"
        )
    batches = [tuple(each.cpu().numpy() for each in batch) for batch in calibration]
    weights = set.intersection(*(set(quantisable(weightless(each, example, signature))) for each in networks))
    found = [quantised(each, example, signature, batches, weights=weights) for each in networks]
    return {"onnx": [(each.graph, each.layers) for each in found]}


def _weights(taken: Dissected, parts: Sequence[Part]) -> dict[str, np.ndarray]:
    names = dict.fromkeys(part.source for part in parts if part.source is not None)
    found = {f"weight/{name}": taken.sources[name].contiguous().cpu().numpy() for name in names}
    for name, each in found.items():
        if each.dtype not in (np.float32, np.int64, np.int32, np.bool_):
            raise ExtractionError(
                f"{name} is of type {each.dtype}; artifacts hold float32 weights: call net.float() first"
            )
    return found


def _table(taken: Dissected, parts: Sequence[Part], at: int, widths: Widths, tables: Tables) -> np.ndarray:
    own = _tensors(taken.networks[at])
    packed = np.empty(table_size(parts, widths.channels), np.float32)
    for part, shape, start in entries(parts, widths.channels):
        path = part.name.rpartition(".")[0]
        if part.source is None:
            values = own[part.name].cpu().numpy()
        elif path in taken.gains[at]:
            values = taken.gains[at][path].scale.cpu().numpy()
        else:
            values = np.ones(shape, np.float32)
        packed[start : start + values.size] = values.reshape(-1)
    if tables == "float32":
        return packed
    with np.errstate(over="ignore"):
        halved = packed.astype(np.float16)
    if (np.isfinite(packed) & ~np.isfinite(halved)).any():
        raise ExtractionError(
            f"a folded factor at {widths} is beyond the half precision of the tables; write them in float32"
        )
    return halved


def _verify(
    taken: Dissected,
    parts: Sequence[Part],
    at: int,
    widths: Widths,
    tensors: Mapping[str, np.ndarray],
    largest: Widths,
) -> None:
    """Pass if every part comes out of the file as the extracted network has it."""
    own = _tensors(taken.networks[at])
    made = cut(
        parts,
        wanted=[part.name for part in parts],
        sources={name[7:]: each for name, each in tensors.items() if name.startswith("weight/")},
        table=tensors[f"table/{at}"],
        channels=widths.channels,
        maximum=largest.channels,
    )
    for name, each in made.fill(np.empty(made.nbytes, np.uint8), Layout()).items():
        expected = own[name].cpu().numpy()
        if each.shape != expected.shape or each.tobytes() != expected.tobytes():
            raise ExtractionError(f"{name} cannot be made again from the full weights at {widths}")


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {**{name: each.detach() for name, each in module.named_parameters()}, **dict(module.named_buffers())}


def _stored(net: SlimmableModel, name: str, widths: Widths, facts: Facts) -> StoredWidths:
    costs = {
        "macs": Cost(value=float(macs(net, widths)), unit="multiply-accumulates"),
        "parameters": Cost(value=float(parameters(net, widths)), unit="numbers"),
        "activations": Cost(value=float(activation_bytes(net, widths)), unit="bytes"),
    }
    return StoredWidths(
        name=name,
        widths=widths,
        costs=costs,
        accuracy=dict(facts.accuracy.get(name, {})),
        latencies=tuple(facts.latencies.get(name, ())),
    )
