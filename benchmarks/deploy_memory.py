"""Memory of sessions of ONNX Runtime, from an artifact and from files of their own; run as a script in a new process.

All figures are bytes over a process that has imported all it needs, and has made and dropped a session.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from slimmable.runtime import Artifact, Runtime
from slimmable.runtime.buffers import trim
from slimmable.runtime.memory import own_memory, watched


def measured(
    artifact: Path, native: Callable[[str], Path], widths: list[str], *, side: int, times: int
) -> dict[str, dict[str, float]]:
    """Of both sides: by width, memory while it serves, the most while it is built, and the most while it takes over.

    Args:
        artifact: The file of all widths.
        native: The file of one width.
        widths: Names of the widths; each takes over from the one before, the first from the last.
        side: Pixels of the image.
        times: How often each is measured, in processes of their own; the medians count.
    """
    files = {width: str(native(width)) for width in widths}
    found: dict[str, dict[str, float]] = {}
    with ordinary_class():
        for width in widths:
            rows = [
                {
                    f"{kind}{what}": nbytes
                    for kind in ("ours", "native")
                    for what, nbytes in _asked(kind, artifact, files, width, side).items()
                }
                for _ in range(times)
            ]
            found[width] = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
    return found


@contextmanager
def ordinary_class() -> Iterator[None]:
    """Inside, no real-time class, in which a thread that watches memory would wait for what it watches."""
    before, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    try:
        yield
    finally:
        os.sched_setscheduler(0, before, parameters)


def _asked(kind: str, artifact: Path, files: dict[str, str], width: str, side: int) -> dict[str, int]:
    arguments = json.dumps([kind, str(artifact), files, width, side])
    done = subprocess.run(
        [sys.executable, __file__, arguments], capture_output=True, text=True, timeout=600, check=False
    )
    if done.returncode:
        raise RuntimeError(f"memory of {kind} sessions at width {width} was not measured:\n{done.stderr}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def _main(kind: str, path: str, files: dict[str, str], width: str, side: int) -> dict[str, int]:
    names = list(files)
    before, least = names[names.index(width) - 1], names[0]
    x = np.random.default_rng(0).standard_normal((1, 3, side, side)).astype(np.float32)
    return (_ours if kind == "ours" else _native)(path, files, least, before, width, x)


def _ours(path: str, files: dict[str, str], least: str, before: str, width: str, x: np.ndarray) -> dict[str, int]:
    artifact = Artifact(path)
    with Runtime(artifact, threads=1, cache=1, width=least) as small:
        small.run(x)
    artifact.release()
    trim()
    start = own_memory()
    with watched() as most, Runtime(artifact, threads=1, cache=1, width=width) as runtime:
        runtime.run(x)
        runtime.tidy()
        steady, peak = own_memory()["VmRSS"] - start["VmRSS"], most[0] - start["RssAnon"]
    trim()
    with Runtime(artifact, threads=1, cache=1, width=before) as runtime:
        runtime.run(x)
        runtime.tidy()
        target = artifact.index(width)
        with watched() as most:
            runtime.set(width, wait=False)
            while runtime.active != target:
                runtime.run(x)
            runtime.run(x)
            runtime.tidy()
    return {"": steady, "_peak": peak, "_switching": most[0] - start["RssAnon"]}


def _native(path: str, files: dict[str, str], least: str, before: str, width: str, x: np.ndarray) -> dict[str, int]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1

    def load(name: str) -> Any:
        session = onnxruntime.InferenceSession(files[name], options, providers=["CPUExecutionProvider"])
        session.run(None, {session.get_inputs()[0].name: x})
        return session

    session = load(least)
    del session
    trim()
    start = own_memory()
    with watched() as most:
        session = load(width)
        trim()
        steady, peak = own_memory()["VmRSS"] - start["VmRSS"], most[0] - start["RssAnon"]
    del session
    trim()
    serving = load(before)
    trim()
    with watched() as most:
        serving = load(width)  # the one before goes only when this one is there
    del serving
    return {"": steady, "_peak": peak, "_switching": most[0] - start["RssAnon"]}


if __name__ == "__main__":
    print(json.dumps(_main(*json.loads(sys.argv[1]))))
