"""From a graph to its width groups: run every operator's rule, then name what may vary and what may not, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import fx

from slimmable.core import rules as _rules  # noqa: F401  fills the table of rules
from slimmable.core.layout import Block, Layout, Pin, Variables, constant
from slimmable.core.operators import Axes, Choice, Extent, Findings, Operator, Term
from slimmable.core.trace import Call, Trace, owner, shapes_of

_MAXIMUM_PASSES = 8


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A parameter axis where a width begins; for a computed weight, that of the parameter it is computed from."""

    parameter: str
    axis: int
    module: str


@dataclass(frozen=True, kw_only=True)
class Fixed:
    """Channels of a layer's output that cannot vary, and why."""

    module: str
    channels: int
    of: int
    why: Pin


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """What a network's graph says of its widths. Layouts are resolved: their variables are free.

    Attributes:
        variables: Units of each free variable, in the order in which the network meets them.
        parameters: Layouts of the axes of every parameter and buffer that the graph reads.
        opened: Parameter axes where a width begins.
        fixed: Outputs of layers, or parts of them, that cannot vary.
        attributes: Module attributes that follow an axis.
        layers: Modules that open a width, or whose parameters an operator without a rule reads.
        uncounted: Those of them whose multiply-accumulates are not known.
        unknown: Operators without a rule, and where they are called.
        macs: Multiply-accumulates of calls, in evaluation, on the example.
        buffers: Names of those of ``parameters`` that are buffers.
        gains: Names of those whose neutral value is 1.
        ordered: Variables whose units must keep their places, and why.
        norms: Buffers of running statistics: module, mean, variance.
        outer: Modules in whose reshapes the outer factor varies: the number of heads.
        tensors: For every node its outputs' layouts (empty for inputs of fixed size).
        expected: Arguments of calls that are the size of an axis, by node and name.
        trace: The graph in evaluation mode.
    """

    variables: dict[int, int]
    parameters: dict[str, Axes]
    opened: tuple[Opened, ...]
    fixed: tuple[Fixed, ...]
    attributes: dict[tuple[str, str], tuple[Extent, ...]]
    layers: tuple[str, ...]
    uncounted: tuple[str, ...]
    unknown: tuple[Pin, ...]
    macs: tuple[tuple[Call, Term], ...]
    norms: tuple[tuple[str, str, str], ...]
    buffers: frozenset[str]
    gains: frozenset[str]
    outer: frozenset[str]
    ordered: dict[int, Pin]
    tensors: dict[fx.Node, tuple[Axes, ...]]
    expected: dict[tuple[fx.Node, str], Layout]
    trace: Trace

    def __deepcopy__(self, _memo: dict[int, Any]) -> Analysis:
        return self  # a value that never changes; the tensors of its graph have no data to copy


@dataclass(frozen=True, kw_only=True)
class Holds:
    """Modules in which widths do not vary: reasons by path.

    Attributes:
        joined: Their code takes one size for several: axes of equal size in them are one.
        inner: Their reshapes split off a fixed number of parts (of heads), whose width varies if anything does.
        outputs: Their layers' outputs stay at full width.
        sizes: Their own code fixes sizes: what their reshapes and slices touch stays.
        everything: They run at one width only: what any of their operators touches stays.
    """

    joined: set[str] = field(default_factory=set)
    inner: set[str] = field(default_factory=set)
    outputs: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, str] = field(default_factory=dict)
    everything: dict[str, str] = field(default_factory=dict)


def analyse(trace: Trace, *, holds: Holds, aliases: Mapping[str, str], training: Trace | None = None) -> Analysis:
    """The width groups of a traced network.

    A reshape that splits channels in two leaves open which factor varies. The inner one is tried first; where
    everything that follows pins it, or a product of two activations sums over it (the width of attention heads), the
    graph is analysed again with the outer one in all reshapes of that module.

    Args:
        trace: The graph.
        holds: Modules in which widths do not vary.
        aliases: Parameters that are one tensor under several names: name by alias.
        training: The graph in training mode, where it reads parameters (of auxiliary heads) that evaluation does not.
    """
    findings = _apply_all(trace, training, frozenset(), holds, aliases)
    for _ in range(_MAXIMUM_PASSES):
        futile = _futile(trace, findings, holds)
        if not futile:
            break
        findings = _apply_all(trace, training, findings.outer | futile, holds, aliases)
    # Where the outer factor cannot vary either, the inner one's reason is the one to report.
    useful = {key for key, layout in findings.flipped.items() if findings.variables.free(layout)}
    if useful != findings.outer:
        reduced = _apply_all(trace, training, frozenset(useful), holds, aliases)
        if _elastic_axes(reduced) >= _elastic_axes(findings):
            findings = reduced
    return _conclude(trace, training, findings, aliases)


def _futile(trace: Trace, findings: Findings, holds: Holds) -> set[Choice]:
    """Splits whose outer factor is to vary next: the finest of each module in which an inner one cannot vary."""
    variables = findings.variables
    contracted = {var for layout in findings.contracted for var in variables.free(layout)}
    flipped = {node for node, _ in findings.outer}
    module_of = {call.node.name: call.module for call in trace.calls}
    choices: dict[str, dict[Choice, int]] = {}
    modules: set[str] = set()
    for key, layout in findings.inner.items():
        module, free = module_of.get(key[0], ""), set(variables.free(layout))
        if key not in findings.outer and module not in holds.inner:
            choices.setdefault(module, {})[key] = variables.size(layout)
            if not free or (free & contracted and key[0] not in flipped):
                modules.add(module)
    finest = {module: min(choices[module].values()) for module in modules}
    return {key for module in modules for key, size in choices[module].items() if size == finest[module]}


def _elastic_axes(findings: Findings) -> int:
    """Axes of parameters that vary."""
    axes = (layout for node in findings.names if node in findings.axes for layout in findings.axes[node][0])
    return sum(bool(findings.variables.free(layout)) for layout in axes)


def _apply_all(
    trace: Trace,
    training: Trace | None,
    outer: frozenset[Choice],
    holds: Holds,
    aliases: Mapping[str, str],
) -> Findings:
    """One pass over both graphs, which share parameters; costs are those of evaluation."""
    findings = Findings(outer=outer, sizes=trace.sizes, origins=trace.origins)
    findings.names = trace.parameters | (training.parameters if training else {})
    known: dict[str, Axes] = {}
    _run(trace, findings, known, holds, aliases)
    macs = list(findings.macs)
    if training is not None:
        findings.training = True
        _run(training, findings, known, holds, aliases)
        findings.macs = macs
    return findings


def _run(
    trace: Trace,
    findings: Findings,
    known: dict[str, Axes],
    holds: Holds,
    aliases: Mapping[str, str],
) -> None:
    """Apply every operator's rule; ``known`` holds the axes of parameters that were met before."""
    variables = findings.variables
    joined: dict[tuple[str, int], Layout] = {}
    for node in trace.inputs:
        findings.axes[node] = [tuple((Block(None, size),) for size in shape) for shape in shapes_of(node)]
    for call in trace.calls:
        for node in call.node.all_input_nodes:
            if node not in findings.axes and node in trace.parameters:
                name = aliases.get(trace.parameters[node], trace.parameters[node])
                if name not in known:
                    known[name] = tuple(map(_axis_of(node, variables), shapes_of(node)[0]))
                findings.axes[node] = [known[name]]
        operator = Operator(call, findings)
        before = len(findings.opened)
        findings.axes[call.node] = operator.run()
        for node, axis, module in findings.opened[before:]:
            if reason := _covering(holds.outputs, module):
                variables.pin(findings.axes[node][0][axis], Pin(reason=reason, module=module, line=call.line))
        _follow_sizes(call, findings, joined, holds)
        stopped = holds.sizes.get(call.module) if call.name.startswith(_SIZED) else None
        if reason := stopped or _covering(holds.everything, call.module):
            for node in (call.node, *call.node.all_input_nodes):
                for layout in (layout for axes in findings.axes[node] for layout in axes):
                    variables.pin(layout, operator.because(reason))
    written = {var for node, axis, _ in findings.opened for var in variables.free(findings.axes[node][0][axis])}
    for node, name in trace.parameters.items():  # a table of constants is as wide as it is, unless a layer's output is
        if name in trace.buffers and node in findings.axes:
            for layout in findings.axes[node][0]:
                if written.isdisjoint(variables.free(layout)):
                    variables.pin(layout, None)
    for node in trace.outputs:
        why = Pin(reason="is the network's output", operator="output")
        for layout in (layout for axes in findings.axes.get(node, []) for layout in axes):
            variables.pin(layout, why)


def _axis_of(node: fx.Node, variables: Variables) -> Callable[[int], Layout]:
    """How an axis of a parameter begins: free, but for tables of whole numbers (indices, masks), which stay."""
    return variables.fresh if node.meta["val"].dtype.is_floating_point else constant


def _follow_sizes(call: Call, findings: Findings, joined: dict[tuple[str, int], Layout], holds: Holds) -> None:
    """Note attributes that may be sizes of the call's axes; where sizes are joined, make axes of equal size agree."""
    variables = findings.variables
    produced = [layout for axes in findings.axes[call.node] for layout in axes]
    why = Pin(reason="its code takes one size for both", operator=call.name, module=call.module, line=call.line)
    for module in (call.module, call.module.rpartition(".")[0]):
        if module not in holds.joined:
            continue
        seen = [node for node in call.node.all_input_nodes if module == call.module or node.op != "placeholder"]
        for layout in [*produced, *(layout for node in seen for axes in findings.axes[node] for layout in axes)]:
            if variables.free(layout):
                variables.unify(joined.setdefault((module, variables.size(layout)), layout), layout, why)
                findings.guess(module, (layout,))
    if call.module not in holds.sizes and call.name.startswith(_SIZED):
        findings.guess(call.module, tuple(produced))
        for position, layout in enumerate(produced):
            if variables.free(layout):
                findings.guess(call.module, (layout,), (len(produced), position))


_SIZED = tuple(
    f"aten.{name}"
    for name in ("view", "reshape", "_unsafe_view", "expand", "slice", "split", "narrow", "unflatten", "flatten")
)
"""Operators whose arguments a module's code may have fixed."""


def _covering(held: Mapping[str, str], module: str) -> str | None:
    """The reason for which a module, or one that contains it, is held."""
    path = module
    while True:
        if path in held:
            return held[path]
        if not path:
            return None
        path = path.rpartition(".")[0]


def _conclude(trace: Trace, training: Trace | None, findings: Findings, aliases: Mapping[str, str]) -> Analysis:
    variables = findings.variables
    resolve = variables.resolve
    name_of = {node: aliases.get(name, name) for node, name in findings.names.items()}
    parameters: dict[str, Axes] = {}
    for node, name in name_of.items():
        if node in findings.axes:
            parameters[name] = tuple(resolve(layout) for layout in findings.axes[node][0])
    free = dict.fromkeys(var for axes in parameters.values() for layout in axes for var in variables.free(layout))
    module_of = {call.node.name: call.module for call in trace.calls}
    opened = tuple(each for entry in findings.opened if (each := _opened(findings, name_of, *entry)))
    return Analysis(
        variables={var: variables.units(var) for var in free},
        parameters=parameters,
        opened=opened,
        fixed=tuple(_fixed(variables, findings)),
        attributes=_attributes(findings),
        layers=tuple(dict.fromkeys(_layers(findings, name_of))),
        uncounted=tuple(dict.fromkeys(call.module for call, _ in findings.unknown if _reads_parameters(call))),
        unknown=tuple(dict.fromkeys(why for _, why in findings.unknown)),
        macs=tuple((call, _resolved(term, resolve)) for call, term in findings.macs),
        norms=tuple((module, name_of[mean], name_of[variance]) for module, mean, variance in findings.norms),
        buffers=trace.buffers | (training.buffers if training else frozenset()),
        outer=frozenset(module_of.get(node, "") for node, _ in findings.outer),
        gains=frozenset(_gains(trace, name_of)) | frozenset(_gains(training, name_of) if training else ()),
        ordered={var: why for layout, why in reversed(findings.ordered) for var in variables.free(layout)},
        tensors={node: tuple(tuple(map(resolve, axes)) for axes in outputs) for node, outputs in findings.axes.items()},
        expected={key: resolve(layout) for key, layout in findings.expected.items()},
        trace=trace,
    )


def _opened(findings: Findings, name_of: Mapping[fx.Node, str], node: fx.Node, axis: int, module: str) -> Opened | None:
    """The parameter behind a weight's axis: itself, or the first of those it is computed from that has the axis."""
    resolve = findings.variables.resolve
    wanted = resolve(findings.axes[node][0][axis])
    if node in name_of:
        return Opened(parameter=name_of[node], axis=axis, module=module)
    waiting, seen = [*node.all_input_nodes], {node}
    while waiting and findings.variables.free(wanted):
        source = waiting.pop(0)
        if source in name_of:
            found = [place for place, layout in enumerate(findings.axes[source][0]) if resolve(layout) == wanted]
            if found:
                return Opened(parameter=name_of[source], axis=found[0], module=module)
        elif source not in seen:
            seen.add(source)
            waiting += source.all_input_nodes
    return None


def _attributes(findings: Findings) -> dict[tuple[str, str], tuple[Extent, ...]]:
    """What every attribute follows: what a rule says or, of what it may be, the first that varies."""
    resolve, free = findings.variables.resolve, findings.variables.free
    guessed = {
        key: tuple(Extent(layout=layout) for layout in next((axes for axes in found if any(map(free, axes))), ()))
        for key, found in findings.guesses.items()
    }
    return {
        key: tuple(Extent(layout=resolve(e.layout), multiply=e.multiply, divide=e.divide) for e in extents)
        for key, extents in (guessed | findings.attributes).items()
        if extents
    }


def _gains(trace: Trace, name_of: Mapping[fx.Node, str]) -> Iterable[str]:
    """Tensors whose neutral value is 1: what normalisation multiplies with, and variances."""
    for call in trace.calls:
        for key in ("weight", "running_var") if "norm" in call.name else ():
            node = call.values.get(key)
            if isinstance(node, fx.Node) and node in name_of:
                yield name_of[node]


def _layers(findings: Findings, name_of: Mapping[fx.Node, str]) -> Iterable[str]:
    """Modules by the first name of their weight, where they hold it themselves."""
    for node, _, module in findings.opened:
        yield owner(name_of[node]) if node in name_of else module
    for call, _ in findings.unknown:
        if _reads_parameters(call):
            yield call.module


def _resolved(term: Term, resolve: Callable[[Layout], Layout]) -> Term:
    return replace(term, layouts=tuple(resolve(layout) for layout in term.layouts))


def _fixed(variables: Variables, findings: Findings) -> Iterable[Fixed]:
    """One entry for each layer whose output cannot vary, whole or in part."""
    seen: set[tuple[fx.Node | str, int]] = set()
    for node, axis, module in findings.opened:
        key = findings.names.get(node, node), axis  # a parameter has a node in each of the graphs
        if key in seen:
            continue
        seen.add(key)
        layout = findings.axes[node][0][axis]
        reasons: dict[Pin, int] = {}
        for span, why in variables.pins(layout):
            if why is not None:
                reasons[why] = reasons.get(why, 0) + span
        if not reasons and not variables.free(layout):
            size = variables.size(layout)
            small = "it falls into parts too small to vary, or its weight is computed by an unknown operator"
            reasons[Pin(reason="it has a single channel" if size == 1 else small)] = size
        for why, channels in reasons.items():
            yield Fixed(module=module, channels=channels, of=variables.size(layout), why=why)
    for call, why in findings.unknown:
        if _reads_parameters(call):
            size = call.outputs[0][-1] if call.outputs and call.outputs[0] else 0
            yield Fixed(module=call.module, channels=size, of=size, why=why)


def _reads_parameters(call: Call) -> bool:
    return any(node.op == "placeholder" and node.name.startswith("p_") for node in call.node.all_input_nodes)
