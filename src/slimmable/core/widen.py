"""Parameters larger than those a network came with, for widths above 1."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from slimmable.core.axes import Axis
from slimmable.core.slots import memory_format


def widen(
    model: nn.Module,
    axes: Mapping[str, tuple[Axis, ...]],
    given: Sequence[int],
    maximum: Sequence[int],
    gains: Collection[str],
) -> None:
    """Replace every tensor whose axes have grown by a larger one.

    It holds the old values where the given width reads them. New entries of matrices and kernels are drawn from a
    normal distribution with the standard deviation of the old ones; new gains and variances are 1, other new vectors 0.
    Draws come from torch's global generator.

    Args:
        model: The network, changed in place.
        axes: Axes of its tensors by name.
        given: Channels of each group in the network as it is.
        maximum: Channels of each group at full width.
        gains: Names of tensors whose neutral value is 1.
    """
    names_of: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is not None:
                names_of.setdefault(id(tensor), []).append((module, name))
    full = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    for name, its in axes.items():
        old = full[name]
        shape = tuple(axis.size(maximum) for axis in its)
        if shape == tuple(old.shape):
            continue
        new = _grown(old.detach(), its, shape, given, maximum, 1.0 if name in gains else 0.0)
        for module, own in names_of[id(old)]:
            if isinstance(old, nn.Parameter):
                module._parameters[own] = nn.Parameter(new, requires_grad=old.requires_grad)
            else:
                module._buffers[own] = new


def _grown(
    old: Tensor, axes: Sequence[Axis], shape: Sequence[int], given: Sequence[int], maximum: Sequence[int], fill: float
) -> Tensor:
    new = torch.full(tuple(shape), fill, dtype=old.dtype, device=old.device)
    if old.ndim > 1 and old.is_floating_point() and not old.is_meta:
        new.normal_(0.0, float(old.std()) if old.numel() > 1 else 1.0)
    if old.is_meta:
        return new.contiguous(memory_format=memory_format(old))
    places = []
    for axis in axes:
        runs = axis.active(given, maximum)
        places.append(torch.cat([torch.arange(start, start + length) for start, length in runs]))
    new[torch.meshgrid(*places, indexing="ij")] = old
    return new.contiguous(memory_format=memory_format(old))
