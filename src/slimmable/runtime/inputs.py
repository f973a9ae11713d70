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
