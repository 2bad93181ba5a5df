"""Which loop works for a client; flush and fork.

A client is not bound to a loop when it is made. The first loop that needs it becomes its owner. If the owner is closed,
or is not running while another loop is, that one takes over, with every message that was left. Nothing here blocks, and
nothing here looks at messages. How the client ends is in `closing`, and what it does at the end of a loop is in
`loop_guards`.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
from collections.abc import Callable
from dataclasses import replace
from threading import RLock, get_ident
from typing import Any, Final

from segment_async._http.transport import Transport
from segment_async._locks import reentrant_lock
from segment_async._outcome import Statistics
from segment_async._pipeline.auth import Auth
from segment_async._pipeline.clock import LoopClock
from segment_async._pipeline.pipeline import Pipeline

from . import process
from .closing import Closing
from .connections import Connections
from .idle_warning import IdleWarning
from .loop_end import end
from .loop_guards import LoopGuards
from .waiting import Host, wait_until

_log = logging.getLogger("segment_async")

# Seconds between two looks of a waiter on another loop at whether the owner still runs. The more waiters there are, the
# less often each one looks: together at most once every `_BETWEEN_LOOKS` seconds.
_WATCH_SECONDS: Final = 0.05
_BETWEEN_LOOKS: Final = 0.002
_LONGEST_WATCH: Final = 5.0
# Seconds between two looks of a wait on the owner itself: an exception may have interrupted what was to wake it.
_OWN_WATCH_SECONDS: Final = 30.0

# By process. After a fork without hooks several threads of the child may make its first calls at once.
_locks: dict[int, RLock] = {}


class LoopOwner(Host):
    """Finds the loop that works for one client.

    Attributes:
        closing, guards: of this process; new ones in a forked child, as is the pipeline.
        clock: `clock.loop` is the owner; `None` before the first and between two.
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
        self._connections = Connections(transport, auth)
        self.close_timeout = close_timeout
        self._begin()
        process.remember(self)

    def _begin(self) -> None:
        self.is_held = False
        self.has_run = False
        self._idle_warning = IdleWarning()
        self._last_look = 0.0
        self.guards = LoopGuards(self, self._connections)
        self.closing = Closing(self, self._connections)
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
            if owner is loop or self.closing.needs_no_loop:
                return _OWN_WATCH_SECONDS
            if owner is not None and owner.is_running():
                return self._next_look()
            tasks = self._move_to(loop)
        end(tasks)
        return _OWN_WATCH_SECONDS

    def send_now(self) -> None:
        """A delivery is awaited: its batch does not wait for more messages."""
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

    def _move_to(self, loop: asyncio.AbstractEventLoop) -> list[asyncio.Task[Any]]:
        """Change owners; the lock is held. Returns the tasks of the earlier one, to be ended without the lock: that may run
        code of transports and observers.
        """
        earlier = self.clock.loop
        tasks = self.pipeline.detach()
        if earlier is not None:
            self.guards.note_left(earlier, tasks)
        self.has_run = True
        self.guards.release(lambda other: other.is_closed())
        self.guards.watch(loop)
        # First: what had not begun there is made here.
        tasks += self.pipeline.reports.calls.leave_closed_loops()
        self.pipeline.attach(loop)
        return tasks

    def hold(self) -> None:
        """Messages were given: the client lives until it is closed, and is drained at exit."""
        if not self.is_held and not self.closing.is_closed:
            self.is_held = True
            process.hold(self)

    def note_waiting(self) -> None:
        """A message was queued, and no loop has ever run for the client: log a warning when it has waited for long."""
        queue = self.pipeline.queue
        text = self._idle_warning.due(time.monotonic(), lambda: self.pipeline.pending, queue.room.is_full)
        if text is not None:
            _log.warning(text)

    def statistics(self) -> Statistics:
        self.check_process()
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
        self._connections.abandon_after_fork()
        guards = self.guards
        self._begin()
        guards.release()

    # -- flush

    async def flush(self, timeout: float | None) -> int:
        """Send what is there, and wait until it is settled or the time is over. Returns how many are left."""
        if timeout == math.inf:
            timeout = None
        self.run_here()
        pipeline = self.pipeline
        queue, order, feed, reports = pipeline.queue, pipeline.queue.order, pipeline.feed, pipeline.reports
        clock = asyncio.get_running_loop().time
        end = None if timeout is None else clock() + timeout

        def time_left() -> float | None:
            return None if end is None else end - clock()

        put_count = order.put_count
        # With a spool: what is in memory may have to go before more is read.
        place = pipeline.flush_now()
        if feed is not None:
            await feed.until_open(self, time_left)
            if await wait_until(lambda: order.are_stored(put_count), lambda: queue.changed, self, time_left):
                place = order.stored_place()
                pipeline.flush_now()
        is_reached = await wait_until(lambda: order.left(place) == 0, lambda: queue.changed, self, time_left, place)
        if is_reached:
            # Not all that wait: what `on_error` tracks may be reported to it again, without end.
            last = reports.next_place()
            await wait_until(
                # Without a limit, not for calls that may never end.
                lambda: (
                    reports.are_made_before(last)
                    or self.closing.makes_no_reports()
                    or (timeout is None and reports.calls.is_busy)
                ),
                lambda: queue.changed,
                self,
                time_left,
            )
            if reports.calls.are_there:
                # Asynchronous calls take their first step.
                await asyncio.sleep(0)
        if feed is not None:
            await feed.recorder.until_recorded(self, time_left)
        # The place moves on by what a spool recovers, also once it was reached. Some may have ended without a place.
        left = 0 if is_reached else min(order.left(place), pipeline.pending)
        self.guards.note_flush(left)
        return left

    # -- the end: a close, or the exit

    async def aclose(self, cancels: int = 0) -> None:
        """`cancels`: how often the caller was cancelled already."""
        self.check_process()
        await self.closing.aclose(cancels)

    def refuse_calls(self) -> None:
        """The process ends: later calls raise `ClientClosed`."""
        self.pipeline.admission.close(
            "the client is closed: the program is ending, and nothing would send this message"
        )

    def has_pending(self) -> bool:
        return self.pipeline.has_pending() or self.pipeline.reports.has_waiting

    def release(self) -> None:
        """At the interpreter's exit, with nothing to send: let go of what is left on a loop that has ended."""
        loop = self.clock.loop
        if loop is None or loop.is_running():
            return
        self.leave()
        self.guards.release()
        self._connections.abandon()


def _lock_of_process() -> RLock:
    """A lock of this process's own: in a child, the parent's may be held by a thread that is not there."""
    return _locks.setdefault(os.getpid(), reentrant_lock())
