"""A sub-network as plain modules: the network's own classes, contiguous weights of the active size, nothing of ours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from slimmable.core.elastic import SCALE, attached, make_plain
from slimmable.core.program import Program
from slimmable.core.slots import SizeSlot, StatisticSlot, TensorSlot, memory_format
from slimmable.core.state import State
from slimmable.core.trace import Call, Trace
from slimmable.core.twins import copied
from slimmable.errors import ExtractionError


@dataclass(frozen=True, kw_only=True)
class Fold:
    """A convolution or linear layer and the batch norm that alone reads its output.

    Attributes:
        layer: Its path.
        norm: That of the batch norm.
        dim: The dimension of the layer's weight that is its output.
        eps: What the batch norm adds to variances.
    """

    layer: str
    norm: str
    dim: int
    eps: float


def foldable(trace: Trace, model: nn.Module) -> list[Fold]:
    """Layers whose output only a plain batch norm reads, each called once."""
    called = Counter((call.module, _family(call)) for call in trace.calls)
    calls = {call.node: call for call in trace.calls}
    found: list[Fold] = []
    for call in trace.calls:
        source = call.values.get("input")
        if not call.name.startswith("aten.batch_norm") or not isinstance(source, fx.Node) or len(source.users) != 1:
            continue
        before = calls.get(source)
        if before is None or called[call.module, _family(call)] > 1 or called[before.module, _family(before)] > 1:
            continue
        weight = before.values.get("weight")
        own = isinstance(weight, fx.Node) and trace.parameters.get(weight) == f"{before.module}.weight"
        if isinstance(weight, fx.Node) and len(weight.users) > 1:  # one layer under two names
            continue
        if own and _takes(before) and _simple(model, trace, before, call):
            dim = 1 if "transpose" in before.name else 0
            found.append(Fold(layer=before.module, norm=call.module, dim=dim, eps=call.values["eps"]))
    return found


def _family(call: Call) -> str:
    return call.name.removeprefix("aten.").partition(".")[0]


_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_LAYERS = (nn.Linear, nn.modules.conv._ConvNd)


def _takes(call: Call) -> bool:
    """Whether a layer can take over the gain and shift of the batch norm behind it."""
    family = _family(call)
    if family == "linear":
        return len(call.outputs[0]) == 2
    if family.startswith("conv_transpose"):
        return call.values.get("groups", 1) == 1
    return family in ("conv1d", "conv2d", "conv3d")


def _simple(model: nn.Module, trace: Trace, before: Call, call: Call) -> bool:
    """Whether both are no more than the operators they call, with tensors under the usual names."""
    if isinstance(model, Program):
        named = [(before, ("weight", "bias")), (call, ("weight", "bias", "running_mean", "running_var"))]
        tensors = ((each, name, each.values.get(name)) for each, names in named for name in names)
        own = (
            value is None or (isinstance(value, fx.Node) and trace.parameters.get(value) == f"{each.module}.{name}")
            for each, name, value in tensors
        )
        return all(own) and model.can_fold(call.module)
    layer, norm = model.get_submodule(before.module), model.get_submodule(call.module)
    return type(norm) in _NORMS and isinstance(layer, _LAYERS)


def unhooked(model: nn.Module, folds: Sequence[Fold]) -> list[Fold]:
    """Folds but for those of a layer or norm with a forward hook, which reads or changes what it takes or returns."""
    return [
        fold
        for fold in folds
        if not any(
            module._forward_hooks or module._forward_pre_hooks
            for module in (model.get_submodule(fold.layer), model.get_submodule(fold.norm))
        )
    ]


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
    return extracted(model, state, None if folds is None else unhooked(model, folds))[0]


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
        by_layer = {fold.layer: fold for fold in folds or ()}
        for path, factor in factors.items():
            layer = plain.get_submodule(path)
            if path in by_layer:
                fold = by_layer[path]
                gains[path] = _rounded(_gain(layer, plain.get_submodule(fold.norm), fold, factor), layer, rounding)
            elif factor != 1:
                gains[path] = _constant(layer, factor)
        for path, gain in gains.items():
            _multiply(plain.get_submodule(path), gain)
        for fold in by_layer.values():
            if isinstance(plain, Program):
                plain.fold(fold.layer, fold.norm)
            parent, _, name = fold.norm.rpartition(".")
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


def _gain(layer: nn.Module, norm: nn.Module, fold: Fold, factor: float) -> Gain:
    r"""A batch norm, and a factor before it, as a gain of the layer; in double precision.

    For :math:`y = \gamma (f (W x + b) - \mu) / \sqrt{v + \epsilon} + \beta` the gain is
    :math:`s = f \gamma / \sqrt{v + \epsilon}` and the bias :math:`\beta + (f b - \mu) s / f`.
    """
    mean, variance = (norm._buffers[name] for name in ("running_mean", "running_var"))
    assert mean is not None
    assert variance is not None
    weight, shift, bias = norm._parameters.get("weight"), norm._parameters.get("bias"), layer._parameters.get("bias")
    scale = (variance.double() + fold.eps).rsqrt()
    if weight is not None:
        scale = scale * weight.detach().double()
    offset = -mean.double() if bias is None else factor * bias.detach().double() - mean
    offset = offset * scale
    if shift is not None:
        offset = offset + shift.detach().double()
    return Gain(scale * factor, offset, fold.dim)


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
