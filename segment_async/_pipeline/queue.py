"""The queue: an `asyncio.Queue`, bounded by the count and the bytes of all that is pending.

What is pending counts wherever it waits: unread here, in a batch, in flight. So the bounds and the client's counters
live here, under one lock, and `accepted == delivered + failed + dropped + pending` holds whenever the lock is free.
The `asyncio.Queue` itself is only ever used without waiting, so that it belongs to no loop; whoever has to wait
for room does so on a future of their own loop.

This file knows neither batches nor the network.
"""

from __future__ import annotations

import asyncio
import threading
from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import Callable
from itertools import accumulate, islice
from typing import Literal

from segment_async._exceptions import ClientClosed, QueueFull
from segment_async._outcome import BatchResult, Counts, Statistics, Status

from .delivery import MOMENT, Delivery, Host, Unread, shorter, wake

Overflow = Literal["wait", "drop_newest", "drop_oldest", "raise"]

# Messages that are looked at to see how many fit.
_READ_AT_ONCE = 64
# Unread messages at which an awaiting caller lets the loop turn: about 2 ms of calls without a pause, and few enough
# to stay in a core's own cache; and those at which it goes on, so that it does not stop for each slice that is read.
_UNREAD_BEFORE_A_TURN = 500
_UNREAD_AFTER_A_TURN = 100


class _Unread(asyncio.Queue[Delivery]):
    """Nobody ever waits on it, neither for messages nor for room: there is nobody to wake, and no loop to belong to.

    So what it holds may come and go in any way a deque knows.

    Attributes:
        messages: what it holds, the oldest first.
    """

    def _init(self, maxsize: int) -> None:
        self._queue = self.messages = deque[Delivery]()


class _Waiter:
    """A caller that stands in line for room."""

    __slots__ = ("found_room", "future", "granted", "paced", "size")

    def __init__(self, size: int, paced: bool) -> None:
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.size = size
        self.paced = paced
        # There was room when it last looked, so that no limit of time is set: it must be told when that is over.
        self.found_room = False
        # Room is held for it: nobody else can take it before the waiter has run.
        self.granted = False


class Queue:
    # Python finds an attribute fast where a class has thirty at most, or says their names: 0.1 µs a call, 0.2 a message.
    # fmt: off
    __slots__ = (
        "_acquire", "_bytes_ceiling", "_ended", "_full_since", "_gone", "_gone_bytes", "_in_flight",
        "_in_flight_bytes", "_line", "_max_messages", "_messages", "_never_put", "_overflow_timeout", "_put_bytes",
        "_put_ceiling", "_read_bytes", "_reasons", "_recovered", "_release", "_reserved", "_reserved_bytes",
        "_spooled", "_spooled_bytes", "_unread", "announce", "announce_at", "clock", "closed", "drop_oldest", "lock",
        "max_bytes", "oldest_age", "overflow", "put_count", "read_count", "requests", "retries", "ring", "spooled",
        "unread",
    )
    # fmt: on

    def __init__(
        self, max_messages: int, max_bytes: int, overflow: Overflow, overflow_timeout: float | None, host: Host
    ) -> None:
        self.lock = threading.RLock()
        self._acquire, self._release = self.lock.acquire, self.lock.release
        # Of the messages that are in no batch yet: it settles nothing, but waits on it are woken when they are read.
        self.unread = Unread(host)
        # Of the messages that are on disk and not in memory.
        self.spooled = Unread(host)
        self.max_bytes = max_bytes
        self.overflow = overflow
        self.closed = False
        # Set by the sender: a monotonic clock; tell it of messages; tell it that the queue is full; drop what is oldest,
        # `False` if nothing can be; how long the oldest has waited.
        self.clock: Callable[[], float] = lambda: 0.0
        self.announce: Callable[[], None] = lambda: None
        self.ring: Callable[[], None] = lambda: None
        # Messages put, from which on the sender is told of them: it need not look at each.
        self.announce_at = 0
        self.drop_oldest: Callable[[], bool] = lambda: False
        self.oldest_age: Callable[[], float] = lambda: 0.0
        # Messages ever put and ever read: a place in the order of acceptance is a number.
        self.put_count = self.read_count = 0
        # Their bytes; and how far both may go for now. What is pending is what was put and has not left, so that
        # to take a message changes two numbers, and to see whether there is room for it takes two comparisons.
        self._put_bytes = self._read_bytes = 0
        self._put_ceiling, self._bytes_ceiling = max_messages, max_bytes
        self._gone = self._gone_bytes = 0
        self.requests = 0
        self.retries = 0
        self._max_messages = max_messages
        self._overflow_timeout = overflow_timeout
        # The clock's reading when the queue became full; `None` once there was room again.
        self._full_since: float | None = None
        self._messages = _Unread()
        # What it holds: its own methods cost a call 0.1 µs each.
        self._unread = self._messages.messages
        # Ten thousand may stand in it, and each may leave from anywhere.
        self._line: OrderedDict[_Waiter, None] = OrderedDict()
        self._reserved = self._reserved_bytes = 0
        # Accepted without having been put: refused at once, or on disk so far.
        self._never_put = 0
        self._recovered = 0
        self._spooled = self._spooled_bytes = 0
        self._in_flight = self._in_flight_bytes = 0
        self._ended: dict[Status, int] = dict.fromkeys((Status.DELIVERED, Status.FAILED, Status.DROPPED), 0)
        self._reasons: dict[str, int] = {}

    # -- messages come in

    async def put(self, delivery: Delivery, size: int, *, paced: bool) -> bool:
        """Wait until the message is taken (`True`), or until the policy gives it up (`False`: to be dropped).

        `paced`: the caller shares its loop with the sender, and waits too when the unread messages pile up.
        Cancelled, or raising, it has not taken the message.

        Raises:
            QueueFull: under ``overflow="raise"``.
            ClientClosed: before there was room.
        """
        with self.lock:
            self.check_open()
            if self._may_take(size) and not (paced and self._is_piled_up()):
                self._take(delivery, size)
                return True
            if self.overflow != "wait" and not self._has_room(size):
                return self._overflowed(delivery, size)
            waiter = _Waiter(size, paced)
            self._line[waiter] = None
        try:
            return await self._stand_in_line(waiter, delivery)
        finally:
            self._leave_line(waiter)

    def offer(self, delivery: Delivery, size: int, *, paced: bool) -> bool:
        """Take the message if nothing stands in its way; the fast way into the queue."""
        # What `put` does, written out: this runs once a call, a function costs 0.06 µs, and so does `with`.
        self._acquire()
        try:
            put_count = self.put_count + 1
            put_bytes = self._put_bytes + size
            unread = self._unread
            if (
                self._line
                or put_count > self._put_ceiling
                or put_bytes > self._bytes_ceiling
                or (paced and len(unread) >= _UNREAD_BEFORE_A_TURN)
                or self.closed
            ):
                return False
            self._put_bytes = put_bytes
            self.put_count = put_count
            unread.append(delivery)
            if put_count == self._put_ceiling:
                self._note_full()
            if put_count >= self.announce_at:
                self.announce()
            return True
        finally:
            self._release()

    def put_nowait(self, delivery: Delivery, size: int) -> bool:
        """Take the message (`True`), or tell that it is to be dropped (`False`).

        Raises:
            QueueFull: under ``overflow="raise"``.
            ClientClosed: always, once closed.
        """
        with self.lock:
            self.check_open()
            # A line whose head finds room only waits for unread messages to be read: that fills no queue.
            if self._has_room(size) and (not self._line or self._has_room(self._head().size)):
                self._take(delivery, size)
                return True
            return self._overflowed(delivery, size)

    def refuse(self, fate: BatchResult, *, even_closed: bool = False) -> None:
        """Count a message that has its outcome as soon as it is accepted.

        Raises:
            ClientClosed: always, once closed.
        """
        with self.lock:
            if not even_closed:
                self.check_open()
            self._never_put += 1
            self._count_end(1, fate)

    def close(self) -> None:
        """Take nothing more; whoever stands in line gets `ClientClosed`."""
        with self.lock:
            self.closed = True
            for waiter in self._line:
                wake(waiter.future)

    def _is_piled_up(self) -> bool:
        return len(self._unread) >= _UNREAD_BEFORE_A_TURN

    @property
    def unread_count(self) -> int:
        return len(self._unread)

    @property
    def is_full(self) -> bool:
        """No room for the next message: what waits should leave now."""
        return self._full_since is not None or self._pending >= self._max_messages

    @property
    def _pending(self) -> int:
        return self.put_count - self._gone

    @property
    def _pending_bytes(self) -> int:
        return self._put_bytes - self._gone_bytes

    def check_open(self) -> None:
        """Raises:
        ClientClosed: once closed.
        """
        if self.closed:
            raise ClientClosed("the client is closed; make a new one")

    def _may_take(self, size: int) -> bool:
        return not self._line and self._has_room(size)

    def _has_room(self, size: int) -> bool:
        return self.put_count < self._put_ceiling and self._put_bytes + size <= self._bytes_ceiling

    def _take(self, delivery: Delivery, size: int) -> None:
        self._put_bytes += size
        self.put_count += 1
        if self.put_count == self._put_ceiling:
            self._note_full()
        self._unread.append(delivery)
        if self.put_count >= self.announce_at:
            self.announce()

    def _note_full(self) -> None:
        if self._pending == self._max_messages:
            self._be_full()

    def _be_full(self) -> float:
        """What waits should leave now; gives the clock's reading."""
        self._full_since = self.clock()
        self.ring()
        return self._full_since

    def _set_ceilings(self) -> None:
        self._put_ceiling = self._gone + self._max_messages - self._reserved
        self._bytes_ceiling = self._gone_bytes + self.max_bytes - self._reserved_bytes

    def _overflowed(self, delivery: Delivery, size: int) -> bool:
        if self._full_since is None:
            self._be_full()
        if self.overflow == "raise":
            raise QueueFull("the queue is full: messages come faster than they can be sent")
        if self.overflow == "drop_oldest":
            while not self._has_room(size) and self.drop_oldest():
                pass
            if self._has_room(size):
                self._take(delivery, size)
                return True
        return False

    # -- the line of those who wait for room

    async def _stand_in_line(self, waiter: _Waiter, delivery: Delivery) -> bool:
        while True:
            with self.lock:
                self.check_open()
                if waiter.granted:
                    self._release_reservation(waiter)
                    self._take(delivery, waiter.size)
                    return True
                waiter.found_room = self._has_room(waiter.size)
                if self.overflow != "wait" and not waiter.found_room:
                    return self._overflowed(delivery, waiter.size)
                patience = self._patience(waiter)
                if waiter.future.done():
                    waiter.future = asyncio.get_running_loop().create_future()
            if patience == 0:
                return False
            watch = self.unread.host.ensure_served()
            self._serve_line()
            await asyncio.wait((waiter.future,), timeout=shorter(patience, watch))

    def _patience(self, waiter: _Waiter) -> float | None:
        """Seconds that the waiter may still stand in line; `None`: as long as it takes."""
        if waiter.found_room or self._overflow_timeout is None:
            # With room, only the unread ones have piled up; they are read within a turn or two of the loop.
            return None
        since = self._be_full() if self._full_since is None else self._full_since
        left = since + self._overflow_timeout - self.clock()
        return left if left > MOMENT else 0.0

    def _leave_line(self, waiter: _Waiter) -> None:
        with self.lock:
            self._line.pop(waiter, None)
            if waiter.granted:
                self._release_reservation(waiter)
            self._serve_line()

    def _release_reservation(self, waiter: _Waiter) -> None:
        waiter.granted = False
        self._reserve(-1, -waiter.size)

    def _reserve(self, count: int, size: int) -> None:
        self._reserved += count
        self._reserved_bytes += size
        self._set_ceilings()

    def _serve_line(self) -> None:
        with self.lock:
            while self._line:
                head = self._head()
                if not self._has_room(head.size):
                    if head.found_room:
                        wake(head.future)
                    return
                if head.paced and len(self._unread) > _UNREAD_AFTER_A_TURN:
                    return
                del self._line[head]
                head.granted = True
                self._reserve(1, head.size)
                wake(head.future)

    def _head(self) -> _Waiter:
        return next(iter(self._line))

    # -- the sender reads, and tells how it ended; all with the lock held

    def next(self) -> Delivery | None:
        """The message that `read` begins with; `None`: all are read."""
        return self._unread[0] if self._unread else None

    def read(self, most: int = 1, room: int = 0) -> list[Delivery]:
        """The oldest messages, at most so many: the first, and those that fit behind it into `room` bytes, with a comma
        each.
        """
        unread = self._unread
        if not unread:
            return []
        if len(unread) <= most and self._put_bytes - self._read_bytes + len(unread) <= room:
            read = list(unread)
            unread.clear()
            self._read_bytes = self._put_bytes
        else:
            looked_at = islice(unread, min(most, _READ_AT_ONCE))
            ends = list(accumulate([len(delivery.body) + 1 for delivery in looked_at]))
            count = max(1, bisect_right(ends, room))
            read = [unread.popleft() for _ in range(count)]
            self._read_bytes += ends[count - 1] - count
        self.read_count += len(read)
        return read

    def put_back(self, read: list[Delivery]) -> None:
        """To the front: what was read and could not be placed."""
        self._unread.extendleft(reversed(read))
        self.read_count -= len(read)
        self._read_bytes -= sum(len(delivery.body) for delivery in read)

    def was_read(self) -> None:
        if self._line:
            self._serve_line()

    def lift_off(self, count: int, size: int) -> None:
        self._in_flight += count
        self._in_flight_bytes += size

    def land(self, count: int, size: int) -> None:
        self._in_flight -= count
        self._in_flight_bytes -= size

    def settle(self, count: int, size: int, fate: BatchResult) -> None:
        self._leave(count, size)
        self._full_since = None
        self._count_end(count, fate)
        if self._line:
            self._serve_line()

    def _leave(self, count: int, size: int) -> None:
        self._gone += count
        self._gone_bytes += size
        self._set_ceilings()

    def _count_end(self, count: int, fate: BatchResult) -> None:
        self._ended[fate.status] += count
        if fate.reason is not None:
            self._reasons[fate.reason] = self._reasons.get(fate.reason, 0) + count

    # -- with a spool: what is accepted and not in memory

    def accept_spooled(self, size: int) -> None:
        """Raises:
        ClientClosed: always, once closed.
        """
        with self.lock:
            self.check_open()
            self._never_put += 1
            self._spooled += 1
            self._spooled_bytes += size

    def take_back_spooled(self, size: int) -> None:
        """It was not accepted after all."""
        with self.lock:
            self._never_put -= 1
            self._spooled -= 1
            self._spooled_bytes -= size

    def recover(self, count: int) -> None:
        """Found on disk, of earlier processes; their bytes are counted as they come into memory."""
        with self.lock:
            self._never_put += count
            self._recovered += count
            self._spooled += count

    def lose_spooled(self, size: int, fate: BatchResult) -> None:
        """The spool itself gave a message up."""
        with self.lock:
            self._spooled -= 1
            self._spooled_bytes = max(0, self._spooled_bytes - size)
            self._never_put -= 1
            self.put_count += 1
            self.read_count += 1
            self._leave(1, 0)
            self._count_end(1, fate)

    def window(self) -> tuple[int, int] | None:
        """Messages and bytes that there is room for in memory; `None`: none."""
        count, size = self._max_messages - self._pending, self.max_bytes - self._pending_bytes
        return (count, size) if count > 0 and size > 0 else None

    def load(self, delivery: Delivery, size: int) -> None:
        """A spooled message is in memory; the lock is held."""
        self._take_from_spooled(size)
        self._never_put -= 1
        self._put_bytes += size
        self.put_count += 1
        self._unread.append(delivery)
        if self.put_count >= self.announce_at:
            self.announce()

    def _take_from_spooled(self, size: int) -> None:
        if not self._spooled:
            # Nobody here had it: somebody put it back in line from outside.
            self.recover(1)
        self._spooled -= 1
        # What others left, or erased, was not counted with its size.
        self._spooled_bytes = max(0, self._spooled_bytes - size) if self._spooled else 0

    def keep(self, count: int, size: int) -> None:
        """What was in memory is only on disk again; the lock is held."""
        self._leave(count, size)
        self._spooled += count
        self._spooled_bytes += size

    def place_to_reach(self) -> int:
        """Place in the order of acceptance after all that is accepted now; the lock is held."""
        return self.put_count + self._spooled

    def patience_is_over(self) -> bool:
        """With a spool: whether it has been full for longer than callers are to be held up."""
        with self.lock:
            if self._full_since is None:
                self._full_since = self.clock()
            return self._overflow_timeout is not None and self.clock() >= self._full_since + self._overflow_timeout

    def statistics(self) -> Statistics:
        with self.lock:
            return Statistics(
                accepted=self.put_count + self._never_put,
                delivered=self._ended[Status.DELIVERED],
                failed=self._ended[Status.FAILED],
                dropped=self._ended[Status.DROPPED],
                pending=self._pending + self._spooled,
                queued=self._pending + self._spooled - self._in_flight,
                queued_bytes=self._pending_bytes + self._spooled_bytes - self._in_flight_bytes,
                in_flight=self._in_flight,
                oldest_age=self.oldest_age(),
                requests=self.requests,
                retries=self.retries,
                recovered=self._recovered,
                reasons=Counts(self._reasons),
            )
