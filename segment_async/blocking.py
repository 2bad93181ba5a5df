"""The client for code without an event loop: Flask, Django under WSGI, Celery, scripts.

    client = Client("WRITE_KEY")
    client.track("user-1", "Order Completed", {"total": 30.5})

Behind it runs the ordinary client, on an event loop in a daemon thread that all blocking clients of a process share. A
call is checked, encoded and queued in the thread that makes it; only the loop's thread reads the queue.
"""

# This is the other face of the client, not a user of it: it goes the way of `segment_async.Client.track`.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Callable
from functools import partial
from os import getpid
from types import TracebackType
from typing import Any, Concatenate, Final, ParamSpec, Self, cast

from . import Client as AsyncClient
from . import Delivery as AsyncDelivery
from ._calls import Calls
from ._exceptions import MessageError, QueueFull, SpoolUnavailable
from ._lifecycle import loop_thread, process, uwsgi
from ._lifecycle.loop_thread import CallingThread, LoopThread
from ._lifecycle.owner import LoopOwner
from ._lifecycle.termination import drain_on_sigterm
from ._message.build import Fields
from ._outcome import Outcome, Statistics
from .instrumentation import Request

__all__ = ["Client", "Delivery"]

P = ParamSpec("P")

_log = logging.getLogger("segment_async")

# Seconds beyond `close_timeout` that a close may take: for hooks, connections and a spool's disk.
_CLOSE_GRACE: Final = 6.0
# Seconds beyond its own limit after which a flush is no longer waited for: the loop is busy, such as with `on_error`.
_FLUSH_GRACE: Final = 0.05

# The clients that were given messages: they are closed at the exit, whether the application keeps them or not.
_open: set[Client] = set()


class Delivery:
    """A message on its way."""

    __slots__ = ("_delivery", "_thread")

    def __init__(self, delivery: AsyncDelivery, thread: LoopThread | CallingThread | None) -> None:
        self._delivery = delivery
        self._thread = thread

    @property
    def message_id(self) -> str:
        """The `messageId` on the wire, which Segment deduplicates by."""
        return self._delivery.message_id

    @property
    def outcome(self) -> Outcome | None:
        """What became of the message; `None` while it is pending."""
        return self._delivery.outcome

    def wait(self, timeout: float | None = None) -> Outcome:
        """Wait until the message has its outcome. Giving up leaves the message alone.

        Raises:
            TimeoutError: it is still pending after `timeout` seconds (`None`: no limit).
            RuntimeError: called in a hook, which runs on the thread that it would wait for; in a signal handler that
                interrupted a call of the client; or in a forked child, whose parent sends the message.
        """
        outcome = self._delivery.outcome
        if outcome is not None:
            return outcome
        if self._thread is None or self._thread.pid != getpid():
            raise RuntimeError("the message was accepted before the fork: the parent process sends it")
        _check_waits(cast("LoopOwner", self._delivery._record.host))
        return self._thread.run(partial(_outcome_of, self._delivery), timeout)

    def __repr__(self) -> str:
        return repr(self._delivery)


def _check_waits(owner: LoopOwner) -> None:
    """Raises:
    RuntimeError: a signal handler has interrupted a call that holds the queue's lock. The client's thread would wait for
        that call, and the handler for the thread.
    """
    if owner.pipeline.queue.is_amid_a_change():
        raise RuntimeError(
            "this signal handler interrupted a call of the client and cannot wait for it; raise SystemExit, and what is "
            "pending is sent at the exit"
        )


async def _outcome_of(delivery: AsyncDelivery) -> Outcome:
    return await delivery


def _with_options_of(
    init: Callable[Concatenate[Any, P], None],
) -> Callable[[Callable[..., None]], Callable[Concatenate[Any, P], None]]:
    """Give a constructor the signature of another one, for type checkers and for `inspect`."""

    def decorate(own: Callable[..., None]) -> Callable[Concatenate[Any, P], None]:
        own.__signature__ = inspect.signature(init)  # type: ignore[attr-defined]  # functions have it
        return own

    return decorate


class Client(Calls[Delivery]):
    """Sends messages to one Segment source, from any thread of code that does not await.

    Takes the options of `segment_async.Client`. Its calls return at once, unless the queue is full: then `overflow` and
    `overflow_timeout` say what happens, and ``"wait"`` blocks the calling thread. With a spool, a call returns once the
    message is on disk. On a thread with a running event loop no call waits: where it would, the message is dropped
    (``queue_full``), as with `segment_async.Client.enqueue_nowait`; so it is in a signal handler that interrupted a call.

    The hook `before_send` runs in the calling thread, `on_error` in the client's.

    The first call in a process starts the thread; so does the first one in a forked child. When the process ends, what
    is pending is sent within `close_timeout`: at the interpreter's exit, at the end of a child of `multiprocessing` or
    of a Celery worker, and at SIGTERM, if the signal had no handler and the client was made, or first called, in the main thread.
    A process that ends by `os._exit`, such as a job of RQ, sends nothing: end it with ``client.flush(timeout=5)``.
    """

    @_with_options_of(AsyncClient.__init__)
    def __init__(self, *args: Any, **options: Any) -> None:
        self._client = AsyncClient(*args, **options)
        self._thread: LoopThread | None = None
        # The first call may come from another thread, where this cannot be done.
        drain_on_sigterm()

    def __repr__(self) -> str:
        return f"<blocking {repr(self._client)[1:]}" if hasattr(self, "_client") else "<blocking Client (failed)>"

    def _accept(self, message: Fields) -> Delivery:
        thread: LoopThread | CallingThread | None = self._thread
        if thread is None or thread.pid != getpid():
            if uwsgi.will_fork():
                return self._send_before_fork(message)
            thread = self._start()
        client = self._client
        delivery, body, _ = client._outgoing.encoded(message)
        if body:
            admission = client._owner.pipeline.admission
            if not admission.offer(delivery, len(body), paced=False):
                delivery = self._put(thread, delivery, body)
        return Delivery(delivery, thread)

    def _refuse(self, error: MessageError, given: Fields) -> Delivery:
        return Delivery(self._client._refused(error, given), None)

    def _put(self, thread: LoopThread | CallingThread, delivery: AsyncDelivery, body: bytes) -> AsyncDelivery:
        """Wait for room, or for the spool's disk, on the thread's loop."""
        pipeline = self._client._owner.pipeline
        pipeline.admission.check_open()
        try:
            if thread.is_called_on_a_loop() or pipeline.queue.is_amid_a_change():
                return pipeline.put_nowait(delivery, body)
            return thread.run(partial(pipeline.put, delivery, body, shares_loop=False))
        except (QueueFull, SpoolUnavailable) as error:
            dropped = self._client._outgoing.not_taken(error, delivery, body)
            if dropped is None:
                raise
            return dropped

    def _send_before_fork(self, message: Fields) -> Delivery:
        """Send the message within the call: nothing may be pending, and no thread running, when uWSGI forks."""
        delivery = self._client.enqueue_nowait(message)
        # With a running loop in this thread no call waits: that loop sends the message, or the next call does.
        is_on_a_loop = asyncio._get_running_loop() is not None
        left = 1 if is_on_a_loop else asyncio.run(self._client.flush(timeout=self._client._owner.close_timeout))
        if left:
            # Limited, as a handler of `logging` may call the client.
            self._client._owner.pipeline.reports.limited_log.warn(
                "uwsgi", "Not sent before uWSGI forks: %d. Make calls in the workers, or use --lazy-apps.", left
            )
        return Delivery(delivery, None)

    def _start(self) -> LoopThread | CallingThread:
        """Let the loop of this process's thread work for the client."""
        owner = self._client._owner
        owner.check_process()
        owner.pipeline.admission.check_open()
        is_first = loop_thread.existing() is None
        thread = loop_thread.running()
        thread.call_soon(owner.run_here)
        owner.hold()
        _open.add(self)
        drain_on_sigterm()
        if isinstance(thread, LoopThread):
            process.drain_when_forking_thread_ends()
            self._thread = thread
            if is_first:
                # Last, as a handler of `logging` may call the client.
                uwsgi.warn_without_threads()
        return thread

    def statistics(self) -> Statistics:
        """One consistent look at the counters."""
        return self._client.statistics()

    def observe(self, listener: Callable[[Request], object]) -> None:
        """Call this with each request once it is over, on the client's thread. Otherwise like the asyncio client's."""
        self._client.observe(listener)

    def flush(self, timeout: float | None = None) -> int:
        """Send what is collected, and wait until every message accepted before the call has its outcome.

        Returns how many are left after `timeout` seconds (`None`: no limit); 0: all are settled.

        Raises:
            RuntimeError: called in a hook, which runs on the thread that it would wait for, or in a signal handler that
                interrupted a call of the client.
        """
        _check_waits(self._client._owner)
        thread: LoopThread | CallingThread | None = self._thread
        # Another one, or none: after a fork, and after the drain at the exit.
        if thread is None or thread is not loop_thread.existing():
            pipeline = self._client._owner.pipeline
            # A spool may have kept something; without a thread, calls only queue.
            may_have_some = pipeline.queue.has_spool or pipeline.queue.accounts.pending > 0
            if not may_have_some or pipeline.admission.closed or uwsgi.will_fork():
                return 0
            thread = self._start()
        pipeline = self._client._owner.pipeline
        place = pipeline.flush_now()
        limit = None if timeout is None else timeout + _FLUSH_GRACE
        flushing = thread.begin(partial(self._client.flush, timeout=timeout))
        if flushing.ends_within(limit):
            return flushing.result()
        flushing.cancel()
        # A spool may have refused some that had no place yet.
        return min(pipeline.queue.order.left(place), pipeline.pending)

    def close(self) -> None:
        """Take no new messages, flush within `close_timeout`, then drop what is left, with one warning.

        Safe to call twice, also at once. If a hook holds the client's thread, this returns six seconds after that limit
        at the latest, with a warning, and the close is finished later.

        Raises:
            RuntimeError: as `flush`.
        """
        owner = self._client._owner
        owner.check_process()
        _check_waits(owner)
        if not owner.closing.is_closed:
            closing = loop_thread.running().begin(self._client.aclose)
            # Not left to that, as a hook may hold the thread.
            owner.pipeline.admission.close()
            seconds = owner.close_timeout + _CLOSE_GRACE
            if closing.ends_within(seconds):
                closing.result()
            else:
                _log.warning("Not closed within %g s, and not waited for: a hook holds the client's thread.", seconds)
        if owner.closing.is_closed:
            _open.discard(self)

    def __enter__(self) -> Self:
        self._client._owner.pipeline.admission.check_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, stack: TracebackType | None
    ) -> None:
        self.close()


def _close_all() -> None:
    """The process ends: close what this process has opened, all at once, and end the thread."""
    thread = loop_thread.existing()
    clients = [client for client in list(_open) if client._thread is thread]
    _open.clear()
    if thread is None:
        return
    closing = [thread.begin(client._client.aclose) for client in clients]
    seconds = max((client._client._owner.close_timeout for client in clients), default=0.0) + _CLOSE_GRACE
    end = time.monotonic() + seconds
    for each in closing:
        each.ends_within(end - time.monotonic())
    thread.stop()


process.before_drain(_close_all)
