"""From full weights and one width's table to the tensors of that width: cut, and multiply by the folded scale.

Every number comes out as a natively exported network of that width has it, bit for bit: a cut is a copy, and a scale is
one multiplication in the weight's own precision, as extraction makes it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np

from slimmable.core.axes import Axis
from slimmable.runtime.base import Layout, Order, Work
from slimmable.runtime.manifest import Dim, Part

ALIGNMENT = 64
"""Bytes of a cache line."""


def shape_at(shape: Sequence[Dim], channels: Sequence[int]) -> tuple[int, ...]:
    """A shape at given widths."""
    return tuple(each.size(channels) if isinstance(each, Axis) else each for each in shape)


def part_shape(part: Part, channels: Sequence[int]) -> tuple[int, ...]:
    """The shape of a part at given widths.

    >>> from slimmable.core.axes import Segment
    >>> part = Part(name="fc.weight", source="fc.weight", moving=((1, Axis((Segment(0, 4),))),), shape=(10, 64))
    >>> part_shape(part, channels=(8,))
    (10, 32)
    """
    moving = dict(part.moving)
    return tuple(
        moving[dim].size(channels) if dim in moving else size for dim, size in enumerate(shape_at(part.shape, channels))
    )


def entries(parts: Iterable[Part], channels: Sequence[int]) -> Iterator[tuple[Part, tuple[int, ...], int]]:
    """What a width's table holds: a part, the shape of its entry, and where that begins."""
    start = 0
    for part in parts:
        shape = part_shape(part, channels)
        if part.source is not None:
            if part.scale is None:
                continue
            shape = (shape[part.scale],)
        yield part, shape, start
        start += math.prod(shape)


def table_size(parts: Iterable[Part], channels: Sequence[int]) -> int:
    """Numbers in a width's table."""
    return sum(math.prod(shape) for _, shape, _ in entries(parts, channels))


@dataclass(frozen=True, slots=True)
class Piece:
    """A block of a tensor: where it goes, what it is cut from, and what that is multiplied with."""

    target: tuple[slice, ...]
    view: np.ndarray
    scale: np.ndarray | None


@dataclass(frozen=True, slots=True)
class Step:
    """One tensor of a width, ready to be filled: its place in a buffer, its shape, its blocks."""

    name: str
    start: int
    end: int
    dtype: np.dtype
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]

    def unchanged(self, layout: Layout) -> np.ndarray | None:
        """What this is a mere block of, if that lies in memory as it is wanted; then nothing has to be copied."""
        if len(self.pieces) != 1 or self.pieces[0].scale is not None:
            return None
        view = self.pieces[0].view
        if view.ctypes.data % ALIGNMENT:  # elsewhere in a cache line, products would be summed in another order
            return None
        if view.flags.c_contiguous:
            return None if _turns(self.shape, layout.order) else view
        return view if layout.strided and view.ndim == 2 and view.strides[1] == view.itemsize else None


@dataclass(frozen=True, slots=True)
class Frame:
    """Tensors of a width with a place in memory, and what writes their numbers there."""

    arrays: dict[str, np.ndarray]
    work: tuple[Work, ...]

    def write(self) -> None:
        """Write the numbers; whatever has been in the memory since the last time."""
        for each in self.work:
            each()


@dataclass(frozen=True, kw_only=True)
class Cut:
    """All tensors of one width, worked out once: what is left to do at a switch is to copy and to multiply.

    Attributes:
        steps: The tensors.
        nbytes: Bytes of the buffer that they fill.
    """

    steps: tuple[Step, ...]
    nbytes: int

    def frame(self, buffer: np.ndarray, layout: Layout) -> Frame:
        """The tensors in a buffer, but for those that stand in the file as they are wanted; nothing is written yet.

        Args:
            buffer: At least ``nbytes`` bytes.
            layout: How the tensors are wanted.
        """
        found: dict[str, np.ndarray] = {}
        work: list[Work] = []
        for step in self.steps:
            unchanged = step.unchanged(layout)
            if unchanged is not None:
                found[step.name] = unchanged
                continue
            flat = buffer[step.start : step.end].view(step.dtype)
            out = _laid_out(flat, step.shape, layout.order)
            for piece in step.pieces:
                if piece.scale is None:
                    work.append(partial(np.copyto, out[piece.target], piece.view))
                else:
                    work.append(layout.products(piece.view, piece.scale, out[piece.target]))
            found[step.name] = out
        return Frame(found, tuple(work))

    def fill(self, buffer: np.ndarray, layout: Layout) -> dict[str, np.ndarray]:
        """The tensors by name, as :meth:`frame` places them, with their numbers.

        Cost:
            One pass over the tensors that change.
        """
        made = self.frame(buffer, layout)
        made.write()
        return made.arrays


def cut(
    parts: Sequence[Part],
    *,
    wanted: Iterable[str],
    sources: Mapping[str, np.ndarray],
    table: np.ndarray,
    channels: Sequence[int],
    maximum: Sequence[int],
) -> Cut:
    """How to make the tensors of one width.

    Args:
        parts: All parts, in the order in which the table is packed.
        wanted: Names of those that are needed.
        sources: Full tensors by name.
        table: The width's packed vectors.
        channels: Channels of each group.
        maximum: Channels of each group at full width.
    """
    asked = set(wanted)
    packed = vectors(parts, table, channels)
    steps: list[Step] = []
    start = 0
    for part in parts:
        if part.name not in asked:
            continue
        source = None if part.source is None else sources[part.source]
        dtype = np.dtype(np.float32) if source is None else source.dtype
        shape = part_shape(part, channels)
        end = start + math.prod(shape) * dtype.itemsize
        if source is None:
            pieces = (Piece((), packed[part.name], None),)
        else:
            scale = packed.get(part.name) if source.dtype.kind == "f" else None  # integers have their scales beside
            pieces = tuple(_pieces(part, source, scale, channels, maximum))
        steps.append(Step(part.name, start, end, dtype, shape, pieces))
        start = -(-end // ALIGNMENT) * ALIGNMENT
    return Cut(steps=tuple(steps), nbytes=start)


def vectors(parts: Iterable[Part], table: np.ndarray, channels: Sequence[int]) -> dict[str, np.ndarray]:
    """What stands in a width's table, by the name of the part: its scale, or itself."""
    table = table.astype(np.float32, copy=False)
    return {part.name: table[at : at + math.prod(shape)].reshape(shape) for part, shape, at in entries(parts, channels)}


def rows(part: Part, values: np.ndarray, channels: Sequence[int], maximum: Sequence[int]) -> np.ndarray:
    """Of values for every output channel of a weight those that a width keeps."""
    axis = dict(part.moving).get(0)
    if axis is None:
        return values
    return np.concatenate([values[start : start + length] for start, length in axis.active(channels, maximum)])


def _pieces(
    part: Part, source: np.ndarray, scale: np.ndarray | None, channels: Sequence[int], maximum: Sequence[int]
) -> Iterator[Piece]:
    """Blocks of a cut: one, but where a dimension joins several groups."""
    runs = [[(0, size)] for size in source.shape]
    for dim, axis in part.moving:
        runs[dim] = axis.active(channels, maximum)
    begins = [[sum(length for _, length in its[:at]) for at in range(len(its))] for its in runs]
    for places in product(*(range(len(its)) for its in runs)):
        taken = [its[place] for its, place in zip(runs, places, strict=True)]
        target = tuple(
            slice(its[place], its[place] + length)
            for its, place, (_, length) in zip(begins, places, taken, strict=True)
        )
        own = None
        if scale is not None:
            assert part.scale is not None
            own = scale[target[part.scale]].astype(source.dtype, copy=False)
            own = own.reshape([-1 if dim == part.scale else 1 for dim in range(source.ndim)])
        yield Piece(target, source[tuple(slice(start, start + length) for start, length in taken)], own)


def _turns(shape: tuple[int, ...], order: Order) -> bool:
    """Whether a tensor lies otherwise in memory than its axes stand; one axis among ones is the same both ways."""
    return order == "channels_last" and len(shape) == 4 and shape[1] > 1 and shape[2] * shape[3] > 1


def _laid_out(flat: np.ndarray, shape: tuple[int, ...], order: Order) -> np.ndarray:
    if _turns(shape, order):
        first, second, third, fourth = shape
        return flat.reshape(first, third, fourth, second).transpose(0, 3, 1, 2)
    return flat.reshape(shape)
