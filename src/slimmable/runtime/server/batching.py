"""Requests that wait are run together, one run after the other, by one thread."""

from __future__ import annotations

import logging
import threading
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from slimmable.errors import DeploymentError
from slimmable.runtime.controller import AdaptiveModel, Run
from slimmable.runtime.server.refusals import Refused

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Part:
    """What a run gave one of the requests in it.

    Attributes:
        outputs: Its outputs.
        run: The run.
        together: Examples in the run.
    """

    outputs: list[np.ndarray]
    run: Run
    together: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """A request that waits for its turn.

    Attributes:
        inputs: Its inputs in order, each with the examples as first dimension.
        queued: When it was put into the queue, in seconds of the model's clock.
        due: When it has to be answered; None if at no certain time.
        future: Its outputs, one day.
    """

    inputs: list[np.ndarray]
    queued: float
    due: float | None = None
    future: Future[Part] = field(default_factory=Future)

    @property
    def examples(self) -> int:
        """How many examples it holds."""
        return len(self.inputs[0])

    def joins(self, other: Job) -> bool:
        """Whether both can be run together."""
        shapes = [(each.shape[1:], each.dtype) for each in self.inputs]
        return shapes == [(each.shape[1:], each.dtype) for each in other.inputs] and (self.due is None) == (
            other.due is None
        )


class Batcher:
    """One thread that runs what waits, in order of arrival.

    A run takes as many of the next requests as fit together, and as pay at the width that serves; if these are fewer,
    it waits a moment for more. If a run fails, each of its requests runs alone, so that one with a wrong value fails
    nobody else's.

    Args:
        model: What runs them.
        max_batch: Most examples of a run.
        max_wait: Seconds to wait for more.
    """

    def __init__(self, model: AdaptiveModel, *, max_batch: int, max_wait: float) -> None:
        self._model, self._max_batch, self._max_wait = model, max_batch, max_wait
        self._queue: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="slimmable-batches", daemon=True)

    def start(self) -> None:
        """Begin to run what waits."""
        self._thread.start()

    def submit(self, job: Job) -> Future[Part]:
        """The outputs of a request, one day.

        Raises:
            DeploymentError: It is being closed.
        """
        with self._changed:
            if self._closing:
                raise DeploymentError("the queue is closed")
            self._queue.append(job)
            self._changed.notify()
        return job.future

    def waiting(self) -> tuple[float, ...]:
        """When each example that waits was put into the queue."""
        with self._changed:
            return tuple(job.queued for job in self._queue for _ in range(job.examples))

    def close(self, seconds: float) -> bool:
        """Take no more, run what waits, and say whether that was done within so many seconds."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while jobs := self._next():
            running = [job for job in jobs if job.future.set_running_or_notify_cancel()]
            if running:
                self._answer(running)

    def _answer(self, jobs: list[Job]) -> None:
        try:
            parts = self._run(jobs)
        except Exception as error:
            if len(jobs) > 1:
                _log.warning("a run of %d requests failed, so each runs alone: %s", len(jobs), error)
                for job in jobs:
                    self._answer([job])
                return
            if not isinstance(error, Refused):
                _log.exception("a run failed")
            jobs[0].future.set_exception(error)
        else:
            for job, part in zip(jobs, parts, strict=True):
                job.future.set_result(part)

    def _next(self) -> list[Job]:
        """The requests of the next run; none if the queue is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closing)
            if not self._queue:
                return []
            jobs = [self._queue.popleft()]
            size = jobs[0].examples
            most = min(self._max_batch, self._model.batch())
            until = self._model.now() + self._max_wait
            while size < most:
                if not self._queue and not self._closing:
                    self._changed.wait_for(lambda: self._queue or self._closing, max(0.0, until - self._model.now()))
                if not self._queue or not jobs[0].joins(self._queue[0]) or size + self._queue[0].examples > most:
                    break
                jobs.append(self._queue.popleft())
                size += jobs[-1].examples
            return jobs

    def _run(self, jobs: list[Job]) -> list[Part]:
        together = [
            np.concatenate(each) if len(jobs) > 1 else each[0]
            for each in zip(*(job.inputs for job in jobs), strict=True)
        ]
        dues = [job.due for job in jobs if job.due is not None]
        remaining = min(dues) - self._model.now() if dues else None
        try:
            run = self._model.run(*together, remaining=remaining)
        except DeploymentError:
            if len(jobs) > 1:
                raise
            run = self._again(together, remaining)
        ends = np.cumsum([job.examples for job in jobs])
        found = [len(output) for output in run.outputs]
        if any(count != ends[-1] for count in found):
            raise DeploymentError(f"{ends[-1]} examples gave outputs of {found} examples")
        rows = zip(*(np.split(output, ends[:-1]) for output in run.outputs), strict=True)
        return [Part(outputs=list(row), run=run, together=int(ends[-1])) for row in rows]

    def _again(self, inputs: list[np.ndarray], remaining: float | None) -> Run:
        """Run what failed once more, behind zeros in its place: where they fail, too, it is the server's fault.

        Raises:
            Refused: Zeros run, these inputs do not. Types and sizes are right by now: it is a value, such as an index
                behind the end of a table.
            DeploymentError: Zeros do not run either.
        """
        self._model.run(*map(np.zeros_like, inputs), remaining=remaining)
        try:
            return self._model.run(*inputs, remaining=remaining)
        except DeploymentError as error:
            reason = " ".join(str(error).split())[:300]
            raise Refused("unfit", f"the network cannot run on the values of this request: {reason}") from error
