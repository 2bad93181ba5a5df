"""What is asked of the writing thread, and how the answers find their way back.

An answer goes to a future of whatever loop asked, or to a function. All answers of a turn to one loop are one wake-up.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from segment_async._exceptions import SpoolUnavailable
from segment_async._outcome import BatchResult

from ._intake import NewMessage
from ._protocol import Appended, Window

_logger = logging.getLogger("segment_async")

Done = Callable[[Appended | SpoolUnavailable], None]
Future = asyncio.Future[Any]


class Append:
    __slots__ = ("done", "message")

    def __init__(self, message: NewMessage, done: Done | Future) -> None:
        self.message = message
        self.done = done


class Record:
    __slots__ = ("done", "keys", "what")

    def __init__(self, keys: Sequence[int], what: int | BatchResult, done: Future) -> None:
        # The caller may go on using its list.
        self.keys = list(keys)
        self.what = what
        self.done = done


class Read:
    """A reader who waits, and who may go away just as the messages come."""

    def __init__(self, max_count: int, max_bytes: int, done: Future) -> None:
        self.max_count = max_count
        self.max_bytes = max_bytes
        self.done = done
        self.is_gone = False
        self._window: Window | None = None
        self._guard = threading.Lock()

    def fill(self, window: Window) -> bool:
        with self._guard:
            self._window = window
            return not self.is_gone

    def leave(self) -> Window | None:
        with self._guard:
            self.is_gone = True
            return self._window


class GiveBack:
    def __init__(self, window: Window) -> None:
        self.window = window


class Close:
    def __init__(self, done: Future) -> None:
        self.done = done


Asked = Append | Record | Read | Close
Request = Asked | GiveBack
Answers = list[tuple[Asked, Any]]


def refusals(requests: Iterable[Request], reason: str) -> Answers:
    """To close is never refused."""
    refusal = SpoolUnavailable(reason)
    asked = [each for each in requests if not isinstance(each, GiveBack)]
    return [(each, None if isinstance(each, Close) else refusal) for each in asked]


def give(answers: Answers) -> None:
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Future, Any]]] = {}
    for asked, result in answers:
        done = asked.done
        if isinstance(done, asyncio.Future):
            by_loop.setdefault(done.get_loop(), []).append((done, result))
        else:
            _call(done, result)
    for loop, resolved in by_loop.items():
        # A loop that is closed has nobody left who waits.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(_resolve, resolved)


def _call(done: Done, result: Any) -> None:
    try:
        done(result)
    except Exception:
        _logger.exception("a function that the spool was to call raised")


def _resolve(resolved: list[tuple[Future, Any]]) -> None:
    for future, result in resolved:
        if not future.done():
            future.set_result(result)
