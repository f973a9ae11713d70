"""The rule of every reshape: how channels move when axes are merged and split.

A reshape is cut into the smallest runs of axes that keep their number of elements. Inside a run the axes are merged
into one and split again. Merging ``(C, H, W)`` gives a unit of ``H * W`` positions for each channel; merging ``(G,
C)`` gives ``G`` equal segments. A split is the inverse where the layout allows one; where both factors could vary
(the groups or the channels of a group, the heads or their width) the inner one is taken, and
:func:`slimmable.core.analysis.analyse` takes the outer one instead if that leads nowhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from slimmable.core.layout import Layout
from slimmable.core.operators import Axes, Operator, operator_rule, positions


@operator_rule(
    "aten.view",
    "aten.reshape",
    "aten._unsafe_view",
    "aten.flatten",
    "aten.unflatten",
    "aten.view_as",
    "aten.reshape_as",
    "aten._reshape_alias",
)
def reshape(op: Operator) -> Axes:
    """Merge and split runs of axes."""
    x = op.axes("self")
    shape = op.output_shape
    axes: list[Layout] = []
    for part, (old, new) in enumerate(_runs([op.size(layout) for layout in x], shape)):
        merged = _merge(op, x[old.start : old.stop])
        axes += _split(op, merged, [shape[i] for i in new], part)
    return tuple(axes)


@operator_rule("aten.pixel_shuffle")
def pixel_shuffle(op: Operator) -> Axes:
    """``(C r r, H, W)`` to ``(C, H r, W r)``: channels come in runs of ``r * r``."""
    x, factor = op.axes("self"), int(op.value("upscale_factor"))
    if not op.coarsen(x[-3], factor * factor):
        op.pin([x[-3]], f"its segments do not split into runs of {factor * factor}")
    channels = op.unscale(x[-3], factor * factor) or op.constant(op.output_shape[-3])
    return (*x[:-3], channels, *op.constants(op.output_shape[-2:]))


@operator_rule("aten.pixel_unshuffle")
def pixel_unshuffle(op: Operator) -> Axes:
    """``(C, H r, W r)`` to ``(C r r, H, W)``."""
    x, factor = op.axes("self"), int(op.value("downscale_factor"))
    return (*x[:-3], op.scale(x[-3], factor * factor), *op.constants(op.output_shape[-2:]))


@operator_rule("aten.channel_shuffle")
def channel_shuffle(op: Operator) -> Axes:
    """Channels of each group interleaved."""
    x, groups = op.axes("self"), int(op.value("groups"))
    return (x[0], op.scale(op.periodic(x[1], groups), groups), *x[2:])


def _runs(old: Sequence[int], new: Sequence[int]) -> Iterator[tuple[range, range]]:
    """Smallest runs of old and new axes with as many elements; axes of size one join the run before them."""
    i = j = 0
    while i < len(old) or j < len(new):
        first_i, first_j = i, j
        left, right = 1, 1
        if i < len(old):
            left, i = old[i], i + 1
        if j < len(new):
            right, j = new[j], j + 1
        while left != right:
            if left < right:
                left, i = left * old[i], i + 1
            else:
                right, j = right * new[j], j + 1
        while i < len(old) and old[i] == 1 and not (j < len(new) and new[j] == 1):
            i += 1
        while j < len(new) and new[j] == 1 and not (i < len(old) and old[i] == 1):
            j += 1
        yield range(first_i, i), range(first_j, j)


def _merge(op: Operator, axes: Axes) -> Layout:
    """The layout of several axes flattened into one."""
    merged = op.constant(1)
    for layout in reversed(axes):
        inner = op.size(merged)
        if not op.varies(merged):
            merged = op.scale(layout, inner)
        elif not op.varies(layout):
            merged = merged * op.size(layout)
        else:
            op.pin([merged], "two axes that vary are merged into one")
            merged = op.scale(layout, inner)
    return merged


def _split(op: Operator, layout: Layout, sizes: Sequence[int], part: int) -> list[Layout]:
    """The layouts of one axis split into several."""
    axes: list[Layout] = []
    for position, outer in enumerate(sizes):
        inner = positions(sizes[position + 1 :])
        if inner == 1:
            return [*axes, layout, *op.constants(sizes[position + 1 :])]
        key = part * 100 + position
        if not op.varies(layout):
            axes.append(op.constant(outer))
            layout = op.constant(inner)
        elif outer == 1:
            axes.append(op.constant(1))
        elif (units := op.unscale(layout, inner)) is not None:
            axes.append(units)
            layout = op.constant(inner)
        elif op.outer_first(key) and op.coarsen(layout, inner):
            axes.append(op.unscale(layout, inner) or op.constant(outer))
            op.chose_outer(key, axes[-1])
            layout = op.constant(inner)
        else:
            layout = op.periodic(layout, outer)
            axes.append(op.constant(outer))
            op.chose_inner(key, layout)
    return axes
