"""The way of a message from the call to its outcome, wired together.

    put ─► queue ─► open batch ─► sealed batch ─► request ─► what the answer means ─► outcome
            └ (with a spool: stored first) ┘

A client has one; a forked child makes a new one. Which loop works for it is `_lifecycle.owner`'s to say.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from segment_async._http.transport import Transport
from segment_async._lifecycle.loop_end import end
from segment_async._lifecycle.waiting import Host
from segment_async._outcome import BatchResult, Health, Statistics, Status
from segment_async.instrumentation import Request

from .accounts import Accounts
from .admission import EVICTED_SHARE, Admission, Overflow
from .attempt import RequestSender
from .auth import Auth
from .backlog import Backlog
from .batch import MAX_BATCH_MESSAGES, MAX_BODY_BYTES, Batch, Envelope, OpenBatch, bytes_at_once
from .circuit import CircuitBreaker
from .clock import LoopClock
from .consumer import Consumer
from .delivery import Delivery, Record
from .limited_log import LimitedLog
from .outage import Outage
from .queue import Queue
from .reports import OnError, Reports
from .retry import RetryPolicy
from .room import Room
from .schedule import Schedule
from .settlement import Settlement

if TYPE_CHECKING:
    from segment_async.spool._protocol import Spool

    from .spool_feed import SpoolFeed

_log = logging.getLogger("segment_async")


class PipelineOptions(NamedTuple):
    """The options of a client that the pipeline needs, already checked; `timeout`: only for a custom transport."""

    write_key: str
    flush_at: int
    flush_interval: float
    max_queue_size: int
    max_queue_bytes: int
    overflow: Overflow
    overflow_timeout: float | None
    max_in_flight: int
    gzip: bool
    timeout: float | None
    retry: RetryPolicy
    on_error: OnError | None
    deliver: bool
    observers: Sequence[Callable[[Request], object]]

    def __repr__(self) -> str:
        return "<PipelineOptions>"


class Pipeline:
    """Attributes:
    clock: the client's; its `loop` is the one that works for the client.
    admission: the way into the queue.
    queue: what is pending, and the counters.
    reports: what the application and its log learn.
    feed: between the queue and a spool; `None`: there is none.
    outage: whether deliveries fail, and since when.
    """

    def __init__(
        self,
        options: PipelineOptions,
        transport: Transport,
        auth: Auth,
        spool: Spool | None,
        clock: LoopClock,
        host: Host,
    ) -> None:
        # With hashlib, which it imports, 2 ms of the package's import.
        from random import random

        policy = options.retry
        envelope = Envelope(options.write_key)
        max_bytes, max_messages = MAX_BODY_BYTES - envelope.size, MAX_BATCH_MESSAGES
        if options.overflow == "drop_oldest":
            # Batches so small, in messages and in bytes, that all that are in flight and the one that makes room are no more.
            evictable = EVICTED_SHARE * (options.max_in_flight + 1)
            max_bytes = min(max_bytes, options.max_queue_bytes // evictable)
            max_messages = max(1, options.max_queue_size // evictable)
        # What this imports is imported now: a process that forks while it imports leaves the import lock held in the child.
        bytes_at_once(options.gzip)
        circuit = CircuitBreaker(policy, random)
        backlog = Backlog(max_bytes=max_bytes, max_messages=max_messages, gzip=options.gzip, has_keys=spool is not None)
        schedule = Schedule(
            backlog,
            circuit,
            flush_at=options.flush_at,
            flush_interval=options.flush_interval,
            max_in_flight=options.max_in_flight,
            give_up_after=policy.give_up_after,
        )
        accounts = Accounts(options.max_queue_size, options.max_queue_bytes)
        self.clock = clock
        self.queue = Queue(
            accounts,
            backlog,
            schedule,
            Room(accounts, clock, options.overflow_timeout),
            clock,
            host,
            has_spool=spool is not None,
        )
        self.admission = Admission(self.queue, options.overflow)
        limited_log = LimitedLog(time.monotonic)
        self.reports = Reports(options.on_error, limited_log, time.monotonic, self.queue.notify)
        self.feed: SpoolFeed | None = None
        if spool is not None:
            from .spool_feed import SpoolFeed

            self.feed = SpoolFeed(spool, self.admission, self.queue, clock, self.reports, deliver=options.deliver)
        self._auth = auth
        self._backlog = backlog
        self._circuit = circuit
        # A custom transport that wraps an `HTTPTransport` may have a hostname, too.
        given: object = getattr(transport, "hostname", None)
        hostname = given if isinstance(given, str) else ""
        self.outage = Outage(hostname or type(transport).__name__, _log.warning, _log.info)
        self._settlement = Settlement(
            self.queue,
            circuit,
            policy,
            auth,
            self.reports,
            None if self.feed is None else self.feed.recorder,
            clock,
            hostname=hostname,
            outage=self.outage,
            random=random,
            wall_clock=time.time,
        )
        self._sender = sender = RequestSender(
            self.queue,
            transport,
            auth,
            limited_log,
            self.feed,
            envelope=envelope,
            gzip=options.gzip,
            timeout=options.timeout,
            give_up_after=policy.give_up_after,
            clock=clock,
            wall_clock=time.time,
            observers=options.observers,
        )
        self._consumer = Consumer(self.queue, sender, self._settlement, clock)

    # -- messages come in

    async def put(self, delivery: Delivery, body: bytes, *, shares_loop: bool) -> Delivery:
        """Take a message, waiting for room, or with a spool until it is stored; the policy may drop it.

        `shares_loop`: the caller's loop is the consumer's, which gets a turn when unread messages pile up (`paced` in
        `admission`).

        Raises:
            QueueFull, ClientClosed, SpoolUnavailable: not accepted.
        """
        if self.feed is not None:
            stored = await self.feed.intake.append(delivery, len(body))
        else:
            taken = await self.admission.put(delivery, len(body), paced=shares_loop)
            stored = delivery if taken else None
        self._report_evicted()
        return stored if stored is not None else self.dropped(delivery.message_id, "queue_full", body)

    def put_nowait(self, delivery: Delivery, body: bytes) -> Delivery:
        """Take a message at once; where `put` would wait, it is dropped.

        Raises:
            QueueFull, ClientClosed: not accepted.
        """
        if self.feed is not None:
            stored = self.feed.intake.append_nowait(delivery, len(body))
        else:
            stored = delivery if self.admission.put_nowait(delivery, len(body)) else None
        self._report_evicted()
        return stored if stored is not None else self.dropped(delivery.message_id, "queue_full", body)

    def dropped(self, message_id: str, reason: str, body: bytes, *, possibly_delivered: bool = False) -> Delivery:
        """The delivery of a message that is accepted, counted, and dropped at once."""
        result = BatchResult(Status.DROPPED, reason, possibly_delivered=possibly_delivered)
        self.admission.refuse(result)
        record = Record(self.queue.queued.host)
        record.settle(0, 1, result)
        self.reports.add(result, lambda: (body,), len(body))
        if reason == "queue_full":
            self.reports.limited_log.warn(reason, "The queue is full: messages are dropped until there is room.")
        return Delivery(message_id, b"", record)

    def _report_evicted(self) -> None:
        evicted = self.admission.evicted
        while evicted:
            try:
                result, bodies, size = evicted.popleft()
            except IndexError:
                break
            self.reports.add(result, bodies, size)
            # The message that they made room for may be announced to nothing but the consumer's next look.
            self.queue.notify()
            self.reports.limited_log.warn("queue_full", "The queue is full: the oldest messages are dropped.")

    # -- which loop

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Work on this loop, which runs in this thread, with all that an earlier one left."""
        self._consumer.start(loop)
        if self.feed is not None:
            self.feed.start(loop)
        self.reports.resume(loop)
        # Last: interrupted by an exception before this, the client has no loop, and the next call attaches one.
        self.clock.attach(loop)

    def detach(self) -> list[asyncio.Task[Any]]:
        """Stop working; batches in flight wait again. Returns the tasks, for the caller to end."""
        fed = self.feed.stop() if self.feed is not None else []
        tasks = [*self._consumer.stop(), *fed]
        self.reports.stop()
        self.clock.detach()
        return tasks

    def unwind(self) -> None:
        """At the interpreter's exit: end requests where they are, if their loop does not run."""
        loop = self.clock.loop
        if loop is not None and not loop.is_running():
            self._consumer.unwind()

    def abandon_after_fork(self) -> None:
        """In a forked child, where the lock may be held for ever: everything here is the parent's."""
        self._consumer.abandon_after_fork()
        self.reports.calls.abandon_after_fork()
        if self.feed is not None:
            self.feed.abandon_after_fork()

    # -- flush and close

    def flush_now(self) -> int:
        """Send what is there without waiting for more. Returns the place that is to be reached."""
        queue, backlog, order = self.queue, self._backlog, self.queue.order
        with queue.lock:
            place = order.place_to_reach()
            backlog.flush_before = max(backlog.flush_before, place + order.recovered)
        queue.notify()
        return place

    def retry_now(self) -> None:
        """The client is closing: what waits for a back-off gets one more try now."""
        with self.queue.lock:
            self._backlog.retry_now()
            self._circuit.probe_now()
        self.queue.notify()

    def note_failure(self, error: str, delay: float) -> None:
        """Nothing can be sent for a reason that no request shows; it is tried again in so many seconds."""
        self._settlement.note_failure(error, delay)

    def statistics(self) -> Statistics:
        spooled = self.feed.statistics() if self.feed is not None else None
        return self.queue.statistics(
            Health(
                retry_in=self._retry_in(),
                server_up=self.outage.since is None and not self._circuit.half_open,
                last_delivery=self.outage.last_success,
                dead_letters=spooled.dead if spooled is not None else 0,
                disk_bytes=spooled.disk_bytes if spooled is not None else 0,
            )
        )

    @property
    def pending(self) -> int:
        """Messages without an outcome; as `statistics`, but without a look at the spool, which may fail."""
        return self.queue.statistics().pending

    def can_send(self) -> bool:
        """Whether there is something to send, and no pause is to be waited out first.

        After a failure as well: only another attempt shows whether the server is well again.
        """
        return self.pending > 0 and not self._retry_in()

    def _retry_in(self) -> float:
        return max(0.0, max(self._circuit.not_before, self._auth.asks_at) - self.clock.now())

    def has_pending(self) -> bool:
        """Whether there is something to send, or to record."""
        return self.pending > 0 or not (self.feed is None or self.feed.recorder.is_recorded)

    def drop_all(self, reason: str) -> int:
        """Settle everything that is pending as dropped; with a spool keep it. Returns how many were dropped."""
        end(self.detach())
        self._sender.tell()
        self.reports.keep_all()
        if self.feed is not None:
            return self.feed.keep_all(reason)
        queue = self.queue
        queue.repair()
        pending = queue.accounts.pending
        while queue.ready:
            _, full = queue.read(MAX_BODY_BYTES, all_of_it=True)
            if full is not None:
                self._drop(full, reason)
        for batch in list(self._backlog.batches()):
            self._drop(batch, reason)
        return pending

    def _drop(self, batch: Batch | OpenBatch, reason: str) -> None:
        self._settlement.settle(batch, batch.history.result(Status.DROPPED, reason))
