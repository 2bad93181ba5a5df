"""Calls that wait until a spool has stored their messages, and for how long they may.

    begin ─► the message is queued ─► answer ─┬─► what the spool says
                                              ├─► cancelled: the message counts as accepted
                                              └─► too late: `SpoolUnavailable`; the spool's answer counts the message

A message whose call waits is *arriving*: it takes room, and is not accepted before it is stored. A stalled disk holds
callers up once, for as long as a full queue may, and not each of them. This file knows no spool.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from segment_async._exceptions import SpoolUnavailable
from segment_async._lifecycle.waiting import MOMENT, settle_all
from segment_async.spool._protocol import Appended, AppendResult, TryLater

from .clock import LoopClock
from .delivery import Delivery
from .queue import Queue

# Seconds that a call waits for the disk at least: also one that is not to wait for room in the queue.
_DISK_SECONDS: Final = 1.0

Answer = Appended | SpoolUnavailable


class Group:
    """Messages that the spool is storing, or that wait until it has recorded an outcome.

    Attributes:
        since: when that began, by the client's clock.
        hold: how many of them may be held at once.
        is_handed_over: the spool has it, and will answer.
        answer: the spool's, if an exception came as it was noted; it comes only once.
    """

    __slots__ = ("answer", "hold", "is_handed_over", "since")

    def __init__(self, since: float) -> None:
        self.since = since
        self.hold = 0
        self.is_handed_over = False
        self.answer: AppendResult | TryLater | SpoolUnavailable | None = None


class AwaitedCalls:
    """Attributes:
    awaited: messages whose calls wait, with the futures that get the answers; `None`: a call that has waited for too
        long. Changes under the queue's lock, except for a message that is not queued yet.
    answered: futures that are to get their answers. Changes under the queue's lock.
    is_interrupted: `wake` was, and has to be called again.
    """

    def __init__(self, queue: Queue, clock: LoopClock, under_way: Callable[[], Group | None]) -> None:
        self.awaited: dict[Delivery, asyncio.Future[Answer] | None] = {}
        self.answered: dict[asyncio.Future[Answer], Answer] = {}
        self.is_interrupted = False
        self._queue = queue
        self._clock = clock
        self._under_way = under_way
        # Loops that look after their calls, and when.
        self._watched: dict[asyncio.AbstractEventLoop, float] = {}

    # -- one call

    def begin(self, delivery: Delivery, loop: asyncio.AbstractEventLoop) -> asyncio.Future[Answer]:
        """What the call awaits, with `answer`, once its message is queued.

        Raises:
            SpoolUnavailable: the spool has not answered for too long already.
        """
        left = self._time_left()
        if left is not None and left <= 0:
            raise _no_answer(maybe_stored=False)
        stored: asyncio.Future[Answer] = loop.create_future()
        self.awaited[delivery] = stored
        return stored

    def leave(self, delivery: Delivery) -> None:
        """The call ends before `answer`: if its message was queued all the same, the spool's answer will count it."""
        with self._queue.lock:
            if delivery in self._queue.incoming or delivery in self._queue.appending:
                self.awaited[delivery] = None
            else:
                self.awaited.pop(delivery, None)

    async def answer(self, delivery: Delivery, stored: asyncio.Future[Answer]) -> Answer:
        """Wait for the spool's answer."""
        self._watch(stored.get_loop())
        try:
            return await stored
        except asyncio.CancelledError:
            # Its message counts as accepted now, whatever the spool will say.
            with self._queue.lock:
                # `None`: it has waited for too long, and the answer will count it.
                if self.awaited.get(delivery) is not None:
                    del self.awaited[delivery]
                    self._queue.accounts.arriving -= 1
            raise

    # -- their time

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Set the timer that looks after the calls of this loop: one for all of them.

        A signal handler that raises may take a look with it: the next call sees that it is overdue.
        """
        now = loop.time()
        if now < self._watched.get(loop, now):
            return
        for closed in [other for other in self._watched.copy() if other.is_closed()]:
            self._watched.pop(closed, None)
        left = self._time_left()
        # A moment later, so that an answer that is there by then counts.
        seconds = (self._limit() if left is None else max(0.0, left)) + MOMENT
        self._watched[loop] = now + seconds
        loop.call_later(seconds, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop, late: Group | None = None) -> None:
        """End the calls of this loop if the spool does not answer. `late`: the group that was late at the last look."""
        self._watched.pop(loop, None)
        # An exception may have come before calls were woken.
        self.wake()
        left, group = self._time_left(), self._under_way()
        waiting = [(delivery, future) for delivery, future in self.awaited.copy().items() if future is not None]
        if left is None or left > MOMENT:
            if waiting:
                # If nothing is under way, an exception may have come before it began: the recorder goes on.
                self._queue.changed.recheck()
                self._watch(loop)
        elif group is not late:
            # Perhaps the process was stopped, and not the disk: an answer that is on its way gets another turn.
            self._watched[loop] = loop.time() + self._limit()
            loop.call_soon(self._look, loop, group)
        else:
            with self._queue.lock:
                for delivery, future in waiting:
                    if self.awaited.get(delivery) is future:
                        self.answered[future] = _no_answer(maybe_stored=True)
                        # It is arriving still; the spool's answer will count it.
                        self.awaited[delivery] = None
            self.wake()

    def _limit(self) -> float:
        return max(self._queue.room.timeout or 0.0, _DISK_SECONDS)

    def _time_left(self) -> float | None:
        """Seconds that the append under way may still take without holding callers up for too long; `None`: any time."""
        group = self._under_way()
        if self._queue.room.timeout is None or group is None:
            return None
        return group.since + self._limit() - self._clock.now()

    # -- answers

    def note(self, delivery: Delivery, answer: Answer) -> bool:
        """Note that the call of this message gets its answer; whether it waits for it, and is not accepted yet."""
        if delivery not in self.awaited:
            return False
        future = self.awaited[delivery]
        if future is not None:
            self.answered[future] = answer
        return True

    def note_all(self, deliveries: Iterable[Delivery], answers: Iterable[Answer]) -> None:
        """The calls of these messages, if they wait, get their answers: these are accepted, or have their outcomes."""
        awaited, accounts = self.awaited, self._queue.accounts
        for delivery, answer in zip(deliveries, answers, strict=False):
            if delivery in awaited:
                future = awaited[delivery]
                if future is not None:
                    self.answered[future] = answer
                # No call in between.
                del awaited[delivery]
                accounts.arriving -= 1

    def wake(self) -> None:
        """Give the noted answers to their calls; what an exception interrupts is made good by the recorder."""
        if not self.answered:
            self.is_interrupted = False
            return
        answered: dict[asyncio.Future[Answer], Answer] = {}
        try:
            with self._queue.lock:
                answered, self.answered = self.answered, answered
            settle_all(answered.items())
            self.is_interrupted = False
        except BaseException:
            # In this order: another thread may wake them meanwhile.
            self.is_interrupted = True
            self.answered.update(answered)
            self._queue.notify()
            raise


def _no_answer(*, maybe_stored: bool) -> SpoolUnavailable:
    return SpoolUnavailable(
        "the spool does not answer: its disk or server is stalled or very slow", maybe_stored=maybe_stored
    )
