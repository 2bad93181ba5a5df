"""The queue in memory as a window on a spool: what is stored is sent from memory while there is room, else from disk.

    spool_intake ─► ready to be sent ─► batches ─► how they ended ─► spool.settle
                          ▲
         spool.read ──────┘  what is on disk only

Two tasks on the client's loop: one reads, one records outcomes. A client that has not settled a message when it closes
keeps it: it is pending, and the next process sends it. This file knows the spool's protocol and nothing else of it.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable, Collection, Iterable, MutableMapping, Sequence
from typing import Any, Final
from weakref import WeakSet, WeakValueDictionary

from segment_async._exceptions import SpoolUnavailable
from segment_async._lifecycle.loop_end import abandon_after_fork
from segment_async._lifecycle.tasks import SupervisedTask
from segment_async._lifecycle.waiting import Host, Signal, wait_until
from segment_async._outcome import BatchResult, Status
from segment_async.spool._protocol import Spool, SpoolStatistics, StoredMessage, Window, is_shared

from .admission import EVICTED_SHARE, Admission
from .clock import LoopClock
from .delivery import Delivery, bodies_of, bring_back, forget_bodies, waits_for_key
from .queue import Queue
from .reports import Reports
from .spool_intake import SpoolIntake

# Messages that one read brings into memory.
_WINDOW: Final = 1_000
# Seconds until a spool that could not be read is asked again.
_RETRY_SECONDS: Final = 0.5
# Reads in a row that a spool refuses before a flush no longer waits for what earlier processes left.
_REFUSALS: Final = 4
# Seconds between two looks at what the spool's thread has answered, in a process that has forked.
_HEARTBEAT: Final = 0.02


class SpoolFeed:
    """Attributes:
    intake: the way into the spool.
    is_open: whether the spool has been asked what earlier processes left; it may not be able to say.
    """

    def __init__(
        self, spool: Spool, admission: Admission, queue: Queue, clock: LoopClock, reports: Reports, *, deliver: bool
    ) -> None:
        self.intake = SpoolIntake(spool, admission, queue, clock, reports, deliver=deliver, is_ending=self._is_ending)
        self.is_open = not deliver
        self._spool = spool
        self._admission = admission
        self._queue = queue
        self._clock = clock
        self._reports = reports
        self._deliver = deliver
        # Outcomes that the spool has not taken yet, the first of them while it takes it.
        self._outcomes: deque[tuple[list[int], BatchResult, str]] = deque()
        # What was read last, and how many of its messages, and of those that the spool lost, are dealt with.
        self._window: Window | None = None
        self._loaded = self._lost = 0
        self._reader = SupervisedTask("spool reader", self._read)
        self._recorder = SupervisedTask("spool recorder", self._record)
        # Loops that ran while the process forked, and what names the chains of timers that wake them since.
        self._forked: WeakSet[asyncio.AbstractEventLoop] = WeakSet()
        self._heartbeat: object | None = None
        capacity = spool.statistics().capacity
        if admission.overflow == "drop_oldest" and capacity:
            # A spool makes room among what is not in memory.
            share = self.intake.share
            share.max_bytes = min(share.max_bytes, max(1, capacity // EVICTED_SHARE))
        _all[id(self)] = self

    def _is_ending(self, key: int) -> bool:
        # A copy, as the loop may take some out meanwhile.
        return any(key in keys for keys, _, _ in self._outcomes.copy())

    # -- the client's loop

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Read and record on this loop, which runs in this thread."""
        if self._deliver:
            self._reader.start(loop)
        self._recorder.start(loop)
        loop.call_soon(self.intake.pump)

    def stop(self) -> list[asyncio.Task[Any]]:
        """Stop on the loop it works on. Returns the tasks, to be told to end."""
        return [task for task in (self._reader.stop(), self._recorder.stop()) if task is not None]

    # -- back from the disk

    async def _read(self) -> None:
        queue, share, refusals = self._queue, self.intake.share, 0
        # A closing client leaves the rest of a shared spool to the others.
        while not (self.intake.answers.keeps or (self._admission.closed and is_shared(self._spool))):
            await self._until_answered()
            self._load_rest()
            await wait_until(lambda: share.left()[0] > 0, lambda: queue.changed, queue.queued.host)
            count, size = share.left()
            try:
                self._window = await self._spool.read(min(count, _WINDOW), size)
                refusals = 0
            except SpoolUnavailable as error:
                if self._admission.closed:
                    return
                refusals += 1
                if refusals == _REFUSALS:
                    self.is_open = True
                    queue.notify()
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
            self._note_recovered(recovered)
            while self._lost < len(window.dropped):
                self.intake.answers.lose(window.dropped[self._lost])
                self._lost += 1
            # A relay knows none. What becomes known meanwhile waits to be stored, and is none of these.
            known: MutableMapping[str, Delivery] = self.intake.answers.known if len(self.intake.answers.known) else {}
            while self._loaded < len(window.messages) and not self.intake.answers.keeps:
                self._load(window.messages[self._loaded], known)
            self._window, self._loaded, self._lost = None, 0, 0
        self.intake.answers.report_lost()
        self.is_open = True
        queue.notify()

    def _note_recovered(self, recovered: int) -> None:
        accounts, backlog, order = self._queue.accounts, self._queue.backlog, self._queue.order
        new = recovered - order.recovered
        # What a flush waits for may be read after these.
        flush_before = backlog.flush_before + (new if backlog.flush_before > order.read_count else 0)
        # No call in between, as in the accounts themselves.
        order.recovered, accounts.recovered, accounts.spooled, backlog.flush_before = (
            recovered,
            accounts.recovered + new,
            accounts.spooled + new,
            flush_before,
        )

    def _load(self, message: StoredMessage, known: MutableMapping[str, Delivery]) -> None:
        queue = self._queue
        delivery = known.get(message.message_id)
        if delivery is None or delivery.outcome is not None or waits_for_key(delivery, message.key):
            # An outcome is final, also of a message that was handed over and has come back; and another message with this
            # id may wait for the spool's answer.
            delivery = Delivery(message.message_id, message.body, queue.queued, message.key)
        else:
            bring_back(delivery, message.body, message.key, queue.queued)
        if message.attempts:
            queue.attempts[message.key] = message.attempts
        queue.accounts.load(len(message.body))
        # No call between the message's counting and here: an exception afterwards finds it counted, and in its place.
        self._loaded += 1
        queue.ready.append(delivery)
        if known.get(message.message_id) is delivery:
            del known[message.message_id]

    # -- out

    async def sending(self, keys: Sequence[int], attempt: int) -> Collection[int]:
        """Note an attempt. Returns the keys of messages that are no longer this process's to send."""
        try:
            ended = await self._spool.sending(keys, attempt)
        except SpoolUnavailable as error:
            self._reports.limited_log.warn("spool note", "The spool did not note an attempt: %s", error)
            return ()
        self.intake.answers.note_elsewhere(ended)
        return ended

    def settle(self, keys: Iterable[int], result: BatchResult, answer: str) -> None:
        """Have an outcome recorded, by the recorder of this loop or of a later one, which is woken."""
        self._outcomes.append((list(keys), result, answer))
        self._queue.notify()

    async def _record(self) -> None:
        while True:
            await self._until_work()
            if self.intake.is_interrupted:
                self.intake.pump()
                # Whatever is left then, others get their turn.
                await asyncio.sleep(0)
            if self._outcomes:
                await self._record_one()
            elif self.intake.answers.waits_for_record is not None:
                # An exception came when the outcome was recorded.
                self.intake.recorded()

    async def _until_work(self) -> None:
        """Wait until there is work for the recorder, or another moment to wait for."""
        intake, queue = self.intake, self._queue
        asked_at = intake.not_before
        await wait_until(
            lambda: (
                bool(self._outcomes)
                or intake.answers.waits_for_record is not None
                or intake.is_interrupted
                or intake.not_before is not asked_at
            ),
            lambda: queue.changed,
            queue.queued.host,
            intake.time_left,
        )

    async def _record_one(self) -> None:
        """Record the first outcome, and those behind it that are the same."""
        keys, result, answer = self._outcomes[0]
        count = 1
        while count < len(self._outcomes) and self._outcomes[count][1:] == (result, answer):
            keys = keys + self._outcomes[count][0]
            count += 1
        for is_last in (False, True):
            try:
                await self._spool.settle(keys, result, answer)
                break
            except Exception as error:
                is_unavailable = isinstance(error, SpoolUnavailable)
                # Any other error may be a signal handler's: once more.
                if is_last or is_unavailable:
                    text = error if is_unavailable else type(error).__qualname__
                    self._reports.limited_log.warn(
                        "spool record", "The spool did not record outcomes; messages may be sent again: %s", text
                    )
                    break
        for _ in range(count):
            self._outcomes.popleft()
        self._queue.notify()
        self.intake.recorded()

    @property
    def is_recorded(self) -> bool:
        """Every outcome is recorded, or the spool has refused to."""
        return not self._outcomes

    def statistics(self) -> SpoolStatistics:
        return self._spool.statistics()

    # -- flush and close

    async def until_open(self, host: Host, time_left: Callable[[], float | None]) -> None:
        """Wait until it is known what earlier processes left, or that the spool cannot be read for now."""
        await wait_until(lambda: self.is_open, self._signal, host, time_left)

    async def until_recorded(self, host: Host, time_left: Callable[[], float | None]) -> None:
        await wait_until(lambda: self.is_recorded, self._signal, host, time_left)

    async def until_stored(self, host: Host, time_left: Callable[[], float | None]) -> None:
        """Wait until the spool has taken, or refused, every message."""
        queue = self._queue
        await wait_until(lambda: not (queue.incoming or queue.appending), self._signal, host, time_left)

    def _signal(self) -> Signal:
        return self._queue.changed

    def keep_all(self) -> int:
        """The client is closing: what is stored stays for the next process. Returns how many are not, and are dropped."""
        queue = self._queue
        kept = BatchResult(Status.KEPT)
        dropped = self.intake.drop_unstored(BatchResult(Status.DROPPED, "close_timeout"))
        with queue.lock:
            ready = bodies_of([*queue.ready])
            queue.accounts.unload(len(ready), sum(map(len, ready)))
            forget_bodies(queue.ready)
            queue.ready.clear()
        for batch in list(queue.backlog.batches()):
            queue.settle(batch, kept)
        queue.queued.settle(0, _EVERY_INDEX, kept)
        queue.queued.moved.notify()
        queue.notify()
        return dropped

    async def aclose(self) -> None:
        try:
            while self._outcomes:
                await self._record_one()
        finally:
            # Also if the close is cut off: the spool goes on in the background.
            try:
                await self._spool.aclose()
            finally:
                # No heartbeat any more, and none after a later fork.
                _all.pop(id(self), None)
                self._heartbeat = None

    # -- fork

    def abandon_after_fork(self) -> None:
        """In a forked child."""
        abandon_after_fork(self.stop())

    def after_fork_in_parent(self) -> None:
        """A child that ends its copy of a running loop removes the parent's wake-up pipe from the epoll that both have:
        threads cannot wake the parent's loop any more. So it wakes up by itself; also one that only calls the client.
        """
        self._forked.update(filter(None, (self._clock.loop, asyncio._get_running_loop())))
        # Earlier chains end: one that a signal handler has stopped begins again.
        self._heartbeat = heartbeat = object()
        for loop in [*self._forked]:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._beat, loop, heartbeat)

    def _beat(self, loop: asyncio.AbstractEventLoop, heartbeat: object) -> None:
        if heartbeat is self._heartbeat:
            loop.call_later(_HEARTBEAT, self._beat, loop, heartbeat)


_EVERY_INDEX: Final = 2**62

_all: WeakValueDictionary[int, SpoolFeed] = WeakValueDictionary()


def _after_fork_in_parent() -> None:
    # Not an iteration: another thread may make a client meanwhile.
    for reference in _all.valuerefs():
        if (feed := reference()) is not None:
            feed.after_fork_in_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_parent=_after_fork_in_parent)
