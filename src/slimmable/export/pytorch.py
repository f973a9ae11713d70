"""A module's weight-less graph for PyTorch: the operators that ``torch.export`` finds, as JSON.

:mod:`slimmable.runtime.tensor_program` says what the JSON holds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from slimmable.core.graphs import encoded
from slimmable.errors import ArtifactError, CheckpointError, ExtractionError
from slimmable.export.graph import Graph
from slimmable.export.inplace import in_place
from slimmable.export.tracing import Batched, batched
from slimmable.runtime.base import Signature
from slimmable.runtime.tensor_program import FORMAT, read

_CHECKS = ("aten._assert", "aten.sym_constrain")
_DROPOUT = ("aten.dropout", "aten.feature_dropout", "aten.alpha_dropout", "aten.feature_alpha_dropout")


def weightless(module: nn.Module, example: tuple[Any, ...], signature: Signature) -> Graph:
    """The graph of a module in evaluation mode, for :class:`slimmable.runtime.pytorch.TorchBackend`.

    Its operators are those of the module's own calls, in their order, so that a run yields the module's outputs in
    ``channels_last``, bit for bit; elementwise ones work in place where nobody can tell. Dropout and checks of what
    tracing found are left out. The batch is any, unless the module's code fixes it.

    ``nn.MultiheadAttention`` has a second implementation for inference, which ``torch.export`` does not see: the graph
    has the first, whose outputs differ by rounding.

    Args:
        module: A network in evaluation mode.
        example: What it is called with.
        signature: Names of its inputs and outputs: of the tensors among them, in order.

    Raises:
        ExtractionError: The network cannot be traced, calls what no graph may, or has other inputs or outputs.

    Cost:
        Three traces, each of about the time of a few forward passes.

    Example:
        >>> import torch
        >>> layer = nn.Linear(8, 2).eval()
        >>> graph = weightless(layer, (torch.zeros(1, 8),), Signature(inputs=("x",), outputs=("y",)))
        >>> graph.parts, len(graph.content) < 400
        (('weight', 'bias'), True)
    """
    if module.training:
        raise ExtractionError("the network is in training mode; call .eval() on it first")
    found = batched(module, example)
    try:
        written = _Writer(module, found)
        content = json.dumps(written.graph(signature), separators=(",", ":"), allow_nan=False).encode()
        read(content)
    except (ArtifactError, CheckpointError, TypeError) as error:
        raise ExtractionError(
            f"{type(module).__name__} cannot be written as a graph of PyTorch's operators: {error.__cause__ or error}; "
            "leave the torch runtime out, or change that part of the network"
        ) from error
    return Graph(content=content, parts=tuple(written.parts), extra=written.extra, any_batch=found.any_batch)


class _Writer:
    """Makes the graph of one module; ``places`` has the number in the graph of what has another one in the trace."""

    def __init__(self, module: nn.Module, found: Batched) -> None:
        self.found = found
        self.renamed = {node.name: name for node, name in in_place(found.trace).items()}
        self.its = encoded(replace(found.trace, sizes={}, origins={}), found.notes)
        first = {id(tensor): name for name, tensor in reversed([*_tensors(module)])}
        self.names = {name: first[id(tensor)] for name, tensor in _tensors(module)}
        self.places: dict[int, int] = {}
        self.numbers = 0
        self.parts: list[str] = []
        self.extra: dict[str, np.ndarray] = {}

    def graph(self, signature: Signature) -> dict[str, Any]:
        inputs, outputs = self._ends(signature)
        placeholders = self.its["placeholders"]
        for place in inputs:
            self._number(place)
        calls = [
            (len(placeholders) + at, node, name, given)
            for at, (node, name, _, _, given, _) in enumerate(self.its["calls"])
            if not name.startswith(_CHECKS)
        ]
        needed = {*outputs, *(place for *_, given in calls for value in given.values() for place in _nodes(value))}
        tensors = self._stored(needed)
        written = []
        for place, node, name, given in calls:
            if name.startswith(_DROPOUT) and not given.get("train", True):
                self.places[place] = self.places[given["input"]["node"]]
                continue
            written.append([self.renamed.get(node, name), {key: self._argument(value) for key, value in given.items()}])
            self._number(place)
        return {
            "format": FORMAT,
            "batch": self.its["batch"],
            "any_batch": self.found.any_batch,
            "inputs": [placeholders[place][2] for place in inputs],
            "tensors": tensors,
            "calls": written,
            "outputs": [self.places[place] for place in outputs],
        }

    def _number(self, place: int) -> None:
        self.places[place] = self.numbers
        self.numbers += 1

    def _stored(self, needed: set[int]) -> list[list[Any]]:
        """Parameters, buffers and constants, each once, under its first name."""
        found: dict[str, list[Any]] = {}
        constants = [*self.found.trace.signature.constants.values()]
        of_name: dict[str, int] = {}
        for place, (_, kind, shaped) in enumerate(self.its["placeholders"]):
            if place not in needed or place in self.places:
                continue
            ((what, target),) = kind.items()
            name = f"constant:{target}" if what == "constant" else self.names[target]
            if name in of_name:
                self.places[place] = of_name[name]
                continue
            self._number(place)
            of_name[name] = self.places[place]
            found[name] = [name, *shaped, "extra" if what == "constant" else "part"]
            if what == "constant":
                self.extra[name] = constants[target].detach().cpu().contiguous().numpy()
            else:
                self.parts.append(name)
        return [*found.values()]

    def _ends(self, signature: Signature) -> tuple[list[int], list[int]]:
        """Numbers of the inputs and outputs in the trace."""
        trace = self.found.trace
        names = [name for name, *_ in (*self.its["placeholders"], *self.its["calls"])]
        place = {name: at for at, name in enumerate(names)}
        its = trace.signature
        ends = [
            [place[node.name] for node in tree_leaves(nested) if isinstance(node, fx.Node)]
            for nested in (its.arguments, its.returned)
        ]
        found, expected = [len(each) for each in ends], [len(signature.inputs), len(signature.outputs)]
        if found != expected:
            raise ExtractionError(
                f"the network takes {found[0]} tensors and returns {found[1]}, but {expected[0]} inputs and "
                f"{expected[1]} outputs have names; name each of them"
            )
        return ends[0], ends[1]

    def _argument(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._argument(each) for each in value]
        return {"node": self.places[value["node"]]} if isinstance(value, dict) and "node" in value else value


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers under all their names."""
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _nodes(value: Any) -> Iterator[int]:
    for each in value if isinstance(value, list) else [value]:
        if isinstance(each, dict) and "node" in each:
            yield each["node"]
