"""Rules of operators that move, join, cut and stretch axes."""

from __future__ import annotations

from slimmable.core.layout import Layout
from slimmable.core.operators import Axes, Operator, operator_rule


@operator_rule("aten.cat", "aten.concat")
def concatenation(op: Operator) -> Axes:
    """The segments stay apart: the first k of each."""
    tensors = [axes for axes, size in zip(op.list_of_axes("tensors"), _sizes(op), strict=True) if size]
    dim = op.dimension("dim", len(tensors[0]))
    joined: Layout = sum((axes[dim] for axes in tensors), ())
    rest = op.broadcast(
        [axes[:dim] + op.constants([1]) + axes[dim + 1 :] for axes in tensors], _with(op.output_shape, dim, 1)
    )
    return (*rest[:dim], joined, *rest[dim + 1 :])


def _sizes(op: Operator) -> list[int]:
    return [0 if len(axes) == 1 and op.size(axes[0]) == 0 else 1 for axes in op.list_of_axes("tensors")]


def _with(shape: tuple[int, ...], dim: int, size: int) -> tuple[int, ...]:
    return (*shape[:dim], size, *shape[dim + 1 :])


@operator_rule("aten.stack")
def stack(op: Operator) -> Axes:
    """A new axis; the others agree."""
    tensors = op.list_of_axes("tensors")
    dim = op.dimension("dim", len(tensors[0]) + 1)
    shape = op.output_shape
    axes = op.broadcast(tensors, shape[:dim] + shape[dim + 1 :])
    return (*axes[:dim], op.constant(len(tensors)), *axes[dim:])


@operator_rule("aten.permute")
def permute(op: Operator) -> Axes:
    """Axes in another order."""
    x = op.axes("self")
    return tuple(x[dim] for dim in op.value("dims"))


@operator_rule("aten.transpose", "aten.swapaxes")
def transpose(op: Operator) -> Axes:
    """Two axes swapped."""
    x = list(op.axes("self"))
    names = ("dim0", "dim1") if op.value("dim0") is not None else ("axis0", "axis1")
    i, j = (op.dimension(name, len(x)) for name in names)
    x[i], x[j] = x[j], x[i]
    return tuple(x)


@operator_rule("aten.t", "aten.numpy_T", "aten.mT")
def reverse(op: Operator) -> Axes:
    """A matrix transposed."""
    return op.axes("self")[::-1]


@operator_rule("aten.unsqueeze")
def unsqueeze(op: Operator) -> Axes:
    """A new axis of one position."""
    x = op.axes("self")
    dim = op.dimension("dim", len(x) + 1)
    return (*x[:dim], op.constant(1), *x[dim:])


@operator_rule("aten.squeeze")
def squeeze(op: Operator) -> Axes:
    """Axes of one position removed."""
    x = op.axes("self")
    given = op.value("dim")
    dims = range(len(x)) if given is None else [given] if isinstance(given, int) else given
    gone = {dim % len(x) for dim in dims}
    return tuple(layout for i, layout in enumerate(x) if i not in gone or op.size(layout) != 1)


@operator_rule("aten.expand", "aten.broadcast_to")
def expand(op: Operator) -> Axes:
    """Axes of one position stretched."""
    return op.broadcast([op.axes("self")], op.output_shape)


@operator_rule("aten.expand_as")
def expand_as(op: Operator) -> Axes:
    """Axes of one position stretched to those of another tensor."""
    return op.broadcast([op.axes("self"), op.axes("other")], op.output_shape)


@operator_rule("aten.repeat", "aten.tile")
def repeat(op: Operator) -> Axes:
    """The axis several times over, end to end."""
    shape = op.output_shape
    x = (*op.constants([1] * (len(shape) - len(op.axes("self")))), *op.axes("self"))
    return tuple(layout * (size // op.size(layout)) for layout, size in zip(x, shape, strict=True))


@operator_rule("aten.repeat_interleave.self_int")
def repeat_interleave(op: Operator) -> Axes:
    """Every position several times over, in place."""
    x, given = list(op.axes("self")), op.value("dim")
    if given is None:
        op.pin(x, "its axes are merged into one")
        return op.constants()
    dim = int(given) % len(x)
    x[dim] = op.scale(x[dim], int(op.value("repeats")))
    return tuple(x)


@operator_rule("aten.chunk", "aten.tensor_split")
def chunk(op: Operator) -> list[Axes]:
    """Equal parts, computed from the size at run time: they vary together. Unequal ones are pinned."""
    x = op.axes("self")
    dim = op.dimension("dim", len(x))
    sizes = [shape[dim] for shape in op.call.outputs]
    if len(set(sizes)) > 1:
        return _parts(op, x, dim, sizes)
    part = op.periodic(x[dim], len(sizes))
    return [(*x[:dim], part, *x[dim + 1 :])] * len(sizes)


@operator_rule("aten.split", "aten.split_with_sizes", "aten.unsafe_split")
def split(op: Operator) -> list[Axes]:
    """Equal parts vary together, as when the code divides the size by their number; others vary apart.

    Their sizes are the module's attributes or computed from the whole: conversion proves it.
    """
    x = op.axes("self")
    dim = op.dimension("dim", len(x))
    sizes = [shape[dim] for shape in op.call.outputs]
    if len(set(sizes)) == 1:
        part = op.periodic(x[dim], len(sizes))
        op.sized(*[part] * len(sizes))
        return [(*x[:dim], part, *x[dim + 1 :])] * len(sizes)
    parts, rest = [], x[dim]
    for size in sizes:
        part, rest = op.cut(rest, size)
        parts.append(part)
    op.sized(*parts)
    return [(*x[:dim], part, *x[dim + 1 :]) for part in parts]


def _parts(op: Operator, x: Axes, dim: int, sizes: list[int]) -> list[Axes]:
    if op.varies(x[dim]):
        op.pin([x[dim]], f"is cut into parts of {sizes} by fixed sizes")
    return [(*x[:dim], op.constant(size), *x[dim + 1 :]) for size in sizes]


@operator_rule("aten.glu")
def gated_half(op: Operator) -> Axes:
    """Two halves of one axis, which vary together."""
    x = list(op.axes("self"))
    dim = op.dimension("dim", len(x))
    x[dim] = op.periodic(x[dim], 2)
    return tuple(x)


@operator_rule("aten.unbind")
def unbind(op: Operator) -> list[Axes]:
    """One position of an axis each; an axis that is unbound cannot vary."""
    x = op.axes("self")
    dim = op.dimension("dim", len(x))
    op.pin([x[dim]], "an axis that is unbound cannot vary")
    return [(*x[:dim], *x[dim + 1 :])] * len(op.call.outputs)


@operator_rule("aten.select")
def select(op: Operator) -> Axes:
    """One position of an axis. The first one exists at every width; any other must stay."""
    x = op.axes("self")
    dim = op.dimension("dim", len(x))
    if op.value("index") != 0:
        op.pin([x[dim]], "a fixed position of the axis is selected")
    op.order_matters(x[dim][:1], "its first position is selected")
    return (*x[:dim], *x[dim + 1 :])


@operator_rule("aten.slice", "aten.narrow")
def slice_axis(op: Operator) -> Axes:
    """The axis is cut where the slice begins and ends; the module's attributes, or the whole's size, say where."""
    x = op.axes("self")
    dim, shape = op.dimension("dim", len(x)), op.output_shape
    size = op.size(x[dim])
    if size == shape[dim]:
        return x
    step, start = op.value("step") or 1, op.value("start") or 0
    if step != 1 or not isinstance(start, int):
        op.pin([x[dim]], "is sliced at fixed positions")
        return (*x[:dim], op.constant(shape[dim]), *x[dim + 1 :])
    before, rest = op.cut(x[dim], start % size)
    part, _ = op.cut(rest, shape[dim])
    if op.varies(x[dim]):
        op.sized(before)
        op.expects("start", before)
    return (*x[:dim], part, *x[dim + 1 :])


@operator_rule("aten.roll", "aten.flip")
def roll(op: Operator) -> Axes:
    """Axes whose positions change places cannot vary."""
    x = op.axes("self")
    dims = op.value("dims") or range(len(x))
    op.pin([x[dim % len(x)] for dim in dims], "its positions change places")
    return x


@operator_rule("aten.pad", "aten.constant_pad_nd")
def pad(op: Operator) -> Axes:
    """Padding in front of or behind an axis is a constant segment of it."""
    x, widths = list(op.axes("self")), op.value("pad")
    for back in range(len(widths) // 2):
        before, after = widths[2 * back], widths[2 * back + 1]
        axis = len(x) - 1 - back
        if before < 0 or after < 0:
            op.pin([x[axis]], "is cropped at fixed positions")
            x[axis] = op.constant(op.output_shape[axis])
        elif before or after:
            if op.value("mode") not in (None, "constant"):
                op.order_matters(x[axis], "is padded with positions at its ends")
            ends = [op.constant(size) if size else () for size in (before, after)]
            x[axis] = ends[0] + x[axis] + ends[1]
    return tuple(x)


@operator_rule("aten.index")
def index(op: Operator) -> Axes:
    """Axes that are indexed by tensors cannot vary; the others pass."""
    x, indices = op.axes("self"), list(op.value("indices"))
    by = [place for place, node in enumerate(indices) if node is not None]
    for place in by:
        op.pin([x[place], *op.axes_of(indices[place])], "is indexed by a tensor")
    rest = [layout for place, layout in enumerate(x) if place not in by]
    picked = len(op.output_shape) - len(rest)
    if len(by) != picked and op.is_mask(indices[by[0]]):
        op.pin(x, "is indexed by a mask")
        return op.constants()
    front = by[0] if by == [*range(by[0], by[-1] + 1)] else 0
    return (*rest[:front], *op.constants(op.output_shape[front : front + picked]), *rest[front:])


@operator_rule("aten.index_select")
def index_select(op: Operator) -> Axes:
    """One axis is indexed by a tensor and cannot vary; the others pass."""
    x, axes = list(op.axes("self")), op.axes("index")
    dim = op.dimension("dim", len(x))
    op.pin([x[dim], *axes], "is indexed by a tensor")
    x[dim] = op.constant(op.output_shape[dim])
    return tuple(x)


@operator_rule("aten.gather")
def gather(op: Operator) -> Axes:
    """Positions are looked up one by one: no axis can vary."""
    op.pin([*op.axes("self"), *op.axes("index")], "is indexed by a tensor")
    return op.constants()


@operator_rule("getitem")
def item(op: Operator) -> Axes:
    """One output of an operator that has several."""
    return op.outputs_of("self")[op.value("index")]
