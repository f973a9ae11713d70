"""How the tensors of a sub-network come from those of the whole: what an artifact has to know to make them again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from slimmable.core.elastic import attached
from slimmable.core.extract import Fold, Gain, extracted, unhooked
from slimmable.core.slots import StatisticSlot, TensorSlot
from slimmable.core.space import Widths
from slimmable.core.state import State
from slimmable.runtime.manifest import Dim, Part

_COUNTER = "num_batches_tracked"


@dataclass(frozen=True, kw_only=True)
class Dissected:
    """A network taken apart at several widths.

    Attributes:
        parts: How each tensor of a sub-network is made.
        sources: The full tensors.
        networks: The sub-network of each width, batch norm folded, in evaluation mode.
        gains: For each width what its layers were multiplied with, by path.
    """

    parts: tuple[Part, ...]
    sources: dict[str, Tensor]
    networks: tuple[nn.Module, ...]
    gains: tuple[dict[str, Gain], ...]


def dissected(
    model: nn.Module,
    state: State,
    folds: Sequence[Fold],
    widths_list: Sequence[Widths],
    *,
    rounding: torch.dtype | None = None,
) -> Dissected:
    """A network taken apart (see :meth:`slimmable.SlimmableModel.dissect`)."""
    networks: list[nn.Module] = []
    gains: list[dict[str, Gain]] = []
    before, folds = state.widths, unhooked(model, folds)
    try:
        for widths in widths_list:
            state.set(widths)
            plain, its = extracted(model, state, folds, rounding=rounding)
            networks.append(plain.eval())
            gains.append(its)
    finally:
        state.set(before)
    scaled = {path: gain.dim for its in gains for path, gain in its.items()}
    found = list(_parts(model, state, scaled, {fold.layer: fold.norm for fold in folds}))
    return Dissected(
        parts=tuple(part for part, _ in found),
        sources={part.source: full.detach() for part, full in found if part.source and full is not None},
        networks=tuple(networks),
        gains=tuple(gains),
    )


def _parts(
    model: nn.Module, state: State, scaled: Mapping[str, int], folds: Mapping[str, str]
) -> Iterator[tuple[Part, Tensor | None]]:
    """Every part with its full tensor; a tensor under two names once."""
    folded = set(folds.values())
    seen: set[int] = set()
    for path, module in model.named_modules():
        if path in folded:
            continue
        own = attached(module)
        slots = own.slots if own else {}
        for name, full in [*module._parameters.items(), *module._buffers.items()]:
            if name == _COUNTER or (full is not None and id(full) in seen):
                continue
            if full is not None:
                seen.add(id(full))
            slot = state.slots[slots[name]] if name in slots else None
            whole = f"{path}.{name}".lstrip(".")
            if name == "bias" and path in scaled:
                if full is not None or path in folds:
                    yield Part(name=whole, source=None, shape=(_output(module, state, scaled[path]),)), None
            elif isinstance(slot, StatisticSlot):
                yield Part(name=whole, source=None, shape=(_channels(state, slot.layer),)), None
            elif isinstance(slot, TensorSlot) and slot.norm is not None and full is None:
                yield Part(name=whole, source=None, shape=(_channels(state, slot.norm[0]),)), None
            elif full is not None:
                scale = scaled[path] if name == "weight" and path in scaled else None
                moving = slot.moving if isinstance(slot, TensorSlot) else ()
                yield Part(name=whole, source=whole, moving=moving, scale=scale, shape=tuple(full.shape)), full


def _channels(state: State, layer: int) -> Dim:
    axis = state.norm_layers[layer].axis
    return axis if axis.varies else axis.size(state.maximum)


def _output(module: nn.Module, state: State, dim: int) -> Dim:
    """Output channels of a layer."""
    own = attached(module)
    slot = state.slots[own.slots["weight"]] if own and "weight" in own.slots else None
    moving = dict(slot.moving) if isinstance(slot, TensorSlot) else {}
    if dim in moving:
        return moving[dim]
    weight = module._parameters["weight"]
    assert weight is not None
    return weight.shape[dim]
