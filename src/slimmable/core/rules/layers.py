"""Rules of the operators that own weights: convolution, linear layers, embedding and normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
    spatial = _spatial(op, x[len(batched) + 1 :], shape[len(batched) + 1 :])
    op.count_macs(positions(shape[: len(batched)]) * positions(kernel), weight[0], weight[1], *spatial)
    return (*batched, weight[0], *spatial)


def _spatial(op: Operator, axes: Axes, shape: Sequence[int]) -> Axes:
    """Axes over which a convolution slides: one that varies (efficient channel attention) may if its size stays."""
    found: list[Layout] = []
    for axis, size, stride in zip(axes, shape, _each(op.value("stride"), len(shape)), strict=True):
        if op.varies(axis) and stride == 1 and op.size(axis) == size:
            op.order_matters(axis, "a convolution slides over them")
            found.append(axis)
        else:
            op.pin([axis], "a convolution slides over it and changes its size")
            found.append(op.constant(size))
    return tuple(found)


def _each(value: Any, count: int) -> list[int]:
    """An option of a convolution for each spatial axis."""
    values = [value] if isinstance(value, int) else list(value)
    return values * count if len(values) == 1 else values


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


@operator_rule("aten._weight_norm", "aten._weight_norm_interface")
def weight_norm(op: Operator) -> Axes | list[Axes]:
    """A direction for each output, scaled to its own length."""
    direction, length = op.axes("v"), op.axes("g")
    op.broadcast([direction, length], op.shape("v"))
    return [direction, length] if len(op.call.outputs) > 1 else direction


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
    """Whole groups, where the module says how many there are; else as many channels in each group."""
    x, groups = op.axes("input"), int(op.value("num_groups"))
    channels = op.size(x[1]) // groups
    if groups > 1 and op.has("num_groups") and op.coarsen(x[1], channels):
        op.attribute("num_groups", x[1], divide=channels)
    else:
        op.periodic(x[1], groups)
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
