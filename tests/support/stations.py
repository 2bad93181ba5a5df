"""Stations of the pipeline by themselves, for tests of one of them: a host, messages, batches, a queue.

There is no client here, no transport and no loop.
"""

from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

from segment_async import RetryPolicy
from segment_async._pipeline.accounts import Accounts
from segment_async._pipeline.admission import Admission, Overflow
from segment_async._pipeline.backlog import Backlog
from segment_async._pipeline.batch import MAX_BATCH_MESSAGES, MAX_BODY_BYTES, Batch, OpenBatch
from segment_async._pipeline.circuit import CircuitBreaker
from segment_async._pipeline.clock import LoopClock
from segment_async._pipeline.delivery import Delivery, QueuedRecord, Record, stored_as
from segment_async._pipeline.queue import Queue
from segment_async._pipeline.room import Room
from segment_async._pipeline.schedule import Schedule

MANY = 1_000_000


class AlwaysRunning:
    """A host whose loop runs; counts how often it is asked. `watch`: another loop is the owner."""

    def __init__(self, watch: float | None = None) -> None:
        self.watch = watch
        self.looks = 0

    def ensure_running(self) -> float | None:
        self.looks += 1
        return self.watch

    def send_now(self) -> None:
        """A delivery is awaited; nothing here waits for company."""


def deliveries(bodies: Sequence[bytes], keys: Sequence[int] | None = None) -> list[Delivery]:
    record = QueuedRecord(AlwaysRunning())
    made = [Delivery(f"id-{number}", body, record) for number, body in enumerate(bodies)]
    if keys is not None:
        stored_as(made, keys)
    return made


def opened(
    bodies: Sequence[bytes] = (),
    *,
    start: int = 0,
    limit: int = MAX_BODY_BYTES - 100,
    gzip: bool = False,
    at_once: int = 1,
    sends: int = 0,
    max_messages: int = MAX_BATCH_MESSAGES,
    keys: Sequence[int] | None = None,
) -> OpenBatch:
    """An open batch with these messages, taken and pressed by one, two, three and more at a time."""
    batch = OpenBatch(
        Record(AlwaysRunning()),
        start,
        limit,
        5.0,
        gzip=gzip,
        sends=sends,
        max_messages=max_messages,
        has_keys=keys is not None,
    )
    messages = deque(deliveries(bodies, keys))
    first = 0
    while messages:
        some = list(bodies[first : first + at_once])
        batch.take(messages, some, sum(map(len, some)))
        batch.press()
        first += at_once
        at_once += 1
    return batch


def sealed(bodies: Sequence[bytes], **options: Any) -> Batch:
    batch = opened(bodies, **options).seal()
    batch.place()
    return batch


def backlog_with(
    *, max_bytes: int = MAX_BODY_BYTES - 100, max_messages: int = MAX_BATCH_MESSAGES, has_keys: bool = False
) -> Backlog:
    return Backlog(max_bytes=max_bytes, max_messages=max_messages, gzip=False, has_keys=has_keys)


def schedule_with(
    backlog: Backlog,
    circuit: CircuitBreaker | None = None,
    *,
    flush_at: int = 100,
    flush_interval: float = 0.5,
    max_in_flight: int = 4,
    give_up_after: float = 43_200.0,
) -> Schedule:
    return Schedule(
        backlog,
        circuit or CircuitBreaker(RetryPolicy(), lambda: 0.0),
        flush_at=flush_at,
        flush_interval=flush_interval,
        max_in_flight=max_in_flight,
        give_up_after=give_up_after,
    )


class Station(NamedTuple):
    """A queue, and the way into it."""

    queue: Queue
    admission: Admission


def queue_with(
    max_messages: int = 3,
    max_bytes: int = MANY,
    timeout: float | None = None,
    *,
    circuit: CircuitBreaker | None = None,
    has_spool: bool = False,
    batch_of: int = MAX_BATCH_MESSAGES,
) -> Queue:
    """`batch_of`: messages that an open batch takes at most."""
    accounts, clock = Accounts(max_messages, max_bytes), LoopClock()
    backlog = backlog_with(max_messages=batch_of, has_keys=has_spool)
    return Queue(
        accounts,
        backlog,
        schedule_with(backlog, circuit),
        Room(accounts, clock, timeout),
        clock,
        AlwaysRunning(),
        has_spool=has_spool,
    )


def station_with(
    max_messages: int = 3,
    max_bytes: int = MANY,
    overflow: Overflow = "wait",
    timeout: float | None = None,
    **options: Any,
) -> Station:
    """As `queue_with`, with an admission."""
    queue = queue_with(max_messages, max_bytes, timeout, **options)
    return Station(queue, Admission(queue, overflow))
