"""The queue: an `asyncio.Queue`, bounded by all that is pending, and the lock under which a message changes its place.

What is pending counts wherever it waits: unread here, in a batch, in flight. So the queue owns the accounts and the
backlog as well, and their lock. How callers get in, and what happens when there is no room, is in `admission`: the queue
knows no policies, and does not know whether the client is closed.

**The lock's rule**: it is held for a few lines that move messages or count them, never while logging, calling a hook,
compressing, or touching the disk. Callers on any thread put messages, and make room for them; a spool answers on its own
thread; everything else is done by the client's loop, or by whatever takes the client over from it.

**The lock is reentrant**, since a signal handler or a finalizer may put a message at any call. A put (`take`, and the
fast ways in of `admission`) changes its counters without a call between reading and writing them, and a message moves
from the queue into a batch within one call; so what comes in between finds whole state. Dropping the oldest, and taking
a spool's answers, do more than that: they are refused while this thread holds the lock already (`is_amid_a_change`).

**Everything that waits is woken by `notify`**: the consumer, a flush, a close, the spool feed, and the callers that
wait for room. Each change that may let something go on is followed by it. Three changes need not wake all of them: one
more message makes no room (`announce`); what was stored may be too little to send (`notify_stored`); and some changes,
such as that fewer messages are unread, matter to the callers alone (`wake_waiters`).
"""

from __future__ import annotations

import asyncio
import sys
from bisect import bisect_right
from collections import deque
from itertools import accumulate
from typing import Final

from segment_async._lifecycle.waiting import Host, Signal, wake
from segment_async._locks import reentrant_lock
from segment_async._outcome import HEALTHY, BatchResult, Health, Statistics

from .accounts import Accounts
from .backlog import Backlog
from .batch import MAX_BATCH_MESSAGES, MAX_BODY_BYTES, Batch, OpenBatch
from .clock import LoopClock
from .delivery import Delivery, QueuedRecord, Record, bodies_of, keys_of
from .order import Order
from .room import Room
from .schedule import Schedule

# Messages that are looked at to see how many fit.
_READ_AT_ONCE: Final = 64
# Unread messages at which an awaiting caller lets the loop turn: about 2 ms of calls without a pause, and few enough
# to stay in a core's own cache; and those at which it goes on, so that it does not stop for each slice that is read.
UNREAD_BEFORE_A_TURN: Final = 500
_UNREAD_AFTER_A_TURN: Final = 100


class _Messages(asyncio.Queue[Delivery]):
    """Used without waiting, so that it belongs to no loop: one client serves many loops and threads.

    Its deque is used directly: `put_nowait` and `get_nowait` cost 0.27 µs a message of the call's 3.3, and a signal
    handler that raises within `get_nowait` loses the message that it has already removed.
    """

    def _init(self, maxsize: int) -> None:
        self._queue = self.deque = deque[Delivery]()


class Queue:
    """Attributes:
    lock: see the rule above.
    messages: the queue itself.
    incoming: its deque, with messages as they were put; with a spool, those that it has not been given yet.
    accounts, backlog, order: change under the lock only.
    schedule: what is sent when.
    changed: notified with every change that may let something go on.
    room: callers that wait for room.
    queued: the record of messages that are in no batch yet.
    ready: messages that may be sent, the oldest first: unread ones; without a spool `incoming` itself.
    appending: with a spool: messages that it is storing.
    attempts: with a spool: requests that earlier processes made, by what the spool calls the message.
    wake_at: unread messages at which a put announces them: the consumer says so when it goes to sleep.
    """

    # fmt: off
    __slots__ = (
        "accounts", "appending", "attempts", "backlog", "changed", "clock", "has_spool", "incoming", "lock", "messages",
        "order", "queued", "ready", "room", "schedule", "wake_at",
    )
    # fmt: on

    def __init__(
        self,
        accounts: Accounts,
        backlog: Backlog,
        schedule: Schedule,
        room: Room,
        clock: LoopClock,
        host: Host,
        *,
        has_spool: bool = False,
    ) -> None:
        self.lock = reentrant_lock()
        self.accounts = accounts
        self.backlog = backlog
        self.schedule = schedule
        self.clock = clock
        self.room = room
        self.queued = QueuedRecord(host)
        self.has_spool = has_spool
        self.messages = _Messages()
        self.incoming = self.messages.deque
        # With a spool, messages are stored before they are ready to be sent.
        self.ready: deque[Delivery] = deque() if has_spool else self.incoming
        self.appending: deque[Delivery] = deque()
        self.attempts: dict[int, int] = {}
        unstored = (self.incoming, self.appending) if has_spool else ()
        self.order = Order(self.lock, accounts, backlog, self.ready, unstored)
        self.changed = Signal(self.order.reached)
        self.wake_at = sys.maxsize

    def is_amid_a_change(self) -> bool:
        """Whether this thread holds the lock: a signal handler or a finalizer has come in the middle of something."""
        # `threading.Condition` asks the same. A flag would stay set if an exception came at the wrong moment.
        return self.lock._is_owned()  # type: ignore[attr-defined,no-any-return]

    # -- what wakes

    def notify(self) -> None:
        """Something changed: whatever waits looks at its condition again. From any thread, without the lock."""
        self.wake_waiters()
        self.changed.notify()

    def wake_waiters(self) -> None:
        """Callers that wait for room look whether it is theirs; the lock is not held."""
        if not self.room.waiters:
            return
        with self.lock:
            unread = len(self.incoming)
            woken = self.room.to_wake(UNREAD_BEFORE_A_TURN - unread if unread <= _UNREAD_AFTER_A_TURN else 0)
        wake(woken)

    def notify_stored(self, ready: int) -> None:
        """With a spool, as `notify`: messages were stored, and so many of them are ready to be sent.

        The consumer is woken only if it is worth a look, as for a message that is put into a queue without a spool.
        """
        if self.room.waiters:
            self.wake_waiters()
        self.changed.recheck()
        if ready and len(self.ready) >= self.wake_at:
            self.announce(ready)

    # -- messages come in

    def take(self, delivery: Delivery, size: int, arriving: bool = False) -> None:
        """Count a message and queue it; the lock is held. `arriving`: it is accepted only once a spool has stored it."""
        accounts = self.accounts
        accounts.arriving += arriving
        accounts.pending, accounts.pending_bytes = accounts.pending + 1, accounts.pending_bytes + size
        self.order.put_count += 1
        try:
            self.incoming.append(delivery)
        except MemoryError:
            self.note_not_queued(delivery, size, arriving=arriving)
            raise

    def note_not_queued(self, delivery: Delivery, size: int, *, arriving: bool = False) -> None:
        """Memory was refused for a message that is counted already: its call fails, and it counts no more. The lock is held."""
        if delivery not in self.incoming:
            self.order.put_count -= 1
            self.accounts.arriving -= arriving
            self.accounts.forget(1, size)

    def announce(self, new: int = 1) -> None:
        """Wake the consumer for unread messages, once: when it goes to sleep it says when to wake it next. The lock is
        not held.

        The first message of a batch only starts its clock if the consumer will look before the batch is due: waking it
        would make that call cost three times as much, and it would find nothing to do.
        """
        now = self.clock.now()
        with self.lock:
            if self.accounts.pending >= self.accounts.max_messages:
                self.room.note_full()
            else:
                is_first = len(self.ready) == new and self.backlog.unread_since is None
                # With a spool, a flush may wait for messages that are stored only now.
                is_awaited = self.order.read_count < self.backlog.flush_before
                if is_first and not is_awaited and self.schedule.waits_for_more(now):
                    self.backlog.unread_since = now
                    self.wake_at = self._worth_a_look(now)
                    return
        # First, as a consumer in another thread may be awake, and asleep again, before `notify` returns.
        self.wake_at = sys.maxsize
        try:
            # Not those that wait for room: one more message makes none.
            self.changed.notify()
        except BaseException:
            # The next put wakes it.
            self.wake_at = 1
            raise

    # -- the client's loop reads, and settles

    def read(self, room: int, *, all_of_it: bool = False) -> tuple[int, OpenBatch | None]:
        """Move the oldest unread messages into the open batch: the first, and what else fits into `room` bytes.

        Returns their bytes (0: nothing was read), and the open batch if it has to be sealed before more can be read.
        `all_of_it`: also when the open batch is large enough to be sent.
        """
        with self.lock:
            size, to_seal = self._read(MAX_BATCH_MESSAGES if all_of_it else self._most(), room)
        if size and self.room.waiters:
            self.wake_waiters()
        return size, to_seal

    def oldest(self) -> Batch | OpenBatch | None:
        """The oldest batch that is not in flight, read for this if need be; `None`: there is none. The lock is held."""
        backlog = self.backlog
        if not backlog.waiting and backlog.open is None:
            self._read(1, MAX_BODY_BYTES)
        return backlog.waiting[0] if backlog.waiting else backlog.open

    def _most(self) -> int:
        if self.ready and self.schedule.may_send_open(self.clock.now()):
            return self.schedule.room_for_more(len(self.ready))
        return MAX_BATCH_MESSAGES

    def _read(self, most: int, room: int) -> tuple[int, OpenBatch | None]:
        messages = self.ready
        if not messages or most <= 0:
            return 0, None
        count = min(most, _READ_AT_ONCE, len(messages))
        key = sends = 0
        if self.attempts:
            # Messages that earlier processes tried go by themselves.
            key = keys_of((messages[0],))[0]
            sends = self.attempts.get(key, 0)
            count = 1
        # By their indices: an iterator fails if a finalizer enqueues meanwhile.
        bodies = bodies_of(map(messages.__getitem__, range(count)))
        ends = list(accumulate(map(len, bodies)))
        batch = self.backlog.open
        if batch is None:
            batch = self.backlog.begin(Record(self.queued.host), self.order.read_count, self.clock.now(), sends)
        elif batch.history.sends != sends or not batch.fits(ends[0]):
            return 0, batch
        # With a comma each.
        fitting = bisect_right(range(count), min(batch.room, room), key=lambda index: ends[index] + index + 1)
        count = min(max(1, fitting), max(1, batch.places))
        batch.take(messages, bodies[:count], ends[count - 1])
        self.order.read_count += count
        if self.attempts:
            self.attempts.pop(key, None)
        self.backlog.note_read(self.order.read_count, len(messages), self.clock.now())
        return ends[count - 1] + count, None

    def place(self, batch: Batch | OpenBatch) -> None:
        """The messages of a batch have their outcomes in its record from now on: wake what waits for one of them."""
        if batch.place():
            self.queued.moved.notify()

    def settle(self, batch: Batch | OpenBatch, result: BatchResult) -> bool:
        """The messages of a batch have their outcome; `False`: another thread has given the batch up meanwhile.

        The caller notifies, once it has done the rest of what belongs to the outcome.
        """
        with self.lock:
            is_pending = self.backlog.has(batch)
            if is_pending:
                self._settle(batch, result)
        return is_pending

    def _settle(self, batch: Batch | OpenBatch, result: BatchResult) -> None:
        first = batch.offset
        self.place(batch)
        batch.record.settle(first, first + batch.count, result)
        self.accounts.settle(batch.count, batch.size, result)
        self.backlog.remove(batch)
        self.room.note_room()

    def leave(self, count: int, size: int, result: BatchResult | None = None) -> None:
        """With a spool: messages leave before they are stored; `None`: they were not accepted after all. The lock is held."""
        # They get no place: later messages do not go at once because a flush waited for these. Not again if interrupted.
        places = self.order.place_to_reach() + self.order.recovered - count
        self.backlog.flush_before = min(self.backlog.flush_before, places)
        if result is None:
            self.accounts.forget(count, size)
        else:
            self.accounts.settle(count, size, result)

    def repair(self) -> None:
        """Make everything consistent again after an exception interrupted a change, wherever that was."""
        accounts = self.accounts
        backlog = self.backlog
        with self.lock:
            settled = backlog.repair()
            if backlog.open is not None:
                self.order.read_count = max(self.order.read_count, backlog.open.stop)
            for batch, result in settled:
                batch.record.wake_settled()
                if accounts.pending >= self._count_pending()[0] + batch.count:
                    # It was interrupted before it was counted.
                    accounts.settle(batch.count, batch.size, result)
            while not accounts.recount(accounts.pending, *self._count_pending()):
                pass
        self.queued.moved.notify()
        self.notify()

    def _count_pending(self) -> tuple[int, int]:
        """Messages in memory, and bytes of their JSON, counted one by one."""
        batches = list(self.backlog.batches())
        unread = [*self.ready, *self.incoming, *self.appending] if self.has_spool else [*self.ready]
        bodies = bodies_of(unread)
        return (
            len(bodies) + sum(batch.count for batch in batches),
            sum(map(len, bodies)) + sum(batch.size for batch in batches),
        )

    # -- the consumer goes to sleep

    def sleep_until_unread(self, seen: object, looks_at: float | None) -> asyncio.Future[None] | None:
        """What the consumer awaits; `None`: something has changed since `changed` had this mark, or there is much to read.

        `looks_at`: when it will look by itself.
        """
        waiter = self.changed.register()
        with self.lock:
            if self.accounts.pending >= self.accounts.max_messages:
                # It was filled while the consumer was awake.
                self.room.note_full()
            self.schedule.looks_at = looks_at
            wake_at = self._worth_a_look(self.clock.now())
            if self.changed.mark is seen and len(self.ready) < wake_at:
                self.wake_at = wake_at
                return waiter
            self.wake_at = sys.maxsize
        self.changed.forget(waiter)
        return None

    def _worth_a_look(self, now: float) -> int:
        """Unread messages at which the consumer is to be woken: as the schedule says, and when the queue becomes full."""
        places = self.accounts.max_messages - self.accounts.pending
        return min(self.schedule.wake_at(now), max(1, len(self.ready) + places))

    # -- looks

    def statistics(self, health: Health = HEALTHY) -> Statistics:
        with self.lock:
            opened_at = self.backlog.opened_at()
            oldest_age = 0.0 if opened_at is None else max(0.0, self.clock.now() - opened_at)
            return self.accounts.statistics(*self.backlog.in_flight_totals(), oldest_age, health)
