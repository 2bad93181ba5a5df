"""What callers do: they put a message into the queue, wait for room, or learn that it is to be dropped.

    offer ─► taken
      └► put ─┬─► taken, at once or once there is room
              ├─► the policy makes room: the oldest go
              └─► given up: dropped, or `QueueFull`; `ClientClosed`

The policies are here, and whether the client is closed; the queue, which keeps and counts what was taken, knows neither.
Callers may be on any thread and any loop, and `room` says which of those that wait is next. What changes here does so
with the queue's lock held, by the rules at the top of `queue.py`: a signal handler or a finalizer may put a message at
any call, and drops nothing to make room if it came amid a change.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, Literal

from segment_async._exceptions import ClientClosed, QueueFull
from segment_async._lifecycle.waiting import resolved, shorter, wake
from segment_async._outcome import BatchResult, Status

from .delivery import Delivery
from .queue import UNREAD_BEFORE_A_TURN, Queue
from .room import Waiter

Overflow = Literal["wait", "drop_newest", "drop_oldest", "raise"]
# Under "drop_oldest" a tenth of what a bound allows may go at a time: the newest nine tenths always stay.
EVICTED_SHARE: Final = 10


class Admission:
    """Attributes:
    overflow: the policy: what happens when the queue is full.
    evicted: results, bodies and bytes of messages that made room for newer ones, to be reported without the lock.
    closed: nothing more is taken.
    """

    # fmt: off
    __slots__ = (
        "_accounts", "_closed_because", "_incoming", "_lock", "_most_offered", "_queue", "_room", "_waiters", "closed",
        "evicted", "overflow",
    )
    # fmt: on

    def __init__(self, queue: Queue, overflow: Overflow) -> None:
        self.overflow: Overflow = overflow
        self.evicted: deque[tuple[BatchResult, Callable[[], Iterable[bytes]], int]] = deque()
        self.closed = False
        # Unread messages up to which `offer` takes one from a paced caller; 0, with a spool and once closed: it takes none.
        self._most_offered = 0 if queue.has_spool else UNREAD_BEFORE_A_TURN
        self._queue = queue
        # Bound here, as `offer` runs for each message; the queue never replaces them.
        self._lock = queue.lock
        self._accounts = queue.accounts
        self._incoming = queue.incoming
        self._room = queue.room
        self._waiters = queue.room.waiters

    # -- messages come in

    def offer(self, delivery: Delivery, size: int, *, paced: bool = True) -> bool:
        """Take the message if nothing stands in its way. This is all that an ordinary call does here.

        `paced`: the caller may share its loop with the consumer, and is to wait when unread messages pile up.
        """
        accounts = self._accounts
        messages = self._incoming
        with self._lock:
            unread = len(messages) + 1
            pending = accounts.pending + 1
            pending_bytes = accounts.pending_bytes + size
            if (
                (unread > self._most_offered and (paced or not self._most_offered))
                or pending > accounts.max_messages
                or pending_bytes > accounts.max_bytes
                or self._waiters
            ):
                return False
            accounts.pending = pending
            accounts.pending_bytes = pending_bytes
            try:
                messages.append(delivery)
            except MemoryError:
                self._queue.note_not_queued(delivery, size)
                raise
        if unread >= self._queue.wake_at:
            self._queue.announce()
        return True

    def offer_arriving(self, delivery: Delivery, size: int) -> bool:
        """With a spool, as `offer`: the message counts as accepted only once it is stored, which the caller sees to.

        Not the last one that there is room for: from that on callers are to wait no longer than their limit.
        """
        accounts = self._accounts
        with self._lock:
            pending = accounts.pending + 1
            pending_bytes = accounts.pending_bytes + size
            if self.closed or pending >= accounts.max_messages or pending_bytes > accounts.max_bytes or self._waiters:
                return False
            accounts.arriving += 1
            accounts.pending, accounts.pending_bytes = pending, pending_bytes
            self._queue.order.put_count += 1
            try:
                self._incoming.append(delivery)
            except MemoryError:
                self._queue.note_not_queued(delivery, size, arriving=True)
                raise
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
                with self._lock:
                    is_first = not self._room.last_waits()
                    self._waiters[waiter] = None
                if is_first:
                    self._queue.wake_waiters()
        finally:
            if waiter is not None:
                with self._lock:
                    self._waiters.pop(waiter, None)
                    # A caller that took its room frees none for the others: they are looked at when the last one that
                    # was woken goes.
                    is_for_others = not taken or self._room.first_waits()
                if is_for_others:
                    self._queue.wake_waiters()

    def put_nowait(self, delivery: Delivery, size: int) -> bool:
        """Take the message (`True`), or say that it is to be dropped (`False`).

        Raises:
            QueueFull: under ``overflow="raise"``.
            ClientClosed: always, once closed.
        """
        is_nested = self._queue.is_amid_a_change()
        with self._lock:
            self.check_open()
            was_full = self._room.is_full
            taken = self._room.is_for_all(size) or self._made_room(size, is_nested)
            if taken:
                self._queue.take(delivery, size)
        if not taken:
            self._refuse(was_full)
        self._queue.announce()
        if self._waiters:
            # It may have taken the room of callers that waited for messages to be read: their time counts from now on.
            self._queue.wake_waiters()
        return taken

    # -- messages that are not queued, and the end

    def refuse(self, result: BatchResult) -> None:
        """Count a message that has its outcome as soon as it is accepted."""
        with self._lock:
            self._accounts.refuse(result)

    def reject(self) -> None:
        """Count a call that raises."""
        with self._lock:
            self._accounts.rejected += 1

    def close(self, why: str = "the client is closed; make a new one") -> None:
        """Take nothing more; callers that wait for room get `ClientClosed`, with the text of the first close."""
        with self._lock:
            if not self.closed:
                self.closed, self._most_offered, self._closed_because = True, 0, why
            waiters = [waiter.future for waiter in self._waiters]
        wake(waiters)
        self._queue.notify()

    def check_open(self) -> None:
        """Raises:
        ClientClosed: once closed.
        """
        if self.closed:
            raise ClientClosed(self._closed_because)

    # -- callers that wait for room

    def _try(self, delivery: Delivery, size: int, paced: bool, arriving: bool, waiter: Waiter | None) -> bool | None:
        """Whether the message is taken or given up; `None`: the caller is to wait."""
        is_nested = self._queue.is_amid_a_change()
        was_full = True
        with self._lock:
            self.check_open()
            may_take = waiter.woken if waiter is not None else self._room.is_for_newcomer(size)
            unread = len(self._incoming) + (len(self._waiters) if waiter is None else 0)
            has_room = self._accounts.has_room(size)
            if may_take and has_room and not (paced and unread >= UNREAD_BEFORE_A_TURN):
                self._queue.take(delivery, size, arriving)
                taken: bool | None = True
            elif has_room:
                taken = None
            elif self._policy() != "wait":
                was_full = self._room.is_full
                taken = self._made_room(size, is_nested)
                if taken:
                    self._queue.take(delivery, size, arriving)
            else:
                self._room.note_full()
                taken = False if waiter is not None and self._room.time_left() == 0 else None
            if waiter is not None and taken is None:
                waiter.wait_again(has_limit=not has_room)
                # Its loop may have stood still, and its place was given to others.
                self._waiters[waiter] = None
        if taken:
            self._queue.announce()
        elif taken is not None:
            self._refuse(was_full)
        return taken

    async def _sleep(self, waiter: Waiter) -> None:
        watch = self._queue.queued.host.ensure_running()
        # The queue may be full of messages that are due because of that.
        self._queue.changed.notify()
        limit = self._room.time_left() if waiter.has_limit else None
        start = self._queue.clock.now()
        await resolved(waiter.future, shorter(limit, watch))
        if limit is not None:
            with self._lock:
                self._room.note_late(self._queue.clock.now() - start - limit)

    # -- making room

    def _policy(self) -> Overflow:
        """What happens if memory is full. With a spool, the oldest are dropped there, and what is stored stays."""
        return "wait" if self._queue.has_spool and self.overflow == "drop_oldest" else self.overflow

    def _made_room(self, size: int, is_nested: bool) -> bool:
        """What the policy does for a message that finds no room; the lock is held, and was before if it `is_nested`."""
        self._room.note_full()
        if self._policy() == "drop_oldest" and not is_nested:
            while not self._accounts.has_room(size) and self._drop_oldest():
                pass
            return self._accounts.has_room(size)
        return False

    def _refuse(self, was_full: bool) -> None:
        """A message found no room; the lock is not held. If this is news, what waits in batches is due because of it.

        Raises:
            QueueFull: under ``overflow="raise"``.
        """
        if not was_full:
            self._queue.changed.notify()
        if self.overflow == "raise":
            raise QueueFull("the queue is full: messages come faster than they can be sent")

    def _drop_oldest(self) -> bool:
        """Drop the oldest batch that is not in flight, as a whole; `False`: there is none."""
        batch = self._queue.oldest()
        if batch is None:
            return False
        result = batch.history.result(Status.DROPPED, "queue_full")
        # Before it is settled: an exception in between must not cost the report.
        self.evicted.append((result, batch.bodies, batch.size))
        self._queue.settle(batch, result)
        return True
