"""What a network is given to run: arrays or tensors, checked against the example that it was exported with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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

    @property
    def each(self) -> tuple[int, ...]:
        """The shape of one example."""
        return self.shape[1:]


class Entries:
    """All inputs, in order.

    Arrays like those that fitted last are not looked at again: behind a run that went through the whole cache, each
    line of Python between two runs costs a microsecond.

    Args:
        entries: What they must be like.
        batch: The only batch size that the network runs at; None if it runs at any.
        last: Whether tensors of four axes are to be in the order ``channels_last`` instead of the ordinary one.
    """

    def __init__(self, entries: Sequence[Entry], *, batch: int | None, last: bool) -> None:
        self._entries, self._batch, self._last = tuple(entries), batch, last
        self._like: tuple[Any, ...] | None = None
        self._turned = last and len(entries) == 1 and len(entries[0].shape) == 4

    def tensors(self, inputs: Sequence[Any]) -> list[Tensor]:
        """Inputs as tensors.

        Raises:
            DeploymentError: Their number, or shape, type or batch of one, is another.
        """
        if len(inputs) == 1 and type(inputs[0]) is np.ndarray:
            value = inputs[0]
            if (value.shape, value.strides, value.dtype) == self._like:
                tensor = torch.from_numpy(value)
                return [tensor.contiguous(memory_format=torch.channels_last) if self._turned else tensor]
        if len(inputs) != len(self._entries):
            raise DeploymentError(f"the network takes {len(self._entries)} inputs, got {len(inputs)}")
        found: list[Tensor] = []
        size = self._batch
        for value, entry in zip(inputs, self._entries, strict=True):
            tensor = _tensor(value, len(found))
            size = _checked(tensor, entry, len(found), size, any_batch=self._batch is None)
            if self._last and tensor.dim() == 4:
                tensor = tensor.to(memory_format=torch.channels_last)
            elif not self._last:
                tensor = tensor.contiguous()
            found.append(tensor.clone() if entry.written else tensor)
        if len(inputs) == 1 and type(inputs[0]) is np.ndarray and not self._entries[0].written:
            value = inputs[0]
            self._like = (value.shape, value.strides, value.dtype) if value.flags.c_contiguous else None
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
