"""The time limit of a request. Knows the event loop and nothing of HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


class Deadline:
    """A time limit that does not count the time in which the event loop was blocked.

    Raises `TimeoutError` from its block. When the limit is found to be overdue because the loop stood still (a blocking
    call, a suspended machine), the block gets up to as much time again, so that data which arrived meanwhile is read
    before the block is cancelled.

    Assign it to a name unless its block is in the task's own first frame, because it holds a reference to the task:
    Python 3.11 crashes if both are garbage and the task is collected while one of its inner frames is being closed.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._scope = asyncio.timeout(None)

    # Neither is a coroutine function; each returns the awaitable of `asyncio.timeout`: two coroutines less per request.

    def __aenter__(self) -> Coroutine[Any, Any, object]:
        self._arm(self._seconds)
        return self._scope.__aenter__()

    def __aexit__(self, *exc_info: Any) -> Coroutine[Any, Any, bool | None]:
        self._timer.cancel()
        return self._scope.__aexit__(*exc_info)

    def _arm(self, seconds: float) -> None:
        self._due = self._loop.time() + seconds
        self._timer = self._loop.call_at(self._due, self._expire)

    def _expire(self) -> None:
        late = self._loop.time() - self._due
        if late > 1.0:
            self._arm(min(late, self._seconds))
        else:
            self._scope.reschedule(self._loop.time())
