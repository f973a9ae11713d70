"""What a checkpoint holds of a network besides its weights: its graph, from which it runs without the user's code."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from slimmable.errors import CheckpointError

_MAXIMUM_BYTES = 1 << 28
"""Of a graph's text; that of a network with ten thousand operators takes about a hundredth of it."""


@dataclass(frozen=True, kw_only=True)
class Portable:
    """A network's graph as compressed JSON, and the constant tensors it reads; or the reason why there is none.

    ``extra`` are extra states of modules whose code is not here, kept for the next file.

    >>> Portable(graph=packed({"calls": []})).reason is None
    True
    """

    graph: bytes = b""
    constants: dict[str, Tensor] = field(default_factory=dict)
    reason: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def portable(self) -> Portable:
        """Itself: what was read from a file is written as it was."""
        return self

    def __deepcopy__(self, _memo: dict[int, Any]) -> Portable:
        return self


class Origin(Protocol):
    """Where a network comes from: a conversion or a file."""

    def portable(self) -> Portable:
        """Its graph for a checkpoint."""
        ...


def packed(value: Any) -> bytes:
    """JSON as compressed bytes.

    >>> unpacked(packed([1, {"two": None}]))
    [1, {'two': None}]
    """
    return zlib.compress(json.dumps(value, separators=(",", ":"), allow_nan=False).encode(), 9)


def unpacked(content: bytes) -> Any:
    """The inverse of :func:`packed`.

    Raises:
        CheckpointError: The bytes are damaged.
    """
    try:
        inflating = zlib.decompressobj()
        text = inflating.decompress(content, _MAXIMUM_BYTES)
        if not inflating.eof:
            raise ValueError("it ends too early, or is larger than any network's")
        return json.loads(text)
    except (zlib.error, ValueError, RecursionError) as error:
        raise CheckpointError(f"the network's graph in the file is damaged: {error}; copy the file again") from error
