"""What the benchmarks share: how they measure, and how they say what they found.

Machines are never quiet. Whatever is compared is run in turn, in one process, round after round; each round gives one
ratio, and the median of these ratios is the figure. Memory given back to the system between steps costs up to 11 % of
a step on Linux and falls on whoever runs next, so glibc is told to keep it before the process starts.
"""

from __future__ import annotations

import argparse
import gc
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from slimmable.record import Json, atomic_write_json, environment, now

RESULTS = Path(__file__).parent / "results"
Clock = Literal["wall", "cpu"]

_MALLOC = {
    "MALLOC_TRIM_THRESHOLD_": "4000000000",
    "MALLOC_MMAP_THRESHOLD_": "4000000000",
    "MALLOC_TOP_PAD_": "67108864",
}


def start_over_with_tuned_malloc() -> None:
    """Start this script again with glibc's thresholds set, unless they are: malloc reads them before ``main``."""
    if all(os.environ.get(name) == value for name, value in _MALLOC.items()):
        return
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **_MALLOC})


def parser(description: str | None, *, rounds: int) -> argparse.ArgumentParser:
    """A command line with the options of every benchmark."""
    options = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    options.add_argument("--rounds", type=int, default=rounds, help="rounds of each comparison (default: %(default)s)")
    options.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), help="threads of torch (default: %(default)s)"
    )
    options.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="wall time, or CPU time of the process: on a machine with other work, cpu with --threads 1",
    )
    options.add_argument("--no-record", action="store_true", help="print figures only, write no file")
    return options


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """How many times longer one thing takes than another, from rounds in which both ran.

    Attributes:
        median: Median of the rounds' ratios.
        low: Their first quartile.
        high: Their third quartile.
        milliseconds: Median time of the one.
        reference: Median time of the other, in milliseconds.
    """

    median: float
    low: float
    high: float
    milliseconds: float
    reference: float

    @staticmethod
    def of(times: Sequence[float], reference: Sequence[float]) -> Ratio:
        """From times in milliseconds, round by round.

        >>> Ratio.of([2.0, 3.0, 9.0], [2.0, 2.0, 3.0]).median
        1.5
        """
        ratios = [ours / theirs for ours, theirs in zip(times, reference, strict=True)]
        low, median, high = statistics.quantiles(ratios, method="inclusive")
        return Ratio(
            median=median,
            low=low,
            high=high,
            milliseconds=statistics.median(times),
            reference=statistics.median(reference),
        )

    def to_json(self) -> dict[str, Json]:
        """A JSON object."""
        return {name: round(value, 6) for name, value in asdict(self).items()}

    def cells(self) -> tuple[str, ...]:
        """The columns of a table: both times, ratio, quartiles."""
        return (
            f"{self.milliseconds:.2f}",
            f"{self.reference:.2f}",
            f"{self.median:.3f}",
            f"{self.low:.3f} .. {self.high:.3f}",
        )


def interleaved(
    runs: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    clock: Clock,
    before: Callable[[str], object] | None = None,
    warm_up: int = 2,
    least: float = 0.0,
    total: float = 0.0,
) -> dict[str, list[float]]:
    """Milliseconds of every run in every round.

    Each round runs all of them, beginning with another one than the round before, so that none always follows the
    same neighbour. The garbage collector runs between the rounds only.

    Args:
        runs: What to time, by name.
        rounds: Rounds that count.
        clock: ``wall``, or ``cpu`` time of the process.
        before: Called with the name before each run, not timed.
        warm_up: Rounds before those that count.
        least: Milliseconds that a run takes at least: what is shorter is run several times, and its mean counts.
        total: Milliseconds that the rounds of a run take together at least: what is shorter has more of them.
    """
    read = time.perf_counter_ns if clock == "wall" else time.process_time_ns
    names = list(runs)
    times: dict[str, list[float]] = {name: [] for name in names}
    repeats = 1
    collecting = gc.isenabled()
    gc.disable()
    gc.collect()
    gc.freeze()  # what lives already is not looked through in each round: that takes longer than many a run
    try:
        round_ = -warm_up
        while round_ < rounds:
            gc.collect()
            first = round_ % len(names)
            for name in names[first:] + names[:first]:
                if before is not None:
                    before(name)
                begin = read()
                for _ in range(repeats):
                    runs[name]()
                times[name].append((read() - begin) / 1e6 / repeats)
            round_ += 1
            if round_ == 0:
                shortest = max(min(its[-1] for its in times.values()), 1e-6)
                repeats = max(1, math.ceil(least / shortest))
                rounds = max(rounds, math.ceil(total / (repeats * shortest)))
                times = {name: [] for name in names}
    finally:
        gc.unfreeze()
        if collecting:
            gc.enable()
    return times


def peak_bytes(run: Callable[[], object]) -> int:
    """Most bytes of tensors alive at once during ``run``, of those allocated in it: the profiler's allocations, summed.

    What lives before and is freed inside does not count.
    """
    run()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        run()
    # The profiler's own table leaves out what is allocated inside operators.
    results: Any = profiler.profiler and profiler.profiler.kineto_results
    events = [event for event in results.events() if event.name() == "[memory]"]
    assert events, "the profiler saw no allocation"
    alive = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    return peak


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; its first column holds names, the others numbers."""
    table = Table(title=title, title_justify="left")
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def record(
    name: str, options: argparse.Namespace, *, figures: Mapping[str, float], measured: Mapping[str, Json]
) -> None:
    """Write ``results/NAME.json``, whole or not at all; nothing with ``--no-record``.

    Args:
        name: The benchmark.
        options: Its command line, kept in the file.
        figures: What its last line says.
        measured: Everything measured, raw times included.
    """
    if options.no_record:
        return
    result: dict[str, Json] = {
        "benchmark": name,
        **circumstances(options),
        "figures": dict(figures),
        "measured": dict(measured),
    }
    atomic_write_json(RESULTS / f"{name}.json", result)


def circumstances(options: argparse.Namespace) -> dict[str, Json]:
    """When, where and how something is measured."""
    chosen: dict[str, Json] = {key: value for key, value in vars(options).items() if key != "no_record"}
    return {
        "created": now(),
        "environment": environment(threads=torch.get_num_threads(), malloc=_malloc()),
        "options": chosen,
    }


def _malloc() -> dict[str, Json]:
    """Thresholds of glibc's that this process was started with."""
    return {name: os.environ[name] for name in _MALLOC if name in os.environ}


def conclude(
    name: str, options: argparse.Namespace, *, figures: Mapping[str, float], measured: Mapping[str, Json]
) -> None:
    """As :func:`record`; then print the figures as the last line."""
    record(name, options, figures=figures, measured=measured)
    print(" ".join(f"{key}={value:.4g}" for key, value in figures.items()))
