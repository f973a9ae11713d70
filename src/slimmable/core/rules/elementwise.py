"""Rules of operators that keep every axis: element-wise functions with broadcasting, poolings, reductions, casts."""

from __future__ import annotations

from torch import fx

from slimmable.core.operators import Axes, Operator, operator_rule


@operator_rule(
    "pointwise",
    "aten.hardswish",
    "aten.hardswish_",
    "aten.detach",
    "aten.detach_",
    "aten.alias",
    "aten.lift_fresh_copy",
    "aten.contiguous",
    "aten.to",
    "aten._to_copy",
    "aten.type_as",
    "aten.masked_fill",
    "aten.masked_fill_",
    "aten.empty_like",
    "aten.zeros_like",
    "aten.ones_like",
    "aten.full_like",
    "aten.copy_",
    "aten.zero_",
    "aten.fill_",
    "aten.softmax",
    "aten._softmax",
    "aten.log_softmax",
    "aten.float",
)
def elementwise(op: Operator) -> Axes:
    """Axes that meet must agree; an axis of size one is stretched."""
    return _meeting(op)


def _meeting(op: Operator) -> Axes:
    operands = [
        name for name, value in op.call.values.items() if isinstance(value, fx.Node) and name not in ("out", "dtype")
    ]
    return op.broadcast([op.axes(name) for name in operands], op.output_shape)


@operator_rule(
    "aten.dropout",
    "aten.dropout_",
    "aten.feature_dropout",
    "aten.feature_dropout_",
    "aten.alpha_dropout",
    "aten.bernoulli",
    "aten.bernoulli_",
    "aten.rand_like",
    "aten.randn_like",
)
def drawn(op: Operator) -> Axes:
    """As element-wise functions; what is drawn in evaluation too depends on the position."""
    axes = _meeting(op)
    if not op.training and op.value("train") is not False:
        for layout in axes:
            op.order_matters(layout, "positions meet random draws, each its own")
    return axes


@operator_rule("aten.cumsum")
def cumulative(op: Operator) -> Axes:
    """A position holds the sum of all before it."""
    axes = _meeting(op)
    op.order_matters(axes[op.dimension("dim", len(axes))], "positions are summed up in their order")
    return axes


@operator_rule(
    "aten.max_pool1d",
    "aten.max_pool2d",
    "aten.max_pool3d",
    "aten.avg_pool1d",
    "aten.avg_pool2d",
    "aten.avg_pool3d",
    "aten.adaptive_avg_pool1d",
    "aten.adaptive_avg_pool2d",
    "aten.adaptive_avg_pool3d",
    "aten.adaptive_max_pool2d",
    "aten.lp_pool2d",
    "aten.upsample_nearest1d",
    "aten.upsample_nearest2d",
    "aten.upsample_nearest3d",
    "aten.upsample_bilinear2d",
    "aten.upsample_bicubic2d",
    "aten.upsample_linear1d",
    "aten.upsample_trilinear3d",
    "aten._upsample_nearest_exact2d",
    "aten.reflection_pad1d",
    "aten.reflection_pad2d",
    "aten.replication_pad2d",
)
def spatial(op: Operator) -> Axes | list[Axes]:
    """Channels pass; the axes whose size changes are spatial."""
    x = op.axes("self") or op.axes("input")
    for layout, size in zip(x[-_dimensions(op) :], op.output_shape[-_dimensions(op) :], strict=True):
        pooled = op.name.startswith("aten.adaptive") and size == 1 and not _finds_positions(op)
        if not pooled:  # into one: the mean, or the maximum, of all positions
            op.order_matters(layout, "neighbouring positions meet")
    kept = tuple(
        layout if op.size(layout) == size else op.constant(size)
        for layout, size in zip(x, op.output_shape, strict=True)
    )
    return [kept] * len(op.call.outputs) if len(op.call.outputs) > 1 else kept


def _dimensions(op: Operator) -> int:
    """Spatial axes of a pooling: the figure in its name."""
    return next(int(figure) for figure in op.name if figure.isdigit())


@operator_rule(
    "aten.mean",
    "aten.sum",
    "aten.amax",
    "aten.amin",
    "aten.var",
    "aten.std",
    "aten.max",
    "aten.min",
    "aten.argmax",
    "aten.argmin",
    "aten.logsumexp",
    "aten.prod",
    "aten.any",
    "aten.all",
    "aten.norm",
    "aten.linalg_vector_norm",
)
def reduction(op: Operator) -> Axes | list[Axes]:
    """Reduced axes vanish (or keep one position); over a width, the function of the active channels remains."""
    x = op.axes("self") or op.axes("input")
    if op.value("other") is not None:
        return _meeting(op)
    given = op.value("dim")
    dims = range(len(x)) if given is None or given == [] else [given] if isinstance(given, int) else given
    reduced = {dim % len(x) for dim in dims} if x else set()
    if _finds_positions(op):
        for dim in reduced:
            op.order_matters(x[dim], "the position of an extreme value is found")
    keep = bool(op.value("keepdim"))
    axes = tuple(op.constant(1) if i in reduced else layout for i, layout in enumerate(x) if keep or i not in reduced)
    return [axes] * len(op.call.outputs)


def _finds_positions(op: Operator) -> bool:
    """Whether the outcome says where something is: the second output of a maximum, if it is read."""
    if op.name.startswith(("aten.argmax", "aten.argmin")):
        return True
    return len(op.call.outputs) > 1 and any(user.args[1:] == (1,) and user.users for user in op.call.node.users)


@operator_rule("aten._assert_tensor_metadata", "aten._assert_async", "aten.sym_size", "aten.sym_numel")
def nothing(op: Operator) -> list[Axes]:
    """A check, or a size: no tensor comes out."""
    return []


@operator_rule("aten.new_zeros", "aten.new_ones", "aten.new_full", "aten.new_empty")
def created(op: Operator) -> Axes:
    """A tensor of a size that the code gives; only type and device are those of the argument."""
    return op.constants()
