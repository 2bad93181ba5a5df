"""The door for AWS Lambda: send what an invocation collected before the process is frozen.

    client = Client("WRITE_KEY")  # of the module: it lives as long as the process, over all its invocations

    @flush_after(client)
    async def handler(event, context):
        await client.track("user-1", "Order Completed")

Knows the time that Lambda leaves and whose event loop is whose; sending is the client's business.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
from collections.abc import Awaitable, Callable, Coroutine
from functools import cache, wraps
from inspect import isawaitable
from typing import Any, Final

from . import Client
from ._hooks import Contained

__all__ = ["flush_after"]

_log = logging.getLogger("segment_async")

# Seconds that Lambda gives a function whose owner says nothing of it; for calls that come without Lambda's context.
_UNTOLD_SECONDS: Final = 3.0

Handler = Callable[[Any, Any], Any]
Runs = Callable[[Coroutine[Any, Any, Any]], Any]


def flush_after(client: Client, margin: float = 0.3) -> Callable[[Handler], Handler]:
    """Flush the client after each invocation of a handler, sync or async; gives the function for Lambda to call.

    Flushing ends `margin` seconds before the invocation's time does. What is left by then is logged, stays in the
    client, and goes with the next invocation. Async handlers run on one loop that lives as long as the process; the
    thread's current loop is left as it was, so that an adapter such as Mangum may stand within.
    """
    contained = Contained()

    def decorate(handler: Handler) -> Handler:
        @wraps(handler)
        def invoke(event: Any, context: Any) -> Any:
            run: Runs = _run_once
            try:
                answer = handler(event, context)
                if isawaitable(answer):
                    run = _kept_loop().run_until_complete
                    answer = run(_awaited(answer))
                return answer
            finally:
                try:
                    _flush(client, run, _seconds_left(context) - margin)
                except Exception as fault:
                    # The handler's answer, or its own fault, is what counts.
                    contained.say("Flushing", fault)

        return invoke

    return decorate


@cache
def _kept_loop() -> asyncio.AbstractEventLoop:
    """For async handlers, over all invocations; nobody's current loop, it is only ever run from here."""
    loop = asyncio.new_event_loop()
    atexit.register(_end, loop)
    return loop


def _end(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


def _run_once(work: Coroutine[Any, Any, Any]) -> Any:
    """On a loop of its own: which one a sync handler uses, if any, is not known, and it may be over."""
    if asyncio._get_running_loop() is not None:
        raise RuntimeError("called from a running event loop")
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        return runner.run(work)


async def _awaited(answer: Awaitable[Any]) -> Any:
    return await answer


def _flush(client: Client, run: Runs, seconds: float) -> None:
    flushing = client.flush(timeout=max(0.0, seconds))
    try:
        left = run(flushing)
    finally:
        # Where no loop can be run here, it was not begun.
        flushing.close()
    if left:
        _log.warning("%d messages are left when the invocation's time is up; they wait for the next one.", left)


def _seconds_left(context: Any) -> float:
    try:
        return float(context.get_remaining_time_in_millis()) / 1_000
    except (AttributeError, TypeError, ValueError):
        # Called by hand, or by something that only resembles Lambda.
        return _UNTOLD_SECONDS
