"""How a client ends: a close within its limit, or the drain at the interpreter's exit.

Both send what is left for as long as there is time, give every message its outcome, make the reports of that, and close
what the client used. Which loop does it is the owner's to say.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from segment_async._exceptions import stack_of

from . import process
from .connections import Connections
from .waiting import Signal, wait_until

if TYPE_CHECKING:
    from .owner import LoopOwner

_log = logging.getLogger("segment_async")

# Seconds that the transport gets after everything is settled, and hooks of a close that was cancelled twice.
_GRACE_SECONDS: Final = 0.25
# Seconds of calls of `on_error` for what a close or the exit drops, and until asynchronous ones have ended.
_REPORT_SECONDS: Final = 1.0
# Seconds that a spool gets to store what it was given, and to record how messages ended.
_DISK_SECONDS: Final = 2.0
# Seconds that a close waits for another one to finish: more than its limits, but for a disk that does not answer at all.
_FINISH_SECONDS: Final = 5.0


class Cancels:
    """Counts the cancellations of a close: after the first one it still runs within its limits; a second one ends it."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.last: asyncio.CancelledError | None = None

    def note(self, error: asyncio.CancelledError) -> bool:
        """Returns whether the close goes on."""
        self.last = error
        self._count += 1
        return self._count == 1


class Closing:
    """The end of one client in this process; a forked child has another.

    Attributes:
        is_closed: it is over.
    """

    def __init__(self, owner: LoopOwner, connections: Connections) -> None:
        self._owner = owner
        self._connections = connections
        # By the client's clock.
        self._began: float | None = None
        self._is_hurried = False
        # By the running loop's clock, when calls of `on_error` are to have ended.
        self._reports_end: float | None = None
        self._is_finishing = False
        self._is_draining = False
        self.is_closed = False
        # Messages that were dropped at the close or at the exit.
        self._lost = 0

    @property
    def needs_no_loop(self) -> bool:
        """A client that is finishing needs no loop, and one that is drained no other: the waits for its close would
        start everything again.
        """
        return self._is_finishing or self._is_draining or self.is_closed

    def makes_no_reports(self) -> bool:
        """No loop makes them any more. Otherwise one that waits for them takes the client over."""
        return self.needs_no_loop and self._owner.pipeline.reports.are_stopped

    # -- close

    async def aclose(self, cancels: int = 0) -> None:
        """`cancels`: how often the caller was cancelled already."""
        import anyio
        import anyio.lowlevel

        met = Cancels(cancels)
        # anyio's scopes cancel again at every suspension. Within the shield only native cancellations arrive.
        with anyio.CancelScope(shield=True):
            await self._close(met)
        if met.last is not None:
            raise met.last
        await anyio.lowlevel.checkpoint_if_cancelled()

    async def _close(self, cancels: Cancels) -> None:
        self._begin()
        while not self.is_closed:
            try:
                await wait_until(self._is_emptied, self._changed, self._owner, self._time_left)
                await self._finish(cancels)
            except asyncio.CancelledError as error:
                if not cancels.note(error):
                    self._is_hurried = True
                    self._owner.pipeline.queue.notify()

    def _begin(self) -> None:
        pipeline = self._owner.pipeline
        pipeline.admission.close()
        if self._began is None and not self.is_closed:
            if self._owner.has_pending():
                self._owner.ensure_running()
            self._began = self._owner.clock.now()
            pipeline.flush_now()
            pipeline.retry_now()

    def _changed(self) -> Signal:
        return self._owner.pipeline.queue.changed

    def _is_emptied(self) -> bool:
        pipeline = self._owner.pipeline
        is_reported = pipeline.reports.are_made or self.makes_no_reports()
        return self.is_closed or self._is_hurried or (pipeline.pending == 0 and is_reported)

    def _time_left(self) -> float | None:
        if self._is_hurried or self._began is None:
            return 0.0
        return self._began + self._owner.close_timeout - self._owner.clock.now()

    async def _finish(self, cancels: Cancels) -> None:
        if self._is_finishing:
            clock = asyncio.get_running_loop().time
            end = clock() + _FINISH_SECONDS
            if await wait_until(lambda: self.is_closed, self._changed, self._owner, lambda: end - clock()):
                return
            # The loop that finishes it stands still or is closed.
        self._is_finishing = True
        pipeline, loop = self._owner.pipeline, self._owner.clock.loop
        try:
            try:
                await self._leave_rest(loop, cancels)
                await self._finish_reports(cancels)
            finally:
                # Also if a second cancellation has ended the wait for hooks.
                await self._close_parts(loop, cancels)
        finally:
            self.is_closed = True
            self._owner.guards.release()
            process.forget(self._owner)
            pipeline.queue.notify()
            # Last, as a handler of `logging` may raise.
            pipeline.reports.skip_rest()

    async def _leave_rest(self, loop: asyncio.AbstractEventLoop | None, cancels: Cancels) -> None:
        seconds = self._owner.clock.now() - (self._began or 0.0)
        dropped = await self._drop_or_keep("close_timeout", loop, cancels)
        kept = self._owner.pipeline.pending
        error = self._owner.pipeline.outage.error
        if dropped:
            _log.warning(
                "Closed with %s unsent after %.1f s (close_timeout=%g); dropped.%s",
                messages(dropped),
                seconds,
                self._owner.close_timeout,
                f" Last error: {error}." if error else "",
            )
        if kept:
            _log.warning("Closed with %s unsent; kept in the spool for the next process.", messages(kept))

    # -- exit

    async def drain_at_exit(self, seconds: float) -> None:
        """Send what is left on the running loop, whichever loop worked for the client before."""
        owner, pipeline = self._owner, self._owner.pipeline
        # The first cancellation, such as Ctrl+C's, ends a wait at once.
        cancels = Cancels(1)
        self._is_draining = True
        await self._leave_between_steps(owner.clock.loop, cancels)
        pipeline.unwind()
        owner.take_over()
        # All that the end of this loop would do is done here.
        owner.guards.release()
        try:
            left = await owner.flush(seconds)
        except asyncio.CancelledError:
            # Ctrl+C: no more is sent, but what is left gets its outcome.
            left = pipeline.pending
        if left:
            await self._drop_or_keep("exit", None, cancels)
        owner.leave()
        await self._finish_reports(cancels)
        pipeline.reports.skip_rest()
        await self._close_parts(None, cancels)

    def left_at_exit(self) -> tuple[int, int]:
        """How many messages were dropped, and how many remain in a spool; an interrupted drain's are dropped now."""
        pipeline = self._owner.pipeline
        pending = pipeline.pending
        if pending:
            dropped = pipeline.drop_all("exit")
            # What another thread's loop was moving when it lost the client may be in no batch: it is lost all the same.
            self._lost += pending if pipeline.feed is None else dropped
            self._connections.abandon()
        return self._lost, pipeline.pending

    # -- what both do; `loop`: the one that worked for the client

    async def _drop_or_keep(self, reason: str, loop: asyncio.AbstractEventLoop | None, cancels: Cancels) -> int:
        """Give up what is pending; with a spool, keep it. Returns how many were dropped."""
        owner, pipeline = self._owner, self._owner.pipeline
        feed = pipeline.feed
        try:
            if feed is not None and pipeline.has_pending():
                # A message is called kept only once the disk has it.
                await _ended(feed.until_stored(owner, lambda: _DISK_SECONDS), loop, _DISK_SECONDS, "spool", cancels)
            if loop is not asyncio.get_running_loop():
                await self._leave_between_steps(loop, cancels)
        finally:
            # Also if a second cancellation has ended the wait for the disk: every message gets its outcome.
            owner.leave()
            dropped = pipeline.drop_all(reason)
            # First, as a hook may end the program.
            self._lost += dropped
            self._reports_end = asyncio.get_running_loop().time() + _REPORT_SECONDS
            pipeline.reports.make(_REPORT_SECONDS)
        return dropped

    async def _finish_reports(self, cancels: Cancels) -> None:
        """Give asynchronous calls of `on_error` what is left of their time."""
        seconds = _REPORT_SECONDS
        if self._reports_end is not None:
            seconds = self._reports_end - asyncio.get_running_loop().time()
        seconds = _GRACE_SECONDS if self._is_hurried else max(_GRACE_SECONDS, seconds)
        await self._owner.pipeline.reports.finish(seconds, cancels.note)

    async def _leave_between_steps(self, loop: asyncio.AbstractEventLoop | None, cancels: Cancels) -> None:
        """As `LoopOwner.leave`, on that loop if it runs: amid a step of it, another thread would settle what it settles.

        A loop that does not answer is blocked, and does nothing for the client.
        """
        if loop is not None and loop.is_running():
            await _ended(self._leave_here(), loop, _GRACE_SECONDS, "event loop", cancels)

    async def _leave_here(self) -> None:
        self._owner.leave()

    async def _close_parts(self, loop: asyncio.AbstractEventLoop | None, cancels: Cancels) -> None:
        feed = self._owner.pipeline.feed
        try:
            await _ended(self._connections.aclose(), loop, _GRACE_SECONDS, "transport", cancels)
        finally:
            if feed is not None and not await _ended(feed.aclose(), loop, _DISK_SECONDS, "spool", cancels):
                _log.warning("The spool's disk is slow: what it has not taken yet may be sent again, or be lost.")


def messages(count: int) -> str:
    return "1 message" if count == 1 else f"{count:,} messages"


async def _ended(
    work: Coroutine[Any, Any, None],
    loop: asyncio.AbstractEventLoop | None,
    seconds: float,
    what: str,
    cancels: Cancels,
) -> bool:
    """Run it where it belongs, if that loop runs, and wait for its end; whether it came in time."""
    here = asyncio.get_running_loop()
    task: asyncio.Future[None] | None = None
    if loop is not None and loop is not here and loop.is_running():
        # It may have ended since.
        with suppress(RuntimeError):
            task = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, loop))
    if task is None:
        task = here.create_task(work)
    end = here.time() + seconds
    try:
        await asyncio.wait((task,), timeout=seconds)
    except asyncio.CancelledError as error:
        if not cancels.note(error):
            raise
        await asyncio.wait((task,), timeout=max(0.0, end - here.time()))
    if not task.done():
        task.cancel()
        return False
    if not task.cancelled() and (fault := task.exception()) is not None:
        _log.warning("The %s raised when it was closed.\n%s", what, stack_of(fault))
    return True
