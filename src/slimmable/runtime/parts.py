"""From full weights and one width's table to the tensors of that width: cut, and multiply by the folded scale.

Every number comes out as a natively exported network of that width has it, bit for bit: a cut is a copy, and a scale is
one multiplication in the weight's own precision, as extraction makes it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product

import numpy as np

from slimmable.core.axes import Axis
from slimmable.runtime.base import Order
from slimmable.runtime.manifest import Dim, Part

_ALIGNMENT = 64


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


def nbytes(parts: Iterable[Part], channels: Sequence[int], dtypes: Mapping[str, np.dtype]) -> int:
    """Bytes of the buffer that :func:`tensors_at` fills."""
    return sum(_aligned(math.prod(part_shape(part, channels)) * _dtype(part, dtypes).itemsize) for part in parts)


def tensors_at(
    parts: Sequence[Part],
    *,
    wanted: Iterable[str],
    sources: Mapping[str, np.ndarray],
    table: np.ndarray,
    channels: Sequence[int],
    maximum: Sequence[int],
    order: Order = "contiguous",
    buffer: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Tensors of one width by name.

    Args:
        parts: All parts, in the order in which the table is packed.
        wanted: Names of those that are needed.
        sources: Full tensors by name.
        table: The width's packed vectors.
        channels: Channels of each group.
        maximum: Channels of each group at full width.
        order: How tensors of four dimensions lie in memory.
        buffer: Bytes to write into, at least :func:`nbytes` of them; new ones if None.

    Cost:
        One pass over the tensors; no other memory than the buffer.
    """
    asked = set(wanted)
    dtypes = {name: source.dtype for name, source in sources.items()}
    if buffer is None:
        buffer = np.empty(nbytes([part for part in parts if part.name in asked], channels, dtypes), np.uint8)
    packed = {part.name: (shape, start) for part, shape, start in entries(parts, channels)}
    found: dict[str, np.ndarray] = {}
    at = 0
    for part in parts:
        if part.name not in asked:
            continue
        shape, dtype = part_shape(part, channels), _dtype(part, dtypes)
        size = math.prod(shape) * dtype.itemsize
        flat = buffer[at : at + size].view(dtype)
        at += _aligned(size)
        out = _laid_out(flat, shape, order)
        vector = None
        if part.name in packed:
            entry, start = packed[part.name]
            vector = table[start : start + math.prod(entry)].reshape(entry)
        if part.source is None:
            assert vector is not None
            out[...] = vector
        else:
            _cut(part, sources[part.source], vector, out, channels, maximum)
        found[part.name] = out
    return found


def _cut(
    part: Part,
    source: np.ndarray,
    scale: np.ndarray | None,
    out: np.ndarray,
    channels: Sequence[int],
    maximum: Sequence[int],
) -> None:
    if scale is not None:
        scale = scale.astype(source.dtype, copy=False)
        scale = scale.reshape([-1 if dim == part.scale else 1 for dim in range(source.ndim)])
    runs = [[(0, size)] for size in source.shape]
    for dim, axis in part.moving:
        runs[dim] = axis.active(channels, maximum)
    starts = [[sum(length for _, length in its[:at]) for at in range(len(its))] for its in runs]
    for places in product(*(range(len(its)) for its in runs)):
        taken = [its[place] for its, place in zip(runs, places, strict=True)]
        begins = [its[place] for its, place in zip(starts, places, strict=True)]
        view = source[tuple(slice(start, start + length) for start, length in taken)]
        target = out[tuple(slice(begin, begin + length) for begin, (_, length) in zip(begins, taken, strict=True))]
        if scale is None:
            target[...] = view
        else:
            assert part.scale is not None
            begin, length = begins[part.scale], taken[part.scale][1]
            its = [slice(begin, begin + length) if dim == part.scale else slice(None) for dim in range(source.ndim)]
            np.multiply(view, scale[tuple(its)], out=target)


def _laid_out(flat: np.ndarray, shape: tuple[int, ...], order: Order) -> np.ndarray:
    if order == "channels_last" and len(shape) == 4:
        first, second, third, fourth = shape
        return flat.reshape(first, third, fourth, second).transpose(0, 3, 1, 2)
    return flat.reshape(shape)


def _dtype(part: Part, dtypes: Mapping[str, np.dtype]) -> np.dtype:
    return np.dtype(np.float32) if part.source is None else dtypes[part.source]


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
