"""What a call gives back, and what became of the message.

A `Delivery` knows the record of its batch; the record knows nothing of deliveries. So nothing is kept for a message
that nobody watches: an outcome is written once for a whole batch, or for a part of it, and a `Delivery` reads it
there. A `Signal` wakes whoever waits, on whichever loop.

This file knows neither batches' bytes nor the network.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right, insort
from collections.abc import Callable, Generator, Iterable
from typing import Any, Final, NamedTuple, Protocol

from segment_async._outcome import BatchResult, Outcome, Status

# Seconds that are over: a timer for less may come before the clock has moved, and for ever again.
MOMENT: Final = 1e-5


class History(NamedTuple):
    """What happened to a batch so far.

    Attributes:
        sends: requests that carried it, `X-Retry-Count` plus one.
        counted: re-sends that count against `max_retries`.
        failures: failures in a row that called for a back-off.
        server_faults: how many of the last failures in a row were a 5xx.
        first_failure: the clock's reading at the first one.
        maybe_sent: an attempt may have arrived without a usable answer.
        odd_answers: 2xx answers that were not Segment's.
        stale: the last attempt met a stale connection, so that the free re-send is used up.
        refreshed: the last attempt went out with a token fetched for it.
        status_code: of the last answer.
        location: the host that the last answer pointed to, if it was a redirect.
    """

    sends: int = 0
    counted: int = 0
    failures: int = 0
    server_faults: int = 0
    first_failure: float | None = None
    maybe_sent: bool = False
    odd_answers: int = 0
    stale: bool = False
    refreshed: bool = False
    status_code: int | None = None
    location: str | None = None

    def fate(self, status: Status, reason: str | None = None) -> BatchResult:
        return BatchResult(status, reason, self.status_code, self.sends, self.maybe_sent, self.location)


class Signal:
    """Wakes all that wait, on any loop, from any thread; `notify` remembers nothing."""

    __slots__ = ("_waiters",)

    def __init__(self) -> None:
        # Thousands may wait, and each may leave from anywhere.
        self._waiters: dict[asyncio.Future[None], None] = {}

    def register(self) -> asyncio.Future[None]:
        """A future of the running loop that the next `notify` resolves; look once more before awaiting it."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = None
        return waiter

    def forget(self, waiter: asyncio.Future[None]) -> None:
        self._waiters.pop(waiter, None)

    def notify(self) -> None:
        if not self._waiters:
            return
        woken: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
        while self._waiters:
            try:
                waiter, _ = self._waiters.popitem()
            except KeyError:
                # Another thread notified at the same time.
                break
            woken.setdefault(waiter.get_loop(), []).append(waiter)
        for loop, waiters in woken.items():
            # One call for all: to wake another thread's loop costs a system call, and this thread its turn.
            _call(loop, _resolve_all, waiters[::-1])


def wake(waiter: asyncio.Future[None]) -> None:
    """Resolves a future of any loop, from any thread; of a loop that is gone, nothing waits any more."""
    _call(waiter.get_loop(), _resolve, waiter)


def _call(loop: asyncio.AbstractEventLoop, resolve: Callable[[Any], None], what: Any) -> None:
    if asyncio._get_running_loop() is loop:
        resolve(what)
        return
    try:
        loop.call_soon_threadsafe(resolve, what)
    except RuntimeError:
        pass


def _resolve_all(waiters: list[asyncio.Future[None]]) -> None:
    for waiter in waiters:
        _resolve(waiter)


def _resolve(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class Host(Protocol):
    """What a wait needs of the client."""

    def ensure_served(self) -> float | None:
        """See to it that a running loop works for the client; where another one does, seconds until the next look."""


async def until(
    done: Callable[[], bool],
    signal: Callable[[], Signal],
    host: Host,
    time_left: Callable[[], float | None] = lambda: None,
) -> bool:
    """Wait until `done()`, which may become true only just before `signal()` is notified; `False`: no time is left.

    The owner of the client may go away meanwhile: then this loop takes the client over.
    """
    while not done():
        seconds = time_left()
        if seconds is not None and seconds <= MOMENT:
            return False
        current = signal()
        waiter = current.register()
        try:
            # What was notified before the waiter stood in line is seen here.
            if done() or signal() is not current:
                continue
            await asyncio.wait((waiter,), timeout=shorter(seconds, host.ensure_served()))
        finally:
            current.forget(waiter)
    return True


def shorter(one: float | None, other: float | None) -> float | None:
    """Of two time limits; `None`: no limit."""
    return min((seconds for seconds in (one, other) if seconds is not None), default=None)


class Record:
    """What became of the messages of one batch, by their index in it."""

    __slots__ = ("_fates", "_waiters", "host", "signal")

    def __init__(self, host: Host) -> None:
        self.host = host
        self.signal = Signal()
        # By their start. Never changed but replaced, as other threads read it.
        self._fates: list[tuple[int, int, BatchResult]] = []
        self._waiters: dict[asyncio.Future[None], int] = {}

    def settle(self, start: int, stop: int, fate: BatchResult) -> None:
        """Write down the fate of these messages, and wake those who wait for one of them.

        Nobody else: a batch may end message by message, with as many waiting.
        """
        fates = self._fates.copy()
        insort(fates, (start, stop, fate), key=_by_start)
        self._fates = fates
        for waiter, index in list(self._waiters.items()):
            if start <= index < stop:
                wake(waiter)

    def fate(self, index: int) -> BatchResult | None:
        fates = self._fates
        place = bisect_right(fates, index, key=_by_start)
        if place == 0:
            return None
        _, stop, fate = fates[place - 1]
        return fate if index < stop else None

    def register(self, index: int) -> asyncio.Future[None]:
        """A future of the running loop, resolved once this message is settled; look once more before awaiting it."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = index
        return waiter

    def forget(self, waiter: asyncio.Future[None]) -> None:
        self._waiters.pop(waiter, None)


def _by_start(part: tuple[int, int, BatchResult]) -> int:
    return part[0]


class Unread(Record):
    """Of the messages that are in no batch yet: it settles nothing; whoever waits looks again at its `signal`."""

    __slots__ = ()

    def register(self, index: int) -> asyncio.Future[None]:
        return self.signal.register()

    def forget(self, waiter: asyncio.Future[None]) -> None:
        self.signal.forget(waiter)


class Delivery:
    """A message on its way. Await it for its `Outcome`: any number of times, from any loop.

    Cancelling the wait leaves the message alone. At the close of a client with a spool it ends as `Status.KEPT`.

    Attributes:
        message_id: the `messageId` on the wire, by which Segment tells duplicates.
    """

    __slots__ = ("__weakref__", "_index", "_record", "body", "key", "message_id")

    def __init__(self, message_id: str, body: bytes, record: Record) -> None:
        self.message_id = message_id
        # Until the message is in a batch: its JSON, and a record that settles nothing.
        self.body = body
        self._record = record
        self._index = 0
        # With a spool, and in memory: what the message is called there.
        self.key = 0

    @property
    def outcome(self) -> Outcome | None:
        """What became of the message; `None` while it is pending."""
        fate = self._record.fate(self._index)
        return None if fate is None else Outcome(fate.status, self.message_id, *fate[1:])

    def __await__(self) -> Generator[Any, None, Outcome]:
        return self._settled().__await__()

    async def _settled(self) -> Outcome:
        while (outcome := self.outcome) is None:
            record = self._record
            waiter = record.register(self._index)
            try:
                # What happened before the waiter stood in line is seen here.
                if self._record is record and self.outcome is None:
                    await asyncio.wait((waiter,), timeout=record.host.ensure_served())
            finally:
                record.forget(waiter)
        return outcome

    def load(self, body: bytes, record: Record) -> None:
        """The message is back from the disk."""
        self.body = body
        self._record = record

    def place(self, record: Record, index: int) -> None:
        """The message is in a batch now, and its bytes with it."""
        # The index first: until the record changes, it means nothing to a reader in another thread.
        self._index = index
        self._record = record
        self.body = b""

    @staticmethod
    def place_all(deliveries: Iterable[Delivery], record: Record, first: int) -> None:
        """As `place`, from this index on, in half the time."""
        for index, delivery in enumerate(deliveries, first):
            delivery._index = index
            delivery._record = record
            delivery.body = b""

    def __repr__(self) -> str:
        fate = self._record.fate(self._index)
        return f"<Delivery {self.message_id} {'pending' if fate is None else fate.status.value}>"
