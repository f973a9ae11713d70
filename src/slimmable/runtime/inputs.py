"""Inputs of a session, held to what its graph takes before it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from slimmable.errors import DeploymentError


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

    Arrays like those that fitted last are not looked at again: behind a run that went through the whole cache, each
    line of Python between two runs costs a microsecond.

    Args:
        expected: What it takes at each place.
    """

    def __init__(self, expected: Sequence[Input]) -> None:
        self._expected = tuple(expected)
        self._names = tuple(each.name for each in expected)
        self._like: tuple[Any, ...] | None = None

    def feed(self, inputs: Sequence[Any]) -> dict[str, np.ndarray]:
        """The inputs by name, as arrays whose numbers lie in order.

        Raises:
            DeploymentError: Their number, types or sizes do not fit, or their batch sizes differ.
        """
        if len(inputs) == 1 and type(inputs[0]) is np.ndarray:
            value = inputs[0]
            if (value.shape, value.strides, value.dtype) == self._like:
                return {self._names[0]: value}
        arrays = checked(self._expected, inputs)
        if len(arrays) == 1:
            self._like = (arrays[0].shape, arrays[0].strides, arrays[0].dtype)
        return dict(zip(self._names, arrays, strict=True))


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
