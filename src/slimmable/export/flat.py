"""A network whose inputs and outputs are lists of tensors, as runtimes know them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

from slimmable.errors import ExtractionError
from slimmable.runtime import manifest


def flat_outputs(value: Any, name: str = "output") -> Iterator[tuple[str, Tensor]]:
    """Tensors of a nested output, with names: keys and field names, or places.

    >>> [name for name, _ in flat_outputs({"boxes": torch.zeros(1), "rest": (torch.zeros(1), torch.zeros(1))})]
    ['boxes', 'rest_0', 'rest_1']
    """
    if isinstance(value, Tensor):
        yield name, value
    elif value is not None:
        for key, each in _children(value):
            yield from flat_outputs(each, str(key) if name == "output" and isinstance(key, str) else f"{name}_{key}")


def _children(value: Any) -> list[tuple[str | int, Any]]:
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return list(value._asdict().items())  # pyright: ignore[reportAttributeAccessIssue]  a named tuple
    if is_dataclass(value):
        return [(item.name, getattr(value, item.name)) for item in fields(value)]
    if isinstance(value, list | tuple):
        return list(enumerate(value))
    raise ExtractionError(f"the network returns a {type(value).__name__}; expected tensors, nested in plain containers")


def flatten(module: nn.Module) -> nn.Module:
    """Let a plain network return its tensors as a tuple; changed in place.

    Names of its parameters stay as they are: only its class changes.
    """
    cls = type(module)

    @wraps(cls.forward)  # exporters ask for the names of its arguments
    def forward(self: nn.Module, *inputs: Tensor) -> Any:
        found = tuple(tensor for _, tensor in flat_outputs(cls.forward(self, *inputs)))
        return found[0] if len(found) == 1 else found

    module.__class__ = type(cls.__name__, (cls,), {"forward": forward, "__module__": cls.__module__})
    return module


def described(module: nn.Module, example: Sequence[Any]) -> tuple[tuple[manifest.Tensor, ...], ...]:
    """Inputs and outputs of a network.

    Raises:
        ExtractionError: It takes something other than tensors with a batch, or returns a tensor without one.
    """
    for each in example:
        if not isinstance(each, Tensor) or not each.ndim:
            raise ExtractionError(
                f"a runtime feeds tensors whose first dimension is the batch; an input is {each!r:.80}"
            )
    with torch.no_grad():
        found = list(flat_outputs(module(*example)))
    names = ["input"] if len(example) == 1 else [f"input_{at}" for at in range(len(example))]
    inputs = [_described(name, each) for name, each in zip(names, example, strict=True)]
    return tuple(inputs), tuple(_described(name, each) for name, each in found)


def fixed(described: manifest.Tensor, batch: int) -> manifest.Tensor:
    """An input or output of a network that runs at one batch alone."""
    shape = tuple(batch if size is None else size for size in described.shape[:1])
    return replace(described, shape=(*shape, *described.shape[1:]))


def _described(name: str, tensor: Tensor) -> manifest.Tensor:
    shape = (None, *tensor.shape[1:]) if tensor.ndim else ()
    return manifest.Tensor(name=name, shape=shape, dtype=str(tensor.dtype).removeprefix("torch."))
