"""A daemon thread with an event loop, for code that has none: at most one in a process.

It starts when it is first needed, never at an import. A forked child starts its own; the parent's loop is left alone
there, since closing it would change the parent's. This file knows neither messages nor clients.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError
from contextlib import suppress
from contextvars import Context
from threading import TIMEOUT_MAX, Thread, get_ident
from typing import Any, Final, Generic, TypeVar

from segment_async._exceptions import stack_of
from segment_async._locks import reentrant_lock

_log = logging.getLogger("segment_async")

T = TypeVar("T")

# Seconds that the thread gets to end once its loop was stopped.
_STOP_SECONDS: Final = 1.0
# Seconds between two attempts to start the thread, and between two log records of one kind.
_RETRY_SECONDS: Final = 1.0
_QUIET_SECONDS: Final = 60.0

# By process, so that a child notices a fork without hooks (uWSGI's) as well.
_threads: dict[int, LoopThread] = {}
# In a forked child: the parent's, which must not be collected.
_of_parent: list[LoopThread] = []


class LoopThread:
    """Attributes:
    pid: of the process that the thread is in.
    loop: runs in the thread, from the first `start` to `stop`.
    """

    loop: asyncio.AbstractEventLoop

    def __init__(self, pid: int) -> None:
        self.pid = pid
        # A signal handler may start the thread while it is being started.
        self._lock = reentrant_lock()
        self._thread: Thread | None = None
        self._ident = 0
        self._is_stopping = False
        self._may_start_at = self._may_warn_at = self._may_log_at = 0.0

    def is_started(self) -> bool:
        return self._thread is not None

    def start(self) -> bool:
        """Whether it runs; if not, none can be started: the interpreter is ending, or the system allows no more."""
        refused = None
        with self._lock:
            now = time.monotonic()
            if self._thread is None and now >= self._may_start_at:
                self._may_start_at = now + _RETRY_SECONDS
                try:
                    self._start()
                except (RuntimeError, OSError) as error:
                    refused = error
                except BaseException:
                    # Interrupted, and not refused: the next call need not wait.
                    self._may_start_at = now
                    raise
            is_started = self._thread is not None
        if refused is not None and "shutdown" not in str(refused) and now >= self._may_warn_at:
            self._may_warn_at = now + _QUIET_SECONDS
            _log.warning(
                "No thread can be started to send messages: %s. They wait until one can, or for the exit.", refused
            )
        return is_started

    def _start(self) -> None:
        self.loop = loop = asyncio.new_event_loop()
        thread = Thread(target=self._main, args=(loop,), name="segment_async", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            loop.close()
            raise
        # Last: if a signal handler raises before this, a later call starts another thread.
        self._thread = thread

    def _main(self, loop: asyncio.AbstractEventLoop) -> None:
        if self.loop is loop:
            self._ident = get_ident()
        _leave_signals_to_others()
        try:
            while not self._is_stopping:
                try:
                    loop.run_forever()
                except BaseException as error:
                    # A hook, or a handler of `logging` that raises for all that is logged here, too.
                    with suppress(BaseException):
                        self._log_attempt(error)
            loop.run_until_complete(self._end_tasks())
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()

    def _log_attempt(self, error: BaseException) -> None:
        now = time.monotonic()
        if now >= self._may_log_at:
            self._may_log_at = now + _QUIET_SECONDS
            _log.error("A hook tried to end the program from segment_async's thread.\n%s", stack_of(error))

    async def _end_tasks(self) -> None:
        """Let no other thread wait for what does not come any more."""
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_STOP_SECONDS)

    def call_soon(self, function: Callable[[], object]) -> None:
        """Call a function on the loop, from any thread."""
        self.loop.call_soon_threadsafe(function, context=Context())

    def is_called_on_a_loop(self) -> bool:
        """Whether a loop runs in the calling thread, so that the caller must not wait."""
        loop = asyncio._get_running_loop()
        # gevent's threads share one thread of the system, where this loop always runs.
        return loop is not None and (loop is not self.loop or get_ident() == self._ident)

    def begin(self, function: Callable[[], Coroutine[Any, Any, T]]) -> Begun[T]:
        """Run a coroutine function on the loop.

        Raises:
            RuntimeError: called on the loop's own thread, which would wait for itself; or the loop was stopped.
        """
        if get_ident() == self._ident:
            raise RuntimeError("a hook runs on the client's own thread and cannot wait there for the client")
        begun = Begun[T](self.loop)
        self.loop.call_soon_threadsafe(begun.start, function)
        return begun

    def run(self, function: Callable[[], Coroutine[Any, Any, T]], timeout: float | None = None) -> T:
        """Run a coroutine function on the loop, and wait for its result; if the wait ends early, it is cancelled.

        Raises:
            TimeoutError: it took longer than `timeout` seconds.
            RuntimeError: as `begin`.
        """
        begun = self.begin(function)
        if not begun.ends_within(timeout):
            begun.cancel()
            raise TimeoutError
        return begun.result()

    def stop(self) -> None:
        """End the thread; the next `running` starts a new one."""
        _threads.pop(self.pid, None)
        self._is_stopping = True
        if self._thread is not None and get_ident() != self._ident:
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(_STOP_SECONDS)


class CallingThread:
    """In place of the thread where none can be started: what waits runs on a loop of its own, in the thread that calls.

    Nothing runs between two waits. What is queued then is sent by a flush, by a call that can start the thread, or at
    the exit.
    """

    def __init__(self) -> None:
        self.pid = os.getpid()

    def call_soon(self, function: Callable[[], object]) -> None:
        """There is no loop to call it on; each `run` begins with one."""

    def is_called_on_a_loop(self) -> bool:
        return asyncio._get_running_loop() is not None

    def begin(self, function: Callable[[], Coroutine[Any, Any, T]]) -> Begun[T]:
        """Run a coroutine function to its end; it raises what that raises.

        Raises:
            RuntimeError: a loop runs in this thread.
        """

        async def main() -> Begun[T]:
            begun = Begun[T](asyncio.get_running_loop())
            await begun.start(function)
            return begun

        return self.run(main)

    def run(self, function: Callable[[], Coroutine[Any, Any, T]], timeout: float | None = None) -> T:
        """Raises:
        TimeoutError: it took longer than `timeout` seconds.
        RuntimeError: a loop runs in this thread.
        """
        if self.is_called_on_a_loop():
            raise RuntimeError("no thread can be started, and on a running event loop the client cannot wait")

        async def main() -> T:
            return await asyncio.wait_for(function(), timeout)

        return asyncio.run(main())


class Begun(Generic[T]):
    """A coroutine that runs on the loop of another thread, for the thread that waits for its end.

    A future of `concurrent.futures` would take its lock in many steps: a signal handler that raises amid them leaves it
    locked for the loop's thread as well. The lock here is taken in one step, and the loop's thread runs no handlers.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._task: asyncio.Task[T] | None = None
        self._ended = threading.Lock()
        self._ended.acquire()

    def start(self, function: Callable[[], Coroutine[Any, Any, T]]) -> asyncio.Task[T]:
        """Called on the loop."""
        try:
            self._task = self._loop.create_task(function())
            self._task.add_done_callback(self._end)
        except BaseException:
            self._ended.release()
            raise
        return self._task

    def _end(self, task: asyncio.Task[T]) -> None:
        if not task.cancelled():
            # Looked at, so that asyncio does not log what nothing waits for any more.
            task.exception()
        self._ended.release()

    def ends_within(self, seconds: float | None) -> bool:
        """Wait for its end, for so many seconds (`None`: no limit); whether it came. Interrupted, it is cancelled."""
        try:
            # As a lock takes it; not a number is no time.
            return is_released(self._ended, -1 if seconds is None else min(TIMEOUT_MAX, max(0.0, seconds)))
        except BaseException:
            self.cancel()
            raise

    def cancel(self) -> None:
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def result(self) -> T:
        """What it returned or raised, once it has ended.

        Raises:
            concurrent.futures.CancelledError: the thread was ended.
        """
        if self._task is None or self._task.cancelled():
            raise CancelledError
        return self._task.result()


def is_released(lock: threading.Lock, seconds: float) -> bool:
    """Where a thread waits for the loop's: a signal that ends the program is obeyed here at once."""
    return lock.acquire(timeout=seconds)


def running() -> LoopThread | CallingThread:
    """This process's thread, started if need be.

    Raises:
        RuntimeError: gevent replaced threads after this package was imported.
    """
    pid = os.getpid()
    # Without a lock: at a fork, another thread of the parent might hold it.
    thread = _threads.get(pid) or _threads.setdefault(pid, LoopThread(pid))
    if not thread.is_started():
        _check_gevent()
        if not thread.start():
            return CallingThread()
    return thread


def existing() -> LoopThread | None:
    """This process's thread, if it was started."""
    thread = _threads.get(os.getpid())
    return thread if thread is not None and thread.is_started() else None


def has_gevent() -> bool:
    """Whether gevent has replaced threads by its own; the loop runs in one of them then."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))


def _leave_signals_to_others() -> None:
    """Block all signals in this thread: one that the main thread has blocked must wait, and not arrive through here.

    Celery's workers block SIGTERM while they hold a lock that all of them share. Under gevent this is the main thread.
    """
    if hasattr(signal, "pthread_sigmask") and not has_gevent():
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def _check_gevent() -> None:
    """Raises:
    RuntimeError: gevent replaced threads after this package was imported.
    """
    if has_gevent() and get_ident is not threading.get_ident:
        raise RuntimeError(
            "gevent replaced threads after segment_async was imported; call gevent.monkey.patch_all() before that import"
        )


def _start_afresh() -> None:
    _of_parent.extend(_threads.values())
    _threads.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh)
