"""What the controller and the server ask of a runtime: the narrow side of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from slimmable.core.space import Widths
from slimmable.errors import WidthError
from slimmable.runtime.manifest import Cost


class Stored(Protocol):
    """A stored width."""

    @property
    def name(self) -> str:
        """What people call it."""
        ...

    @property
    def widths(self) -> Widths:
        """Channels of every group."""
        ...

    @property
    def costs(self) -> Mapping[str, Cost]:
        """Costs by name."""
        ...


class Input(Protocol):
    """An input of the network."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def shape(self) -> Sequence[int | None]:
        """Its sizes; None for those that are free, the batch at least."""
        ...

    @property
    def dtype(self) -> str:
        """Its type, by numpy's name."""
        ...


class Facts(Protocol):
    """What an artifact says of itself."""

    @property
    def widths(self) -> Sequence[Stored]:
        """The stored widths."""
        ...

    @property
    def path(self) -> Path:
        """The file."""
        ...

    @property
    def digest(self) -> str:
        """What tells this file from any other, in hexadecimal digits."""
        ...

    @property
    def inputs(self) -> Sequence[Input]:
        """The inputs, in order."""
        ...

    @property
    def labels(self) -> Sequence[str] | None:
        """Names of the classes, if outputs are scores of classes."""
        ...

    @property
    def preprocessing(self) -> Mapping[str, Any] | None:
        """How an image becomes an input, if inputs are images."""
        ...


class Switchable(Protocol):
    """A network that runs at one of several stored widths, named by their places; safe to call from many threads."""

    @property
    def artifact(self) -> Facts:
        """Where it comes from."""
        ...

    @property
    def backend(self) -> str:
        """Name of the runtime below."""
        ...

    @property
    def active(self) -> int:
        """The width that serves."""
        ...

    @property
    def ready(self) -> Sequence[int]:
        """The widths that can run at once."""
        ...

    @property
    def failures(self) -> Mapping[int, str]:
        """Why widths that were set without ``wait`` could not be built, until they are set again."""
        ...

    def set(self, index: int, *, wait: bool = True) -> None:
        """Make a width the active one; without ``wait`` the one before serves until the new one is ready, if ever."""
        ...

    def run(self, *inputs: Any, at: int | None = None) -> list[np.ndarray]:
        """Outputs in order, at the active width or ``at`` another."""
        ...

    def nbytes(self, index: int) -> int:
        """Memory of a session of a width."""
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...


def only_batch(inputs: Sequence[Input]) -> int | None:
    """The only batch that a network runs at, if its code fixes one."""
    return next((each.shape[0] for each in inputs if each.shape), None)


def place_of(width: int | float | str | Widths, stored: Sequence[Stored]) -> int:
    """The place of a stored width, given by its place, its name, or its channels.

    A float is a name: 0.5 is the width called ``0.5``.

    Raises:
        WidthError: No such width is stored.
    """
    names = [each.name for each in stored]
    if isinstance(width, Widths):
        found = [place for place, each in enumerate(stored) if each.widths == width]
    elif isinstance(width, int) and not isinstance(width, bool):
        found = [width] if 0 <= width < len(names) else []
    else:
        texts = {str(width), f"{width:g}"} if isinstance(width, float) else {width}
        found = [place for place, name in enumerate(names) if name in texts]
    if not found:
        raise WidthError(f"there is no stored width {width!r}; the widths are {', '.join(names)}")
    return found[0]


def by_cost(stored: Sequence[Stored]) -> tuple[int, ...] | None:
    """Places of stored widths, cheapest first: by MACs, or the first cost that all state; None if there is none."""
    common = [name for name in stored[0].costs if all(name in each.costs for each in stored)]
    if not common:
        return None
    cost = "macs" if "macs" in common else common[0]
    return tuple(sorted(range(len(stored)), key=lambda place: stored[place].costs[cost].value))
