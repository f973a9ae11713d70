"""How fast the stored widths run on this device: measured once, kept in the user's cache."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from slimmable.errors import DeploymentError
from slimmable.record import Json, atomic_write_json, cpu_quota, environment
from slimmable.runtime.forecast import Speed
from slimmable.runtime.switchable import Input, Switchable

SCHEMA = 2
_PACKAGES = {"onnx": "onnxruntime", "openvino": "openvino", "torch": "torch", "executorch": "executorch"}
_TURNS = 3
_SOLID = 0.1
"""Seconds: runs that are shorter are made more often, or a moment's disturbance would be all that is seen of them."""
_OFTEN = 10
"""How many times as often at most."""
_PAYS = 0.9
_DISTURBED = 1.5

_log = logging.getLogger(__name__)

Times = Mapping[int, Mapping[int, tuple[float, ...]]]


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Times of stored widths on this device.

    Attributes:
        names: Names of all stored widths, by place.
        times: Milliseconds of every run, ascending, by the place of the width and the examples of the run.
        read_from: The file, if they were taken at an earlier start.
    """

    names: tuple[str, ...]
    times: Times
    read_from: Path | None = field(default=None, compare=False)

    def milliseconds(self, index: int, percentile: float = 50, *, batch: int = 1) -> float:
        """A percentile of the times of a width."""
        return float(np.percentile(self.times[index][batch], percentile))

    def expected(self, index: int, examples: int) -> float:
        """Seconds of a run with so many examples when nothing disturbs it, on a line between the batches timed.

        The least of the times is what other work on the device falsifies least.

        >>> profile = Profile(names=("1.0",), times={0: {1: (10.0,), 4: (22.0,)}})
        >>> [round(1e3 * profile.expected(0, examples)) for examples in (1, 2, 4, 8)]
        [10, 14, 22, 44]
        """
        return _on_a_line(examples, {batch: took[0] for batch, took in self.times[index].items()})

    def tail(self, index: int, examples: int, percentile: float) -> float:
        """A percentile of the seconds of a run with so many examples, on such a line.

        >>> profile = Profile(names=("1.0",), times={0: {1: (10.0, 14.0), 4: (22.0, 30.0)}})
        >>> [round(1e3 * profile.tail(0, examples, 100)) for examples in (1, 4, 8)]
        [14, 30, 60]
        """
        return _on_a_line(
            examples, {batch: self.milliseconds(index, percentile, batch=batch) for batch in self.times[index]}
        )

    def batch(self, index: int, most: int, limit: float = math.inf) -> int:
        """How many waiting examples to run together: as many as pay, in at most ``limit`` seconds.

        On a device that runs twice as many examples in twice the time, those that come first only lose by waiting for
        the others: a batch pays if it saves a tenth of the time.

        >>> fast = Profile(names=("1.0",), times={0: {1: (10.0,), 4: (22.0,)}})
        >>> fast.batch(0, 8), fast.batch(0, 8, limit=0.015)
        (8, 2)
        """
        sizes = range(2, max(1, most) + 1)
        alone = self.expected(index, 1)
        paying = [size for size in sizes if self.expected(index, size) <= min(limit, _PAYS * size * alone)]
        return max(paying, default=1)

    def speed(self, index: int, percentile: float, *, most: int = 1, limit: float = math.inf) -> Speed:
        """What a forecast needs to know of a width, if at most ``most`` examples run together."""
        batch = self.batch(index, most, limit)
        together = self.expected(index, batch)
        return Speed(
            least=self.expected(index, 1),
            tail=self.milliseconds(index, percentile) / 1e3,
            drain=together / batch,
            together=together,
        )

    @property
    def disturbed(self) -> bool:
        """Whether the device had other work: half of the runs of a width took half as long again as its fastest."""
        slow = [self.milliseconds(index) / times[1][0] for index, times in self.times.items()]
        return max(slow) > _DISTURBED

    def to_json(self) -> dict[str, Json]:
        """A JSON object: milliseconds by name of the width and batch."""
        return {
            self.names[index]: {str(batch): list(each) for batch, each in times.items()}
            for index, times in self.times.items()
        }


def _on_a_line(examples: int, milliseconds: Mapping[int, float]) -> float:
    """Seconds of a run by those of batches: straight lines between them, in proportion beyond the largest."""
    batches = sorted(milliseconds)
    most = batches[-1]
    if examples > most:
        return milliseconds[most] * examples / most / 1e3
    return float(np.interp(examples, batches, [milliseconds[batch] for batch in batches])) / 1e3


def measure(
    runtime: Switchable,
    indices: Sequence[int],
    *,
    batches: Sequence[int] = (1,),
    rounds: int = 30,
    least: int = 5,
    seconds: float = 3.0,
    clock: Callable[[], float] = time.perf_counter,
) -> Profile:
    """Times of stored widths, taken in turns, so that what disturbs the device for a while disturbs all of them.

    If the runtime keeps too few sessions for that, turns are longer: every width is built three times, or less often
    where that alone would take longer than all may. Each turn has its share of the time, lest all that is seen of a
    width is how it runs at first. Short runs are made up to ten times as often, until they have taken a tenth of a
    second together.

    Args:
        runtime: What runs them.
        indices: Their places.
        batches: Examples of a run; 1 is always among them.
        rounds: Runs of each width and batch, unless they are short.
        least: Runs that are made even if ``seconds`` are over; of batches about half.
        seconds: About how long it may take; ``least`` runs, and a tenth of a second of short ones, may take longer.
        clock: Seconds.
    """
    sizes = sorted({1, *batches})
    inputs = {size: examples(runtime.artifact.inputs, size) for size in sizes}
    times: dict[int, dict[int, list[float]]] = {index: {size: [] for size in sizes} for index in indices}

    def once(index: int, size: int) -> float:
        begin = clock()
        runtime.run(*inputs[size], at=index)
        return round(1e3 * (clock() - begin), 6)

    began = clock()
    for index in indices:
        once(index, 1)
    looked = clock() - began
    together = set(indices) <= set(runtime.ready)
    turns = rounds if together else max(1, min(rounds, _TURNS, int(seconds / max(looked * len(sizes), 1e-9))))
    visits = [
        (turn, indices[(place + turn) % len(indices)], size)
        for turn in range(turns)
        for place in range(len(indices))
        for size in sizes
    ]
    began = clock()
    for visit, (turn, index, size) in enumerate(visits):
        if turn == 0 or not together:
            once(index, size)
        its, before = times[index][size], len(times[index][size])
        until = began + seconds * (visit + 1) / len(visits)
        quota = math.ceil((least if size == 1 else least / 2) * (turn + 1) / turns)
        solid = 1e3 * _SOLID * (turn + 1) / turns
        while len(its) - before < _OFTEN * (rounds // turns):
            wanted = len(its) < quota or (clock() <= until and len(its) - before < rounds // turns)
            if not wanted and sum(its) >= solid:
                break
            its.append(once(index, size))
    return Profile(
        names=tuple(each.name for each in runtime.artifact.widths),
        times={index: {size: tuple(sorted(took)) for size, took in each.items()} for index, each in times.items()},
    )


def examples(inputs: Sequence[Input], batch: int) -> list[np.ndarray]:
    """Made-up inputs of so many examples: random numbers, since zeros can be faster; free sizes are 1."""
    generator = np.random.default_rng(0)
    made: list[np.ndarray] = []
    for each in inputs:
        shape = [batch, *(size or 1 for size in each.shape[1:])]
        kind = np.dtype(each.dtype)
        values = generator.standard_normal(shape) if kind.kind == "f" else np.zeros(shape)
        made.append(values.astype(kind))
    return made


def key_of(runtime: Switchable, *, threads: int, batches: Sequence[int]) -> dict[str, Json]:
    """What a profile depends on: the file, the backend and its version, threads, batches, the device."""
    package = _PACKAGES.get(runtime.backend)
    return {
        "schema": SCHEMA,
        "artifact": runtime.artifact.digest,
        "backend": runtime.backend,
        "threads": threads,
        "batches": [*sorted({1, *batches})],
        "device": environment(packages=[package] if package else [], quota=cpu_quota()),
    }


def cached_path(key: Mapping[str, Json]) -> Path:
    """Where the profile with this key is kept: in the folder that the system gives each user for such files."""
    if os.name == "nt":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return Path(base, "slimmable", "profiles", f"{digest[:32]}.json")


def save(profile: Profile, path: Path, key: Mapping[str, Json]) -> None:
    """Write a profile, whole or not at all; where nothing can be written, only the log says so."""
    try:
        atomic_write_json(path, {"key": dict(key), "milliseconds": profile.to_json()})
    except OSError as error:
        _log.warning("the profile of this device cannot be kept in %s: %s", path, error)


def load(path: Path, key: Mapping[str, Json], names: Sequence[str], indices: Sequence[int]) -> Profile | None:
    """The profile in a file, if it is one for this key and holds these widths; None otherwise.

    A file that is damaged or tells of another device is no error: the times are taken anew.
    """
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
        if found["key"] != key:
            return None
        kept = {index: _read(found["milliseconds"][names[index]], key["batches"]) for index in indices}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        _log.info("%s is no profile of these widths and is written anew: %s", path, error)
        return None
    return Profile(names=tuple(names), times=kept, read_from=path)


def _read(found: Any, batches: Any) -> dict[int, tuple[float, ...]]:
    times = {batch: tuple(sorted(map(float, found[str(batch)]))) for batch in batches}
    for each in times.values():
        if not each or not all(math.isfinite(took) and took > 0 for took in each):
            raise ValueError("a time is missing, not finite, or not positive")
    return times


def profile_of(
    runtime: Switchable,
    indices: Sequence[int],
    *,
    threads: int,
    batches: Sequence[int] = (1,),
    cache: bool | str | Path = True,
    anew: bool = False,
    clock: Callable[[], float] = time.perf_counter,
) -> Profile:
    """The profile of this device: read if it is known; if not, measured, and kept unless the device was busy.

    Args:
        runtime: What runs the widths.
        indices: Their places.
        threads: Threads of a run, a part of the key.
        batches: Examples of a run.
        cache: A file; True for one in the user's cache; False to measure anew and keep nothing.
        anew: Whether to measure even if it is known.
        clock: Seconds.

    Raises:
        DeploymentError: No widths, or a batch below 1.
    """
    if not indices or min(batches, default=1) < 1:
        raise DeploymentError(f"nothing to profile: widths {list(indices)} with batches {list(batches)}")
    key = key_of(runtime, threads=threads, batches=batches)
    names = [each.name for each in runtime.artifact.widths]
    path = None if cache is False else cached_path(key) if cache is True else Path(cache)
    known = load(path, key, names, indices) if path and not anew else None
    if known is None:
        known = measure(runtime, indices, batches=batches, clock=clock)
        if known.disturbed:
            _log.warning("this device was busy while the widths were timed; their times are not kept")
        elif path:
            save(known, path, key)
    return known
