"""What a backend is: who turns a weight-less graph and the tensors of one width into something that runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

Order = Literal["contiguous", "channels_last"]
"""How a tensor of four dimensions lies in memory."""

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
        order: How it wants the tensors it is given to lie in memory.
        keeps_arrays: Whether a session reads them where they are until it is closed; otherwise it has copied them.
    """

    order: Order
    keeps_arrays: bool

    def prepare(self, graph: bytes) -> None:
        """Do ahead, for a graph that may be built later, what needs no tensors."""
        ...

    def build(self, graph: bytes, arrays: Arrays, signature: Signature) -> Session:
        """A session from a weight-less graph and finished tensors by part name."""
        ...

    def tidy(self) -> None:
        """Give back memory that is kept for the next session."""
        ...
