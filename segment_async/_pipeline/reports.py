"""What the application learns of failures: calls of `on_error`.

Hooks run on the client's loop, from a callback of their own, never with a lock held and never in a caller's path;
whatever they do, the pipeline goes on.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from contextvars import Context
from decimal import Decimal
from functools import partial
from itertools import count
from typing import Any, Final, NamedTuple

import orjson

from segment_async._exceptions import DeliveryError, stack_of
from segment_async._outcome import BatchResult, Outcome

from .async_calls import AsyncCall, AsyncCalls
from .limited_log import LimitedLog

OnError = Callable[[DeliveryError, list[dict[str, Any]]], Awaitable[None] | None]

# Seconds of calls of `on_error` after which the loop gets as much time: what a timer wakes takes several of its turns.
_SLICE_SECONDS: Final = 0.01
# Seconds that a cancelled hook gets to end.
_LAST_SECONDS: Final = 0.1
# What may wait for `on_error` to be called, until the client ends. Beyond that the oldest reports are skipped; the
# counters include them.
_MAX_WAITING: Final = 10_000
_MAX_WAITING_BYTES: Final = 8 * 2**20
# Exceptions of a hook that are not contained. What `pytest.fail` raises is none of them, and is no `Exception` either.
_ENDS_THE_PROGRAM: Final = (KeyboardInterrupt, SystemExit)


class _Report(NamedTuple):
    """`returned`: by `on_error`, which was called for it already, and not awaited: the loop ended before that."""

    result: BatchResult
    bodies: Callable[[], Iterable[bytes]]
    size: int
    place: int
    returned: Awaitable[None] | None = None

    def skip(self) -> None:
        """It is not made."""
        if asyncio.iscoroutine(self.returned):
            # Python would warn that it was never awaited.
            self.returned.close()


class Reports:
    """Calls `on_error`.

    `now` is a monotonic clock; `notify` is called when `are_made` may have become true, for what waits for that.

    Attributes:
        calls: asynchronous calls that run.
        limited_log: where else failures are told.
    """

    def __init__(
        self, on_error: OnError | None, limited_log: LimitedLog, now: Callable[[], float], notify: Callable[[], None]
    ) -> None:
        self.calls = AsyncCalls[_Report](self._put_back, self._call_ended)
        self.limited_log = limited_log
        self._on_error = on_error
        self._now = now
        self._notify = notify
        self._waiting: deque[_Report] = deque()
        self._places = count()
        self._waiting_bytes = 0
        self._is_bounded = True
        # Names the calls of `_make_scheduled` that are on their way.
        self._scheduled: object | None = None
        # The loop on which the reports are made. `None`: from the end of one until the next resumes.
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def are_made(self) -> bool:
        """Whether `on_error` was called for everything."""
        return self.are_made_before(math.inf)

    def are_made_before(self, place: float) -> bool:
        """As `are_made`, for what was added before this place."""
        try:
            return self._waiting[0].place >= place
        except IndexError:
            # Not asked first: another thread may make the last one.
            return True

    @property
    def are_stopped(self) -> bool:
        """Whether no loop makes them for now."""
        return self._loop is None

    def next_place(self) -> int:
        """A place after everything that was added until now."""
        return next(self._places)

    @property
    def has_waiting(self) -> bool:
        """Whether `on_error` is to be called, or awaited, for something, now or on the next loop."""
        return bool(self._waiting) or self.calls.have_left_some

    def add(
        self,
        result: BatchResult,
        bodies: Callable[[], Iterable[bytes]],
        size: int,
    ) -> None:
        """Call `on_error` soon, or on the next loop; from any thread."""
        if self._on_error is None:
            return
        self._waiting.append(_Report(result, bodies, size, next(self._places)))
        self._waiting_bytes += size
        skipped = 0
        while self._is_bounded and (
            len(self._waiting) > _MAX_WAITING or (self._waiting_bytes > _MAX_WAITING_BYTES and len(self._waiting) > 1)
        ):
            skipped += 1
            report = self._waiting.popleft()
            self._waiting_bytes -= report.size
            report.skip()
        if skipped:
            self._warn_skipped()
        if self._scheduled is None:
            self._schedule()

    def keep_all(self) -> None:
        """Skip no report from now on: the client ends and drops all that is pending in one step, which is no more than the
        queue held. `skip_rest` skips those for which there was no time.
        """
        self._is_bounded = False

    def resume(self, loop: asyncio.AbstractEventLoop) -> None:
        """Make the reports on this loop from now on."""
        # First: an earlier loop, amid `_schedule`, takes the one that it finds after its own mark.
        self._loop = loop
        self._scheduled = None
        self._schedule()

    def stop(self) -> None:
        """Call `on_error` on no loop until one resumes."""
        self._loop = None

    def _schedule(self, pause: float = 0.0) -> None:
        """Make the reports soon; or after a pause, if this is their loop."""
        if not self._waiting or self.are_stopped:
            return
        scheduled = object()
        try:
            # First, as the loop of another thread may have made them before the call returns.
            self._scheduled = scheduled
            loop = self._loop
            if loop is None:
                # Another thread has just stopped them.
                self._scheduled = None
                return
            is_here = loop is asyncio._get_running_loop()
            call = partial(loop.call_later, pause) if pause and is_here else loop.call_soon_threadsafe
            call(self._make_scheduled, scheduled, context=Context())
            # Once more, in case that a signal handler raises in the first one.
            call(self._make_sure, scheduled, context=Context())
        except BaseException as fault:
            self._scheduled = None
            # The loop is closed.
            if not isinstance(fault, RuntimeError):
                raise

    def _make_scheduled(self, scheduled: object) -> None:
        if scheduled is not self._scheduled:
            return
        self._scheduled = None
        # On a loop that is about to end, they wait for the next one.
        if not self.are_stopped:
            self.make(_SLICE_SECONDS)
            self._go_on()

    def _make_sure(self, scheduled: object) -> None:
        self._make_scheduled(scheduled)
        self._go_on()

    def _go_on(self) -> None:
        if self._scheduled is None and not self.calls.is_busy:
            self._schedule(_SLICE_SECONDS)

    def make(self, seconds: float) -> None:
        """Call `on_error` for what waits now, but not for what its calls add: that would hold the loop for ever.

        No call begins once so many seconds are over.
        """
        end = self._now() + seconds
        try:
            for _ in range(len(self._waiting)):
                if self.calls.is_busy or self._now() >= end:
                    break
                try:
                    report = self._waiting.popleft()
                except IndexError:
                    # Another thread, which closes the client, makes them as well.
                    break
                self._waiting_bytes -= report.size
                self._call(report)
        except BaseException:
            # A hook ends the program, or a signal handler raises; if the loop goes on, so do the reports.
            if self._scheduled is None:
                self._schedule()
            raise
        finally:
            self._notify()

    def _call(self, report: _Report) -> None:
        assert self._on_error is not None
        returned = report.returned
        try:
            if returned is None:
                messages = [_parsed(body) for body in report.bodies()]
                error = DeliveryError(Outcome(report.result.status, messages[0]["messageId"], *report.result[1:]))
                returned = self._on_error(error, messages)
            if isinstance(returned, Awaitable):
                self.calls.begin(AsyncCall(report, report.size, returned))
        except _ENDS_THE_PROGRAM:
            raise
        except BaseException as fault:
            # Also a CancelledError: a plain function cannot be cancelled, it met a cancelled future of its own.
            self._contain(fault)

    def _put_back(self, call: AsyncCall[_Report]) -> None:
        """A call has ended before its first step: what it was made for waits for the next loop."""
        self._waiting_bytes += call.size
        self._waiting.appendleft(call.report._replace(returned=call.returned))

    def _call_ended(self, fault: BaseException | None) -> None:
        if fault is not None and not isinstance(fault, _ENDS_THE_PROGRAM):
            self._contain(fault)
        if self._scheduled is None:
            self._schedule()

    def skip_rest(self) -> None:
        """The client ends: `on_error` is not called for what still waits."""
        if self._waiting:
            while self._waiting:
                self._waiting.popleft().skip()
            self._waiting_bytes = 0
            self._warn_skipped()

    def _warn_skipped(self) -> None:
        self.limited_log.warn("on_error skipped", "on_error is too slow, or no loop runs: reports are skipped.")

    def _contain(self, fault: BaseException) -> None:
        self.limited_log.warn("on_error", "on_error raised; the client goes on.\n%s", stack_of(fault))

    async def finish(self, seconds: float, goes_on: Callable[[asyncio.CancelledError], bool] = lambda _: False) -> None:
        """Wait for the hooks that run on this loop, and for those that begin as these end; cancel what still runs after
        `seconds`.

        `goes_on`: gets a cancellation of this wait, and returns whether to wait on.
        """
        clock = asyncio.get_running_loop().time
        end = clock() + seconds
        try:
            while (hooks := self.calls.here()) and (left := end - clock()) > 0:
                try:
                    done, _ = await asyncio.wait(hooks, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                except asyncio.CancelledError as error:
                    if not goes_on(error):
                        raise
                    continue
                if done and self._waiting:
                    self.make(end - clock())
        finally:
            self._notify()
            late = self.calls.here()
            for hook in late:
                hook.cancel()
            if late:
                text = "on_error was cancelled before it had ended: its loop, or the client, ended."
                self.limited_log.warn("on_error cut off", text)
        if late:
            await asyncio.wait(late, timeout=_LAST_SECONDS)


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        return orjson.loads(body)  # type: ignore[no-any-return]  # a message's JSON is an object
    except orjson.JSONDecodeError:
        # A Decimal travels as it is, also where no float is as large.
        return json.loads(body, parse_float=Decimal)  # type: ignore[no-any-return]
