"""The command line of the server; nothing heavy is imported here."""

from __future__ import annotations

import argparse
import re
from typing import Any

from slimmable.errors import DeploymentError

_UNITS = {
    "time": {"us": 1e-3, "ms": 1.0, "s": 1e3},
    "size": {"kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30},
}


def milliseconds(text: str) -> float:
    """A time with its unit, in milliseconds.

    Raises:
        DeploymentError: The text has another form.

    >>> milliseconds("20ms"), milliseconds("0.02s"), milliseconds("500us")
    (20.0, 20.0, 0.5)
    """
    return _quantity(text, "time", "20ms or 0.02s")


def size(text: str) -> int:
    """A size with its unit, in bytes.

    Raises:
        DeploymentError: The text has another form.

    >>> size("64MB"), size("16MiB")
    (64000000, 16777216)
    """
    return int(_quantity(text, "size", "64MB or 16MiB"))


def _quantity(text: str, kind: str, example: str) -> float:
    found = re.fullmatch(r"(\d+\.?\d*|\.\d+)\s*([A-Za-z]+)", text)
    if found is None or found[2] not in _UNITS[kind]:
        raise DeploymentError(f"{text!r} is no {kind} with a unit; expected one such as {example}")
    return float(found[1]) * _UNITS[kind][found[2]]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give a parser the options of the server."""
    add = parser.add_argument
    add("artifact", metavar="MODEL", help="an artifact, such as model.slim")
    add("--latency", metavar="TIME", help="serve the widest that keeps to it, such as 20ms; the widest if not given")
    add("--percentile", type=float, default=95.0, metavar="P", help="of the latencies, that is to keep to it")
    add("--memory", metavar="SIZE", help="serve only widths whose tensors fit into it, such as 64MB")
    add("--width", metavar="NAME", help="serve this stored width and no other")
    add("--lenient", action="store_true", help="serve the narrowest if no width keeps to the budget")
    add("--backend", default="onnx", metavar="NAME", help="onnx, openvino, torch or executorch")
    add("--threads", type=int, default=1, metavar="N", help="threads of a run")
    add("--sessions", type=int, default=2, metavar="N", help="sessions that are kept; with 1 memory is least")
    add("--profile", metavar="FILE", help="keep the times of this device there; in the user's cache if not given")
    add("--host", default="127.0.0.1", metavar="ADDRESS", help="where to listen; by default for this machine only")
    add("--port", type=int, default=8000, metavar="N", help="0 takes any that is free")
    add("--max-batch", type=int, default=8, metavar="N", help="most examples of a run and of a request")
    add("--max-wait", default="2ms", metavar="TIME", help="how long a run waits for others, where batches pay")
    add("--queue", type=int, default=64, metavar="N", help="requests taken at once; more are told to come again")
    add("--max-body", default="16MiB", metavar="SIZE", help="most bytes of a request")
    add("--top", type=int, default=5, metavar="N", help="classes in an answer")


def run(options: Any) -> int:
    """Serve as the options say, until a signal comes.

    Raises:
        DeploymentError: An option that makes no sense, or a budget that cannot be met.
        MissingDependencyError: A package of the extra ``serve`` is not installed.
    """
    from slimmable.runtime.server.serving import serve
    from slimmable.runtime.server.settings import Settings

    settings = Settings(
        host=options.host,
        port=options.port,
        max_batch=options.max_batch,
        max_wait_ms=milliseconds(options.max_wait),
        queue=options.queue,
        max_body_bytes=size(options.max_body),
        top=options.top,
    )
    serve(
        options.artifact,
        settings,
        latency_ms=milliseconds(options.latency) if options.latency else None,
        percentile=options.percentile,
        memory_mb=size(options.memory) / 1e6 if options.memory else None,
        width=options.width,
        backend=options.backend,
        threads=options.threads,
        sessions=options.sessions,
        strict=not options.lenient,
        cache=options.profile or True,
    )
    return 0
