"""Interrupts the package between two of its steps: what a signal handler, a finalizer or a lack of memory does.

Python runs signal handlers where a function begins and where a call of a C function returns. A `Points` counts these
places in the given parts of the package while a block runs, in the order in which they are passed, and acts at one of
them: it calls something, or raises. The same program passes the same places each time, so that a test can go
through all of them.

    passed = Points("_pipeline")                 # counts only
    with passed: scenario()
    for number in range(passed.count):
        with Points("_pipeline", act=interrupt, at=number): scenario()

`MemoryRefused` works the same way for the calls that allocate much: they raise `MemoryError` instead of running.

One thread only, the one that enters the block. Nothing of the package is changed; a profile function watches it.
"""

import inspect
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final, Self

import segment_async

PACKAGE: Final = Path(segment_async.__file__).parent

_SUSPENDS: Final = inspect.CO_COROUTINE | inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR

_ALLOCATES: Final = frozenset({"compress", "decompress", "extend", "flush", "join"})


class Interrupted(Exception):
    """What a signal handler of an application raises, as Celery's soft time limit does."""


_watching: list["Points"] = []


@contextmanager
def unwatched() -> Iterator[None]:
    """Count no place meanwhile, but for finalizers: what runs here runs on another thread in truth."""
    if not _watching or _watching[-1].on_any_thread:
        yield
        return
    profile = sys.getprofile()
    sys.setprofile(None)
    try:
        yield
    finally:
        sys.setprofile(profile)


class Points:
    """Counts the places that are passed in these parts of the package, and acts when it has come to one of them.

    Args:
        parts: paths within the package: a folder, or a file.
        act: called at the place, with profiling off; what it raises is raised there.
        at: number of the place, from 0; `None`: none.
        every: act again each time that so many more places are passed; `None`: once. What raises ends the watch, until
            `resume`.
        on_any_thread: a finalizer's places, and not a signal handler's: also what runs on another thread in truth.

    Attributes:
        count: places that were passed.
        where: file, line and function of the place where it acted last.
    """

    def __init__(
        self,
        *parts: str,
        act: Callable[[], object] = lambda: None,
        at: int | None = None,
        every: int | None = None,
        on_any_thread: bool = False,
    ) -> None:
        self.on_any_thread = on_any_thread
        self.count = 0
        self.where = ""
        self._prefixes = tuple(str(PACKAGE / part) for part in parts)
        self._act = act
        self._at = at
        self._every = every
        self._known: dict[CodeType, bool] = {}

    def __enter__(self) -> Self:
        _watching.append(self)
        sys.setprofile(self._watch)
        return self

    def resume(self) -> None:
        """Watch again, after it raised."""
        if self in _watching and sys.getprofile() is None:
            sys.setprofile(self._watch)

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        _watching.remove(self)

    def _watch(self, frame: FrameType, event: str, argument: Any) -> None:
        if self._is_ours(frame.f_code) and self._is_place(frame, event, argument):
            self.count += 1
            if self.count - 1 == self._at:
                self._at = None if self._every is None else self._at + self._every
                self.where = f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}"
                self._act()

    def _is_ours(self, code: CodeType) -> bool:
        known = self._known.get(code)
        if known is None:
            known = self._known[code] = code.co_filename.startswith(self._prefixes)
        return known

    def _is_place(self, frame: FrameType, event: str, argument: Any) -> bool:
        # A coroutine that goes on after an `await` begins nothing: no handler runs there.
        return event == "c_return" or (event == "call" and not frame.f_code.co_flags & _SUSPENDS)


class MemoryRefused(Points):
    """As `Points`; the places are calls that allocate much, and they raise `MemoryError` instead of running."""

    def __init__(self, *parts: str, at: int | None = None) -> None:
        super().__init__(*parts, act=_refuse, at=at)

    def _is_place(self, frame: FrameType, event: str, argument: Any) -> bool:
        return event == "c_call" and getattr(argument, "__name__", "") in _ALLOCATES


def _refuse() -> None:
    raise MemoryError


class _OutOfTime(KeyboardInterrupt):
    """Of a kind that event loops let through."""


@contextmanager
def cpu_limit(seconds: float) -> Iterator[None]:
    """Fail if the block computes for longer than this: a loop without an `await` stops every other limit.

    Raises:
        AssertionError: says where it was.
    """

    def stop(_number: int, frame: FrameType | None) -> None:
        raise _OutOfTime("".join(traceback.format_stack(frame, limit=3)))

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds, seconds)
    try:
        yield
    except _OutOfTime as late:
        raise AssertionError(f"still busy after {seconds:g} s of computing, at\n{late}") from None
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


@contextmanager
def before_line(number: int, code: CodeType, change: Callable[[], None]) -> Iterator[None]:
    """Make a change before a line of a function runs, the first of them being 0, as another thread may."""
    left = number

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal left
        if event == "line":
            left -= 1
            if left == -1:
                change()
        return trace if frame.f_code is code else None

    tracer = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(tracer)
