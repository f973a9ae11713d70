"""Rules of the operators that own weights: convolution, linear layers, matrix products, attention and normalisation."""

from __future__ import annotations

from slimmable.core.layout import Layout
from slimmable.core.operators import Axes, Operator, operator_rule, positions


@operator_rule("aten.conv1d", "aten.conv2d", "aten.conv3d")
def convolution(op: Operator) -> Axes:
    """Open a group on the output.

    A depthwise convolution hands its input's group on; a grouped one slices inside each group.
    """
    x, weight, groups = op.axes("input"), op.axes("weight"), int(op.value("groups"))
    shape, kernel = op.output_shape, op.shape("weight")[2:]
    batched = x[: -1 - len(kernel)]
    channels = x[len(batched)]
    op.fix(*weight[2:])
    if groups == 1:
        op.unify(weight[1], channels)
        op.open("weight", 0)
        op.attribute("in_channels", weight[1])
    elif groups == op.size(channels):
        multiplier = op.size(weight[0]) // groups
        op.unify(weight[0], op.scale(channels, multiplier))
        op.attribute("in_channels", channels)
        op.attribute("groups", channels)
    else:
        op.unify(weight[1], op.periodic(channels, groups))
        op.periodic(weight[0], groups)
        op.open("weight", 0)
        op.attribute("in_channels", weight[1], multiply=groups)
    op.attribute("out_channels", weight[0])
    _unify_bias(op, weight[0])
    spatial = shape[len(batched) + 1 :]
    op.count_macs(positions(shape[: len(batched)]) * positions(spatial) * positions(kernel), weight[0], weight[1])
    return (*batched, weight[0], *op.constants(spatial))


@operator_rule("aten.conv_transpose1d", "aten.conv_transpose2d", "aten.conv_transpose3d")
def transposed_convolution(op: Operator) -> Axes:
    """As a convolution, with the weight's first two axes in the other order."""
    x, weight, groups = op.axes("input"), op.axes("weight"), int(op.value("groups"))
    shape, kernel = op.output_shape, op.shape("weight")[2:]
    batched = x[: -1 - len(kernel)]
    channels = x[len(batched)]
    op.fix(*weight[2:])
    op.unify(weight[0], channels)
    if groups == 1:
        produced = weight[1]
        op.open("weight", 1)
    elif groups == op.size(channels):
        op.fix(weight[1])
        produced = op.scale(channels, op.size(weight[1]))
        op.attribute("groups", channels)
    else:
        op.periodic(weight[0], groups)
        produced = weight[1] * groups
        op.open("weight", 1)
    op.attribute("in_channels", channels)
    op.attribute("out_channels", produced)
    _unify_bias(op, produced)
    spatial = op.shape("input")[len(batched) + 1 :]
    op.count_macs(positions(shape[: len(batched)]) * positions(spatial) * positions(kernel), weight[0], weight[1])
    return (*batched, produced, *op.constants(shape[len(batched) + 1 :]))


@operator_rule("aten.linear")
def linear(op: Operator) -> Axes:
    """Open a group on the output features."""
    x, weight = op.axes("input"), op.axes("weight")
    op.unify(weight[1], x[-1])
    op.open("weight", 0)
    op.attribute("in_features", weight[1])
    op.attribute("out_features", weight[0])
    _unify_bias(op, weight[0])
    op.count_macs(1, *x[:-1], weight[0], weight[1])
    return (*x[:-1], weight[0])


def _unify_bias(op: Operator, channels: Layout) -> None:
    for bias in op.axes("bias"):
        op.unify(bias, channels)


@operator_rule("aten.matmul", "aten.mm", "aten.bmm")
def matrix_product(op: Operator) -> Axes:
    """The contracted axes agree; batch axes broadcast."""
    second = "other" if op.value("other") is not None else "mat2"
    a, b = op.axes("self"), op.axes(second)
    op.unify(a[-1], b[max(len(b) - 2, 0)])
    rows, columns = a[:-1][-1:], b[-1:] if len(b) > 1 else ()
    batch = op.broadcast([a[:-2], b[:-2]], op.output_shape[: max(len(a), len(b)) - 2])
    op.count_macs(1, *batch, *rows, *columns, a[-1])
    return (*batch, *rows, *columns)


@operator_rule("aten.addmm", "aten.baddbmm")
def matrix_product_with_sum(op: Operator) -> Axes:
    """A matrix product, and an element-wise sum with the first argument."""
    first, second = ("mat1", "mat2") if op.value("mat1") is not None else ("batch1", "batch2")
    a, b = op.axes(first), op.axes(second)
    op.unify(a[-1], b[-2])
    product = (*op.broadcast([a[:-2], b[:-2]], op.output_shape[:-2]), a[-2], b[-1])
    op.count_macs(1, *product, a[-1])
    return op.broadcast([product, op.axes("self")], op.output_shape)


@operator_rule("aten.scaled_dot_product_attention")
def attention(op: Operator) -> Axes:
    """Heads and the width of the values may vary; the width of query and key sets the softmax's scale and may not."""
    query, key, value = op.axes("query"), op.axes("key"), op.axes("value")
    op.pin([query[-1], key[-1]], "the width of a head sets the scale of the attention")
    op.unify(key[-2], value[-2])
    batch = op.broadcast([query[:-2], key[:-2], value[:-2]], op.output_shape[:-2])
    if op.value("is_causal"):
        for layout in (query[-2], key[-2]):
            op.order_matters(layout, "positions see those before them")
    if op.value("dropout_p") and not op.training:
        for layout in (*batch, query[-2], key[-2]):
            op.order_matters(layout, "positions meet random draws, each its own")
    if mask := op.axes("attn_mask"):
        scores = (*op.output_shape[:-1], op.shape("key")[-2])
        op.broadcast([mask, (*batch, query[-2], key[-2])], scores)
    op.count_macs(1, *batch, query[-2], key[-2], query[-1])
    op.count_macs(1, *batch, query[-2], key[-2], value[-1])
    return (*batch, query[-2], value[-1])


@operator_rule("aten.embedding")
def embedding(op: Operator) -> Axes:
    """Open a group on the embedding; the vocabulary does not vary."""
    weight = op.axes("weight")
    op.fix(weight[0])
    op.open("weight", 1)
    op.attribute("embedding_dim", weight[1])
    return (*op.axes("indices"), weight[1])


@operator_rule("aten.batch_norm", "aten.instance_norm")
def batch_norm(op: Operator) -> Axes:
    """One gain, shift, mean and variance per channel."""
    x = op.axes("input")
    for name in ("weight", "bias", "running_mean", "running_var"):
        if axes := op.axes(name):
            op.unify(axes[0], x[1])
    op.attribute("num_features", x[1])
    op.normalises("running_mean", "running_var")
    return x


@operator_rule("aten.layer_norm", "aten.rms_norm")
def layer_norm(op: Operator) -> Axes:
    """Moments over the active channels, which the last axes hold."""
    x, count = op.axes("input"), len(op.value("normalized_shape"))
    for name in ("weight", "bias"):
        for parameter, axis in zip(op.axes(name), x[-count:], strict=False):
            op.unify(parameter, axis)
    op.attribute("normalized_shape", *x[-count:])
    return x


@operator_rule("aten.group_norm")
def group_norm(op: Operator) -> Axes:
    """As many channels in each group of the norm; the number of groups stays."""
    x = op.axes("input")
    op.periodic(x[1], int(op.value("num_groups")))
    for name in ("weight", "bias"):
        if axes := op.axes(name):
            op.unify(axes[0], x[1])
    op.attribute("num_channels", x[1])
    return x


@operator_rule("aten.prelu", "aten._prelu_kernel")
def prelu(op: Operator) -> Axes:
    """One slope per channel, or one for all."""
    x, slope = op.axes("self"), op.axes("weight")
    for axis in slope:  # of shape (C,), or stretched to (1, C, 1, 1) by the kernel
        if len(x) > 1 and op.size(axis) == op.size(x[1]):
            op.unify(axis, x[1])
            op.attribute("num_parameters", x[1])
    return x
