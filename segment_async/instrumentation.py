"""What a client tells of itself to whatever measures it: each request, and its counts in words.

    client.observe(lambda request: timings.append(request.seconds))

`segment_async.otel` and `segment_async.prometheus` are made of this; so may be an exporter for anything else. Counts
are read from `Client.statistics` when somebody asks; nothing here is on the way of a message. Pure, and knows neither
the client nor who measures it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

import orjson

from ._outcome import REASONS, Statistics

__all__ = ["COUNTERS", "GAUGES", "Request", "outcomes"]

GAUGES: Final = {
    "queued": ("{message}", "Messages that wait to be sent."),
    "queued_bytes": ("By", "Bytes of JSON that wait to be sent."),
    "in_flight": ("{message}", "Messages in requests that are under way."),
    "pending": ("{message}", "Messages without an outcome."),
    "oldest_age": ("s", "Seconds that the oldest pending message has waited."),
}
"""Fields of `Statistics` that go up and down, each with its unit (UCUM) and what it says."""

COUNTERS: Final = {
    "accepted": "Messages that a call took.",
    "requests": "Requests begun.",
    "retries": "Requests that were not the first for their messages.",
}
"""Fields of `Statistics` that only go up; for the others of these see `outcomes`."""


def outcomes(statistics: Statistics) -> Iterator[tuple[str, str, int]]:
    """Each outcome (``delivered``, ``failed``, ``dropped``) with its reason, and how many messages had it."""
    yield "delivered", "", statistics.delivered
    for reason, count in statistics.reasons.items():
        yield REASONS[reason].status.value, reason, count


@dataclass(frozen=True, slots=True)
class Request:
    """One request that is over, as `Client.observe` tells of it.

    Attributes:
        started_at: seconds since the epoch.
        seconds: from its start to the end of the answer, or to where it was given up.
        status: of the answer; `None`: there was none that can be used.
        attempt: 1 for the first with these messages.
        count: messages in it.
        bodies: gives each message's JSON, unpacked when it is asked.
    """

    started_at: float
    seconds: float
    status: int | None
    attempt: int
    count: int
    bodies: Callable[[], Iterable[bytes]] = field(repr=False, compare=False)

    def message_ids(self) -> list[str]:
        """Of its messages, in their order; they are unpacked for it."""
        return [orjson.loads(body)["messageId"] for body in self.bodies()]
