"""What a server is told once, when it starts."""

from __future__ import annotations

from dataclasses import dataclass, fields

from slimmable.errors import DeploymentError


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a server listens, and what it accepts.

    Attributes:
        host: Address to listen at; the default is reached from this machine only.
        port: Port; 0 takes any that is free.
        max_batch: Most examples of a run, and of a request.
        max_wait_ms: How long a run waits for others to join, where batches pay; milliseconds.
        queue: Requests that may wait and run at once; more are told to come again later. Those whose body is still
            arriving do not count.
        max_body_bytes: Most bytes of a request. All that are still arriving take sixteen times as many at most.
        max_pixels: Most pixels of an image, before and after its shorter side is brought to size.
        top: Classes in an answer, unless a request says how many.
        read_seconds: How long the head of a request may take to arrive, and how long its body.
        drain_seconds: How long a shutdown waits for requests that have been accepted.

    Raises:
        DeploymentError: A number out of its range.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    max_batch: int = 8
    max_wait_ms: float = 2.0
    queue: int = 64
    max_body_bytes: int = 16 * 2**20
    max_pixels: int = 25_000_000
    top: int = 5
    read_seconds: float = 10.0
    drain_seconds: float = 30.0

    def __post_init__(self) -> None:
        least = {"port": 0, "max_wait_ms": 0.0}
        for each in fields(self):
            value = getattr(self, each.name)
            if each.name == "host":
                continue
            if not least.get(each.name, 1e-3 if isinstance(value, float) else 1) <= value < 2**31:
                raise DeploymentError(f"a server cannot have {each.name}={value}; expected a positive number")
        if self.port > 65535:
            raise DeploymentError(f"port {self.port} does not exist; expected at most 65535")
