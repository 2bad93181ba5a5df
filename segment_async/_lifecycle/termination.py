"""SIGTERM in a program that has no handler for it: drain, then end by the signal all the same.

Nothing is raised in the program, and its exit status stays what it was. This file knows neither messages nor clients.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from types import CodeType, FrameType
from typing import Final

from segment_async._signals import may_replace

from . import process
from .loop_thread import existing, has_gevent, is_released

_PACKAGE: Final = __name__.partition(".")[0]
# Seconds until the signal is sent again when it came amid a call of this package, which may hold a lock.
_AGAIN_SECONDS: Final = 0.001
# Seconds after which it is obeyed in any case.
_PATIENCE_SECONDS: Final = 1.0
# Seconds within which a further signal counts as the same one: a supervisor may send it to all processes, and their
# parent to its children as well. A later one ends the program at once.
_SAME_SECONDS: Final = 3.0
# It waits without any lock, for as long as its caller said.
_WAITS: Final[CodeType] = is_released.__code__

_first_seen: float | None = None
_is_draining = False


def drain_on_sigterm() -> None:
    """Drain before SIGTERM ends the program; only in the main thread, and where the signal has no handler.

    Left alone are process 1, which the signal does not end without a handler, and gevent, where a handler cannot wait.
    """
    if threading.current_thread() is not threading.main_thread() or os.getpid() == 1 or has_gevent():
        return
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        try:
            signal.signal(signal.SIGTERM, _terminate)
        except ValueError:
            # Only the main interpreter takes handlers, and this is another one, as under mod_wsgi.
            pass


def _terminate(number: int, frame: FrameType | None) -> None:
    global _first_seen, _is_draining
    thread = existing()
    now = time.monotonic()
    _first_seen = now if _first_seen is None else _first_seen
    seconds = now - _first_seen
    if not _is_draining:
        if process.die_after_drain(number):
            # The program is ending already, and will not take much longer.
            _is_draining = True
            return
        if thread is not None and _is_amid_a_call(frame) and seconds < _PATIENCE_SECONDS:
            loop, pid = thread.loop, os.getpid()
            thread.call_soon(lambda: loop.call_later(_AGAIN_SECONDS, os.kill, pid, number))
            return
        _is_draining = True
        try:
            process.drain()
        finally:
            process.die_of(number)
    elif seconds >= _SAME_SECONDS:
        process.die_of(number)


def _is_amid_a_call(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code is _WAITS:
            return False
        if frame.f_globals.get("__name__", "").partition(".")[0] == _PACKAGE:
            return True
        frame = frame.f_back
    return False


def _start_afresh() -> None:
    """In a forked child, which has nothing to send before its first call: SIGTERM ends it as if there were no handler.

    `multiprocessing` ends its workers by the signal, and Python may lose one that comes while a worker begins to wait.
    """
    global _first_seen, _is_draining
    _first_seen, _is_draining = None, False
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is _terminate:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


may_replace(_terminate)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh)
