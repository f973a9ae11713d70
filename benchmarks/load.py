"""A server on this machine while the load doubles and halves: the controller against fixed widths.

Requests are due at random times (a Poisson process, the same for all) at a rate that doubles from step to step and
then halves again; latencies count from when a request was due, so a server that falls behind cannot hide it. Three
servers get the same load, one after the other: one that keeps to a target, one fixed at the widest and one at the
narrowest width. Each second is a window; without the first two seconds after a change of the rate, ``held`` is the
share of those windows in which the 95th percentile of the controller's latencies is within the target, of all in which
some of the three is. ``work`` is the time of the widths that answered, over that of the widest.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import math
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from client import Answer, Client
from common import RESULTS, conclude, show

from slimmable.record import Json, atomic_write_text
from slimmable.report.chart import line_chart, stacked
from slimmable.runtime.server.options import milliseconds

SETTLING = 2
PERCENTILE = 95
DRAWN = 4
"""Latencies are drawn up to so many times the target."""
WIDEST, NARROWEST, CONTROLLER = "widest", "narrowest", "controller"


@dataclass(frozen=True, kw_only=True)
class Second:
    """One window.

    Attributes:
        second: Its beginning.
        rate: Requests offered a second, as planned.
        requests: Requests that were due in it.
        failed: Those without an answer.
        p50_ms: Median latency; infinite where failures are.
        p95_ms: The percentile that the target is for.
        widths: Requests by the width that answered.
    """

    second: int
    rate: float
    requests: int
    failed: int
    p50_ms: float
    p95_ms: float
    widths: dict[str, int]


def main() -> None:
    """Run the benchmark."""
    options = arguments()
    target = milliseconds(options.target)
    runs: dict[str, list[list[Second]]] = {}
    states: dict[str, list[Json]] = {}
    profile: dict[str, float] = {}
    rates: list[float] = []
    for round_ in range(options.rounds):
        names = [CONTROLLER, WIDEST, NARROWEST]
        # Each begins in turn, for the machine may get busier or quieter.
        for name in names[round_ % 3 :] + names[: round_ % 3]:
            fixed = {WIDEST: -1, NARROWEST: 0}.get(name)
            width = list(profile)[fixed] if fixed is not None and profile else None
            with server(options, width) as port:
                if not profile:
                    profile = asyncio.run(state_of(port))["profile_ms"]
                    rates = steps(profile, options)
                if fixed is not None and width is None:
                    asyncio.run(pin(port, list(profile)[fixed]))
                answers, state = asyncio.run(offered(port, schedule(rates, options, seed=round_), body(options)))
            runs.setdefault(name, []).append(windows(answers, rates, options.seconds))
            states.setdefault(name, []).append(state)
    figures = summary(runs, target, options.seconds, profile)
    display(runs, figures, options.seconds)
    if not options.no_record:
        atomic_write_text(RESULTS / "load.svg", picture(runs, target, list(profile)))
    facts: dict[str, Json] = {
        "target_ms": target,
        "profile_ms": dict(profile),
        "rates": list(rates),
        "windows": {name: [[readable(each) for each in run] for run in several] for name, several in runs.items()},
        "states": {name: list(several) for name, several in states.items()},
    }
    options.model = Path(options.model).name  # where it lies is nobody's business
    conclude("load", options, figures=figures, measured=facts)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help="an artifact; or with --made-up the time of its widest width, such as 20ms")
    add("--made-up", action="store_true", help="a network that only waits, in widths of 0.2 to 1 of it")
    add("--target", default="40ms", metavar="TIME", help="for the 95th percentile (default: %(default)s)")
    add("--shape", default="3,224,224", metavar="C,H,W", help="size of one input (default: %(default)s)")
    add("--seconds", type=int, default=10, metavar="N", help="of each step (default: %(default)s)")
    add("--doublings", type=int, default=3, metavar="N", help="of the load (default: %(default)s)")
    add("--first", type=float, default=0.3, metavar="R", help="first load, of what the widest can do")
    add("--backend", default="onnx", metavar="NAME", help="runtime below (default: %(default)s)")
    add("--threads", type=int, default=1, metavar="N", help="threads of a run (default: %(default)s)")
    add("--queue", type=int, default=256, metavar="N", help="requests that a server takes at once")
    add("--rounds", type=int, default=1, metavar="N", help="how often everything is done (default: %(default)s)")
    add("--no-record", action="store_true", help="print figures only, write no file")
    return parser.parse_args()


@contextmanager
def server(options: argparse.Namespace, width: str | None) -> Iterator[int]:
    """The port of a server process of its own."""
    program = [str(Path(__file__).with_name("load_server.py")), "--shape", options.shape]
    common = ["--port", "0", "--latency", options.target, "--lenient", "--queue", str(options.queue)]
    real = ["-m", "slimmable.runtime.server", "--backend", options.backend, "--threads", str(options.threads)]
    command = [sys.executable, *(program if options.made_up else real), options.model, *common]
    process = subprocess.Popen([*command, *(["--width", width] if width else [])], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said: list[str] = []
    try:
        for line in process.stderr:
            said.append(line)
            if found := re.search(r"running on http://[\d.]+:(\d+)", line):
                break
        else:
            sys.exit("the server did not start:\n" + "".join(said))
        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield int(found[1])
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


async def state_of(port: int) -> dict[str, Any]:
    """What a server says of itself."""
    client = Client(port)
    try:
        return await client.state()
    finally:
        client.close()


async def pin(port: int, width: str) -> None:
    """Have a server stay at a width."""
    client = Client(port)
    status, content = await client.ask("PUT", "/width", f'{{"width": "{width}"}}'.encode())
    client.close()
    assert status == 200, content


async def offered(port: int, times: Sequence[float], content: bytes) -> tuple[list[Answer], Json]:
    """What became of all requests, and what the server says of itself at the end."""
    client = Client(port)
    try:
        answers = await client.offer(times, content)
        return answers, await client.state()
    finally:
        client.close()


def steps(profile: Mapping[str, float], options: argparse.Namespace) -> list[float]:
    """Requests a second: doubled from step to step, then halved."""
    first = options.first * 1e3 / max(profile.values())
    up = [first * 2**step for step in range(options.doublings + 1)]
    return [*up, *reversed(up[:-1])]


def schedule(rates: Sequence[float], options: argparse.Namespace, *, seed: int) -> list[float]:
    """When requests are due: independent of each other."""
    generator = np.random.default_rng(seed)
    found: list[float] = []
    for step, rate in enumerate(rates):
        count = generator.poisson(rate * options.seconds)
        found += sorted(generator.uniform(step * options.seconds, (step + 1) * options.seconds, count).tolist())
    return found


def body(options: argparse.Namespace) -> bytes:
    """One request's tensor."""
    shape = [int(size) for size in options.shape.split(",")]
    file = io.BytesIO()
    np.save(file, np.random.default_rng(0).integers(0, 255, shape, np.uint8))
    return file.getvalue()


def windows(answers: Sequence[Answer], rates: Sequence[float], seconds: int) -> list[Second]:
    """Every second of a run."""
    by_second: dict[int, list[Answer]] = {second: [] for second in range(len(rates) * seconds)}
    for each in answers:
        by_second[int(each.due)].append(each)
    return [
        Second(
            second=second,
            rate=rates[second // seconds],
            requests=len(these),
            failed=sum(each.width is None for each in these),
            p50_ms=quantile(these, 50),
            p95_ms=quantile(these, PERCENTILE),
            widths=dict(Counter(each.width for each in these if each.width is not None)),
        )
        for second, these in by_second.items()
    ]


def quantile(answers: Sequence[Answer], percentile: float) -> float:
    """The latency in milliseconds that so many per cent do not exceed; 0 if there were no requests."""
    ordered = sorted(1e3 * each.latency for each in answers)
    return ordered[math.ceil(len(ordered) * percentile / 100) - 1] if ordered else 0.0


def summary(
    runs: Mapping[str, Sequence[Sequence[Second]]], target: float, seconds: int, profile: Mapping[str, float]
) -> dict[str, float]:
    """Shares of windows within the target, failures, and work done, of the three."""
    held: Counter[str] = Counter()
    possible = 0
    for three in zip(*(runs[name] for name in runs), strict=True):
        for same in zip(*three, strict=True):
            good = {name: each.p95_ms <= target for name, each in zip(runs, same, strict=True)}
            if same[0].second % seconds >= SETTLING and same[0].requests and any(good.values()):
                possible += 1
                held.update(name for name in good if good[name])
    every = {name: [each for run in several for each in run] for name, several in runs.items()}
    work = {
        name: sum(profile[width] * count for each in these for width, count in each.widths.items())
        / max(1, sum(count for each in these for count in each.widths.values()))
        / max(profile.values())
        for name, these in every.items()
    }
    return {
        "held": held[CONTROLLER] / max(1, possible),
        "held_widest": held[WIDEST] / max(1, possible),
        "held_narrowest": held[NARROWEST] / max(1, possible),
        "windows": possible,
        "failed": sum(each.failed for each in every[CONTROLLER]),
        "failed_widest": sum(each.failed for each in every[WIDEST]),
        "work": work[CONTROLLER],
        "work_narrowest": work[NARROWEST],
    }


def display(runs: Mapping[str, Sequence[Sequence[Second]]], figures: Mapping[str, float], seconds: int) -> None:
    """A table of the first round: each step's latencies and widths."""
    rows: list[tuple[str, ...]] = []
    for begin in range(0, len(runs[CONTROLLER][0]), seconds):
        settled = {name: several[0][begin + SETTLING : begin + seconds] for name, several in runs.items()}
        widths = sum((Counter(each.widths) for each in settled[CONTROLLER]), Counter())
        used = " ".join(f"{width}:{count / max(1, widths.total()):.0%}" for width, count in sorted(widths.items()))
        p95 = (f"{np.median([each.p95_ms for each in settled[name]]):.1f}" for name in (CONTROLLER, WIDEST, NARROWEST))
        rows.append((f"{begin} s, {settled[CONTROLLER][0].rate:.0f}/s", *p95, used))
    show("median of the windows' p95 in ms, after settling", ("step", CONTROLLER, WIDEST, NARROWEST, "widths"), rows)
    print(f"{figures['windows']:.0f} windows in which the target can be held")


def picture(runs: Mapping[str, Sequence[Sequence[Second]]], target: float, widths: Sequence[str]) -> str:
    """Load, latencies and widths over time, of the first round."""
    first = {name: several[0] for name, several in runs.items()}
    ours = first[CONTROLLER]
    top = DRAWN * target
    latencies = {name: [(each.second + 0.5, min(each.p95_ms, top)) for each in run] for name, run in first.items()}
    used = [
        (each.second + 0.5, sum(widths.index(name) * count for name, count in each.widths.items()) / each.requests)
        for each in ours
        if each.widths and each.requests
    ]
    return stacked(
        [
            line_chart(
                {"offered": [(each.second + 0.5, each.requests) for each in ours]},
                title="Load",
                x="seconds",
                y="requests a second",
            ),
            line_chart(
                latencies,
                title=f"Latency; what took longer than {top:g} ms, or failed, is drawn there",
                x="seconds",
                y="p95 of each second, ms",
                levels={"target": target},
            ),
            line_chart(
                {"mean": used},
                title="Width that the controller chose",
                x="seconds",
                y="place of the width",
                levels={name: float(place) for place, name in enumerate(widths)},
            ),
        ]
    )


def readable(each: Second) -> Json:
    """A window as JSON; what is infinite becomes null."""
    return {
        name: round(value, 3) if isinstance(value, float) and math.isfinite(value) else value
        for name, value in asdict(each).items()
    }


if __name__ == "__main__":
    main()
