"""What keeps a loop going beside a spool's thread in a process that has forked.

A child that ends its copy of a running loop removes the parent's wake-up pipe from the epoll that both have: threads
cannot wake the parent's loop any more. So it wakes up by itself; also one that only calls the client.
"""

from __future__ import annotations

import asyncio
import os
from typing import Final
from weakref import WeakSet, WeakValueDictionary

from .clock import LoopClock

# Seconds between two looks at what the spool's thread has answered, in a process that has forked.
_HEARTBEAT: Final = 0.02


class Heartbeat:
    """Wakes the loop of `clock`, and those that call the client, from the first fork on."""

    def __init__(self, clock: LoopClock) -> None:
        self._clock = clock
        # Loops that ran while the process forked, and what names the chains of timers that wake them since.
        self._loops: WeakSet[asyncio.AbstractEventLoop] = WeakSet()
        self._chain: object | None = None
        _all[id(self)] = self

    def after_fork_in_parent(self) -> None:
        self._loops.update(filter(None, (self._clock.loop, asyncio._get_running_loop())))
        # Earlier chains end: one that a signal handler has stopped begins again.
        self._chain = chain = object()
        for loop in [*self._loops]:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._beat, loop, chain)

    def _beat(self, loop: asyncio.AbstractEventLoop, chain: object) -> None:
        if chain is self._chain:
            loop.call_later(_HEARTBEAT, self._beat, loop, chain)

    def stop(self) -> None:
        """For good: none begins after a later fork."""
        _all.pop(id(self), None)
        self._chain = None


_all: WeakValueDictionary[int, Heartbeat] = WeakValueDictionary()


def _after_fork_in_parent() -> None:
    # Not an iteration: another thread may make a client meanwhile.
    for reference in _all.valuerefs():
        if (heartbeat := reference()) is not None:
            heartbeat.after_fork_in_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_parent=_after_fork_in_parent)
