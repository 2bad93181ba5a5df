"""The one way to wait in this package: a condition, and a `Signal` that says when to look at it again.

`notify` remembers nothing and may come from any thread; waiters may be on any event loop. So every wait looks at its
condition, registers, looks once more, and only then sleeps. This file knows neither messages nor clients.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

# Seconds that count as over: a timer for less could fire before the clock has moved, again and again.
MOMENT: Final = 1e-5


class Host(Protocol):
    """What a wait needs of its client."""

    def ensure_running(self) -> float | None:
        """Make sure that a running loop works for the client. Returns the seconds until the next check; `None`: none."""

    def send_now(self) -> None:
        """Something waits for a message: send what is there without waiting for company."""


class Signal:
    """Wakes what waits on it.

    Attributes:
        mark: another object after each notification: a look that begins with one and ends with another may have missed
            something. Not a number, as threads that increase one at once would lose a step in builds without the GIL.
    """

    __slots__ = ("_waiters", "mark")

    def __init__(self) -> None:
        self.mark = object()
        # A dict, as thousands may wait and each may leave from anywhere.
        self._waiters: dict[asyncio.Future[None], Callable[[], bool] | None] = {}

    def register(self, done: Callable[[], bool] | None = None) -> asyncio.Future[None]:
        """A future of the running loop, which a `notify` resolves; check the condition again before awaiting it.

        `done`: only a `notify` at which it is true resolves the future. It runs on the notifying thread.
        """
        waiter = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = done
        return waiter

    def forget(self, waiter: asyncio.Future[None]) -> None:
        self._waiters.pop(waiter, None)

    def notify(self) -> None:
        self.mark = object()
        self._wake(any_change=True)

    def recheck(self) -> None:
        """As `notify`, for a change that can only matter to a condition: what waits for any change sleeps on."""
        self._wake(any_change=False)

    def _wake(self, *, any_change: bool) -> None:
        if self._waiters:
            # The copy is made in one step: a finalizer that comes here too may remove waiters.
            woken = [
                waiter for waiter, done in self._waiters.copy().items() if (any_change if done is None else done())
            ]
            # In this order: if an exception interrupts it, the next `notify` wakes them again.
            wake(woken)
            for waiter in woken:
                self._waiters.pop(waiter, None)


async def wait_until(
    done: Callable[[], bool],
    signal: Callable[[], Signal],
    host: Host,
    time_left: Callable[[], float | None] = lambda: None,
) -> bool:
    """Wait until `done()` is true, which `signal()` announces; `False`: the time was over first.

    If the client's loop goes away meanwhile, this loop takes the client over.
    """
    while not done():
        seconds = time_left()
        if seconds is not None and not seconds > MOMENT:
            # Not a number is no time.
            return False
        current = signal()
        waiter = current.register(done)
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
    timer = None if seconds is None else waiter.get_loop().call_later(seconds, settle, waiter, None)
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
    settle_all((waiter, None) for waiter in waiters)


def settle_all(results: Iterable[tuple[asyncio.Future[Any], Any]]) -> None:
    """Give futures of any loops their results, from any thread: one call a loop, as waking another thread's costs a system
    call.
    """
    by_loop: dict[asyncio.AbstractEventLoop, deque[tuple[asyncio.Future[Any], Any]]] = {}
    for each in results:
        loop = each[0].get_loop()
        if loop not in by_loop:
            by_loop[loop] = deque()
        by_loop[loop].append(each)
    for loop, of_loop in by_loop.items():
        call_in(loop, _settle_here, of_loop)
        if of_loop:
            # It is another thread's loop. Twice, in case that a signal handler raises there as the first call begins:
            # uvloop has signals handled at the first step after it has waited.
            call_in(loop, _settle_here, of_loop)


def call_in(loop: asyncio.AbstractEventLoop, function: Callable[[Any], None], argument: Any) -> None:
    """Call a function on a loop: at once on its own thread, else soon. On a closed loop nothing waits any more."""
    if asyncio._get_running_loop() is loop:
        function(argument)
        return
    try:
        loop.call_soon_threadsafe(function, argument)
    except RuntimeError:
        pass


def _settle_here(results: deque[tuple[asyncio.Future[Any], Any]]) -> None:
    try:
        while results:
            settle(*results[0])
            del results[0]
    finally:
        if results:
            # A signal handler has raised: the others are settled in the next turn.
            results[0][0].get_loop().call_soon(_settle_here, results)


def settle(future: asyncio.Future[Any], result: Any) -> None:
    """Give a future its result, unless it is done; a signal handler may give it one at any moment."""
    try:
        future.set_result(result)
    except asyncio.InvalidStateError:
        pass
