"""Long-lived tasks: started on a loop, kept alive there, and stopped when the loop changes.

A task that is cancelled from outside or crashes comes back after a pause. A crash is logged once, until the task has
run without one for a while.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, Final, TypeVar

from segment_async._exceptions import stack_of

_log = logging.getLogger("segment_async")
_T = TypeVar("_T")

# Seconds until a cancelled task is back: a loop that cancels all its tasks in order to end has ended by then.
RESTART_DELAY: Final = 0.01
# Seconds until a crashed one is: as many times the first as it crashed in a row.
_CRASH_DELAY: Final = 0.1
_LONGEST_DELAY: Final = 5.0
# Seconds without a crash after which the next one counts as the first.
_HEALTHY_AFTER: Final = 60.0
# Seconds after a start until it is made sure that the task runs.
_CHECK_DELAY: Final = 1.0


def start_task(
    loop: asyncio.AbstractEventLoop, make: Callable[[], Coroutine[Any, Any, _T]], name: str | None = None
) -> asyncio.Task[_T]:
    """A task for the coroutine that `make` returns; if this raises, as a task factory of the application's may, nothing of
    it is left behind.

    A signal handler may raise when the task was made already, and with eager tasks has begun: it is cancelled.
    """
    main = make()
    try:
        return loop.create_task(main, name=name)
    except BaseException:
        made = [task for task in asyncio.all_tasks(loop) if task.get_coro() is main]
        for task in made:
            task.cancel()
        if not made:
            main.close()
        raise


def ends_the_task(error: BaseException) -> bool:
    """Whether an exception ends the running task: its own cancellation does, and what ends the program or the coroutine.

    Any other exception is only a failure of the code that the task called, such as a custom transport's. So is a
    `CancelledError` that this code raised although nothing has cancelled the task.
    """
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is None or task.cancelling() > 0
    return isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit))


class SupervisedTask:
    """Runs `main()` on the loop that it was started on, again and again until it is stopped or `main` returns."""

    def __init__(self, name: str, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._name = name
        self._main = main
        self._loop: asyncio.AbstractEventLoop | None = None
        # Changes with each start, so that callbacks of an earlier one do nothing.
        self._run: object | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_noted = False
        self._crashes = 0
        self._last_crash = 0.0

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start on this loop, from the loop's own thread; whatever ran before on another one must have been stopped."""
        self._loop, self._run = loop, object()
        # An empty context: what is bound around the caller is not for our own logging and hooks.
        loop.call_soon(self._begin, self._run, context=Context())
        # Once more, in case that a signal handler raises in the first one.
        loop.call_later(_CHECK_DELAY, self._begin, self._run, context=Context())

    def stop(self) -> asyncio.Task[None] | None:
        """Do not come back. Returns the task, which the caller cancels and waits for; `None`: there is none."""
        task, self._task, self._run, self._loop = self._task, None, None, None
        return task

    def _begin(self, run: object) -> None:
        loop = self._loop
        if run is not self._run or loop is None or (self._task is not None and not self._task.done()):
            return
        try:
            task = start_task(loop, self._main, f"segment_async {self._name}")
        except Exception as error:
            self._begin_later(error, run, loop)
            return
        if run is not self._run:
            # Another thread's loop has taken over meanwhile, and must not find this task in the place of its own.
            task.cancel()
            return
        self._task = task
        task.add_done_callback(lambda task: self._ended(task, run))
        # As in `start`: a signal handler may raise in the first one, or in what it schedules.
        task.add_done_callback(lambda task: self._make_sure(task, run))

    def _ended(self, task: asyncio.Task[None], run: object) -> None:
        crash = None if task.cancelled() else task.exception()
        if run is not self._run or self._loop is None or self._loop.is_closed():
            return
        if crash is None and not task.cancelled():
            # It has done its work.
            self._task = self._run = None
            return
        # KeyboardInterrupt and SystemExit are no crash: if the loop goes on at all, it is only to end.
        loop = task.get_loop()
        if isinstance(crash, Exception):
            self._begin_later(crash, run, loop)
        else:
            loop.call_later(RESTART_DELAY, self._begin_again, run, context=Context())

    def _begin_again(self, run: object) -> None:
        """After a cancellation. No warning: `asyncio.run` cancels all tasks, and what is queued is sent after that."""
        self._begin(run)
        # Last, as a handler of `logging` may raise.
        if run is self._run and not self._is_noted:
            self._is_noted = True
            _log.debug("The client's %s was cancelled, and goes on. This is logged once.", self._name)

    def _make_sure(self, task: asyncio.Task[None], run: object) -> None:
        loop = task.get_loop()
        if run is self._run and not loop.is_closed():
            loop.call_later(2 * _LONGEST_DELAY, self._begin_after, task, run, context=Context())

    def _begin_after(self, task: asyncio.Task[None], run: object) -> None:
        """Begin again, if nothing has begun since this task ended."""
        if self._task is task:
            self._begin(run)

    def _begin_later(self, crash: Exception, run: object, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        if now - self._last_crash > _HEALTHY_AFTER:
            self._crashes = 0
        self._crashes += 1
        self._last_crash = now
        delay = min(_LONGEST_DELAY, _CRASH_DELAY * self._crashes)
        loop.call_later(delay, self._begin, run, context=Context())
        # Last, as a handler of `logging` may raise.
        if self._crashes == 1:
            _log.error("The %s task crashed and is restarted; no message is lost.\n%s", self._name, stack_of(crash))
