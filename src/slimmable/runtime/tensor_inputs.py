"""What a network is given to run: arrays or tensors, checked against the example that it was exported with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slimmable.errors import DeploymentError
from slimmable.runtime.inputs import Likeness, likeness_of, remember


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

    Arrays like some that fitted are not looked at again: behind a run that went through the whole cache, each line of
    Python between two runs costs a microsecond.

    Args:
        entries: What they must be like.
        batch: The only batch size that the network runs at; None if it runs at any.
        most: The largest batch that it runs at in one piece; None if there is none.
        last: Whether tensors of four axes are to be in the order ``channels_last`` instead of the ordinary one.
    """

    def __init__(self, entries: Sequence[Entry], *, batch: int | None, last: bool, most: int | None = None) -> None:
        self._entries, self._batch, self._last, self._most = tuple(entries), batch, last, most
        self._written = any(each.written for each in entries)
        self._known: set[Likeness] = set()

    def known(self, inputs: Sequence[Any]) -> bool:
        """Whether these are arrays like some that fitted, in order and not above the largest batch."""
        return likeness_of(inputs) in self._known

    def tensors(self, inputs: Sequence[Any]) -> list[Tensor]:
        """Inputs as tensors.

        Raises:
            DeploymentError: Their number, or shape, type or batch of one, is another.
        """
        if self.known(inputs):
            made = list(map(torch.from_numpy, inputs))
            return [*map(_turned, made)] if self._last else made
        if len(inputs) != len(self._entries):
            raise DeploymentError(f"the network takes {len(self._entries)} inputs, got {len(inputs)}")
        found: list[Tensor] = []
        size = self._batch
        for value, entry in zip(inputs, self._entries, strict=True):
            tensor = _tensor(value, len(found))
            size = _checked(tensor, entry, len(found), size, any_batch=self._batch is None)
            tensor = _turned(tensor) if self._last else tensor.contiguous()
            found.append(tensor.clone() if entry.written else tensor)
        if self._most is None or (size or 0) <= self._most:
            self._remember(inputs)
        return found

    def _remember(self, inputs: Sequence[Any]) -> None:
        likeness = likeness_of(inputs)
        if likeness is not None and not self._written and all(map(_in_order, inputs)):
            remember(self._known, likeness)


def _in_order(value: np.ndarray) -> bool:
    return value.flags.c_contiguous and min(value.strides, default=0) >= 0


def _turned(tensor: Tensor) -> Tensor:
    return tensor.to(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


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
        backwards = min(value.strides, default=0) < 0
        try:
            return torch.from_numpy(value.copy() if backwards else value)
        except (TypeError, ValueError) as error:
            raise DeploymentError(f"input {at} cannot be a tensor: {error}; convert it to float32 first") from error
    if not isinstance(value, Tensor):
        raise DeploymentError(f"input {at} is a {type(value).__name__}; expected a numpy array or a torch tensor")
    if value.device.type != "cpu":
        raise DeploymentError(f"input {at} is on {value.device}; call .cpu() on it first")
    return value
