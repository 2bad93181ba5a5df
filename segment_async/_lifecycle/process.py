"""The ends that nobody announced: the interpreter's exit, a fork, a signal.

This file keeps the list of clients that live, and drains them once, all together, within two seconds.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import signal
import sys
import warnings
import weakref
from types import FrameType
from typing import Any, Final, Protocol

_DRAIN_SECONDS: Final = 2.0


class Living(Protocol):
    def start_afresh(self) -> None: ...
    def has_pending(self) -> bool: ...
    def let_go(self) -> None: ...
    async def drain_at_exit(self, seconds: float) -> tuple[int, int]: ...


# Every client not closed yet, for the fork; and those that were given messages, which must not be collected unsent.
_all: weakref.WeakSet[Living] = weakref.WeakSet()
_unsent: set[Living] = set()
# Of this process, where it is a child of `multiprocessing`.
_finalizer: Any = None
# The loop that was last asked to end by a signal.
_asked: asyncio.AbstractEventLoop | None = None


def remember(life: Living) -> None:
    _all.add(life)


def hold(life: Living) -> None:
    """Messages were given to it: it lives until it is closed, whether the application keeps it or not."""
    _unsent.add(life)
    _drain_when_multiprocessing_ends()


def forget(life: Living) -> None:
    _all.discard(life)
    _unsent.discard(life)


def _drain() -> None:
    lives: list[Living] = []
    unclosed = len(_unsent)
    for life in list(_unsent):
        if life.has_pending():
            lives.append(life)
        else:
            life.let_go()
    _unsent.clear()
    if lives:
        try:
            lost, kept = asyncio.run(_drain_all(lives))
        except (KeyboardInterrupt, SystemExit):
            _say("some messages were not sent before the program ended")
        else:
            if lost:
                _say(f"{lost:,} messages were not sent before the program ended")
            if kept:
                _say(f"{kept:,} messages are kept in a spool for the next process to send")
    if unclosed:
        warnings.warn(
            f"{unclosed} segment_async client(s) were never closed; use 'async with', or await aclose()",
            ResourceWarning,
            stacklevel=1,
        )


async def _drain_all(lives: list[Living]) -> tuple[int, int]:
    """How many were lost, and how many are kept."""
    left = await asyncio.gather(*(life.drain_at_exit(_DRAIN_SECONDS) for life in lives))
    return sum(lost for lost, _ in left), sum(kept for _, kept in left)


def _say(what: str) -> None:
    if sys.stderr is not None:
        print(f"segment_async: {what}", file=sys.stderr)


def _start_afresh() -> None:
    global _finalizer
    _finalizer = None
    _unsent.clear()
    for life in list(_all):
        life.start_afresh()


def _drain_when_multiprocessing_ends() -> None:
    """A child of `multiprocessing` may end by `os._exit`, past `atexit`, but runs its own finalizers.

    Not to be done any earlier than here: when it begins, such a child forgets all finalizers that it finds.
    """
    global _finalizer
    process, util = sys.modules.get("multiprocessing.process"), sys.modules.get("multiprocessing.util")
    if process is None or util is None or process.parent_process() is None:
        return
    if _finalizer is None or not _finalizer.still_active():
        _finalizer = util.Finalize(None, _drain, exitpriority=0)


atexit.register(_drain)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh)


def exit_on(*signals: signal.Signals) -> None:
    """Turn signals that would end the program on the spot into an ordinary exit; what handlers there are, stay.

    Raises:
        ValueError: not called from the main thread.
    """
    for number in signals:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _exit)


def _exit(number: int, _frame: FrameType | None) -> None:
    """An exit amid any line could tear one of the client's own: a loop is asked to make room for it.

    A second signal ends even a loop that stands still.
    """
    global _asked
    loop = asyncio._get_running_loop()
    if loop is None or loop is _asked:
        raise SystemExit(128 + number)
    _asked = loop
    loop.call_soon_threadsafe(sys.exit, 128 + number)
