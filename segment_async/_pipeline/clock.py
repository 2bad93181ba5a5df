"""The client's monotonic clock: it goes on evenly while the client moves from loop to loop."""

from __future__ import annotations

import asyncio
from threading import get_ident


class LoopClock:
    """Attributes:
    loop: the loop that works for the client; `None` before the first and between two.
    thread: the one that the loop ran in when it was last seen.
    """

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self.thread = 0
        self._offset = 0.0

    def now(self) -> float:
        """Seconds since some moment. It stands still while there is no loop."""
        loop = self.loop
        return self._offset if loop is None else loop.time() + self._offset

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        now = self.now()
        self.loop, self.thread, self._offset = loop, get_ident(), now - loop.time()

    def detach(self) -> None:
        now = self.now()
        self.loop, self._offset = None, now
