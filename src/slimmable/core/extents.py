"""Whole-number arguments of operators that are sizes of axes: what they are at other widths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import fx

from slimmable.core.analysis import Analysis
from slimmable.core.layout import Layout
from slimmable.core.operators import Axes, Extent
from slimmable.core.trace import Call, shapes_of

Extents = Mapping[tuple[str, int | None], Extent]
"""By the argument's name, and the place in it if it is a list."""

_SHAPES = {
    "view": "size",
    "_unsafe_view": "size",
    "reshape": "shape",
    "expand": "size",
    "broadcast_to": "size",
    "new_zeros": "size",
    "new_ones": "size",
    "new_full": "size",
    "new_empty": "size",
}
"""Operators with an argument that is the output's shape."""


def extents_of(call: Call, analysis: Analysis) -> Extents:
    """Arguments of a call that follow an axis which may vary, by the layouts of the tensors around it."""
    found = {
        key: extent
        for key, extent in _candidates(call, analysis)
        if any(block.var is not None for block in extent.layout)
    }
    return {key: extent for key, extent in found.items() if _number(call, key) not in (None, -1)}


def _number(call: Call, key: tuple[str, int | None]) -> int | None:
    value = call.values.get(key[0])
    if key[1] is not None:
        value = value[key[1]] if isinstance(value, list | tuple) and key[1] < len(value) else None
    return value if isinstance(value, int) else None


def _candidates(call: Call, analysis: Analysis) -> Iterator[tuple[tuple[str, int | None], Extent]]:
    family = call.name.removeprefix("aten.").partition(".")[0]
    outputs = analysis.tensors[call.node]
    if family in _SHAPES:
        yield from _each(_SHAPES[family], outputs[0])
    elif family == "unflatten":
        first = call.values["dim"] % len(_axes(call, "self", analysis))
        yield from _each("sizes", outputs[0][first : first + len(call.values["sizes"])])
    elif family in ("split", "unsafe_split", "split_with_sizes"):
        dim = call.values["dim"] % len(outputs[0])
        name = "split_size" if "split_size" in call.values else "split_sizes"
        its = tuple(axes[dim] for axes in outputs)
        yield from ([((name, None), Extent(layout=its[0]))] if name == "split_size" else _each(name, its))
    elif family in ("slice", "narrow"):
        yield from _slice(call, analysis)
    elif family in ("layer_norm", "rms_norm"):
        yield from _each("normalized_shape", outputs[0][-len(call.values["normalized_shape"]) :])
    elif family.startswith("conv"):
        yield from _convolution(call, analysis)
    elif family == "group_norm":
        for extent in analysis.attributes.get((call.module, "num_groups"), ()):
            yield ("num_groups", None), extent


def _each(name: str, layouts: Axes) -> Iterator[tuple[tuple[str, int | None], Extent]]:
    return (((name, place), Extent(layout=layout)) for place, layout in enumerate(layouts))


def _axes(call: Call, name: str, analysis: Analysis) -> Axes:
    node = call.values[name]
    return analysis.tensors[node][0] if isinstance(node, fx.Node) else ()


def _slice(call: Call, analysis: Analysis) -> Iterator[tuple[tuple[str, int | None], Extent]]:
    """Where a slice begins is in the findings; it ends an output's axis later."""
    x = _axes(call, "self", analysis)
    dim = (call.values["dim"] or 0) % len(x)
    kept = analysis.tensors[call.node][0][dim]
    before: Layout = analysis.expected.get((call.node, "start"), ())
    if kept == x[dim]:
        return
    if before:
        yield ("start", None), Extent(layout=before)
    if "length" in call.values:
        yield ("length", None), Extent(layout=kept)
    else:
        yield ("end", None), Extent(layout=(*before, *kept))


def _convolution(call: Call, analysis: Analysis) -> Iterator[tuple[tuple[str, int | None], Extent]]:
    """As many groups as channels; other numbers where the analysis says that they vary."""
    weight, x = call.values["weight"], call.values["input"]
    channel = len(shapes_of(x)[0]) - len(shapes_of(weight)[0]) + 1
    groups = call.values["groups"]
    if groups > 1 and groups == shapes_of(x)[0][channel]:
        yield ("groups", None), Extent(layout=_axes(call, "input", analysis)[channel])
    elif groups > 1:
        for extent in analysis.attributes.get((call.module, "groups"), ()):
            yield ("groups", None), extent
