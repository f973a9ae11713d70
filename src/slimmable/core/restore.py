"""A network from its file alone: the graph is read, analysed and made elastic as if it had just been traced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from slimmable.core.analysis import Analysis
from slimmable.core.assemble import assemble
from slimmable.core.conversion import Options, translated
from slimmable.core.extents import extents_of
from slimmable.core.graphs import Notes, decoded, dtype_of
from slimmable.core.groups import Grouping
from slimmable.core.model import SlimmableModel
from slimmable.core.operators import Extent
from slimmable.core.portable import Portable, unpacked
from slimmable.core.program import Code, Part, Program, Sizes, compiled
from slimmable.core.space import Widths
from slimmable.core.state import BatchNorm
from slimmable.core.trace import Trace
from slimmable.errors import CheckpointError, SlimmableError


def restored(portable: Portable, batch_norm: BatchNorm, switches: list[Widths]) -> SlimmableModel:
    """The network of a graph, in evaluation mode; its weights are zeros.

    Raises:
        CheckpointError: The graph is damaged, calls an operator that is unknown here, or has other groups here.
    """
    try:
        return _network(portable, batch_norm, switches)
    except CheckpointError:
        raise
    except (SlimmableError, KeyError, ValueError, TypeError, IndexError, AttributeError, RuntimeError) as error:
        raise CheckpointError(
            f"the network's graph in the file is damaged ({error!r}); copy the file again, or convert the network from "
            "its code and load the file into that: slimmable.load(net, path)"
        ) from error


@dataclass(frozen=True, kw_only=True)
class _Graph:
    trace: Trace
    notes: Notes
    analysis: Analysis


def _network(portable: Portable, batch_norm: BatchNorm, switches: list[Widths]) -> SlimmableModel:
    found = unpacked(portable.graph)
    options = Options.from_json(found["options"])
    traces = {name: decoded(each, _under(name, portable)) for name, each in found["graphs"].items()}
    main, notes = traces["evaluation"]
    training = traces.get("training")
    analysis, grouping = options.analysed(main, training[0] if training and found["analysed"] else None)
    if grouping.space.to_json() != found["space"]:
        raise CheckpointError(
            "this version of slimmable finds other width groups in the network's graph than the one that wrote the "
            "file; convert the network from its code with the version that wrote it"
        )
    graphs = {"evaluation": _Graph(trace=main, notes=notes, analysis=analysis)}
    if training:
        its = analysis if found["analysed"] else translated(*options.analysed(main, training[0]), analysis, grouping)
        if its is None:
            raise CheckpointError("the file's graph for training has other width groups than that for evaluation")
        graphs["training"] = _Graph(trace=training[0], notes=training[1], analysis=its)
    program, parts = _parts(found["modules"])
    sizes = Sizes()
    codes = {
        name: compiled(
            graph.trace,
            graph.notes,
            lambda call, analysis=graph.analysis: extents_of(call, analysis),
            sizes,
            _scales(graph, found["scales"][name], grouping),
            constants=f"_{name}_",
            any_batch=found["any_batch"],
        )
        for name, graph in graphs.items()
    }
    _fill(program, parts, codes, found["no_training"], portable)
    extents = {("", name): (extent,) for extent, name in sizes.names.items()}
    for extent, name in sizes.names.items():
        given = grouping.axis(extent.layout).size(grouping.space.base.channels)
        setattr(program, name, given * extent.multiply // extent.divide)
    with torch.random.fork_rng([]):  # weights beyond the given width are drawn, and read from the file afterwards
        net = assemble(
            program.eval(),
            replace(analysis, attributes=extents),
            grouping,
            batch_norm=batch_norm,
            switches=switches,
            averaged=False,
        )
    net.origin = portable
    return net


def _under(name: str, portable: Portable) -> dict[str, Tensor]:
    """Constants of one graph."""
    return {key.partition(".")[2]: each for key, each in portable.constants.items() if key.startswith(f"{name}.")}


def _parts(modules: list[list[Any]]) -> tuple[Program, dict[str, nn.Module]]:
    """The tree of modules with blank tensors, and each by its path."""
    program = Program()
    parts: dict[str, nn.Module] = {}
    tensors: dict[str, Tensor] = {}
    for path, first, held in modules:
        part = program if not path else parts.get(first, Part())
        parts[path] = part
        if path:
            parent, _, name = path.rpartition(".")
            parts[parent].add_module(name, part)
        for name, kind, shape, dtype, lasting, shared in held:
            full = f"{path}.{name}".lstrip(".")
            if shared is None:
                blank = torch.zeros(shape, dtype=dtype_of(dtype))
                tensors[full] = nn.Parameter(blank, blank.is_floating_point()) if kind == "parameter" else blank
            tensor = tensors[shared or full]
            if isinstance(tensor, nn.Parameter):
                part.register_parameter(name, tensor)
            else:
                part.register_buffer(name, tensor, persistent=lasting)
    return program, parts


def _fill(
    program: Program, parts: dict[str, nn.Module], codes: Mapping[str, Code], no_training: str, portable: Portable
) -> None:
    program._parts = parts
    program._evaluation = codes["evaluation"]
    program._training = codes.get("training")
    program._no_training = no_training
    for key, tensor in portable.constants.items():
        program.register_buffer(f"_{key.replace('.', '_')}", tensor.clone(), persistent=False)


def _scales(graph: _Graph, places: list[int], grouping: Grouping) -> dict[fx.Node, tuple[Extent, int]]:
    """What outputs of layers are multiplied with: their full over their active input channels."""
    found: dict[fx.Node, tuple[Extent, int]] = {}
    for call in (graph.trace.calls[place] for place in places):
        layout = graph.analysis.tensors[call.values["weight"]][0][0 if "transpose" in call.name else 1]
        axis = grouping.axis(layout)
        if axis.varies:
            found[call.node] = Extent(layout=layout), axis.size(grouping.space.base.channels)
    return found
