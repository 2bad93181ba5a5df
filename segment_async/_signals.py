"""Signals that end the program as `sys.exit` would, so that everything is closed and drained on the way.

This file knows neither clients nor messages.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable
from types import FrameType

# Other handlers of this package, which an ordinary exit may replace: it does all that they do.
_replaceable: list[Callable[[int, FrameType | None], None]] = []
# Signals for which a handler of this file was installed.
_handled: set[int] = set()
# The loop that was last asked to end by a signal.
_asked: asyncio.AbstractEventLoop | None = None


def exit_on(*signals: signal.Signals) -> None:
    """Turn signals that would end the program on the spot into an ordinary exit; the program's own handlers stay.

    Raises:
        ValueError: not called from the main thread, and one of the signals has no handler yet.
    """
    for number in signals:
        handler = signal.getsignal(number)
        if handler is signal.SIG_DFL or handler in _replaceable:
            signal.signal(number, _exit)
            _handled.add(number)


def may_replace(handler: Callable[[int, FrameType | None], None]) -> None:
    """Let `exit_on` take the place of this handler."""
    _replaceable.append(handler)


def exits_on(number: signal.Signals) -> bool:
    """Whether `exit_on` has given the signal its handler, which a server may have replaced for as long as it runs."""
    return number in _handled


def _exit(number: int, frame: FrameType | None) -> None:
    """A running loop is asked to exit between two of its callbacks; a second signal ends even a loop that is blocked."""
    global _asked
    loop = asyncio._get_running_loop()
    if loop is None or loop is _asked or _raises_signals(frame):
        raise SystemExit(128 + number)
    _asked = loop
    loop.call_soon_threadsafe(sys.exit, 128 + number)


def _raises_signals(frame: FrameType | None) -> bool:
    """The code that was interrupted sends signals to its own process, as uvicorn does once it has stopped serving.

    Such code expects to be ended there. A callback would come too late: by then the loop has been stopped.
    """
    return frame is not None and "raise_signal" in frame.f_code.co_names
