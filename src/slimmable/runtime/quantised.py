r"""Layers whose weights are stored in eight bits, once for all widths.

A full, unfolded weight :math:`W` has one scale for each output channel, :math:`s_w`, and is stored as integers
:math:`Q \approx W / s_w`. What a width takes of it is a slice, which its batch norm multiplies by a scale :math:`f` for
each channel. So its weight is :math:`f s_w Q` without rounding anything again: the scale of a channel is
:math:`|f| s_w`, and its integers change their sign where :math:`f` is negative. A bias :math:`b` becomes integers of
scale :math:`s_x |f| s_w`, where :math:`s_x` is the scale of the layer's input at this width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_LARGEST_BIAS = 2.0**30
"""Integers of a bias stay below half of what 32 bits hold, so that a sum of products can be added."""


@dataclass(frozen=True, kw_only=True)
class QuantisedLayer:
    """How the graph of a width takes the tensors of a layer.

    Attributes:
        weight: Name of the weight: a part, whose first dimension is the output channels.
        bias: Name of the bias, if the layer has one.
        input_scale: Scale of the layer's input at this width.
        turned: Whether the graph takes the weight, a matrix, with input channels first.
    """

    weight: str
    bias: str | None
    input_scale: float
    turned: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tensors that the graph takes."""
        return tuple(
            f"{name}{suffix}" for name in (self.weight, self.bias) if name for suffix in ("", "#scale", "#zero")
        )


def quantise(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A full weight in eight bits, symmetric, with a scale for each output channel.

    Args:
        weight: Weight whose first dimension is the output channels, ``(O, ...)``, finite.

    Returns:
        Integers from -127 to 127, and float32 scales of shape ``(O,)``; a number and its integer times the scale differ
        by half a scale at most.

    >>> integers, scales = quantise(np.array([[1.0, -2.54], [0.0, 0.0]], np.float32))
    >>> integers.tolist(), scales.tolist() == [np.float32(0.02), 1.0]
    ([[50, -127], [0, 0]], True)
    """
    rows = weight.reshape(len(weight), -1).astype(np.float64)
    largest = np.abs(rows).max(axis=1, initial=0.0)
    scales = np.where(largest > 0, largest / 127, 1.0).astype(np.float32)
    integers = np.rint(rows / scales[:, None]).clip(-127, 127).astype(np.int8)
    return integers.reshape(weight.shape), scales


def layer_tensors(
    layer: QuantisedLayer,
    weight: np.ndarray,
    weight_scale: np.ndarray,
    *,
    scale: np.ndarray | None,
    bias: np.ndarray | None,
) -> dict[str, np.ndarray]:
    """Tensors that the graph of a width takes for a layer.

    Where a bias would not fit into 32 bits, or a channel's scale is zero, the channel gets the least scale with which
    it does; its weights, which are far smaller than the bias, are rounded again.

    Args:
        layer: The layer at this width.
        weight: Integers of the stored weight, sliced, ``(o, ...)``.
        weight_scale: Scales of these rows, ``(o,)``.
        scale: What batch norm multiplies each output channel by, ``(o,)``; None leaves them as they are.
        bias: The folded bias, ``(o,)``.

    Returns:
        Tensors by the names in :attr:`QuantisedLayer.names`.

    Cost:
        One copy of the weight where rows change their sign or are turned, none otherwise.
    """
    factor = np.ones(len(weight), np.float32) if scale is None else scale.astype(np.float32)
    wanted = weight_scale.astype(np.float32) * np.abs(factor)
    input_scale = np.float32(layer.input_scale)
    least = np.full(len(weight), 1e-20) if bias is None else np.abs(bias) / (_LARGEST_BIAS * input_scale) + 1e-20
    scales = np.maximum(wanted, least.astype(np.float32))
    integers = _changed(weight, np.where(factor < 0, -1.0, 1.0) * (wanted / scales))
    tensors = [(layer.weight, integers.T.copy() if layer.turned else integers, scales)]
    if layer.bias is not None and bias is not None:
        steps = input_scale * scales
        tensors.append((layer.bias, np.rint(bias / steps.astype(np.float64)).astype(np.int32), steps))
    return {
        name: array
        for part, values, steps in tensors
        for name, array in (
            (part, values),
            (f"{part}#scale", steps),
            (f"{part}#zero", np.zeros(len(steps), values.dtype)),
        )
    }


def _changed(weight: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Rows times factors between -1 and 1; the weight itself if all are 1."""
    rows = np.flatnonzero(factors != 1)
    if not rows.size:
        return weight
    changed = weight.copy()
    shape = (-1, *(1 for _ in weight.shape[1:]))
    changed[rows] = np.rint(weight[rows] * factors[rows].reshape(shape)).astype(np.int8)
    return changed
