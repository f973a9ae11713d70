"""How a network was converted, and from that the graph its checkpoints hold: for every batch size and both modes.

A graph has the sizes of the example. What depends on the batch is found by tracing two more batch sizes: an argument
that is affine in all three is kept as such. What depends on the mode is found by tracing in training mode: where only
flags differ, one graph serves both, else there are two. A trace at a random width proves the rest: every argument of
every operator must be what the program computes for it there.

The network is traced from a copy without data, so that keeping it costs no memory.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from random import Random
from typing import Any

import torch
from torch import Tensor, fx, nn

from slimmable.core.analysis import Analysis, Holds, analyse
from slimmable.core.assemble import assemble
from slimmable.core.extents import extents_of
from slimmable.core.graphs import Batch, Mode, Place, encoded, parts
from slimmable.core.groups import Grouping, Ranges, group
from slimmable.core.portable import Portable, packed
from slimmable.core.space import Widths
from slimmable.core.trace import Call, Trace, shapes_of, trace
from slimmable.errors import CheckpointError, ConversionError

_COPIES = ("aten.contiguous.default", "aten.clone.default")
"""Left out by tracing where a tensor happens to be contiguous."""


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
        holds = {k: set(v) if isinstance(v, list) else v for k, v in found["holds"].items()}
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


def hollow(model: nn.Module) -> nn.Module:
    """A copy of a network whose tensors have no data."""
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(each): _like(each, "meta") for each in tensors})


def hollow_inputs(value: Any) -> Any:
    """Example inputs without data."""
    return _with_tensors(value, lambda tensor: tensor.to("meta"))


def _like(tensor: Tensor, device: str) -> Tensor:
    blank = torch.zeros_like(tensor, device=device, requires_grad=False)
    return nn.Parameter(blank, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else blank


def _with_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_with_tensors(each, change) for each in value))
    if isinstance(value, list | tuple):
        return type(value)(_with_tensors(each, change) for each in value)
    if isinstance(value, dict):
        return {key: _with_tensors(each, change) for key, each in value.items()}
    return value


class _Differs(Exception):
    """Two traces of which one cannot stand for the other."""


class _Writer:
    """Makes the graph of one conversion."""

    def __init__(self, conversion: Conversion) -> None:
        self.its = conversion
        self.notes: dict[Place, Batch | Mode] = {}
        self.model = _solid(conversion.skeleton)

    def written(self) -> Portable:
        main = self.its.analysis.trace
        training, missing = self._training()
        one = training is not None and self._note_modes(main, training) and self.its.training is None
        analysis, kept = self.its.analysis, None if one else training
        if kept is not None:
            self._note_modes(kept, main, swapped=True)
            analysis = self._analysed(kept)
            missing = missing if analysis else "its groups in training are others than in evaluation"
            kept = kept if analysis else None
        any_batch = self._note_batch([(main, False), *([(kept, True)] if kept else [])])
        self._prove(main, self.its.analysis, any_batch, training=False)
        if kept is not None and analysis is not None:
            self._prove(kept, analysis, any_batch, training=True)
        graphs = {"evaluation": main} | ({} if kept is None else {"training": kept})
        graph = {
            "graphs": {name: encoded(each, self.notes) for name, each in graphs.items()},
            "analysed": self.its.training is not None,
            "no_training": "" if one or kept is not None else missing,
            "any_batch": any_batch,
            "scales": {
                name: _scaled(each, self.its.skeleton) if self.its.averaged else [] for name, each in graphs.items()
            },
            "options": self.its.options.to_json(),
            "modules": _modules(self.its.skeleton),
            "space": self.its.grouping.space.to_json(),
        }
        constants = {
            f"{name}.{at}": tensor.detach().cpu()
            for name, each in graphs.items()
            for at, tensor in enumerate(each.signature.constants.values())
        }
        return Portable(graph=packed(graph), constants=constants)

    def _traced(self, model: nn.Module, batch: int, *, training: bool) -> Trace:
        example = self.its.analysis.trace.batch

        def tensor(each: Tensor) -> Tensor:
            shape = (batch, *each.shape[1:]) if each.ndim and each.shape[0] == example else each.shape
            return torch.zeros(shape, dtype=each.dtype)

        return trace(model.train(training), _with_tensors(self.its.inputs, tensor))

    def _training(self) -> tuple[Trace | None, str]:
        """The graph in training mode, without batch norm's counting of batches; or why there is none."""
        if self.its.training is not None:
            return _uncounted(self.its.training), ""
        try:
            return _uncounted(self._traced(self.model, self.its.analysis.trace.batch, training=True)), ""
        except ConversionError as error:
            first = str(error)
        try:  # a batch of one cannot be normalised
            return _uncounted(self._traced(self.model, self.its.analysis.trace.batch + 1, training=True)), ""
        except ConversionError:
            return None, first

    def _analysed(self, training: Trace) -> Analysis | None:
        """The analysis with a graph in training mode that the conversion did not need; None if it comes to others."""
        if self.its.training is not None:
            return self.its.analysis
        analysis, grouping = self.its.options.analysed(self.its.analysis.trace, training)
        return translated(analysis, grouping, self.its.analysis, self.its.grouping)

    def _note_modes(self, one: Trace, other: Trace, *, swapped: bool = False) -> bool:
        """Note flags of ``one`` that differ in the graph of the other mode; whether nothing else does."""
        same = [(c.name, c.module) for c in _kept(one)] == [(c.name, c.module) for c in _kept(other)]
        partners: dict[tuple[str, str], list[Call]] = {}
        for call in _kept(other):
            partners.setdefault((call.name, call.module), []).append(call)
        notes: dict[Place, Batch | Mode] = {}
        for call in _kept(one):
            its = partners.get((call.name, call.module))
            for name, at, value, theirs in _pairs(call, its.pop(0)) if its else ():
                if type(value) in (bool, float) and type(theirs) is type(value) and value != theirs:
                    notes[call.node, name, at] = Mode(theirs, value) if swapped else Mode(value, theirs)
                elif not _alike(value, theirs) and one.batch == other.batch:
                    same = False
        self.notes |= notes
        return same

    def _note_batch(self, graphs: Sequence[tuple[Trace, bool]]) -> bool:
        """Note numbers that depend on the batch; whether all graphs run at any."""
        if any(each.batch < 1 or not _shares_batch(each) for each, _ in graphs):
            return False
        notes: dict[Place, Batch | Mode] = {}
        try:
            for graph, training in graphs:
                others = [self._traced(self.model, graph.batch + more, training=training) for more in (1, 2)]
                notes |= _fitted(graph, [_uncounted(each) for each in others])
        except (ConversionError, _Differs):
            return False
        self.notes |= notes
        return True

    def _prove(self, graph: Trace, analysis: Analysis, any_batch: bool, *, training: bool) -> None:
        """Compare every argument at a random width, and at another batch size, with a trace there.

        Raises:
            CheckpointError: The program would pass another one.
        """
        grouping, batch = self.its.grouping, graph.batch + any_batch
        widths = _drawn(grouping)
        with torch.random.fork_rng([]):
            net = assemble(
                copy.deepcopy(self.model), self.its.analysis, grouping, batch_norm="naive", switches=(), averaged=False
            )
        found = _uncounted(self._traced(net.extract(widths), batch, training=training))
        expected, given = _kept(graph), _kept(found)
        if [call.name for call in expected] != [call.name for call in given]:
            raise CheckpointError("its code takes another way at other widths")
        for call, now in zip(expected, given, strict=True):
            extents = extents_of(call, analysis)
            for name, at, value, theirs in _pairs(call, now):
                note, extent = self.notes.get((call.node, name, at)), extents.get((name, at))
                if extent is not None:
                    size = grouping.axis(extent.layout).size(widths.channels) * extent.multiply // extent.divide
                    value = size * batch // graph.batch if isinstance(note, Batch) else size
                elif isinstance(note, Batch):
                    value = note.at(batch)
                if not _alike(value, theirs) and not _same_slice(now, name, value, theirs):
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


def _solid(skeleton: nn.Module) -> nn.Module:
    """The network with tensors of zeros, on the CPU."""
    tensors = [*skeleton.parameters(), *skeleton.buffers()]
    return copy.deepcopy(skeleton, {id(each): _like(each, "cpu") for each in tensors})


def _kept(graph: Trace) -> list[Call]:
    return [call for call in graph.calls if call.name not in _COPIES]


def _uncounted(graph: Trace) -> Trace:
    """The graph without batch norm's counting of batches, which a program does itself."""

    def counts(call: Call) -> bool:
        name = graph.parameters.get(call.values.get("self"), "")
        return call.name.startswith("aten.add_") and name.endswith("num_batches_tracked") and not call.node.users

    return replace(graph, calls=tuple(call for call in graph.calls if not counts(call)))


def _pairs(call: Call, other: Call) -> Iterator[tuple[str, int | None, Any, Any]]:
    """Arguments of two calls of one operator; what one has and the other has not is paired with None."""
    for name, value in call.values.items():
        one, two = dict(parts(value)), dict(parts(other.values.get(name)))
        for at in dict.fromkeys([*one, *two]):
            yield name, at, one.get(at), two.get(at)


def _alike(value: Any, other: Any) -> bool:
    if isinstance(value, fx.Node) or isinstance(other, fx.Node):
        return isinstance(value, fx.Node) and isinstance(other, fx.Node)
    if isinstance(value, torch.device):
        return isinstance(other, torch.device)
    return type(value) is type(other) and (value == other or value != value)


def _same_slice(call: Call, name: str, value: Any, other: Any) -> bool:
    """Whether two numbers mean one place of the axis that a slice cuts."""
    if name not in ("start", "end") or not call.name.startswith("aten.slice"):
        return False
    length = shapes_of(call.values["self"])[0][call.values["dim"] or 0]

    def place(number: int | None) -> int:
        if number is None:
            return 0 if name == "start" else length
        return min(number if number >= 0 else number + length, length)

    return place(value) == place(other)


def _shares_batch(graph: Trace) -> bool:
    """Whether all inputs begin with the batch."""
    inputs = [node for node in graph.inputs if node not in graph.signature.constants and shapes_of(node)]
    return bool(inputs) and all(shapes_of(node)[0][:1] == (graph.batch,) for node in inputs)


def _fitted(graph: Trace, others: Sequence[Trace]) -> dict[Place, Batch | Mode]:
    """Numbers that are affine in the batch, from graphs of batches larger by one and two."""
    notes: dict[Place, Batch | Mode] = {}
    expected, *found = (_kept(each) for each in (graph, *others))
    if any([c.name for c in each] != [c.name for c in expected] for each in found):
        raise _Differs
    for call, first, second in zip(expected, *found, strict=True):
        pairs, again = list(_pairs(call, first)), list(_pairs(call, second))
        if [pair[:2] for pair in pairs] != [pair[:2] for pair in again]:
            raise _Differs
        for (name, at, value, one), (_, _, _, two) in zip(pairs, again, strict=True):
            if _alike(value, one) and _alike(value, two):
                continue
            if not all(type(each) is int for each in (value, one, two)) or two - one != one - value:
                raise _Differs
            notes[call.node, name, at] = Batch(one - value, value - (one - value) * graph.batch)
    return notes


def _drawn(grouping: Grouping) -> Widths:
    """Random widths."""
    space, generator = grouping.space, Random(0)
    return space.at_ratios([generator.uniform(space.min_ratio, 1.0) for _ in space.dimensions])


def _scaled(graph: Trace, skeleton: nn.Module) -> list[int]:
    """Places of the calls whose outputs are scaled: those of convolution and linear layers."""
    found: list[int] = []
    for at, call in enumerate(graph.calls):
        weight = graph.parameters.get(call.values.get("weight"), "")
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
