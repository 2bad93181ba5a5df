"""What one can know of a client from outside, for whatever measures it.

Counters come from `Client.statistics`, requests from a transport that tells of each; nothing is added to the way of a
message. This file knows neither OpenTelemetry nor Prometheus.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from . import HTTPTransport, Response, Statistics
from ._contained import Contained

# The reasons with which messages fail; all others are reasons to drop them.
_FAILURES: Final = frozenset(("refused", "unauthorized", "redirected", "too_large", "unexpected_answer", "gave_up"))

GAUGES: Final = {
    "queued": ("{message}", "Messages that wait to be sent."),
    "queued_bytes": ("By", "Bytes of JSON that wait to be sent."),
    "in_flight": ("{message}", "Messages in requests that are under way."),
    "pending": ("{message}", "Messages without an outcome."),
}
COUNTERS: Final = {
    "accepted": "Messages that a call took.",
    "requests": "Requests begun.",
    "retries": "Requests that were not the first for their messages.",
}


def outcomes(statistics: Statistics) -> Iterator[tuple[str, str, int]]:
    """Each outcome with its reason, and how many messages had it."""
    yield "delivered", "", statistics.delivered
    for reason, count in statistics.reasons.items():
        yield "failed" if reason in _FAILURES else "dropped", reason, count


@dataclass(frozen=True, slots=True)
class Request:
    """One request that is over.

    Attributes:
        started_at: seconds since the epoch.
        status: of the answer; `None`: there was none that can be used.
        attempt: 1 for the first.
        body: as it was sent, compressed if `headers` say so.
    """

    started_at: float
    seconds: float
    status: int | None
    attempt: int
    body: bytes
    headers: Mapping[str, str]


class ObservedTransport(HTTPTransport):
    """The default transport, which tells of each request once it is over."""

    def __init__(self, url: str, tell: Callable[[Request], None], **options: Any) -> None:
        super().__init__(url, **options)
        self._tell = tell
        self._contained = Contained()

    async def send(self, body: bytes, headers: Mapping[str, str]) -> Response:
        started_at, start = time.time(), time.perf_counter()
        status: int | None = None
        try:
            response = await super().send(body, headers)
            status = response.status
            return response
        finally:
            seconds = time.perf_counter() - start
            attempt = int(headers.get("X-Retry-Count", 0)) + 1
            try:
                self._tell(Request(started_at, seconds, status, attempt, body, headers))
            except Exception as fault:
                # An answer that came is not to be lost to whoever only watches: the batch would be sent twice.
                self._contained.say("Observing a request", fault)
