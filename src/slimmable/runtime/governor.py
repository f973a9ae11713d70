"""Who watches the requests and changes the width."""

from __future__ import annotations

import logging
import math
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from slimmable.errors import DeploymentError
from slimmable.runtime.forecast import Trace
from slimmable.runtime.metrics import Metrics
from slimmable.runtime.plan import Plan
from slimmable.runtime.policies import Choice, Deadline, Observation, Policy, Switch
from slimmable.runtime.switchable import Switchable
from slimmable.runtime.window import Finished, Window

_BUILDS_WITHIN = 30.0
_LEFT_OUT = 60.0
_READ_ENERGY = 1.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What has happened since the start.

    Attributes:
        requests: Requests answered, by the place of the width.
        ups: Switches to a wider one.
        downs: Switches to a narrower one.
    """

    requests: dict[int, int]
    ups: int
    downs: int


class Governor:
    """Asks a policy after requests, and has the runtime switch in the background.

    Requests never wait for it: who finds it choosing goes on. A width that cannot be built is left out for a minute.

    Args:
        runtime: What serves.
        plan: The widths that may.
        policy: Who chooses among them.
        energy: Returns what is left, 0 to 1; asked at most once a second.
        window: Seconds for which a request is remembered.
        interval: Least seconds between two choices.
        metrics: Who is told.
        clock: Seconds.
    """

    def __init__(
        self,
        runtime: Switchable,
        plan: Plan,
        policy: Policy,
        *,
        energy: Callable[[], float] | None,
        window: float,
        interval: float,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self.waiting: Callable[[], Sequence[float]] = tuple
        self._runtime, self._plan, self._policy, self._metrics = runtime, plan, policy, metrics
        self._energy, self._interval, self._clock = energy, interval, clock
        self._window = Window(seconds=window, count=2048)
        self._lock = threading.Lock()
        self._choosing = threading.RLock()
        self._switches: deque[Switch] = deque(maxlen=64)
        self._requests: Counter[int] = Counter()
        self._ups = self._downs = 0
        self._wanted = plan.order[-1]
        self._asked_at = self._chosen_at = self._read_at = -math.inf
        self._level: float | None = None
        self._left_out: dict[int, float] = {}
        self._serial = False
        self.pinned: int | None = None

    @property
    def switches(self) -> tuple[Switch, ...]:
        """The last switches, oldest first."""
        with self._lock:
            return tuple(self._switches)

    @property
    def counts(self) -> Counts:
        """What has happened since the start."""
        with self._lock:
            return Counts(requests=dict(self._requests), ups=self._ups, downs=self._downs)

    def trace(self) -> Trace:
        """The requests of the last seconds."""
        with self._lock:
            return self._window.trace(self._clock())

    def begin(self) -> None:
        """Have the first width built, and wait for it."""
        now = self._clock()
        choice = self._policy.choose(self.observation(now))
        self._runtime.set(choice.index, wait=True)
        self._wanted, self._asked_at = choice.index, now
        self._metrics.switched(self._plan.names, self._plan.names[choice.index], up=None)
        _log.info("width %s serves: %s", self._plan.names[choice.index], choice.reason)

    def observe(self, done: Finished, *, certain: bool = True) -> None:
        """Take notice of a request, and choose again if it is time to."""
        if certain and done.index in self._plan.speeds:
            factor = (done.ended - done.begun) / self._plan.profile.expected(done.index, done.together)
        else:
            factor = None
        with self._lock:
            self._requests[done.index] += 1
            self._serial = done.queued is not None
            if factor is not None:
                self._window.add(done, factor)
        self._metrics.answered(self._plan.names[done.index], done.latency)
        self.reconsider()

    def reconsider(self) -> None:
        """Choose again, unless that was done a moment ago, is being done, or a width is pinned."""
        now = self._clock()
        if now - self._chosen_at < self._interval:
            return
        if not self._choosing.acquire(blocking=False):
            return
        try:
            # Another thread may have done so meanwhile.
            if now - self._chosen_at >= self._interval:
                self._chosen_at = now
                self._give_up_on_builds(now)
                if self.pinned is None:
                    self._choose(now)
        except Exception:
            # The request that brought us here has its answer: a faulty policy must not take it away.
            _log.exception("no width could be chosen; %s serves on", self._plan.names[self._wanted])
        finally:
            self._choosing.release()

    def observation(self, now: float, *, remaining: float | None = None) -> Observation:
        """All that is known now."""
        candidates = tuple(place for place in self._plan.order if self._left_out.get(place, -math.inf) <= now)
        waiting = tuple(self.waiting())
        energy = self._energy_left(now)
        with self._lock:
            return Observation(
                now=now,
                active=self._wanted,
                candidates=candidates or (self._wanted,),
                speeds=self._plan.speeds,
                trace=self._window.trace(now, waiting),
                waiting=len(waiting),
                serial=self._serial,
                switches=tuple(self._switches),
                nbytes=self._plan.nbytes,
                energy=energy,
                remaining=remaining,
            )

    def within(self, remaining: float, examples: int) -> int | None:
        """The place of the width for one run that has so many seconds left; one that can run at once.

        None while a width is pinned: a deadline is no reason to leave it.
        """
        if self.pinned is not None:
            return None
        seen = self.observation(self._clock(), remaining=remaining)
        active, ready = self._runtime.active, set(self._runtime.ready)
        usable = tuple(place for place in self._plan.order if place in ready or place == active) or (active,)
        speeds = {place: self._plan.speed(place, examples) for place in usable}
        return Deadline().choose(replace(seen, candidates=usable, speeds=speeds)).index

    def pin(self, index: int, *, wait: bool) -> None:
        """Let a width serve whatever the policy says; if it cannot be built after all, the policy chooses again.

        Raises:
            DeploymentError: It takes more memory than the budget allows.
        """
        if index not in self._plan.order:
            names = self._plan.names
            raise DeploymentError(
                f"width {names[index]} takes {self._plan.nbytes[index] / 1e6:.3g} MB, more than the budget allows; "
                f"those that fit: {', '.join(names[each] for each in self._plan.order)}"
            )
        with self._choosing:
            self._runtime.set(index, wait=wait)
            self.pinned = index
            if index != self._wanted:
                self._note(Choice(index, "pinned"), self.observation(self._clock()), manual=True)

    def unpin(self) -> None:
        """Let the policy choose again."""
        with self._choosing:
            self.pinned = None

    def _choose(self, now: float) -> None:
        seen = self.observation(now)
        choice = self._policy.choose(seen)
        if choice.index != self._wanted:
            self._runtime.set(choice.index, wait=False)
            self._note(choice, seen)

    def _note(self, choice: Choice, seen: Observation, *, manual: bool = False) -> None:
        names, before = self._plan.names, self._wanted
        up = self._cost(choice.index) > self._cost(before)
        event = Switch(
            at=seen.now, source=before, target=choice.index, reason=choice.reason, demand=seen.demand, manual=manual
        )
        with self._lock:
            self._switches.append(event)
            self._ups, self._downs = self._ups + up, self._downs + (not up)
            self._wanted, self._asked_at = choice.index, seen.now
        self._metrics.switched(names, names[choice.index], up=up)
        _log.info("width %s instead of %s: %s", names[choice.index], names[before], choice.reason)

    def _cost(self, place: int) -> int:
        return self._plan.order.index(place)

    def _give_up_on_builds(self, now: float) -> None:
        """Take the width that serves for the wanted one if that one cannot be built, or has not come for long."""
        active, wanted = self._runtime.active, self._wanted
        if active == wanted:
            return
        reason = self._runtime.failures.get(wanted)
        if reason is None:
            if self.pinned is not None or now - self._asked_at <= _BUILDS_WITHIN:
                return
            reason = f"it was not built within {_BUILDS_WITHIN:g} s"
        name = self._plan.names[wanted]
        _log.error("width %s is left out for %g s: %s", name, _LEFT_OUT, reason)
        self._left_out[wanted], self.pinned = now + _LEFT_OUT, None
        self._runtime.set(active, wait=False)  # lest it comes yet
        self._note(Choice(active, f"no {name}: {reason}"), self.observation(now))

    def _energy_left(self, now: float) -> float | None:
        if self._energy is not None and now - self._read_at >= _READ_ENERGY:
            self._read_at = now
            try:
                self._level = float(self._energy())
            except Exception:
                _log.exception("nobody says how much energy is left; the last reading, %s, counts", self._level)
        return self._level
