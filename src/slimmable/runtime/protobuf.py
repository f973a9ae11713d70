"""Tensors in the wire format of ONNX, written without the onnx package.

Serialised messages that follow one another are read as one message: lists are joined, messages within merged. So bytes
that say ``model { graph { initializer { ... } } }`` behind those of a graph without tensors give it the tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from slimmable.errors import DeploymentError
from slimmable.runtime.base import Arrays

_TYPES: Final = {
    "float32": 1,
    "uint8": 2,
    "int8": 3,
    "uint16": 4,
    "int16": 5,
    "int32": 6,
    "int64": 7,
    "bool": 9,
    "float16": 10,
    "float64": 11,
    "uint32": 12,
    "uint64": 13,
}
"""Codes of ``TensorProto.DataType``."""

_GRAPH, _INITIALIZER = 7, 5
_DIMS, _TYPE, _NAME, _RAW, _EXTERNAL, _LOCATION = 1, 2, 8, 9, 13, 14
"""Numbers of the fields of ``ModelProto``, ``GraphProto`` and ``TensorProto``."""

_WITHIN: Final[dict[str, dict[int, str]]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
"""Messages in messages, by the numbers of their fields, as far as they lead to tensors."""


def with_tensors(graph: bytes, arrays: Arrays) -> bytes:
    """A complete ONNX file from a weight-less graph and its tensors.

    Raises:
        DeploymentError: ONNX has no such type of number.

    Cost:
        One copy of everything.
    """
    return b"".join([graph, *(piece for name in arrays for piece in _stored(name, arrays[name]))])


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor's values lie: bytes of a file, which need not be one on a disk."""

    file: str
    offset: int


def with_references(graph: bytes, arrays: Arrays, places: Mapping[str, Place]) -> bytes:
    """The graph with names, types and sizes of its tensors, whose values lie elsewhere.

    Args:
        graph: The graph without tensors.
        arrays: Its tensors.
        places: Where each of them lies.

    Raises:
        DeploymentError: ONNX has no such type of number.
    """
    pieces = [graph]
    for name, array in arrays.items():
        place = places[name]
        told = {"location": place.file, "offset": str(place.offset), "length": str(array.nbytes)}
        entries = (_message(1, key.encode()) + _message(2, value.encode()) for key, value in told.items())
        elsewhere = b"".join(_message(_EXTERNAL, entry) for entry in entries) + _number(_LOCATION, 1)
        pieces.append(_initializer(_head(name, array) + elsewhere))
    return b"".join(pieces)


def names_files(graph: bytes) -> bool:
    """Whether a graph says that a tensor of it lies in a file.

    Raises:
        DeploymentError: The bytes are damaged.

    Cost:
        Milliseconds.
    """
    return _names_files(memoryview(graph), "model")


def _names_files(message: memoryview, kind: str) -> bool:
    for field, content in _fields(message):
        if kind == "tensor" and field in (_EXTERNAL, _LOCATION):
            return True
        if field in _WITHIN[kind] and _names_files(content, _WITHIN[kind][field]):
            return True
    return False


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Numbers of a message's fields, with the bytes of those that hold text or messages."""
    place = 0
    while place < len(message):
        key, place = _read_varint(message, place)
        size = {1: 8, 5: 4}.get(key & 7, 0)
        if key & 7 == 0:
            _, place = _read_varint(message, place)
        elif key & 7 == 2:
            size, place = _read_varint(message, place)
        elif not size:
            raise DeploymentError(f"the graph is damaged: no field is of kind {key & 7}")
        if place + size > len(message):
            raise DeploymentError("the graph is damaged: it ends too early")
        yield key >> 3, message[place : place + size]
        place += size


def _read_varint(message: memoryview, place: int) -> tuple[int, int]:
    """A number, and the place behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if place + shift // 7 >= len(message):
            raise DeploymentError("the graph is damaged: it ends too early")
        byte = message[place + shift // 7]
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place + shift // 7 + 1
    raise DeploymentError("the graph is damaged: a number has no end")


def _stored(name: str, array: np.ndarray) -> Iterator[bytes | memoryview]:
    """Pieces of an initializer, its values not copied."""
    head = _head(name, array) + _varint(_RAW << 3 | 2) + _varint(array.nbytes)
    yield _initializer(head, more=array.nbytes)
    yield np.ravel(array).view(np.uint8).data


def _initializer(tensor: bytes, *, more: int = 0) -> bytes:
    """``model { graph { initializer { tensor } } }``, where ``more`` bytes of the tensor follow."""
    inner = _varint(_INITIALIZER << 3 | 2) + _varint(len(tensor) + more) + tensor
    return _varint(_GRAPH << 3 | 2) + _varint(len(inner) + more) + inner


def _head(name: str, array: np.ndarray) -> bytes:
    if array.dtype.name not in _TYPES:
        raise DeploymentError(f"tensor {name!r} has numbers of type {array.dtype}; ONNX takes {', '.join(_TYPES)}")
    sizes = b"".join(_number(_DIMS, size) for size in array.shape)
    return sizes + _number(_TYPE, _TYPES[array.dtype.name]) + _message(_NAME, name.encode())


def _message(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _varint(value: int) -> bytes:
    """Groups of seven bits, lowest first; all but the last have the eighth bit set.

    >>> list(_varint(1)), list(_varint(300))
    ([1], [172, 2])
    """
    groups = bytearray()
    while value > 127:
        groups.append(value & 127 | 128)
        value >>= 7
    return bytes([*groups, value])
