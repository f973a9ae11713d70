"""How much memory a session takes: in a process of its own, since no allocator gives all of it back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from slimmable.errors import DeploymentError
from slimmable.runtime.artifact import Artifact
from slimmable.runtime.backends import BackendName
from slimmable.runtime.buffers import trim
from slimmable.runtime.engine import Runtime

_SECONDS = 600
_INTERVAL = 0.0002


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Memory of one width, in bytes over a process that has imported all it needs.

    Attributes:
        steady: While it serves, pages of the mapped file included.
        peak: The most while it was built and run first, without them: they are the system's, which may take them back
            at any time.
    """

    steady: int
    peak: int


def footprint(path: str | Path, *, backend: BackendName, index: int, batch: int = 1, threads: int = 1) -> Footprint:
    """Memory of a session, measured in a process of its own (Linux only).

    Args:
        path: The artifact.
        backend: What runs it.
        index: Which width.
        batch: Examples in a run.
        threads: Threads of a run.

    Raises:
        DeploymentError: The process failed, or this system does not tell.
    """
    if not Path("/proc/self/status").exists():
        raise DeploymentError("this system does not tell the memory of a process; expected Linux with /proc")
    arguments = json.dumps([str(path), backend, index, batch, threads])
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads or 1)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "slimmable.runtime.memory", arguments],
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
        env=environment,
    )
    if done.returncode:
        raise DeploymentError(f"measuring the memory of {backend} failed: {done.stderr.strip()[-500:]}")
    steady, peak = json.loads(done.stdout.strip().splitlines()[-1])
    return Footprint(steady=steady, peak=peak)


def example(artifact: Artifact, batch: int) -> list[np.ndarray]:
    """Inputs of noise for a batch; whole numbers are zeros, which every vocabulary has."""
    generator = np.random.default_rng(0)
    found = []
    for each in artifact.inputs:
        shape = [batch if size is None else size for size in each.shape]
        dtype = np.dtype(each.dtype)
        values = generator.standard_normal(shape) if dtype.kind == "f" else np.zeros(shape)
        found.append(values.astype(dtype))
    return found


def own_memory() -> dict[str, int]:
    """Bytes of this process that lie in memory: ``VmRSS`` all of them, ``RssAnon`` those that no file holds."""
    lines = Path("/proc/self/status").read_text().splitlines()
    found = dict(line.split(":", 1) for line in lines if line.startswith(("VmRSS", "RssAnon")))
    return {name: int(value.split()[0]) * 1024 for name, value in found.items()}


@contextmanager
def watched() -> Iterator[list[int]]:
    """Notes the most anonymous memory that this process holds meanwhile, looking thousands of times a second."""
    most, done = [own_memory()["RssAnon"]], threading.Event()

    def look() -> None:
        while not done.wait(_INTERVAL):
            most[0] = max(most[0], own_memory()["RssAnon"])

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield most
    finally:
        done.set()
        thread.join()


def _measure(path: str, backend: BackendName, index: int, batch: int, threads: int) -> Footprint:
    artifact = Artifact(path)
    inputs = example(artifact, batch)
    # Imports and thread pools are there before anything is counted: a session of the narrowest width is made first.
    with Runtime(artifact, backend=backend, threads=threads, cache=1, width=0) as small:
        small.run(*inputs)
    artifact.release()
    trim()
    before = own_memory()
    with watched() as most, Runtime(artifact, backend=backend, threads=threads, cache=1, width=index) as runtime:
        runtime.run(*inputs)
        runtime.tidy()
        after = own_memory()
    return Footprint(steady=after["VmRSS"] - before["VmRSS"], peak=most[0] - before["RssAnon"])


if __name__ == "__main__":
    measured = _measure(*json.loads(sys.argv[1]))
    print(json.dumps([measured.steady, measured.peak]))  # noqa: T201
