"""How long requests would take at another width, told from the requests that came."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How fast one stored width runs on this device while nothing else does; all in seconds.

    Attributes:
        least: Time of one example when nothing disturbs it.
        tail: The asked percentile of its times.
        drain: Least time per example when many wait: run one by one, or in batches where these pay.
        together: Time of the run that drains so fast.
    """

    least: float
    tail: float
    drain: float
    together: float

    @staticmethod
    def alone(seconds: float) -> Speed:
        """The speed of a width that always takes the same time and gains nothing from batches."""
        return Speed(least=seconds, tail=seconds, drain=seconds, together=seconds)


@dataclass(frozen=True, kw_only=True, eq=False)
class Trace:
    """Requests, in the order of their arrival; each attribute is an array of shape ``(N,)``.

    Attributes:
        arrived: When they came, in seconds of the controller's clock.
        factor: Time of their run over the least profiled of the width that ran: 1 where nothing disturbs it.
        overhead: Seconds they spent neither waiting for their turn nor running (reading, decoding, answering).
        latency: Seconds from arrival to answer.
        size: Examples in each.
    """

    arrived: Floats
    factor: Floats
    overhead: Floats
    latency: Floats
    size: Floats

    def __len__(self) -> int:
        return len(self.arrived)

    @staticmethod
    def of(rows: Sequence[Sequence[float]] | Floats) -> Trace:
        """From rows of arrival, factor, overhead, latency and size, in any order.

        >>> Trace.of([(2.0, 1.5, 0.0, 0.03, 1), (1.0, 1.0, 0.0, 0.02, 1)]).factor
        array([1. , 1.5])
        """
        table = np.asarray(rows, np.float64).reshape(-1, 5)
        table = table[np.argsort(table[:, 0], kind="stable")]
        return Trace(
            arrived=table[:, 0], factor=table[:, 1], overhead=table[:, 2], latency=table[:, 3], size=table[:, 4]
        )

    def since(self, moment: float, *, least: int = 0) -> Trace:
        """Those that came at ``moment`` or later, and if these are fewer than ``least``, the last ``least`` of all."""
        first = min(int(np.searchsorted(self.arrived, moment)), max(0, len(self) - least))
        return Trace(
            arrived=self.arrived[first:],
            factor=self.factor[first:],
            overhead=self.overhead[first:],
            latency=self.latency[first:],
            size=self.size[first:],
        )

    @cached_property
    def slow_down(self) -> float:
        """Median of the factors; 1 if there are no requests."""
        return float(np.median(self.factor)) if len(self) else 1.0


def forecast(trace: Trace, speed: Speed, *, serial: bool, backlog: float = 0.0, slower: float = 1.0) -> Floats:
    r"""Seconds that each request of a trace would have taken at a width of this speed.

    A request that came at :math:`a_n` and ran :math:`f_n` times slower than on an idle device would have run
    :math:`f_n m` seconds, with :math:`m` the least time of that width. If requests run one after the other, as behind
    the queue of a server, it also waits for those before it. With work :math:`w_n = f_n d` and the time until which
    the device is busy, :math:`D_n = \max(D_{n-1}, a_n) + w_n`, it waits :math:`D_n - w_n - a_n`; in closed form

    .. math:: D_n = W_n + \max_{k \le n} (a_k - W_{k-1}), \qquad W_n = \sum_{k \le n} w_k.

    So the same requests tell how any width would have stood the same load, without a model of how they arrive.

    Args:
        trace: Requests in the order of their arrival.
        speed: The width.
        serial: Whether requests run one after the other.
        backlog: Examples that wait before the first of them comes.
        slower: Everything takes so many times longer: above 1, a forecast to be on the safe side.

    Returns:
        Seconds from arrival to answer, ``(N,)``.

    Example:
        >>> burst = Trace.of([(0.0, 1, 0, 0, 1), (0.0, 1, 0, 0, 1), (1.0, 1, 0, 0, 1)])
        >>> forecast(burst, Speed.alone(0.25), serial=True).tolist()
        [0.25, 0.5, 0.25]
    """
    factor = trace.factor * slower
    alone = (speed.least + (trace.size - 1) * speed.drain) * factor
    if not serial or not len(trace):
        return alone + trace.overhead
    work = speed.drain * trace.size * factor
    before = np.cumsum(work) - work
    begun = np.maximum.accumulate(trace.arrived - before)
    busy_until = trace.arrived[0] + backlog * speed.drain * trace.slow_down * slower
    waited = np.maximum(begun, busy_until) + before - trace.arrived
    # Who had to wait runs with others.
    ran = np.where(waited > alone, np.maximum(alone, speed.together * factor), alone)
    return waited + ran + trace.overhead
