"""What one artifact costs over natively exported networks: latency, switching, size and memory, by runtime.

For each network, five widths (0.25, 0.5, 0.75, 1.0 and one drawn for each layer) stand in one artifact. Against each
width stands a network of that width exported by the runtime's own means from plain PyTorch, batch norm folded. Both
run in turn, with the same native network a second time as control: what that one strays from 1 is noise.

* ``onnxruntime_ratio``, ``openvino_ratio``, ``executorch_ratio``, ``torch_ratio``: latency over the native one, the
  worst cell; ``..._median`` the median of all cells; ``extracted_ratio``: the plain extracted module;
* ``onnxruntime_switch_ratio``: a width that was not in memory, over loading the file of that width natively;
  ``torch_switch_ms``: the same in PyTorch, the slowest MobileNet; ``cached_us``: a width that is in memory;
* ``artifact_size_ratio``: bytes of the file over those of the widest network's own; ``separate_size_ratio``: those of
  five files over the same; ``artifact30_size_ratio``: with thirty widths and half-precision tables;
* ``memory_ratio`` and ``peak_ratio``: memory of ONNX Runtime at one width over that of a native session.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from common import Ratio, conclude, interleaved, parser, show
from torch import Tensor, nn

import slimmable
from slimmable import SlimmableModel, Widths
from slimmable.export.artifact import write_artifact
from slimmable.models import build_model
from slimmable.record import Json
from slimmable.runtime import Artifact, Runtime
from slimmable.runtime.engine import BackendName
from slimmable.runtime.memory import footprint

NETWORKS = {
    "mobilenet_v2": ("torchvision:mobilenet_v2", 224),
    "resnet50": ("torchvision:resnet50", 224),
    "mobilenet_v1_cifar": ("slimmable:mobilenet_v1_cifar", 32),
}
BACKENDS: dict[BackendName, str] = {
    "onnx": "onnxruntime",
    "openvino": "openvino",
    "executorch": "executorch",
    "torch": "torch",
}
SHORTEST = 20.0
"""Milliseconds: shorter runs are repeated, or the clock would be measured."""

Native = Callable[[], object]


@dataclass
class Case:
    """A network, its widths, the files of both sides, and what was measured."""

    name: str
    net: SlimmableModel
    widths: dict[str, Widths]
    inputs: Tensor
    folder: Path
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def artifact(self) -> Path:
        """The file of all widths."""
        return self.folder / f"{self.name}.slim"

    def native(self, width: str, suffix: str) -> Path:
        """The file of one width."""
        return self.folder / f"{self.name}-{width}.{suffix}"


def case(name: str, folder: Path, *, size: int | None = None) -> Case:
    """A network with made-up weights and batch-norm statistics measured on noise: all but accuracy is real."""
    known, own = NETWORKS[name]
    side = size or own
    torch.manual_seed(0)
    net = slimmable.convert(build_model(known, num_classes=1000).model, torch.randn(2, 3, side, side)).eval()
    widths = {f"{ratio}": net.space.uniform(ratio) for ratio in (0.25, 0.5, 0.75, 1.0)}
    widths["drawn"] = net.space.random(Random(0))
    slimmable.calibrate(net, [torch.randn(8, 3, side, side)], list(widths.values()))
    return Case(name, net, widths, torch.randn(2, 3, side, side), folder)


def write(case: Case, backends: list[BackendName]) -> None:
    """The artifact, and a file of its own for each width and runtime."""
    write_artifact(case.net, case.artifact, case.widths, example_inputs=case.inputs, backends=backends)
    for name, widths in case.widths.items():
        plain = case.net.extract(widths, fold_batch_norm=True).eval()
        if {"onnx", "openvino"} & set(backends):
            dynamic = ({0: torch.export.Dim("batch")},)
            torch.onnx.export(
                plain,
                (case.inputs,),
                case.native(name, "onnx"),
                dynamo=True,
                dynamic_shapes=dynamic,
                external_data=False,
                verbose=False,
            )
        if "executorch" in backends:
            from slimmable.export.lowering import lowered

            case.native(name, "pte").write_bytes(lowered(plain, (case.inputs,), external=False).program)


# ---------------------------------------------------------------------------------------------------- native sides


def native_onnx(path: Path, threads: int) -> Callable[[np.ndarray], Any]:
    """A session of ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x})


def native_openvino(path: Path, threads: int) -> Callable[[np.ndarray], Any]:
    """An inference request of OpenVINO, in single precision as ours."""
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(path), "CPU", settings)
    request = compiled.create_infer_request()
    return lambda x: request.infer([x], share_inputs=True, share_outputs=False)


def native_executorch(path: Path) -> Callable[[np.ndarray], Any]:
    """A program of ExecuTorch."""
    from executorch.extension.pybindings.portable_lib import _load_for_executorch

    program = _load_for_executorch(str(path))
    return lambda x: program.forward([torch.from_numpy(x)])


def native_torch(plain: nn.Module) -> Callable[[np.ndarray], Any]:
    """A plain network in eager mode."""
    plain.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def run(x: np.ndarray) -> Tensor:
        with torch.inference_mode():
            return plain(torch.from_numpy(x).contiguous(memory_format=torch.channels_last))

    return run


def natives(case: Case, backend: BackendName, width: str, threads: int) -> Callable[[np.ndarray], Any]:
    """The natively exported network of a width."""
    match backend:
        case "onnx":
            return native_onnx(case.native(width, "onnx"), threads)
        case "openvino":
            return native_openvino(case.native(width, "onnx"), threads)
        case "executorch":
            return native_executorch(case.native(width, "pte"))
        case "torch":
            return native_torch(case.net.extract(case.widths[width], fold_batch_norm=True).eval())


# ------------------------------------------------------------------------------------------------------ measuring


@dataclass(frozen=True)
class Cell:
    """One comparison: of ours with a native network, and of that with itself."""

    case: str
    backend: str
    width: str
    batch: int
    ours: Ratio
    control: Ratio
    difference: float

    def to_json(self) -> dict[str, Json]:
        """A JSON object."""
        return {
            "network": self.case,
            "backend": self.backend,
            "width": self.width,
            "batch": self.batch,
            "ours": self.ours.to_json(),
            "control": self.control.to_json(),
            "difference": self.difference,
        }


def latencies(case: Case, backend: BackendName, batches: list[int], options: argparse.Namespace) -> list[Cell]:
    """Every width and batch of a network on a runtime."""
    cells: list[Cell] = []
    for width in case.widths:
        with Runtime(case.artifact, backend=backend, threads=options.threads, cache=1, width=width) as runtime:
            time.sleep(1.5)  # until what building left behind is tidied up
            cells += [compared(case, backend, width, batch, runtime, options) for batch in batches]
        gc.collect()
    return cells


def compared(
    case: Case, backend: BackendName, width: str, batch: int, runtime: Runtime, options: argparse.Namespace
) -> Cell:
    """A width against the native network of that width."""
    side = case.inputs.shape[-1]
    x = np.random.default_rng(0).standard_normal((batch, 3, side, side)).astype(np.float32)
    first, second = (natives(case, backend, width, options.threads) for _ in range(2))
    found = interleaved(
        {"native": lambda: first(x), "ours": lambda: runtime.run(x), "control": lambda: second(x)},
        rounds=options.rounds if batch == 1 else max(options.rounds // 3, 3),
        clock=options.clock,
        least=SHORTEST,
    )
    difference = float(np.abs(array(first(x)) - array(runtime.run(x))).max())
    ours, control = (Ratio.of(found[name], found["native"]) for name in ("ours", "control"))
    return Cell(case.name, BACKENDS[backend], width, batch, ours, control, difference)


def array(value: Any) -> np.ndarray:
    """The one output, however a runtime wraps it."""
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, Tensor):
        return value.numpy()
    return array(next(iter(value.values()))) if hasattr(value, "values") else array(value[0])


def extracted(case: Case, options: argparse.Namespace) -> list[Cell]:
    """The plain extracted module against a network of plain modules: itself, made a second time."""
    cells: list[Cell] = []
    for width, widths in case.widths.items():
        made = [native_torch(case.net.extract(widths, fold_batch_norm=True).eval()) for _ in range(3)]
        x = case.inputs[:1].numpy()
        names = ("native", "ours", "control")
        runs = {name: (lambda run=run, x=x: run(x)) for name, run in zip(names, made, strict=True)}
        found = interleaved(runs, rounds=options.rounds, clock=options.clock, least=SHORTEST)
        ours, control = (Ratio.of(found[name], found["native"]) for name in ("ours", "control"))
        cells.append(Cell(case.name, "extracted", width, 1, ours, control, 0.0))
    return cells


def switching(case: Case, backend: BackendName, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Milliseconds until a width serves that was not in memory, and those of loading its own file.

    Whoever comes second finds the caches warm and memory at hand; so each comes first in turn.
    """
    with Runtime(case.artifact, backend=backend, threads=options.threads, cache=1) as runtime:
        names = list(case.widths)
        times: dict[str, dict[str, list[float]]] = {name: {} for name in names}
        sides = ["ours", "native"] if backend == "onnx" else ["ours"]
        for round_ in range(2 * max(options.rounds // 2, 3)):
            for at, name in enumerate(names):
                runtime.set(names[at - 1])
                if backend == "onnx":
                    time.sleep(0.02)  # what the last switch left is taken apart beside
                natively: object = None
                for side in sides if round_ % 2 else reversed(sides):
                    began = time.thread_time_ns()
                    if side == "ours":
                        runtime.set(name)
                    else:
                        natively = natives(case, backend, name, options.threads)
                    times[name].setdefault(side, []).append((time.thread_time_ns() - began) / 1e6)
                del natively
    return {name: {side: statistics.median(each) for side, each in its.items()} for name, its in times.items()}


def cached(case: Case, backend: BackendName, options: argparse.Namespace) -> float:
    """Microseconds of a switch to a width that is in memory."""
    with Runtime(case.artifact, backend=backend, threads=options.threads, cache=2) as runtime:
        runtime.set(0)
        runtime.set(1)
        began = time.perf_counter_ns()
        for _ in range(1000):
            runtime.set(0)
            runtime.set(1)
        took = (time.perf_counter_ns() - began) / 2000 / 1e3
        assert set(runtime.ready) == {0, 1}
    return took


def sizes(case: Case) -> dict[str, float]:
    """Bytes of the artifact with one runtime, of the files it replaces, and of one with thirty widths."""
    one = case.folder / "one.slim"
    write_artifact(case.net, one, case.widths, example_inputs=case.inputs, backends=["onnx"])
    generator = Random(1)
    many = {f"{at}": case.net.space.random_uniform(generator) for at in range(60)}
    distinct = dict(list({widths: name for name, widths in many.items()}.items())[:30])
    many = {name: widths for widths, name in distinct.items()}
    slimmable.calibrate(case.net, [case.inputs], list(many.values()))
    thirty = case.folder / "thirty.slim"
    write_artifact(case.net, thirty, many, example_inputs=case.inputs, backends=["onnx"], tables="float16")
    files = [case.native(name, "onnx").stat().st_size for name in case.widths]
    widest = case.native("1.0", "onnx").stat().st_size
    return {
        "artifact": one.stat().st_size,
        "widest": widest,
        "separate": sum(files),
        "thirty": thirty.stat().st_size,
        "thirty_widths": len(many),
    }


_NATIVE_MEMORY = """
import json, sys, time
import numpy as np, onnxruntime
from slimmable.runtime.engine import trim
from slimmable.runtime.memory import own_memory, watched
small, path, side = sys.argv[1], sys.argv[2], int(sys.argv[3])
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
x = np.random.default_rng(0).standard_normal((1, 3, side, side)).astype(np.float32)
def load(path):
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    session.run(None, {session.get_inputs()[0].name: x})
    return session
session = load(small)
del session
trim()
before = own_memory()
with watched() as most:
    session = load(path)
    trim()
    time.sleep(0.5)
    after = own_memory()
print(json.dumps([after["VmRSS"] - before["VmRSS"], most[0] - before["RssAnon"]]))
"""


def memory(case: Case) -> dict[str, dict[str, float]]:
    """Memory of a session of ONNX Runtime: from the artifact, and from a file of its own."""
    found: dict[str, dict[str, float]] = {}
    artifact = Artifact(case.artifact)
    with ordinary_class():
        _watch(case, artifact, found)
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


def _watch(case: Case, artifact: Artifact, found: dict[str, dict[str, float]]) -> None:
    for width in case.widths:
        ours = footprint(case.artifact, backend="onnx", index=artifact.index(width))
        arguments = [str(case.native("0.25", "onnx")), str(case.native(width, "onnx")), str(case.inputs.shape[-1])]
        done = subprocess.run(
            [sys.executable, "-c", _NATIVE_MEMORY, *arguments], capture_output=True, text=True, check=True
        )
        steady, peak = json.loads(done.stdout.strip().splitlines()[-1])
        found[width] = {"ours": ours.steady, "ours_peak": ours.peak, "native": steady, "native_peak": peak}


def main() -> None:
    """Run the benchmark; see ``--help``."""
    command = parser(__doc__, rounds=15)
    command.add_argument("--networks", default=",".join(NETWORKS), help="which networks (default: all)")
    command.add_argument("--runtimes", default=",".join(BACKENDS), help="which runtimes (default: all)")
    command.add_argument("--batches", default="1,32", help="sizes of batches (default: %(default)s)")
    command.add_argument("--size", type=int, help="side of the image in pixels (default: each network's own)")
    options = command.parse_args()
    torch.set_num_threads(options.threads)
    chosen: list[BackendName] = [name for name in BACKENDS if name in options.runtimes.split(",")]
    batches = [int(each) for each in options.batches.split(",")]
    cells: list[Cell] = []
    switches: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    size: dict[str, dict[str, float]] = {}
    held: dict[str, dict[str, dict[str, float]]] = {}
    hits: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.networks.split(","):
            each = case(name, Path(folder), size=options.size)
            write(each, chosen)
            for backend in chosen:
                cells += latencies(each, backend, batches, options)
                if backend in ("onnx", "torch"):
                    switches[name, backend] = switching(each, backend, options)
                    hits.append(cached(each, backend, options))
            cells += extracted(each, options)
            if "onnx" in chosen:
                size[name] = sizes(each)
                held[name] = memory(each)
    figures: dict[str, float] = {}
    for label in (*BACKENDS.values(), "extracted"):
        its = [cell for cell in cells if cell.backend == label]
        if its:
            figures[f"{label}_ratio"] = max(cell.ours.median for cell in its)
            figures[f"{label}_median"] = statistics.median(cell.ours.median for cell in its)
            figures[f"{label}_control"] = max(cell.control.median for cell in its)
            figures[f"{label}_difference"] = max(cell.difference for cell in its)
    if "onnx" in chosen:
        cold = [each for (_, backend), its in switches.items() if backend == "onnx" for each in its.values()]
        figures["onnxruntime_switch_ratio"] = max(each["ours"] / each["native"] for each in cold)
        figures["artifact_size_ratio"] = max(each["artifact"] / each["widest"] for each in size.values())
        figures["separate_size_ratio"] = max(each["separate"] / each["widest"] for each in size.values())
        figures["artifact30_size_ratio"] = max(each["thirty"] / each["widest"] for each in size.values())
        every = [each for its in held.values() for each in its.values()]
        figures["memory_ratio"] = max(each["ours"] / each["native"] for each in every)
        figures["peak_ratio"] = max(each["ours_peak"] / each["native_peak"] for each in every)
    if "torch" in chosen:
        mobile = [its for (name, backend), its in switches.items() if backend == "torch" and "mobilenet" in name]
        figures["torch_switch_ms"] = max((each["ours"] for its in mobile for each in its.values()), default=0.0)
    if hits:
        figures["cached_us"] = max(hits)
    show(
        "Latency over natively exported networks",
        ("network, runtime, width, batch", "ms", "native ms", "ratio", "quartiles", "control", "difference"),
        [
            (
                f"{cell.case}, {cell.backend}, {cell.width}, {cell.batch}",
                *cell.ours.cells(),
                f"{cell.control.median:.3f}",
                f"{cell.difference:.1e}",
            )
            for cell in cells
        ],
    )
    show(
        "Switching to a width that is not in memory",
        ("network, runtime, width", "ms", "loading its own file, ms"),
        [
            (
                f"{name}, {backend}, {width}",
                f"{each['ours']:.2f}",
                f"{each['native']:.2f}" if "native" in each else "",
            )
            for (name, backend), its in switches.items()
            for width, each in its.items()
        ],
    )
    facts: Any = {
        "cells": [cell.to_json() for cell in cells],
        "switching": {f"{name} {backend}": its for (name, backend), its in switches.items()},
        "sizes": size,
        "memory": held,
    }
    conclude("deploy", options, figures=figures, measured=facts)


if __name__ == "__main__":
    main()
