"""What modules keep beside their tensors (``get_extra_state``), for checkpoints: further tensors, or JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from slimmable.core.portable import Portable
from slimmable.errors import CheckpointError

if TYPE_CHECKING:
    from slimmable.core.model import SlimmableModel

_SUFFIX = "._extra_state"


def is_extra(name: str) -> bool:
    """Whether a name in a ``state_dict`` is that of a module's extra state.

    >>> is_extra("model.0._extra_state"), is_extra("model.0.weight")
    (True, False)
    """
    return name.endswith(_SUFFIX)


def extra_states(net: SlimmableModel) -> dict[str, Any]:
    """Extra states by name; of a network without its code, those that its file holds.

    Raises:
        CheckpointError: One is neither a tensor nor what JSON gives back, or its module cannot take it back.
    """
    if (file := _file_of(net)) is not None:
        return dict(file.extra)
    found = {name: value for name, value in net.state_dict().items() if is_extra(name)}
    for name, value in found.items():
        path = name.removesuffix(_SUFFIX)
        module = net.get_submodule(path)
        shown = f"module {path.removeprefix('model.')!r} ({type(module).__name__})"
        if not isinstance(value, Tensor) and not _is_json(value):
            raise CheckpointError(
                f"{shown} has an extra state of type {type(value).__name__}; expected a tensor, or a value that is the "
                "same after JSON (no tuples, no keys but text): return one of these from its get_extra_state"
            )
        if type(module).set_extra_state is nn.Module.set_extra_state:
            raise CheckpointError(f"{shown} has get_extra_state only; write its set_extra_state, which reads it back")
    return found


def require_extra_states(net: SlimmableModel, theirs: Mapping[str, Any]) -> None:
    """Pass if ``net`` can take a checkpoint's extra states.

    Raises:
        CheckpointError: Other modules keep one here.
    """
    if _file_of(net) is not None:
        return
    ours = {name for name in net.state_dict() if is_extra(name)}
    for name in sorted(ours ^ set(theirs)):
        has, lacks = ("this network", "the checkpoint") if name in ours else ("the checkpoint", "this network")
        path = name.removesuffix(_SUFFIX).removeprefix("model.")
        raise CheckpointError(
            f"{has} has an extra state of module {path!r}, {lacks} has none; use the same code for both"
        )


def take_extra_states(net: SlimmableModel, theirs: Mapping[str, Any]) -> dict[str, Any]:
    """What ``load_state_dict`` is to hand to the modules; a network without its code keeps them for its next file."""
    if (file := _file_of(net)) is None:
        return dict(theirs)
    net.origin = replace(file, extra=dict(theirs))
    return {}


def _file_of(net: SlimmableModel) -> Portable | None:
    """The file that a network without its code comes from."""
    return net.origin if isinstance(net.origin, Portable) and net.origin.reason is None else None


def _is_json(value: Any) -> bool:
    try:
        return json.loads(json.dumps(value)) == value
    except (TypeError, ValueError, RecursionError):
        return False
