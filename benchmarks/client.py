"""Requests that come when they are due, whether or not the server keeps up."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

_PATIENCE = 60.0
_IDLE = 2.0


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What became of a request.

    Attributes:
        due: When it was due, in seconds from the beginning.
        latency: Seconds from then to the last byte of the answer; infinite if there was none.
        width: The width that answered; None after a failure.
    """

    due: float
    latency: float
    width: str | None


@dataclass
class Client:
    """Connections to a server on this machine, kept open and used again."""

    port: int
    idle: list[tuple[float, asyncio.StreamReader, asyncio.StreamWriter]] = field(default_factory=list)

    async def ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """Status and body of the answer to one request."""
        reader, writer = await self._connection()
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/x-npy\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        answered = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = re.search(rb"content-length: (\d+)", answered)
        content = await reader.readexactly(int(length[1]) if length else 0)
        if b"connection: close" in answered:
            writer.close()
        else:
            self.idle.append((time.perf_counter(), reader, writer))
        return int(answered.split()[1]), content

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """One that is open; servers hang up on those that are idle for some seconds."""
        while self.idle:
            since, reader, writer = self.idle.pop()
            if time.perf_counter() - since < _IDLE and not reader.at_eof():
                return reader, writer
            writer.close()
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def predict(self, begin: float, due: float, body: bytes) -> Answer:
        """One request; whatever goes wrong is a failure of it."""
        try:
            status, content = await asyncio.wait_for(self.ask("POST", "/predict", body), _PATIENCE)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            status, content = 0, b""
        took = time.perf_counter() - begin - due
        if status != 200:
            return Answer(due=due, latency=float("inf"), width=None)
        return Answer(due=due, latency=took, width=json.loads(content)["width"])

    async def offer(self, schedule: Sequence[float], body: bytes) -> list[Answer]:
        """Every request of a schedule, in seconds from now; none waits for another one's answer."""
        begin = time.perf_counter()
        tasks: list[asyncio.Task[Answer]] = []
        for due in schedule:
            if (early := begin + due - time.perf_counter()) > 0:
                await asyncio.sleep(early)
            tasks.append(asyncio.create_task(self.predict(begin, due, body)))
        return list(await asyncio.gather(*tasks))

    async def state(self) -> dict[str, Any]:
        """What the controller says of itself."""
        return json.loads((await self.ask("GET", "/width"))[1])

    def close(self) -> None:
        """Hang up."""
        for _, _, writer in self.idle:
            writer.close()
        self.idle.clear()
