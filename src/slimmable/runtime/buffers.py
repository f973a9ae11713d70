"""Memory that the tensors of widths lie in, one after the other: a page that was touched before costs nothing again."""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from slimmable.runtime.parts import Frame


class Buffer:
    """Memory for the tensors of any width, and what was worked out for widths that were there.

    Args:
        nbytes: Its size.

    Attributes:
        content: Its bytes.
        bound: By the place of a width, what writes its tensors here, and what makes a session of them.
    """

    def __init__(self, nbytes: int) -> None:
        # Private pages: of shared ones, which are the default, madvise gives none back.
        self._pages = mmap.mmap(-1, nbytes) if sys.platform == "win32" else mmap.mmap(-1, nbytes, mmap.MAP_PRIVATE)
        self.content = np.frombuffer(self._pages, np.uint8)
        self.bound: dict[int, tuple[Frame, Callable[[], Any]]] = {}

    def shrink(self, used: int) -> bool:
        """Give back the pages behind the first ``used`` bytes; whether the system takes pages of what stays."""
        if sys.platform != "linux":
            return False
        first = -(-used // mmap.PAGESIZE) * mmap.PAGESIZE
        if first < len(self._pages):
            self._pages.madvise(mmap.MADV_DONTNEED, first)
        return True


class Buffers:
    """Equally large buffers, one of which is kept for the next switch.

    Pages that the system has to hand out and clear take longer than the tensors take to be written. So a buffer that is
    given back is used again; :meth:`tidy` returns its pages.

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
        self._spare: Buffer | None = None

    def take(self) -> Buffer:
        """A buffer; what is in it is anybody's."""
        spare, self._spare = self._spare, None
        return Buffer(self._nbytes) if spare is None else spare

    def give(self, buffer: Buffer) -> None:
        """Take a buffer back."""
        self._spare = buffer

    def tidy(self) -> None:
        """Give the spare buffer's pages back to the system, and keep what was worked out for it."""
        if self._spare is not None and not self._spare.shrink(0):
            self._spare = None


def trim() -> None:
    """Give the memory that a build left in the allocator back to the system, where there is a way."""
    if sys.platform == "linux":
        _trim_glibc()


def _trim_glibc() -> None:
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):  # another C library, which keeps less
        return
