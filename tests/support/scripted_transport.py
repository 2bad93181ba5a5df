"""A transport that answers by script, in virtual time, and notes when each request came and how many were about.

For tests of the whole client that are about one answer, one gap or one order; a network with weather is in
`simulated_network`. What Segment would say of a request is not known here.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from segment_async import Response, TransportError

from .simulated_segment import Arrival

LATENCY = 0.01
"""Seconds that an answer takes."""


@dataclass
class Request:
    """One call of `send`: its times are the loop's, `at_once` counts the requests under way, itself included."""

    began: float
    arrival: Arrival
    at_once: int
    ended: float = float("inf")

    @property
    def ids(self) -> list[str]:
        return self.arrival.ids

    @property
    def retry_count(self) -> str | None:
        """The header as it stands; `None` where it is absent."""
        return self.arrival.headers.get("X-Retry-Count")


@dataclass(frozen=True)
class Slow:
    """A step that takes so many seconds."""

    seconds: float
    step: "Response | Exception | None" = None


Step = Response | Exception | Slow | None
Script = Iterable[Step] | Callable[[Request], Step]


class ScriptedTransport:
    """One step of the script for each request, or a function that chooses by the request; `None`, and the end: 200.

    An exception is raised, with nothing taken; a `TransportError` that may have been sent is one whose request came.
    """

    def __init__(self, script: Script = ()) -> None:
        self.script = script
        self.requests: list[Request] = []
        self.closed = False
        self._under_way = 0

    @property
    def script(self) -> Script:
        return self._choose or self._steps

    @script.setter
    def script(self, script: Script) -> None:
        self._choose = script if callable(script) else None
        self._steps: deque[Step] = deque(() if callable(script) else script)

    @property
    def arrivals(self) -> list[Arrival]:
        return [request.arrival for request in self.requests]

    @property
    def taken(self) -> list[str]:
        """The ids that were answered 2xx, in order, a second time where one came twice."""
        return [message_id for request in self.requests if request.arrival.taken for message_id in request.ids]

    @property
    def times(self) -> list[float]:
        return [request.began for request in self.requests]

    @property
    def gaps(self) -> list[float]:
        """Seconds from the end of each request to the next one's begin."""
        pairs = zip(self.requests, self.requests[1:], strict=False)
        return [after.began - before.ended for before, after in pairs]

    @property
    def retry_counts(self) -> list[str | None]:
        return [request.retry_count for request in self.requests]

    async def send(self, body: bytes, headers: Mapping[str, str]) -> Response:
        clock = asyncio.get_running_loop()
        self._under_way += 1
        request = Request(clock.time(), Arrival.read(body, headers), self._under_way)
        self.requests.append(request)
        try:
            return await self._meet(request, self._next_step(request))
        finally:
            self._under_way -= 1
            request.ended = clock.time()

    async def aclose(self) -> None:
        self.closed = True

    def _next_step(self, request: Request) -> Step:
        if self._choose:
            return self._choose(request)
        return self._steps.popleft() if self._steps else None

    async def _meet(self, request: Request, step: Step) -> Response:
        if isinstance(step, Slow):
            await asyncio.sleep(step.seconds)
            step = step.step
        else:
            await asyncio.sleep(LATENCY)
        if isinstance(step, Exception):
            raise step
        response = step or Response(200, {"Content-Type": "application/json"}, b'{"success":true}')
        request.arrival.status = response.status
        return response


def refused() -> TransportError:
    """No connection: nothing was sent."""
    return TransportError("the connection was refused", maybe_sent=False)


def lost() -> TransportError:
    """No answer: it is not known."""
    return TransportError("the connection was reset", maybe_sent=True)


def stale() -> TransportError:
    """A pooled connection that had been closed."""
    return TransportError("the pooled connection was closed", maybe_sent=True, stale_connection=True)
