"""What the application and its log are told of failures.

Hooks run on the owning loop, from a callback of their own, never under a lock and never in a caller's path; whatever
they do, the pipeline goes on. Log records are rate-limited by their kind, and hold neither values nor secrets.
"""

from __future__ import annotations

import asyncio
import json
import logging
import traceback
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from contextvars import Context
from decimal import Decimal
from typing import Any, Final

import orjson

from segment_async._exceptions import DeliveryError
from segment_async._lifecycle.loop_end import leave_to_parent
from segment_async._outcome import BatchResult, Outcome

OnError = Callable[[DeliveryError, list[dict[str, Any]]], Awaitable[None] | None]

_log = logging.getLogger("segment_async")

# Seconds between two log records of one kind.
_QUIET_SECONDS: Final = 60.0
# Seconds for a hook that was cancelled to take note of it.
_LAST_SECONDS: Final = 0.1
# Reports that wait while no loop runs; older ones are forgotten, the counters know them all.
_MOST_WAITING: Final = 10_000


class Reports:
    def __init__(self, on_error: OnError | None, clock: Callable[[], float]) -> None:
        self._on_error = on_error
        self._clock = clock
        self._waiting: deque[tuple[BatchResult, Callable[[], Iterable[bytes]]]] = deque(maxlen=_MOST_WAITING)
        self._hooks: set[asyncio.Future[None]] = set()
        self._scheduled = False
        self._said: dict[str, float] = {}
        # Called when reports were made; whoever waits for them looks again.
        self.after: Callable[[], None] = lambda: None

    @property
    def are_wanted(self) -> bool:
        return self._on_error is not None

    @property
    def are_made(self) -> bool:
        """Whether `on_error` was called for all that was to be reported."""
        return not self._waiting

    def add(
        self, fate: BatchResult, messages: Callable[[], Iterable[bytes]], loop: asyncio.AbstractEventLoop | None
    ) -> None:
        """Call `on_error` soon, on this loop; from any thread. Without a loop the report waits for the next one."""
        if self._on_error is None:
            return
        self._waiting.append((fate, messages))
        if not self._scheduled and loop is not None:
            self.resume(loop)

    def resume(self, loop: asyncio.AbstractEventLoop) -> None:
        """Make the waiting reports on this loop."""
        if not self._waiting:
            return
        # First, as the loop of another thread may be through with it before the call returns.
        self._scheduled = True
        try:
            loop.call_soon_threadsafe(self.make, context=Context())
        except RuntimeError:
            self._scheduled = False

    def make(self) -> None:
        self._scheduled = False
        # Not what joins meanwhile: a hook whose own messages are dropped at once would hold the loop for ever.
        for _ in range(len(self._waiting)):
            self._call(*self._waiting.popleft())
        self.after()

    def _call(self, fate: BatchResult, bodies: Callable[[], Iterable[bytes]]) -> None:
        assert self._on_error is not None
        try:
            messages = [_parsed(body) for body in bodies()]
            error = DeliveryError(Outcome(fate.status, messages[0]["messageId"], *fate[1:]))
            result = self._on_error(error, messages)
        except (Exception, asyncio.CancelledError) as fault:
            # Nobody cancels a hook that is a plain function: it met a cancelled future of its own.
            self._contain(fault)
            return
        if isinstance(result, Awaitable):
            hook = asyncio.ensure_future(result)
            self._hooks.add(hook)
            hook.add_done_callback(self._hook_ended)

    def _hook_ended(self, hook: asyncio.Future[None]) -> None:
        self._hooks.discard(hook)
        fault = None if hook.cancelled() else hook.exception()
        if isinstance(fault, Exception):
            self._contain(fault)

    def _contain(self, fault: BaseException) -> None:
        self.warn("on_error", "on_error raised; the pipeline goes on.\n%s", stack_of(fault))

    def disown(self) -> None:
        """In a forked child."""
        leave_to_parent(self._hooks)

    async def finish(self, seconds: float) -> None:
        """Give hooks that still run on this loop so many seconds, then cancel them."""
        mine = asyncio.current_task()
        hooks = {hook for hook in self._hooks if hook is not mine and hook.get_loop() is asyncio.get_running_loop()}
        if not hooks:
            return
        _, late = await asyncio.wait(hooks, timeout=seconds)
        for hook in late:
            hook.cancel()
        if late:
            await asyncio.wait(late, timeout=_LAST_SECONDS)

    def warn(self, kind: str, text: str, *args: object) -> None:
        """Log a warning, unless one of its kind was logged within the last minute."""
        now = self._clock()
        last = self._said.get(kind)
        if last is None or now - last >= _QUIET_SECONDS:
            self._said[kind] = now
            _log.warning(text, *args)

    def warn_once(self, kind: str, text: str, *args: object) -> None:
        if kind not in self._said:
            self._said[kind] = self._clock()
            _log.warning(text, *args)


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        return orjson.loads(body)  # type: ignore[no-any-return]  # a message's JSON is an object
    except orjson.JSONDecodeError:
        # A Decimal travels as it is, also where no float is as large.
        return json.loads(body, parse_float=Decimal)  # type: ignore[no-any-return]


def stack_of(error: BaseException) -> str:
    """Where an error came from: neither its text nor source lines nor locals, which may hold what no log should."""
    places = traceback.extract_tb(error.__traceback__)
    lines = (f'  File "{place.filename}", line {place.lineno}, in {place.name}\n' for place in places)
    return "".join((*lines, type(error).__qualname__))
