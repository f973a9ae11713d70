"""Progress of a pass over data, on a terminal."""

from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from rich.console import Console
from rich.progress import track

Item = TypeVar("Item")


def watched(batches: Iterable[Item], description: str, *, progress: bool) -> Iterator[Item]:
    """The same batches, with a bar on standard error if that is a terminal and ``progress`` is wanted."""
    console = Console(stderr=True)
    if not (progress and console.is_terminal):
        yield from batches
        return
    total = len(batches) if isinstance(batches, Sized) else None
    yield from track(batches, description, total=total, console=console, transient=True)
