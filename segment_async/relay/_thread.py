"""The thread of a spool: a daemon with an event loop of its own, so that calls may come from any thread and any loop.

The client library binds connections to the loop that made them; here that is always the same one. This file knows
nothing of Redis.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Final

from segment_async._locks import reentrant_lock

# Seconds that tasks have to end by themselves.
_GRACE_SECONDS: Final = 1.0


class LoopInThread:
    """Attributes:
    loop: runs in the thread from `start` on.
    """

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[Any]] = set()
        # What is called before `_is_ending` is set is carried out; a loop that was stopped would take it, and forget it.
        self._lock = reentrant_lock()
        self._is_ending = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Raises:
        RuntimeError: no thread can be started any more, at the end of the interpreter.
        """
        try:
            self._thread.start()
        except BaseException:
            self.loop.close()
            raise

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()

    def call(self, function: Callable[..., object], *arguments: Any) -> None:
        """Call it on the thread's loop, in the order of the calls.

        Raises:
            RuntimeError: the thread is ending.
        """
        with self._lock:
            if self._is_ending:
                raise RuntimeError("the thread is ending")
            self.loop.call_soon_threadsafe(function, *arguments)

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run a task on the loop, from the loop, and keep it alive until it ends."""
        task = self.loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def stop(self) -> None:
        """From a task on the loop: take no further calls, let the other tasks end, and then the thread."""
        with self._lock:
            self._is_ending = True
        # What was called until now begins.
        await asyncio.sleep(0)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:
            _, late = await asyncio.wait(others, timeout=_GRACE_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.wait(others)
        self.loop.call_soon(self.loop.stop)
