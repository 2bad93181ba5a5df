"""What a client does at the end of each loop that has worked for it.

`asyncio.run` is about to return then: messages get a moment to be sent, and nothing stays on the loop. This file does
not choose which loop works for the client.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from .closing import messages
from .connections import Connections
from .loop_end import Guard, at_loop_end, release

if TYPE_CHECKING:
    from .owner import LoopOwner

_log = logging.getLogger("segment_async")

# Seconds that messages get at the end of a loop that was not preceded by a flush or a close.
_LOOP_END_SECONDS: Final = 1.0
# Seconds after a flush that timed out in which the end of a loop waits for no answer.
_NOT_AGAIN_SECONDS: Final = 10.0


class LoopGuards:
    """The loops that have worked for one client and have not ended: connections may be open there, and tasks may still be
    ending.
    """

    def __init__(self, owner: LoopOwner, connections: Connections) -> None:
        self._owner = owner
        self._connections = connections
        self._guards: dict[asyncio.AbstractEventLoop, Guard] = {}
        self._left: dict[asyncio.AbstractEventLoop, list[asyncio.Task[Any]]] = {}
        # When, by the client's clock, the end of a loop may wait for answers again.
        self._waits_from = 0.0

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Clean up when this loop, the running one, ends."""
        if loop not in self._guards:
            self._guards[loop] = at_loop_end(partial(self._loop_ends, loop))

    def note_left(self, loop: asyncio.AbstractEventLoop, tasks: list[asyncio.Task[Any]]) -> None:
        """Another loop takes over; these tasks of this one are told to end, which its end waits for."""
        if loop in self._guards:
            # It may have worked for the client before.
            self._left[loop] = [task for task in self._left.get(loop, ()) if not task.done()] + tasks

    def note_flush(self, left: int) -> None:
        """A flush has ended, with so many messages left."""
        self._waits_from = self._owner.clock.now() + _NOT_AGAIN_SECONDS if left else 0.0

    def release(self, is_over: Callable[[asyncio.AbstractEventLoop], bool] = lambda _: True) -> None:
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
        owner = self._owner
        if owner.clock.loop is loop:
            await self._send_before_the_end()
        # Another loop may have taken over in the meantime; only this one can end its tasks and close its connections.
        tasks = owner.leave(loop) + self._left.pop(loop, [])
        if tasks:
            await asyncio.wait(tasks)
        await owner.pipeline.reports.finish(0.0)
        await self._connections.close_here()

    async def _send_before_the_end(self) -> None:
        """What is in flight or due gets a moment, unless the server is not to be asked now or a flush has just waited for it."""
        owner, pipeline = self._owner, self._owner.pipeline
        is_due = pipeline.can_send() or (not pipeline.has_pending() and pipeline.reports.has_waiting)
        if owner.closing.needs_no_loop or not is_due or owner.clock.now() < self._waits_from:
            return
        left = await owner.flush(min(owner.close_timeout, _LOOP_END_SECONDS))
        if left and pipeline.feed is None:
            _log.warning(
                "The event loop ended with %s unsent; kept for the next loop, or dropped at exit. Await "
                "client.flush(timeout=...) or client.aclose() before the loop ends.",
                messages(left),
            )
