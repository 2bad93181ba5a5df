"""The life of a client: which loop works for it, flush, close, fork, exit.

A client belongs to no loop by birth. The first loop that needs it becomes its owner; when the owner is closed, or
stands still while another loop runs, that one takes over, with every message that was left. Nothing here blocks, and
nothing here looks at messages.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Coroutine
from threading import get_ident
from typing import Any, Final

from segment_async._http.transport import HTTPTransport, Transport
from segment_async._message.ids import reseed
from segment_async._pipeline.auth import Auth
from segment_async._pipeline.consumer import Sender
from segment_async._pipeline.delivery import until
from segment_async._pipeline.queue import Queue
from segment_async._pipeline.reports import Reports, stack_of
from segment_async._pipeline.spool_feed import Spooling

from . import process as _exit

_log = logging.getLogger("segment_async")

# Seconds between two looks of a foreign loop at whether the owner still runs; of thousands that wait there, each looks
# less often, so that all together look no more than so often.
_WATCH_SECONDS: Final = 0.05
_BETWEEN_LOOKS: Final = 0.002
_LONGEST_WATCH: Final = 5.0
# Seconds that hooks and the transport get after everything is settled.
_GRACE_SECONDS: Final = 0.25
# What a spool's disk gets to write down how messages ended, and those that were handed over just now.
_DISK_SECONDS: Final = 2.0

Parts = tuple[Queue, Reports, Sender, Spooling | None]


class Life:
    """Owner, flush and close of one client.

    Attributes:
        queue, reports, sender: the parts that hold messages; made anew in a forked child.
    """

    queue: Queue
    reports: Reports
    sender: Sender
    spooling: Spooling | None

    def __init__(self, wire: Callable[[Life], Parts], transport: Transport, auth: Auth, close_timeout: float) -> None:
        # Loaded here and not at the close, for which the loop would stand still; and where the interpreter ends already,
        # not all of it can be loaded any more.
        import anyio.lowlevel  # noqa: F401

        self._wire = wire
        self._transport = transport
        self._auth = auth
        self._close_timeout = close_timeout
        self._make_parts()
        _exit.remember(self)

    def _make_parts(self) -> None:
        self._pid = os.getpid()
        # It may have been forked since the package was imported.
        reseed()
        self._close_by: float | None = None
        self._hurried = False
        self._finishing = False
        self._closed = False
        self.is_held = False
        self._last_look = 0.0
        self.queue, self.reports, self.sender, self.spooling = self._wire(self)
        self.reports.after = self.sender.settled.notify

    # -- the owner

    def serve_here(self) -> bool:
        """See to it that some running loop works for the client; `True` if it is this one."""
        loop = asyncio.get_running_loop()
        if self.sender.loop is loop:
            # A forked child never runs its parent's loop, so that this needs no look at the process.
            self.sender.thread = get_ident()
            return True
        self.ensure_served()
        return self.sender.loop is loop

    def ensure_served(self) -> float | None:
        """As `serve_here`; where another loop does the work, seconds until that is to be looked at again."""
        self.check_process()
        loop = asyncio.get_running_loop()
        with self.queue.lock:
            owner = self.sender.loop
            # Once it is finishing, there is nothing to work for: whoever waits for the close would start all anew.
            if owner is loop or self._finishing or self._closed:
                return None
            if owner is not None and owner.is_running():
                return self._next_look()
            self.take_over()
            return None

    def _next_look(self) -> float:
        now = time.monotonic()
        self._last_look = max(now + _WATCH_SECONDS, min(self._last_look + _BETWEEN_LOOKS, now + _LONGEST_WATCH))
        return self._last_look - now

    def take_over(self) -> None:
        """The running loop is the owner from now on."""
        loop = asyncio.get_running_loop()
        with self.queue.lock:
            self.sender.attach(loop)
        self.reports.resume(loop)

    def check_process(self) -> None:
        """After a fork without hooks (uWSGI's), the first call in the child notices."""
        if self._pid != os.getpid():
            self.start_afresh()

    def start_afresh(self) -> None:
        """In a forked child: what is pending belongs to the parent, and so do its connections."""
        if self._pid == os.getpid():
            return
        self.sender.disown()
        self.reports.disown()
        if self.spooling is not None:
            self.spooling.disown()
        if isinstance(self._transport, HTTPTransport):
            self._transport.abandon()
        self._make_parts()

    def hold(self) -> None:
        """Messages were given: the client lives until it is closed, and is drained at exit."""
        if not self.is_held:
            self.is_held = True
            _exit.hold(self)

    # -- flush

    async def flush(self, timeout: float | None) -> int:
        self.serve_here()
        sender = self.sender
        clock = asyncio.get_running_loop().time
        end = None if timeout is None else clock() + timeout

        def time_left() -> float | None:
            return None if end is None else end - clock()

        if self.spooling is not None:
            await self.spooling.until_open(self, time_left)
        place = sender.flush_now()
        await until(lambda: sender.left(place) == 0 and self.reports.are_made, lambda: sender.settled, self, time_left)
        if self.spooling is not None:
            await self.spooling.until_recorded(self, time_left)
        return sender.left(place)

    # -- close

    async def aclose(self, cancels: int = 0) -> None:
        """`cancels`: how often whoever closes was cancelled already."""
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
        while not self._closed:
            try:
                await until(self._is_emptied, lambda: self.sender.settled, self, self._time_to_close)
                await self._finish()
            except asyncio.CancelledError as error:
                # The first one lets the close run within its limit, a further one ends it.
                cancellation = error
                cancels += 1
                if cancels > 1:
                    self._hurried = True
                    self.sender.settled.notify()
        return cancellation

    def _begin_close(self) -> None:
        with self.queue.lock:
            self.queue.close()
            if self._close_by is None and not self._closed:
                if self.has_pending():
                    self.ensure_served()
                self._close_by = self.sender.now() + self._close_timeout
                self.sender.flush_now()
                self.sender.hurry()

    def has_pending(self) -> bool:
        """Something to send, or to write down."""
        return self.queue.statistics().pending > 0 or not (self.spooling is None or self.spooling.is_recorded)

    def _is_emptied(self) -> bool:
        return self._closed or (self.queue.statistics().pending == 0 and self.reports.are_made)

    def _time_to_close(self) -> float | None:
        if self._hurried or self._close_by is None:
            return 0.0
        return self._close_by - self.sender.now()

    async def _finish(self) -> None:
        if self._finishing:
            await until(lambda: self._closed, lambda: self.sender.settled, self)
            return
        self._finishing = True
        owner = self.sender.loop
        try:
            await self._leave_rest(owner)
            await self.reports.finish(_GRACE_SECONDS)
            await self._close_parts(owner)
        finally:
            self._closed = True
            _exit.forget(self)
            self.sender.settled.notify()

    async def _leave_rest(self, owner: asyncio.AbstractEventLoop | None) -> None:
        dropped = await self._drop_or_keep("close_timeout", owner)
        if dropped:
            _log.warning(
                "Closed with %d messages unsent after %g s (close_timeout); they are dropped.",
                dropped,
                self._close_timeout,
            )
        elif kept := self.queue.statistics().pending:
            _log.warning("Closed with %d messages unsent; they are kept in the spool.", kept)

    async def _drop_or_keep(self, reason: str, owner: asyncio.AbstractEventLoop | None) -> int:
        """Give what is pending up; with a spool, keep it. Gives how many are dropped."""
        if self.spooling is not None and self.has_pending():
            # Nobody is told that a message is kept before the disk has taken it.
            await _ended(self.spooling.until_written(), owner, _DISK_SECONDS, "spool")
        dropped = self.sender.drop_all(reason)
        self.reports.make()
        return dropped

    async def _close_parts(self, owner: asyncio.AbstractEventLoop | None) -> None:
        await _ended(self._close_connections(), owner, _GRACE_SECONDS, "transport")
        if self.spooling is not None and not await _ended(self.spooling.aclose(), owner, _DISK_SECONDS, "spool"):
            _log.warning("The spool's disk is slow: what it has not taken yet may be sent again, or be lost.")

    async def _close_connections(self) -> None:
        await self._transport.aclose()
        await self._auth.aclose()

    # -- exit

    def let_go(self) -> None:
        """At the interpreter's end, with nothing to send: what is left on a loop that is over is nobody's fault."""
        loop = self.sender.loop
        if loop is None or loop.is_running():
            return
        self.sender.detach()
        if isinstance(self._transport, HTTPTransport):
            self._transport.abandon()

    async def drain_at_exit(self, seconds: float) -> tuple[int, int]:
        """The last chance: send what is left on the running loop, whoever owned the client before.

        Gives how many remained and are dropped, and how many remain in a spool.
        """
        self.sender.unwind()
        self.take_over()
        dropped = 0
        if await self.flush(seconds):
            dropped = await self._drop_or_keep("exit", None)
        await self.reports.finish(_GRACE_SECONDS)
        self.sender.detach()
        await self._close_parts(None)
        return dropped, self.queue.statistics().pending


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
