"""A network in which everything goes wrong, seeded: the transport to put before a `SimulatedSegment`.

The same seed makes the same weather and the same faults at the same requests, as long as the program under test takes
the same steps: run it under the virtual clock. What was injected is counted by name, so that a test can insist that it
*saw* each fault. Nothing here decides what Segment thinks of a request.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from segment_async import Response, TransportError

from .simulated_segment import Arrival, SimulatedSegment

Headers = Mapping[str, str]
Fault = Callable[["SimulatedNetwork", Arrival], Awaitable[Response]]

FAR_FUTURE = "Thu, 01 Jan 2099 00:00:00 GMT"
LONG_PAST = "Wed, 21 Oct 2015 07:28:00 GMT"

TRANSIENT_STATUSES = (408, 410, 429, 460, 500, 502, 503, 504, 520, 599, 600, 999, 199)
FINAL_STATUSES = (301, 302, 303, 307, 308, 304, 401, 403, 402, 404, 405, 409, 418, 422, 451, 501, 505, 511)
RETRY_AFTER_VALUES = ("2", "0.5", "300", "0", "-5", "1e9", "nan", "inf", "soon", "", FAR_FUTURE, LONG_PAST)


async def _refused(network: "SimulatedNetwork", arrival: Arrival) -> Response:
    raise TransportError("the connection was refused", maybe_sent=False)


async def _request_lost(network: "SimulatedNetwork", arrival: Arrival) -> Response:
    await asyncio.sleep(network.timeout)
    raise TransportError("no answer in time", maybe_sent=True)


async def _answer_lost(network: "SimulatedNetwork", arrival: Arrival) -> Response:
    network.segment.receive(arrival)
    await network.pass_latency()
    raise TransportError("the connection was reset", maybe_sent=True)


async def _connection_stale(network: "SimulatedNetwork", arrival: Arrival) -> Response:
    raise TransportError("the pooled connection was closed", maybe_sent=True, stale_connection=True)


async def _bug(network: "SimulatedNetwork", arrival: Arrival) -> Response:
    raise ZeroDivisionError("a bug in a transport of the user's own")


async def _slow_answer(network: "SimulatedNetwork", arrival: Arrival) -> Response:
    await asyncio.sleep(network.timeout * 0.9)
    return network.segment.receive(arrival)


def _answering(status: int, headers: Headers | None = None) -> Fault:
    """Segment, or a proxy before it, answers this and takes nothing."""

    async def fault(network: "SimulatedNetwork", arrival: Arrival) -> Response:
        answer = network.segment.receive(arrival, overruled_by=status)
        return Response(status, {**answer.headers, **(headers or {})}, answer.body)

    return fault


def _pretending(content_type: str, answer: bytes) -> Fault:
    """A proxy in between answers 200 for Segment, which never sees the request."""

    async def fault(network: "SimulatedNetwork", arrival: Arrival) -> Response:
        return Response(200, {"Content-Type": content_type}, answer)

    return fault


_RETRY_AFTERS = {
    f"{status} with Retry-After {value or 'empty'}": _answering(status, {"Retry-After": value})
    for status in (429, 503)
    for value in RETRY_AFTER_VALUES
}

FAULTS: dict[str, Fault] = {
    "refused": _refused,
    "request lost": _request_lost,
    "answer lost": _answer_lost,
    "connection stale": _connection_stale,
    "bug in the transport": _bug,
    "slow answer": _slow_answer,
    "html 200": _pretending("text/html", b"<!doctype html><title>Please log in</title>"),
    "success false": _pretending("application/json", b'{"success":false}'),
    "429 with X-RateLimit-Reset": _answering(429, {"X-RateLimit-Reset": "3"}),
    **{f"status {status}": _answering(status) for status in TRANSIENT_STATUSES},
    **{f"status {status}": _answering(status, {"Location": "https://elsewhere.example/"}) for status in FINAL_STATUSES},
    **_RETRY_AFTERS,
}
"""Every fault by its name. A 400 and a 413 are not among them: `SimulatedSegment` answers those, for a cause."""

OUTAGE_FAULTS = ("refused", "request lost", "status 503", "status 429", "html 200")


@dataclass(frozen=True)
class Outage:
    """From `start` on, for `length` seconds, each request meets the same fault."""

    start: float
    length: float
    fault: str

    def covers(self, now: float) -> bool:
        return self.start <= now < self.start + self.length


@dataclass(frozen=True)
class Weather:
    """What requests meet: `faults` maps names to their probability for one request, times are in seconds.

    With `until`, the weather is fair from that moment on, counted from the network's first request. `bandwidth`: bytes
    that the link carries a second, of all requests together.
    """

    faults: Mapping[str, float] = field(default_factory=dict)
    outages: tuple[Outage, ...] = ()
    latency: tuple[float, float] = (0.001, 0.05)
    until: float = float("inf")
    bandwidth: float = float("inf")

    @classmethod
    def seeded(cls, chance: random.Random, *, until: float) -> "Weather":
        """Make up a weather: some faults often, some seldom, a few outages from a moment to hours."""
        names = chance.sample(sorted(FAULTS), chance.randint(0, 8))
        share = chance.choice((0.02, 0.2, 0.5, 0.9))
        return cls(
            faults={name: share / len(names) for name in names},
            outages=tuple(_seeded_outage(chance, until) for _ in range(chance.randint(0, 3))),
            latency=chance.choice(((0.0, 0.0), (0.001, 0.05), (0.05, 2.0), (0.001, 10.0))),
            until=until,
            bandwidth=chance.choice((*[float("inf")] * 4, 300.0, 1_500.0)),
        )

    def fault_at(self, now: float, draw: float) -> str | None:
        """Name the fault that a request meets at this moment, for a number drawn from 0 to 1."""
        if now >= self.until:
            return None
        for outage in self.outages:
            if outage.covers(now):
                return outage.fault
        for name, probability in self.faults.items():
            draw -= probability
            if draw < 0:
                return name
        return None


def _seeded_outage(chance: random.Random, until: float) -> Outage:
    start = chance.uniform(0, until)
    return Outage(start, min(chance.choice((0.1, 1, 30, 600, 7200)), until - start), chance.choice(OUTAGE_FAULTS))


@dataclass
class Attempt:
    """One call of `send`, whatever came of it; times are the loop's, `ended` is `None` while it runs."""

    started: float
    arrival: Arrival
    at_once: int
    fault: str | None
    ended: float | None = None


class SimulatedNetwork:
    """A transport between a client and a simulated Segment, under a given weather."""

    def __init__(self, segment: SimulatedSegment, weather: Weather, *, seed: int = 0, timeout: float = 15.0) -> None:
        self.segment = segment
        self.weather = weather
        self.timeout = timeout
        self.injected: Counter[str] = Counter()
        self.attempts: list[Attempt] = []
        self.closed = False
        self._chance = random.Random(seed)
        self._in_flight = 0
        self._epoch: float | None = None

    async def send(self, body: bytes, headers: Headers) -> Response:
        attempt = self._begin(Arrival.read(body, headers))
        self._in_flight += 1
        try:
            await self._pass_the_link(len(body))
            return await self._meet(attempt.fault, attempt.arrival)
        finally:
            self._in_flight -= 1
            attempt.ended = asyncio.get_running_loop().time()

    async def aclose(self) -> None:
        self.closed = True

    async def pass_latency(self) -> None:
        await asyncio.sleep(self._chance.uniform(*self.weather.latency))

    async def _pass_the_link(self, size: int) -> None:
        now = asyncio.get_running_loop().time()
        if self._epoch is None or now - self._epoch < self.weather.until:
            await asyncio.sleep(size * self._in_flight / self.weather.bandwidth)

    @property
    def most_at_once(self) -> int:
        return max((attempt.at_once for attempt in self.attempts), default=0)

    def _begin(self, arrival: Arrival) -> Attempt:
        now = asyncio.get_running_loop().time()
        self._epoch = now if self._epoch is None else self._epoch
        fault = self.weather.fault_at(now - self._epoch, self._chance.random())
        attempt = Attempt(now, arrival, self._in_flight + 1, fault)
        self.attempts.append(attempt)
        return attempt

    async def _meet(self, fault: str | None, arrival: Arrival) -> Response:
        await self.pass_latency()
        if fault is not None:
            self.injected[fault] += 1
            return await FAULTS[fault](self, arrival)
        response = self.segment.receive(arrival)
        await self.pass_latency()
        return response
