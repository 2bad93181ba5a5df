"""Every decision about what is sent when.

An open batch is sealed when it is due and a request may begin, or when it is full. What was sealed first goes first, when
its back-off is over and the circuit breaker allows. This file is pure: it has no loop, lock or socket; `now` is an
argument.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile
from typing import Final

from .backlog import Backlog
from .batch import Batch, OpenBatch
from .circuit import CircuitBreaker

# Unread messages at which the consumer is woken although nothing is due: to compress them while there is time.
WAKE_EVERY: Final = 100
# While more than `flush_at` messages are unread, a batch may have this many times `flush_at`: a request costs 0.2 ms, a
# twentieth of what 500 messages cost, and a caller that does not pause leaves at most 500 unread.
_BACKLOG_BATCHES: Final = 5
# Failures in a row of a single message, after which another is tried although the order forbids it.
_STUCK_AFTER: Final = 10
# Seconds until the consumer looks at what is pending in any case.
LONGEST_SLEEP: Final = 10.0


class Schedule:
    """Attributes:
    looks_at: when the consumer, which sleeps, will look by itself; `None`: it will not, or is awake.
    """

    def __init__(
        self,
        backlog: Backlog,
        circuit: CircuitBreaker,
        *,
        flush_at: int,
        flush_interval: float,
        max_in_flight: int,
        give_up_after: float,
    ) -> None:
        self.looks_at: float | None = None
        self._was_active = False
        self._backlog = backlog
        self._circuit = circuit
        self._flush_at = flush_at
        self._flush_interval = flush_interval
        self._max_in_flight = max_in_flight
        self._give_up_after = give_up_after

    def next(self, now: float, is_full: bool) -> Batch | OpenBatch | None:
        """What to send now: a waiting batch, or the open one, to be sealed; `None`: nothing."""
        if not self._may_send(now):
            return None
        ready = self._ready(now)
        # While the circuit is half-open, what was not tried yet goes first: the fault may be in what was.
        yields = ready is None or (self._circuit.half_open and ready.history.sends > 0)
        if yields and not self._keeps_order() and self._is_due(now, is_full):
            return self._backlog.open
        return ready

    def may_send_open(self, now: float) -> bool:
        """Whether the open batch could go if it were due."""
        return self._may_send(now) and not self._keeps_order()

    def room_for_more(self, unread: int) -> int:
        """Messages that may join the open batch before it is sent although more are unread; none once it is large.

        The more requests are in flight, and the more is unread, the larger it may be: fewer, larger requests.
        """
        enough = self._flush_at * (1 + len(self._backlog.in_flight))
        if unread > self._flush_at:
            enough *= _BACKLOG_BATCHES
        opened = self._backlog.open
        return enough if opened is None else enough - opened.count

    def wake_at(self, now: float) -> int:
        """Unread messages that are worth a look before the next moment that `next_look` names."""
        if self._backlog.open is None:
            return 1 if self._backlog.unread_since is None else min(self._flush_at, WAKE_EVERY)
        missing = self._flush_at - self._backlog.open.count
        return min(missing, WAKE_EVERY) if missing > 0 and self.may_send_open(now) else WAKE_EVERY

    def waits_for_more(self, now: float) -> bool:
        """Whether a first message that comes now is looked at before it has waited for long enough."""
        looks_at = self.looks_at
        return (
            self._backlog.open is None
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
        if self._backlog.open is not None or self._backlog.waiting or self._backlog.in_flight:
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
            for batch in self._backlog.waiting
            if batch.history.first_failure is not None and now >= batch.history.first_failure + self._give_up_after
        ]

    def _may_send(self, now: float) -> bool:
        return now >= self._circuit.not_before and self._has_place()

    def _has_place(self) -> bool:
        return len(self._backlog.in_flight) < self._circuit.places(self._max_in_flight)

    def _keeps_order(self) -> bool:
        """With one request at a time nothing overtakes what waits, unless that is stuck."""
        return self._max_in_flight == 1 and len(self._backlog.waiting) > self._count_stuck()

    def _count_stuck(self) -> int:
        """How many of the first that wait are single messages that the server answers with a fault again and again.

        Only another message can tell whether the fault is the messages' or the server's.
        """
        return sum(1 for _ in takewhile(_is_stuck, self._backlog.waiting))

    def _candidates(self) -> list[Batch]:
        return self._backlog.waiting[: 1 + self._count_stuck()] if self._max_in_flight == 1 else self._backlog.waiting

    def _ready(self, now: float) -> Batch | None:
        ready = (batch for batch in self._candidates() if batch.not_before <= now)
        if self._circuit.half_open:
            return min(ready, key=lambda batch: batch.history.sends, default=None)
        return next(ready, None)

    def _is_due(self, now: float, is_full: bool) -> bool:
        batch = self._backlog.open
        return batch is not None and (
            is_full
            or batch.count >= self._flush_at
            or batch.places <= 0
            or now >= batch.opened_at + self._flush_interval
            or batch.start < self._backlog.flush_before
        )

    def _moments(self, now: float, is_full: bool) -> Iterator[float]:
        earliest = self._circuit.not_before
        if self._has_place():
            yield from (max(batch.not_before, earliest) for batch in self._candidates())
            # Once, as another thread may drop it to make room.
            opened = self._backlog.open
            if opened is not None and not self._keeps_order():
                due = now if self._is_due(now, is_full) else opened.opened_at + self._flush_interval
                yield max(earliest, due)
        for batch in self._backlog.waiting:
            if batch.history.first_failure is not None:
                yield batch.history.first_failure + self._give_up_after


def _is_stuck(batch: Batch) -> bool:
    return batch.count == 1 and batch.history.server_faults >= _STUCK_AFTER
