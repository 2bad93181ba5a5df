"""The queue in memory as a window on a spool: what is accepted goes to disk first, and comes back when there is room.

    track ─► spool.append ─► safe, accepted ─► spool.read ─► the queue in memory ─► batches ─► spool.settle

A `Delivery` that somebody holds is found again by its message's id when the message comes back from the disk. What the
client has not settled when it closes is kept: it is pending still, and the next process goes on with it.

This file knows the spool's protocol and no more of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import Context
from functools import partial
from typing import Any, Final
from weakref import WeakSet, WeakValueDictionary

from segment_async._exceptions import ClientClosed, QueueFull, SpoolUnavailable
from segment_async._lifecycle.loop_end import leave_to_parent
from segment_async._outcome import BatchResult, Status
from segment_async.spool._protocol import Appended, Spool, StoredMessage, Window

from .delivery import Delivery, Host, Record, until
from .queue import Queue

_log = logging.getLogger("segment_async")

# Of no messages: what settles them asks for nothing, and is answered in its turn.
_NOTHING: Final = BatchResult(Status.DELIVERED)

_Result = Appended | SpoolUnavailable

# Messages that one read brings into memory: a batch or two, so that the first request leaves early.
_WINDOW: Final = 1_000
# Seconds until a spool that refused to be read, or was full, is asked again.
_AGAIN_SECONDS: Final = 0.5
# Between two looks at what the spool's thread has to say, in a process that has forked.
_BEAT_SECONDS: Final = 0.02


class Spooling:
    def __init__(self, spool: Spool, queue: Queue) -> None:
        self._spool = spool
        self._queue = queue
        self._answers = _Answers()
        self._watched: WeakValueDictionary[str, Delivery] = WeakValueDictionary()
        # Attempts of earlier processes, by key, until the message is in a batch.
        self.attempts: dict[int, int] = {}
        self._recovered = 0
        # Whether what earlier processes left is known.
        self.is_open = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._feeder: asyncio.Task[None] | None = None
        # What the disk is still to be told.
        self._outcomes: deque[tuple[list[int], BatchResult]] = deque()
        self._recorder: asyncio.Task[None] | None = None
        self._is_closed = False
        self._has_forked = False
        _all.add(self)

    # -- in

    async def append(self, delivery: Delivery) -> Delivery:
        """Wait until the message is on disk. Cancelled: it stays accepted.

        Raises:
            SpoolUnavailable: the disk refused; not accepted.
            QueueFull, ClientClosed: as for a queue in memory.
        """
        loop = asyncio.get_running_loop()
        while True:
            written: asyncio.Future[_Result] = loop.create_future()
            self._hand_over(delivery, written)
            result = await written
            if isinstance(result, SpoolUnavailable):
                raise result
            if result.status == "known":
                return self._watched.get(delivery.message_id, delivery)
            if result.status != "full":
                return delivery
            if not await self._may_wait_for_room():
                return self._refused(delivery, "queue_full")

    async def _may_wait_for_room(self) -> bool:
        """Whether a full spool is worth another try; has waited a little then."""
        if self._queue.overflow == "raise":
            raise QueueFull("the spool is full: messages come faster than they can be sent")
        if self._queue.overflow != "wait" or self._queue.patience_is_over():
            return False
        await asyncio.sleep(_AGAIN_SECONDS)
        return True

    def append_nowait(self, delivery: Delivery) -> Delivery:
        """Hand the message over, from any thread; if the disk refuses, it is dropped."""
        try:
            self._hand_over(delivery, None)
        except SpoolUnavailable:
            return self._refused(delivery, "spool_unavailable")
        return delivery

    def _hand_over(self, delivery: Delivery, awaited: asyncio.Future[_Result] | None) -> None:
        size = len(delivery.body)
        delivery.load(delivery.body, self._queue.spooled)
        known = self._watched.setdefault(delivery.message_id, delivery)
        self._queue.accept_spooled(size)
        try:
            make_room = self._queue.overflow == "drop_oldest"
            done = partial(self._written, delivery, size, awaited)
            self._spool.append_nowait(delivery.message_id, delivery.body, done, make_room=make_room)
        except SpoolUnavailable:
            self._queue.take_back_spooled(size)
            if known is delivery:
                self._watched.pop(delivery.message_id, None)
            raise

    def _written(self, delivery: Delivery, size: int, awaited: asyncio.Future[_Result] | None, result: _Result) -> None:
        """Called on a thread of the spool's."""
        if isinstance(result, SpoolUnavailable):
            self._queue.take_back_spooled(size)
            if awaited is None:
                self._refused(delivery, "spool_unavailable")
        else:
            if result.status in ("stored", "memory"):
                with self._queue.lock:
                    if not delivery.key:
                        # The disk has the bytes, and they are not back in memory yet.
                        delivery.load(b"", self._queue.spooled)
            else:
                self._queue.take_back_spooled(size)
                if result.status == "full" and awaited is None:
                    self._refused(delivery, "queue_full")
            for dropped in result.dropped:
                self._lose(dropped.message_id, len(dropped.body), dropped.reason)
        if awaited is not None:
            self._answers.give(awaited, result)

    def _refused(self, delivery: Delivery, reason: str) -> Delivery:
        fate = BatchResult(Status.DROPPED, reason)
        try:
            self._queue.refuse(fate)
        except ClientClosed:
            # It was handed over before the close, and so was accepted.
            self._queue.refuse(fate, even_closed=True)
        self._settle_alone(delivery, fate)
        return delivery

    def _lose(self, message_id: str, size: int, reason: str) -> None:
        fate = BatchResult(Status.DROPPED, reason)
        self._queue.lose_spooled(size, fate)
        delivery = self._watched.get(message_id)
        if delivery is not None:
            self._settle_alone(delivery, fate)

    def _settle_alone(self, delivery: Delivery, fate: BatchResult) -> None:
        record = Record(self._queue.spooled.host)
        record.settle(0, 1, fate)
        delivery.place(record, 0)
        self._queue.spooled.signal.notify()

    # -- back from the disk

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._recorder = None
        loop.call_soon(self._start_recording, loop)
        if self._has_forked:
            self._beat(loop)
        loop.call_soon(self._start, loop, context=Context())

    def detach(self) -> list[asyncio.Task[Any]]:
        self._loop = None
        feeder, self._feeder = self._feeder, None
        return [] if feeder is None else [feeder]

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        # Also of a client that is closing: it may have been given messages before any loop ran.
        if self._feeder is None and self._loop is loop:
            self._feeder = loop.create_task(self._feed(), name="segment_async spool")

    async def _feed(self) -> None:
        queue = self._queue
        if not self.is_open:
            await self._open()
        while True:
            await until(lambda: queue.window() is not None, lambda: queue.unread.signal, queue.unread.host)
            count, size = queue.window() or (1, 1)
            try:
                self._take_in(await self._spool.read(min(count, _WINDOW), size))
            except SpoolUnavailable as error:
                if queue.closed:
                    return
                _log.warning("The spool cannot be read: %s", error)
                await asyncio.sleep(_AGAIN_SECONDS)

    async def _open(self) -> None:
        """See what earlier processes left: it is known once a first read was looked at, which may wait for ever."""
        count, size = self._queue.window() or (1, 1)
        reading = asyncio.get_running_loop().create_task(self._spool.read(min(count, _WINDOW), size))
        try:
            await asyncio.sleep(0)
            # It asks for nothing, and is answered after the read was looked at.
            await self._spool.settle((), _NOTHING)
            self._note_recovered()
            self.is_open = True
            self._queue.spooled.signal.notify()
            await asyncio.wait((reading,))
        finally:
            reading.cancel()
            was_read = reading.done() and not reading.cancelled() and reading.exception() is None
            # Once all that is on disk was called kept, it stays there.
            if was_read and self._queue.spooled.fate(0) is None:
                self._take_in(reading.result())

    def _take_in(self, window: Window) -> None:
        with self._queue.lock:
            self._note_recovered()
            for dropped in window.dropped:
                self._lose(dropped.message_id, len(dropped.body), dropped.reason)
            for message in window.messages:
                self._load(message)
        self._queue.spooled.signal.notify()

    async def until_open(self, host: Host, time_left: Callable[[], float | None]) -> None:
        """Wait until it is known what earlier processes left."""
        await until(lambda: self.is_open, lambda: self._queue.spooled.signal, host, time_left)

    def _note_recovered(self) -> None:
        statistics = self._spool.statistics()
        self._queue.recover(statistics.recovered - self._recovered)
        self._recovered = statistics.recovered

    def _load(self, message: StoredMessage) -> None:
        delivery = self._watched.get(message.message_id)
        if delivery is None:
            delivery = Delivery(message.message_id, message.body, self._queue.unread)
        else:
            delivery.load(message.body, self._queue.unread)
        delivery.key = message.key
        if message.attempts:
            self.attempts[message.key] = message.attempts
        self._queue.load(delivery, len(message.body))

    # -- out

    async def sending(self, keys: Sequence[int], attempt: int) -> None:
        try:
            await self._spool.sending(keys, attempt)
        except SpoolUnavailable as error:
            _log.warning("The spool did not note an attempt: %s", error)

    def settle(self, keys: Sequence[int], fate: BatchResult, loop: asyncio.AbstractEventLoop | None) -> None:
        """Have an outcome recorded, on this loop, without waiting; or by whoever comes next, if it ends before."""
        self._outcomes.append((list(keys), fate))
        if loop is not None:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._start_recording, loop)

    def _start_recording(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._outcomes and self._recorder is None:
            self._recorder = loop.create_task(self._record(), name="segment_async outcomes")
            self._recorder.add_done_callback(self._recorded)

    async def _record(self) -> None:
        while self._outcomes:
            # Handed over before the first suspension: cancelled, it is recorded all the same.
            keys, fate = self._outcomes.popleft()
            while self._outcomes and self._outcomes[0][1] == fate:
                keys += self._outcomes.popleft()[0]
            try:
                await self._spool.settle(keys, fate)
            except SpoolUnavailable as error:
                _log.warning("The spool did not record an outcome; its messages may be sent again: %s", error)

    def _recorded(self, recorder: asyncio.Task[None]) -> None:
        if self._recorder is recorder:
            self._recorder = None
        if not recorder.cancelled() and (fault := recorder.exception()) is not None:
            _log.warning(
                "The spool failed to record an outcome; its messages may be sent again: %s", type(fault).__name__
            )
        self._queue.spooled.signal.notify()

    @property
    def is_recorded(self) -> bool:
        """Every outcome is on disk, as far as the disk takes it."""
        return self._recorder is None and not self._outcomes

    async def until_recorded(self, host: Host, time_left: Callable[[], float | None]) -> None:
        self._start_recording(asyncio.get_running_loop())
        await until(lambda: self.is_recorded, lambda: self._queue.spooled.signal, host, time_left)

    async def until_written(self) -> None:
        """Wait until the disk has taken, or refused, what was handed over before."""
        await self._spool.settle((), _NOTHING)

    async def aclose(self) -> None:
        try:
            if self._recorder is not None:
                await asyncio.wait((self._recorder,))
            await self._record()
            await self._spool.aclose()
        finally:
            self._is_closed = True

    # -- fork

    def disown(self) -> None:
        """In a forked child."""
        leave_to_parent((self._feeder, self._recorder))

    def after_fork(self) -> None:
        """A child that ends its copy of a running loop deafens the parent's: both have one epoll, and threads wake that
        loop no more. It is given something to wake up for by itself.
        """
        self._has_forked = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._beat, self._loop)

    def _beat(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._is_closed:
            loop.call_later(_BEAT_SECONDS, self._beat, loop)


_all: WeakSet[Spooling] = WeakSet()


def _after_fork_in_parent() -> None:
    for spooling in _all:
        spooling.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_parent=_after_fork_in_parent)


class _Answers:
    """What the spool's thread has to tell those who await it, on any loop.

    Calls that share a write are answered one right after the other. To wake another thread's loop costs a system call
    and this thread its turn: so all that is there when the loop comes to it is one wake-up.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._waiting: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[_Result], _Result]]] = {}

    def give(self, future: asyncio.Future[_Result], result: _Result) -> None:
        loop = future.get_loop()
        with self._guard:
            waiting = self._waiting.setdefault(loop, [])
            waiting.append((future, result))
            is_first = len(waiting) == 1
        if is_first:
            try:
                loop.call_soon_threadsafe(self._hand_out, loop)
            except RuntimeError:
                # The loop is closed, and nobody there waits any more.
                self._take(loop)

    def _hand_out(self, loop: asyncio.AbstractEventLoop) -> None:
        for future, result in self._take(loop):
            if not future.done():
                future.set_result(result)

    def _take(self, loop: asyncio.AbstractEventLoop) -> list[tuple[asyncio.Future[_Result], _Result]]:
        with self._guard:
            return self._waiting.pop(loop, [])
