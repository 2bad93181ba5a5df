"""For AWS Lambda: sends the messages of an invocation before the process is frozen.

    client = Client("WRITE_KEY")  # at module level: one client for all invocations of a process

    @flush_after(client)
    async def handler(event, context):
        await client.track("user-1", "Order Completed")

This file knows how much time Lambda leaves and which event loop to use. The client does the sending.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from functools import cache, wraps
from inspect import isawaitable
from typing import Any, Final, TypeVar

from . import Client, RetryPolicy
from ._checks import check_client, check_seconds
from ._hooks import HookRunner

__all__ = ["flush_after"]

_log = logging.getLogger("segment_async")

# Lambda's default timeout in seconds, for invocations without Lambda's context object.
_DEFAULT_SECONDS: Final = 3.0
# Seconds of waiting without any delivery after which invocations pause. Less may be due to an invocation's time limit.
_ENOUGH: Final = 0.5
# The pauses: 5 s, doubled up to a minute.
_PAUSES: Final = RetryPolicy(backoff=5, max_backoff=60)
# Turns of the loop within which an answer is read that came between two invocations. They take about a millisecond.
_TURNS: Final = 50

Handler = Callable[[Any, Any], Any]
Run = Callable[[Coroutine[Any, Any, Any]], Any]
_T = TypeVar("_T")


def flush_after(client: Client, margin: float = 0.3, *, timeout: float = 2.0) -> Callable[[Handler], Handler]:
    """Decorate a handler, sync or async: Lambda calls the result, which flushes the client after each invocation.

    The flush takes at most `timeout` seconds, and ends `margin` seconds before the invocation's time limit. While
    Segment does not answer, invocations do not wait, except for one attempt now and then: 5 seconds after a flush that
    was not complete, then after twice as long each time, up to a minute, until something is delivered. Messages that
    are left are logged, stay in the client, and are sent during a later invocation. Async handlers run on one loop that
    is kept for the process. The thread's current loop is not changed, so that the handler may be an adapter such as
    Mangum.

    Raises:
        TypeError: the client is not a `segment_async.Client`; a blocking one has a thread of its own.
        ValueError: `margin` or `timeout` is no number of seconds.
    """
    check_client("flush_after", client, Client)
    check_seconds(margin=margin, timeout=timeout)
    return _Flushes(client, margin, timeout, time.time).decorate


class _Flushes:
    """The flushes after the invocations of one process.

    `clock` returns seconds since the epoch: while a process is frozen, a monotonic clock may stand still.
    """

    def __init__(self, client: Client, margin: float, timeout: float, clock: Callable[[], float]) -> None:
        self._client = client
        self._margin = margin
        self._timeout = timeout
        self._clock = clock
        self._pause = _Pause(min(timeout, _ENOUGH))
        # Messages whose requests were under way when the last invocation ended.
        self._in_flight = 0
        self._hooks = HookRunner()

    def decorate(self, handler: Handler) -> Handler:
        @wraps(handler)
        def invoke(event: Any, context: Any) -> Any:
            run: Run = _run_once
            try:
                result = handler(event, context)
                if isawaitable(result):
                    run = _process_loop().run_until_complete
                    result = run(_awaited(result))
                return result
            finally:
                try:
                    self._flush(run, max(0.0, min(self._timeout, _seconds_left(context) - self._margin)))
                except Exception as error:
                    # It must replace neither the handler's result nor its exception.
                    self._hooks.log_once("flushing", error)

        return invoke

    def _flush(self, run: Run, seconds: float) -> None:
        client, pause = self._client, self._pause
        if not self._is_well():
            run = self._without_lost_requests(run, seconds)
        if pause.is_over(self._clock()) and not client.statistics().retry_in:
            left = _run(run, client.flush(timeout=seconds))
            pause.note_flush(seconds, left, client.statistics().delivered, self._clock())
        else:
            left = client.statistics().pending
        self._in_flight = client.statistics().in_flight
        if left:
            messages = "1 message is" if left == 1 else f"{left} messages are"
            _log.warning("Flush incomplete: %s kept for a later invocation.", messages)

    def _is_well(self) -> bool:
        statistics = self._client.statistics()
        return self._pause.is_well(statistics.delivered) and not statistics.retry_in

    def _without_lost_requests(self, run: Run, seconds: float) -> Run:
        """Where to flush; a request that was in flight at the end of the last invocation is not waited for again."""
        if run is _run_once or not self._in_flight:
            return run
        # Answers may have come since the last invocation.
        _run(run, _some_turns())
        if self._is_well() or not self._client.statistics().in_flight or seconds < self._pause.enough:
            return run
        # The client's time limit for a request does not count the time in which the process is frozen, and may be over
        # only after many invocations. A client that changes to another loop sends what is in flight again.
        return _run_once


class _Pause:
    """When invocations may wait for Segment again, after flushes that were not complete.

    Pure: the caller says what time it is, and how many messages were delivered so far.
    """

    def __init__(self, enough: float) -> None:
        self.enough = enough
        self._waited = 0.0
        self._pauses = 0
        self._began = 0.0
        self._seconds = 0.0
        self._delivered = 0

    def is_well(self, delivered: int) -> bool:
        """`False`: there was a pause, and no delivery since its beginning."""
        if delivered != self._delivered:
            self._forget(delivered)
        return not self._pauses

    def is_over(self, now: float) -> bool:
        # If the clock was set back, it is.
        return not 0 <= now - self._began < self._seconds

    def note_flush(self, seconds: float, left: int, delivered: int, now: float) -> None:
        """A flush that could wait so long has left so many messages."""
        if delivered != self._delivered or not left:
            self._forget(delivered)
        if not left:
            return
        self._waited += seconds
        if self._waited and self._waited >= self.enough:
            self._pauses += 1
            self._began, self._seconds = now, _PAUSES.delay(self._pauses, 0.0)

    def _forget(self, delivered: int) -> None:
        self._delivered = delivered
        self._waited = self._seconds = 0.0
        self._pauses = 0


@cache
def _process_loop() -> asyncio.AbstractEventLoop:
    """The loop for the async handlers of all invocations. It is never set as a thread's current loop."""
    loop = asyncio.new_event_loop()
    atexit.register(_close, loop)
    return loop


def _close(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


def _run_once(work: Coroutine[Any, Any, Any]) -> Any:
    """Run the coroutine on a new loop: the loop that a sync handler uses, if any, is not known and may be closed."""
    if asyncio._get_running_loop() is not None:
        raise RuntimeError("called from a running event loop")
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        return runner.run(work)


async def _awaited(result: Awaitable[Any]) -> Any:
    return await result


def _run(run: Run, work: Coroutine[Any, Any, _T]) -> _T:
    try:
        result: _T = run(work)
        return result
    finally:
        # If `run` raised because a loop is running already, the coroutine was never started.
        work.close()


async def _some_turns() -> None:
    """Let the client read what has come, without waiting."""
    for _ in range(_TURNS):
        await asyncio.sleep(0)


def _seconds_left(context: Any) -> float:
    try:
        return float(context.get_remaining_time_in_millis()) / 1_000
    except (AttributeError, TypeError, ValueError):
        # The handler was called from a test, or on a platform that only resembles Lambda.
        return _DEFAULT_SECONDS
