"""Connections that are not kept open for those who send nothing."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

MOST = 512
"""Connections that are open at once, well below the 1,024 files that a process may usually have open."""


class Connection(H11Protocol):
    """HTTP as uvicorn speaks it, with an end to a connection on which no request begins for a while.

    Uvicorn itself waits for the head of a request for ever, and takes as many connections as come. Its settings say how
    long (``timeout_keep_alive``, after a request too if its head comes in pieces) and how many
    (``limit_concurrency``).
    """

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a connection, or hang up if there are too many."""
        super().connection_made(transport)  # pyright: ignore[reportArgumentType]  uvicorn narrows it
        if self.limit_concurrency is not None and len(self.connections) > self.limit_concurrency:
            self.transport.abort()
        else:
            self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._forget()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Wait for another request."""
        super().on_response_complete()
        self._expect()

    def _expect(self) -> None:
        self._forget()
        self._timer = self.loop.call_later(self.timeout_keep_alive, self._hang_up, self.cycle)

    def _forget(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _hang_up(self, last: Any) -> None:
        # A cycle is a request whose head is complete: a new one has begun, or the last one still goes on.
        if self.cycle is last and (last is None or last.response_complete):
            self.transport.close()
