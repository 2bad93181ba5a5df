"""Ends that come unannounced: the interpreter's exit, a fork, a signal.

This file keeps the list of open clients, and drains them once, all together, within two seconds.
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


class OpenClient(Protocol):
    def start_afresh(self) -> None: ...
    def has_pending(self) -> bool: ...
    def release(self) -> None: ...
    async def drain_at_exit(self, seconds: float) -> tuple[int, int]: ...


# Every client that is not closed, for the fork; and those that were given messages, which must not be collected unsent.
_all: weakref.WeakSet[OpenClient] = weakref.WeakSet()
_unsent: set[OpenClient] = set()
# Of this process, where it is a child of `multiprocessing`.
_finalizer: Any = None
# The loop that was last asked to end by a signal.
_asked: asyncio.AbstractEventLoop | None = None


def remember(owner: OpenClient) -> None:
    _all.add(owner)


def hold(owner: OpenClient) -> None:
    """The client was given messages: it lives until it is closed, whether the application keeps it or not."""
    _unsent.add(owner)
    _drain_when_multiprocessing_ends()


def forget(owner: OpenClient) -> None:
    _all.discard(owner)
    _unsent.discard(owner)


def _drain() -> None:
    owners: list[OpenClient] = []
    for owner in list(_unsent):
        if owner.has_pending():
            owners.append(owner)
        else:
            owner.release()
    _unsent.clear()
    if owners:
        try:
            lost, kept = asyncio.run(_drain_all(owners))
        except (KeyboardInterrupt, SystemExit):
            _say("some messages were not sent before the program ended")
        else:
            if lost:
                _say(f"{_messages(lost)} not sent before the program ended")
            if kept:
                _say(f"{_messages(kept)} kept in a spool for the next process to send")
    if owners:
        warnings.warn(
            f"{len(owners)} segment_async client(s) had messages to send at exit; use 'async with', or await aclose()",
            ResourceWarning,
            stacklevel=1,
        )


async def _drain_all(owners: list[OpenClient]) -> tuple[int, int]:
    """How many messages were lost, and how many are kept."""
    left = await asyncio.gather(*(owner.drain_at_exit(_DRAIN_SECONDS) for owner in owners))
    return sum(lost for lost, _ in left), sum(kept for _, kept in left)


def _messages(count: int) -> str:
    return "1 message was" if count == 1 else f"{count:,} messages were"


def _say(what: str) -> None:
    if sys.stderr is not None:
        print(f"segment_async: {what}", file=sys.stderr)


def _start_afresh() -> None:
    global _finalizer
    _finalizer = None
    _unsent.clear()
    for owner in list(_all):
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
        _finalizer = util.Finalize(None, _drain, exitpriority=0)


atexit.register(_drain)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh)


def exit_on(*signals: signal.Signals) -> None:
    """Turn signals that would end the program on the spot into an ordinary exit; existing handlers stay.

    Raises:
        ValueError: not called from the main thread.
    """
    for number in signals:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _exit)


def _exit(number: int, _frame: FrameType | None) -> None:
    """A running loop is asked to exit between two of its callbacks; a second signal ends even a loop that is blocked."""
    global _asked
    loop = asyncio._get_running_loop()
    if loop is None or loop is _asked:
        raise SystemExit(128 + number)
    _asked = loop
    loop.call_soon_threadsafe(sys.exit, 128 + number)
