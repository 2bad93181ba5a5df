"""Ends of loops: how one is noticed, and what becomes of the tasks and the generator that are left on it.

This file knows neither messages nor clients.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import suppress
from inspect import CORO_CREATED, CORO_SUSPENDED, getcoroutinestate, iscoroutine
from typing import Any

Guard = AsyncGenerator[None, None]

# In a forked child: what is left to the parent.
_parents: list[asyncio.Task[Any]] = []


def at_loop_end(clean_up: Callable[[], Awaitable[None]]) -> Guard:
    """Have something awaited when the running loop shuts down.

    Loops offer no hook for their end, but they close the asynchronous generators that were started on them.
    """
    guard = _guard(clean_up)
    # Up to its `yield`, without a task: the loop knows it from now on.
    with suppress(StopIteration):
        anext(guard).__await__().send(None)
    return guard


async def _guard(clean_up: Callable[[], Awaitable[None]]) -> Guard:
    try:
        yield
    finally:
        await clean_up()


def release(guard: Guard) -> None:
    """To its end, where nothing is left to clean up: it must not come to its loop's attention again, which may never run
    any more.
    """
    with suppress(StopIteration):
        guard.aclose().send(None)


def end(loop: asyncio.AbstractEventLoop, tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks of a loop that may be this one, another thread's, at rest, or closed."""
    if asyncio._get_running_loop() is loop:
        current = asyncio.current_task()
        for task in tasks:
            if task is not current:
                task.cancel()
        return
    for task in tasks:
        # Where the loop is gone nothing can end them, and Python need not complain of it.
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        if loop.is_closed():
            _unwind(task, CORO_CREATED, CORO_SUSPENDED)
        elif not loop.is_running():
            # It stopped before the task's first step, of which there will be none.
            _unwind(task, CORO_CREATED)
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(task.cancel)


def unwind(task: asyncio.Task[Any]) -> None:
    """End a task where it stands, whose loop nobody runs again."""
    _unwind(task, CORO_SUSPENDED)


def leave_to_parent(tasks: Iterable[asyncio.Future[Any] | None]) -> None:
    """In a forked child: tasks of the parent's end with its loop, should that be run to its end here, or never.

    Kept, or the garbage collector would take them apart, and complain that they are pending.
    """
    for task in tasks:
        if isinstance(task, asyncio.Task):
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            _parents.append(task)


def _unwind(task: asyncio.Task[Any], *states: str) -> None:
    """Close a task's coroutine, from the outside in.

    Left to the garbage collector, its frames may go from the inside out, and take the task along while one of them is
    being closed: an error in the middle of nowhere, and in Python 3.11 the end of the interpreter.
    """
    coroutine: object = task.get_coro()
    if iscoroutine(coroutine) and getcoroutinestate(coroutine) in states:
        # What its frames clean up may need a loop that is closed already.
        with suppress(Exception):
            coroutine.close()
