"""The one way to wait in this package: a condition, and a `Signal` that says when to look at it again.

`notify` remembers nothing and may come from any thread; waiters may be on any event loop. So every wait looks at its
condition, registers, looks once more, and only then sleeps. This file knows neither messages nor clients.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain, filterfalse, repeat
from typing import Any, Final, Protocol

# Seconds that count as over: a timer for less could fire before the clock has moved, again and again.
MOMENT: Final = 1e-5


class Host(Protocol):
    """What a wait needs of its client."""

    def ensure_running(self) -> float | None:
        """Make sure that a running loop works for the client. Returns the seconds until the next check; `None`: none."""

    def send_now(self) -> None:
        """Something waits for a message: send what is there without waiting for more."""


class Signal:
    """Wakes what waits on it.

    Args:
        reached: how far the order has come in which `register` is given a place.

    Attributes:
        mark: another object after each notification: a look that begins with one and ends with another may have missed
            something. Not a number, as threads that increase one at once would lose a step in builds without the GIL.
    """

    __slots__ = ("_places", "_reached", "_waiters", "mark")

    def __init__(self, reached: Callable[[], int] = int) -> None:
        self.mark = object()
        self._reached = reached
        self._places: dict[asyncio.Future[None], int] = {}
        # A dict, as thousands may wait and each may leave from anywhere.
        self._waiters: dict[asyncio.Future[None], Callable[[], bool] | None] = {}

    def register(self, done: Callable[[], bool] | None = None, place: int | None = None) -> asyncio.Future[None]:
        """A future of the running loop, which a `notify` resolves; check the condition again before awaiting it.

        `done`: only a `notify` at which it is true resolves the future. It runs on the notifying thread. `place`: only
        one at which this place is reached does. One look serves all places, and thousands may be waited for.
        """
        waiter = asyncio.get_running_loop().create_future()
        if place is None:
            self._waiters[waiter] = done
        else:
            self._places[waiter] = place
        return waiter

    def forget(self, waiter: asyncio.Future[None]) -> None:
        self._waiters.pop(waiter, None)
        self._places.pop(waiter, None)

    def notify(self) -> None:
        self.mark = object()
        self._wake(any_change=True)

    def recheck(self) -> None:
        """As `notify`, for a change that can only matter to a condition: what waits for any change sleeps on."""
        self._wake(any_change=False)

    def _wake(self, *, any_change: bool) -> None:
        if not (self._waiters or self._places):
            return
        # The copies are made in one step: a finalizer that comes here too may remove waiters.
        woken = [waiter for waiter, done in self._waiters.copy().items() if (any_change if done is None else done())]
        if self._places:
            reached = self._reached()
            woken += [waiter for waiter, place in self._places.copy().items() if place <= reached]
        # In this order: if an exception interrupts it, the next `notify` wakes them again.
        wake(woken)
        for waiter in woken:
            self.forget(waiter)


async def wait_until(
    done: Callable[[], bool],
    signal: Callable[[], Signal],
    host: Host,
    time_left: Callable[[], float | None] = lambda: None,
    place: int | None = None,
) -> bool:
    """Wait until `done()` is true, which `signal()` announces; `False`: the time was over first.

    `place`: it is true once the signal's order has reached this place.
    If the client's loop goes away meanwhile, this loop takes the client over.
    """
    while not done():
        seconds = time_left()
        if seconds is not None and not seconds > MOMENT:
            # Not a number is no time.
            return False
        current = signal()
        waiter = current.register(done, place)
        try:
            if done() or signal() is not current:
                continue
            await resolved(waiter, shorter(seconds, host.ensure_running()))
        finally:
            current.forget(waiter)
    return True


async def resolved(waiter: asyncio.Future[None], seconds: float | None) -> None:
    """Wait until a future of this loop is resolved, or the time is over, at which it is resolved as well.

    `asyncio.wait` does the same with a second future, one turn of the loop later: 15 µs more. A cancellation of the
    wait cancels the future.
    """
    timer = None
    if seconds is not None:
        timer = waiter.get_loop().call_later(seconds, _run_all, _settling((waiter,), (None,)))
    try:
        await waiter
    finally:
        if timer is not None:
            timer.cancel()


def shorter(one: float | None, other: float | None) -> float | None:
    """The shorter of two time limits; `None`: no limit."""
    return min((seconds for seconds in (one, other) if seconds is not None), default=None)


def wake(waiters: Iterable[asyncio.Future[None]]) -> None:
    """Resolve futures of any loops, from any thread."""
    by_loop: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    for waiter in waiters:
        by_loop.setdefault(waiter.get_loop(), []).append(waiter)
    for loop, of_loop in by_loop.items():
        _run_on(loop, _settling(of_loop, repeat(None)), len(of_loop))


def settle_all(results: Iterable[tuple[asyncio.Future[Any], Any]]) -> None:
    """Give futures of any loops their results, from any thread. One that is done already keeps its result, and one of a
    closed loop has nothing that waits for it.
    """
    by_loop: dict[asyncio.AbstractEventLoop, list[Iterator[None]]] = {}
    for future, result in results:
        by_loop.setdefault(future.get_loop(), []).append(_settling((future,), (result,)))
    for loop, of_loop in by_loop.items():
        _run_on(loop, chain.from_iterable(of_loop), len(of_loop))


def settle_from_thread(future: asyncio.Future[Any], result: Any = None, error: BaseException | None = None) -> bool:
    """Give a future of another thread's loop its result, or its error, unless it is done; returns whether that loop is
    still there.
    """
    value, setter = (result, None) if error is None else (error, type(future).set_exception)
    try:
        future.get_loop().call_soon_threadsafe(_run_all, _settling((future,), (value,), setter))
    except RuntimeError:
        return False
    return True


# A signal handler runs between two steps of Python code, and uvloop has it run at the first one after it has waited. What
# it raises there takes the callback with it, and what would have been woken sleeps for ever. So what another thread or a
# timer calls has no such step: an iterator made of C functions, and one that exhausts it.
_run_all: Final = deque[None](maxlen=0).extend


def _settling(
    futures: Sequence[asyncio.Future[Any]], results: Iterable[Any], setter: Callable[..., None] | None = None
) -> Iterator[None]:
    """Settles futures of one loop as it is iterated. Those that are done use up no result: give several the same one."""
    kind = type(futures[0])
    return map(setter or kind.set_result, filterfalse(kind.done, futures), results)


def _run_on(loop: asyncio.AbstractEventLoop, settling: Iterator[None], count: int) -> None:
    """Few calls a loop, as waking another thread's costs a system call, and Python's lock."""
    if asyncio._get_running_loop() is loop:
        _run_all(settling)
        return
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(_run_all, settling)
        if count > 1:
            # What is left goes on if a signal handler has raised amid the first one, in code of the loop's own.
            loop.call_soon_threadsafe(_run_all, settling)
