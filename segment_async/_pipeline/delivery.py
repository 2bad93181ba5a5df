"""What a call returns: a `Delivery`, and the records in which it finds its outcome.

A `Delivery` knows the record of its batch; the record knows no deliveries. So a message that the application does not
watch costs nothing here: an outcome is written once for a batch, or for a part of one, and a `Delivery` reads it there.

This file knows neither batches' bytes nor the network.
"""

# A delivery's own fields are private, so that an application does not see them; the functions below are the pipeline's.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from itertools import repeat, starmap
from os import getpid
from typing import Any, NoReturn

from segment_async._lifecycle.waiting import Host, Signal, resolved, wake
from segment_async._outcome import BatchResult, Outcome, outcome_of


class Record:
    """What became of the messages of one batch, by their index in it; the parts of a split batch share one.

    Attributes:
        has_refusal: one of the messages was refused alone.
        pid: of the process that sends the messages.
    """

    __slots__ = ("_results", "_waiters", "has_refusal", "host", "pid")

    def __init__(self, host: Host) -> None:
        self.host = host
        self.pid = getpid()
        self.has_refusal = False
        # By their start. Replaced and never changed, as other threads read it.
        self._results: list[tuple[int, int, BatchResult]] = []
        self._waiters: dict[asyncio.Future[None], int] = {}

    def settle(self, start: int, stop: int, result: BatchResult) -> None:
        """Write down how these messages ended, and wake what waits for one of them. A result is final."""
        if self.result(start) is not None:
            return
        results = self._results.copy()
        insort(results, (start, stop, result), key=_by_start)
        self._results = results
        if self._waiters:
            wake([waiter for waiter, index in list(self._waiters.items()) if start <= index < stop])

    def wake_settled(self) -> None:
        """Wake what waits for a message that has its result already: an exception may have interrupted `settle`."""
        wake([waiter for waiter, index in list(self._waiters.items()) if self.result(index) is not None])

    def result(self, index: int) -> BatchResult | None:
        results = self._results
        # Compares with what begins at the next index, without a call for each comparison.
        place = bisect_left(results, (index + 1,))
        if place == 0:
            return None
        _, stop, result = results[place - 1]
        return result if index < stop else None

    def register(self, index: int) -> asyncio.Future[None]:
        """A future of the running loop, resolved once this message is settled; check again before awaiting it."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = index
        return waiter

    def forget(self, waiter: asyncio.Future[None]) -> None:
        self._waiters.pop(waiter, None)


def _by_start(part: tuple[int, int, BatchResult]) -> int:
    return part[0]


class QueuedRecord(Record):
    """The record of all messages that are in no batch yet: it settles nothing.

    `moved` is notified when messages leave for a batch; waiters find their new record then.
    """

    __slots__ = ("moved",)

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self.moved = Signal()

    def register(self, index: int) -> asyncio.Future[None]:
        return self.moved.register()

    def forget(self, waiter: asyncio.Future[None]) -> None:
        self.moved.forget(waiter)


class SharedRecord(Record):
    """The record of a message whose id another one had before: it ends as that one does."""

    __slots__ = ("_first",)

    def __init__(self, host: Host, first: Delivery) -> None:
        super().__init__(host)
        self._first = first

    def result(self, index: int) -> BatchResult | None:
        return self._first._record.result(self._first._index)

    def register(self, index: int) -> asyncio.Future[None]:
        return self._first._record.register(self._first._index)

    def forget(self, waiter: asyncio.Future[None]) -> None:
        self._first._record.forget(waiter)


class Delivery:
    """A message on its way. Await it for its `Outcome`: any number of times, from any loop.

    Cancelling the wait leaves the message alone. At the close of a client with a spool it ends as `Status.KEPT`. In a forked
    child, awaiting one that is pending raises `RuntimeError`: the parent sends its message.

    Attributes:
        message_id: the `messageId` on the wire, which Segment deduplicates by.
    """

    __slots__ = ("__weakref__", "_body", "_index", "_key", "_record", "message_id")

    message_id: str

    def __init__(self, message_id: str, body: bytes, record: Record, key: int = 0) -> None:
        self.message_id = message_id
        self._body = body
        self._record = record
        self._index = 0
        self._key = key

    @property
    def outcome(self) -> Outcome | None:
        """What became of the message; `None` while it is pending."""
        result = self._record.result(self._index)
        return None if result is None else outcome_of(self.message_id, result)

    def __await__(self) -> Generator[Any, None, Outcome]:
        return self._settled().__await__()

    async def _settled(self) -> Outcome:
        if self.outcome is None:
            if self._record.pid != getpid():
                raise RuntimeError("the message was accepted before the fork: the parent process sends it")
            self._record.host.send_now()
        while (outcome := self.outcome) is None:
            record = self._record
            waiter = record.register(self._index)
            try:
                if self._record is record and self.outcome is None:
                    await resolved(waiter, record.host.ensure_running())
            finally:
                record.forget(waiter)
        return outcome

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Delivery cannot be copied or pickled; pass on its message_id, or its outcome")

    def __repr__(self) -> str:
        result = self._record.result(self._index)
        return f"<Delivery {self.message_id} {'pending' if result is None else result.status.value}>"


# What the pipeline does with deliveries; functions, as an application has no use for them.


def bodies_of(deliveries: Iterable[Delivery]) -> list[bytes]:
    """The JSON of messages that are in no sealed batch yet."""
    return [delivery._body for delivery in deliveries]


def is_called(delivery: Delivery, key: int) -> bool:
    """Whether the spool calls the message so."""
    return delivery._key == key


def is_in_no_batch(delivery: Delivery, queued: QueuedRecord) -> bool:
    """Whether the message is queued, or on disk only."""
    return delivery._record is queued


def keys_of(deliveries: Iterable[Delivery]) -> list[int]:
    """What the spool calls these messages; 0 without a spool."""
    return [delivery._key for delivery in deliveries]


def place_all(deliveries: Iterable[Delivery], record: Record) -> None:
    """These messages have their outcomes in this record, and their bytes elsewhere."""
    for index, delivery in enumerate(deliveries):
        # The index first: until the record changes, it means nothing to a reader in another thread.
        delivery._index = index
        delivery._record = record
        delivery._body = b""


def place_one(delivery: Delivery, record: Record, index: int) -> None:
    """The message has its outcome at this index of this record; its bytes are still here."""
    delivery._index = index
    delivery._record = record


def forget_bodies(deliveries: Iterable[Delivery]) -> None:
    """The messages' bytes are elsewhere now; a delivery that the application keeps stays small."""
    for delivery in deliveries:
        delivery._body = b""


def move(deliveries: Sequence[Delivery], source: deque[Delivery], target: deque[Delivery]) -> None:
    """Move these messages, the first ones of a queue, to the end of another."""
    before = len(target)
    try:
        # One call, which a signal handler cannot interrupt: a message is always in the one place or in the other.
        target.extend(starmap(source.popleft, repeat((), len(deliveries))))
    except MemoryError:
        # There was no memory for one that had left the source: put it back.
        left = deliveries[len(target) - before :]
        if left and (not source or source[0] is not left[0]):
            source.appendleft(left[0])
        raise


def settle_alone(delivery: Delivery, host: Host, result: BatchResult) -> None:
    """A message that is in no batch has its outcome."""
    record = Record(host)
    record.settle(0, 1, result)
    place_all((delivery,), record)


def settle_together(deliveries: Sequence[Delivery], host: Host, result: BatchResult) -> None:
    """Messages that are in no batch have one outcome; their bytes are still here."""
    record = Record(host)
    record.settle(0, len(deliveries), result)
    for index, delivery in enumerate(deliveries):
        # The index first, as in `place_all`.
        delivery._index = index
        delivery._record = record


def bring_back(delivery: Delivery, body: bytes, key: int, record: Record) -> None:
    """The message is in memory again."""
    delivery._body, delivery._key = body, key
    delivery._record, delivery._index = record, 0


def stored_as(deliveries: Iterable[Delivery], keys: Iterable[int]) -> None:
    """The spool calls these messages so."""
    for delivery, key in zip(deliveries, keys, strict=True):
        delivery._key = key
