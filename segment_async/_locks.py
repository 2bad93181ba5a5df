"""Locks that survive what `threading.RLock` does not: a signal handler that raises, and a fork.

This file knows neither messages nor clients.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from threading import RLock
from typing import Any


def reentrant_lock() -> RLock:
    """An `RLock` that a ``with`` block always frees.

    In Python 3.14 a signal handler may run after the lock was taken and before the block has begun. If it raises there,
    as Ctrl+C does, an ordinary lock is never freed. Python 3.15 runs no signal handlers at that place, but profile
    functions; earlier versions run neither.
    """
    lock: RLock = _make()
    return lock


def is_held_here(lock: RLock) -> bool:
    """Whether the calling thread holds a lock."""
    held: Any = lock
    return bool(held._is_owned())


def fork_safe_lock() -> RLock:
    """A reentrant lock that no forked child finds held. Hold it for moments only; it is never freed.

    Another thread may hold an ordinary lock at the moment of a fork, and the child, where that thread is gone, would
    wait for it for ever. This one is held by the forking thread during each fork.
    """
    lock = reentrant_lock()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
    return lock


def _enter(lock: Any) -> bool:
    """What an `RLock` does at the beginning of a block; an exception after that frees it again."""
    before = lock._recursion_count()
    try:
        taken: bool = lock.acquire()
    except BaseException:
        if lock._recursion_count() > before:
            lock.release()
        raise
    return taken


_make: Callable[[], Any] = RLock
if sys.version_info >= (3, 14):
    # `__exit__` stays the one in C: a function of Python's would begin with a place where handlers run.
    _make = type("_Lock", (type(RLock()),), {"__slots__": (), "__enter__": _enter})
