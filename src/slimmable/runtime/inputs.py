"""Inputs of a session, held to what its graph takes before it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from slimmable.errors import DeploymentError

Likeness = tuple[tuple[int, ...] | np.dtype[Any], ...]
"""Shape, strides and type of arrays, one array behind the other."""

_Array = np.ndarray

_KINDS = 64
"""Likenesses that are remembered: a server's batches have few sizes."""


@dataclass(frozen=True, kw_only=True)
class Input:
    """What a graph takes at one place.

    Attributes:
        name: Its name.
        dtype: Type of its numbers.
        shape: Its sizes; ``None`` where any will do.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]

    def takes(self, array: np.ndarray) -> bool:
        """Whether type and sizes fit."""
        if array.dtype != self.dtype or array.ndim != len(self.shape):
            return False
        for size, found in zip(self.shape, array.shape, strict=True):  # a loop: all() takes microseconds
            if size is not None and size != found:
                return False
        return True


class Inputs:
    """What a graph takes, in order.

    Arrays like some that fitted are not looked at again: behind a run that went through the whole cache, each line of
    Python between two runs costs a microsecond.

    Args:
        expected: What it takes at each place.
    """

    def __init__(self, expected: Sequence[Input]) -> None:
        self._expected = tuple(expected)
        self._names = tuple(each.name for each in expected)
        self._known: set[Likeness] = set()

    def feed(self, inputs: Sequence[Any]) -> dict[str, np.ndarray]:
        """The inputs by name, as arrays whose numbers lie in order.

        Raises:
            DeploymentError: Their number, types or sizes do not fit, or their batch sizes differ.
        """
        if likeness_of(inputs) in self._known:
            return dict(zip(self._names, inputs, strict=True))
        arrays = checked(self._expected, inputs)
        if (likeness := likeness_of(arrays)) is not None:
            remember(self._known, likeness)
        return dict(zip(self._names, arrays, strict=True))


def likeness_of(inputs: Sequence[Any]) -> Likeness | None:
    """What decides whether arrays fit; None where one is something else."""
    if len(inputs) == 1:  # what follows does the same and takes 4 us longer behind a run that went through the cache
        value = inputs[0]
        return (value.shape, value.strides, value.dtype) if type(value) is _Array else None
    found: Likeness = ()
    for value in inputs:
        if type(value) is not _Array:
            return None
        found += (value.shape, value.strides, value.dtype)
    return found


def remember(known: set[Likeness], likeness: Likeness) -> None:
    """Add a likeness to those known, which stay few."""
    if len(known) >= _KINDS:
        known.clear()
    known.add(likeness)


def checked(expected: Sequence[Input], inputs: Sequence[Any]) -> list[np.ndarray]:
    """The inputs as arrays whose numbers lie in order.

    Raises:
        DeploymentError: Their number, types or sizes do not fit, or their batch sizes differ.
    """
    if len(inputs) != len(expected):
        names = ", ".join(each.name for each in expected)
        raise DeploymentError(f"the network takes {len(expected)} inputs ({names}); it was given {len(inputs)}")
    arrays = [np.asarray(each, order="C") for each in inputs]
    for each, array in zip(expected, arrays, strict=True):
        if not each.takes(array):
            shape = ", ".join("any" if size is None else str(size) for size in each.shape)
            raise DeploymentError(
                f"input {each.name!r} takes {each.dtype} of shape ({shape}); "
                f"it was given {array.dtype} of shape {array.shape}"
            )
    if len(arrays) == 1:
        return arrays
    batches = {
        array.shape[0] for each, array in zip(expected, arrays, strict=True) if each.shape and each.shape[0] is None
    }
    if len(batches) > 1:
        raise DeploymentError(f"the first dimension of every input is the batch; found sizes {sorted(batches)}")
    return arrays
