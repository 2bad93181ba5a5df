"""The messages that were read from the queue and have no outcome yet: the batches that they are in.

    messages ─► open ─► sealed: waiting ─► in flight
                           ▲                  │
                           └── retry, split ──┘

A batch is in one of the three at any time, never only in a coroutine. What goes when is the schedule's to decide. This
file is pure: it has no loop, lock or socket; `now` is an argument.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import Final

from segment_async._outcome import BatchResult

from .batch import MAX_BATCH_MESSAGES, Batch, OpenBatch, bytes_at_once
from .delivery import Record

# Seconds that a smaller limit, learnt from a 413 or from timeouts, is remembered, and the size of what was delivered.
_LIMIT_SECONDS: Final = 300.0


class Backlog:
    """Attributes:
    open: takes the messages that are read; `None`: there are none.
    waiting: sealed batches that wait to be sent, in the order of acceptance.
    in_flight: sealed batches whose requests are under way.
    flush_before: messages before this place are sent without waiting for more.
    unread_since: when the first unread message came, if the consumer was not woken for it.
    left_since: when the first unread message may have come, at the earliest, if the batch sealed before it had no place
        for it.
    """

    def __init__(
        self, *, max_bytes: int, max_messages: int = MAX_BATCH_MESSAGES, gzip: bool = True, has_keys: bool = False
    ) -> None:
        self.open: OpenBatch | None = None
        self.waiting: list[Batch] = []
        self.in_flight: dict[Batch, None] = {}
        self.flush_before = 0
        self.unread_since: float | None = None
        self.left_since: float | None = None
        # All unread messages came after the first moment; what was unread at the second one ends before this place.
        self._unread_after = self._noted_at = 0.0
        self._noted_place = 0
        self._max_messages = max_messages
        self._gzip = gzip
        self._has_keys = has_keys
        self._max_bytes = self._limit = max_bytes
        self._limit_until = 0.0
        # The largest sizes delivered within the last two such times, the second of which is not over.
        self._delivered = (0, 0)
        self._delivered_until = 0.0

    # -- the three places

    def batches(self) -> Iterator[Batch | OpenBatch]:
        if self.open is not None:
            yield self.open
        yield from self.waiting
        yield from self.in_flight

    def begin(self, record: Record, start: int, now: float, sends: int) -> OpenBatch:
        """Open a batch; there must be none. `sends`: requests that earlier processes made with its messages."""
        opened_at = min(moment for moment in (now, self.unread_since, self.left_since) if moment is not None)
        self.unread_since = self.left_since = None
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

    def note_read(self, read_count: int, unread: int, now: float) -> None:
        """Messages were read: `read_count` so far; `unread` are left."""
        if read_count >= self._noted_place:
            self._unread_after, self._noted_at, self._noted_place = self._noted_at, now, read_count + unread

    def note_left(self, opened: OpenBatch) -> None:
        """This batch was sealed and left messages unread: the batch that they open is due as soon as they are."""
        self.left_since = max(opened.opened_at, self._unread_after)

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
        """This batch is too large for the server, or for the link."""
        self._limit = min(self._limit, max(batch.size // 2, 1))
        self._limit_until = now + _LIMIT_SECONDS

    def note_delivered(self, size: int, now: float) -> None:
        """A batch of so many bytes that travel was delivered."""
        before, latest = self._delivered_lately(now)
        self._delivered = before, max(latest, size)

    def body_size_delivered(self, now: float) -> int:
        """Bytes that travelled, of the largest batch that was delivered lately."""
        return max(self._delivered_lately(now))

    def _delivered_lately(self, now: float) -> tuple[int, int]:
        late = now - self._delivered_until
        if late >= 0:
            self._delivered = (self._delivered[1] if late < _LIMIT_SECONDS else 0, 0)
            self._delivered_until = now + _LIMIT_SECONDS
        return self._delivered

    def exceeds_limit(self, batch: Batch, now: float) -> bool:
        return batch.count > 1 and batch.size > self.limit(now)

    def retry_now(self) -> None:
        """Do not wait out any back-off: the server is well again, or the client is closing."""
        for batch in self.waiting:
            batch.not_before = 0.0

    # -- looks

    def left(self, place: int) -> int:
        """Messages before this place in the order of acceptance."""
        return sum(max(0, min(batch.stop, place) - batch.start) for batch in self.batches())

    def opened_at(self) -> float | None:
        """When the oldest batch was opened."""
        moments = [batch.opened_at for batch in self.batches()]
        return min(moments, default=None) if self.unread_since is None else min((*moments, self.unread_since))

    def in_flight_totals(self) -> tuple[int, int]:
        """Messages in flight, and bytes of their JSON. An exception may have left a batch here that is settled."""
        batches = [batch for batch in list(self.in_flight) if batch.record.result(batch.offset) is None]
        return sum(batch.count for batch in batches), sum(batch.size for batch in batches)


def _by_start(batch: Batch) -> int:
    return batch.start


def _by_start_and_size(batch: Batch) -> tuple[int, int]:
    return batch.start, -batch.count
