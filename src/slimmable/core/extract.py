"""A sub-network as plain modules: the network's own classes, contiguous weights of the active size, nothing of ours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from slimmable.core.elastic import SCALE, attached, make_plain
from slimmable.core.slots import SizeSlot, StatisticSlot, TensorSlot, memory_format
from slimmable.core.state import State
from slimmable.core.trace import Call, Trace
from slimmable.core.twins import copied
from slimmable.errors import ExtractionError

Fold = tuple[str, str]
"""Paths of a convolution or linear layer and of the batch norm that alone reads its output."""


def foldable(trace: Trace, model: nn.Module) -> list[Fold]:
    """Layers whose output only a plain batch norm reads, each called once."""
    called = Counter((call.module, _family(call)) for call in trace.calls)
    found: list[Fold] = []
    for call in trace.calls:
        source = call.values.get("input")
        if not call.name.startswith("aten.batch_norm") or not isinstance(source, fx.Node) or len(source.users) != 1:
            continue
        before = next((other for other in trace.calls if other.node is source), None)
        if before is None or called[call.module, _family(call)] > 1 or called[before.module, _family(before)] > 1:
            continue
        layer, norm = model.get_submodule(before.module), model.get_submodule(call.module)
        weight = before.values.get("weight")
        own = isinstance(weight, fx.Node) and trace.parameters.get(weight) == f"{before.module}.weight"
        if isinstance(weight, fx.Node) and len(weight.users) > 1:  # one layer under two names
            continue
        if own and type(norm) in _NORMS and _takes(layer, before):
            found.append((before.module, call.module))
    return found


def _family(call: Call) -> str:
    return call.name.removeprefix("aten.").partition(".")[0]


_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def _takes(layer: nn.Module, call: Call) -> bool:
    """Whether a layer can take over the gain and shift of the batch norm behind it."""
    if isinstance(layer, nn.Linear):
        return len(call.outputs[0]) == 2
    if isinstance(layer, nn.modules.conv._ConvTransposeNd):
        return layer.groups == 1
    return isinstance(layer, nn.modules.conv._ConvNd)


@dataclass(frozen=True)
class Gain:
    """What a layer takes over from the batch norm behind it: factors and shifts of its output channels.

    The layer's weight is multiplied with ``scale`` along ``dim``; ``bias`` takes the place of its own.
    """

    scale: Tensor
    bias: Tensor
    dim: int


def extract(model: nn.Module, state: State, folds: Sequence[Fold] | None) -> nn.Module:
    """``model`` at the active widths of ``state`` (see :meth:`slimmable.SlimmableModel.extract`)."""
    return extracted(model, state, folds)[0]


def extracted(
    model: nn.Module, state: State, folds: Sequence[Fold] | None, *, rounding: torch.dtype | None = None
) -> tuple[nn.Module, dict[str, Gain]]:
    """``model`` at the active widths of ``state``, and what each layer was multiplied with, by its path.

    Args:
        model: The network.
        state: Of its widths.
        folds: Batch norms to merge into the layers before them; None merges none.
        rounding: The type to which gains and shifts are rounded; that of the weights if None.
    """
    state.refresh()
    if state.norm_layers:
        state.require_statistics()
        state.require_current()
    memo: dict[int, Any] = {id(state): None}
    gains: dict[str, Gain] = {}
    with torch.no_grad():
        for module in model.modules():
            _copy_active_tensors(module, state, memo)
        try:
            plain = copied(model, memo)
        except Exception as error:
            raise ExtractionError(
                f"the network cannot be copied: {error}; extract needs copy.deepcopy to work on it"
            ) from error
        factors = {path: _settle(module, state) for path, module in list(plain.named_modules())}
        norms = dict(folds or ())
        for path, factor in factors.items():
            layer = plain.get_submodule(path)
            if path in norms:
                gain = _gain(layer, plain.get_submodule(norms[path]), factor)
                gains[path] = _rounded(gain, layer, rounding)
            elif factor != 1:
                gains[path] = _constant(layer, factor)
        for path, gain in gains.items():
            _multiply(plain.get_submodule(path), gain)
        for norm in norms.values():
            parent, _, name = norm.rpartition(".")
            setattr(plain.get_submodule(parent), name, nn.Identity())
        if folds is not None:
            plain.eval()
    return plain, gains


def _copy_active_tensors(module: nn.Module, state: State, memo: dict[int, Any]) -> None:
    """Note in ``memo`` the copy of every elastic tensor, so that the full one is never copied."""
    own = attached(module)
    for name, index in (own.slots if own else {}).items():
        slot = state.slots[index]
        if not isinstance(slot, TensorSlot):
            continue
        full = module._parameters.get(name)
        full = module._buffers.get(name) if full is None else full
        if full is None:
            continue
        value = state.active[index]
        value = state.sliced(index) if value is None else value
        assert value is not None
        kept = value.detach().clone(memory_format=memory_format(full))
        memo[id(full)] = (
            nn.Parameter(kept, requires_grad=full.requires_grad) if isinstance(full, nn.Parameter) else kept
        )


def _settle(module: nn.Module, state: State) -> float:
    """Give a copied module its own class, sizes and statistics; the factor that its output is to have."""
    slots = make_plain(module)
    factor = 1.0
    for name, index in slots.items():
        slot, value = state.slots[index], state.active[index]
        if isinstance(slot, SizeSlot):
            setattr(module, name, value)
        elif isinstance(slot, StatisticSlot):
            module._buffers[name] = None if value is None else value.detach().clone()
        elif name == SCALE:
            factor = value
        elif isinstance(slot, TensorSlot) and slot.norm is not None and module._parameters.get(name) is None:
            module._parameters[name] = nn.Parameter(value.detach().clone(), requires_grad=value.requires_grad)
    return factor


def _gain(layer: nn.Module, norm: nn.Module, factor: float) -> Gain:
    r"""A batch norm, and a factor before it, as a gain of the layer; in double precision.

    For :math:`y = \gamma (f (W x + b) - \mu) / \sqrt{v + \epsilon} + \beta` the gain is
    :math:`s = f \gamma / \sqrt{v + \epsilon}` and the bias :math:`\beta + (f b - \mu) s / f`.
    """
    assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.detach().double()
    bias = layer._parameters.get("bias")
    shift = -norm.running_mean.double() if bias is None else factor * bias.detach().double() - norm.running_mean
    shift = shift * scale
    if norm.bias is not None:
        shift = shift + norm.bias.detach().double()
    return Gain(scale * factor, shift, _output_dim(layer))


def _constant(layer: nn.Module, factor: float) -> Gain:
    """A factor of the whole output."""
    weight, bias = layer._parameters["weight"], layer._parameters.get("bias")
    assert weight is not None
    dim = _output_dim(layer)
    size = weight.shape[dim]
    return Gain(weight.new_full((size,), factor), weight.new_zeros(0) if bias is None else bias * factor, dim)


def _rounded(gain: Gain, layer: nn.Module, rounding: torch.dtype | None) -> Gain:
    weight = layer._parameters["weight"]
    assert weight is not None
    scale, bias = gain.scale, gain.bias
    if rounding is not None:
        scale, bias = scale.to(rounding), bias.to(rounding)
    return Gain(scale.to(weight.dtype), bias.to(weight.dtype), gain.dim)


def _multiply(layer: nn.Module, gain: Gain) -> None:
    """Let a layer take over a gain; its parameters become new ones, since others may share the old."""
    weight = layer._parameters["weight"]
    assert weight is not None
    scale = gain.scale.reshape([-1 if dim == gain.dim else 1 for dim in range(weight.ndim)])
    trains = weight.requires_grad
    layer.register_parameter("weight", nn.Parameter(weight.detach() * scale, requires_grad=trains))
    if gain.bias.numel():
        layer.register_parameter("bias", nn.Parameter(gain.bias.detach(), requires_grad=trains))


def _output_dim(layer: nn.Module) -> int:
    return 1 if isinstance(layer, nn.modules.conv._ConvTransposeNd) else 0
