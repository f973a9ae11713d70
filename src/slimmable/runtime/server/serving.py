"""A server as a process: the model, the application, and an orderly end."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slimmable.errors import MissingDependencyError
from slimmable.runtime.controller import AdaptiveModel
from slimmable.runtime.metrics import PrometheusMetrics
from slimmable.runtime.server.settings import Settings
from slimmable.runtime.switchable import Switchable


def serve(
    runtime: Switchable | str | Path,
    settings: Settings | None = None,
    *,
    latency_ms: float | None = None,
    percentile: float = 95,
    memory_mb: float | None = None,
    width: str | None = None,
    backend: str = "onnx",
    threads: int = 1,
    sessions: int = 2,
    strict: bool = True,
    cache: bool | str | Path = True,
) -> None:
    """Answer requests over HTTP until SIGINT or SIGTERM; requests that were accepted are answered first.

    Args:
        runtime: The path of an artifact, or a runtime.
        settings: How the server listens and what it accepts.
        latency_ms: Target for the latency, from arrival to answer, in milliseconds; see
            :class:`~slimmable.runtime.controller.AdaptiveModel` for this and what follows.
        percentile: The percentile of the latencies that is to be below it.
        memory_mb: Only widths whose tensors take at most so many megabytes serve.
        width: Serve this width and no other.
        backend: The runtime below, if ``runtime`` is a path.
        threads: Threads of a run.
        sessions: Sessions that are kept, if ``runtime`` is a path.
        strict: Whether a budget that no width meets is an error.
        cache: Where the times of this device are kept.

    Raises:
        DeploymentError: No width meets the budget, or the artifact does not fit what the server does.
        MissingDependencyError: A package of the extra ``serve`` is not installed.
    """
    try:
        import uvicorn

        from slimmable.runtime.server.app import create_app
        from slimmable.runtime.server.connections import MOST, Connection
    except ImportError as error:
        if isinstance(error, MissingDependencyError):
            raise
        raise MissingDependencyError(
            f"serving needs {error.name}, which is not installed: pip install 'slimmable[serve]'", name=error.name
        ) from error
    settings = settings or Settings()
    model = AdaptiveModel(
        runtime,
        latency_ms=latency_ms,
        percentile=percentile,
        memory_mb=memory_mb,
        backend=backend,
        threads=threads,
        sessions=sessions,
        strict=strict,
        cache=cache,
        batches=(1, settings.max_batch),
        metrics=PrometheusMetrics(),
    )
    with model:
        if width is not None:
            model.pin(width)
        config = uvicorn.Config(
            create_app(model, settings=settings),
            host=settings.host,
            port=settings.port,
            access_log=False,
            http=Connection,
            limit_concurrency=MOST,
            timeout_keep_alive=math.ceil(settings.read_seconds),
            timeout_graceful_shutdown=math.ceil(settings.drain_seconds),
        )
        with _ended_by_signals():
            uvicorn.Server(config).run()


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """End in order at a signal, whenever it comes.

    Uvicorn stops at a signal and then sends it again, to whoever listened before: here nobody needs to. One that comes
    before uvicorn listens ends what has begun.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        yield
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)
