"""One artifact running on one backend: sessions of the widths used last; the next is built beside the one that serves.

A request takes the session that serves when it begins and keeps it to its end, whatever is switched meanwhile; a
session that is dropped closes when nobody refers to it any more, behind its last request. So no request fails or waits
because of a switch, and at the width that serves none takes a lock: behind a run that went through the whole cache,
every line of Python costs a microsecond.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from weakref import finalize

from slimmable.core.space import Widths
from slimmable.errors import DeploymentError
from slimmable.runtime.artifact import Artifact
from slimmable.runtime.backends import BackendName, backend_named, graphs_of
from slimmable.runtime.base import Options, Session, Signature
from slimmable.runtime.buffers import Buffer, Buffers, trim

Width = int | str | float | Widths
"""A stored width: its place, its name (``"0.5"`` or 0.5), or its channels."""


_TIDY_SECONDS = 1.0
"""Memory that switches leave behind is kept so long, for the next one."""

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Live:
    """A session and the buffer of its tensors; whoever runs it refers to this, and behind the last it is closed."""

    session: Session
    buffer: Buffer | None
    nbytes: int


class Runtime:
    """A network that runs at the stored widths of an artifact.

    Args:
        artifact: The file, or one that was opened.
        backend: What runs it.
        threads: Threads of one run; 0 leaves it to the backend.
        cache: Sessions that are kept, the active one included; each holds the weights of its width. With 1, that of a
            request at another width stays beside the active one until the next :meth:`set`.
        width: The one to begin with; the widest if None.

    Raises:
        ArtifactError: The file is damaged, or has no graphs for the backend.
        MissingDependencyError: The backend is not installed.

    Example::

        runtime = Runtime("model.slim")
        runtime.set("0.5")
        scores, = runtime.run(images)       # (B, 3, 224, 224) float32 -> (B, 1000)
    """

    def __init__(
        self,
        artifact: Artifact | str | Path,
        *,
        backend: BackendName = "onnx",
        threads: int = 1,
        cache: int = 2,
        width: Width | None = None,
    ) -> None:
        if cache < 1:
            raise DeploymentError(f"cache is {cache}; expected at least the one session that serves")
        if threads < 0:
            raise DeploymentError(f"threads is {threads}; expected a count, or 0 for the backend's own choice")
        self.artifact = artifact if isinstance(artifact, Artifact) else Artifact(artifact)
        self.backend: BackendName = backend
        self._cache = cache
        self._engine = backend_named(backend, Options(threads=threads))
        self._signature = Signature(
            inputs=tuple(each.name for each in self.artifact.inputs),
            outputs=tuple(each.name for each in self.artifact.outputs),
        )
        self._lock = threading.Lock()
        self._building = threading.Lock()
        self._live: OrderedDict[int, _Live] = OrderedDict()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="slimmable-switch")
        self._tidying: threading.Timer | None = None
        self._closing = threading.Event()
        self._built = 0.0
        self._serving: _Live | None = None
        self._failures: dict[int, str] = {}
        self._closed = False
        self._graphs = graphs_of(backend)
        for at in range(len(self.artifact.widths)):
            self._engine.prepare(self.artifact.graph(self._graphs, at))
        largest = max(self.artifact.nbytes(self._graphs, at) for at in range(len(self.artifact.widths)))
        self._buffers = Buffers(largest)
        first = len(self.artifact.widths) - 1 if width is None else self.artifact.index(width)
        self._active = first
        self._wanted: int | None = first
        self._build(first, serve=True)

    @property
    def active(self) -> int:
        """The place of the width that serves."""
        return self._active

    @property
    def ready(self) -> tuple[int, ...]:
        """Places of the widths that have a session."""
        with self._lock:
            return tuple(self._live)

    @property
    def failures(self) -> dict[int, str]:
        """By its place, why a width could not be built in the background; until it is asked for again."""
        with self._lock:
            return dict(self._failures)

    def set(self, width: Width, *, wait: bool = True) -> None:
        """Serve at another width.

        Args:
            width: Which one.
            wait: Whether to return when it serves. Otherwise it is built beside the one that serves, and takes its
                place when it is ready; of several that are asked for meanwhile the last one counts. If it cannot be
                built, the one before serves on; the log and :attr:`failures` say why.

        Raises:
            ArtifactError: It is not stored.
        """
        index = self.artifact.index(width)
        with self._lock:
            self._refuse_closed()
            self._wanted = index
            self._failures.pop(index, None)
            if index in self._live:
                self._activate(index)
                if closing := self._surplus(index):
                    self._worker.submit(closing.clear)
                return
            if not wait:
                self._worker.submit(self._switch, index)
                return
        self._build(index, serve=True)

    def build(self, width: Width) -> Future[None]:
        """Make a session ahead of its use, in the background.

        Raises:
            ArtifactError: It is not stored.
            DeploymentError: The runtime has been closed.
        """
        index = self.artifact.index(width)
        with self._lock:
            self._refuse_closed()
            return self._worker.submit(self._build, index)

    def run(self, *inputs: Any, at: Width | None = None) -> list[Any]:
        """Outputs, in order, for inputs in order.

        Args:
            *inputs: Arrays whose first dimension is the batch.
            at: Another width for this request alone; it is built first where it has no session.

        Raises:
            DeploymentError: The inputs do not fit the network.
        """
        live = self._serving if at is None else self._at(self.artifact.index(at))
        if live is None:
            raise _closed()
        try:
            return live.session.run(inputs)
        finally:
            del live  # in a traceback it would keep the session open

    def nbytes(self, width: Width) -> int:
        """Bytes of the tensors of a width."""
        return self.artifact.nbytes(self._graphs, self.artifact.index(width))

    def tidy(self) -> None:
        """Give back what switches left behind: spare memory, pages of the file, and what the allocator keeps.

        It happens by itself when no switch has come for a second.
        """
        with self._building:
            self._buffers.tidy()
            self._engine.tidy()
            with self._lock:
                kept = [(live.buffer, live.nbytes) for live in self._live.values() if live.buffer is not None]
            for buffer, size in kept:
                buffer.shrink(size)
            self.artifact.release()
        trim()

    def close(self) -> None:
        """Finish what is running, and give back the memory."""
        with self._lock:
            self._closed = True
            tidying, self._tidying = self._tidying, None
        self._closing.set()
        if tidying is not None:
            tidying.cancel()
            tidying.join()
        self._worker.shutdown(wait=True)
        with self._lock:
            self._serving, closing = None, [*self._live.values()]
            self._live.clear()
        closing.clear()
        self._buffers.tidy()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ------------------------------------------------------------------------------------------------------ within

    def _at(self, index: int) -> _Live:
        """The session of a width, which is built first where there is none."""
        while True:
            with self._lock:
                self._refuse_closed()
                if index in self._live:
                    self._live.move_to_end(index)
                    return self._live[index]
            self._build(index)

    def _switch(self, index: int) -> None:
        if self._wanted != index or self._closed:
            return
        try:
            self._build(index, serve=True)
        except Exception as error:  # nobody waits for it: whoever asked looks into the failures
            if self._closed:
                return
            names = [each.name for each in self.artifact.widths]
            _log.exception("width %s cannot be built; %s serves on", names[index], names[self._active])
            with self._lock:
                self._failures[index] = f"{type(error).__name__}: {error}"
                if self._wanted == index:
                    self._wanted = None

    def _activate(self, index: int) -> None:
        self._live.move_to_end(index)
        self._active, self._serving = index, self._live[index]

    def _build(self, index: int, *, serve: bool = False) -> None:
        """Make the session of a width where there is none, drop those used longest ago, and let it serve if wanted."""
        with self._building:
            with self._lock:
                self._refuse_closed()
                known = index in self._live
                closing = self._taken_up(index, serve=serve) if known else []
            if not known:
                made = self._made(index)
                with self._lock:
                    if self._closed:  # meanwhile; nobody else knows of the session
                        made = None
                        raise _closed()
                    self._live[index] = made
                    made = None
                    closing = self._taken_up(index, serve=serve)
        if closing:
            self._let_go(closing)
        if not known:
            self._tidy_later()

    def _taken_up(self, index: int, *, serve: bool) -> list[_Live]:
        """Let a width that has a session serve if wanted; what is too much then."""
        if serve and self._wanted == index:
            self._activate(index)
        return self._surplus(index)

    def _surplus(self, index: int) -> list[_Live]:
        """Drop the sessions used longest ago, but not this one; they are closed when the list is cleared."""
        over = [each for each in self._live if each not in (self._active, index)]
        return [self._live.pop(each) for each in over[: max(len(self._live) - self._cache, 0)]]

    def _let_go(self, closing: list[_Live]) -> None:
        """Close sessions at once if the next switch wants their buffer, else in the background, for that takes time."""
        with self._lock:
            if not self._engine.keeps_arrays and not self._closed:
                self._worker.submit(closing.clear)
                return
        closing.clear()

    def _made(self, index: int) -> _Live:
        buffer = self._buffers.take()
        session = self._filled(buffer, index)()
        if self._engine.keeps_arrays:
            live = _Live(session, buffer, self.artifact.nbytes(self._graphs, index))
            finalize(live, _finished, session, self._buffers, buffer).atexit = False
        else:
            self._buffers.give(buffer)
            live = _Live(session, None, 0)
            finalize(live, session.close).atexit = False
        return live

    def _filled(self, buffer: Buffer, index: int) -> Callable[[], Session]:
        """What makes the session of a width from a buffer, which holds its tensors now."""
        if self.artifact.in_integers(self._graphs):  # tensors of its own: a kept one would double the memory
            arrays = self.artifact.arrays(self._graphs, index, layout=self._engine.layout, buffer=buffer.content)
            return self._engine.bind(self.artifact.graph(self._graphs, index), arrays, self._signature)
        known = buffer.bound.get(index)
        if known is None:
            frame = self.artifact.frame(self._graphs, index, layout=self._engine.layout, buffer=buffer.content)
            frame.write()
            made = self._engine.bind(self.artifact.graph(self._graphs, index), frame.arrays, self._signature)
            buffer.bound[index] = (frame, made)
            return made
        frame, made = known
        frame.write()
        return made

    def _tidy_later(self) -> None:
        """See that somebody tidies up when no switch has come for a while; starting a thread takes longer than one."""
        self._built = time.monotonic()
        with self._lock:
            if self._tidying is None and not self._closed:
                self._tidying = threading.Timer(_TIDY_SECONDS, self._tidy_when_idle)
                self._tidying.daemon = True
                self._tidying.start()

    def _tidy_when_idle(self) -> None:
        while (left := self._built + _TIDY_SECONDS - time.monotonic()) > 0:
            if self._closing.wait(left):
                return
        with self._lock:
            self._tidying = None
        self.tidy()

    def _refuse_closed(self) -> None:
        if self._closed:
            raise _closed()


def _finished(session: Session, buffers: Buffers, buffer: Buffer) -> None:
    session.close()
    buffers.give(buffer)


def _closed() -> DeploymentError:
    return DeploymentError("the runtime has been closed; open the artifact again")
