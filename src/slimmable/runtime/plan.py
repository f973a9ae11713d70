"""Which stored widths may serve on this device, and how fast they are: known before the first request."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from slimmable.errors import DeploymentError
from slimmable.runtime.forecast import Speed
from slimmable.runtime.profile import Profile, profile_of
from slimmable.runtime.switchable import Switchable, by_cost, only_batch

_MEGABYTE = 1e6
_BATCH_SHARE = 0.5

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a model has to keep to.

    Attributes:
        latency_ms: Target for the latency of a request, in milliseconds; None for none.
        percentile: The percentile of the latencies that is to be below it.
        memory_mb: Megabytes that the tensors of a width may take; None for any.
        strict: Whether a budget that no width meets is an error, or the cheapest serves and the log says so.

    Raises:
        DeploymentError: A number out of its range.
    """

    latency_ms: float | None = None
    percentile: float = 95
    memory_mb: float | None = None
    strict: bool = True

    def __post_init__(self) -> None:
        for name, value in (("latency_ms", self.latency_ms), ("memory_mb", self.memory_mb)):
            if value is not None and not 0 < value < math.inf:
                raise DeploymentError(f"{name} is {value}; expected a positive number")
        if not 0 < self.percentile < 100:
            raise DeploymentError(f"percentile is {self.percentile}; expected a number between 0 and 100")

    @property
    def seconds(self) -> float:
        """The target for the latency; infinite if there is none."""
        return math.inf if self.latency_ms is None else self.latency_ms / 1e3

    def allows(self, nbytes: Mapping[int, int]) -> list[int]:
        """Those of these widths that the memory allows.

        >>> Budget(memory_mb=2).allows({0: 1_000_000, 1: 3_000_000})
        [0]
        """
        most = math.inf if self.memory_mb is None else self.memory_mb * _MEGABYTE
        return [place for place, size in nbytes.items() if size <= most]

    def miss(self, message: str) -> None:
        """Say that no width meets the budget.

        Raises:
            DeploymentError: The budget is strict.
        """
        if self.strict:
            raise DeploymentError(f"{message}; raise the budget, store narrower widths, or accept it with strict=False")
        _log.warning("%s; the cheapest width serves", message)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The widths that may serve.

    Attributes:
        names: Names of all stored widths, by place.
        order: Places of those that may serve, cheapest first.
        profile: Their times on this device.
        speeds: How fast each is, for forecasts.
        batches: How many waiting examples to run together at each.
        nbytes: Memory of a session of each.
        budget: What was asked for.
    """

    names: tuple[str, ...]
    order: tuple[int, ...]
    profile: Profile
    speeds: Mapping[int, Speed]
    batches: Mapping[int, int]
    nbytes: Mapping[int, int]
    budget: Budget

    def speed(self, place: int, examples: int) -> Speed:
        """The speed of a width whose ``tail`` is that of one run with so many examples."""
        speed = self.speeds[place]
        if examples == 1:
            return speed
        return replace(speed, tail=self.profile.tail(place, examples, self.budget.percentile))


def plan(
    runtime: Switchable,
    budget: Budget,
    *,
    threads: int,
    batches: Sequence[int],
    cache: bool | str | Path,
    clock: Callable[[], float],
) -> Plan:
    """Widths within the memory, timed on this device.

    Batches are bounded to half of the target for the latency: who comes while one runs has to wait for it. Times of an
    earlier start by which no width is fast enough are taken again: the device may have been busy then.

    Raises:
        DeploymentError: No width fits, or even the fastest run was slower than the target, and the budget is strict; or
            the network runs at one batch alone, and that is of several examples.
    """
    only = only_batch(runtime.artifact.inputs)
    if only is not None:
        if only > 1:
            raise DeploymentError(
                f"this network runs batches of {only} alone, for its code fixes them, and requests come in any size; "
                "run it in a slimmable.runtime.Runtime, or export one whose code leaves the batch free"
            )
        batches = (only,)
    stored = runtime.artifact.widths
    nbytes = {place: runtime.nbytes(place) for place in range(len(stored))}
    allowed = _within(budget, nbytes)
    timed = partial(profile_of, runtime, allowed, threads=threads, batches=batches, cache=cache, clock=clock)
    profile = timed()
    fails = min(profile.expected(place, 1) for place in allowed) > budget.seconds
    doubted = profile.read_from if fails else None
    if doubted is not None:
        _log.info("by the times in %s no width is fast enough; they are taken again", doubted)
        profile = timed(anew=True)
    order = by_cost(stored) or sorted(allowed, key=profile.milliseconds)
    order = tuple(place for place in order if place in allowed)
    most, limit = max(batches, default=1), _BATCH_SHARE * budget.seconds
    speeds = {place: profile.speed(place, budget.percentile, most=most, limit=limit) for place in order}
    _within_reach(budget, {stored[place].name: speeds[place] for place in order}, doubted)
    return Plan(
        names=tuple(each.name for each in stored),
        order=order,
        profile=profile,
        speeds=speeds,
        batches={place: profile.batch(place, most, limit) for place in order},
        nbytes=nbytes,
        budget=budget,
    )


def _within_reach(budget: Budget, speeds: Mapping[str, Speed], doubted: Path | None) -> None:
    """Pass if some width can meet the target; one that only its tail exceeds may do so on a quieter device.

    ``doubted`` holds times of an earlier start, by which none could; those here were taken after that.
    """
    name = min(speeds, key=lambda name: speeds[name].tail)
    tail, least = (f"{1e3 * seconds:.3g} ms" for seconds in (speeds[name].tail, speeds[name].least))
    asked = f"p{budget.percentile:g} below {budget.latency_ms} ms was asked for"
    if speeds[name].least > budget.seconds:
        again = f" (measured again now, for the times kept in {doubted} said no too)" if doubted else ""
        budget.miss(f"{asked}; the least on this device is {least}, at width {name}{again}")
    elif speeds[name].tail > budget.seconds:
        _log.warning("%s; now it is %s, at width %s, whose fastest run took %s", asked, tail, name, least)


def _within(budget: Budget, nbytes: Mapping[int, int]) -> list[int]:
    """Places of the widths that the memory allows; of the smallest if it allows none."""
    allowed = budget.allows(nbytes)
    if not allowed:
        least = min(nbytes, key=nbytes.__getitem__)
        budget.miss(f"memory of {budget.memory_mb:g} MB was asked for; the least is {nbytes[least] / _MEGABYTE:.3g} MB")
        return [least]
    return allowed
