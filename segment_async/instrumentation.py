"""Requests and counters of a client, for metrics and traces.

    client.observe(lambda request: timings.append(request.seconds))

`segment_async.otel` and `segment_async.prometheus` are built on this, and so can be other exporters. They read the
counters from `Client.statistics` on demand; nothing here runs while a message is sent. Pure: this file knows neither
the client nor the exporters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, Protocol

import orjson

from ._outcome import REASONS, Statistics

__all__ = ["COUNTERS", "GAUGES", "SUFFIXES", "Request", "Watched", "outcomes"]

GAUGES: Final = {
    "queued": ("{message}", "Messages waiting to be sent."),
    "queued_bytes": ("By", "Bytes of JSON waiting to be sent."),
    "in_flight": ("{message}", "Messages in requests under way."),
    "pending": ("{message}", "Messages without an outcome."),
    "oldest_age": ("s", "Seconds since the oldest pending message was accepted."),
    "capacity": ("{message}", "Messages that may be pending in memory."),
    "capacity_bytes": ("By", "Bytes of JSON that may be pending in memory."),
    "server_up": ("1", "1 while deliveries work, 0 while they fail."),
    "last_delivery": ("s", "Time of the last delivery, in seconds since the epoch; absent before the first."),
    "dead_letters": ("{message}", "Failed messages that the spool keeps."),
    "disk_bytes": ("By", "Size of the spool's files."),
}
"""Fields of `Statistics` that rise and fall, each with its unit (UCUM) and a description. A value may be `None`."""

SUFFIXES: Final = {"oldest_age": "_seconds", "last_delivery": "_timestamp_seconds"}
"""What Prometheus's conventions append to the names of some gauges."""

COUNTERS: Final = {
    "accepted": "Messages accepted.",
    "rejected": "Calls that raised, so that their message was not accepted.",
    "requests": "Requests started.",
    "retries": "Requests that were retries.",
}
"""Fields of `Statistics` that only rise, with a description each. The counts by outcome are in `outcomes`."""


def outcomes(statistics: Statistics) -> Iterator[tuple[str, str, int]]:
    """Each outcome, its reason, and the number of messages with both.

    The outcomes are ``delivered``, ``handed_over``, ``failed`` and ``dropped``. All reasons are there from the start, with
    a count of 0: a rate cannot see the first messages of a series that begins with them.
    """
    yield "delivered", "", statistics.delivered
    yield "handed_over", "", statistics.handed_over
    for reason, (status, _) in REASONS.items():
        yield status.value, reason, statistics.reasons.get(reason, 0)


@dataclass(frozen=True, slots=True)
class Request:
    """A finished request, as `Client.observe` passes it to its callbacks.

    Attributes:
        started_at: seconds since the epoch.
        seconds: duration up to the end of the response, or until the request failed.
        status: HTTP status; `None` if there was no usable response.
        attempt: 1 for the first request with these messages.
        count: number of messages.
        bodies: returns the JSON of each message; unpacks the batch when it is called.
    """

    started_at: float
    seconds: float
    status: int | None
    attempt: int
    count: int
    bodies: Callable[[], Iterable[bytes]] = field(repr=False, compare=False)

    def message_ids(self) -> list[str]:
        """The ids of the messages, in order. Unpacks the batch."""
        return [orjson.loads(body)["messageId"] for body in self.bodies()]


class Watched(Protocol):
    """What exporters need of a client; `segment_async.Client` and `segment_async.blocking.Client` both have it."""

    def statistics(self) -> Statistics:
        """As `segment_async.Client.statistics`."""
        ...

    def observe(self, listener: Callable[[Request], object]) -> None:
        """As `segment_async.Client.observe`."""
