"""An event loop whose time is virtual: whenever nothing is ready, the clock jumps to the next timer.

Twelve hours of back-off take milliseconds, and the same program takes the same steps every time. A program that waits
for something that can no longer come is told so (`Deadlock`) and does not hang the test run.

Only the loop's clock is virtual. `time.time`, `time.monotonic` and what happens in other threads and other processes
are real, and so is the time that a client measures between two loops (see `without_pauses`). While work is out in an
executor the clock stands still. Where no timer is left, the loop waits for real file descriptors as long as it takes,
and for other threads `PATIENCE` seconds.
"""

import asyncio
import math
import selectors
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from contextvars import Context
from typing import Any, TypeVar, TypeVarTuple

from segment_async import Client

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")

PATIENCE = 1.0
"""Real seconds that other threads have to call back before a loop without timers counts as dead."""


STEPS_A_SECOND = 50_000
"""Steps of a loop within one virtual second that are taken for a program that never waits."""


class Spinning(Exception):
    """The loop goes round and round while its clock hardly moves: something never waits."""


class Deadlock(Exception):
    """Nothing is ready, no timer is set, no file descriptor is watched: no task can ever go on."""


class VirtualClockLoop(asyncio.SelectorEventLoop):
    """A selector event loop that lives in virtual time, counted in seconds from `start`."""

    def __init__(self, start: float = 0.0) -> None:
        self._now = start
        self._jobs_in_executors = 0
        self._steps = 0
        self._steps_since = start
        super().__init__(_JumpingSelector(self._pass_time, self._count_step))
        # Timers within the clock's resolution count as due. The real clock's nanosecond vanishes in the rounding
        # of floats once the time is past some months, and a timer due "now" would never run.
        self._clock_resolution = 1e-6

    def time(self) -> float:
        return self._now

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        if when == math.inf:
            # Never. As a timer of the loop it would be waited for, a day at a time, instead of a `Deadlock`.
            return asyncio.TimerHandle(when, callback, args, self, context)
        return super().call_at(when, callback, *args, context=context)

    def advance(self, seconds: float) -> None:
        """Let time pass at once, with nothing run in between: a machine asleep, a loop blocked by the application."""
        if seconds < 0:
            raise ValueError("a monotonic clock does not go back")
        self._now += seconds

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*Arguments], T], *args: *Arguments
    ) -> asyncio.Future[T]:
        future = super().run_in_executor(executor, func, *args)
        self._jobs_in_executors += 1
        future.add_done_callback(self._job_came_back)
        return future

    def _job_came_back(self, _: asyncio.Future[Any]) -> None:
        self._jobs_in_executors -= 1

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        # The time limit that `asyncio.run` sets from 3.12 on would be virtual, and over before a thread has moved.
        await super().shutdown_default_executor()

    def _count_step(self) -> None:
        self._steps += 1
        if self._now >= self._steps_since + 1.0:
            self._steps, self._steps_since = 0, self._now
        elif self._steps > STEPS_A_SECOND:
            self._steps = 0
            raise Spinning(_describe_tasks(f"{STEPS_A_SECOND:,} steps within a second, with these tasks:"))

    def _pass_time(self, timeout: float | None) -> float | None:
        """Nothing is ready: move the clock, or say for how many real seconds to wait (`None`: without limit)."""
        if self._jobs_in_executors:
            return None
        if timeout is not None:
            self._now += timeout
            return 0.0
        return PATIENCE if threading.active_count() > 1 else 0.0


class _JumpingSelector(selectors.DefaultSelector):
    """Looks at the real file descriptors without waiting, and has the clock moved when none is ready."""

    def __init__(self, pass_time: Callable[[float | None], float | None], count_step: Callable[[], None]) -> None:
        super().__init__()
        self._pass_time = pass_time
        self._count_step = count_step

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._count_step()
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None and self._watches_real_files():
            return super().select(None)
        ready = super().select(self._pass_time(timeout))
        if not ready and timeout is None:
            raise Deadlock(_describe_tasks("nothing is ready and no timer is set, yet these tasks wait:"))
        return ready

    def _watches_real_files(self) -> bool:
        # One is always there: the pipe by which `call_soon_threadsafe` wakes the loop.
        return len(self.get_map()) > 1


def _describe_tasks(heading: str) -> str:
    tasks = sorted(asyncio.all_tasks(), key=lambda task: task.get_name())
    lines = [f"  {task!r}" for task in tasks]
    return "\n".join([heading, *lines])


def run(main: Coroutine[Any, Any, T], *, start: float = 0.0) -> T:
    """Run a coroutine to its end in virtual time, as `asyncio.run` does, with the same shutdown.

    Raises:
        Deadlock: what `main` waits for can no longer happen; names the tasks that wait.
        Spinning: a task never waits; names the tasks there are.
    """
    with asyncio.Runner(loop_factory=lambda: VirtualClockLoop(start)) as runner:
        return runner.run(main)


def without_pauses(client: Client) -> Client:
    """Let no time pass for the client between two of its loops: it would be real, and another one each time."""
    client._owner.clock.monotonic = lambda: 0.0
    return client


def running_clock() -> VirtualClockLoop:
    """Return the running loop, for its `time` and `advance`."""
    loop = asyncio.get_running_loop()
    if not isinstance(loop, VirtualClockLoop):
        raise TypeError("this code does not run under the virtual clock")
    return loop
