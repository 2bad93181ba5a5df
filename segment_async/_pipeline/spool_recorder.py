"""How messages ended, recorded by the spool: a task on the client's loop.

The same task goes on with what an exception has interrupted in the spool's intake.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from itertools import takewhile
from typing import Any

from segment_async._exceptions import SpoolUnavailable
from segment_async._lifecycle.tasks import SupervisedTask, ends_the_task
from segment_async._lifecycle.waiting import Host, wait_until
from segment_async._outcome import BatchResult
from segment_async.spool._protocol import Outlet

from .queue import Queue
from .reports import Reports
from .spool_intake import SpoolIntake

Outcomes = deque[tuple[list[int], BatchResult, str]]
"""How messages ended that the spool has not recorded yet, the first of them while it does."""


def is_among(outcomes: Outcomes, key: int) -> bool:
    """Whether the message that the spool calls so has ended."""
    # A copy, as the loop may take some out meanwhile.
    return any(key in keys for keys, _, _ in outcomes.copy())


class SpoolRecorder:
    """Records `outcomes`, in their order."""

    def __init__(self, spool: Outlet, outcomes: Outcomes, intake: SpoolIntake, queue: Queue, reports: Reports) -> None:
        self._spool = spool
        self._outcomes = outcomes
        self._intake = intake
        self._queue = queue
        self._reports = reports
        self._task = SupervisedTask("spool recorder", self._record)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Record on this loop, which runs in this thread."""
        self._task.start(loop)

    def stop(self) -> asyncio.Task[Any] | None:
        """Returns the task, to be told to end."""
        return self._task.stop()

    def settle(self, keys: Iterable[int], result: BatchResult, answer: str) -> None:
        """Have an outcome recorded, on this loop or on a later one. The caller notifies."""
        self._outcomes.append((list(keys), result, answer))

    async def _record(self) -> None:
        while True:
            await self._until_work()
            if self._intake.is_interrupted:
                self._intake.pump()
                # Whatever is left then, others get their turn.
                await asyncio.sleep(0)
            if self._outcomes:
                await self._record_one()
            elif self._intake.answers.waits_for_record is not None:
                # An exception came when the outcome was recorded.
                self._intake.recorded()

    async def _until_work(self) -> None:
        """Wait until there is work for the recorder, or another moment to wait for."""
        intake, queue = self._intake, self._queue
        asked_at = intake.not_before
        await wait_until(
            lambda: (
                bool(self._outcomes)
                or intake.answers.waits_for_record is not None
                or intake.is_interrupted
                or intake.not_before is not asked_at
            ),
            lambda: queue.changed,
            queue.queued.host,
            intake.time_left,
        )

    async def _record_one(self) -> None:
        """Record the first outcome, and those behind it that are the same."""
        _, result, answer = self._outcomes[0]
        same = [*takewhile(lambda outcome: outcome[1:] == (result, answer), self._outcomes.copy())]
        keys = [key for outcome in same for key in outcome[0]]
        for is_last in (False, True):
            try:
                await self._spool.settle(keys, result, answer)
                break
            except BaseException as error:
                if ends_the_task(error):
                    raise
                is_unavailable = isinstance(error, SpoolUnavailable)
                # Any other error may be a signal handler's: once more.
                if is_last or is_unavailable:
                    text = error if is_unavailable else type(error).__qualname__
                    self._reports.limited_log.warn(
                        "spool record", "The spool did not record outcomes; messages may be sent again: %s", text
                    )
                    break
        # Before they are taken out: an answer is looked for in both places.
        self._intake.answers.recorded.extend(keys)
        with self._queue.lock:
            # The recorder of a loop that has just taken the client over may have been faster.
            while same and self._outcomes and self._outcomes[0] is same.pop(0):
                self._outcomes.popleft()
        self._queue.notify()
        self._intake.recorded()

    @property
    def is_recorded(self) -> bool:
        """Every outcome is recorded, or the spool has refused to."""
        return not self._outcomes

    async def until_recorded(self, host: Host, time_left: Callable[[], float | None]) -> None:
        await wait_until(lambda: self.is_recorded, lambda: self._queue.changed, host, time_left)

    async def record_rest(self) -> None:
        """The client is closing: record what is left."""
        while self._outcomes:
            await self._record_one()
