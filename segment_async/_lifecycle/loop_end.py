"""How the end of a loop is noticed, and what happens to the tasks and the generator that are left on it.

This file knows neither messages nor clients.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import suppress
from inspect import CORO_CREATED, CORO_SUSPENDED, getcoroutinestate, iscoroutine
from operator import methodcaller
from typing import Any, Final

Guard = AsyncGenerator[None, None]

_SEND: Final = methodcaller("send", None)

# In a forked child: tasks that belong to the parent.
_of_parent: list[asyncio.Task[Any]] = []


def at_loop_end(clean_up: Callable[[], Awaitable[None]]) -> Guard:
    """Await something when the running loop shuts down.

    Loops have no hook for their end, but they close the asynchronous generators that were started on them.
    """
    guard = _guard(clean_up)
    # Up to its `yield`, without a task: the loop knows it from now on.
    _step("__anext__", guard)
    return guard


async def _guard(clean_up: Callable[[], Awaitable[None]]) -> Guard:
    try:
        yield
    finally:
        await clean_up()


def release(guard: Guard) -> None:
    """Close a guard that has nothing to clean up, without its loop, which may never run again."""
    # A RuntimeError: its loop closes it at this moment, in another thread.
    with suppress(RuntimeError):
        _step("aclose", guard)


def _step(method: str, guard: Guard) -> None:
    """Call a method of the generator, and run what it returns up to its first suspension or its end.

    As a single call into C: between two, a signal handler may raise, and Python 3.14 complains of what was never awaited.
    """
    next(map(_SEND, map(methodcaller(method), (guard,))), None)


def end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks of loops that may be this one, another thread's, at rest, or closed.

    Call it without a lock: a task whose loop is closed is ended at once, and so may run the application's code.
    """
    here = asyncio._get_running_loop()
    for task in tasks:
        loop = task.get_loop()
        if loop is here:
            if task is not asyncio.current_task():
                task.cancel()
            continue
        # If the loop is gone nothing can end them, and Python should not complain.
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        if loop.is_closed():
            _unwind(task, CORO_CREATED, CORO_SUSPENDED)
        elif not loop.is_running():
            # The loop stopped before the task's first step, which will not come.
            _unwind(task, CORO_CREATED)
            # At once: a step of it that was due when the loop stopped comes before any callback, beside whatever works
            # for the client by then. The loop is woken in case that it has just begun to run.
            with suppress(RuntimeError):
                task.cancel()
                loop.call_soon_threadsafe(_do_nothing)
            continue
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(task.cancel)


def _do_nothing() -> None:
    """Wakes the loop."""


def unwind(task: asyncio.Task[Any]) -> None:
    """End a suspended task whose loop does not run again."""
    _unwind(task, CORO_SUSPENDED)


def abandon_after_fork(tasks: Iterable[asyncio.Future[Any] | None]) -> None:
    """In a forked child: keep the parent's tasks, which the garbage collector would report as pending."""
    for task in tasks:
        if isinstance(task, asyncio.Task):
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            _of_parent.append(task)


def _unwind(task: asyncio.Task[Any], *states: str) -> None:
    """Close a task's coroutine, from the outside in.

    The garbage collector may do it from the inside out, and free the task while one of its frames is being closed: an
    error without a place, and in Python 3.11 a crash of the interpreter.
    """
    coroutine: object = task.get_coro()
    if iscoroutine(coroutine) and getcoroutinestate(coroutine) in states:
        # What its frames clean up may need a loop that is closed already.
        with suppress(Exception):
            coroutine.close()
