"""The queue in memory as a window on a spool: what is accepted goes to disk first, and comes back when there is room.

    track ─► spool.append ─► safe, accepted ─► spool.read ─► the queue in memory ─► batches ─► spool.settle

A `Delivery` that somebody holds is found again by its message's id when the message comes back from the disk. What the
client has not settled when it closes is kept: it is pending still, and the next process goes on with it.

This file knows the spool's protocol and no more of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from contextvars import Context
from functools import partial
from typing import Any, Final
from weakref import WeakValueDictionary

from ._delivery import Delivery, Fate, Host, Record, Status, until, wake
from ._exceptions import ClientClosed, QueueFull, SpoolUnavailable
from ._queue import Queue
from ._spool import Appended, Spool, StoredMessage, Window

_log = logging.getLogger("segment_async")

# Messages that one read brings into memory: a batch or two, so that the first request leaves early.
_WINDOW: Final = 1_000
# Seconds until a spool that refused to be read, or was full, is asked again.
_AGAIN_SECONDS: Final = 0.5


class Spooling:
    def __init__(self, spool: Spool, queue: Queue) -> None:
        self._spool = spool
        self._queue = queue
        self._watched: WeakValueDictionary[str, Delivery] = WeakValueDictionary()
        # Attempts of earlier processes, by key, until the message is in a batch.
        self.attempts: dict[int, int] = {}
        self._recovered = 0
        # Whether what earlier processes left is known.
        self.is_open = False
        self._feeder: asyncio.Task[None] | None = None
        self._writes: set[asyncio.Task[None]] = set()

    # -- in

    async def append(self, delivery: Delivery) -> Delivery:
        """Wait until the message is on disk. Cancelled: it stays accepted.

        Raises:
            SpoolUnavailable: the disk refused; not accepted.
            QueueFull, ClientClosed: as for a queue in memory.
        """
        while True:
            written = asyncio.get_running_loop().create_future()
            answer: list[Appended | SpoolUnavailable] = []
            self._hand_over(delivery, partial(_tell, answer, written), is_awaited=True)
            await written
            result = answer[0]
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
            self._hand_over(delivery, lambda _: None, is_awaited=False)
        except SpoolUnavailable:
            return self._refused(delivery, "spool_unavailable")
        return delivery

    def _hand_over(self, delivery: Delivery, told: Any, *, is_awaited: bool) -> None:
        size = len(delivery.body)

        def done(result: Appended | SpoolUnavailable) -> None:
            self._written(delivery, size, result, is_awaited)
            told(result)

        delivery.load(delivery.body, self._queue.spooled)
        known = self._watched.setdefault(delivery.message_id, delivery)
        self._queue.accept_spooled(size)
        try:
            make_room = self._queue.overflow == "drop_oldest"
            self._spool.append_nowait(delivery.message_id, delivery.body, done, make_room=make_room)
        except SpoolUnavailable:
            self._queue.take_back_spooled(size)
            if known is delivery:
                self._watched.pop(delivery.message_id, None)
            raise

    def _written(self, delivery: Delivery, size: int, result: Appended | SpoolUnavailable, is_awaited: bool) -> None:
        """Called on a thread of the spool's."""
        if isinstance(result, SpoolUnavailable) or result.status in ("full", "known"):
            refused = isinstance(result, SpoolUnavailable) or result.status == "full"
            self._queue.take_back_spooled(size)
            if refused and not is_awaited:
                self._refused(delivery, "spool_unavailable" if isinstance(result, SpoolUnavailable) else "queue_full")
        else:
            with self._queue.lock:
                if not delivery.key:
                    # The disk has the bytes, and they are not back in memory yet.
                    delivery.load(b"", self._queue.spooled)
        if not isinstance(result, SpoolUnavailable):
            for dropped in result.dropped:
                self._lose(dropped.message_id, len(dropped.body), dropped.reason)

    def _refused(self, delivery: Delivery, reason: str) -> Delivery:
        fate = Fate(Status.DROPPED, reason)
        try:
            self._queue.refuse(fate)
        except ClientClosed:
            # It was handed over before the close, and so was accepted.
            self._queue.refuse(fate, even_closed=True)
        self._settle_alone(delivery, fate)
        return delivery

    def _lose(self, message_id: str, size: int, reason: str) -> None:
        fate = Fate(Status.DROPPED, reason)
        self._queue.lose_spooled(size, fate)
        delivery = self._watched.get(message_id)
        if delivery is not None:
            self._settle_alone(delivery, fate)

    def _settle_alone(self, delivery: Delivery, fate: Fate) -> None:
        record = Record(self._queue.spooled.host)
        record.settle(0, 1, fate)
        delivery.place(record, 0)
        self._queue.spooled.signal.notify()

    # -- back from the disk

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.call_soon(self._start, loop, context=Context())

    def detach(self) -> list[asyncio.Task[Any]]:
        feeder, self._feeder = self._feeder, None
        return [] if feeder is None else [feeder]

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._feeder is None and not self._queue.closed:
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
            await self._spool.settle((), Fate(Status.DELIVERED))
            self._note_recovered()
            self.is_open = True
            self._queue.spooled.signal.notify()
            await asyncio.wait((reading,))
        finally:
            reading.cancel()
            if reading.done() and not reading.cancelled() and reading.exception() is None:
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

    def settle(self, keys: Sequence[int], fate: Fate, loop: asyncio.AbstractEventLoop | None) -> None:
        """Record an outcome; on this loop, without waiting."""
        if loop is not None:
            loop.call_soon_threadsafe(self._write, self._spool.settle(list(keys), fate), loop)

    def _write(self, writing: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop) -> None:
        write = loop.create_task(writing)
        self._writes.add(write)
        write.add_done_callback(self._was_written)

    def _was_written(self, write: asyncio.Task[None]) -> None:
        self._writes.discard(write)
        if not write.cancelled() and write.exception() is not None:
            _log.warning("The spool did not record an outcome; its messages may be sent again.")

    async def aclose(self) -> None:
        if self._writes:
            await asyncio.wait(self._writes)
        await self._spool.aclose()


def _tell(
    answer: list[Appended | SpoolUnavailable], written: asyncio.Future[None], result: Appended | SpoolUnavailable
) -> None:
    answer.append(result)
    wake(written)
