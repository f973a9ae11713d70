"""A module's weight-less graph for ExecuTorch with XNNPACK: a program, and what its file of weights is made of.

:mod:`slimmable.runtime.executorch_graph` says how both lie in the graph's bytes.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import Tensor, nn

from slimmable.errors import ExtractionError
from slimmable.export.graph import Graph
from slimmable.export.lowering import lowered, quiet
from slimmable.runtime.base import Signature
from slimmable.runtime.executorch_graph import Program, Segment, packed

Laid = tuple[tuple[int, ...], tuple[int, ...]]
"""The shape that a tensor is given, and the order of its axes in memory."""

_ALIGNMENT = 128
_HEAD = struct.Struct("<4sIQQQQ")
"""Of a ``.ptd``, 8 bytes into it: magic, length, place and size of its table, place and size of its segments."""


def weightless(module: nn.Module, example: tuple[Any, ...], signature: Signature) -> Graph:
    """The graph of a module in evaluation mode, for :class:`slimmable.runtime.executorch.ExecuTorchBackend`.

    The program is what ExecuTorch writes of the module when weights are to lie in a file of their own. Of that file the
    graph has what is not weights. Where each weight lies in it, and with which order of axes, is found by what it
    holds. What no tensor of the module is (a batch norm that XNNPACK merges into a convolution) is stored as it is.

    It runs batches from 1 to 32, larger ones in parts, unless the module's code fixes the batch.

    Args:
        module: A network in evaluation mode.
        example: What it is called with: tensors.
        signature: Names of its inputs and outputs.

    Raises:
        MissingDependencyError: ExecuTorch is not installed.
        ExtractionError: It cannot take the network, or the network has other inputs than there are names.

    Cost:
        Seconds to a minute: ExecuTorch's own compiler.
    """
    if not all(isinstance(each, Tensor) for each in example) or len(example) != len(signature.inputs):
        raise ExtractionError(f"expected {len(signature.inputs)} tensors as the example, got {len(example)} values")
    found = lowered(module, example, external=True)
    data = np.frombuffer(found.data, np.uint8)
    tensors = {name: each.detach() for name, each in (*module.named_parameters(), *module.named_buffers())}
    arrays = {name: each.cpu().contiguous().numpy() for name, each in tensors.items()}
    head, placed = _segments(data)
    segments, extra = _named(data, placed, arrays)
    program = Program(
        code=found.program,
        head=data[:head],
        size=len(data),
        segments=tuple(segments),
        batch=found.batch,
        any_batch=found.any_batch,
        inputs=tuple((tuple(each.shape), str(each.dtype).removeprefix("torch.")) for each in example),
        outputs=len(signature.outputs),
    )
    again = np.full_like(data, 255)
    program.fill(again, arrays | extra)
    if not np.array_equal(again, data):
        raise ExtractionError("ExecuTorch lays its file of weights out in a way that is not known here")
    parts = dict.fromkeys(each.name for each in segments if each.name not in extra)
    return Graph(content=packed(program), parts=tuple(parts), extra=extra, any_batch=found.any_batch)


def _segments(data: np.ndarray) -> tuple[int, list[tuple[int, int]]]:
    """Where the segments of a ``.ptd`` begin, and place and size of each."""
    if not len(data):  # a network without weights
        return 0, []
    from executorch.exir._serialize._cord import Cord
    from executorch.extension.flat_tensor.serialize.serialize import FlatTensorSerializer

    magic, _, _, _, base, _ = _HEAD.unpack_from(data.data, 8)
    if magic != b"FH01":
        raise ExtractionError(f"ExecuTorch writes weights in the format {magic!r}, which is not known here")
    found: list[tuple[int, int]] = []
    end = base
    with quiet():
        buffers = FlatTensorSerializer().deserialize(Cord(data.tobytes())).buffers
    for each in buffers:
        begin = base + math.ceil((end - base) / _ALIGNMENT) * _ALIGNMENT
        found.append((begin, len(each)))
        end = begin + len(each)
    return base, found


def _named(
    data: np.ndarray, placed: list[tuple[int, int]], arrays: dict[str, np.ndarray]
) -> tuple[list[Segment], dict[str, np.ndarray]]:
    """Which tensor each segment is, and those that are none."""
    wanted = {hashlib.sha256(data[begin : begin + size].data).digest(): begin for begin, size in placed}
    at: dict[int, Segment] = {}
    for name, array in arrays.items():
        for shape, axes in _layouts(array.shape):
            laid = np.ascontiguousarray(array.reshape(shape).transpose(axes))
            begin = wanted.get(hashlib.sha256(laid.data.cast("B")).digest() if laid.size else b"")
            if begin is not None:
                at.setdefault(begin, Segment(begin, name, array.dtype, shape, axes))
                break
    extra: dict[str, np.ndarray] = {}
    for begin, size in placed:
        if begin not in at:
            name = f"constant:{len(extra)}"
            extra[name] = data[begin : begin + size].copy()
            at[begin] = Segment(begin, name, extra[name].dtype, (size,), (0,))
    return [at[begin] for begin, _ in placed], extra


def _layouts(shape: tuple[int, ...]) -> Iterator[Laid]:
    """The ways in which XNNPACK may want a tensor.

    As it is; with channels last; and for depthwise and transposed convolutions, with the channels of every group
    swapped before that.
    """
    axes = tuple(range(len(shape)))
    yield shape, axes
    if len(shape) < 3:
        return
    yield shape, (0, *axes[2:], 1)
    for groups in range(1, shape[0] + 1):
        if shape[0] % groups == 0:
            split = (groups, shape[0] // groups, *shape[1:])
            yield split, (0, *range(2, len(split)), 1)
