"""Which stored width serves next: small, replaceable rules without state, clocks or side effects.

A policy is asked again and again with all that is known; what it remembers stands in the history of switches that it is
shown, so the same observation always gets the same answer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from slimmable.errors import DeploymentError
from slimmable.runtime.forecast import Speed, Trace


@dataclass(frozen=True)
class Choice:
    """The place of a stored width, and why it was chosen."""

    index: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class Switch:
    """A change of the width that serves.

    Attributes:
        at: Seconds of the controller's clock.
        source: The place of the width before.
        target: The place of the width after.
        reason: Why.
        demand: See :attr:`Observation.demand`, when it was decided.
        manual: Whether a caller asked for it.
    """

    at: float
    source: int
    target: int
    reason: str
    demand: float
    manual: bool = False


@dataclass(frozen=True, kw_only=True)
class Observation:
    """All that a policy may know.

    Attributes:
        now: Seconds of the controller's clock.
        active: The place of the width that serves, or was chosen to.
        candidates: Places of the widths that may serve, cheapest first; never empty.
        speeds: How fast each runs on this device, by place.
        trace: The requests of the last seconds, finished or waiting.
        waiting: Examples that wait for their turn now.
        serial: Whether requests run one after the other, from a queue.
        switches: The last switches, oldest first.
        nbytes: Memory of a session of each width, by place.
        energy: What is left, 0 to 1; None if nobody says.
        remaining: Seconds that are left for the one run a width is asked for, whose tail :attr:`speeds` then tell
            whatever its examples; None if it is asked for all.
    """

    now: float
    active: int
    candidates: tuple[int, ...]
    speeds: Mapping[int, Speed]
    trace: Trace
    waiting: int = 0
    serial: bool = False
    switches: tuple[Switch, ...] = ()
    nbytes: Mapping[int, int] = field(default_factory=dict)
    energy: float | None = None
    remaining: float | None = None

    @property
    def demand(self) -> float:
        """Load, whatever width carries it: slow-down, times requests a second where these run one after the other."""
        recent = self.trace.since(self.now - 2)
        if not self.serial or len(recent) < 2:
            return recent.slow_down
        return recent.slow_down * float(recent.size.sum()) / max(self.now - float(recent.arrived[0]), 1e-3)


class Policy(Protocol):
    """A rule that chooses the width; a pure function of what it is shown."""

    def choose(self, observation: Observation) -> Choice:
        """One of the observation's candidates, and why."""
        ...


@dataclass(frozen=True)
class Widest:
    """The most costly candidate, always."""

    def choose(self, observation: Observation) -> Choice:
        """The last candidate."""
        return Choice(observation.candidates[-1], "the widest that may serve")


@dataclass(frozen=True, kw_only=True)
class MemoryLimit:
    """Only widths whose session fits into a memory; another policy chooses among them.

    Args:
        most_bytes: The memory.
        then: Who chooses among those that fit; if none fits, it is shown the smallest.
    """

    most_bytes: int
    then: Policy = Widest()

    def choose(self, observation: Observation) -> Choice:
        """The choice of ``then`` among those that fit."""
        fitting = tuple(each for each in observation.candidates if observation.nbytes[each] <= self.most_bytes)
        smallest = min(observation.candidates, key=lambda each: observation.nbytes[each])
        return self.then.choose(replace(observation, candidates=fitting or (smallest,)))


@dataclass(frozen=True, kw_only=True)
class EnergyLevel:
    """Fewer widths the less energy is left; another policy chooses among them.

    Args:
        levels: Least energy, ascending, at which one more width than the cheapest may serve; None divides the range
            from 0 to 1 evenly.
        slack: So much more energy is needed to widen than to stay, lest a reading that flickers makes the width
            flicker.
        then: Who chooses among those that may serve.

    Example:
        Of two widths the wider serves from half of the energy on:

        >>> seen = Observation(now=0.0, active=0, candidates=(0, 1), speeds={}, trace=Trace.of([]), energy=0.6)
        >>> EnergyLevel(levels=(0.5,)).choose(seen).index
        1
    """

    levels: Sequence[float] | None = None
    slack: float = 0.02
    then: Policy = Widest()

    def __post_init__(self) -> None:
        levels = list(self.levels or ())
        if levels != sorted(levels) or not all(0 <= level <= 1 for level in levels):
            raise DeploymentError(f"energy levels are {levels}; expected numbers from 0 to 1, ascending")

    def choose(self, observation: Observation) -> Choice:
        """The choice of ``then`` among those that the energy allows; among all if nobody says how much is left."""
        if observation.energy is None:
            return self.then.choose(observation)
        count = len(observation.candidates)
        levels = list(self.levels) if self.levels is not None else [place / count for place in range(1, count)]
        allowed = 1 + sum(
            observation.energy >= level + (self.slack if self._widens(observation, place) else 0.0)
            for place, level in enumerate(levels[: count - 1], 1)
        )
        choice = self.then.choose(replace(observation, candidates=observation.candidates[:allowed]))
        return Choice(choice.index, f"energy {observation.energy:.2f}: {choice.reason}")

    @staticmethod
    def _widens(observation: Observation, place: int) -> bool:
        before = observation.candidates
        return observation.active not in before or place > before.index(observation.active)


@dataclass(frozen=True, kw_only=True)
class Deadline:
    """The widest for one request that has so much time left; the fastest if none is fast enough.

    Args:
        margin: Share of the time that the forecast may take.
    """

    margin: float = 0.9

    def choose(self, observation: Observation) -> Choice:
        """The widest whose tail, slowed down as requests of late were, fits into what remains."""
        left = math.inf if observation.remaining is None else observation.remaining
        slow_down = max(1.0, observation.trace.slow_down)
        for each in reversed(observation.candidates):
            if observation.speeds[each].tail * slow_down <= left * self.margin:
                return Choice(each, f"fits into the {1e3 * left:.3g} ms left")
        fastest = min(observation.candidates, key=lambda each: observation.speeds[each].tail)
        return Choice(fastest, f"none fits into the {1e3 * left:.3g} ms left")
