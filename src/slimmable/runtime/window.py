"""The requests of the last seconds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from slimmable.runtime.forecast import Trace


@dataclass(frozen=True, kw_only=True)
class Finished:
    """One request that has been answered; times in seconds of the controller's clock.

    Attributes:
        index: The place of the width that ran.
        arrived: When the request came.
        begun: When its run began.
        ended: When its run ended.
        answered: When the answer was ready.
        queued: When it was put into a queue whose requests run one after the other; None if there is none.
        examples: Examples in the request.
        together: Examples in the run, those of other requests included.
    """

    index: int
    arrived: float
    begun: float
    ended: float
    answered: float
    queued: float | None = None
    examples: int = 1
    together: int = 1

    @property
    def latency(self) -> float:
        """Seconds from arrival to answer."""
        return self.answered - self.arrived

    @property
    def overhead(self) -> float:
        """Seconds spent neither in the queue nor running."""
        before = self.begun if self.queued is None else self.queued
        return (before - self.arrived) + (self.answered - self.ended)


class Window:
    """A ring of the last requests, bounded in number and in time.

    Args:
        seconds: How long a request is remembered.
        count: How many are.
    """

    def __init__(self, *, seconds: float, count: int) -> None:
        self._seconds = seconds
        self._rows = np.zeros((count, 5))
        self._ended = np.full(count, -np.inf)
        self._next = 0

    def add(self, done: Finished, factor: float) -> None:
        """Remember a request whose run took ``factor`` times as long as on an idle device."""
        place = self._next % len(self._rows)
        self._rows[place] = (done.arrived, factor, done.overhead, done.latency, done.examples)
        self._ended[place] = done.answered
        self._next += 1

    def trace(self, now: float, waiting: tuple[float, ...] = ()) -> Trace:
        """What is remembered, and those who wait as if they met what was usual of late."""
        rows = self._rows[self._ended >= now - self._seconds]
        if waiting:
            usual = np.median(rows[:, 1:3], axis=0) if len(rows) else np.array([1.0, 0.0])
            rows = np.vstack([rows, [(arrived, *usual, now - arrived, 1.0) for arrived in waiting]])
        return Trace.of(rows)
