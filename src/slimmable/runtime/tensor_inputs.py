"""What a network is given to run: arrays or tensors, checked against the example that it was exported with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slimmable.errors import DeploymentError


@dataclass(frozen=True)
class Entry:
    """An input: its example's shape, its type, and whether the network writes into it."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    written: bool = False
    each: tuple[int, ...] = field(init=False)
    """The shape of one example."""
    plain: np.dtype[Any] | None = field(init=False)
    """The type as NumPy names it, if it does."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "each", self.shape[1:])
        try:
            plain = torch.empty(0, dtype=self.dtype).numpy().dtype
        except TypeError:
            plain = None
        object.__setattr__(self, "plain", plain)


def tensors_of(inputs: Sequence[Any], entries: Sequence[Entry], *, batch: int | None, last: bool) -> list[Tensor]:
    """Inputs as tensors, in the ordinary memory order.

    Args:
        inputs: Arrays or tensors.
        entries: What they must be like.
        batch: The only batch size that the network runs at; None if it runs at any.
        last: Whether those of four axes are to be in the order ``channels_last`` instead.

    Raises:
        DeploymentError: They are not.
    """
    if len(inputs) != len(entries):
        raise DeploymentError(f"the network takes {len(entries)} inputs, got {len(inputs)}")
    found: list[Tensor] = []
    size = batch
    for value, entry in zip(inputs, entries, strict=True):
        if (
            type(value) is np.ndarray  # arrays tell their shape and type faster than tensors
            and value.dtype == entry.plain
            and value.shape[1:] == entry.each
            and value.ndim
            and (size is None or len(value) == size)
            and value.flags.c_contiguous
        ):
            tensor, size = torch.from_numpy(value), len(value)
        else:
            tensor = _tensor(value, len(found))
            size = _checked(tensor, entry, len(found), size, any_batch=batch is None)
            tensor = tensor if last else tensor.contiguous()
        if last and tensor.dim() == 4:
            tensor = tensor.to(memory_format=torch.channels_last)
        found.append(tensor.clone() if entry.written else tensor)
    return found


def _checked(tensor: Tensor, entry: Entry, at: int, size: int | None, *, any_batch: bool) -> int:
    """The batch of an input, which is ``size`` where that is known."""
    shape = tuple(tensor.shape)
    if shape[1:] == entry.each and shape and size in (None, shape[0]) and tensor.dtype == entry.dtype:
        return shape[0]
    expected = ", ".join(["batch" if any_batch else str(size), *map(str, entry.each)])
    raise DeploymentError(
        f"input {at} is {tensor.dtype} of shape {shape}; expected {entry.dtype} of shape "
        f"({expected}), the batch being the same in all inputs"
    )


def all_arrays(inputs: Sequence[Any]) -> bool:
    """Whether no input is a tensor; if one is, outputs are tensors, too."""
    return all(map(_is_array, inputs))


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray)


def _tensor(value: Any, at: int) -> Tensor:
    if isinstance(value, np.ndarray):
        plain = value.flags.c_contiguous or min(value.strides, default=0) >= 0
        try:
            return torch.from_numpy(value if plain else np.ascontiguousarray(value))
        except (TypeError, ValueError) as error:
            raise DeploymentError(f"input {at} cannot be a tensor: {error}; convert it to float32 first") from error
    if not isinstance(value, Tensor):
        raise DeploymentError(f"input {at} is a {type(value).__name__}; expected a numpy array or a torch tensor")
    if value.device.type != "cpu":
        raise DeploymentError(f"input {at} is on {value.device}; call .cpu() on it first")
    return value
