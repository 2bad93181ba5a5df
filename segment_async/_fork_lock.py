"""A lock that no forked child finds held.

Another thread may hold an ordinary lock at the moment of a fork, and the child, where that thread is gone, would wait
for it for ever. This file knows neither messages nor clients.
"""

from __future__ import annotations

import os
from threading import RLock


def fork_safe_lock() -> RLock:
    """A reentrant lock, held by the forking thread during each fork. Hold it for moments only; it is never freed."""
    lock = RLock()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
    return lock
