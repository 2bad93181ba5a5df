"""Asynchronous calls of `on_error` that run on a loop, and how they end.

A call whose task is cancelled before its first step has not begun: its loop ended in the turn in which it was made, as
`asyncio.run` ends what was called last. It is made again on the next loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

from segment_async._lifecycle.loop_end import abandon_after_fork

T = TypeVar("T")

# Calls that may run at once, and the bytes of the messages that they were given.
_MAX_RUNNING: Final = 100
_MAX_RUNNING_BYTES: Final = 8 * 2**20


class AsyncCall(Generic[T]):
    """Attributes:
    report: what it was made for, of this `size`.
    returned: by `on_error`.
    """

    __slots__ = ("has_begun", "report", "returned", "size")

    def __init__(self, report: T, size: int, returned: Awaitable[None]) -> None:
        self.report = report
        self.size = size
        self.returned = returned
        self.has_begun = asyncio.isfuture(returned)

    def begin(self) -> asyncio.Future[None]:
        return asyncio.ensure_future(self.returned if self.has_begun else self._run())

    async def _run(self) -> None:
        self.has_begun = True
        await self.returned


class AsyncCalls(Generic[T]):
    """`not_begun` is called with each call that has ended before its first step, and `ended` after each one that has
    ended on its loop, with what it raised.
    """

    def __init__(
        self, not_begun: Callable[[AsyncCall[T]], None], ended: Callable[[BaseException | None], None]
    ) -> None:
        self._not_begun = not_begun
        self._ended = ended
        self._running: dict[asyncio.Future[None], AsyncCall[T]] = {}

    @property
    def are_there(self) -> bool:
        """Whether any run."""
        return bool(self._running)

    @property
    def is_busy(self) -> bool:
        """Whether no call may begin until one ends, which may be never."""
        # The copy is made in one step: another thread may ask. Calls on loops that do not run keep no place.
        sizes = [call.size for hook, call in self._running.copy().items() if hook.get_loop().is_running()]
        return len(sizes) >= _MAX_RUNNING or sum(sizes) >= _MAX_RUNNING_BYTES

    @property
    def have_left_some(self) -> bool:
        """Whether a loop was closed before a call on it had begun."""
        running = self._running.copy().items()
        return any(not call.has_begun and hook.get_loop().is_closed() for hook, call in running)

    def begin(self, call: AsyncCall[T]) -> None:
        """Begin a call on the running loop."""
        hook = call.begin()
        # First, as another loop may end it at any time.
        self._running[hook] = call
        try:
            hook.add_done_callback(self._hook_ended)
        except BaseException:
            # It has ended on a loop that is closed.
            self._running.pop(hook, None)
            raise

    def _hook_ended(self, hook: asyncio.Future[None]) -> None:
        self._forget(hook)
        self._ended(None if hook.cancelled() else hook.exception())

    def _forget(self, hook: asyncio.Future[None]) -> None:
        call = self._running.pop(hook, None)
        if call is not None and not call.has_begun:
            self._not_begun(call)

    def here(self) -> set[asyncio.Future[None]]:
        """Those on the running loop, but for the one that asks."""
        mine, loop = asyncio.current_task(), asyncio.get_running_loop()
        return {hook for hook in self._running.copy() if hook is not mine and hook.get_loop() is loop}

    def leave_closed_loops(self) -> list[asyncio.Task[None]]:
        """Forget the calls on loops that are closed, which never end. Returns their tasks, for the caller to end."""
        left = [hook for hook in self._running.copy() if hook.get_loop().is_closed()]
        for hook in reversed(left):
            self._forget(hook)
        return [hook for hook in left if isinstance(hook, asyncio.Task)]

    def abandon_after_fork(self) -> None:
        """In a forked child."""
        abandon_after_fork(self._running)
