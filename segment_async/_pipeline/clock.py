"""The client's monotonic clock: it goes on evenly while the client moves from loop to loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from threading import get_ident


class LoopClock:
    """Attributes:
    loop: the loop that works for the client; `None` before the first and between two.
    thread: the one that the loop ran in when it was last seen.
    monotonic: seconds since some moment; measures the time between two loops.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self.thread = 0
        self.monotonic = monotonic
        # What measures, and what to add to it: one value, because other threads read it without a lock.
        self._source: tuple[Callable[[], float], float] = (lambda: 0.0, 0.0)

    def now(self) -> float:
        """Seconds since the first loop began to work for the client; 0 before that."""
        measure, offset = self._source
        return measure() + offset

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        self._go_on_with(loop.time)
        self.loop, self.thread = loop, get_ident()

    def detach(self) -> None:
        if self.loop is not None:
            self._go_on_with(self.monotonic)
            self.loop = None

    def _go_on_with(self, measure: Callable[[], float]) -> None:
        self._source = measure, self.now() - measure()
