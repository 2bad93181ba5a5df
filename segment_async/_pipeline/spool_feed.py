"""The queue in memory as a window on a spool: messages are stored first, and sent from memory while there is room.

    track ─► the queue ─► spool.append ─► stored ─┬─► held: ready to be sent ─► batches ─► spool.settle
                                                  └─► on disk only ─► spool.read ──▲

Appends go in groups: one is under way at a time, and what comes meanwhile is the next one. It needs no loop, so that a
message is stored although no loop runs. Reading and recording outcomes are two tasks on the client's loop.

A client that has not settled a message when it closes keeps it: it is pending, and the next process sends it. This file
knows the spool's protocol and nothing else of it.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from itertools import repeat, starmap
from typing import Any, Final
from weakref import WeakSet, WeakValueDictionary

from segment_async._exceptions import QueueFull, SpoolUnavailable, stack_of
from segment_async._lifecycle.loop_end import abandon_after_fork
from segment_async._lifecycle.tasks import SupervisedTask
from segment_async._lifecycle.waiting import MOMENT, Host, Signal, call_in, wait_until
from segment_async._outcome import BatchResult, Status
from segment_async.spool._protocol import Appended, AppendResult, NewMessage, Spool, StoredMessage, Window

from .clock import LoopClock
from .delivery import (
    Delivery,
    SharedRecord,
    bodies_of,
    bring_back,
    forget_bodies,
    keys_of,
    place_all,
    settle_alone,
    stored_as,
)
from .queue import Queue
from .reports import Reports

_log = logging.getLogger("segment_async")

# Messages that one append takes, and that one read brings into memory.
_GROUP: Final = 500
_WINDOW: Final = 1_000
# Seconds until a spool that could not be read, or was full, is asked again.
_RETRY_SECONDS: Final = 0.5
# Seconds between two looks at what the spool's thread has to say, in a process that has forked.
_HEARTBEAT: Final = 0.02

_Answer = Appended | SpoolUnavailable


class SpoolFeed:
    """Attributes:
    is_open: whether it is known what earlier processes left.
    """

    def __init__(self, spool: Spool, queue: Queue, clock: LoopClock, reports: Reports, *, deliver: bool) -> None:
        self._spool = spool
        self._queue = queue
        self._clock = clock
        self._reports = reports
        self._deliver = deliver
        # Calls that wait until their message is stored; `None`: one that has waited for too long.
        self._awaited: dict[Delivery, asyncio.Future[_Answer] | None] = {}
        self._appending_since: float | None = None
        # Messages that are only on disk, as far as the application keeps their deliveries.
        self._on_disk: WeakValueDictionary[str, Delivery] = WeakValueDictionary()
        # Outcomes that the spool has not taken yet, the first of them while it takes it.
        self._outcomes: deque[tuple[list[int], BatchResult, str]] = deque()
        # A message has the id of one that has ended, which the spool is to record first.
        self._waits_for_record = False
        self._recovered = 0
        self._keeps = False
        self.is_open = not deliver
        self._reader = SupervisedTask("spool reader", self._read)
        self._recorder = SupervisedTask("spool recorder", self._record)
        self._has_forked = False
        _all.add(self)

    # -- in

    async def append(self, delivery: Delivery, size: int) -> Delivery | None:
        """Wait until the message is stored; `None`: it is to be dropped as the queue or the spool is full.

        Cancelled after it was queued, it stays accepted.

        Raises:
            SpoolUnavailable: it could not be stored and is not accepted; or the spool does not answer for longer than
                callers are to be held up (`maybe_stored`: it counts as accepted if the spool stores it after all).
            QueueFull, ClientClosed: as for a queue in memory.
        """
        while True:
            self._check_answers()
            self._awaited[delivery] = stored = asyncio.get_running_loop().create_future()
            try:
                if not await self._queue.put(delivery, size, paced=False, arriving=True):
                    self._awaited.pop(delivery, None)
                    return None
            except BaseException:
                self._awaited.pop(delivery, None)
                raise
            self.pump()
            answer = await self._answer_to(delivery, stored)
            if isinstance(answer, SpoolUnavailable):
                raise answer
            if answer.status != "full":
                return delivery
            if not await self._may_wait_for_room():
                return None

    async def _answer_to(self, delivery: Delivery, stored: asyncio.Future[_Answer]) -> _Answer:
        while not stored.done():
            left = self._time_to_answer()
            if left is not None and left <= MOMENT:
                with self._queue.lock:
                    if delivery in self._awaited:
                        # It is arriving still; the spool's answer will count it.
                        self._awaited[delivery] = None
                        raise _no_answer(maybe_stored=True)
                break
            try:
                await asyncio.wait((stored,), timeout=left)
            except asyncio.CancelledError:
                self._accept_unanswered(delivery)
                raise
        return await stored

    def _time_to_answer(self) -> float | None:
        """Seconds that the append under way may still take without holding callers up for too long; `None`: any time."""
        limit, since = self._queue.room.timeout, self._appending_since
        return None if limit is None or since is None else since + limit - self._clock.now()

    def _check_answers(self) -> None:
        """Raises:
        SpoolUnavailable: the spool has not answered for too long already: a disk that stands still costs one wait in all.
        """
        left = self._time_to_answer()
        if left is not None and left <= 0:
            raise _no_answer(maybe_stored=False)

    def _accept_unanswered(self, delivery: Delivery) -> None:
        """The call was cancelled: its message counts as accepted now, whatever the spool will say."""
        with self._queue.lock:
            if self._awaited.pop(delivery, None) is not None:
                self._queue.accounts.arriving -= 1

    async def _may_wait_for_room(self) -> bool:
        """Whether a full spool is worth another try; has waited a little then."""
        queue = self._queue
        if queue.overflow == "raise":
            raise QueueFull("the spool is full: messages come faster than they can be sent")
        if queue.overflow != "wait" or queue.patience_is_over():
            return False
        gone = queue.accounts.gone
        end = asyncio.get_running_loop().time() + _RETRY_SECONDS
        await wait_until(
            lambda: queue.accounts.gone != gone,
            lambda: queue.changed,
            queue.queued.host,
            lambda: end - asyncio.get_running_loop().time(),
        )
        return True

    def pump(self) -> None:
        """Give the spool the next group, unless one is under way; from any thread."""
        queue = self._queue
        with queue.lock:
            if queue.appending or not queue.unstored or self._waits_for_record:
                return
            # One call, as in `OpenBatch.take`.
            queue.appending.extend(starmap(queue.unstored.popleft, repeat((), min(_GROUP, len(queue.unstored)))))
            group = queue.appending
            hold = queue.window()[0] if self._deliver and not self._keeps else 0
        self._appending_since = self._clock.now()
        messages = [NewMessage(one.message_id, body) for one, body in zip(group, bodies_of(group), strict=True)]
        done = partial(self._appended, group)
        try:
            self._spool.append_nowait(messages, done, hold=hold, make_room=queue.overflow == "drop_oldest")
        except Exception as error:
            if not isinstance(error, SpoolUnavailable):
                self._reports.warn("spool", "The spool raised; messages are not stored.\n%s", stack_of(error))
                error = SpoolUnavailable(f"the spool raised {type(error).__qualname__}")
            self._appended(group, error)

    def _appended(self, group: list[Delivery], result: AppendResult | SpoolUnavailable) -> None:
        """Called on a thread of the spool's."""
        queue = self._queue
        answers: Sequence[_Answer]
        answers = [result] * len(group) if isinstance(result, SpoolUnavailable) else result.answers
        refused: list[tuple[Delivery, str, bytes]] = []
        with queue.lock, queue.change:
            if queue.appending is not group:
                # The client was closed meanwhile, and has settled them.
                return
            self._appending_since = None
            arriving = [delivery in self._awaited for delivery in group]
            awaited = [self._awaited.pop(delivery, None) for delivery in group]
            if all(isinstance(answer, Appended) and answer.held for answer in answers) and not self._keeps:
                stored_as(group, [answer.key or 0 for answer in answers if isinstance(answer, Appended)])
                queue.accounts.arriving -= sum(arriving)
                queue.ready.extend(group)
            else:
                for delivery, answer, is_arriving in zip(group, answers, arriving, strict=True):
                    reason = self._take_answer(delivery, answer, is_arriving)
                    if reason is not None:
                        refused.append((delivery, reason, bodies_of((delivery,))[0]))
            queue.appending = []
            if isinstance(result, AppendResult):
                for dropped in result.dropped:
                    self._lose(dropped.message_id, dropped.body, dropped.reason)
        for delivery, reason, body in refused:
            self._refuse(delivery, reason, body)
        self._answer(awaited, answers)
        queue.notify()
        self.pump()

    def _take_answer(self, delivery: Delivery, answer: _Answer, is_arriving: bool) -> str | None:
        """Count one message of a group; the reason if it is to be dropped. The lock is held."""
        accounts, size = self._queue.accounts, len(bodies_of((delivery,))[0])
        if isinstance(answer, Appended) and answer.status in ("stored", "memory"):
            accounts.arriving -= is_arriving
            if not self._deliver:
                accounts.settle(1, size, _HANDED_OVER)
                settle_alone(delivery, self._queue.queued.host, _HANDED_OVER)
            elif answer.held and not self._keeps:
                stored_as((delivery,), (answer.key or 0,))
                self._queue.ready.append(delivery)
            else:
                self._unload(delivery, size)
            return None
        if isinstance(answer, Appended) and answer.status == "known":
            if self._is_ending(answer.key or 0):
                # The first one has ended: this is a new message, as soon as the spool knows that.
                accounts.arriving -= is_arriving
                self._queue.unstored.appendleft(delivery)
                self._waits_for_record = True
                return None
            self._share(delivery, answer.key or 0)
            if is_arriving:
                accounts.take_back(size)
            else:
                accounts.settle(1, size, _HANDED_OVER)
            return None
        if is_arriving:
            accounts.take_back(size)
            return None
        reason = "queue_full" if isinstance(answer, Appended) else "spool_unavailable"
        accounts.settle(1, size, BatchResult(Status.DROPPED, reason))
        return reason

    def _unload(self, delivery: Delivery, size: int) -> None:
        self._queue.accounts.unload(1, size)
        forget_bodies((delivery,))
        self._on_disk[delivery.message_id] = delivery

    def _refuse(self, delivery: Delivery, reason: str, body: bytes) -> None:
        result = BatchResult(Status.DROPPED, reason)
        settle_alone(delivery, self._queue.queued.host, result)
        self._queue.queued.moved.notify()
        self._reports.add(result, lambda: (body,), len(body), self._clock.loop)
        if reason == "spool_unavailable":
            self._reports.warn(reason, "The spool cannot store messages; those of enqueue_nowait are dropped.")

    def _answer(self, awaited: Sequence[asyncio.Future[_Answer] | None], answers: Sequence[_Answer]) -> None:
        """Resolve what waits: one call a loop, as waking another thread's costs a system call."""
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[_Answer], _Answer]]] = {}
        for future, answer in zip(awaited, answers, strict=True):
            if future is not None:
                by_loop.setdefault(future.get_loop(), []).append((future, answer))
        for loop, pairs in by_loop.items():
            call_in(loop, _resolve, pairs)

    # -- ids that come twice

    def _is_ending(self, key: int) -> bool:
        return any(key in keys for keys, _, _ in self._outcomes)

    def _share(self, delivery: Delivery, key: int) -> None:
        """The message has the id of one that is pending: it ends as that one does. The lock is held."""
        queue = self._queue
        opened = queue.backlog.open
        in_memory = [*queue.ready, *(opened.deliveries if opened is not None else ())]
        first = next((one for one in in_memory if keys_of((one,))[0] == key), self._on_disk.get(delivery.message_id))
        if first is not None:
            place_all((delivery,), SharedRecord(queue.queued.host, first))
            return
        for batch in (*queue.backlog.waiting, *queue.backlog.in_flight):
            if key in batch.keys:
                place_all((delivery,), batch.record, batch.offset + batch.keys.index(key))
                return
        forget_bodies((delivery,))
        self._on_disk[delivery.message_id] = delivery

    def _lose(self, message_id: str, body: bytes, reason: str) -> None:
        """The spool itself gave a message up; the lock is held."""
        result = BatchResult(Status.DROPPED, reason)
        self._queue.accounts.lose(len(body), result)
        self._queue.read_count += 1
        delivery = self._on_disk.pop(message_id, None)
        if delivery is not None:
            settle_alone(delivery, self._queue.queued.host, result)
            self._queue.queued.moved.notify()
        if body:
            self._reports.add(result, lambda: (body,), len(body), self._clock.loop)

    # -- the client's loop

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Read and record on this loop, which runs in this thread."""
        if self._has_forked:
            self._beat(loop)
        if self._deliver:
            self._reader.start(loop)
            self._recorder.start(loop)
        loop.call_soon(self.pump)

    def stop(self) -> list[asyncio.Task[Any]]:
        """Stop on the loop it works on. Returns the tasks, to be told to end."""
        return [task for task in (self._reader.stop(), self._recorder.stop()) if task is not None]

    # -- back from the disk

    async def _read(self) -> None:
        queue = self._queue
        while not self._keeps:
            await wait_until(lambda: queue.window()[0] > 0, lambda: queue.changed, queue.queued.host)
            count, size = queue.window()
            try:
                self._take_in(await self._spool.read(min(count, _WINDOW), size))
            except SpoolUnavailable as error:
                if queue.closed:
                    return
                self._reports.warn("spool read", "The spool cannot be read and is tried again: %s", error)
                await asyncio.sleep(_RETRY_SECONDS)

    def _take_in(self, window: Window) -> None:
        queue = self._queue
        with queue.lock, queue.change:
            self._note_recovered()
            self.is_open = True
            for dropped in window.dropped:
                self._lose(dropped.message_id, dropped.body, dropped.reason)
            if not self._keeps:
                for message in window.messages:
                    self._load(message)
        queue.notify()

    def _note_recovered(self) -> None:
        recovered = self._spool.statistics().recovered
        self._queue.accounts.recover(recovered - self._recovered)
        self._recovered = recovered

    def _load(self, message: StoredMessage) -> None:
        queue = self._queue
        delivery = self._on_disk.pop(message.message_id, None)
        if delivery is None:
            delivery = Delivery(message.message_id, message.body, queue.queued)
        bring_back(delivery, message.body, message.key, queue.queued)
        if message.attempts:
            queue.attempts[message.key] = message.attempts
        queue.accounts.load(len(message.body))
        queue.ready.append(delivery)

    # -- out

    async def sending(self, keys: Sequence[int], attempt: int) -> Collection[int]:
        """Note an attempt. Returns the keys of messages that are no longer this process's to send."""
        try:
            return await self._spool.sending(keys, attempt)
        except SpoolUnavailable as error:
            self._reports.warn("spool note", "The spool did not note an attempt: %s", error)
            return ()

    def settle(self, keys: Iterable[int], result: BatchResult, answer: str) -> None:
        """Have an outcome recorded, by the recorder of this loop or of a later one; `notify` the queue afterwards."""
        self._outcomes.append((list(keys), result, answer))
        self._queue.notify()

    async def _record(self) -> None:
        queue = self._queue
        while True:
            await wait_until(lambda: bool(self._outcomes), lambda: queue.changed, queue.queued.host)
            await self._record_one()

    async def _record_one(self) -> None:
        """Record the first outcome, and those behind it that are the same."""
        keys, result, answer = self._outcomes[0]
        count = 1
        while count < len(self._outcomes) and self._outcomes[count][1:] == (result, answer):
            keys = keys + self._outcomes[count][0]
            count += 1
        try:
            await self._spool.settle(keys, result, answer)
        except Exception as error:
            text = error if isinstance(error, SpoolUnavailable) else type(error).__qualname__
            self._reports.warn(
                "spool record", "The spool did not record outcomes; messages may be sent again: %s", text
            )
        for _ in range(count):
            self._outcomes.popleft()
        self._waits_for_record = False
        self._queue.notify()
        self.pump()

    @property
    def is_recorded(self) -> bool:
        """Every outcome is recorded, as far as the spool takes them."""
        return not self._outcomes

    # -- flush and close

    async def until_open(self, host: Host, time_left: Callable[[], float | None]) -> None:
        """Wait until it is known what earlier processes left."""
        await wait_until(lambda: self.is_open, self._signal, host, time_left)

    async def until_recorded(self, host: Host, time_left: Callable[[], float | None]) -> None:
        await wait_until(lambda: self.is_recorded, self._signal, host, time_left)

    async def until_stored(self, host: Host, time_left: Callable[[], float | None]) -> None:
        """Wait until the spool has taken, or refused, every message."""
        queue = self._queue
        await wait_until(lambda: not (queue.unstored or queue.appending), self._signal, host, time_left)

    def _signal(self) -> Signal:
        return self._queue.changed

    def keep_all(self) -> int:
        """The client is closing: what is stored stays for the next process. Returns how many are not, and are dropped."""
        queue = self._queue
        result = BatchResult(Status.DROPPED, "close_timeout")
        kept = BatchResult(Status.KEPT)
        with queue.lock, queue.change as backlog:
            self._keeps = True
            unstored = [*queue.appending, *queue.unstored]
            bodies = bodies_of(unstored)
            queue.appending = []
            queue.unstored.clear()
            queue.accounts.arriving -= sum(delivery in self._awaited for delivery in unstored)
            awaited = [self._awaited.pop(delivery, None) for delivery in unstored]
            queue.accounts.settle(len(unstored), sum(map(len, bodies)), result)
            ready = bodies_of(queue.ready)
            queue.accounts.unload(len(ready), sum(map(len, ready)))
            forget_bodies(queue.ready)
            queue.ready.clear()
            batches = list(backlog.batches())
            for batch in batches:
                queue.keep(batch, kept)
        for delivery, body in zip(unstored, bodies, strict=True):
            settle_alone(delivery, queue.queued.host, result)
            self._reports.add(result, partial(_alone, body), len(body), self._clock.loop)
        queue.queued.settle(0, _EVERY_INDEX, kept)
        queue.queued.moved.notify()
        self._answer(awaited, [SpoolUnavailable("the client was closed before the spool answered")] * len(awaited))
        queue.notify()
        return len(unstored)

    async def aclose(self) -> None:
        while self._outcomes:
            await self._record_one()
        await self._spool.aclose()
        self._has_forked = False

    # -- fork

    def abandon_after_fork(self) -> None:
        """In a forked child."""
        abandon_after_fork(self.stop())

    def after_fork_in_parent(self) -> None:
        """A child that ends its copy of a running loop removes the parent's wake-up pipe from the epoll that both have:
        threads cannot wake the parent's loop any more. So it wakes up by itself.
        """
        loop, self._has_forked = self._clock.loop, True
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._beat, loop)

    def _beat(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._has_forked and self._clock.loop is loop:
            loop.call_later(_HEARTBEAT, self._beat, loop)


def _no_answer(*, maybe_stored: bool) -> SpoolUnavailable:
    return SpoolUnavailable("the spool does not answer: its disk is stalled or very slow", maybe_stored=maybe_stored)


_HANDED_OVER: Final = BatchResult(Status.HANDED_OVER)
_EVERY_INDEX: Final = 2**62

_all: WeakSet[SpoolFeed] = WeakSet()


def _after_fork_in_parent() -> None:
    for feed in _all:
        feed.after_fork_in_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_parent=_after_fork_in_parent)


def _alone(body: bytes) -> tuple[bytes]:
    return (body,)


def _resolve(pairs: Iterable[tuple[asyncio.Future[_Answer], _Answer]]) -> None:
    for future, answer in pairs:
        if not future.done():
            future.set_result(answer)
