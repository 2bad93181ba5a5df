"""The queue: an `asyncio.Queue`, bounded by all that is pending, and the lock under which a message changes its place.

What is pending counts wherever it waits: unread here, in a batch, in flight. So the queue owns the accounts and the
backlog as well, and their lock. **The lock's rule**: it is held for a few lines that move messages or count them, never
while logging, calling a hook, compressing, or touching the disk. Callers on any thread put messages, and make room for
them; a spool answers on its own thread; everything else is done by the client's loop, or by whatever takes the client
over from it.

**The lock is reentrant**, since a signal handler or a finalizer may put a message at any call. A put
changes its counters without a call between reading and writing them, and a message moves from the queue into a batch
within one call; so what comes in between finds whole state. Dropping the oldest, and taking a spool's answers, do more
than that: they are refused while this thread holds the lock already (`is_amid_a_change`).

**Everything that waits is woken by `notify`**: the consumer, a flush, a close, the spool feed, and the callers that
wait for room. Each change that may let something go on is followed by it. One more message makes no room, and so it
notifies `changed` alone.
"""

from __future__ import annotations

import asyncio
import sys
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable
from itertools import accumulate
from typing import Final, Literal

from segment_async._exceptions import ClientClosed, QueueFull
from segment_async._lifecycle.waiting import Host, Signal, resolved, shorter, wake
from segment_async._locks import reentrant_lock
from segment_async._outcome import HEALTHY, BatchResult, Health, Statistics, Status

from .accounts import Accounts
from .backlog import Backlog
from .batch import MAX_BATCH_MESSAGES, MAX_BODY_BYTES, Batch, OpenBatch
from .clock import LoopClock
from .delivery import Delivery, QueuedRecord, Record, bodies_of, keys_of
from .order import Order
from .room import Room, Waiter

Overflow = Literal["wait", "drop_newest", "drop_oldest", "raise"]
# Under "drop_oldest" a tenth of what a bound allows may go at a time: the newest nine tenths always stay.
EVICTED_SHARE: Final = 10

# Messages that are looked at to see how many fit.
_READ_AT_ONCE: Final = 64
# Unread messages at which an awaiting caller lets the loop turn: about 2 ms of calls without a pause, and few enough
# to stay in a core's own cache; and those at which it goes on, so that it does not stop for each slice that is read.
_UNREAD_BEFORE_A_TURN: Final = 500
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
    changed: notified with every change that may let something go on.
    room: callers that wait for room.
    queued: the record of messages that are in no batch yet.
    ready: messages that may be sent, the oldest first: unread ones; without a spool `incoming` itself.
    appending: with a spool: messages that it is storing.
    attempts: with a spool: requests that earlier processes made, by what the spool calls the message.
    evicted: results, bodies and bytes of messages that made room for newer ones, to be reported without the lock.
    """

    # fmt: off
    __slots__ = (
        "_closed_because", "_most_offered", "_wake_at", "accounts", "appending", "attempts", "backlog", "changed", "clock",
        "closed", "evicted", "has_spool", "incoming", "lock", "messages", "order", "overflow", "queued", "ready", "room",
    )
    # fmt: on

    def __init__(
        self,
        accounts: Accounts,
        backlog: Backlog,
        clock: LoopClock,
        overflow: Overflow,
        overflow_timeout: float | None,
        host: Host,
        *,
        has_spool: bool = False,
    ) -> None:
        self.lock = reentrant_lock()
        self.accounts = accounts
        self.backlog = backlog
        self.clock = clock
        self.room = Room(accounts, clock, overflow_timeout)
        self.queued = QueuedRecord(host)
        self.overflow: Overflow = overflow
        self.has_spool = has_spool
        self.closed = False
        self.evicted: deque[tuple[BatchResult, Callable[[], Iterable[bytes]], int]] = deque()
        self.messages = _Messages()
        self.incoming = self.messages.deque
        # With a spool, messages are stored before they are ready to be sent.
        self.ready: deque[Delivery] = deque() if has_spool else self.incoming
        self.appending: deque[Delivery] = deque()
        self.attempts: dict[int, int] = {}
        unread = (self.ready, self.incoming, self.appending) if has_spool else (self.ready,)
        self.order = Order(self.lock, accounts, backlog, unread)
        self.changed = Signal(self.order.reached)
        # Unread messages up to which `offer` takes one from a paced caller; 0, with a spool and once closed: it takes none.
        self._most_offered = 0 if has_spool else _UNREAD_BEFORE_A_TURN
        # Unread messages at which a put notifies: the consumer says so when it goes to sleep.
        self._wake_at = sys.maxsize

    def is_amid_a_change(self) -> bool:
        """Whether this thread holds the lock: a signal handler or a finalizer has come in the middle of something."""
        # `threading.Condition` asks the same. A flag would stay set if an exception came at the wrong moment.
        return self.lock._is_owned()  # type: ignore[attr-defined,no-any-return]

    # -- what wakes

    def notify(self) -> None:
        """Something changed: whatever waits looks at its condition again. From any thread, without the lock."""
        self.wake_waiters()
        self.changed.notify()

    def notify_stored(self, ready: int) -> None:
        """With a spool, as `notify`: messages were stored, and so many of them are ready to be sent.

        The consumer is woken only if it is worth a look, as for a message that is put into a queue without a spool.
        """
        if self.room.waiters:
            self._wake_waiters()
        self.changed.recheck()
        if ready and len(self.ready) >= self._wake_at:
            self._announce(ready)

    # -- messages come in

    def offer(self, delivery: Delivery, size: int, *, paced: bool = True) -> bool:
        """Take the message if nothing stands in its way. This is all that an ordinary call does here.

        `paced`: the caller may share its loop with the consumer, and is to wait when unread messages pile up.
        """
        accounts = self.accounts
        messages = self.incoming
        with self.lock:
            unread = len(messages) + 1
            pending = accounts.pending + 1
            pending_bytes = accounts.pending_bytes + size
            if (
                (unread > self._most_offered and (paced or not self._most_offered))
                or pending > accounts.max_messages
                or pending_bytes > accounts.max_bytes
                or self.room.waiters
            ):
                return False
            accounts.pending = pending
            accounts.pending_bytes = pending_bytes
            messages.append(delivery)
        if unread >= self._wake_at:
            self._announce()
        return True

    def offer_arriving(self, delivery: Delivery, size: int) -> bool:
        """With a spool, as `offer`: the message counts as accepted only once it is stored, which the caller sees to.

        Not the last one that there is room for: from that on callers are to wait no longer than their limit.
        """
        accounts = self.accounts
        with self.lock:
            pending = accounts.pending + 1
            pending_bytes = accounts.pending_bytes + size
            if (
                self.closed
                or pending >= accounts.max_messages
                or pending_bytes > accounts.max_bytes
                or self.room.waiters
            ):
                return False
            accounts.arriving += 1
            accounts.pending, accounts.pending_bytes = pending, pending_bytes
            self.incoming.append(delivery)
        return True

    async def put(self, delivery: Delivery, size: int, *, paced: bool, arriving: bool = False) -> bool:
        """Wait until the message is taken (`True`), or until the policy gives it up (`False`: to be dropped).

        If it raises or is cancelled, the message was not taken. `arriving`: it counts as accepted only once it is stored.

        Raises:
            QueueFull: under ``overflow="raise"``.
            ClientClosed: before there was room.
        """
        waiter: Waiter | None = None
        taken: bool | None = None
        try:
            while True:
                taken = self._try(delivery, size, paced, arriving, waiter)
                if taken is not None:
                    return taken
                if waiter is not None:
                    await self._sleep(waiter)
                    continue
                waiter = Waiter(size, paced)
                with self.lock:
                    is_first = not self.room.last_waits()
                    self.room.waiters[waiter] = None
                if is_first:
                    self._wake_waiters()
        finally:
            if waiter is not None:
                with self.lock:
                    self.room.waiters.pop(waiter, None)
                    # A caller that took its room frees none for the others: they are looked at when the last one that
                    # was woken goes.
                    is_for_others = not taken or self.room.first_waits()
                if is_for_others:
                    self._wake_waiters()

    def put_nowait(self, delivery: Delivery, size: int) -> bool:
        """Take the message (`True`), or say that it is to be dropped (`False`).

        Raises:
            QueueFull: under ``overflow="raise"``.
            ClientClosed: always, once closed.
        """
        is_nested = self.is_amid_a_change()
        with self.lock:
            self.check_open()
            was_full = self.room.is_full
            taken = self.room.is_for_all(size) or self._made_room(size, is_nested)
            if taken:
                self._take(delivery, size)
        if not taken:
            self._refuse(was_full)
        self._announce()
        if self.room.waiters:
            # It may have taken the room of callers that waited for messages to be read: their time counts from now on.
            self._wake_waiters()
        return taken

    def refuse(self, result: BatchResult) -> None:
        """Count a message that has its outcome as soon as it is accepted."""
        with self.lock:
            self.accounts.refuse(result)

    def reject(self) -> None:
        """Count a call that raises."""
        with self.lock:
            self.accounts.rejected += 1

    def close(self, why: str = "the client is closed; make a new one") -> None:
        """Take nothing more; callers that wait for room get `ClientClosed`, with the text of the first close."""
        with self.lock:
            if not self.closed:
                self.closed, self._most_offered, self._closed_because = True, 0, why
            waiters = [waiter.future for waiter in self.room.waiters]
        wake(waiters)
        self.notify()

    def check_open(self) -> None:
        """Raises:
        ClientClosed: once closed.
        """
        if self.closed:
            raise ClientClosed(self._closed_because)

    def _take(self, delivery: Delivery, size: int, arriving: bool = False) -> None:
        accounts = self.accounts
        accounts.arriving += arriving
        accounts.pending, accounts.pending_bytes = accounts.pending + 1, accounts.pending_bytes + size
        self.incoming.append(delivery)

    def _announce(self, new: int = 1) -> None:
        """Wake the consumer for unread messages, once: when it goes to sleep it says when to wake it next.

        The first message of a batch only starts its clock if the consumer will look before the batch is due: waking it
        would make that call cost three times as much, and it would find nothing to do.
        """
        if self.accounts.pending >= self.accounts.max_messages:
            self.room.note_full()
        else:
            now = self.clock.now()
            with self.lock:
                is_first = len(self.ready) == new and self.backlog.unread_since is None
                # With a spool, a flush may wait for messages that are stored only now.
                is_awaited = self.order.read_count < self.backlog.flush_before
                if is_first and not is_awaited and self.backlog.waits_for_company(now):
                    self.backlog.unread_since = now
                    self._wake_at = self._worth_a_look(now)
                    return
        # First, as a consumer in another thread may be awake, and asleep again, before `notify` returns.
        self._wake_at = sys.maxsize
        try:
            # Only those that send: a message more makes no room.
            self.changed.notify()
        except BaseException:
            # The next put wakes it.
            self._wake_at = 1
            raise

    # -- callers that wait for room

    def _try(self, delivery: Delivery, size: int, paced: bool, arriving: bool, waiter: Waiter | None) -> bool | None:
        """Whether the message is taken or given up; `None`: the caller is to wait."""
        is_nested = self.is_amid_a_change()
        was_full = True
        with self.lock:
            self.check_open()
            waiters = self.room.waiters
            may_take = waiter.woken if waiter is not None else self.room.is_for_newcomer(size)
            unread = len(self.incoming) + (len(waiters) if waiter is None else 0)
            has_room = self.accounts.has_room(size)
            if may_take and has_room and not (paced and unread >= _UNREAD_BEFORE_A_TURN):
                self._take(delivery, size, arriving)
                taken: bool | None = True
            elif has_room:
                taken = None
            elif self._policy() != "wait":
                was_full = self.room.is_full
                taken = self._made_room(size, is_nested)
                if taken:
                    self._take(delivery, size, arriving)
            else:
                self.room.note_full()
                taken = False if waiter is not None and self.room.time_left() == 0 else None
            if waiter is not None and taken is None:
                waiter.wait_again(has_limit=not has_room)
                # Its loop may have stood still, and its place was given to others.
                waiters[waiter] = None
        if taken:
            self._announce()
        elif taken is not None:
            self._refuse(was_full)
        return taken

    async def _sleep(self, waiter: Waiter) -> None:
        watch = self.queued.host.ensure_running()
        # The queue may be full of messages that are due because of that.
        self.changed.notify()
        limit = self.room.time_left() if waiter.has_limit else None
        start = self.clock.now()
        await resolved(waiter.future, shorter(limit, watch))
        if limit is not None:
            with self.lock:
                self.room.note_late(self.clock.now() - start - limit)

    def wake_waiters(self) -> None:
        """Callers that wait for room look whether it is theirs; the lock is not held."""
        if self.room.waiters:
            self._wake_waiters()

    def _wake_waiters(self) -> None:
        with self.lock:
            unread = len(self.incoming)
            woken = self.room.to_wake(_UNREAD_BEFORE_A_TURN - unread if unread <= _UNREAD_AFTER_A_TURN else 0)
        wake(woken)

    # -- making room

    def _policy(self) -> Overflow:
        """What happens if memory is full. With a spool, the oldest are dropped there, and what is stored stays."""
        return "wait" if self.has_spool and self.overflow == "drop_oldest" else self.overflow

    def _made_room(self, size: int, is_nested: bool) -> bool:
        """What the policy does for a message that finds no room; the lock is held, and was before if it `is_nested`."""
        self.room.note_full()
        if self._policy() == "drop_oldest" and not is_nested:
            while not self.accounts.has_room(size) and self._drop_oldest():
                pass
            return self.accounts.has_room(size)
        return False

    def _refuse(self, was_full: bool) -> None:
        """A message found no room; the lock is not held. If this is news, what waits in batches is due because of it.

        Raises:
            QueueFull: under ``overflow="raise"``.
        """
        if not was_full:
            self.changed.notify()
        if self.overflow == "raise":
            raise QueueFull("the queue is full: messages come faster than they can be sent")

    def _drop_oldest(self) -> bool:
        """Drop the oldest batch that is not in flight, as a whole; `False`: there is none."""
        backlog = self.backlog
        if not backlog.waiting and backlog.open is None:
            self._read(1, MAX_BODY_BYTES)
        batch: Batch | OpenBatch | None = backlog.waiting[0] if backlog.waiting else backlog.open
        if batch is None:
            return False
        result = batch.history.result(Status.DROPPED, "queue_full")
        self.evicted.append((result, batch.bodies, batch.size))
        self._settle(batch, result)
        return True

    # -- the client's loop reads, and settles

    def read(self, room: int, *, all_of_it: bool = False) -> tuple[int, OpenBatch | None]:
        """Move the oldest unread messages into the open batch: the first, and what else fits into `room` bytes.

        Returns their bytes (0: nothing was read), and the open batch if it has to be sealed before more can be read.
        `all_of_it`: also when the open batch is large enough to be sent.
        """
        with self.lock:
            size, to_seal = self._read(MAX_BATCH_MESSAGES if all_of_it else self._most(), room)
        if size and self.room.waiters:
            self._wake_waiters()
        return size, to_seal

    def _most(self) -> int:
        if self.ready and self.backlog.may_send_open(self.clock.now()):
            return self.backlog.room_for_more(len(self.ready))
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
        """With a spool: messages leave before they are read; `None`: they were not accepted after all. The lock is held.

        They have passed in the order of acceptance, so that a flush does not wait for them.
        """
        if result is None:
            self.accounts.forget(count, size)
        else:
            self.accounts.settle(count, size, result)
        self.order.read_count += count

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
            self.backlog.looks_at = looks_at
            wake_at = self._worth_a_look(self.clock.now())
            if self.changed.mark is seen and len(self.ready) < wake_at:
                self._wake_at = wake_at
                return waiter
            self._wake_at = sys.maxsize
        self.changed.forget(waiter)
        return None

    def _worth_a_look(self, now: float) -> int:
        """Unread messages at which the consumer is to be woken: as the backlog says, and when the queue becomes full."""
        places = self.accounts.max_messages - self.accounts.pending
        return min(self.backlog.wake_at(now), max(1, len(self.ready) + places))

    # -- looks

    def statistics(self, health: Health = HEALTHY) -> Statistics:
        with self.lock:
            opened_at = self.backlog.opened_at()
            oldest_age = 0.0 if opened_at is None else max(0.0, self.clock.now() - opened_at)
            return self.accounts.statistics(*self.backlog.in_flight_totals(), oldest_age, health)
