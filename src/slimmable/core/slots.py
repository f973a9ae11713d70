"""What of a network follows its widths: each elastic attribute of each module has a slot, and a plan a value for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from slimmable.core.axes import Axis


@dataclass(frozen=True)
class TensorSlot:
    """An elastic parameter or buffer; ``moving`` are its dimensions that vary."""

    module: nn.Module
    name: str
    moving: tuple[tuple[int, Axis], ...]
    norm: tuple[int, str] | None = None

    @property
    def owner(self) -> dict[str, Any]:
        """The dictionary that holds the tensor at full width."""
        return self.module._parameters if self.name in self.module._parameters else self.module._buffers

    @property
    def full(self) -> Tensor:
        """The tensor at full width."""
        return self.owner[self.name]


@dataclass(frozen=True)
class StatisticSlot:
    """Running statistics of a normalisation layer: ``mean``, ``var`` or ``count``."""

    layer: int
    name: str


@dataclass(frozen=True)
class SizeSlot:
    """A whole-number attribute: positions of an axis times ``multiply`` over ``divide``; maybe several of them."""

    axes: tuple[Axis, ...]
    multiply: int
    divide: int
    kind: type[int] | type[tuple[int, ...]] | type[list[int]]

    def value(self, channels: Sequence[int]) -> int | tuple[int, ...] | list[int]:
        """The attribute at given widths."""
        values = (axis.size(channels) * self.multiply // self.divide for axis in self.axes)
        return self.kind(values) if issubclass(self.kind, tuple | list) else next(values)


@dataclass(frozen=True)
class ScaleSlot:
    """Full input channels over active ones (``averaged`` layers)."""

    axis: Axis
    full: int

    def value(self, channels: Sequence[int]) -> float:
        """The factor at given widths."""
        return self.full / self.axis.size(channels)


Slot = TensorSlot | StatisticSlot | SizeSlot | ScaleSlot


def memory_format(full: Tensor) -> torch.memory_format:
    """The format in which a copy of a part of ``full`` is like ``full``."""
    channels_last = (
        full.ndim == 4 and not full.is_contiguous() and full.is_contiguous(memory_format=torch.channels_last)
    )
    return torch.channels_last if channels_last else torch.contiguous_format
