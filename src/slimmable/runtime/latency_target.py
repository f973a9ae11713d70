"""The policy that keeps a percentile of the latencies below a target."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from slimmable.errors import DeploymentError
from slimmable.runtime.forecast import Floats, Trace, forecast
from slimmable.runtime.policies import Choice, Observation

_MORE_LOAD = 1.3
_LESS_LOAD = 0.7
_TRIAL = 15.0


@dataclass(frozen=True, kw_only=True)
class LatencyTarget:
    r"""The widest that keeps a percentile of the latencies below a target: down at once, up with care.

    All widths are judged by the requests of late, replayed at their speed behind what waits now
    (:func:`~slimmable.runtime.forecast.forecast`). A width is *late* if more requests than the percentile allows, and
    at least two, take longer than the target; behind a queue than ``1 - safety / 2`` of it, for what a server cannot
    see, and for chance.

    * **Down**: if the active width is late, the widest that would stay below ``1 - safety / 2`` of the target takes
      over, however many steps that are; if none would, the fastest. A backlog is part of the replay, so who takes
      over works it off in time; that requests of the width before were late is no reason to step down again.
    * **Up**: one step, if the requests of the last ``hold`` seconds would have been in time at the next width though
      everything took ``1 / (1 - safety)`` times as long, and no switch was made in that time. If a step up has to be
      taken back within 15 s under a similar load, the hold is doubled for the next try, until ``longest_hold``; under
      a load smaller by a third this is forgotten.

    Without requests the profile decides: the widest whose tail on an idle device is below the target.

    Widths that are not uniform may take more time than one with more multiply-accumulates. Such a width never serves:
    the steps are those among widths of which none is slower than a wider one.

    Args:
        seconds: The target.
        percentile: Of the latencies, between 0 and 100.
        react: Seconds of requests by which the active width is judged.
        least: Requests by which it is judged at least, if so many are known.
        hold: Seconds for which a wider one has to look good.
        longest_hold: Most seconds after steps up that failed.
        safety: Share of the device's speed that a step up leaves unused, and twice the share of the target that is
            kept in hand.

    Raises:
        DeploymentError: A number out of its range.

    Example:
        Requests that run 30 ms at the width of 10 ms, for the device is busy, would be late at that of 20 ms:

        >>> from slimmable.runtime.forecast import Speed
        >>> rows = [(0.1 * n, 3.0, 0.0, 0.03, 1) for n in range(20)]
        >>> speeds = {0: Speed.alone(0.01), 1: Speed.alone(0.02)}
        >>> seen = Observation(now=2.0, active=1, candidates=(0, 1), speeds=speeds, trace=Trace.of(rows))
        >>> LatencyTarget(seconds=0.04).choose(seen)
        Choice(index=0, reason='p95 would be 60 of 40 ms; here it is 30 ms')
    """

    seconds: float
    percentile: float = 95
    react: float = 1.0
    least: int = 10
    hold: float = 3.0
    longest_hold: float = 60.0
    safety: float = 0.2

    def __post_init__(self) -> None:
        sound = self.seconds > 0 and 0 < self.percentile < 100 and 0 <= self.safety < 1 and self.react > 0
        if not sound or not 0 < self.hold <= self.longest_hold or self.least < 1:
            raise DeploymentError(
                f"no latency target: {self}; expected positive times, 0 < percentile < 100, 0 <= safety < 1, "
                "hold <= longest_hold"
            )

    def choose(self, observation: Observation) -> Choice:
        """The width that shall serve now."""
        seen = replace(observation, candidates=_undominated(observation))
        order, place = seen.candidates, self._place(seen)
        quiet = seen.now - seen.switches[-1].at if seen.switches else np.inf
        recent = seen.trace.since(seen.now - self.react, least=self.least)
        if not len(recent):
            return self._by_profile(seen, place, quiet)
        if self._late(self._soon(seen, recent, order[place]), self._inner if seen.serial else self.seconds, allow=1):
            return self._down(seen, recent, place)
        if place + 1 < len(order) and quiet >= (hold := self._hold_before(seen, order[place + 1])):
            told = self._wider(seen, order[place + 1], hold)
            if not self._late(told, self.seconds, allow=0):
                return Choice(order[place + 1], f"{self._p(told)} with room to spare, and no switch for {hold:.3g} s")
        return Choice(order[place], "in time")

    def _place(self, seen: Observation) -> int:
        """The place among the candidates of the active width, or of the next cheaper one if it may not serve."""
        if seen.active in seen.candidates:
            return seen.candidates.index(seen.active)
        active = seen.speeds[seen.active].least
        cheaper = [place for place, each in enumerate(seen.candidates) if seen.speeds[each].least <= active]
        return cheaper[-1] if cheaper else 0

    def _by_profile(self, seen: Observation, place: int, quiet: float) -> Choice:
        if quiet < self.hold:
            return Choice(seen.candidates[place], "nothing to judge by yet")
        fitting = [each for each in seen.candidates if seen.speeds[each].tail <= self.seconds]
        best = fitting[-1] if fitting else min(seen.candidates, key=lambda each: seen.speeds[each].tail)
        return Choice(best, f"profiled p{self.percentile:g} {1e3 * seen.speeds[best].tail:.3g} ms")

    def _down(self, seen: Observation, recent: Trace, place: int) -> Choice:
        told = {each: self._soon(seen, recent, each) for each in seen.candidates[: place + 1]}
        late = self._p(told[seen.candidates[place]])
        for each in reversed(seen.candidates[:place]):
            if not self._late(told[each], self._inner, allow=1):
                return Choice(each, f"{late}; here it is {1e3 * self._quantile(told[each]):.3g} ms")
        return Choice(min(told, key=lambda each: self._quantile(told[each])), f"{late}; this is the fastest")

    def _soon(self, seen: Observation, recent: Trace, index: int) -> Floats:
        """Latencies at a width if requests go on coming as of late, behind those that wait."""
        return forecast(recent, seen.speeds[index], serial=seen.serial, backlog=seen.waiting)

    def _wider(self, seen: Observation, index: int, hold: float) -> Floats:
        trace = seen.trace.since(seen.now - hold, least=self.least)
        return forecast(trace, seen.speeds[index], serial=seen.serial, slower=1 / (1 - self.safety))

    @property
    def _inner(self) -> float:
        """The target less half of the safety."""
        return self.seconds * (1 - self.safety / 2)

    def _late(self, told: Floats, limit: float, *, allow: int) -> bool:
        share = (100 - self.percentile) / 100
        return int((told > limit).sum()) > max(allow, int(len(told) * share + 1e-9))

    def _hold_before(self, seen: Observation, wider: int) -> float:
        """Seconds without a switch before a step up to ``wider``: doubled by each failure since the last success."""
        failures, failed_at = 0, 0.0
        for up, after in pairwise(seen.switches):
            if up.manual or up.target != wider or seen.speeds[up.source].least >= seen.speeds[wider].least:
                continue
            undone = not after.manual and seen.speeds[after.target].least < seen.speeds[wider].least
            similar = after.demand < _MORE_LOAD * up.demand
            failures = failures + 1 if undone and similar and after.at - up.at < _TRIAL else 0
            failed_at = after.demand
        if seen.demand < _LESS_LOAD * failed_at:
            failures = 0
        return min(self.hold * 2.0**failures, self.longest_hold)

    def _quantile(self, told: Floats) -> float:
        return float(np.percentile(told, self.percentile))

    def _p(self, told: Floats) -> str:
        return f"p{self.percentile:g} would be {1e3 * self._quantile(told):.3g} of {1e3 * self.seconds:.3g} ms"


def _undominated(seen: Observation) -> tuple[int, ...]:
    """The candidates without those that take no less time, alone or behind others, than a wider one."""
    kept: list[int] = []
    for each in reversed(seen.candidates):
        speed = seen.speeds[each]
        if all(speed.least < seen.speeds[wider].least or speed.drain < seen.speeds[wider].drain for wider in kept):
            kept.append(each)
    return tuple(reversed(kept))
