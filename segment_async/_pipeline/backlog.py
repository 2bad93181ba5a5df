"""The messages that were read from the queue and have no outcome yet, and every decision about what is sent when.

    messages ─► open ─► sealed: waiting ─► in flight
                           ▲                  │
                           └── retry, split ──┘

An open batch is sealed when it is due and a request may begin, or when it is full. A batch is in one of the three at
any time, never only in a coroutine. This file is pure: it has no loop, lock or
socket; `now` is an argument.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from itertools import takewhile
from typing import Final

from segment_async._outcome import BatchResult

from .batch import MAX_BATCH_MESSAGES, Batch, OpenBatch, bytes_at_once
from .circuit import CircuitBreaker
from .delivery import Record

# Unread messages at which the consumer is woken although nothing is due: to compress them while there is time.
WAKE_EVERY: Final = 100
# While more than `flush_at` messages are unread, a batch may have this many times `flush_at`: a request costs 0.2 ms, a
# twentieth of what 500 messages cost, and a caller that does not pause leaves at most 500 unread.
_BACKLOG_BATCHES: Final = 5
# Failures in a row of a single message, after which another is tried although the order forbids it.
_STUCK_AFTER: Final = 10
# Seconds until the consumer looks at what is pending in any case.
LONGEST_SLEEP: Final = 10.0
# Seconds that a smaller limit, learnt from a 413, is remembered.
_LIMIT_SECONDS: Final = 300.0


class Backlog:
    """Attributes:
    open: takes the messages that are read; `None`: there are none.
    waiting: sealed batches that wait to be sent, in the order of acceptance.
    in_flight: sealed batches whose requests are under way.
    flush_before: messages before this place are sent without waiting for company.
    unread_since: when the first unread message came, if the consumer was not woken for it.
    looks_at: when the consumer will look by itself; `None`: it will not.
    """

    def __init__(
        self,
        circuit: CircuitBreaker,
        *,
        flush_at: int,
        flush_interval: float,
        max_in_flight: int,
        give_up_after: float,
        max_bytes: int,
        max_messages: int = MAX_BATCH_MESSAGES,
        gzip: bool = True,
        has_keys: bool = False,
    ) -> None:
        self.open: OpenBatch | None = None
        self.waiting: list[Batch] = []
        self.in_flight: dict[Batch, None] = {}
        self.flush_before = 0
        self.unread_since: float | None = None
        self.looks_at: float | None = None
        self._was_active = False
        self._circuit = circuit
        self._flush_at = flush_at
        self._flush_interval = flush_interval
        self._max_in_flight = max_in_flight
        self._give_up_after = give_up_after
        self._max_messages = max_messages
        self._gzip = gzip
        self._has_keys = has_keys
        self._max_bytes = self._limit = max_bytes
        self._limit_until = 0.0

    # -- the three places

    def batches(self) -> Iterator[Batch | OpenBatch]:
        if self.open is not None:
            yield self.open
        yield from self.waiting
        yield from self.in_flight

    def begin(self, record: Record, start: int, now: float, sends: int) -> OpenBatch:
        """Open a batch; there must be none. `sends`: requests that earlier processes made with its messages."""
        opened_at = now if self.unread_since is None else self.unread_since
        self.unread_since = None
        self.open = OpenBatch(
            record,
            start,
            self.limit(now),
            opened_at,
            gzip=self._gzip,
            sends=sends,
            max_messages=self._max_messages,
            has_keys=self._has_keys,
        )
        return self.open

    @property
    def slice_bytes(self) -> int:
        """Bytes to read before the loop gets its turn."""
        return bytes_at_once(self._gzip)[1]

    def wait(self, batch: Batch) -> None:
        """The batch waits for its turn. It leaves the place where it was only after it is in the new one."""
        insort(self.waiting, batch, key=_by_start)
        self.in_flight.pop(batch, None)

    def mark_in_flight(self, batch: Batch) -> bool:
        """A request with the batch begins; `False`: the batch does not wait any more."""
        index = self._index(batch)
        if index is None:
            return False
        self.in_flight[batch] = None
        del self.waiting[index]
        return True

    def remove(self, batch: Batch | OpenBatch) -> None:
        """The batch is settled, or was replaced by its parts."""
        if batch is self.open:
            self.open = None
        elif isinstance(batch, Batch):
            self.in_flight.pop(batch, None)
            index = self._index(batch)
            if index is not None:
                del self.waiting[index]

    def has(self, batch: Batch | OpenBatch) -> bool:
        return (
            batch is self.open
            or batch in self.in_flight
            or (isinstance(batch, Batch) and self._index(batch) is not None)
        )

    def _index(self, batch: Batch) -> int | None:
        index = bisect_left(self.waiting, batch.start, key=_by_start)
        return index if index < len(self.waiting) and self.waiting[index] is batch else None

    def repair(self) -> list[tuple[Batch | OpenBatch, BatchResult]]:
        """Make the places consistent again after an exception interrupted a change.

        Meanwhile a batch may be in two places, beside its own parts, sealed and still open, or settled and still here.
        Returns those that were settled.
        """
        settled: list[tuple[Batch | OpenBatch, BatchResult]] = []
        whole: list[Batch] = []
        for batch in sorted({*self.waiting, *self.in_flight}, key=_by_start_and_size):
            result = batch.record.result(batch.offset)
            if result is not None:
                settled.append((batch, result))
            elif not whole or batch.start >= whole[-1].stop:
                whole.append(batch)
        waiting = set(self.waiting)
        self.waiting = [batch for batch in whole if batch in waiting]
        self.in_flight = {batch: None for batch in whole if batch not in waiting}
        opened = self.open
        if opened is not None:
            opened.repair()
            result = opened.record.result(opened.offset)
            if result is not None:
                settled.append((opened, result))
            if result is not None or (whole and opened.start < whole[-1].stop):
                self.open = None
        return settled

    # -- limits

    def limit(self, now: float) -> int:
        """Bytes of messages that a new batch may have."""
        if now >= self._limit_until:
            self._limit = self._max_bytes
        return self._limit

    def learn_limit(self, batch: Batch, now: float) -> None:
        """A server refused this batch for its size."""
        self._limit = min(self._limit, max(batch.size // 2, 1))
        self._limit_until = now + _LIMIT_SECONDS

    def exceeds_limit(self, batch: Batch, now: float) -> bool:
        return batch.count > 1 and batch.size > self.limit(now)

    # -- what goes when

    def next(self, now: float, is_full: bool) -> Batch | OpenBatch | None:
        """What to send now: a waiting batch, or the open one, to be sealed; `None`: nothing."""
        if not self._may_send(now):
            return None
        ready = self._ready(now)
        # While the circuit is half-open, what was not tried yet goes first: the fault may be in what was.
        yields = ready is None or (self._circuit.half_open and ready.history.sends > 0)
        if yields and not self._keeps_order() and self._is_due(now, is_full):
            return self.open
        return ready

    def may_send_open(self, now: float) -> bool:
        """Whether the open batch could go if it were due."""
        return self._may_send(now) and not self._keeps_order()

    def room_for_more(self, unread: int) -> int:
        """Messages that may join the open batch before it is sent although more are unread; none once it is large.

        The more requests are in flight, and the more is unread, the larger it may be: fewer, larger requests.
        """
        enough = self._flush_at * (1 + len(self.in_flight))
        if unread > self._flush_at:
            enough *= _BACKLOG_BATCHES
        opened = self.open
        return enough if opened is None else enough - opened.count

    def wake_at(self, now: float) -> int:
        """Unread messages that are worth a look before the next moment that `next_look` names."""
        if self.open is None:
            return 1 if self.unread_since is None else min(self._flush_at, WAKE_EVERY)
        missing = self._flush_at - self.open.count
        return min(missing, WAKE_EVERY) if missing > 0 and self.may_send_open(now) else WAKE_EVERY

    def waits_for_company(self, now: float) -> bool:
        """Whether a first message that comes now is looked at before it has waited for long enough."""
        looks_at = self.looks_at
        return (
            self.open is None
            and self._flush_at > 1
            and looks_at is not None
            and now <= looks_at <= now + self._flush_interval
        )

    def next_look(self, now: float, is_full: bool) -> float | None:
        """When to look again although nothing has announced a change; `None`: nothing is pending, and all was quiet.

        After messages came, once more in time for the next one, whose call need not wake the consumer then. While
        anything is pending, every few seconds: an exception may have interrupted the announcement of a change.
        """
        moments = [*self._moments(now, is_full)]
        if self.open is not None or self.waiting or self.in_flight:
            moments.append(now + LONGEST_SLEEP)
            self._was_active = True
        elif self._was_active:
            moments.append(now + self._flush_interval)
            self._was_active = False
        return min(moments, default=None)

    def overdue(self, now: float) -> list[Batch]:
        """Waiting batches that have failed for longer than the policy allows."""
        return [
            batch
            for batch in self.waiting
            if batch.history.first_failure is not None and now >= batch.history.first_failure + self._give_up_after
        ]

    def retry_now(self) -> None:
        """Do not wait out any back-off: the server is well again, or the client is closing."""
        for batch in self.waiting:
            batch.not_before = 0.0

    def _may_send(self, now: float) -> bool:
        return now >= self._circuit.not_before and self._has_place()

    def _has_place(self) -> bool:
        return len(self.in_flight) < self._circuit.places(self._max_in_flight)

    def _keeps_order(self) -> bool:
        """With one request at a time nothing overtakes what waits, unless that is stuck."""
        return self._max_in_flight == 1 and len(self.waiting) > self._count_stuck()

    def _count_stuck(self) -> int:
        """How many of the first that wait are single messages that the server answers with a fault again and again.

        Only another message can tell whether the fault is the messages' or the server's.
        """
        return sum(1 for _ in takewhile(_is_stuck, self.waiting))

    def _candidates(self) -> list[Batch]:
        return self.waiting[: 1 + self._count_stuck()] if self._max_in_flight == 1 else self.waiting

    def _ready(self, now: float) -> Batch | None:
        ready = (batch for batch in self._candidates() if batch.not_before <= now)
        if self._circuit.half_open:
            return min(ready, key=lambda batch: batch.history.sends, default=None)
        return next(ready, None)

    def _is_due(self, now: float, is_full: bool) -> bool:
        batch = self.open
        return batch is not None and (
            is_full
            or batch.count >= self._flush_at
            or batch.places <= 0
            or now >= batch.opened_at + self._flush_interval
            or batch.start < self.flush_before
        )

    def _moments(self, now: float, is_full: bool) -> Iterator[float]:
        earliest = self._circuit.not_before
        if self._has_place():
            yield from (max(batch.not_before, earliest) for batch in self._candidates())
            # Once, as another thread may drop it to make room.
            opened = self.open
            if opened is not None and not self._keeps_order():
                due = now if self._is_due(now, is_full) else opened.opened_at + self._flush_interval
                yield max(earliest, due)
        for batch in self.waiting:
            if batch.history.first_failure is not None:
                yield batch.history.first_failure + self._give_up_after

    # -- looks

    def left(self, place: int) -> int:
        """Messages before this place in the order of acceptance."""
        return sum(max(0, min(batch.stop, place) - batch.start) for batch in self.batches())

    def opened_at(self) -> float | None:
        """When the oldest batch was opened."""
        moments = [batch.opened_at for batch in self.batches()]
        return min(moments, default=None) if self.unread_since is None else min((*moments, self.unread_since))

    def in_flight_totals(self) -> tuple[int, int]:
        """Messages in flight, and bytes of their JSON."""
        batches = list(self.in_flight)
        return sum(batch.count for batch in batches), sum(batch.size for batch in batches)


def _by_start(batch: Batch) -> int:
    return batch.start


def _by_start_and_size(batch: Batch) -> tuple[int, int]:
    return batch.start, -batch.count


def _is_stuck(batch: Batch) -> bool:
    return batch.count == 1 and batch.history.server_faults >= _STUCK_AFTER
