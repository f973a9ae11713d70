"""A model that keeps to a budget on this device by changing its width."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Self

import numpy as np

from slimmable.core.space import Widths
from slimmable.errors import DeploymentError
from slimmable.runtime.artifact import Artifact
from slimmable.runtime.backends import backend_from, graphs_of
from slimmable.runtime.governor import Governor
from slimmable.runtime.latency_target import LatencyTarget
from slimmable.runtime.metrics import Metrics, NoMetrics
from slimmable.runtime.plan import Budget, plan
from slimmable.runtime.policies import Policy, Switch, Widest
from slimmable.runtime.switchable import Facts, Switchable, place_of
from slimmable.runtime.window import Finished


@dataclass(frozen=True, kw_only=True)
class State:
    """What an :class:`AdaptiveModel` does, at one moment.

    Attributes:
        active: Name of the width that serves.
        pinned: Name of the width that a caller asked for; None if the policy chooses.
        target_ms: The target for the latency; None if there is none.
        percentile: The percentile it holds for.
        p50_ms: Median latency of the requests of the last seconds; None without requests.
        tail_ms: That percentile of these latencies.
        slow_down: Times of these runs over the least profiled; about 1 on an idle device.
        requests: Requests answered so far, by name of the width.
        ups: Switches to a wider one.
        downs: Switches to a narrower one.
        profile_ms: Milliseconds of one undisturbed example on this device, by name of the width, cheapest first.
        switches: The last switches, oldest first; widths by their places in the artifact.
    """

    active: str
    pinned: str | None
    target_ms: float | None
    percentile: float
    p50_ms: float | None
    tail_ms: float | None
    slow_down: float
    requests: Mapping[str, int]
    ups: int
    downs: int
    profile_ms: Mapping[str, float]
    switches: tuple[Switch, ...]


@dataclass(frozen=True, kw_only=True)
class Run:
    """Outputs, and where and when they were computed.

    Attributes:
        outputs: The outputs in order.
        index: The place of the width that ran.
        begun: Seconds of the controller's clock when the run began.
        ended: Seconds when it ended.
        certain: Whether ``index`` is; not if the width was switched meanwhile.
    """

    outputs: list[np.ndarray]
    index: int
    begun: float
    ended: float
    certain: bool


class AdaptiveModel:
    """The widest stored width that meets a budget on this device, as the load changes.

    At the start every width is timed on this device (or its times are read from the user's cache), and the widest that
    meets the budget serves. From then on the latencies of requests are watched, and a policy chooses again after
    requests, at most every ``interval`` seconds. New sessions are built in the background while the old one serves: no
    request fails or waits because of a switch. All methods may be called from many threads.

    Args:
        runtime: An artifact or its path, or a runtime; what is opened here is closed by :meth:`close`.
        latency_ms: Target for the latency of a request, in milliseconds.
        percentile: The percentile of the latencies that is to be below it.
        memory_mb: Only widths whose tensors take at most so many megabytes are built at all. This bounds one session,
            not the process: ``sessions`` of them are kept, one more is there while the width changes, and the backend
            adds its code, activations and what it packs (``slimmable bench --memory`` measures all of it).
        policy: Who chooses, instead of a latency target; the widest serves if neither is given.
        energy: Returns what is left of the battery, 0 to 1, for the policy; asked at most once a second.
        backend: The runtime below, if ``runtime`` is an artifact.
        threads: Threads of a run; with a runtime of your own, those it uses, for its times are kept by them.
        sessions: Sessions that are kept, the active one included, if ``runtime`` is an artifact: with 1 memory is
            least, with more the way back to a width takes microseconds.
        strict: Whether a budget that no width meets is an error; otherwise the cheapest serves, and the log says so.
        cache: Where the times of this device are kept: True for the user's cache, a file, or False for nowhere.
        batches: Examples of a run that are timed; 1 always is.
        window: Seconds for which a request is remembered.
        interval: Least seconds between two choices.
        metrics: Who is told of requests and switches.
        clock: Seconds that never go back.

    Raises:
        DeploymentError: No width meets the budget, or the arguments contradict each other.

    Cost:
        A choice takes some tenths of a millisecond, a request some microseconds more than its run.

    Example:
        >>> model = AdaptiveModel("model.slim", latency_ms=20)  # doctest: +SKIP
        >>> [scores] = model(image)  # doctest: +SKIP
        >>> model.state.active  # doctest: +SKIP
        '0.75'
    """

    def __init__(
        self,
        runtime: Switchable | Artifact | str | Path,
        *,
        latency_ms: float | None = None,
        percentile: float = 95,
        memory_mb: float | None = None,
        policy: Policy | None = None,
        energy: Callable[[], float] | None = None,
        backend: str = "onnx",
        threads: int = 1,
        sessions: int = 2,
        strict: bool = True,
        cache: bool | str | Path = True,
        batches: Sequence[int] = (1,),
        window: float = 10.0,
        interval: float = 0.05,
        metrics: Metrics | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        budget = Budget(latency_ms=latency_ms, percentile=percentile, memory_mb=memory_mb, strict=strict)
        if latency_ms is not None and policy is not None:
            raise DeploymentError("got latency_ms and a policy; give one of them: LatencyTarget is a policy too")
        if policy is None:
            policy = Widest() if latency_ms is None else LatencyTarget(seconds=budget.seconds, percentile=percentile)
        self._clock = clock
        self.metrics: Metrics = metrics or NoMetrics()
        self._opened = isinstance(runtime, Artifact | str | Path)
        if isinstance(runtime, Artifact | str | Path):
            self._runtime = _opened(runtime, budget, backend=backend, threads=threads, sessions=sessions)
        else:
            self._runtime = runtime
        try:
            self._plan = plan(self._runtime, budget, threads=threads, batches=batches, cache=cache, clock=clock)
            self._governor = Governor(
                self._runtime,
                self._plan,
                policy,
                energy=energy,
                window=window,
                interval=interval,
                metrics=self.metrics,
                clock=clock,
            )
            self._governor.begin()
        except BaseException:
            self.close()
            raise

    @property
    def artifact(self) -> Facts:
        """What the artifact says of itself."""
        return self._runtime.artifact

    def __call__(
        self, *inputs: np.ndarray, deadline_ms: float | None = None, enqueued_at: float | None = None
    ) -> list[np.ndarray]:
        """Outputs for one request; its latency counts.

        Args:
            *inputs: The inputs in order; their first dimension is the batch.
            deadline_ms: Milliseconds that this request may take from its arrival on: the widest that can run at once
                and is fast enough for all its examples runs, whatever serves the others; while a width is pinned,
                that one.
            enqueued_at: When it came, in seconds of the controller's clock, if it waited in a queue of yours whose
                requests run one after the other.
        """
        called = self._clock()
        arrived = called if enqueued_at is None else enqueued_at
        run = self.run(*inputs, remaining=None if deadline_ms is None else arrived + deadline_ms / 1e3 - called)
        examples = len(inputs[0])
        self.observe(
            Finished(
                index=run.index,
                arrived=arrived,
                queued=enqueued_at,
                begun=run.begun,
                ended=run.ended,
                answered=run.ended,
                examples=examples,
                together=examples,
            ),
            certain=run.certain,
        )
        return run.outputs

    def run(self, *inputs: np.ndarray, remaining: float | None = None) -> Run:
        """Outputs that are not counted: for servers, which tell by :meth:`observe` how long each request took.

        Args:
            *inputs: The inputs in order.
            remaining: Seconds that are left; None runs the width that serves, and so does a pin.
        """
        at = None if remaining is None else self._governor.within(remaining, len(inputs[0]))
        before = self._runtime.active
        begun = self._clock()
        outputs = self._runtime.run(*inputs, at=at)
        ended = self._clock()
        index = before if at is None else at
        certain = at is not None or self._runtime.active == before
        return Run(outputs=outputs, index=index, begun=begun, ended=ended, certain=certain)

    def observe(self, done: Finished, *, certain: bool = True) -> None:
        """Take notice of a request that was answered, and of the width if it is ``certain``."""
        self._governor.observe(done, certain=certain)

    def watch(self, waiting: Callable[[], Sequence[float]]) -> None:
        """Look into a queue before each choice.

        Args:
            waiting: Returns when each waiting example was put into the queue, in seconds of the controller's clock.
        """
        self._governor.waiting = waiting

    def batch(self) -> int:
        """How many waiting examples to run together now: as many as pay, and leave the latency below the target."""
        return self._plan.batches.get(self._runtime.active, 1)

    def now(self) -> float:
        """Seconds of the controller's clock."""
        return self._clock()

    def name(self, index: int) -> str:
        """The name of a stored width."""
        return self._plan.names[index]

    def pin(self, width: int | float | str | Widths, *, wait: bool = True) -> None:
        """Let one width serve until :meth:`unpin`.

        Args:
            width: A stored width: its name, its place, or its channels.
            wait: Whether to return only when it serves; otherwise the one before does until it is built. If it cannot
                be, the policy chooses again; the log and the switches of :attr:`state` say why.

        Raises:
            WidthError: No such width is stored.
            DeploymentError: It takes more memory than the budget allows.
        """
        self._governor.pin(place_of(width, self._runtime.artifact.widths), wait=wait)

    def unpin(self) -> None:
        """Let the policy choose again."""
        self._governor.unpin()

    @property
    def state(self) -> State:
        """What it does now."""
        names, budget, governor = self._plan.names, self._plan.budget, self._governor
        trace, counts, pinned = governor.trace(), governor.counts, governor.pinned
        told = [1e3 * float(np.percentile(trace.latency, p)) for p in (50, budget.percentile)] if len(trace) else None
        return State(
            active=names[self._runtime.active],
            pinned=None if pinned is None else names[pinned],
            target_ms=budget.latency_ms,
            percentile=budget.percentile,
            p50_ms=told[0] if told else None,
            tail_ms=told[1] if told else None,
            slow_down=trace.slow_down,
            requests={names[place]: counts.requests.get(place, 0) for place in self._plan.order},
            ups=counts.ups,
            downs=counts.downs,
            profile_ms={names[place]: 1e3 * self._plan.speeds[place].least for place in self._plan.order},
            switches=governor.switches,
        )

    def close(self) -> None:
        """Close the runtime, if it was opened here."""
        if self._opened:
            self._runtime.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _opened(given: Artifact | str | Path, budget: Budget, *, backend: str, threads: int, sessions: int) -> Switchable:
    """A runtime at the widest that the memory allows, or the smallest: what it excludes is not built even once."""
    engine: Any = import_module("slimmable.runtime.engine")
    artifact = given if isinstance(given, Artifact) else Artifact(given)
    graphs = graphs_of(backend_from(backend))
    nbytes = {place: artifact.nbytes(graphs, place) for place in range(len(artifact.widths))}
    allowed = budget.allows(nbytes) or [min(nbytes, key=nbytes.__getitem__)]
    return engine.Runtime(artifact, backend=backend, threads=threads, cache=sessions, width=max(allowed))
