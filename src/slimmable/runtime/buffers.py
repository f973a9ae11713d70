"""Memory that the tensors of widths lie in, one after the other: a page that was touched before costs nothing again."""

from __future__ import annotations

import mmap
import sys

import numpy as np


class Buffers:
    """Equally large buffers, one of which is kept for the next switch.

    Pages that the system has to hand out and clear take longer than the tensors take to be written. So a buffer that is
    given back is used again, until :meth:`tidy` returns what nobody uses.

    Args:
        nbytes: Size of each; the widest width's.

    Example:
        >>> buffers = Buffers(1 << 16)
        >>> first = buffers.take()
        >>> buffers.give(first)
        >>> buffers.take() is first
        True
    """

    def __init__(self, nbytes: int) -> None:
        self._nbytes = max(nbytes, 1)
        self._spare: np.ndarray | None = None

    def take(self) -> np.ndarray:
        """A buffer; what is in it is anybody's."""
        spare, self._spare = self._spare, None
        if spare is not None:
            return spare
        return np.frombuffer(mmap.mmap(-1, self._nbytes), np.uint8)

    def give(self, buffer: np.ndarray) -> None:
        """Take a buffer back."""
        self._spare = buffer

    def tidy(self) -> None:
        """Give the spare buffer back to the system."""
        self._spare = None


def shrink(buffer: np.ndarray, used: int) -> None:
    """Give back the pages of a buffer behind the first ``used`` bytes, which a wider width has left."""
    pages = buffer.base
    if sys.platform == "linux" and isinstance(pages, mmap.mmap):
        first = -(-used // mmap.PAGESIZE) * mmap.PAGESIZE
        if first < len(pages):
            pages.madvise(mmap.MADV_DONTNEED, first)
