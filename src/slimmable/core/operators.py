"""What an operator rule sees of a call, and the table of rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import fx

from slimmable.core.layout import Layout, Pin, Variables, constant
from slimmable.core.origins import Origins, Size
from slimmable.core.trace import Call, shapes_of
from slimmable.errors import ConversionError

Axes = tuple[Layout, ...]
"""Layouts of a tensor's axes."""

Rule = Callable[["Operator"], Axes | list[Axes]]
"""From a call to the layouts of its output (a list of them for several outputs)."""

RULES: dict[str, Rule] = {}
"""Rules by operator, with or without the overload: ``"aten.conv2d"`` serves every overload of it."""


def operator_rule(*names: str) -> Callable[[Rule], Rule]:
    """Register the rule of one or several operators; it replaces an earlier one.

    A rule takes an :class:`Operator`, says which axes must agree (``unify``), which cannot vary (``pin``) and which a
    layer opens (``open``), and returns the layouts of the output's axes.

    Example:
        A custom operator ``mylib::scale(x, gain)`` that multiplies channel ``c`` of ``x`` with ``gain[c]``::

            @slimmable.operator_rule("mylib.scale")
            def scale(op):
                x, gain = op.axes("x"), op.axes("gain")
                op.unify(x[1], gain[0])
                return x
    """

    def register(rule: Rule) -> Rule:
        for name in names:
            RULES[name] = rule
        return rule

    return register


@dataclass(frozen=True, kw_only=True)
class Term:
    """A product of axis sizes: ``constant`` times the positions of every layout."""

    constant: int
    layouts: Axes


@dataclass(frozen=True, kw_only=True)
class Extent:
    """A whole-number attribute of a module that follows an axis: its positions times ``multiply`` over ``divide``."""

    layout: Layout
    multiply: int = 1
    divide: int = 1


Choice = tuple[str, int]
"""An ambiguous split: the node that splits, and which of its parts."""


@dataclass(kw_only=True)
class Findings:
    """What the rules have found so far.

    Attributes:
        axes: Layouts of every output of every node.
        names: Parameters and buffers behind nodes.
        opened: Parameter axes where a width begins: node, axis, calling module.
        attributes: Module attributes that follow an axis, by module path and name (several extents for a tuple).
        macs: Multiply-accumulates of calls.
        norms: Buffers that hold running means and variances: calling module, mean, variance.
        unknown: Calls without a rule that read parameters, and the reason that holds them.
        outer: Ambiguous splits whose outer factor is to vary.
        inner: Ambiguous splits whose inner factor was taken to vary, and its layout.
        flipped: Those of ``outer`` whose outer factor was taken to vary, and its layout.
        contracted: Axes over which a product of two activations sums: the width of attention heads.
        expected: Arguments of calls that are the size of an axis, where no shape would show another value.
        sizes: Attributes of modules that may be the size of an axis, by path and name.
        origins: Those of them that the code passes as sizes, where values alone do not say which.
        guesses: Those of them that have the size of an axis where it matters, with what they may follow.
        ordered: Axes whose positions must keep their places, and why.
        training: Whether the graph is that of training mode.
    """

    variables: Variables = field(default_factory=Variables)
    axes: dict[fx.Node, list[Axes]] = field(default_factory=dict)
    names: dict[Any, str] = field(default_factory=dict)
    opened: list[tuple[fx.Node, int, str]] = field(default_factory=list)
    attributes: dict[tuple[str, str], tuple[Extent, ...]] = field(default_factory=dict)
    macs: list[tuple[Call, Term]] = field(default_factory=list)
    norms: list[tuple[str, fx.Node, fx.Node]] = field(default_factory=list)
    unknown: list[tuple[Call, Pin]] = field(default_factory=list)
    outer: frozenset[Choice] = frozenset()
    inner: dict[Choice, Layout] = field(default_factory=dict)
    flipped: dict[Choice, Layout] = field(default_factory=dict)
    contracted: list[Layout] = field(default_factory=list)
    ordered: list[tuple[Layout, Pin]] = field(default_factory=list)
    training: bool = False
    expected: dict[tuple[fx.Node, str], Layout] = field(default_factory=dict)
    sizes: Mapping[str, Mapping[str, Size]] = field(default_factory=dict)
    origins: Origins = field(default_factory=dict)
    guesses: dict[tuple[str, str], list[Axes]] = field(default_factory=dict)

    def guess(self, module: str, layouts: Axes, place: tuple[int, int] | None = None) -> None:
        """Note attributes of a module that have the size of an axis, or a tuple of them those of several.

        Args:
            module: Its path.
            layouts: The axes.
            place: The number of sizes that the code gave, and which of them this is.
        """
        sizes = tuple(map(self.variables.size, layouts))
        names = {
            name
            for name, value in self.sizes.get(module, {}).items()
            if ((value,) if isinstance(value, int) else tuple(value)) == sizes
        }
        passed = {found for (path, *_), known in self.origins.items() if path == module for found in known}
        if len(names) > 1 and names & passed:  # of several with this value, the one that the code passes here
            names &= self.origins.get((module, *place, sizes[0]), frozenset()) if place else frozenset()
        for name in names:
            self.guesses.setdefault((module, name), []).append(layouts)


class Operator:
    """One call, as an operator rule sees it."""

    def __init__(self, call: Call, findings: Findings) -> None:
        self.call = call
        self.name = call.name
        self._findings = findings
        self._variables = findings.variables

    def value(self, name: str) -> Any:
        """An argument that is not a tensor, by its name in the operator's schema."""
        return self.call.values.get(name)

    def dimension(self, name: str, rank: int) -> int:
        """An argument that names an axis, counted from the front."""
        return int(self.value(name)) % rank

    def axes(self, name: str) -> Axes:
        """Layouts of a tensor argument's axes; empty for one that is None."""
        node = self.call.values.get(name)
        return self._first(node) if isinstance(node, fx.Node) else ()

    def list_of_axes(self, name: str) -> list[Axes]:
        """Layouts of every tensor in a list argument."""
        return [self._first(node) for node in self.call.values[name]]

    def axes_of(self, node: fx.Node) -> Axes:
        """Layouts of another node's (first) output, such as an element of a list argument."""
        return self._first(node)

    def is_mask(self, node: fx.Node) -> bool:
        """Whether an element of a list argument is a tensor of truth values."""
        return node.meta["val"].dtype is torch.bool

    def outputs_of(self, name: str) -> list[Axes]:
        """Layouts of every output of the node behind an argument."""
        return self._findings.axes[self.call.values[name]]

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor argument at full width."""
        return shapes_of(self.call.values[name])[0]

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the first output at full width."""
        return self.call.outputs[0]

    def size(self, layout: Layout) -> int:
        """Positions of an axis at full width."""
        return self._variables.size(layout)

    def varies(self, layout: Layout) -> bool:
        """Whether any part of an axis may vary, as far as is known."""
        return bool(self._variables.free(layout))

    def unify(self, *layouts: Layout) -> None:
        """Make axes agree."""
        for other in layouts[1:]:
            self._variables.unify(layouts[0], other, self.because("it must agree with an axis of fixed size"))

    def broadcast(self, operands: Sequence[Axes], shape: Sequence[int]) -> Axes:
        """Axes of a tensor of ``shape`` to which operands are stretched; those of its size must agree."""
        axes: list[Layout] = []
        for back in range(len(shape), 0, -1):
            meeting = [operand[-back] for operand in operands if len(operand) >= back]
            meeting = [layout for layout in meeting if self.size(layout) == shape[-back]]
            self.unify(*meeting)
            axes.append(meeting[0] if meeting else constant(shape[-back]))
        return tuple(axes)

    def fix(self, *layouts: Layout) -> None:
        """Mark axes that were never meant to vary (kernel sizes, vocabulary); nothing is reported."""
        for layout in layouts:
            self._variables.pin(layout, None)

    def pin(self, layouts: Sequence[Layout], reason: str) -> None:
        """Hold axes at full width; the report says why."""
        for layout in layouts:
            self._variables.pin(layout, self.because(reason))

    def constant(self, size: int) -> Layout:
        """An axis of fixed size."""
        return constant(size)

    def scale(self, layout: Layout, factor: int) -> Layout:
        """An axis with every position repeated ``factor`` times in place."""
        return self._variables.scale(layout, factor)

    def unscale(self, layout: Layout, factor: int) -> Layout | None:
        """The inverse of :meth:`scale`, or None."""
        return self._variables.unscale(layout, factor)

    def coarsen(self, layout: Layout, factor: int) -> bool:
        """Make an axis vary in runs of ``factor`` positions; False if it cannot."""
        return self._variables.coarsen(layout, factor)

    def periodic(self, layout: Layout, count: int) -> Layout:
        """The layout of each of ``count`` equal parts of an axis, which then vary together."""
        return self._variables.periodic(layout, count, self.because(f"does not split into {count} equal parts"))

    def segments(self, layout: Layout, count: int) -> list[Layout]:
        """``count`` equal parts of an axis, which may vary apart."""
        return self._variables.segments(layout, count, self.because(f"does not split into {count} equal parts"))

    def cut(self, layout: Layout, position: int) -> tuple[Layout, Layout]:
        """An axis before and from ``position``."""
        return self._variables.cut(layout, position, self.because(f"is cut at {position}"))

    def open(self, name: str, axis: int) -> None:
        """Say that an axis of a parameter is the output of a layer: where a width begins."""
        node = self.call.values.get(name)
        if isinstance(node, fx.Node):
            self._findings.opened.append((node, axis, self.call.module))

    def attribute(self, name: str, *layouts: Layout, multiply: int = 1, divide: int = 1) -> None:
        """Say that attribute ``name`` of the layer is the size of an axis, times or over a constant.

        The layer is the calling module, and the one whose own ``weight`` the operator reads.
        """
        extents = tuple(Extent(layout=layout, multiply=multiply, divide=divide) for layout in layouts)
        owner, _, own = self._findings.names.get(self.call.values.get("weight"), "").rpartition(".")
        for module in {self.call.module, owner if own == "weight" else self.call.module}:
            self._findings.attributes[module, name] = extents

    def sized(self, *layouts: Layout) -> None:
        """Say that the code gives the size of an axis, or of several: attributes of that value then follow."""
        self._findings.guess(self.call.module, layouts)

    def has(self, name: str) -> bool:
        """Whether the calling module keeps a whole number as attribute ``name``."""
        return name in self._findings.sizes.get(self.call.module, {})

    def expects(self, name: str, layout: Layout) -> None:
        """Say that an argument must be the size of an axis; conversion proves it."""
        self._findings.expected[self.call.node, name] = layout

    def contracts(self, layout: Layout) -> None:
        """Say that a product of two activations sums over an axis: heads are dropped rather than made narrower."""
        self._findings.contracted.append(layout)

    def order_matters(self, layout: Layout, reason: str = "the operator treats its positions by their place") -> None:
        """Say that positions of an axis may not change places: its channels are not sorted by importance."""
        self._findings.ordered.append((layout, self.because(reason)))

    @property
    def training(self) -> bool:
        """Whether the graph is that of training mode."""
        return self._findings.training

    def count_macs(self, factor: int, *layouts: Layout) -> None:
        """Count ``factor`` times the product of axis sizes as multiply-accumulates of this call."""
        self._findings.macs.append((self.call, Term(constant=factor, layouts=layouts)))

    def normalises(self, mean: str, variance: str) -> None:
        """Say that the operator reads running statistics, from the buffers behind two arguments."""
        means, variances = self.call.values.get(mean), self.call.values.get(variance)
        if isinstance(means, fx.Node) and isinstance(variances, fx.Node):
            self._findings.norms.append((self.call.module, means, variances))

    def outer_first(self, part: int) -> bool:
        """Whether the outer factor of an ambiguous split is to vary (see :func:`slimmable.core.analysis.analyse`)."""
        return (self.call.node.name, part) in self._findings.outer

    def chose_inner(self, part: int, layout: Layout) -> None:
        """Note that the inner factor of an ambiguous split varies, so that the choice can be undone."""
        self._findings.inner[self.call.node.name, part] = layout

    def chose_outer(self, part: int, layout: Layout) -> None:
        """Note that the outer factor of an ambiguous split varies, so that the choice can be undone."""
        self._findings.flipped[self.call.node.name, part] = layout

    def constants(self, shape: Sequence[int] | None = None) -> Axes:
        """Fixed axes for a shape, the output's by default."""
        return tuple(constant(size) for size in (self.output_shape if shape is None else shape))

    def because(self, reason: str) -> Pin:
        """A reason with this call's operator, module and line."""
        return Pin(reason=reason, operator=self.name, module=self.call.module, line=self.call.line)

    def run(self) -> list[Axes]:
        """Apply the rule and check what it says.

        Raises:
            ConversionError: The rule's layouts do not have the output's sizes.
        """
        rule = rule_for(self.call)
        found = rule(self) if rule is not None else self._unknown()
        outputs = found if isinstance(found, list) else [found]
        sizes = [tuple(self.size(layout) for layout in axes) for axes in outputs]
        if sizes != self.call.outputs:
            raise ConversionError(
                f"the rule of {self.name} gives outputs of sizes {sizes}, but the operator yields {self.call.outputs} "
                f"(module {self.call.module!r}, {self.call.line}); mend the rule or remove it"
            )
        return outputs

    def _unknown(self) -> list[Axes]:
        self._findings.unknown.append((self.call, self.because("the operator has no rule")))
        for node in self.call.node.all_input_nodes:
            for axes in self._findings.axes.get(node, []):
                self.pin(axes, "the operator has no rule")
        return [self.constants(shape) for shape in self.call.outputs]

    def _first(self, node: fx.Node) -> Axes:
        found = self._findings.axes[node]
        return found[0] if found else ()


def rule_for(call: Call) -> Rule | None:
    """The rule of an operator: by its full name, then without the overload."""
    return RULES.get(call.name) or RULES.get(call.name.rpartition(".")[0]) or RULES.get(_tagged(call))


def _tagged(call: Call) -> str:
    tags = getattr(call.node.target, "tags", ())
    return "pointwise" if any(str(tag).endswith("pointwise") for tag in tags) else ""


def positions(shape: Sequence[int]) -> int:
    """Elements of a shape."""
    return prod(shape)
