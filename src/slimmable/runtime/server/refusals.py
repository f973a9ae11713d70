"""Requests that are not answered, and why."""

from __future__ import annotations

from typing import Literal

Reason = Literal["malformed", "unsupported", "too_large", "too_slow", "unfit", "full", "closing"]

_STATUS: dict[Reason, int] = {
    "malformed": 400,
    "too_slow": 408,
    "too_large": 413,
    "unsupported": 415,
    "unfit": 422,
    "full": 503,
    "closing": 503,
}


class Refused(Exception):
    """A request that is not answered.

    Args:
        reason: What kind of fault it is; it decides the status, and is counted.
        message: What was found and what was expected, for whoever sent it.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason: Reason = reason

    @property
    def status(self) -> int:
        """The status of the answer."""
        return _STATUS[self.reason]

    @property
    def headers(self) -> dict[str, str]:
        """When to come again; and an end to connections on which more of a body may come that nobody reads."""
        headers = {"Retry-After": "1"} if self.reason in ("full", "closing") else {}
        return headers | ({} if self.reason in ("malformed", "unsupported", "unfit") else {"Connection": "close"})
