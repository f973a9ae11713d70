"""What every stored width takes on this machine: latency, throughput, memory, measured in turn, round after round."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from slimmable.errors import DeploymentError
from slimmable.record import Json, environment
from slimmable.runtime.artifact import Artifact
from slimmable.runtime.backends import BackendName, backends_from
from slimmable.runtime.engine import Runtime
from slimmable.runtime.memory import Footprint, example, footprint

SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Row:
    """One width on one backend with one size of batch.

    Attributes:
        backend: The runtime.
        width: Its name.
        batch: Examples in a run.
        milliseconds: Median latency of a run.
        low: Its first quartile.
        high: Its third quartile.
        throughput: Examples in a second.
        memory: While it serves and while it is built; None where it was not measured.
    """

    backend: str
    width: str
    batch: int
    milliseconds: float
    low: float
    high: float
    throughput: float
    memory: Footprint | None = None


def bench(
    path: str | Path,
    *,
    backends: Sequence[BackendName] | None = None,
    batches: Sequence[int] = (1,),
    threads: int = 1,
    rounds: int = 30,
    memory: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Row]:
    """Latency, throughput and memory of every width of an artifact.

    Everything is run once in every round, in random order, so that what else the machine does falls on all alike.

    Args:
        path: The artifact.
        backends: Runtimes; those it was written for if None.
        batches: Examples in a run.
        threads: Threads of a run.
        rounds: How often each is timed.
        memory: Whether to measure memory too, each width in a process of its own.
        progress: Told how much of the timing is done.

    Raises:
        DeploymentError: Nothing to measure.
        ArtifactError: The file has no graphs for one of the backends.
    """
    artifact = Artifact(path)
    if rounds < 2 or not batches or min(batches) < 1:
        raise DeploymentError(f"expected at least 2 rounds and batches of 1 or more, got {rounds} and {list(batches)}")
    if artifact.batch is not None and {*batches} != {artifact.batch}:
        raise DeploymentError(
            f"this network runs batches of {artifact.batch} alone, for its code fixes them; got {list(batches)}"
        )
    names = backends_from(",".join(artifact.backends)) if backends is None else backends
    count = len(artifact.widths)
    runtimes: dict[BackendName, Runtime] = {
        name: Runtime(artifact, backend=name, threads=threads, cache=count) for name in dict.fromkeys(names)
    }
    try:
        inputs = {batch: example(artifact, batch) for batch in dict.fromkeys(batches)}
        cells: list[tuple[BackendName, int, int]] = [
            (name, at, batch) for name in runtimes for at in range(count) for batch in inputs
        ]
        for name, at, batch in cells:  # builds and warms up
            runtimes[name].set(at)
            runtimes[name].run(*inputs[batch], at=at)
        times: dict[tuple[BackendName, int, int], list[float]] = {cell: [] for cell in cells}
        order = random.Random(0)
        for done in range(rounds):
            order.shuffle(cells)
            for cell in cells:
                name, at, batch = cell
                began = time.perf_counter()
                runtimes[name].run(*inputs[batch], at=at)
                times[cell].append(1e3 * (time.perf_counter() - began))
            progress(done + 1, rounds)
    finally:
        for runtime in runtimes.values():
            runtime.close()
    rows: list[Row] = []
    for (name, at, batch), found in sorted(times.items()):
        low, median, high = statistics.quantiles(found, method="inclusive")
        rows.append(
            Row(
                backend=name,
                width=artifact.widths[at].name,
                batch=batch,
                milliseconds=median,
                low=low,
                high=high,
                throughput=1e3 * batch / median,
                memory=footprint(path, backend=name, index=at, batch=batch, threads=threads) if memory else None,
            )
        )
    return rows


def record(path: str | Path, rows: Sequence[Row], *, threads: int) -> dict[str, Json]:
    """What was measured, as JSON that :meth:`slimmable.LatencyModel.fit` can be given (see ``slimmable profile``)."""
    artifact = Artifact(path)
    widths = {each.name: each.widths.to_json() for each in artifact.widths}
    listed: list[Json] = [
        {
            "backend": row.backend,
            "width": row.width,
            "widths": dict(widths[row.width]),
            "batch": row.batch,
            "milliseconds": row.milliseconds,
            "low": row.low,
            "high": row.high,
            "throughput": row.throughput,
            "memory": None if row.memory is None else {"steady": row.memory.steady, "peak": row.memory.peak},
        }
        for row in rows
    ]
    return {
        "schema": SCHEMA_VERSION,
        "artifact": {"name": artifact.name, "digest": artifact.digest, "bytes": artifact.path.stat().st_size},
        "environment": environment(device="cpu", threads=threads),
        "rows": listed,
    }
