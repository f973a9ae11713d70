"""What one artifact costs over natively exported networks: latency, switching, size and memory, by runtime.

For each network, five widths (0.25, 0.5, 0.75, 1.0 and one drawn for each layer) stand in one artifact. Against each
width stands a network of that width exported by the runtime's own means from plain PyTorch, batch norm folded, and
loaded twice. All run in turn; ours is compared with both, and the second with the first as control: what that strays
from 1 is noise. All are made anew many times, for where their memory happens to lie is worth a few percent.

Each quantity of a network on a runtime is a part of the record, with its own date and machine: what a run is not asked
for (``--networks``, ``--runtimes``, ``--only``), or does not come to, stays as an earlier one has left it.

* ``onnxruntime_ratio``, ``openvino_ratio``, ``executorch_ratio``, ``torch_ratio``: latency over the native one, the
  worst cell; ``..._median`` the median of all cells; ``extracted_ratio``: the plain extracted module;
* ``onnxruntime_switch_ratio``: a width that was not in memory, over loading the file of that width natively;
  ``torch_switch_ms``: the same in PyTorch, the slowest MobileNet; ``cached_us``: a width that is in memory;
* ``artifact_size_ratio``: bytes of the file over those of the widest network's own; ``separate_size_ratio``: those of
  five files over the same; ``artifact30_size_ratio``: with thirty widths and half-precision tables;
* ``memory_ratio`` and ``peak_ratio``: memory of ONNX Runtime at one width over that of a native session, while it
  serves and at most while it is built; ``takeover_ratio``: at most while one width is built and another serves, over
  that of loading its file while a native session of the other serves.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from common import RESULTS, Ratio, circumstances, conclude, interleaved, parser, record, show
from deploy_memory import measured
from deploy_networks import NETWORKS, WIDTHS, Case, case, natives, write

import slimmable
from slimmable.export.artifact import write_artifact
from slimmable.record import Json
from slimmable.runtime import Runtime
from slimmable.runtime.backends import BackendName

BACKENDS: dict[BackendName, str] = {
    "onnx": "onnxruntime",
    "openvino": "openvino",
    "executorch": "executorch",
    "torch": "torch",
}
QUANTITIES = ("latency", "switching", "cached_us", "extracted", "memory", "sizes")
SHORTEST = 4.0
"""Milliseconds: shorter runs are repeated, or the clock would be measured."""
USUAL = 20.0
"""Milliseconds: what takes less has more rounds, for a neighbour slows the machine for longer than a run takes."""
SIDES = ("native", "ours", "control")
MOBILE = ("mobilenet_v2 torch", "mobilenet_v1_cifar torch")
"""Parts whose switches are to take no more than a millisecond."""
Part = dict[str, Any]
"""What was measured of a network on a runtime, by quantity: when, where, and what was found."""
Times = dict[str, list[float]]


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


def latencies(case: Case, backend: BackendName, batches: list[int], options: argparse.Namespace) -> list[Json]:
    """Every width and batch of a network on a runtime.

    Where a session's memory happens to lie is worth a few percent, so all sides are made anew many times, ours before
    the others or after them in turn.
    """
    cells: list[Json] = []
    for width in case.widths:
        found: dict[int, list[Times]] = {batch: [] for batch in batches}
        differences: dict[int, list[float]] = {batch: [] for batch in batches}
        make = partial(natives, case, backend, width, options.threads)
        for place in range(options.places):
            before = (make(), make()) if place % 2 else None
            with Runtime(case.artifact, backend=backend, threads=options.threads, cache=1, width=width) as runtime:
                first, second = before or (make(), make())
                runtime.tidy()
                for batch in batches:
                    x = noise(case, batch)
                    found[batch].append(timed((first, runtime.run, second), x, place, options))
                    differences[batch].append(float(np.abs(array(first(x)) - array(runtime.run(x))).max()))
            del before, first, second
            gc.collect()
        cells += [
            cell(case.name, BACKENDS[backend], width, batch, found[batch], max(differences[batch])).to_json()
            for batch in batches
        ]
    return cells


def noise(case: Case, batch: int) -> np.ndarray:
    """Made-up images."""
    side = case.inputs.shape[-1]
    return np.random.default_rng(0).standard_normal((batch, 3, side, side)).astype(np.float32)


def timed(
    made: Sequence[Callable[[np.ndarray], object]], x: np.ndarray, place: int, options: argparse.Namespace
) -> Times:
    """Milliseconds of all sides, beginning with another one at each place: who runs first has the better memory.

    Large batches take long and stray less, so they have fewer rounds.
    """
    runs = {name: partial(run, x) for name, run in zip(SIDES, made, strict=True)}
    first = place % len(SIDES)
    rounds, warm_up = (options.rounds, 2) if len(x) == 1 else (max(options.rounds // 3, 1), 1)
    return interleaved(
        {name: runs[name] for name in SIDES[first:] + SIDES[:first]},
        rounds=rounds,
        warm_up=warm_up,
        clock=options.clock,
        least=SHORTEST,
        total=rounds * USUAL,
    )


def cell(case: str, label: str, width: str, batch: int, found: list[Times], difference: float) -> Cell:
    """Ratios of all rounds, wherever the memory lay."""
    native, ours, control = ([ms for its in found for ms in its[name]] for name in SIDES)
    # Not with the mean of both: a round that was disturbed would be in it twice as often as in ours.
    over_both = Ratio.of([*ours, *ours], [*native, *control])
    return Cell(case, label, width, batch, over_both, Ratio.of(control, native), difference)


def array(value: Any) -> np.ndarray:
    """The one output, however a runtime wraps it."""
    if isinstance(value, np.ndarray):
        return value
    return array(next(iter(value.values()))) if hasattr(value, "values") else array(value[0])


def extracted(case: Case, options: argparse.Namespace) -> list[Json]:
    """The plain extracted module against a network of plain modules: itself, made a second time."""
    cells: list[Json] = []
    x = case.inputs[:1].numpy()
    for width in case.widths:
        found: list[Times] = []
        for place in range(options.places):
            made = [natives(case, "torch", width, options.threads) for _ in SIDES]
            found.append(timed(made, x, place, options))
        cells.append(cell(case.name, "extracted", width, 1, found, 0.0).to_json())
    return cells


def switching(case: Case, backend: BackendName, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Milliseconds until a width serves that was not in memory, and those of loading its own file.

    Whoever comes second finds the caches warm and memory at hand; so each comes first in turn.
    """
    with Runtime(case.artifact, backend=backend, threads=options.threads, cache=1) as runtime:
        names = list(case.widths)
        times: dict[str, dict[str, list[float]]] = {name: {} for name in names}
        sides = ["ours", "native"] if backend == "onnx" else ["ours"]
        for round_ in range(2 * max(options.rounds, 3)):
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


def sizes(case: Case, stored: int) -> dict[str, float]:
    """Bytes of the artifact, which is for ONNX Runtime alone, of the files it replaces, and of one with many widths."""
    generator = Random(1)
    many = {f"{at}": case.net.space.random_uniform(generator) for at in range(2 * stored)}
    distinct = dict(list({widths: name for name, widths in many.items()}.items())[:stored])
    many = {name: widths for widths, name in distinct.items()}
    slimmable.calibrate(case.net, [case.inputs], list(many.values()))
    thirty = case.folder / "thirty.slim"
    write_artifact(case.net, thirty, many, example_inputs=case.inputs, backends=["onnx"], tables="float16")
    files = [case.native(name, "onnx").stat().st_size for name in case.widths]
    widest = max(files)
    return {
        "artifact": case.artifact.stat().st_size,
        "widest": widest,
        "separate": sum(files),
        "thirty": thirty.stat().st_size,
        "thirty_widths": len(many),
    }


def part(case: Case, backend: BackendName, options: argparse.Namespace) -> Part:
    """Everything that is asked of a network on a runtime; sizes and memory are measured with ONNX Runtime."""
    write(case, [backend])
    batches = [int(each) for each in options.batches.split(",")]
    files = partial(case.native, suffix="onnx")
    ways: dict[str, Callable[[], Any]] = {"latency": lambda: latencies(case, backend, batches, options)}
    if backend in ("onnx", "torch"):
        ways["switching"] = lambda: switching(case, backend, options)
        ways["cached_us"] = lambda: cached(case, backend, options)
    if backend == "torch":
        ways["extracted"] = lambda: extracted(case, options)
    if backend == "onnx":
        side, times = case.inputs.shape[-1], min(options.places, 3)
        ways["memory"] = lambda: measured(case.artifact, files, list(case.widths), side=side, times=times)
        ways["sizes"] = lambda: sizes(case, options.stored)
    asked = options.only.split(",") if options.only else ways
    return {name: {**circumstances(options), "found": way()} for name, way in ways.items() if name in asked}


def every(parts: dict[str, Part], quantity: str, *, named: str = "") -> list[Any]:
    """What was found of a quantity, wherever it was measured and the part's name has this in it."""
    return [its[quantity]["found"] for name, its in parts.items() if quantity in its and named in name]


def figures_of(parts: dict[str, Part]) -> dict[str, float]:
    """What the last line says, of all parts."""
    figures: dict[str, float] = {}
    cells = [cell for what in ("latency", "extracted") for its in every(parts, what) for cell in its]
    for label in (*BACKENDS.values(), "extracted"):
        its = [cell for cell in cells if cell["backend"] == label]
        if its:
            figures[f"{label}_ratio"] = max(cell["ours"]["median"] for cell in its)
            figures[f"{label}_median"] = statistics.median(cell["ours"]["median"] for cell in its)
            figures[f"{label}_control"] = max(cell["control"]["median"] for cell in its)
            figures[f"{label}_difference"] = max(cell["difference"] for cell in its)
    cold = [each for its in every(parts, "switching", named=" onnx") for each in its.values()]
    if cold:
        figures["onnxruntime_switch_ratio"] = max(each["ours"] / each["native"] for each in cold)
    if size := every(parts, "sizes"):
        figures["artifact_size_ratio"] = max(each["artifact"] / each["widest"] for each in size)
        figures["separate_size_ratio"] = max(each["separate"] / each["widest"] for each in size)
        figures["artifact30_size_ratio"] = max(each["thirty"] / each["widest"] for each in size)
    memory = [each for its in every(parts, "memory") for each in its.values()]
    for figure, what in (("memory_ratio", ""), ("peak_ratio", "_peak"), ("takeover_ratio", "_switching")):
        # Records before 2026-12 have no takeover.
        if its := [each[f"ours{what}"] / each[f"native{what}"] for each in memory if f"ours{what}" in each]:
            figures[figure] = max(its)
    mobile = [its for name in MOBILE for its in every(parts, "switching", named=name)]
    if mobile:
        figures["torch_switch_ms"] = max(each["ours"] for its in mobile for each in its.values())
    if hits := every(parts, "cached_us"):
        figures["cached_us"] = max(hits)
    return figures


def show_all(parts: dict[str, Part]) -> None:
    """Print what was measured."""
    show(
        "Latency over natively exported networks",
        ("network, runtime, width, batch", "ms", "native ms", "ratio", "quartiles", "control", "difference"),
        [
            (
                ", ".join(str(cell[key]) for key in ("network", "backend", "width", "batch")),
                *Ratio(**cell["ours"]).cells(),
                f"{cell['control']['median']:.3f}",
                f"{cell['difference']:.1e}",
            )
            for what in ("latency", "extracted")
            for its in every(parts, what)
            for cell in its
        ],
    )
    show(
        "Switching to a width that is not in memory",
        ("network and runtime, width", "ms", "loading its own file, ms"),
        [
            (f"{name}, {width}", f"{each['ours']:.2f}", f"{each['native']:.2f}" if "native" in each else "")
            for name, its in parts.items()
            for width, each in its.get("switching", {"found": {}})["found"].items()
        ],
    )


def main() -> None:
    """Run the benchmark; see ``--help``."""
    command = parser(__doc__, rounds=6)
    command.add_argument("--networks", default=",".join(NETWORKS), help="which networks (default: all)")
    command.add_argument("--runtimes", default=",".join(BACKENDS), help="which runtimes (default: all)")
    command.add_argument("--batches", default="1,32", help="sizes of batches (default: %(default)s)")
    command.add_argument("--widths", default=",".join(WIDTHS), help="which widths (default: all)")
    command.add_argument("--places", type=int, default=9, help="how often all are made anew (default: %(default)s)")
    command.add_argument("--stored", type=int, default=30, help="widths of the large artifact (default: %(default)s)")
    command.add_argument("--only", help=f"which quantities, of {','.join(QUANTITIES)} (default: all)")
    command.add_argument("--size", type=int, help="side of the image in pixels (default: each network's own)")
    options = command.parse_args()
    if len(set(options.widths.split(","))) < 2:
        command.error("--widths: at least two, since a switch is from one to another")
    if options.only and not set(options.only.split(",")) <= set(QUANTITIES):
        command.error(f"--only {options.only}: expected some of {','.join(QUANTITIES)}")
    torch.set_num_threads(options.threads)
    chosen: list[BackendName] = [name for name in BACKENDS if name in options.runtimes.split(",")]
    known: Any = {} if options.no_record else json.loads((RESULTS / "deploy.json").read_text())["measured"]
    parts: dict[str, Part] = {f"{name} {backend}": {} for name in NETWORKS for backend in BACKENDS} | known
    for name in options.networks.split(","):
        with tempfile.TemporaryDirectory() as folder:
            each = case(name, Path(folder), options.widths.split(","), size=options.size)
            for backend in chosen:
                parts[f"{name} {backend}"] |= part(each, backend, options)
                there = {name: its for name, its in parts.items() if its}
                record("deploy", options, figures=figures_of(there), measured=there)
    there = {name: its for name, its in parts.items() if its}
    show_all(there)
    conclude("deploy", options, figures=figures_of(there), measured=there)


if __name__ == "__main__":
    main()
