"""What a backend is: who turns a weight-less graph and the tensors of one width into something that runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol

import numpy as np

Order = Literal["contiguous", "channels_last"]
"""How a tensor of four dimensions lies in memory."""

Work = Callable[[], object]
"""Something that is done again and again with the same memory."""


def products(values: np.ndarray, scale: np.ndarray, out: np.ndarray) -> Work:
    """What writes products into an array, by NumPy; the scale is stretched to the values' shape.

    >>> out = np.empty((2, 2), np.float32)
    >>> _ = products(np.ones((2, 2), np.float32), np.float32([[2], [3]]), out)()
    >>> out.tolist()
    [[2.0, 2.0], [3.0, 3.0]]
    """
    return partial(np.multiply, values, scale, out)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How tensors are wanted.

    Attributes:
        order: How one of four dimensions lies in memory.
        strided: Whether the rows of a matrix may lie apart.
        products: What multiplies; all ways give the same bits.
    """

    order: Order = "contiguous"
    strided: bool = False
    products: Callable[[np.ndarray, np.ndarray, np.ndarray], Work] = products


Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Options:
    """How sessions run.

    Attributes:
        threads: Threads of one run; 0 leaves it to the backend.
    """

    threads: int = 1


@dataclass(frozen=True, kw_only=True)
class Signature:
    """Names of a network's inputs and outputs, in order.

    Attributes:
        inputs: Names of the inputs.
        outputs: Names of the outputs.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class Session(Protocol):
    """A network of one width, ready to run; safe to call from several threads."""

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        """Outputs in order, for inputs in order; the first dimension of each is the batch."""
        ...

    def close(self) -> None:
        """Give back what it holds; it is not run again."""
        ...


class Backend(Protocol):
    """A runtime of this machine.

    Attributes:
        layout: How it wants the tensors that it is given.
        keeps_arrays: Whether a session reads them where they are until it is closed; otherwise it has copied them.
    """

    layout: Layout
    keeps_arrays: bool

    def prepare(self, graph: bytes) -> None:
        """Do ahead, for a graph that may be built later, what needs no tensors."""
        ...

    def bind(self, graph: bytes, arrays: Arrays, signature: Signature) -> Callable[[], Session]:
        """What makes sessions from a weight-less graph and tensors by part name, whose numbers are always the same."""
        ...

    def tidy(self) -> None:
        """Give back memory that is kept for the next session."""
        ...
