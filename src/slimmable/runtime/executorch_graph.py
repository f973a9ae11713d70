"""The weight-less graph of ExecuTorch: a program, and how the file of its weights is filled.

The bytes are, one after the other: the length of the description (8 bytes, little-endian), the description (JSON), the
program (an ordinary ``.pte`` whose weights are outside it), and the beginning of its ``.ptd`` file, up to the first
weight. The description is::

    {"format": 1, "program": 15800, "head": 6784, "data": 123456, "batch": 32, "any_batch": true,
     "inputs": [[[2, 3, 32, 32], "float32"]], "outputs": 1,
     "segments": [[6784, "features.0.weight", "float32", [16, 3, 3, 3], [0, 2, 3, 1]]]}

``data`` is the size of the whole ``.ptd`` file. A segment lies at a place in it and is a named tensor in the given
shape, its axes permuted (XNNPACK wants convolutions as ``(O, H, W, I)``). What is between the segments is zero.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from slimmable.errors import ArtifactError
from slimmable.runtime.base import Arrays

FORMAT = 1

_MAXIMUM_BYTES = 1 << 36


@dataclass(frozen=True)
class Segment:
    """A tensor in the file of weights: where it begins, its name and type, the shape it is given, the axes' order."""

    offset: int
    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    axes: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Its size."""
        return prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, kw_only=True)
class Program:
    """A program and its file of weights.

    Attributes:
        code: The ``.pte``.
        head: The ``.ptd`` up to its first weight.
        size: Of the whole ``.ptd``.
        segments: The weights.
        batch: The largest batch; the only one where ``any_batch`` is False.
        any_batch: Whether smaller ones run.
        inputs: Shapes of the example inputs and names of their types.
        outputs: How many there are.
    """

    code: bytes
    head: np.ndarray
    size: int
    segments: tuple[Segment, ...]
    batch: int
    any_batch: bool
    inputs: tuple[tuple[tuple[int, ...], str], ...]
    outputs: int

    def fill(self, data: np.ndarray, arrays: Arrays) -> None:
        """Write the ``.ptd`` into ``data``, bytes that are at least as many and may hold anything.

        Raises:
            ArtifactError: Tensors are missing, or do not fit.
        """
        data[: len(self.head)] = self.head
        end = len(self.head)
        for each in self.segments:
            if end < each.offset:
                data[end : each.offset] = 0
            end = each.offset + each.nbytes
            found = arrays.get(each.name)
            if found is None or found.dtype != each.dtype or found.size != prod(each.shape):
                what = "not given" if found is None else f"{found.dtype} of shape {found.shape}"
                raise ArtifactError(
                    f"the tensor {each.name!r} is {what}, the graph needs {each.dtype} of {prod(each.shape)} elements; "
                    "export the network again"
                )
            shape = tuple(each.shape[axis] for axis in each.axes)
            target = data[each.offset : end].view(each.dtype).reshape(shape)
            np.copyto(target, found.reshape(each.shape).transpose(each.axes))
        data[end : self.size] = 0


def packed(program: Program) -> bytes:
    """The graph as bytes, which :func:`unpacked` reads.

    >>> graph = Program(code=b"code", head=np.zeros(4, np.uint8), size=8, batch=1, any_batch=False, outputs=1,
    ...     segments=(Segment(4, "w", np.dtype("float32"), (1,), (0,)),), inputs=(((1, 3), "float32"),))
    >>> unpacked(packed(graph)).segments == graph.segments
    True
    """
    its = program
    description = {
        "format": FORMAT,
        "program": len(its.code),
        "head": len(its.head),
        "data": its.size,
        "batch": its.batch,
        "any_batch": its.any_batch,
        "inputs": its.inputs,
        "outputs": its.outputs,
        "segments": [[each.offset, each.name, each.dtype.name, each.shape, each.axes] for each in its.segments],
    }
    text = json.dumps(description, separators=(",", ":")).encode()
    return b"".join([len(text).to_bytes(8, "little"), text, its.code, its.head.tobytes()])


def unpacked(content: bytes) -> Program:
    """The inverse of :func:`packed`.

    Raises:
        ArtifactError: The bytes are damaged.
    """
    try:
        length = int.from_bytes(content[:8], "little")
        found = json.loads(content[8 : 8 + length])
        if found["format"] != FORMAT:
            raise ValueError(f"it has format {found['format']!r}, this version reads {FORMAT}")
        code, head = 8 + length, 8 + length + _size(found["program"])
        if len(content) != head + _size(found["head"]):
            raise ValueError(f"it has {len(content)} bytes, its parts {head + found['head']}")
        program = Program(
            code=content[code:head],
            head=np.frombuffer(content, np.uint8, offset=head),
            size=_size(found["data"]),
            segments=tuple(_segment(*each) for each in found["segments"]),
            batch=_size(found["batch"]),
            any_batch=bool(found["any_batch"]),
            inputs=tuple((tuple(map(_size, shape)), str(dtype)) for shape, dtype in found["inputs"]),
            outputs=_size(found["outputs"]),
        )
        end = len(program.head)
        for each in program.segments:
            if each.offset < end:
                raise ValueError(f"the segment {each.name!r} begins within the one before")
            end = each.offset + each.nbytes
        if end > program.size or not program.batch:
            raise ValueError("its segments are larger than the file, or its batch is nothing")
        return program
    except (KeyError, ValueError, TypeError, IndexError, AttributeError, RecursionError, OverflowError) as error:
        raise ArtifactError(
            f"the graph for ExecuTorch is damaged ({error!r}); export the network again, or copy the file again"
        ) from error


def _segment(offset: Any, name: Any, dtype: Any, shape: Any, axes: Any) -> Segment:
    if not isinstance(name, str) or dtype not in _TYPES or sorted(axes) != [*range(len(shape))]:
        raise ValueError(f"the segment {name!r} is none")
    return Segment(_size(offset), name, np.dtype(dtype), tuple(map(_size, shape)), tuple(axes))


_TYPES = ("float32", "float16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool")


def _size(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= _MAXIMUM_BYTES:
        raise ValueError(f"{value!r} is no size")
    return value
