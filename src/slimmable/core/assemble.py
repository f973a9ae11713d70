"""Putting an elastic network together from an analysis: slots, classes, batch-norm tables, report."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from torch import Tensor, nn

from slimmable.core.analysis import Analysis
from slimmable.core.axes import Axis
from slimmable.core.elastic import SCALE, make_elastic
from slimmable.core.extract import foldable
from slimmable.core.groups import Grouping
from slimmable.core.model import SlimmableModel
from slimmable.core.norms import Kind, NormLayer, NormTable, fixed_tensors, sliced_tensors
from slimmable.core.report import ConversionReport, GroupReport, PinReport, call_place
from slimmable.core.slots import ScaleSlot, SizeSlot, Slot, StatisticSlot, TensorSlot
from slimmable.core.space import Widths
from slimmable.core.state import BatchNorm, State
from slimmable.core.trace import owner
from slimmable.core.widen import widen
from slimmable.errors import ConversionError

Owner = tuple[nn.Module, str]


class _Slots:
    """Slots of each module, while they are collected."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.tensors: dict[nn.Module, dict[str, int]] = {}
        self.statistics: dict[nn.Module, dict[str, int]] = {}
        self.sizes: dict[nn.Module, dict[str, int]] = {}

    def add(self, kind: dict[nn.Module, dict[str, int]], module: nn.Module, name: str, slot: Slot) -> None:
        kind.setdefault(module, {})[name] = len(self.state.slots)
        self.state.slots.append(slot)

    def attach(self) -> None:
        for module in {**self.tensors, **self.statistics, **self.sizes}:
            make_elastic(
                module,
                self.state,
                tensors=self.tensors.get(module, {}),
                statistics=self.statistics.get(module, {}),
                sizes=self.sizes.get(module, {}),
            )


def assemble(
    model: nn.Module,
    analysis: Analysis,
    grouping: Grouping,
    *,
    batch_norm: BatchNorm,
    switches: Sequence[Widths],
    averaged: bool,
) -> SlimmableModel:
    """Make ``model`` elastic, in place."""
    axis = cache(grouping.axis)
    axes = {name: tuple(map(axis, layouts)) for name, layouts in analysis.parameters.items()}
    space = grouping.space
    folds = foldable(analysis.trace, model)
    widen(model, axes, grouping.space.base.channels, space.largest.channels, analysis.gains)
    owners = _owners(model)
    norms = _norm_layers(model, analysis, owners, axes)
    state = State(space, norms, batch_norm)
    slots = _Slots(state)
    affine = {
        (norm.module, name): (i, name) for i, norm in enumerate(norms) for name in norm.affine if batch_norm != "naive"
    }
    statistics = {(norm.module, name) for norm in norms for name in (norm.mean, norm.variance)}
    for name, its in axes.items():
        moving = tuple((dim, axis) for dim, axis in enumerate(its) if axis.varies)
        for module, own in owners[name]:
            if (module, own) in statistics and batch_norm != "naive":
                continue
            if moving or ((module, own) in affine and batch_norm == "private"):
                slots.add(slots.tensors, module, own, TensorSlot(module, own, moving, affine.get((module, own))))
    if batch_norm != "naive":
        for i, norm in enumerate(norms):
            for name, own in (("mean", norm.mean), ("var", norm.variance), ("count", "num_batches_tracked")):
                slots.add(slots.statistics, norm.module, own, StatisticSlot(i, name))
    _add_sizes(slots, model, analysis, grouping)
    if averaged:
        _add_scales(slots, model, analysis, axes, owners)
    tables = _tables(space.largest.channels, norms, _table_kinds(grouping, batch_norm, switches), grouping.space.base)
    if batch_norm != "naive":
        for norm in norms:
            for own in (norm.mean, norm.variance, "num_batches_tracked"):
                norm.module._buffers[own] = None
            for own in norm.affine if batch_norm == "private" else ():
                norm.module._parameters[own] = None
    slots.attach()
    state.rigid = [
        (module, name)
        for module in model.modules()
        for name, parameter in module._parameters.items()
        if parameter is not None and name not in slots.tensors.get(module, {})
    ]
    report = _report(analysis, grouping, model)
    net = SlimmableModel(model, state, report=report, analysis=analysis, grouping=grouping, folds=folds)
    state.tables.update({table.widths: table for table in tables})
    state.switches = tuple(switches)
    if switches and space.base not in switches:
        state.widths = max(switches, key=lambda widths: sum(widths.channels))
    for table in tables:
        net.put_table(table)
        net.stamp(table)
    net.set(state.widths)
    return net


def _owners(model: nn.Module) -> dict[str, list[Owner]]:
    """Every place that holds a tensor, by each of its names."""
    places: dict[int, list[Owner]] = {}
    for module in model.modules():
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is not None:
                places.setdefault(id(tensor), []).append((module, name))
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return {name: places[id(tensor)] for name, tensor in named}


def _norm_layers(
    model: nn.Module, analysis: Analysis, owners: dict[str, list[Owner]], axes: dict[str, tuple[Axis, ...]]
) -> list[NormLayer]:
    layers: dict[int, NormLayer] = {}
    paths = {module: path for path, module in model.named_modules()}
    for _, mean, variance in analysis.norms:
        for (module, mean_name), (_, variance_name) in zip(owners[mean], owners[variance], strict=True):
            own = {name: module._parameters.get(name) for name in ("weight", "bias")}
            affine = tuple(name for name, tensor in own.items() if tensor is not None)
            layers[id(module)] = NormLayer(
                path=paths[module],
                module=module,
                mean=mean_name,
                variance=variance_name,
                axis=axes[mean][0],
                affine=affine,
                fixed=tuple(name for name, tensor in own.items() if tensor is not None and not tensor.requires_grad),
            )
    return list(layers.values())


def _add_sizes(slots: _Slots, model: nn.Module, analysis: Analysis, grouping: Grouping) -> None:
    """Sizes such as ``out_channels`` that follow an axis, where the module has them with that very value."""
    given = grouping.space.base.channels
    for (path, name), extents in analysis.attributes.items():
        module = model.get_submodule(path)
        value = module.__dict__.get(name)
        kind = type(value) if isinstance(value, tuple | list) else int
        slot = SizeSlot(tuple(grouping.axis(e.layout) for e in extents), extents[0].multiply, extents[0].divide, kind)
        if any(axis.varies for axis in slot.axes) and value == slot.value(given):
            slots.add(slots.sizes, module, name, slot)


def _add_scales(
    slots: _Slots,
    model: nn.Module,
    analysis: Analysis,
    axes: dict[str, tuple[Axis, ...]],
    owners: dict[str, list[Owner]],
) -> None:
    """The factor of every convolution and linear layer whose input varies.

    Raises:
        ConversionError: A layer computes its weight from others, or another module computes with its weight.
    """
    given = slots.state.space.base.channels
    readers = _readers(model, analysis)
    for name, its in axes.items():
        if owner(name) != name.rpartition(".")[0] and any(axis.varies for axis in its[1:]):
            raise ConversionError(
                f"averaged: layer {owner(name)!r} computes its weight ({name}), and an extracted network could not "
                "hold the factor; remove the parametrisation, or convert without averaged"
            )
        for module, own in owners[name]:
            if own == "weight" and isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
                axis = its[0 if isinstance(module, nn.modules.conv._ConvTransposeNd) else 1]
                if axis.varies:
                    _require_own_calls(name, readers, model, {each for each, _ in owners[name]})
                    slots.add(slots.sizes, module, SCALE, ScaleSlot(axis, axis.size(given)))


def _readers(model: nn.Module, analysis: Analysis) -> dict[int, set[str]]:
    """Paths of the modules that call operators on a parameter, by the tensor's identity."""
    named = dict(model.named_parameters(remove_duplicate=False))
    found: dict[int, set[str]] = {}
    for call in analysis.trace.calls:
        for node in call.node.all_input_nodes:
            tensor = named.get(analysis.trace.parameters.get(node, ""))
            if tensor is not None:
                found.setdefault(id(tensor), set()).add(call.module)
    for path, module in model.named_modules():
        if isinstance(module, nn.TransformerEncoderLayer):  # in evaluation it has a fast way that calls none of them
            for layer in (module.linear1, module.linear2):
                found.setdefault(id(layer.weight), set()).add(path)
    return found


def _require_own_calls(name: str, readers: dict[int, set[str]], model: nn.Module, holders: set[nn.Module]) -> None:
    for path in sorted(readers.get(id(model.get_parameter(name)), ())):
        if model.get_submodule(path) not in holders:
            raise ConversionError(
                f"averaged: module {path!r} ({type(model.get_submodule(path)).__name__}) computes with {name} without "
                f"calling the layer {owner(name)!r}, whose output is to be multiplied; exclude the layers that feed it "
                "(convert(..., exclude=[...])), or convert without averaged"
            )


def _table_kinds(grouping: Grouping, batch_norm: BatchNorm, switches: Sequence[Widths]) -> dict[Widths, Kind]:
    if batch_norm == "naive":
        return {}
    if batch_norm == "private":
        return dict.fromkeys(switches, "private")
    space = grouping.space
    kinds: dict[Widths, Kind] = {space.largest: "tracked", space.smallest: "tracked"}
    return kinds if space.base in kinds else {**kinds, space.base: "calibrated"}


def _tables(
    maximum: Sequence[int], norms: Sequence[NormLayer], kinds: dict[Widths, Kind], given: Widths
) -> list[NormTable]:
    if not norms:
        return []
    fixed = fixed_tensors(norms)
    return [
        NormTable(
            widths,
            kind,
            sliced_tensors(norms, widths, maximum, affine=kind == "private"),
            given=widths == given,
            fixed=fixed,
        )
        for widths, kind in kinds.items()
    ]


def _report(analysis: Analysis, grouping: Grouping, model: nn.Module) -> ConversionReport:
    space = grouping.space
    producers: dict[int, dict[str, None]] = {i: {} for i in range(len(space.groups))}
    consumers: dict[int, dict[str, None]] = {i: {} for i in range(len(space.groups))}
    opened = {(each.parameter, each.axis): each.module for each in analysis.opened}
    elastic: dict[str, None] = {}
    for name, layouts in analysis.parameters.items():
        module = owner(name) or name
        for dim, layout in enumerate(layouts):
            for var in dict.fromkeys(block.var for block in layout if block.var is not None):
                side = producers if (name, dim) in opened else consumers
                side[grouping.index[var]][module] = None
                if len(space.groups[grouping.index[var]].choices) > 1:
                    elastic[module] = None
    for call, term in analysis.macs:  # a layer may slide over an axis that varies, and have weights that do not
        its = (block.var for layout in term.layouts for block in layout if block.var is not None)
        if any(len(space.groups[grouping.index[var]].choices) > 1 for var in its):
            elastic[call.module] = None
    for i, made in producers.items():
        if not made:  # a bare parameter opens the group
            made[next(iter(consumers[i]))] = None
    layers = dict.fromkeys(analysis.layers)
    layers |= dict.fromkeys(c.module for c, _ in analysis.macs if c.module and _weighted(model, c.module))
    reached = set(analysis.parameters)
    return ConversionReport(
        groups=tuple(
            GroupReport(
                name=g.name,
                minimum=g.minimum,
                base=g.base,
                maximum=g.maximum,
                divisor=g.divisor,
                producers=tuple(producers[i]),
                consumers=tuple(name for name in consumers[i] if name not in producers[i]),
            )
            for i, g in enumerate(space.groups)
            if len(g.choices) > 1
        ),
        pinned=tuple(
            PinReport(
                layer=fixed.module,
                channels=fixed.channels,
                of=fixed.of,
                reason=fixed.why.reason,
                operator=fixed.why.operator,
                module=fixed.why.module,
                line=fixed.why.line,
            )
            for fixed in analysis.fixed
        )
        + tuple(
            PinReport(
                layer=g.name,
                channels=g.base,
                of=g.base,
                reason=f"steps of {g.divisor} leave no other choice; convert with a smaller divisor or min_ratio",
            )
            for g in space.groups
            if len(g.choices) == 1
        ),
        uncounted=analysis.uncounted,
        unknown=tuple(call_place(pin) for pin in analysis.unknown),
        layers=tuple(layers),
        elastic=tuple(layer for layer in layers if layer in elastic),
        unreached=tuple(name for name, _ in model.named_parameters() if name not in reached),
        space=space,
    )


def _weighted(model: nn.Module, path: str) -> bool:
    return isinstance(model.get_submodule(path)._parameters.get("weight"), Tensor)
