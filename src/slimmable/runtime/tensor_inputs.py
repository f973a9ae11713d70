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
    for at, (each, entry) in enumerate(zip(inputs, entries, strict=True)):
        tensor = _tensor(each, at)
        size = batch if batch is not None else found[0].shape[0] if found else tensor.shape[:1].numel()
        if tensor.shape != (size, *entry.shape[1:]) or tensor.dtype != entry.dtype:
            expected = ", ".join(["batch" if batch is None else str(batch), *map(str, entry.shape[1:])])
            raise DeploymentError(
                f"input {at} is {tensor.dtype} of shape {tuple(tensor.shape)}; expected {entry.dtype} of shape "
                f"({expected}), the batch being the same in all inputs"
            )
        laid = tensor.to(memory_format=torch.channels_last) if last and tensor.ndim == 4 else tensor
        found.append(laid.clone() if entry.written else laid)
    return found if last else [tensor.contiguous() for tensor in found]


def arrays_if(outputs: list[Tensor], *, like: Sequence[Any]) -> list[Any]:
    """Outputs as they are if an input is a tensor, else as arrays."""
    return outputs if any(isinstance(each, Tensor) for each in like) else [each.numpy() for each in outputs]


def _tensor(value: Any, at: int) -> Tensor:
    if isinstance(value, Tensor):
        if value.device.type != "cpu":
            raise DeploymentError(f"input {at} is on {value.device}; call .cpu() on it first")
        return value
    if not isinstance(value, np.ndarray):
        raise DeploymentError(f"input {at} is a {type(value).__name__}; expected a numpy array or a torch tensor")
    try:
        return torch.from_numpy(np.ascontiguousarray(value) if min(value.strides, default=0) < 0 else value)
    except (TypeError, ValueError) as error:
        raise DeploymentError(f"input {at} cannot be a tensor: {error}; convert it to float32 first") from error
