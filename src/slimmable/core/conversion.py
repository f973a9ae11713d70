"""How a network was converted, and from that the graph its checkpoints hold: for every batch size and both modes.

A graph has the sizes of the example. The same code traced on a larger batch says which numbers depend on the batch,
and traced in training mode which flags depend on the mode; where nothing else differs one graph serves both modes, else
there are two. A third trace proves the rest, at a random width and another batch size: every argument of every operator
must be what the program computes for it there.

The network is traced from a copy without data, so that keeping it costs no memory.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from random import Random
from typing import Any

import torch
from torch import Tensor, fx, nn

from slimmable.core.analysis import Analysis, Holds, analyse
from slimmable.core.assemble import assemble
from slimmable.core.compare import alike, compared, flags, pairs, same_slice, shares_batch, uncounted, without_copies
from slimmable.core.extents import extents_of
from slimmable.core.graphs import Batch, Mode, Place, encoded
from slimmable.core.groups import Grouping, Ranges, group
from slimmable.core.portable import Portable, packed
from slimmable.core.space import Widths
from slimmable.core.trace import Trace, trace
from slimmable.core.twins import solid, with_tensors
from slimmable.errors import CheckpointError, ConversionError


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the groups of a network depend on besides its graph."""

    ranges: Ranges
    tie: tuple[tuple[str, ...], ...]
    follow: dict[str, tuple[str, float]]
    holds: Holds
    aliases: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """A JSON object that :meth:`from_json` reads."""
        holds = {k: sorted(v) if isinstance(v, set) else v for k, v in vars(self.holds).items()}
        rules = {name: list(rule) for name, rule in self.follow.items()}
        tie = [list(each) for each in self.tie]
        return {"ranges": vars(self.ranges), "tie": tie, "follow": rules, "holds": holds, "aliases": self.aliases}

    @staticmethod
    def from_json(found: Mapping[str, Any]) -> Options:
        """The inverse of :meth:`to_json`."""
        holds: dict[str, Any] = {k: set(v) if isinstance(v, list) else v for k, v in found["holds"].items()}
        return Options(
            ranges=Ranges(**found["ranges"]),
            tie=tuple(tuple(each) for each in found["tie"]),
            follow={name: (leader, factor) for name, (leader, factor) in found["follow"].items()},
            holds=Holds(**holds),
            aliases=found["aliases"],
        )

    def analysed(self, graph: Trace, training: Trace | None) -> tuple[Analysis, Grouping]:
        """The analysis and the groups of a graph."""
        analysis = analyse(graph, holds=self.holds, aliases=self.aliases, training=training)
        return analysis, group(analysis, self.ranges, tie=self.tie, follow=self.follow)


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """A conversion that has been proved.

    Attributes:
        skeleton: The network, its tensors without data.
        inputs: The example, without data.
        analysis: Of the graph in evaluation mode, and of ``training`` where evaluation leaves parameters unread.
        grouping: The groups it came to.
        training: The graph in training mode, if the analysis needed it.
        options: What else the groups depend on.
        averaged: Whether layers scale their outputs.
    """

    skeleton: nn.Module
    inputs: tuple[Any, ...]
    analysis: Analysis
    grouping: Grouping
    training: Trace | None
    options: Options
    averaged: bool

    def __deepcopy__(self, _memo: dict[int, Any]) -> Conversion:
        return self

    def portable(self) -> Portable:
        """The graph for a checkpoint, made once; or the reason why there is none."""
        return self._portable

    @cached_property
    def _portable(self) -> Portable:
        try:
            return _Writer(self).written()
        except (CheckpointError, ConversionError) as error:
            return Portable(reason=str(error))


class _Writer:
    """Makes the graph of one conversion."""

    def __init__(self, conversion: Conversion) -> None:
        self.its = conversion
        self.notes: dict[Place, Batch | Mode] = {}
        self.model = solid(conversion.skeleton)

    def written(self) -> Portable:
        main = self.its.analysis.trace
        example = main.batch
        later = example + shares_batch(main)
        training, missing = self._training(later)
        found = None if training is None or self.its.training else compared(main, training, modes=True)
        kept = None if found is not None else self.its.training or training
        any_batch = later > example
        if found is not None:
            self.notes |= found
        elif any_batch:
            any_batch = self._note_batch([(main, False), *([(kept, True)] if kept else [])])
        if kept is not None and not any_batch and kept.batch != example:
            kept, missing = self._training(example)
        analysis = None
        if kept is not None:
            kept = uncounted(kept)
            self.notes |= flags(main, kept) | flags(kept, main, swapped=True)
            analysis = self._analysed(kept)
            missing = missing if analysis else "its groups in training are others than in evaluation"
        graphs = {"evaluation": (main, self.its.analysis)}
        if kept is not None and analysis is not None:
            graphs["training"] = (kept, analysis)
        any_batch = self._proved(graphs, any_batch)
        graph = {
            "graphs": {name: encoded(each, self.notes) for name, (each, _) in graphs.items()},
            "analysed": self.its.training is not None,
            "no_training": "" if found is not None or len(graphs) > 1 else missing,
            "any_batch": any_batch,
            "scales": {
                name: _scaled(each, self.its.skeleton) if self.its.averaged else []
                for name, (each, _) in graphs.items()
            },
            "options": self.its.options.to_json(),
            "modules": _modules(self.its.skeleton),
            "space": self.its.grouping.space.to_json(),
        }
        constants = {
            f"{name}.{at}": tensor.detach().cpu()
            for name, (each, _) in graphs.items()
            for at, tensor in enumerate(each.signature.constants.values())
        }
        return Portable(graph=packed(graph), constants=constants)

    def _proved(self, graphs: Mapping[str, tuple[Trace, Analysis]], any_batch: bool) -> bool:
        """Whether the graphs run at any batch size; they do at the example's.

        Raises:
            CheckpointError: They do not.
        """
        for batches in (True, False) if any_batch else (False,):
            try:
                for name, (graph, analysis) in graphs.items():
                    self._prove(graph, analysis, batches, training=name == "training")
                return batches
            except (CheckpointError, ConversionError):
                if not batches:
                    raise
                self.notes = {place: note for place, note in self.notes.items() if isinstance(note, Mode)}
        return False

    def _traced(self, model: nn.Module, batch: int, *, training: bool) -> Trace:
        example = self.its.analysis.trace.batch

        def tensor(each: Tensor) -> Tensor:
            shape = (batch, *each.shape[1:]) if each.ndim and each.shape[0] == example else each.shape
            return torch.zeros(shape, dtype=each.dtype)

        return trace(model.train(training), with_tensors(self.its.inputs, tensor))

    def _training(self, batch: int) -> tuple[Trace | None, str]:
        """The graph in training mode, without batch norm's counting of batches; or why there is none."""
        try:
            return uncounted(self._traced(self.model, batch, training=True)), ""
        except ConversionError as error:
            return None, str(error)

    def _analysed(self, training: Trace) -> Analysis | None:
        """The analysis with a graph in training mode that the conversion did not need; None if it comes to others."""
        if self.its.training is not None:
            return self.its.analysis
        analysis, grouping = self.its.options.analysed(self.its.analysis.trace, training)
        return translated(analysis, grouping, self.its.analysis, self.its.grouping)

    def _note_batch(self, graphs: Sequence[tuple[Trace, bool]]) -> bool:
        """Note numbers that depend on the batch; whether all graphs run at any."""
        for graph, training in graphs:
            try:
                other = self._traced(self.model, graph.batch + 1, training=training)
            except ConversionError:
                return False
            found = compared(uncounted(graph), uncounted(other), modes=False)
            if found is None:
                return False
            self.notes |= found
        return True

    def _prove(self, graph: Trace, analysis: Analysis, any_batch: bool, *, training: bool) -> None:
        """Compare every argument at a random width, and at another batch size, with a trace there.

        Raises:
            CheckpointError: The program would pass another one.
        """
        grouping, batch = self.its.grouping, graph.batch + 2 * any_batch
        widths = _drawn(grouping)
        with torch.random.fork_rng([]):
            net = assemble(
                copy.deepcopy(self.model), self.its.analysis, grouping, batch_norm="naive", switches=(), averaged=False
            )
        found = uncounted(self._traced(net.extract(widths), batch, training=training))
        expected, given = without_copies(graph), without_copies(found)
        if [call.name for call in expected] != [call.name for call in given]:
            raise CheckpointError("its code takes another way at other widths")
        for call, now in zip(expected, given, strict=True):
            extents = extents_of(call, analysis)
            for name, at, value, theirs in pairs(call, now):
                note, extent = self.notes.get((call.node, name, at)), extents.get((name, at))
                if extent is not None:
                    size = grouping.axis(extent.layout).size(widths.channels) * extent.multiply // extent.divide
                    value = size * batch // graph.batch if isinstance(note, Batch) else size
                elif isinstance(note, Batch):
                    value = note.at(batch)
                if not alike(value, theirs) and not same_slice(now, name, value, theirs):
                    raise CheckpointError(
                        f"argument {name} of {call.name} (module {call.module!r}, {call.line}) is {theirs} at "
                        f"{widths}, where the graph has {value}: the code computes it from a width"
                    )


def translated(analysis: Analysis, grouping: Grouping, to: Analysis, space: Grouping) -> Analysis | None:
    """An analysis in the variables of another one of the same network; None if their groups differ."""
    if grouping.space != space.space:
        return None
    of_place = {place: var for var, place in space.index.items()}
    variables = {var: of_place[place] for var, place in grouping.index.items()}
    if any(grouping.units[var] != space.units[other] for var, other in variables.items()):
        return None

    def change(layout: Any) -> Any:
        return tuple(b if b.var is None else b._replace(var=variables[b.var]) for b in layout)

    if {k: tuple(map(change, v)) for k, v in analysis.parameters.items() if k in to.parameters} != to.parameters:
        return None
    return replace(
        analysis,
        tensors={
            node: tuple(tuple(map(change, axes)) for axes in outputs) for node, outputs in analysis.tensors.items()
        },
        expected={key: change(layout) for key, layout in analysis.expected.items()},
        attributes={
            key: tuple(replace(extent, layout=change(extent.layout)) for extent in extents)
            for key, extents in analysis.attributes.items()
        },
    )


def _drawn(grouping: Grouping) -> Widths:
    """Random widths, narrower than given where that is possible: there, numbers of the example would pass."""
    space, generator = grouping.space, Random(0)
    leaders = [leader for leader, *_ in space.dimensions]
    ratios = [generator.uniform(space.min_ratio, 1.0) for _ in leaders]
    return space.at_ratios(
        [
            ratio if leader.at(ratio) < leader.base else space.min_ratio
            for leader, ratio in zip(leaders, ratios, strict=True)
        ]
    )


def _scaled(graph: Trace, skeleton: nn.Module) -> list[int]:
    """Places of the calls whose outputs are scaled: those of convolution and linear layers."""
    found: list[int] = []
    for at, call in enumerate(graph.calls):
        source = call.values.get("weight")
        weight = graph.parameters.get(source, "") if isinstance(source, fx.Node) else ""
        layer = skeleton.get_submodule(call.module)
        own = isinstance(layer, nn.Linear | nn.modules.conv._ConvNd) and weight.rpartition(".")[2] == "weight"
        if own and call.name.startswith(("aten.conv", "aten.linear")):
            found.append(at)
    return found


def _modules(skeleton: nn.Module) -> list[list[Any]]:
    """Every module with its tensors in order: path, path of its first name, tensors by name."""
    first = {module: path for path, module in skeleton.named_modules()}
    names: dict[int, str] = {}
    found: list[list[Any]] = []
    for path, module in skeleton.named_modules(remove_duplicate=False):
        if first[module] != path:
            found.append([path, first[module], []])
            continue
        held = []
        for kind, tensors in (("parameter", module._parameters), ("buffer", module._buffers)):
            for name, tensor in tensors.items():
                if tensor is not None:
                    full = f"{path}.{name}".lstrip(".")
                    shared = names.setdefault(id(tensor), full)
                    lasting = kind == "parameter" or name not in module._non_persistent_buffers_set
                    dtype = str(tensor.dtype).removeprefix("torch.")
                    held.append([name, kind, list(tensor.shape), dtype, lasting, shared if shared != full else None])
        found.append([path, path, held])
    return found
