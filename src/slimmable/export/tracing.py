"""A module's graph for every batch size: traced at three, two to find what depends on it and one to prove it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from slimmable.core.compare import alike, compared, pairs, same_slice, shares_batch, without_copies
from slimmable.core.graphs import Batch, Notes
from slimmable.core.trace import Trace, trace
from slimmable.core.twins import with_tensors
from slimmable.errors import ConversionError, ExtractionError

_FIRST, _PROOF = 2, 5
"""Batch sizes; code may treat a batch of one in a way of its own, so none is that."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Batched:
    """A graph, and the arguments in it that depend on the batch.

    Attributes:
        trace: The graph.
        notes: What depends on the batch.
        any_batch: Whether it holds for any batch size, or for that of the example alone.
    """

    trace: Trace
    notes: Notes
    any_batch: bool


def batched(module: nn.Module, example: tuple[Any, ...]) -> Batched:
    """The graph of a module in evaluation mode.

    Raises:
        ExtractionError: ``torch.export`` cannot trace it.

    Example:
        >>> found = batched(nn.Sequential(nn.Flatten(), nn.Linear(8, 2)).eval(), (torch.zeros(1, 2, 4),))
        >>> found.any_batch, [call.name for call in found.trace.calls]
        (True, ['aten.flatten.using_ints', 'aten.linear.default'])
    """
    try:
        first = trace(module, resized(example, _FIRST))
        notes = (
            compared(first, trace(module, resized(example, _FIRST + 1)), modes=False) if shares_batch(first) else None
        )
        if notes is not None and _holds(first, notes, trace(module, resized(example, _PROOF))):
            return Batched(trace=first, notes=notes, any_batch=True)
    except ConversionError:
        pass  # the example itself says whether it cannot be traced at all
    try:
        fixed = Batched(trace=trace(module, example), notes={}, any_batch=False)
    except ConversionError as error:
        raise ExtractionError(str(error)) from error
    _LOG.warning("%s fixes the batch: its graph runs at batches of %d only", type(module).__name__, fixed.trace.batch)
    return fixed


def resized(example: tuple[Any, ...], batch: int) -> tuple[Any, ...]:
    """The example with its first row as often as the batch is large.

    >>> [tensor.shape for tensor in resized((torch.zeros(1, 3), torch.zeros(1, 4)), 5)]
    [torch.Size([5, 3]), torch.Size([5, 4])]
    """

    def row(tensor: Tensor) -> Tensor:
        return torch.cat([tensor[:1]] * batch) if tensor.ndim else tensor

    return with_tensors(example, row)


def _holds(graph: Trace, notes: Mapping[Any, Any], other: Trace) -> bool:
    """Whether every argument is, at another batch size, what the notes say."""
    mine, theirs = without_copies(graph), without_copies(other)
    if [call.name for call in mine] != [call.name for call in theirs]:
        return False
    for call, partner in zip(mine, theirs, strict=True):
        for name, at, value, found in pairs(call, partner):
            note = notes.get((call.node, name, at))
            value = note.at(other.batch) if isinstance(note, Batch) else value
            if not alike(value, found) and not same_slice(partner, name, value, found):
                return False
    return True
