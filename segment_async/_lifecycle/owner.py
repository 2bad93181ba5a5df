"""Which loop works for a client; flush, close, fork, exit.

A client is not bound to a loop when it is made. The first loop that needs it becomes its owner. If the owner is closed,
or is not running while another loop is, that one takes over, with every message that was left. Nothing here blocks, and
nothing here looks at messages.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import partial
from threading import RLock, get_ident
from typing import Any, Final

from segment_async._exceptions import stack_of
from segment_async._http.transport import HTTPTransport, Transport
from segment_async._locks import reentrant_lock
from segment_async._outcome import Statistics
from segment_async._pipeline.auth import Auth
from segment_async._pipeline.clock import LoopClock
from segment_async._pipeline.pipeline import Pipeline

from . import process
from .idle_warning import IdleWarning
from .loop_end import Guard, at_loop_end, end, release
from .waiting import Host, Signal, wait_until

_log = logging.getLogger("segment_async")

# Seconds between two looks of a waiter on another loop at whether the owner still runs. The more waiters there are, the
# less often each one looks: together at most once every `_BETWEEN_LOOKS` seconds.
_WATCH_SECONDS: Final = 0.05
_BETWEEN_LOOKS: Final = 0.002
_LONGEST_WATCH: Final = 5.0
# Seconds between two looks of a wait on the owner itself: an exception may have interrupted what was to wake it.
_OWN_WATCH_SECONDS: Final = 30.0
# Seconds that messages get at the end of a loop that was not preceded by a flush or a close.
_LOOP_END_SECONDS: Final = 1.0
# Seconds after a flush that timed out in which the end of a loop waits for no answer.
_NOT_AGAIN_SECONDS: Final = 10.0
# Seconds that hooks and the transport get after everything is settled.
_GRACE_SECONDS: Final = 0.25
# Seconds of calls of `on_error` for what a close or the exit drops.
_REPORT_SECONDS: Final = 1.0
# Seconds that a spool gets to store what it was given, and to record how messages ended.
_DISK_SECONDS: Final = 2.0
# Seconds that a close waits for another one to finish: more than all of its limits together.
_FINISH_SECONDS: Final = 5.0

# By process. After a fork without hooks several threads of the child may make its first calls at once.
_locks: dict[int, RLock] = {}


class LoopOwner(Host):
    """Finds the loop that works for one client, and closes the client.

    Attributes:
        clock: `clock.loop` is the owner; `None` before the first and between two.
        pipeline: a new one in a forked child.
        is_held: messages were given, so that the client lives until it is closed.
        has_run: a loop has worked for the client in this process.
    """

    pipeline: Pipeline
    clock: LoopClock

    def __init__(
        self,
        make: Callable[[LoopClock, Host], Pipeline],
        transport: Transport,
        auth: Auth,
        close_timeout: float,
    ) -> None:
        # Loaded here and not at the close, where it would block the loop; and at the interpreter's exit not all of it can
        # be loaded any more.
        import anyio.lowlevel  # noqa: F401  # pyright: ignore[reportUnusedImport]

        self._make = make
        self._transport = transport
        self._auth = auth
        self.close_timeout = close_timeout
        # Of loops that have worked for the client and have not ended: connections may be open there, and tasks may still be
        # ending.
        self._guards: dict[asyncio.AbstractEventLoop, Guard] = {}
        self._left: dict[asyncio.AbstractEventLoop, list[asyncio.Task[Any]]] = {}
        self._begin()
        process.remember(self)

    def _begin(self) -> None:
        self._close_began: float | None = None
        self._is_hurried = False
        self._is_finishing = False
        self._is_draining = False
        self._is_closed = False
        self.is_held = False
        self.has_run = False
        self._idle_warning = IdleWarning()
        self._last_look = 0.0
        # When, by the client's clock, the end of a loop may wait for answers again.
        self._waits_from = 0.0
        # Messages that were dropped at the close or at the exit.
        self._lost = 0
        self.clock = LoopClock()
        self.pipeline = self._make(self.clock, self)
        # Last: other threads of a child look at it first.
        self._pid = os.getpid()

    # -- the owner

    def run_here(self) -> bool:
        """Make sure that a running loop works for the client; `True` if it is this one."""
        loop = asyncio.get_running_loop()
        if self.clock.loop is loop:
            # A forked child never runs its parent's loop, so that this needs no look at the process.
            self.clock.thread = get_ident()
            return True
        self.ensure_running()
        return self.clock.loop is loop

    def ensure_running(self) -> float:
        """As `run_here`. Returns the seconds until the next check: soon, if another loop does the work."""
        self.check_process()
        loop = asyncio.get_running_loop()
        with self.pipeline.queue.lock:
            owner = self.clock.loop
            # A client that is finishing needs no loop, and one that is drained no other: the waits for its close would
            # start everything again.
            if owner is loop or self._is_finishing or self._is_draining or self._is_closed:
                return _OWN_WATCH_SECONDS
            if owner is not None and owner.is_running():
                return self._next_look()
            tasks = self._move_to(loop)
        end(tasks)
        return _OWN_WATCH_SECONDS

    def send_now(self) -> None:
        """A delivery is awaited: its batch does not wait for company."""
        self.pipeline.flush_now()

    def _next_look(self) -> float:
        now = time.monotonic()
        self._last_look = max(now + _WATCH_SECONDS, min(self._last_look + _BETWEEN_LOOKS, now + _LONGEST_WATCH))
        return self._last_look - now

    def take_over(self) -> None:
        """The running loop is the owner from now on."""
        with self.pipeline.queue.lock:
            tasks = self._move_to(asyncio.get_running_loop())
        end(tasks)

    def leave(self, loop: asyncio.AbstractEventLoop | None = None) -> list[asyncio.Task[Any]]:
        """No loop works for the client any more, unless another than this one does. Returns the tasks, told to end."""
        with self.pipeline.queue.lock:
            tasks = self.pipeline.detach() if loop is None or self.clock.loop is loop else []
        end(tasks)
        return tasks

    async def _leave_between_steps(self, owner: asyncio.AbstractEventLoop | None) -> None:
        """As `leave`, on the owner's loop if it runs: within a step of it, another thread would settle what it settles.

        A loop that does not answer is blocked, and does nothing for the client.
        """
        if owner is not None and owner.is_running():
            await _ended(self._leave_here(), owner, _GRACE_SECONDS, "event loop")

    async def _leave_here(self) -> None:
        self.leave()

    def _move_to(self, loop: asyncio.AbstractEventLoop) -> list[asyncio.Task[Any]]:
        """Change owners; the lock is held. Returns the tasks of the earlier one, to be ended without the lock: that may run
        code of transports and observers.
        """
        earlier = self.clock.loop
        tasks = self.pipeline.detach()
        if earlier is not None and earlier in self._guards:
            self._left[earlier] = tasks
        self.has_run = True
        self._release_guards(lambda other: other.is_closed())
        if loop not in self._guards:
            self._guards[loop] = at_loop_end(partial(self._loop_ends, loop))
        self.pipeline.attach(loop)
        return [*tasks, *self.pipeline.reports.leave_closed_loops()]

    def _release_guards(self, is_over: Callable[[asyncio.AbstractEventLoop], bool] = lambda _: True) -> None:
        """Nothing is left to clean up on these loops."""
        for loop in filter(is_over, list(self._guards)):
            self._left.pop(loop, None)
            guard = self._guards.pop(loop, None)
            if guard is not None:
                release(guard)

    async def _loop_ends(self, loop: asyncio.AbstractEventLoop) -> None:
        """`asyncio.run` is about to return: leave nothing on its loop, and all messages to the next one."""
        if self._guards.pop(loop, None) is None:
            # Released.
            return
        if self.clock.loop is loop:
            await self._send_before_the_end()
        # Another loop may have taken over in the meantime; only this one can end its tasks and close its connections.
        tasks = self.leave(loop) or self._left.pop(loop, [])
        if tasks:
            await asyncio.wait(tasks)
        await self.pipeline.reports.finish(0.0)
        if isinstance(self._transport, HTTPTransport):
            await self._transport.close_here()
        await self._auth.close_here()

    async def _send_before_the_end(self) -> None:
        """What is in flight or due gets a moment, unless the server is not to be asked now or a flush has just waited for it."""
        pipeline = self.pipeline
        is_due = pipeline.can_send() or (not pipeline.has_pending() and pipeline.reports.has_waiting)
        if self._is_closed or self._is_finishing or not is_due or self.clock.now() < self._waits_from:
            return
        left = await self.flush(min(self.close_timeout, _LOOP_END_SECONDS))
        if left and pipeline.feed is None:
            _log.warning(
                "The event loop ended with %s unsent; kept for the next loop, or dropped at exit. Await "
                "client.flush(timeout=...) or client.aclose() before the loop ends.",
                _messages(left),
            )

    def hold(self) -> None:
        """Messages were given: the client lives until it is closed, and is drained at exit."""
        if not self.is_held:
            self.is_held = True
            process.hold(self)

    def note_waiting(self) -> None:
        """A message was queued, and no loop has ever run for the client: log a warning when it has waited for long."""
        queue = self.pipeline.queue
        text = self._idle_warning.due(time.monotonic(), lambda: self.pipeline.statistics().pending, queue.room.is_full)
        if text is not None:
            _log.warning(text)

    def statistics(self) -> Statistics:
        found = self.pipeline.statistics()
        if self.has_run or not found.pending:
            return found
        # Nothing has looked at the messages yet.
        return replace(found, oldest_age=self._idle_warning.age(time.monotonic()))

    # -- fork

    def check_process(self) -> None:
        """After a fork without hooks (uWSGI's), the first call in the child notices."""
        if self._pid != os.getpid():
            self.start_afresh()

    def start_afresh(self) -> None:
        """In a forked child: what is pending belongs to the parent, and so do its connections."""
        with _lock_of_process():
            if self._pid != os.getpid():
                self._start_afresh()

    def _start_afresh(self) -> None:
        self.pipeline.abandon_after_fork()
        if isinstance(self._transport, HTTPTransport):
            self._transport.abandon()
        self._auth.abandon_after_fork()
        self._begin()
        self._release_guards()

    # -- flush

    async def flush(self, timeout: float | None) -> int:
        """Send what is there, and wait until it is settled or the time is over. Returns how many are left."""
        self.run_here()
        pipeline = self.pipeline
        queue, feed, reports = pipeline.queue, pipeline.feed, pipeline.reports
        clock = asyncio.get_running_loop().time
        end = None if timeout is None else clock() + timeout

        def time_left() -> float | None:
            return None if end is None else end - clock()

        if feed is not None:
            await feed.until_open(self, time_left)
        place = pipeline.flush_now()
        is_reached = await wait_until(lambda: queue.left(place) == 0, lambda: queue.changed, self, time_left, place)
        if is_reached:
            # Not all that wait: what `on_error` tracks may be reported to it again, without end.
            last = reports.next_place()
            await wait_until(
                # Without a limit, not for calls that may never end.
                lambda: (
                    reports.are_made_before(last) or self._makes_no_reports() or (timeout is None and reports.is_busy)
                ),
                lambda: queue.changed,
                self,
                time_left,
            )
            if reports.has_running:
                # Asynchronous calls take their first step.
                await asyncio.sleep(0)
        if feed is not None:
            await feed.until_recorded(self, time_left)
        # The place moves on by what a spool recovers, also once it was reached.
        left = 0 if is_reached else queue.left(place)
        self._waits_from = self.clock.now() + _NOT_AGAIN_SECONDS if left else 0.0
        return left

    # -- close

    async def aclose(self, cancels: int = 0) -> None:
        """`cancels`: how often the caller was cancelled already."""
        import anyio
        import anyio.lowlevel

        cancellation: asyncio.CancelledError | None = None
        # anyio's scopes cancel again at every suspension. Within the shield only native cancellations arrive.
        with anyio.CancelScope(shield=True):
            cancellation = await self._close(cancels)
        if cancellation is not None:
            raise cancellation
        await anyio.lowlevel.checkpoint_if_cancelled()

    async def _close(self, cancels: int) -> asyncio.CancelledError | None:
        self.check_process()
        cancellation = None
        self._begin_close()
        while not self._is_closed:
            try:
                await wait_until(self._is_emptied, self._changed, self, self._time_to_close)
                await self._finish()
            except asyncio.CancelledError as error:
                # The first one lets the close run within its limit, a further one ends it.
                cancellation = error
                cancels += 1
                if cancels > 1:
                    self._is_hurried = True
                    self.pipeline.queue.notify()
        return cancellation

    def _changed(self) -> Signal:
        return self.pipeline.queue.changed

    def _begin_close(self) -> None:
        pipeline = self.pipeline
        pipeline.queue.close()
        if self._close_began is None and not self._is_closed:
            if pipeline.has_pending():
                self.ensure_running()
            self._close_began = self.clock.now()
            pipeline.flush_now()
            pipeline.retry_now()

    def _is_emptied(self) -> bool:
        pipeline = self.pipeline
        is_reported = pipeline.reports.are_made or self._makes_no_reports()
        return self._is_closed or self._is_hurried or (pipeline.statistics().pending == 0 and is_reported)

    def _makes_no_reports(self) -> bool:
        """No loop makes them any more. Otherwise one that waits for them takes the client over."""
        return self.pipeline.reports.are_stopped and (self._is_finishing or self._is_draining or self._is_closed)

    def _time_to_close(self) -> float | None:
        if self._is_hurried or self._close_began is None:
            return 0.0
        return self._close_began + self.close_timeout - self.clock.now()

    async def _finish(self) -> None:
        if self._is_finishing:
            clock = asyncio.get_running_loop().time
            end = clock() + _FINISH_SECONDS
            if await wait_until(lambda: self._is_closed, self._changed, self, lambda: end - clock()):
                return
            # The loop that finishes it stands still or is closed.
        self._is_finishing = True
        owner = self.clock.loop
        try:
            try:
                await self._leave_rest(owner)
                await self.pipeline.reports.finish(_GRACE_SECONDS)
            finally:
                # Cancelled while it waits for hooks as well.
                await self._close_parts(owner)
        finally:
            self._is_closed = True
            self._release_guards()
            process.forget(self)
            self.pipeline.queue.notify()
            # Last, as a handler of `logging` may raise.
            self.pipeline.reports.skip_rest()

    async def _leave_rest(self, owner: asyncio.AbstractEventLoop | None) -> None:
        seconds = self.clock.now() - (self._close_began or 0.0)
        dropped = await self._drop_or_keep("close_timeout", owner)
        kept = self.pipeline.statistics().pending
        error = self.pipeline.outage.error
        if dropped:
            _log.warning(
                "Closed with %s unsent after %.1f s (close_timeout=%g); dropped.%s",
                _messages(dropped),
                seconds,
                self.close_timeout,
                f" Last error: {error}." if error else "",
            )
        if kept:
            _log.warning("Closed with %s unsent; kept in the spool for the next process.", _messages(kept))

    async def _drop_or_keep(self, reason: str, owner: asyncio.AbstractEventLoop | None) -> int:
        """Give up what is pending; with a spool, keep it. Returns how many were dropped."""
        feed = self.pipeline.feed
        try:
            if feed is not None and self.pipeline.has_pending():
                # A message is called kept only once the disk has it.
                await _ended(feed.until_stored(self, lambda: _DISK_SECONDS), owner, _DISK_SECONDS, "spool")
            if owner is not asyncio.get_running_loop():
                await self._leave_between_steps(owner)
        finally:
            # Cancelled while it waits for the disk as well: every message gets its outcome.
            self.leave()
            dropped = self.pipeline.drop_all(reason)
            # First, as a hook may end the program.
            self._lost += dropped
            self.pipeline.reports.make(_REPORT_SECONDS)
        return dropped

    async def _close_parts(self, owner: asyncio.AbstractEventLoop | None) -> None:
        feed = self.pipeline.feed
        try:
            await _ended(self._close_connections(), owner, _GRACE_SECONDS, "transport")
        finally:
            if feed is not None and not await _ended(feed.aclose(), owner, _DISK_SECONDS, "spool"):
                _log.warning("The spool's disk is slow: what it has not taken yet may be sent again, or be lost.")

    async def _close_connections(self) -> None:
        await self._transport.aclose()
        await self._auth.aclose()

    # -- exit

    def refuse_calls(self) -> None:
        """The process ends: later calls raise `ClientClosed`."""
        self.pipeline.queue.close("the client is closed: the program is ending, and nothing would send this message")

    def has_pending(self) -> bool:
        return self.pipeline.has_pending() or self.pipeline.reports.has_waiting

    def release(self) -> None:
        """At the interpreter's exit, with nothing to send: let go of what is left on a loop that has ended."""
        loop = self.clock.loop
        if loop is None or loop.is_running():
            return
        self.leave()
        self._release_guards()
        self._abandon_connections()

    def _abandon_connections(self) -> None:
        if isinstance(self._transport, HTTPTransport):
            self._transport.abandon()
        self._auth.abandon()

    async def drain_at_exit(self, seconds: float) -> None:
        """The last chance: send what is left on the running loop, whichever owned the client before."""
        self._is_draining = True
        await self._leave_between_steps(self.clock.loop)
        self.pipeline.unwind()
        self.take_over()
        # All that the end of this loop would do is done here.
        self._release_guards()
        try:
            left = await self.flush(seconds)
        except asyncio.CancelledError:
            # Ctrl+C: no more is sent, but what is left gets its outcome.
            left = self.pipeline.statistics().pending
        if left:
            await self._drop_or_keep("exit", None)
        self.leave()
        await self.pipeline.reports.finish(_GRACE_SECONDS)
        self.pipeline.reports.skip_rest()
        await self._close_parts(None)

    def left_at_exit(self) -> tuple[int, int]:
        """How many messages were dropped, and how many remain in a spool; an interrupted drain's are dropped now."""
        pending = self.pipeline.statistics().pending
        if pending:
            dropped = self.pipeline.drop_all("exit")
            # What another thread's loop was moving when it lost the client may be in no batch: it is lost all the same.
            self._lost += pending if self.pipeline.feed is None else dropped
            self._abandon_connections()
        return self._lost, self.pipeline.statistics().pending


def _lock_of_process() -> RLock:
    """A lock of this process's own: in a child, the parent's may be held by a thread that is not there."""
    return _locks.setdefault(os.getpid(), reentrant_lock())


def _messages(count: int) -> str:
    return "1 message" if count == 1 else f"{count:,} messages"


async def _ended(
    closing: Coroutine[Any, Any, None], owner: asyncio.AbstractEventLoop | None, seconds: float, what: str
) -> bool:
    """Run it where it belongs, if that loop runs, and wait for its end; whether it came in time."""
    loop = asyncio.get_running_loop()
    task: asyncio.Future[None]
    if owner is None or owner is loop or not owner.is_running():
        task = loop.create_task(closing)
    else:
        task = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(closing, owner))
    await asyncio.wait((task,), timeout=seconds)
    if not task.done():
        task.cancel()
        return False
    if not task.cancelled() and (fault := task.exception()) is not None:
        _log.warning("The %s raised when it was closed.\n%s", what, stack_of(fault))
    return True
