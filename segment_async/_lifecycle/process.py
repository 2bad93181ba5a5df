"""Ends that come unannounced: the interpreter's exit and a fork.

This file keeps the list of open clients, and drains them once, all together, within two seconds.
"""

from __future__ import annotations

import asyncio
import atexit
import gc
import logging
import os
import signal
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final, Protocol

from segment_async._exceptions import stack_of

_log = logging.getLogger("segment_async")

_DRAIN_SECONDS: Final = 2.0
# Seconds that tasks get to end after they were cancelled, such as a hook.
_LAST_SECONDS: Final = 0.25


class Drain(Protocol):
    async def drain_at_exit(self, seconds: float) -> None: ...
    def left_at_exit(self) -> tuple[int, int]: ...


class OpenClient(Protocol):
    def start_afresh(self) -> None: ...
    def refuse_calls(self) -> None: ...
    def has_pending(self) -> bool: ...
    def release(self) -> None: ...
    @property
    def closing(self) -> Drain: ...


# Every client that is not closed; and those that were given messages, which must not be collected unsent.
_all: weakref.WeakValueDictionary[int, OpenClient] = weakref.WeakValueDictionary()
_unsent: set[OpenClient] = set()
# What comes before the drain: clients with a thread of their own are closed there.
_before_drain: list[Callable[[], None]] = []
# The process whose end has begun: its clients take no calls any more, for nothing would send their messages.
_ending = 0
# The process that drains now, and the signal that ends it after that.
_draining = 0
_signal: int | None = None
# Of this process, where it is a child of `multiprocessing`.
_finalizer: Any = None
# In a child that another thread forked, it is another one.
_main_thread = threading.main_thread()


class _ThreadEnd:
    """Sets its event when the thread ends among whose locals it is.

    `Thread.join` does not do: with glibc 2.43 it never returns in a child, for the thread that forked. Nor does
    `Thread.is_alive`, which joins from Python 3.13 on.
    """

    def __init__(self) -> None:
        self.event = threading.Event()

    def __del__(self) -> None:
        self.event.set()


_of_thread = threading.local()
# In a child that another thread forked: set when that thread ends; `None` once something waits for it.
_forking_thread_end: threading.Event | None = None


def remember(owner: OpenClient) -> None:
    _all[id(owner)] = owner
    if _ending == os.getpid():
        owner.refuse_calls()


def hold(owner: OpenClient) -> None:
    """The client was given messages: it lives until it is closed, whether the application keeps it or not."""
    _unsent.add(owner)
    if is_imported_at_exit:
        _log.warning(
            "segment_async was imported while the program ends, so nothing sends what is left at the very end: flush or "
            "close the client, or import it earlier."
        )
    _drain_when_multiprocessing_ends()
    _drain_when_celery_ends()
    _drain_when_uwsgi_ends()


def before_drain(function: Callable[[], None]) -> None:
    """Call a function whenever this process, or a child of it, ends in order, before what is left is drained."""
    _before_drain.append(function)


def forget(owner: OpenClient) -> None:
    _all.pop(id(owner), None)
    _unsent.discard(owner)


def _all_clients() -> list[OpenClient]:
    # Not an iteration: another thread may make a client meanwhile.
    return [owner for reference in _all.valuerefs() if (owner := reference()) is not None]


def _prepare_drain() -> None:
    global _ending
    for owner in list(_unsent):
        # In a child of a fork without hooks: what is the parent's is for the parent to send.
        owner.start_afresh()
    _ending = os.getpid()
    for owner in _all_clients():
        owner.refuse_calls()
    try:
        for function in _before_drain:
            function()
    except (KeyboardInterrupt, SystemExit):
        # Interrupted: what is left gets the drain's two seconds.
        pass


def drain() -> None:
    """The process ends: take no calls any more, from other threads or later exit handlers, and send the rest."""
    global _draining
    _draining = os.getpid()
    try:
        _prepare_drain()
        _drain_rest()
    finally:
        _draining = 0
        if _signal is not None:
            die_of(_signal)


def die_after_drain(number: int) -> bool:
    """Let a signal end this process when its drain is over; `False`: none is under way."""
    global _signal
    if _draining != os.getpid():
        return False
    _signal = number
    return True


def die_of(number: int) -> None:
    """End by a signal, as if it had no handler."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _drain_rest() -> None:
    owners: list[OpenClient] = []
    for owner in _all_clients():
        if owner.has_pending():
            owners.append(owner)
        else:
            owner.release()
    _unsent.clear()
    if not owners:
        return
    draining = _drain_all(owners)
    try:
        _run(draining)
    except (KeyboardInterrupt, SystemExit, OSError, RuntimeError):
        # Interrupted; or no loop can run: with too many open files, or in a signal handler above a loop.
        draining.close()
    left = [owner.closing.left_at_exit() for owner in owners]
    lost, kept = (sum(counts) for counts in zip(*left, strict=True))
    if lost:
        _say(f"{_messages(lost)} not sent before the program ended")
    if kept:
        _say(f"{_messages(kept)} kept in a spool for the next process to send")
    warnings.warn(
        f"{len(owners)} segment_async client(s) had messages to send at exit; use 'async with', or await aclose()",
        ResourceWarning,
        stacklevel=1,
    )


def _run(draining: Coroutine[Any, Any, None]) -> None:
    """As `asyncio.run`, but tasks that go on although they were cancelled, as a hook may, are not waited for."""
    if asyncio._get_running_loop() is not None:
        raise RuntimeError("an event loop runs in this thread")
    with asyncio.Runner() as runner:
        try:
            runner.run(draining)
        finally:
            runner.run(_end_tasks())


async def _end_tasks() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if not tasks:
        return
    _, late = await asyncio.wait(tasks, timeout=_LAST_SECONDS)
    if late:
        for task in late:
            # The runner does not see it any more.
            asyncio._unregister_task(task)
        # Never freed: that would throw `GeneratorExit` into their coroutines, which may swallow it too, and never return.
        kept: list[object] = [*late]
        kept.append(kept)
        gc.freeze()


async def _drain_all(owners: list[OpenClient]) -> None:
    ends = await asyncio.gather(
        *(owner.closing.drain_at_exit(_DRAIN_SECONDS) for owner in owners), return_exceptions=True
    )
    for fault in ends:
        if isinstance(fault, Exception):
            _say(f"the drain raised.\n{stack_of(fault)}")


def _messages(count: int) -> str:
    return "1 message was" if count == 1 else f"{count:,} messages were"


def _say(what: str) -> None:
    if sys.stderr is not None:
        # What read it may be gone, and the program must end all the same.
        with suppress(OSError, ValueError):
            print(f"segment_async: {what}", file=sys.stderr)


def _start_afresh() -> None:
    global _finalizer, _forking_thread_end, _signal
    _finalizer = _signal = None
    if threading.main_thread() is not _main_thread:
        _of_thread.end = _ThreadEnd()
        _forking_thread_end = _of_thread.end.event
    _unsent.clear()
    for owner in _all_clients():
        owner.start_afresh()


def _drain_when_multiprocessing_ends() -> None:
    """A child of `multiprocessing` may end by `os._exit`, without `atexit`, but it runs its own finalizers.

    Not earlier than here: when it begins, such a child forgets all finalizers that it finds.
    """
    global _finalizer
    process, util = sys.modules.get("multiprocessing.process"), sys.modules.get("multiprocessing.util")
    if process is None or util is None or process.parent_process() is None:
        return
    if _finalizer is None or not _finalizer.still_active():
        _finalizer = util.Finalize(None, drain, exitpriority=0)


def drain_when_forking_thread_ends() -> None:
    """For a child that was forked by another thread than the main one, whose only thread that one is.

    When its function returns, the child ends without `atexit`, and not at all while a daemon thread runs in it.
    """
    global _forking_thread_end
    ended, _forking_thread_end = _forking_thread_end, None
    if ended is None:
        return

    def wait() -> None:
        ended.wait()
        drain()

    threading.Thread(target=wait, name="segment_async end", daemon=True).start()


def _drain_when_celery_ends() -> None:
    """A process of Celery's pool ends by `os._exit`, without `atexit` or finalizers, but it sends a signal before."""
    signals = sys.modules.get("celery.signals")
    if signals is not None:
        signals.worker_process_shutdown.connect(_drain_worker, weak=False, dispatch_uid="segment_async")


def _drain_when_uwsgi_ends() -> None:
    """Its workers may end without `atexit` (``--skip-atexit-teardown``), but not without this hook of its own."""
    uwsgi = sys.modules.get("uwsgi")
    if uwsgi is not None and getattr(uwsgi, "atexit", None) is None:
        uwsgi.atexit = drain  # type: ignore[attr-defined]  # the server looks for it


def _drain_worker(**_: object) -> None:
    drain()


def _is_exit_under_way() -> bool:
    """Whether handlers that are registered now may not be called: this module is first imported by one of them."""
    try:
        # `concurrent.futures` rests on it, too.
        threading._register_atexit(bool)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    except RuntimeError:
        return True
    return False


is_imported_at_exit: Final = _is_exit_under_way()
atexit.register(drain)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh)
