"""The consumer: the task that reads the queue, seals what is due, starts requests, and takes their answers.

It is a thin shell. What goes when is the schedule's decision, what an answer means is `retry`'s, and what it does to a
batch is `settlement`'s. A pass looks at everything there is; then it sleeps until something has changed or a moment has
come that the schedule named. An exception anywhere, a cancellation, or the end of the loop costs a pass and nothing
else: the next one finds every message in the queue or in the backlog.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, Final

from segment_async._http.transport import Response
from segment_async._lifecycle.loop_end import abandon_after_fork, unwind
from segment_async._lifecycle.tasks import SupervisedTask, start_task
from segment_async._lifecycle.waiting import resolved

from .attempt import HoldsEnded, RequestSender
from .batch import Batch, OpenBatch
from .clock import LoopClock
from .queue import Queue
from .retry import Failure
from .schedule import LONGEST_SLEEP
from .settlement import Settlement

# Bytes that are little to read and compress.
_LITTLE: Final = 4_096
# Seconds by which a timer is set late: a loop may call a little early, and then nothing would be due.
_SLACK: Final = 1e-5

_Request = asyncio.Task[Response | Failure | HoldsEnded]


class Consumer:
    """Works on the clock's loop."""

    def __init__(self, queue: Queue, sender: RequestSender, settlement: Settlement, clock: LoopClock) -> None:
        self._queue = queue
        self._backlog = queue.backlog
        self._schedule = queue.schedule
        self._sender = sender
        self._settlement = settlement
        self._clock = clock
        self._supervised = SupervisedTask("consumer", self._run)
        self._requests: dict[Batch, _Request] = {}

    # -- which loop

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Work on this loop, which is the clock's and runs in this thread."""
        self._supervised.start(loop)

    def stop(self) -> list[asyncio.Task[Any]]:
        """Stop working on the loop. Batches in flight wait again. Returns the tasks, for the caller to cancel."""
        requests, self._requests = self._requests, {}
        task = self._supervised.stop()
        self._schedule.looks_at = None
        with self._queue.lock:
            for batch in list(self._backlog.in_flight):
                batch.history = batch.history._replace(maybe_sent=batch.history.maybe_sent or batch.history.sends > 0)
                self._backlog.wait(batch)
        tasks: list[asyncio.Task[Any]] = [*requests.values()]
        if task is not None:
            tasks.append(task)
        return tasks

    def unwind(self) -> None:
        """At the interpreter's exit, when the loop does not run again: end the requests where they are."""
        for request in self._requests.values():
            unwind(request)

    def abandon_after_fork(self) -> None:
        """In a forked child: the tasks are the parent's."""
        abandon_after_fork((self._supervised.stop(), *self._requests.values()))
        self._requests = {}

    # -- passes

    async def _run(self) -> None:
        if not self._is_on_its_loop():
            return
        self._queue.repair()
        self._forget_settled()
        while True:
            # While it is awake: a message that comes after this pass has read must announce itself.
            self._schedule.looks_at = None
            while self._read_slice():
                # Two pieces of work in a row would be one long step for the loop.
                await asyncio.sleep(0)
                if not self._is_on_its_loop():
                    return
                if self._backlog.waiting or self._schedule.room_for_more(len(self._queue.ready)) <= 0:
                    self._take_answers()
                    self._start_requests()
            self._take_answers()
            seen = self._queue.changed.mark
            self._start_requests()
            await self._sleep(seen)
            if not self._is_on_its_loop():
                return

    def _is_on_its_loop(self) -> bool:
        """`False`: this loop stood still, and began to run again just as another one took the client over; or an exception
        interrupted its own takeover. Asked at the beginning of each step, as a change of loops holds the lock.

        Attaching a loop starts the consumer again.
        """
        with self._queue.lock:
            return self._clock.loop is asyncio.get_running_loop()

    def _forget_settled(self) -> None:
        """An exception may have ended a pass after its batch was settled: a handler of `logging` may raise."""
        for batch, request in [*self._requests.items()]:
            if request.done() and batch not in self._backlog.in_flight:
                del self._requests[batch]

    def _read_slice(self) -> bool:
        """Move messages from the queue into the open batch; `False`: there is no more, and it was little work."""
        queue, most = self._queue, self._backlog.slice_bytes
        size = 0
        while size < most:
            read, to_seal = queue.read(most - size)
            if to_seal is not None:
                self._seal(to_seal)
            elif read == 0:
                break
            size += read
        opened = self._backlog.open
        if opened is not None:
            opened.press()
        return size >= _LITTLE

    def _seal(self, opened: OpenBatch) -> Batch | None:
        """The sealed batch, which waits now; `None`: another thread has dropped its messages meanwhile."""
        batch = opened.seal()
        with self._queue.lock:
            if self._backlog.open is not opened:
                return None
            self._backlog.wait(batch)
            self._backlog.open = None
            if self._queue.ready:
                self._backlog.note_left(opened)
        self._queue.place(batch)
        return batch

    def _take_answers(self) -> None:
        for batch in list(self._backlog.in_flight):
            request = self._requests.get(batch)
            if request is not None and not request.done():
                continue
            if request is None or request.cancelled() or request.exception() is not None:
                self._settlement.interrupted(batch)
            else:
                self._settlement.conclude(batch, request.result())
            self._requests.pop(batch, None)
        self._sender.tell()

    def _start_requests(self) -> None:
        queue, backlog, schedule = self._queue, self._backlog, self._schedule
        while True:
            now = self._clock.now()
            with queue.lock:
                overdue = schedule.overdue(now)
                batch = schedule.next(now, queue.room.is_full) if not overdue else None
            for late in overdue:
                self._settlement.give_up(late)
            if isinstance(batch, OpenBatch):
                batch = self._seal(batch)
            if batch is not None and backlog.exceeds_limit(batch, now):
                self._settlement.split_to_limit(batch)
            elif batch is not None:
                self._start_request(batch)
            elif not overdue:
                return

    def _start_request(self, batch: Batch) -> None:
        loop = asyncio.get_running_loop()
        self._queue.place(batch)
        with self._queue.lock:
            if not self._backlog.mark_in_flight(batch):
                # Another thread has dropped it to make room.
                return
        self._requests[batch] = request = start_task(loop, partial(self._sender.send, batch))
        request.add_done_callback(self._request_ended)

    def _request_ended(self, request: _Request) -> None:
        if not request.cancelled():
            # Looked at, so that the loop does not report it; `_take_answers` does.
            request.exception()
        self._queue.notify()

    # -- sleep

    async def _sleep(self, seen: object) -> None:
        """Until something has changed since `changed` had this mark, or the moment has come that the schedule names."""
        # Callers whose loop has ended since they were woken hold up the others, and announce nothing.
        self._queue.wake_waiters()
        now = self._clock.now()
        when = self._schedule.next_look(now, self._queue.room.is_full)
        if when is None and self._queue.room.waiters:
            when = now + LONGEST_SLEEP
        sleeper = self._queue.sleep_until_unread(seen, when)
        if sleeper is None:
            # What changed may be of our own making; others get their turn in any case.
            await asyncio.sleep(0)
            return
        try:
            await resolved(sleeper, None if when is None else max(0.0, when - now) + _SLACK)
        finally:
            self._queue.changed.forget(sleeper)
