"""A server for ``load.py`` whose network is made up: a run waits for as long as its width says."""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from slimmable.core.space import Widths
from slimmable.runtime.manifest import Cost
from slimmable.runtime.server.options import add_options, milliseconds
from slimmable.runtime.server.serving import serve
from slimmable.runtime.server.settings import Settings

WIDTHS = {"0.25": 0.2, "0.5": 0.4, "0.75": 0.7, "1.0": 1.0}
"""Stored widths, and their share of the widest one's time."""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A made-up width."""

    name: str
    widths: Widths
    costs: dict[str, Cost]


@dataclass(frozen=True, kw_only=True)
class Input:
    """The made-up input."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str = "float32"


@dataclass(frozen=True, kw_only=True)
class Facts:
    """A made-up artifact."""

    widths: tuple[Stored, ...]
    inputs: tuple[Input, ...]
    path: Path = Path("made-up.slim")
    digest: str = "made-up"
    labels: None = None
    preprocessing: None = None


@dataclass
class Waiting:
    """A runtime that waits, as if for an accelerator, and switches at once."""

    artifact: Facts
    seconds: tuple[float, ...]
    backend: str = "made-up"
    active: int = 0
    ready: tuple[int, ...] = field(default=tuple(range(len(WIDTHS))))
    failures: dict[int, str] = field(default_factory=dict)

    def set(self, index: int, *, wait: bool = True) -> None:
        """Another width serves."""
        self.active = index

    def run(self, *inputs: Any, at: int | None = None) -> list[np.ndarray]:
        """Zeros, after a while."""
        time.sleep(self.seconds[self.active if at is None else at] * len(inputs[0]))
        return [np.zeros((len(inputs[0]), 10), np.float32)]

    def nbytes(self, index: int) -> int:
        """Next to nothing."""
        return 1

    def close(self) -> None:
        """Nothing to give back."""


def main() -> None:
    """Serve a made-up network: its MODEL is the time of the widest width, such as ``20ms``."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser)
    parser.add_argument("--shape", default="3,32,32")
    options = parser.parse_args()
    shape = tuple(int(size) for size in options.shape.split(","))
    stored = tuple(
        Stored(
            name=name,
            widths=Widths.of({"all": place + 1}),
            costs={"macs": Cost(value=share, unit="multiply-accumulates")},
        )
        for place, (name, share) in enumerate(WIDTHS.items())
    )
    widest = milliseconds(options.artifact) / 1e3
    runtime = Waiting(
        artifact=Facts(widths=stored, inputs=(Input(name="x", shape=(None, *shape)),)),
        seconds=tuple(widest * share for share in WIDTHS.values()),
    )
    settings = Settings(port=options.port, queue=options.queue)
    serve(
        runtime,
        settings,
        latency_ms=milliseconds(options.latency) if options.latency else None,
        percentile=options.percentile,
        width=options.width,
        cache=False,
    )


if __name__ == "__main__":
    sys.exit(main())
