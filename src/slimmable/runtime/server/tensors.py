"""Tensors from the bodies of requests; nothing is allocated before its size is known to be right."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from slimmable.runtime.server.refusals import Refused
from slimmable.runtime.switchable import Input

MAGIC = b"\x93NUMPY"
_KINDS = "fiub"
_LONGEST_HEADER = 4096
_ENTRIES = (
    r"'descr': *'([<>]f[248]|[|<>][iu]1|[<>][iu][248]|\|b1)'",
    r"'fortran_order': *(True|False)",
    r"'shape': *\(((?:\d{1,9}, *)*(?:\d{1,9})?)\)",
)
_ENTRY = f"(?:{'|'.join(_ENTRIES)})"
_HEADER = re.compile(rf"\{{ *(?:{_ENTRY}, *){{2}}{_ENTRY},? *\}} *\n?")


def from_npy(body: bytes, inputs: Sequence[Input], most: int) -> list[np.ndarray]:
    """The only input of a network, from the file format of numpy.

    The header is read by three patterns instead of an evaluation of Python literals, and the data are a view of the
    body. Files that hold Python objects are refused.

    Args:
        body: The file.
        inputs: What the network takes.
        most: Most examples.

    Raises:
        Refused: The file is damaged, or does not fit.
    """
    [only] = _single(inputs)
    shape, fortran, kind, offset = _header(body)
    expected = math.prod(shape) * kind.itemsize
    if len(body) - offset != expected:
        raise Refused(
            "malformed", f"the .npy file holds {len(body) - offset} bytes of data; its header says {expected}"
        )
    _examples(only, shape, most)
    values = np.frombuffer(body, kind, offset=offset).reshape(shape, order="F" if fortran else "C")
    return [_finite(only, values)]


def from_json(body: bytes, inputs: Sequence[Input], most: int) -> list[np.ndarray]:
    """Inputs from JSON: a nested list for a network with one input, or an object of nested lists by name.

    Raises:
        Refused: The text is not JSON, or does not fit.
    """
    try:
        text = body.decode()
        found = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Refused("malformed", f"the body is not JSON: {_short(error)}") from error
    named = found if isinstance(found, dict) else {_single(inputs)[0].name: found}
    names = [each.name for each in inputs]
    if sorted(named) != sorted(names):
        raise Refused("malformed", f"the body has inputs {_listed(named)}; expected {_listed(names)}")
    # Checked before numpy would make an array as wide as the longest text.
    if text.count('"') != (2 * len(named) if isinstance(found, dict) else 0):
        raise Refused("malformed", "the body holds text; expected numbers in nested lists")
    arrays = [_numbers(each, named[each.name], most) for each in inputs]
    if len({len(array) for array in arrays}) != 1:
        raise Refused("malformed", f"inputs hold {[len(array) for array in arrays]} examples; expected equal numbers")
    return arrays


def _numbers(expected: Input, value: Any, most: int) -> np.ndarray:
    try:
        array = np.asarray(value, np.float64)
    except (ValueError, TypeError, OverflowError, RecursionError, MemoryError) as error:
        raise Refused("malformed", f"input {expected.name!r} is no tensor of numbers: {_short(error)}") from error
    _examples(expected, array.shape, most)
    return _finite(expected, array)


def _header(body: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, order, type, and where the data begin."""
    first = {b"\x01\x00": 10, b"\x02\x00": 12, b"\x03\x00": 12}.get(body[6:8], 0)
    length = int.from_bytes(body[8:first], "little")
    text = body[first : first + length].decode("latin-1")
    whole = body[:6] == MAGIC and first > 0 and len(text) == length <= _LONGEST_HEADER and _HEADER.fullmatch(text)
    kind, order, shape = (re.search(pattern, text) for pattern in _ENTRIES)
    if not whole or kind is None or order is None or shape is None:
        raise Refused("malformed", "the body is no .npy file of plain numbers; expected what numpy.save writes")
    sizes = tuple(int(size) for size in shape[1].split(",") if size.strip())
    return sizes, order[1] == "True", np.dtype(kind[1]), first + length


def _examples(expected: Input, shape: tuple[int, ...], most: int) -> None:
    """Pass if an array of this shape is one example, or several."""
    wanted = tuple(expected.shape[1:])
    own = shape[1:] if len(shape) == len(wanted) + 1 else shape
    if len(own) != len(wanted) or any(
        size < 1 or size != (want or size) for size, want in zip(own, wanted, strict=True)
    ):
        sizes = ", ".join("any" if want is None else str(want) for want in wanted)
        raise Refused(
            "malformed", f"input {expected.name!r} has shape {list(shape)}; expected [{sizes}], or several such"
        )
    if len(shape) == len(wanted) + 1 and not 1 <= shape[0] <= most:
        raise Refused("malformed", f"input {expected.name!r} holds {shape[0]} examples; expected 1 to {most}")


def _finite(expected: Input, values: np.ndarray) -> np.ndarray:
    """The values in the type of the network, with a dimension for the batch."""
    with np.errstate(over="ignore", invalid="ignore"):
        array = np.ascontiguousarray(values, np.dtype(expected.dtype))
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise Refused("malformed", f"input {expected.name!r} holds values that are not finite in {array.dtype}")
    if array.dtype.kind != "f" and not np.array_equal(array, values):
        raise Refused("malformed", f"input {expected.name!r} holds values that are no {array.dtype}")
    return array if array.ndim == len(expected.shape) else array[None]


def _single(inputs: Sequence[Input]) -> Sequence[Input]:
    if len(inputs) != 1:
        names = _listed([each.name for each in inputs])
        raise Refused("malformed", f"the network takes the inputs {names}; expected a JSON object with all of them")
    return inputs


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _listed(names: Any) -> str:
    return ", ".join(sorted(map(repr, names)))[:200] or "none"


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
