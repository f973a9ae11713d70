"""Figures for a monitoring system; nothing is counted where nobody asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from slimmable.errors import MissingDependencyError

_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


class Metrics(Protocol):
    """Who is told what happens; called from many threads."""

    def answered(self, width: str, seconds: float) -> None:
        """A request was answered at a width, so many seconds after it came."""
        ...

    def switched(self, widths: Sequence[str], active: str, *, up: bool | None) -> None:
        """Another of these widths serves now; ``up`` says whether it is a wider one, None that it is the first."""
        ...

    def waiting(self, requests: int) -> None:
        """So many requests are in the queue."""
        ...

    def rejected(self, reason: str) -> None:
        """A request was refused."""
        ...

    def failed(self) -> None:
        """A request that was taken could not be answered."""
        ...

    def page(self) -> tuple[bytes, str] | None:
        """All figures as text, and its media type; None if there are none."""
        ...


class NoMetrics:
    """Counts nothing."""

    def answered(self, width: str, seconds: float) -> None:
        """Nothing."""

    def switched(self, widths: Sequence[str], active: str, *, up: bool | None) -> None:
        """Nothing."""

    def waiting(self, requests: int) -> None:
        """Nothing."""

    def rejected(self, reason: str) -> None:
        """Nothing."""

    def failed(self) -> None:
        """Nothing."""

    def page(self) -> None:
        """None."""


class PrometheusMetrics:
    """Counts in the form of Prometheus, in a registry of its own.

    ``slimmable_requests_total{width}``, ``slimmable_latency_seconds`` (a histogram), ``slimmable_switches_total
    {direction}`` (one taken back counts both ways), ``slimmable_active_width{width}`` (1 for the one that serves
    or is being built), ``slimmable_queue_depth``, ``slimmable_rejected_total{reason}``,
    ``slimmable_failed_total``.

    Raises:
        MissingDependencyError: prometheus-client is not installed.
    """

    def __init__(self) -> None:
        try:
            from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
        except ImportError as error:
            raise MissingDependencyError("metrics need prometheus-client: pip install 'slimmable[serve]'") from error
        own = self.registry = CollectorRegistry()
        self._requests = Counter("slimmable_requests", "Requests answered", ["width"], registry=own)
        self._latency = Histogram("slimmable_latency_seconds", "From arrival to answer", buckets=_BUCKETS, registry=own)
        self._switches = Counter("slimmable_switches", "Changes of the width", ["direction"], registry=own)
        self._active = Gauge("slimmable_active_width", "1 for the width that serves", ["width"], registry=own)
        self._queue = Gauge("slimmable_queue_depth", "Requests that wait", registry=own)
        self._rejected = Counter("slimmable_rejected", "Requests refused", ["reason"], registry=own)
        self._failed = Counter("slimmable_failed", "Requests that were taken and could not be answered", registry=own)

    def answered(self, width: str, seconds: float) -> None:
        """Count one request."""
        self._requests.labels(width).inc()
        self._latency.observe(seconds)

    def switched(self, widths: Sequence[str], active: str, *, up: bool | None) -> None:
        """Count one change."""
        for width in widths:
            self._active.labels(width).set(width == active)
        for direction, way in (("up", True), ("down", False)):
            self._switches.labels(direction).inc(up is way)

    def waiting(self, requests: int) -> None:
        """Set the depth of the queue."""
        self._queue.set(requests)

    def rejected(self, reason: str) -> None:
        """Count one refusal."""
        self._rejected.labels(reason).inc()

    def failed(self) -> None:
        """Count one failure."""
        self._failed.inc()

    def page(self) -> tuple[bytes, str]:
        """All figures in Prometheus's text format."""
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        return generate_latest(self.registry), CONTENT_TYPE_LATEST
