"""The consumer: drains the queue into the open batch, seals, sends, and settles what the answers mean.

A batch belongs to this record at every moment: it is open, waiting or flying, never only a coroutine's local. So a
task that is cancelled, crashes or dies with its loop loses nothing: the batch goes back to its place in line.
All that decides runs between two suspensions of the owning loop, or under the queue's lock where another thread may
look in. The stations around it know nothing of each other; this one wires their verdicts.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from bisect import insort
from collections.abc import Callable, Iterable, Sequence
from contextvars import Context
from functools import partial
from threading import get_ident
from typing import Any, Final

from segment_async._http.transport import HTTPTransport, Response, Transport
from segment_async._lifecycle.loop_end import Guard, at_loop_end, end, leave_to_parent, release, unwind
from segment_async._message.ids import prefill_ids
from segment_async._outcome import BatchResult, Status
from segment_async.instrumentation import Request

from .attempt import Attempts
from .auth import Auth
from .batch import MAX_BATCH_MESSAGES, MAX_BODY_BYTES, Batch, Envelope, fastest
from .circuit import Server
from .delivery import Delivery, History, Record, Signal, wake
from .queue import Queue
from .reports import Reports, stack_of
from .retry import (
    Action,
    Again,
    NoAnswer,
    NoCredentials,
    Refresh,
    RetryPolicy,
    Settle,
    Silence,
    Situation,
    Split,
    advice,
    decide,
)
from .spool_feed import Spooling

_log = logging.getLogger("segment_async")

# Bytes that are read from the queue before the loop gets its turn: a quarter of a millisecond with zlib.
_SLICE: Final = 32_768
# Messages that the consumer lets come together before it looks: to be woken costs it 20 µs.
_COMPANY: Final = 100
# Batches of `flush_at` that are sent as one while more than another is unread: a request costs 0.2 ms.
_BACKLOG: Final = 4
# Seconds that a timer comes late on purpose: a loop may call a little early, and then there would be nothing to do.
_SLACK: Final = 1e-5
# Seconds until a cancelled consumer is back: a loop that cancels all its tasks because it ends, has ended by then.
_BREATH: Final = 0.01
# Faults in a row of a message alone, after which another one is tried where the order would forbid it.
_STUCK: Final = 10
# Seconds that a smaller limit, learnt from a 413, is remembered.
_LIMIT_SECONDS: Final = 300.0

_KEPT: Final = BatchResult(Status.KEPT)


class Sender:
    """What one client sends, over all the loops of its life.

    Attributes:
        loop: the loop that owns the client; `None` before the first and after the last.
        thread: the one that this loop ran in when it was last seen.
        settled: notified whenever messages got their outcome.
    """

    def __init__(
        self,
        queue: Queue,
        transport: Transport,
        auth: Auth,
        policy: RetryPolicy,
        reports: Reports,
        spooling: Spooling | None,
        *,
        write_key: str,
        flush_at: int,
        flush_interval: float,
        max_in_flight: int,
        gzip: bool,
        timeout: float | None,
        chance: Callable[[], float],
        wall: Callable[[], float],
        listeners: Sequence[Callable[[Request], object]],
    ) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self.thread = 0
        self.settled = Signal()
        self._queue = queue
        self._transport = transport
        self._auth = auth
        self._policy = policy
        self._reports = reports
        self._spooling = spooling
        self._flush_at = flush_at
        self._flush_interval = flush_interval
        self._max_in_flight = max_in_flight
        self._gzip = gzip
        self._chance = chance
        self._wall = wall
        self._server = Server(policy, chance)
        envelope = Envelope(write_key)
        self._attempts = Attempts(
            queue,
            transport,
            auth,
            reports,
            spooling,
            envelope=envelope,
            gzip=gzip,
            timeout=timeout,
            give_up_after=policy.give_up_after,
            now=self.now,
            wall=wall,
            listeners=listeners,
        )
        # Changes with each loop that takes over: tasks of an earlier one see that they own nothing any more.
        self._run: object | None = None
        self._consumer: asyncio.Task[None] | None = None
        self._bell: asyncio.Future[None] | None = None
        self._rung = False
        # An asynchronous generator that the loop closes when it shuts down.
        self._guard: Guard | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._crashes = 0
        self._clock_offset = 0.0
        self._open: Batch | None = None
        # The clock when the first of the unread messages came, where no batch was open and nobody was woken for it.
        self._unread_since: float | None = None
        # In the order of acceptance.
        self._waiting: list[Batch] = []
        self._flying: dict[Batch, asyncio.Task[Response | Silence]] = {}
        self._flush_before = 0
        self._limit = self._largest = MAX_BODY_BYTES - envelope.size
        self._limit_until = 0.0
        if gzip:
            # Imported now: a process that forks amid an import leaves its lock taken in the child.
            fastest()
        queue.clock = self.now
        queue.announce = self._announce
        queue.ring = self.ring
        queue.drop_oldest = self._drop_oldest
        queue.oldest_age = self._oldest_age

    # -- which loop

    def now(self) -> float:
        """Seconds on a clock that goes on evenly from loop to loop."""
        return (self.loop.time() if self.loop is not None else 0.0) + self._clock_offset

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Work on this loop from now on, with all that another one left behind; the queue's lock is held."""
        now = self.now()
        self.detach()
        self.loop = loop
        self.thread = get_ident()
        self._clock_offset = now - loop.time()
        self._run = object()
        self._guard = at_loop_end(partial(self._loop_ends, self._run))
        # An empty context: what is bound around the caller is not for the consumer's own logging and hooks.
        loop.call_soon(self._start, self._run, context=Context())
        if self._spooling is not None:
            self._spooling.attach(loop)

    def detach(self) -> list[asyncio.Task[Any]]:
        """Stop working; what flies goes back in line. Gives the tasks, which are told to end, to be waited for."""
        with self._queue.lock:
            loop, self._run = self.loop, None
            tasks = [*self._flying.values()] + ([self._consumer] if self._consumer is not None else [])
            if self._spooling is not None:
                tasks += self._spooling.detach()
            self._consumer = self._bell = self._timer = None
            self._rung = True
            self._queue.announce_at = sys.maxsize
            for batch in list(self._flying):
                self._come_back(batch)
            if loop is not None:
                self._clock_offset = self.now()
                self.loop = None
            self._release_guard()
        if loop is not None:
            end(loop, tasks)
        return tasks

    def unwind(self) -> None:
        """At the interpreter's end, when nobody runs an earlier loop again: its requests end where they stand."""
        if self.loop is not None and not self.loop.is_running():
            for task in self._flying.values():
                unwind(task)

    def disown(self) -> None:
        """In a forked child, where the lock may be held for ever: tasks of the parent's find nothing to do."""
        leave_to_parent((self._consumer, *self._flying.values()))
        self._run = None
        self._flying = {}
        self._release_guard()

    def _release_guard(self) -> None:
        guard, self._guard = self._guard, None
        if guard is not None:
            release(guard)

    def _start(self, run: object) -> None:
        if run is not self._run or self.loop is None:
            return
        self._consumer = self.loop.create_task(self._consume(run), name="segment_async consumer")
        self._consumer.add_done_callback(lambda task: self._consumer_ended(task, run))

    def _consumer_ended(self, task: asyncio.Task[None], run: object) -> None:
        crash = None if task.cancelled() else task.exception()
        if run is not self._run or self.loop is None or self.loop.is_closed():
            return
        delay = _BREATH
        # What ends the program is no crash: the loop runs on, if at all, only to end.
        if isinstance(crash, Exception):
            self._crashes += 1
            delay = min(5.0, 0.1 * self._crashes)
            _log.error("The consumer crashed and is restarted; nothing is lost.\n%s", stack_of(crash))
        self.loop.call_later(delay, self._start, run, context=Context())

    async def _loop_ends(self, run: object) -> None:
        """`asyncio.run` is about to return: leave nothing behind on its loop, and all messages to the next one."""
        if run is not self._run:
            return
        self._guard = None
        tasks = self.detach()
        if tasks:
            await asyncio.wait(tasks)
        await self._reports.finish(0.0)
        if isinstance(self._transport, HTTPTransport):
            await self._transport.aclose()
        await self._auth.aclose()

    # -- the consumer

    def _announce(self) -> None:
        """Messages are there to be read; the queue's lock is held.

        Where the timer will look in time, the first one of a batch only starts its clock.
        """
        queue = self._queue
        enough = min(self._flush_at, _COMPANY)
        is_awaited = queue.read_count < self._flush_before
        if self._open is None and queue.unread_count < enough and not is_awaited and self._will_look():
            if self._unread_since is None:
                self._unread_since = self.now()
            queue.announce_at = queue.read_count + enough
        else:
            self.ring()

    def _will_look(self) -> bool:
        """The timer will ring before a message that comes now has waited for long enough."""
        timer, loop = self._timer, self.loop
        return timer is not None and loop is not None and timer.when() <= loop.time() + self._flush_interval

    def ring(self) -> None:
        """There is something to do; from any thread."""
        if self._rung:
            return
        self._rung = True
        self._queue.announce_at = sys.maxsize
        bell = self._bell
        if bell is not None:
            self._bell = None
            wake(bell)

    async def _consume(self, run: object) -> None:
        while run is self._run:
            self._rung = False
            while self._read_slice() and run is self._run:
                # Two pieces of work in a row would be one long step for the loop.
                await asyncio.sleep(0)
                if self._waiting or self._until_large() <= 0:
                    self._dispatch(run)
            self._dispatch(run)
            await self._next_ring(run)

    async def _next_ring(self, run: object) -> None:
        bell = asyncio.get_running_loop().create_future()
        queue = self._queue
        with queue.lock:
            announce_at = queue.read_count + self._company()
            if self._rung or run is not self._run or queue.put_count >= announce_at:
                return
            queue.announce_at = announce_at
            self._bell = bell
        await bell

    def _company(self) -> int:
        """Unread messages that are worth a look; the first one is where no batch is open, whose time is kept."""
        if self._open is None:
            return 1
        missing = self._flush_at - self._open.count
        return min(missing, _COMPANY) if missing > 0 and self._may_launch_open() else _COMPANY

    def _read_slice(self) -> bool:
        """Move messages from the queue into the open batch; `False`: all are read, and it was no work to speak of."""
        queue = self._queue
        size = 0
        with queue.lock:
            may_launch = self._may_launch_open()
            while (room := _SLICE - size) > 0 and (first := queue.next()) is not None:
                most = self._until_large() if may_launch else MAX_BATCH_MESSAGES
                if most <= 0:
                    break
                size += self._fill(self._batch_for(first), most, room)
            queue.was_read()
            more = queue.next() is not None
        queue.unread.signal.notify()
        prefill_ids()
        return more or size >= _SLICE // 8

    def _until_large(self) -> int:
        """Messages until the open batch is due although more is unread; none are left once it is.

        The more requests are under way and the more is unread, the more may join: fewer, larger requests.
        """
        enough = self._flush_at * (1 + len(self._flying))
        if self._queue.unread_count > self._flush_at:
            enough *= _BACKLOG
        return enough if self._open is None else enough - self._open.count

    def _batch_for(self, delivery: Delivery) -> Batch:
        """The open batch, a new one where the message does not fit into it."""
        batch = self._open
        sends = 0 if self._spooling is None else self._spooling.attempts.get(delivery.key, 0)
        if batch is None or batch.history.sends != sends or not batch.fits(len(delivery.body)):
            self._close_open()
            batch = self._open = self._new_batch(sends)
        return batch

    def _fill(self, batch: Batch, most: int, room: int = _SLICE) -> int:
        """Put unread messages into the batch, the first of which fits: as many bytes as there is room for, or that one.

        Gives their bytes.
        """
        spooling = self._spooling
        if spooling is not None and spooling.attempts:
            # Those that earlier processes tried go by themselves.
            most = 1
        deliveries = self._queue.read(min(most, batch.places), min(batch.room, room))
        try:
            size = batch.size
            index = batch.extend([delivery.body for delivery in deliveries])
        except BaseException:
            self._queue.put_back(deliveries)
            raise
        Delivery.place_all(deliveries, batch.record, index)
        if spooling is not None:
            for delivery in deliveries:
                batch.keys.append(delivery.key)
                spooling.attempts.pop(delivery.key, None)
        return batch.size - size

    def _new_batch(self, sends: int) -> Batch:
        """`sends`: requests that earlier processes made with the messages to come."""
        now = self.now()
        if now >= self._limit_until:
            self._limit = self._largest
        opened_at = now if self._unread_since is None else self._unread_since
        self._unread_since = None
        record = Record(self._queue.unread.host)
        history = History(sends=sends, maybe_sent=sends > 0)
        return Batch(record, self._queue.read_count, self._limit, opened_at, history, gzip=self._gzip)

    def _close_open(self) -> None:
        if self._open is not None:
            self._open.seal()
            self._line_up(self._open)
            self._open = None

    def _line_up(self, batch: Batch) -> None:
        insort(self._waiting, batch, key=lambda waiting: waiting.start)

    # -- what goes when

    def _dispatch(self, run: object) -> None:
        with self._queue.lock:
            if run is not self._run:
                return
            now = self.now()
            self._give_up_overdue(now)
            while self._may_launch(now) and (batch := self._next(now)) is not None:
                self._launch(batch)
            self._set_timer(now)

    def _may_launch(self, now: float) -> bool:
        return now >= self._server.not_before and self._has_place()

    def _has_place(self) -> bool:
        return len(self._flying) < self._server.places(self._max_in_flight)

    def _may_launch_open(self) -> bool:
        return self._may_launch(self.now()) and not self._must_wait_in_line()

    def _must_wait_in_line(self) -> bool:
        """One request at a time keeps the order: nothing overtakes what waits, unless that is stuck."""
        return self._max_in_flight == 1 and len(self._waiting) > self._is_stuck()

    def _is_stuck(self) -> bool:
        """The first in line is one message that the server answers with a fault again and again.

        Whether the fault is the message's or the server's, only another message can tell.
        """
        return bool(self._waiting) and self._waiting[0].count == 1 and self._waiting[0].history.server_faults >= _STUCK

    def _next(self, now: float) -> Batch | None:
        """The batch to send now, taken out of line."""
        ready = self._ready(now)
        # While the server is probed, what was not tried yet goes first: the fault may lie in what was.
        yields = ready is None or (self._server.is_probed and ready.history.sends > 0)
        if yields and self._is_due(now) and not self._must_wait_in_line():
            self._close_open()
            return self._waiting.pop()
        if ready is None:
            return None
        self._waiting.remove(ready)
        if ready.size > self._limit and ready.count > 1 and now < self._limit_until:
            for part in ready.split():
                self._line_up(part)
            return self._next(now)
        return ready

    def _ready(self, now: float) -> Batch | None:
        ready = (batch for batch in self._candidates() if batch.not_before <= now)
        if self._server.is_probed:
            return min(ready, key=lambda batch: batch.history.sends, default=None)
        return next(ready, None)

    def _candidates(self) -> list[Batch]:
        return self._waiting[: 1 + self._is_stuck()] if self._max_in_flight == 1 else self._waiting

    def _is_due(self, now: float) -> bool:
        batch = self._open
        return batch is not None and (
            batch.count >= self._flush_at
            or now >= batch.opened_at + self._flush_interval
            or batch.start < self._flush_before
            or self._queue.is_full
        )

    def _set_timer(self, now: float) -> None:
        """One timer, set anew only where an earlier look is needed; it is never cancelled."""
        when = min(self._moments(now), default=None)
        if when is None or self.loop is None:
            return
        when += _SLACK - self._clock_offset
        if self._timer is None or self._timer.when() > when or self._timer.when() <= self.loop.time():
            self._timer = self.loop.call_at(when, self._tick, self._run, context=Context())

    def _tick(self, run: object) -> None:
        if run is self._run:
            self._timer = None
            self.ring()

    def _moments(self, now: float) -> Iterable[float]:
        """When something may have to be done that no call and no answer will announce."""
        floor = self._server.not_before
        if self._has_place():
            yield from (max(batch.not_before, floor) for batch in self._candidates())
            if self._open is not None and not self._must_wait_in_line():
                yield max(floor, now if self._is_due(now) else self._open.opened_at + self._flush_interval)
        for batch in self._waiting:
            if batch.history.first_failure is not None:
                yield batch.history.first_failure + self._policy.give_up_after

    def _give_up_overdue(self, now: float) -> None:
        for batch in [batch for batch in self._waiting if self._is_overdue(batch, now)]:
            self._waiting.remove(batch)
            fate = batch.history.fate(Status.FAILED, "gave_up")
            self._settle(batch, fate)
            self._explain(fate)

    def _is_overdue(self, batch: Batch, now: float) -> bool:
        since = batch.history.first_failure
        return since is not None and now >= since + self._policy.give_up_after

    # -- one request

    def _launch(self, batch: Batch) -> None:
        assert self.loop is not None
        attempt = self._attempts.make(batch)
        try:
            task = self.loop.create_task(attempt)
        except BaseException:
            # A task factory of the application's may raise: the batch must not be left between its places.
            attempt.close()
            self._line_up(batch)
            raise
        self._queue.lift_off(batch.count, batch.size)
        self._flying[batch] = task
        # A callback and not the task's own last lines: a task that is cancelled before its first step has none.
        task.add_done_callback(partial(self._landed, batch, self._run))

    def _landed(self, batch: Batch, run: object, task: asyncio.Task[Response | Silence]) -> None:
        cut_off = task.cancelled() or task.exception() is not None
        with self._queue.lock:
            if run is not self._run or batch not in self._flying:
                return
            nothing_held_up = self._may_launch_open()
            if cut_off:
                self._come_back(batch)
                # A transport that cancels its own task, again and again, is no reason to spin.
                batch.not_before = self.now() + _BREATH
            else:
                self._conclude(batch, task.result())
            if self._waiting or not nothing_held_up:
                self.ring()

    def _land(self, batch: Batch) -> None:
        del self._flying[batch]
        self._queue.land(batch.count, batch.size)

    def _come_back(self, batch: Batch) -> None:
        """A request was cut off: the batch is in line again, and may have arrived."""
        self._land(batch)
        batch.history = batch.history._replace(maybe_sent=batch.history.sends > 0)
        self._line_up(batch)

    # -- what the answer means

    def _conclude(self, batch: Batch, answer: Response | Silence) -> None:
        now = self.now()
        action, batch.history = self._decide(batch, answer, now)
        self._land(batch)
        if isinstance(action, (Settle, Split)) and self._server.note_end(batch, action, answer, now):
            # The others need not sit out their own back-off.
            for other in self._waiting:
                other.not_before = 0.0
        match action:
            case Settle():
                fate = batch.history.fate(action.status, action.reason)
                self._settle(batch, fate)
                if action.status is Status.FAILED and not isinstance(answer, NoCredentials):
                    self._explain(fate)
            case Again():
                batch.not_before = now + action.delay
                self._line_up(batch)
                self._server.note_again(batch, action, now)
            case Split():
                self._split(batch, action, now)
            case Refresh():
                self._auth.renew(batch.sent_at)
                self._line_up(batch)

    def _decide(self, batch: Batch, answer: Response | Silence, now: float) -> tuple[Action, History]:
        situation = Situation(
            now=now,
            wall=self._wall(),
            chance=self._chance(),
            messages=batch.count,
            with_token=self._auth.has_tokens,
            others_delivered=self._server.delivers_others(batch),
        )
        try:
            return decide(answer, batch.history, situation, self._policy)
        except Exception as error:
            # A transport of somebody else's whose answer has not the shape of one.
            self._reports.warn("answer", "The transport gave an unreadable answer.\n%s", stack_of(error))
            return decide(NoAnswer(maybe_sent=True), batch.history, situation, self._policy)

    def _split(self, batch: Batch, action: Split, now: float) -> None:
        if action.too_large:
            self._limit = min(self._limit, max(batch.size // 2, 1))
            self._limit_until = now + _LIMIT_SECONDS
        for part in batch.split():
            part.not_before = now
            self._line_up(part)

    def _settle(self, batch: Batch, fate: BatchResult) -> None:
        with self._queue.lock:
            batch.record.settle(batch.offset, batch.offset + batch.count, fate)
            self._queue.settle(batch.count, batch.size, fate)
        if self._spooling is not None:
            self._spooling.settle(batch.keys, fate, self.loop)
        if fate.status is not Status.DELIVERED:
            self._reports.add(fate, batch.messages, self.loop)
        batch.record.signal.notify()
        self.settled.notify()

    def _explain(self, fate: BatchResult) -> None:
        """Say that messages failed; and once, where that is likely, what is set up wrongly."""
        reason, status = fate.reason or "", fate.status_code
        hint = f" to {fate.location}; set host= to where Segment really is" if fate.location is not None else ""
        self._reports.warn(reason, "Messages failed: %s%s (last status: %s).", reason, hint, status)
        if status is not None and isinstance(self._transport, HTTPTransport):
            what = advice(status, self._transport.hostname, with_token=self._auth.has_tokens)
            if what:
                self._reports.warn_once("advice", "Status %d from Segment. %s", status, what)

    # -- flush, close, make room

    def flush_now(self) -> int:
        """Send what is there without waiting for company; gives the place that is to be reached."""
        with self._queue.lock:
            self._flush_before = self._queue.place_to_reach()
            self.ring()
            return self._flush_before

    def left(self, place: int) -> int:
        """Messages before this place in the order of acceptance that have no outcome yet."""
        with self._queue.lock:
            opened = () if self._open is None else (self._open,)
            batches = (*opened, *self._waiting, *self._flying)
            pending: int = sum(max(0, min(batch.stop, place) - batch.start) for batch in batches)
            return pending + max(0, place - self._queue.read_count)

    def hurry(self) -> None:
        """The client is closing: what only waits out a back-off gets one more try now."""
        with self._queue.lock:
            for batch in self._waiting:
                batch.not_before = 0.0
            self._server.hurry()
            self.ring()

    def _oldest_age(self) -> float:
        """Seconds since the oldest pending message came into a batch; the queue's lock is held."""
        opened = () if self._open is None else (self._open,)
        moments = [batch.opened_at for batch in (*opened, *self._waiting, *self._flying)]
        if self._unread_since is not None:
            moments.append(self._unread_since)
        return max(0.0, self.now() - min(moments)) if moments else 0.0

    def drop_all(self, reason: str) -> int:
        """Settle everything that is pending as dropped (with a spool: keep it); gives how many that were."""
        with self._queue.lock:
            self._read_all()
            self._close_open()
            self.detach()
            waiting, self._waiting = self._waiting, []
            for batch in waiting:
                if self._spooling is None:
                    self._settle(batch, batch.history.fate(Status.DROPPED, reason))
                else:
                    self._keep(batch)
            if self._spooling is not None:
                self._queue.spooled.settle(0, sys.maxsize, _KEPT)
        self._queue.unread.signal.notify()
        self._queue.spooled.signal.notify()
        return 0 if self._spooling is not None else sum(batch.count for batch in waiting)

    def _read_all(self) -> None:
        while (first := self._queue.next()) is not None:
            self._fill(self._batch_for(first), MAX_BATCH_MESSAGES)

    def _keep(self, batch: Batch) -> None:
        batch.record.settle(batch.offset, batch.offset + batch.count, batch.history.fate(Status.KEPT))
        self._queue.keep(batch.count, batch.size)
        batch.record.signal.notify()

    def _drop_oldest(self) -> bool:
        """Drop the oldest batch that is not flying, as a whole; the queue's lock is held."""
        if not self._waiting:
            if self._open is None:
                first = self._queue.next()
                if first is None:
                    return False
                self._fill(self._batch_for(first), 1)
            self._close_open()
        batch = self._waiting.pop(0)
        self._settle(batch, batch.history.fate(Status.DROPPED, "queue_full"))
        return True
