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
from collections.abc import Awaitable, Callable, Coroutine
from functools import cache, wraps
from inspect import isawaitable
from typing import Any, Final

from . import Client
from ._hooks import HookRunner

__all__ = ["flush_after"]

_log = logging.getLogger("segment_async")

# Lambda's default timeout in seconds, for invocations without Lambda's context object.
_DEFAULT_SECONDS: Final = 3.0

Handler = Callable[[Any, Any], Any]
Run = Callable[[Coroutine[Any, Any, Any]], Any]


def flush_after(client: Client, margin: float = 0.3, *, timeout: float = 2.0) -> Callable[[Handler], Handler]:
    """Decorate a handler, sync or async: Lambda calls the result, which flushes the client after each invocation.

    The flush takes at most `timeout` seconds, and ends `margin` seconds before the invocation's time limit. While
    Segment does not answer, invocations do not wait, except for one attempt now and then. Messages that are left are
    logged, stay in the client, and are sent during the next invocation. Async handlers run on one loop that is kept for the process.
    The thread's current loop is not changed, so that the handler may be an adapter such as Mangum.
    """
    hooks = HookRunner()

    def decorate(handler: Handler) -> Handler:
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
                    _flush(client, run, min(timeout, _seconds_left(context) - margin))
                except Exception as error:
                    # It must replace neither the handler's result nor its exception.
                    hooks.log_once("flushing", error)

        return invoke

    return decorate


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


def _flush(client: Client, run: Run, seconds: float) -> None:
    if client.statistics().retry_in > 0:
        # Nothing can be sent now; the next invocations see whether it can.
        seconds = 0.0
    flushing = client.flush(timeout=max(0.0, seconds))
    try:
        left = run(flushing)
    finally:
        # If `run` raised because a loop is running already, the coroutine was never started.
        flushing.close()
    if left:
        messages = "1 message is" if left == 1 else f"{left} messages are"
        _log.warning("Flush incomplete: %s kept for a later invocation.", messages)


def _seconds_left(context: Any) -> float:
    try:
        return float(context.get_remaining_time_in_millis()) / 1_000
    except (AttributeError, TypeError, ValueError):
        # The handler was called from a test, or on a platform that only resembles Lambda.
        return _DEFAULT_SECONDS
