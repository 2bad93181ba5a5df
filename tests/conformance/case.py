"""What a case is made of: what the application sends, what the server does, and what must be seen of it.

Data only; nothing is run or compared here.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.support.exchange import Exchange, ReceivedRequest
from tests.support.fault_server import Script
from tests.support.faults import OnRequest, Step

Event = dict[str, Any]
Look = Callable[["Seen"], Iterable[str]]

ALL: tuple[str, ...] = ("*",)
"""In `Expect.delivered`: the ids of all events of the case."""


@dataclass(frozen=True)
class Seen:
    """What one run of a case showed; `report` is what the client printed, `elsewhere` counts what a redirect drew."""

    requests: list[ReceivedRequest]
    report: Mapping[str, Any]
    elsewhere: int = 0


@dataclass(frozen=True)
class Expect:
    """What must be seen.

    Attributes:
        success: what the client says of the run.
        delivered: ids that Segment took, each exactly once.
        twice_is_fine: an answer is lost or broken, so that a message may well come again.
        requests: how many requests arrived, at least and at most; `None`: any number.
        retry_counts: the `X-Retry-Count` of each request in order, 0 where it must be absent.
        gaps: seconds between the request of that index and the one before, at least and at most.
        messages: fields that a message must arrive with, by its id; objects may hold more than is asked.
        looks: what else is to be looked at; each yields what is wrong.
    """

    success: bool = True
    delivered: tuple[str, ...] = ALL
    twice_is_fine: bool = False
    requests: tuple[int, int] | None = None
    retry_counts: tuple[int, ...] | None = None
    gaps: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    messages: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    looks: tuple[Look, ...] = ()


@dataclass(frozen=True, eq=False)
class Case:
    """One run: `row` is the line of the table that it belongs to, `name` is its own.

    Attributes:
        sequences: seconds of delay, and the events sent after it.
        script: what the server does; a function gives a new one for each run.
        config: as in the command line's input, beside short times that all cases share.
        host: what follows the server's origin in `apiHost`.
        redirects: the status with which every request is sent to a second origin, in place of the script.
        up_after: seconds until the server's port opens.
        untrusted: the server speaks TLS, with a certificate that signs itself.
    """

    row: str
    name: str
    sequences: tuple[tuple[float, tuple[Event, ...]], ...]
    expect: Expect = field(default_factory=Expect)
    script: Callable[[], Script] = list
    config: Mapping[str, Any] = field(default_factory=dict)
    host: str = ""
    write_key: str = "a-write-key"
    redirects: int | None = None
    up_after: float | None = None
    untrusted: bool = False

    @property
    def events(self) -> list[Event]:
        return [event for _, events in self.sequences for event in events]


def track(message_id: str = "m-1", **fields: Any) -> Event:
    return {"type": "track", "userId": "u", "event": "Order Completed", "messageId": message_id, **fields}


def tracks(count: int, *, name: str = "m", **fields: Any) -> tuple[Event, ...]:
    return tuple(track(f"{name}-{number}", **fields) for number in range(count))


def at_once(*events: Event) -> tuple[tuple[float, tuple[Event, ...]], ...]:
    return ((0.0, events),)


ONE = at_once(track())

AGAIN = Expect(requests=(2, 2), retry_counts=(0, 1))
"""Sent again after the first answer, and delivered."""


def steps(*steps: Step) -> Callable[[], Script]:
    return lambda: list(steps)


def always(step: OnRequest) -> Callable[[], Script]:
    return lambda: lambda request: step


def counted_as(status: int | None, step: OnRequest) -> OnRequest:
    """Answer so, and count the request as answered with `status`; with `None` it was not Segment that answered."""

    async def act(exchange: Exchange) -> None:
        await step.act(exchange)
        exchange.request.status = status

    return OnRequest(act)
