"""A sub-network as plain modules: the network's own classes, contiguous weights of the active size, nothing of ours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

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


def extract(model: nn.Module, state: State, folds: Sequence[Fold] | None) -> nn.Module:
    """``model`` at the active widths of ``state`` (see :meth:`slimmable.SlimmableModel.extract`)."""
    state.refresh()
    if state.norm_layers:
        state.require_statistics()
        state.require_current()
    memo: dict[int, Any] = {id(state): None}
    with torch.no_grad():
        for module in model.modules():
            _copy_active_tensors(module, state, memo)
        try:
            plain = copied(model, memo)
        except Exception as error:
            raise ExtractionError(
                f"the network cannot be copied: {error}; extract needs copy.deepcopy to work on it"
            ) from error
        for module in list(plain.modules()):
            _settle(module, state)
        if folds is not None:
            plain.eval()
            for layer, norm in folds:
                _fold(plain, layer, norm)
    return plain


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


def _settle(module: nn.Module, state: State) -> None:
    """Give a copied module its own class, sizes and statistics."""
    slots = make_plain(module)
    scale = 1.0
    for name, index in slots.items():
        slot, value = state.slots[index], state.active[index]
        if isinstance(slot, SizeSlot):
            setattr(module, name, value)
        elif isinstance(slot, StatisticSlot):
            module._buffers[name] = None if value is None else value.detach().clone()
        elif name == SCALE:
            scale = value
        elif isinstance(slot, TensorSlot) and slot.norm is not None and module._parameters.get(name) is None:
            module._parameters[name] = nn.Parameter(value.detach().clone(), requires_grad=value.requires_grad)
    if scale != 1:
        for name in ("weight", "bias"):
            if (parameter := module._parameters.get(name)) is not None:
                scaled = nn.Parameter(parameter * scale, requires_grad=parameter.requires_grad)
                module._parameters[name] = scaled  # a new one: others may share the old


def _fold(model: nn.Module, layer_path: str, norm_path: str) -> None:
    """Merge a batch norm into the layer before it and put an identity in its place."""
    layer, norm = model.get_submodule(layer_path), model.get_submodule(norm_path)
    weight, bias = layer._parameters["weight"], layer._parameters.get("bias")
    assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
    assert weight is not None
    assert norm.running_mean is not None
    assert norm.running_var is not None
    mean, variance, gain, shift = map(_double, (norm.running_mean, norm.running_var, norm.weight, norm.bias))
    old, old_bias = _double(weight), _double(bias)  # folded in double precision, rounded once
    if isinstance(layer, nn.Linear):
        folded = fuse_linear_bn_weights(old, old_bias, mean, variance, norm.eps, gain, shift)
    else:
        transposed = isinstance(layer, nn.modules.conv._ConvTransposeNd)
        folded = fuse_conv_bn_weights(old, old_bias, mean, variance, norm.eps, gain, shift, transpose=transposed)
    for name, tensor in zip(("weight", "bias"), folded, strict=True):
        parameter = nn.Parameter(tensor.detach().to(weight.dtype), requires_grad=weight.requires_grad)
        layer.register_parameter(name, parameter)
    parent, _, name = norm_path.rpartition(".")
    setattr(model.get_submodule(parent), name, nn.Identity())


def _double(tensor: Tensor | None) -> Any:
    return None if tensor is None else tensor.detach().double()
