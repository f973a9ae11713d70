"""A runtime that computes next to nothing and takes the time it is told to."""

import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from slimmable.core.space import Widths
from slimmable.runtime.manifest import Cost

NAMES = ("0.25", "0.5", "0.75", "1.0")
SECONDS = (0.003, 0.0065, 0.011, 0.016)


class VirtualClock:
    """Time that passes only when somebody says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


class RealClock:
    def __call__(self):
        return time.perf_counter()

    def sleep(self, seconds):
        time.sleep(seconds)


class FakeRuntime:
    """Four widths; scores of an example are a fixed projection of it, times one more than the width's place.

    Attributes:
        slow: Every run takes so many times longer.
        builds: Places whose background build has been asked for and is not done, with the time when it will be.
        fails: Places that cannot be built, which shows when their build is over.
        failures: Why those that were built in the background could not be.
        runs: Place and number of examples of each run.
    """

    backend = "fake"

    def __init__(
        self,
        clock=None,
        *,
        seconds=SECONDS,
        gain=0.0,
        build=0.0,
        shape=(3, 8, 8),
        labels=None,
        preprocessing=None,
        dtype="float32",
        keep=None,
        digest="c0ffee",
    ):
        self.clock = clock or VirtualClock()
        self.seconds, self.gain, self.build, self.keep = seconds, gain, build, keep or len(seconds)
        self.artifact = SimpleNamespace(
            widths=tuple(
                SimpleNamespace(
                    name=name,
                    widths=Widths.of({"a": 8 * (place + 1)}),
                    costs={"macs": Cost(value=100.0 * (place + 1), unit="multiply-accumulates")},
                )
                for place, name in enumerate(NAMES)
            ),
            path=Path("fake.slim"),
            digest=digest,
            labels=labels,
            preprocessing=preprocessing,
            inputs=(SimpleNamespace(name="x", shape=(None, *shape), dtype=dtype),),
        )
        self.slow, self.builds, self.fails, self.runs, self.closed = 1.0, {}, set(), [], False
        self.failures = {}
        self.recent = [len(seconds) - 1]
        self.serving = len(seconds) - 1
        self.lock = threading.Lock()
        self.projection = np.random.default_rng(1).standard_normal((int(np.prod(shape)), 5)).astype(np.float32)

    @property
    def active(self):
        with self.lock:
            for place, done in list(self.builds.items()):
                if self.clock() >= done:
                    del self.builds[place]
                    if place in self.fails:
                        self.failures[place] = "MemoryError: no room for it"
                    else:
                        self.serving = place
                        self._use(place)
        return self.serving

    @property
    def ready(self):
        return tuple(self.recent)

    def _use(self, place):
        self.recent = [*(each for each in self.recent if each != place), place][-self.keep :]

    def set(self, index, *, wait=True):
        if wait and index in self.fails:
            raise MemoryError("no room for it")
        with self.lock:
            self.builds.clear()
            self.failures.pop(index, None)
            if wait or index == self.serving or (self.build == 0 and index not in self.fails):
                self.serving = index
                self._use(index)
            else:
                self.builds[index] = self.clock() + self.build

    def run(self, *inputs, at=None):
        index = self.active if at is None else at
        with self.lock:
            self._use(index)
        examples = len(inputs[0])
        # A batch costs (1 - gain) of its examples one by one, beyond the first.
        self.clock.sleep(self.seconds[index] * self.slow * (1 + (examples - 1) * (1 - self.gain)))
        self.runs.append((index, examples))
        with np.errstate(all="ignore"):
            return [inputs[0].reshape(examples, -1).astype(np.float32) @ self.projection * (index + 1)]

    def nbytes(self, index):
        return 10_000_000 * (index + 1)

    def close(self):
        self.closed = True


def image(seed=0, shape=(3, 8, 8)):
    return np.random.default_rng(seed).standard_normal((1, *shape)).astype(np.float32)
