"""The queue in memory as a window on a spool: what is stored is sent from memory while there is room, else from disk.

    spool_intake ─► ready to be sent ─► batches ─► how they ended ─► spool.settle
                          ▲
         spool.read ──────┘  what is on disk only

A task on the client's loop reads; another one, the recorder's, records outcomes. A client that has not settled a
message when it closes keeps it: it is pending, and the next process sends it. This file knows the spool's protocol and
nothing else of it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, Final

from segment_async._exceptions import SpoolUnavailable
from segment_async._lifecycle.loop_end import abandon_after_fork
from segment_async._lifecycle.tasks import SupervisedTask, ends_the_task
from segment_async._lifecycle.waiting import Host, Signal, wait_until
from segment_async._outcome import BatchResult, Status
from segment_async.spool._protocol import Spool, SpoolStatistics, StoredMessage, Window, is_shared

from .admission import EVICTED_SHARE, Admission
from .clock import LoopClock
from .delivery import Delivery, bodies_of, bring_back, forget_bodies
from .queue import Queue
from .reports import Reports
from .spool_answers import SpoolAnswers
from .spool_heartbeat import Heartbeat
from .spool_intake import SpoolIntake
from .spool_recorder import Outcomes, SpoolRecorder, is_among

# Messages that one read brings into memory.
_WINDOW: Final = 1_000
# Seconds until a spool that could not be read is asked again.
_RETRY_SECONDS: Final = 0.5
# Reads in a row that may bring nothing: the first one, and the one that knows what all earlier processes left.
_EMPTY_READS: Final = 2
# Reads in a row that a spool refuses before a flush no longer waits for what earlier processes left.
_REFUSALS: Final = 4


class SpoolFeed:
    """Attributes:
    intake: the way into the spool.
    recorder: tells the spool how messages ended.
    is_open: whether it is known what all earlier processes left, or the spool cannot say for now.
    """

    def __init__(
        self, spool: Spool, admission: Admission, queue: Queue, clock: LoopClock, reports: Reports, *, deliver: bool
    ) -> None:
        outcomes: Outcomes = deque()
        is_ending = partial(is_among, outcomes)
        self.intake = SpoolIntake(spool, admission, queue, clock, reports, deliver=deliver, is_ending=is_ending)
        self.recorder = SpoolRecorder(spool, outcomes, self.intake, queue, reports)
        self.is_open = not deliver
        self._spool = spool
        self._admission = admission
        self._queue = queue
        self._reports = reports
        self._heartbeat = Heartbeat(clock)
        self._deliver = deliver
        # What was read last, and how many of its messages, and of those that the spool lost, are dealt with.
        self._window: Window | None = None
        self._loaded = self._lost = 0
        # Reads in a row that failed, for whatever reason, or whose messages could not be brought into memory.
        self._refusals = 0
        self._reader = SupervisedTask("spool reader", self._read)
        capacity = spool.statistics().capacity
        if admission.overflow == "drop_oldest" and capacity:
            # A spool makes room among what is not in memory.
            share = self.intake.share
            share.max_bytes = min(share.max_bytes, max(1, capacity // EVICTED_SHARE))

    # -- the client's loop

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Read and record on this loop, which runs in this thread."""
        if self._deliver:
            self._reader.start(loop)
        self.recorder.start(loop)
        loop.call_soon(self.intake.pump)

    def stop(self) -> list[asyncio.Task[Any]]:
        """Stop on the loop it works on. Returns the tasks, to be told to end."""
        return [task for task in (self._reader.stop(), self.recorder.stop()) if task is not None]

    # -- back from the disk

    async def _read(self) -> None:
        queue, share, empty = self._queue, self.intake.share, 0
        # A closing client leaves the rest of a shared spool to the others.
        while not (self.intake.answers.keeps or (self._admission.closed and is_shared(self._spool))):
            try:
                # First what the last pass has read: an exception may have come before it was in memory.
                await self._until_answered()
                self._load_rest()
                share.reading = (0, 0)
                await wait_until(lambda: share.left()[0] > 0, lambda: queue.changed, queue.queued.host)
                count, size = share.to_read()
                share.reading = min(count, _WINDOW), size
                self._window = await self._spool.read(*share.reading)
                self._refusals = 0
                empty = 0 if self._window.messages or self._window.dropped else empty + 1
                if empty > _EMPTY_READS:
                    # `read` is to wait until there is something. For a spool whose does not, pause: else the loop would
                    # never get its turn.
                    await asyncio.sleep(_RETRY_SECONDS)
            except BaseException as error:
                if ends_the_task(error):
                    raise
                self._refusals += 1
                if self._refusals == _REFUSALS:
                    self.is_open = True
                    queue.notify()
                if not isinstance(error, Exception):
                    # As a crash, which is logged and followed by a pause: a cancelled task restarts at once and silently.
                    crash = RuntimeError("the spool's read was cancelled")
                    raise crash.with_traceback(error.__traceback__) from error
                if not isinstance(error, SpoolUnavailable):
                    # `SupervisedTask` logs it and restarts this task.
                    raise
                if self._admission.closed:
                    return
                self._reports.limited_log.warn("spool read", "The spool cannot be read and is tried again: %s", error)
                await asyncio.sleep(_RETRY_SECONDS)

    async def _until_answered(self) -> None:
        """An engine may give a message out before it has said that it is stored: then its answer comes first.

        While messages are kept in memory because it takes none, what it has of these ids is older than they are.
        """
        queue, window = self._queue, self._window
        if window is None or not queue.appending or is_shared(self._spool):
            return
        read = {message.message_id for message in window.messages}
        await wait_until(
            lambda: (
                self.intake.not_before is not None
                or read.isdisjoint([delivery.message_id for delivery in [*queue.appending]])
            ),
            lambda: queue.changed,
            queue.queued.host,
        )

    def _load_rest(self) -> None:
        """Bring into memory what was read; an exception leaves the rest for the next time."""
        queue, window = self._queue, self._window
        if window is None:
            return
        recovered = self._spool.statistics().recovered
        with queue.lock:
            if self._window is not window:
                # The reader of a loop that has just taken the client over was faster.
                return
            queue.order.note_recovered(recovered)
            while self._lost < len(window.dropped):
                self.intake.answers.lose(window.dropped[self._lost])
                self._lost += 1
            # A relay knows none. What becomes known meanwhile waits to be stored, and is none of these.
            answers = self.intake.answers if self.intake.answers.knows_any else None
            while self._loaded < len(window.messages) and not self.intake.answers.keeps:
                self._load(window.messages[self._loaded], answers)
            self._window, self._loaded, self._lost = None, 0, 0
        self.intake.answers.report_lost()
        self.is_open = self.is_open or window.knows_all
        queue.notify()

    def _load(self, message: StoredMessage, answers: SpoolAnswers | None) -> None:
        queue = self._queue
        delivery = None if answers is None else answers.on_disk(message.message_id, message.key)
        if delivery is None:
            delivery = Delivery(message.message_id, message.body, queue.queued, message.key)
        else:
            bring_back(delivery, message.body, message.key, queue.queued)
        if message.attempts:
            queue.attempts[message.key] = message.attempts
        queue.accounts.load(len(message.body))
        # No call between the message's counting and here: an exception afterwards finds it counted, and in its place.
        self._loaded += 1
        try:
            queue.ready.append(delivery)
        except MemoryError:
            self._loaded -= 1
            queue.accounts.unload(1, len(message.body))
            raise
        if answers is not None and answers.known.get(message.message_id) is delivery:
            del answers.known[message.message_id]

    # -- out

    async def sending(self, keys: Sequence[int], attempt: int) -> Collection[int]:
        """Note an attempt. Returns the keys of messages that are no longer this process's to send."""
        try:
            ended = await self._spool.sending(keys, attempt)
        except BaseException as error:
            if ends_the_task(error):
                raise
            # It does not stop the sending, whatever it is.
            text = error if isinstance(error, SpoolUnavailable) else type(error).__qualname__
            self._reports.limited_log.warn("spool note", "The spool did not note an attempt: %s", text)
            return ()
        self.intake.answers.note_elsewhere(ended)
        return ended

    def statistics(self) -> SpoolStatistics:
        return self._spool.statistics()

    # -- flush and close

    async def until_open(self, host: Host, time_left: Callable[[], float | None]) -> None:
        """Wait until it is known what earlier processes left, or that the spool cannot be read for now."""
        await wait_until(lambda: self.is_open, self._signal, host, time_left)

    async def until_stored(self, host: Host, time_left: Callable[[], float | None]) -> None:
        """Wait until the spool has taken, or refused, every message."""
        queue = self._queue
        await wait_until(lambda: not (queue.incoming or queue.appending), self._signal, host, time_left)

    def _signal(self) -> Signal:
        return self._queue.changed

    def keep_all(self, reason: str) -> int:
        """The client ends: what is stored stays for the next process. The rest is dropped: returns how many."""
        queue = self._queue
        kept = BatchResult(Status.KEPT)
        dropped = self.intake.drop_unstored(BatchResult(Status.DROPPED, reason))
        with queue.lock:
            ready = bodies_of([*queue.ready])
            queue.accounts.unload(len(ready), sum(map(len, ready)))
            forget_bodies(queue.ready)
            queue.ready.clear()
            # No flush waits for what is kept.
            self.is_open = queue.order.is_over = True
        for batch in list(queue.backlog.batches()):
            queue.settle(batch, batch.history.result(Status.KEPT))
        queue.queued.settle(0, _EVERY_INDEX, kept)
        queue.queued.moved.notify()
        queue.notify()
        return dropped

    async def aclose(self) -> None:
        try:
            await self.recorder.record_rest()
        finally:
            # Also if the close is cut off: the spool goes on in the background.
            try:
                await self._spool.aclose()
            finally:
                self._heartbeat.stop()

    # -- fork

    def abandon_after_fork(self) -> None:
        """In a forked child."""
        abandon_after_fork(self.stop())


_EVERY_INDEX: Final = 2**62
