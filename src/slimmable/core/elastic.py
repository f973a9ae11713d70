"""Modules whose parameters and sizes follow the active widths, without a line of their code changed.

A module becomes elastic by a change of class: a subclass of its own class, made on the fly, in which the names of its
elastic tensors and sizes are properties that read the active widths' values from a state shared by the network.
``forward``, whoever wrote it, then meets a module of the active size; ``state_dict``, ``parameters`` and ``.to`` go
on seeing the full tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from slimmable.errors import WidthError

if TYPE_CHECKING:
    from slimmable.core.state import State

ATTACHED = "_elastic"
"""Name under which an elastic module keeps its :class:`Attached`."""

SCALE = "output scale"
"""Slot name of the factor of ``averaged`` layers."""


@dataclass
class Attached:
    """What an elastic module knows: the network's state and the places of its values in it."""

    state: State
    original: type[nn.Module]
    slots: dict[str, int] = field(default_factory=dict)


def make_elastic(
    module: nn.Module, state: State, *, tensors: dict[str, int], statistics: dict[str, int], sizes: dict[str, int]
) -> None:
    """Change the class of ``module`` so that the named attributes are read from ``state``, each from its slot."""
    cls = type(module)
    module.__dict__[ATTACHED] = Attached(state, cls, {**tensors, **statistics, **sizes})
    module.__class__ = _elastic_class(cls, frozenset(tensors), frozenset(statistics), frozenset(sizes))


def make_plain(module: nn.Module) -> dict[str, int]:
    """Undo :func:`make_elastic`; the slots that the module had."""
    attached: Attached | None = module.__dict__.pop(ATTACHED, None)
    if attached is None:
        return {}
    module.__class__ = attached.original
    return attached.slots


def attached(module: nn.Module) -> Attached | None:
    """What makes a module elastic; None if it is not."""
    return module.__dict__.get(ATTACHED)


@cache
def _elastic_class(
    cls: type[nn.Module], tensors: frozenset[str], statistics: frozenset[str], sizes: frozenset[str]
) -> type[nn.Module]:
    members: dict[str, Any] = {"__module__": cls.__module__, "__doc__": cls.__doc__}
    members |= {name: property(_tensor(name)) for name in tensors}
    members |= {name: property(_statistic(name)) for name in statistics}
    members |= {name: property(_size(name)) for name in sizes - {SCALE}}
    members["__setattr__"] = _assigned(cls, tensors | statistics)
    if SCALE in sizes:
        members["forward"] = _scaled_forward(cls)
    return type(f"Slim{cls.__name__}", (cls,), members)


def _tensor(name: str) -> Callable[[nn.Module], Tensor | None]:
    def read(module: nn.Module) -> Tensor | None:
        own: Attached = module.__dict__[ATTACHED]
        state = own.state
        if state.shares_gradients:
            value = state.active[own.slots[name]]
        elif not torch.is_grad_enabled():
            value = state.dense[own.slots[name]]
        else:
            value = None
        return state.sliced(own.slots[name]) if value is None else value

    return read


def _statistic(name: str) -> Callable[[nn.Module], Tensor | None]:
    def read(module: nn.Module) -> Tensor | None:
        own: Attached = module.__dict__[ATTACHED]
        if not module.training:
            own.state.require_statistics()
        return own.state.active[own.slots[name]]

    return read


def _size(name: str) -> Callable[[nn.Module], int | tuple[int, ...]]:
    def read(module: nn.Module) -> int | tuple[int, ...]:
        own: Attached = module.__dict__[ATTACHED]
        return own.state.active[own.slots[name]]

    return read


def _assigned(cls: type[nn.Module], names: frozenset[str]) -> Callable[[nn.Module, str, Any], None]:
    """Let a full tensor be replaced by another full one only: what code computed at a narrow width is a part of it."""

    def assign(module: nn.Module, name: str, value: Any) -> None:
        if name not in names or not isinstance(value, Tensor):
            cls.__setattr__(module, name, value)
            return
        state = module.__dict__[ATTACHED].state
        full = {**module._parameters, **module._buffers}.get(name)
        if full is not None and value.shape != full.shape:
            raise WidthError(
                f"{cls.__name__} assigns a tensor of shape {tuple(value.shape)} to its {name!r}, which has "
                f"{tuple(full.shape)} at full width: that would throw the rest away. If these are running statistics, "
                "use a batch norm of PyTorch, which has them for each width; else hold the layer with exclude=[...]"
            )
        cls.__setattr__(module, name, value)
        state.drop()

    return assign


def _scaled_forward(cls: type[nn.Module]) -> Callable[..., Any]:
    """Multiply a layer's output by its full over its active input channels (``conv_averaged`` of US-Net)."""

    def forward(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        own: Attached = module.__dict__[ATTACHED]
        scale = own.state.active[own.slots[SCALE]]
        output = cls.forward(module, *args, **kwargs)
        return output if scale == 1 else output * scale

    return forward
