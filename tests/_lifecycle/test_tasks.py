"""Supervised tasks: cancelled, crashed or ended, and what their loop and the log see of it."""

import asyncio
import gc
import inspect
import logging
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import pytest

from segment_async._lifecycle.tasks import RESTART_DELAY, SupervisedTask, start_task
from tests.support.interruptions import Interrupted, Points
from tests.support.virtual_clock import VirtualClockLoop, run, running_clock

SECRET = "THE-SECRET"
PRECISION = 1e-6


class Runs:
    """Notes when each run began, and does the next of these things in it; then it waits for ever."""

    def __init__(self, *steps: Callable[[], Awaitable[None]]) -> None:
        self.steps = list(steps)
        self.began: list[float] = []
        self.supervised = SupervisedTask("test", self.main)

    async def main(self) -> None:
        self.began.append(running_clock().time())
        if self.steps:
            await self.steps.pop(0)()
            return
        await asyncio.Event().wait()

    @property
    def gaps(self) -> list[float]:
        return [after - before for before, after in zip(self.began, self.began[1:], strict=False)]


async def crash() -> None:
    raise RuntimeError(SECRET)


async def cancel() -> None:
    raise asyncio.CancelledError


async def end() -> None:
    """Return."""


def after(seconds: float, step: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
    async def later() -> None:
        await asyncio.sleep(seconds)
        await step()

    return later


def watched(runs: Runs, seconds: float) -> Runs:
    async def main() -> None:
        runs.supervised.start(running_clock())
        await asyncio.sleep(seconds)
        task = runs.supervised.stop()
        if task is not None:
            task.cancel()
            await asyncio.wait((task,))

    run(main())
    return runs


class TestRestarts:
    def test_one_that_runs_is_left_alone(self) -> None:
        assert watched(Runs(), 1_000).began == [0]

    def test_one_that_returns_has_ended(self) -> None:
        assert watched(Runs(end), 1_000).began == [0]

    def test_one_that_is_cancelled_comes_back(self, caplog: pytest.LogCaptureFixture) -> None:
        runs = watched(Runs(*[cancel] * 5), 1_000)
        assert runs.gaps == [pytest.approx(RESTART_DELAY, abs=PRECISION)] * 5
        assert not caplog.records

    def test_which_is_logged_once_for_a_reader_who_asks(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.DEBUG, "segment_async"):
            watched(Runs(*[cancel] * 5), 1_000)
        assert [record.getMessage() for record in caplog.records] == [
            "The client's test was cancelled, and goes on. This is logged once."
        ]

    def test_one_that_is_cancelled_from_outside_comes_back(self) -> None:
        async def main() -> None:
            runs = Runs()
            runs.supervised.start(running_clock())
            for count in range(1, 6):
                await asyncio.sleep(1)
                assert len(runs.began) == count
                for task in asyncio.all_tasks() - {asyncio.current_task()}:
                    task.cancel()
            stopped = runs.supervised.stop()
            assert stopped is not None
            stopped.cancel()

        run(main())

    def test_one_that_crashes_waits_longer_each_time(self) -> None:
        runs = watched(Runs(*[crash] * 70), 1_000)
        assert runs.gaps[:3] == [pytest.approx(seconds, abs=PRECISION) for seconds in (0.1, 0.2, 0.3)]
        assert runs.gaps == sorted(runs.gaps)
        assert runs.gaps[-1] == pytest.approx(5.0, abs=PRECISION)
        assert len(runs.began) == 71

    def test_and_no_longer_once_it_was_well_for_a_while(self) -> None:
        runs = watched(Runs(crash, crash, after(59, crash), after(61, crash), crash), 1_000)
        assert runs.gaps == [pytest.approx(seconds, abs=PRECISION) for seconds in (0.1, 0.2, 59 + 0.3, 61 + 0.1, 0.2)]

    def test_a_change_of_loops_as_it_begins_leaves_nothing_of_the_earlier_one(self) -> None:
        """Another thread stops it while the loop makes its task; what begins then must find no task in its place."""

        def factory(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> Any:
            loop.set_task_factory(None)
            left.append(runs.supervised.stop())
            return loop.create_task(work)

        async def main() -> None:
            runs.supervised.start(running_clock())
            running_clock().set_task_factory(factory)
            await asyncio.sleep(0.1)
            assert runs.began == []
            assert runs.supervised.stop() is None
            runs.supervised.start(running_clock())
            await asyncio.sleep(0.1)
            assert len(runs.began) == 1
            task = runs.supervised.stop()
            assert task is not None
            task.cancel()

        left: list[asyncio.Task[None] | None] = []
        runs = Runs()
        run(main())
        assert left == [None]

    def test_a_task_factory_that_raises_costs_one_start(self, caplog: pytest.LogCaptureFixture) -> None:
        failures = 3

        def factory(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> Any:
            nonlocal failures
            if "Runs.main" in work.__qualname__ and failures:
                failures -= 1
                raise ZeroDivisionError
            return asyncio.Task(work, loop=loop, **options)

        async def main() -> None:
            running_clock().set_task_factory(factory)
            runs = Runs()
            runs.supervised.start(running_clock())
            await asyncio.sleep(10)
            assert runs.began == [pytest.approx(0.6, abs=PRECISION)]
            stopped = runs.supervised.stop()
            assert stopped is not None
            stopped.cancel()

        run(main())
        assert caplog.text.count("The test task crashed") == 1


class TestStartTask:
    def test_an_exception_after_the_task_was_made_leaves_none_behind(self) -> None:
        """A signal handler may raise as the factory returns; a coroutine that was closed would break its task."""
        reports: list[dict[str, Any]] = []

        def factory(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> Any:
            made.append(asyncio.Task(work, loop=loop, **options))
            raise ZeroDivisionError

        async def main() -> None:
            loop = running_clock()
            loop.set_exception_handler(lambda _loop, context: reports.append(context))
            loop.set_task_factory(factory)
            with pytest.raises(ZeroDivisionError):
                start_task(loop, lambda: asyncio.sleep(1, "slept"))
            loop.set_task_factory(None)
            await asyncio.wait(made)
            assert made.pop().cancelled()
            gc.collect()

        made: list[asyncio.Task[str]] = []
        run(main())
        assert reports == []

    def test_and_one_before_that_no_coroutine(self) -> None:
        def factory(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> Any:
            raise ZeroDivisionError

        async def main() -> None:
            sleeping = asyncio.sleep(1)
            running_clock().set_task_factory(factory)
            with pytest.raises(ZeroDivisionError):
                start_task(running_clock(), lambda: sleeping)
            running_clock().set_task_factory(None)
            assert inspect.getcoroutinestate(sleeping) == inspect.CORO_CLOSED

        run(main())


class TestLog:
    def test_a_crash_is_logged_once_and_without_its_text(self, caplog: pytest.LogCaptureFixture) -> None:
        watched(Runs(*[crash] * 10), 100)
        (record,) = caplog.records
        assert (record.name, record.levelno) == ("segment_async", logging.ERROR)
        assert record.getMessage().startswith("The test task crashed and is restarted")
        assert "in crash" in record.getMessage()
        assert SECRET not in caplog.text

    def test_and_again_after_it_was_well_for_a_while(self, caplog: pytest.LogCaptureFixture) -> None:
        watched(Runs(crash, crash, after(61, crash), crash), 100)
        assert len(caplog.records) == 2


class TestStopping:
    def test_a_task_that_was_stopped_does_not_come_back(self) -> None:
        async def main() -> None:
            runs = Runs()
            runs.supervised.start(running_clock())
            await asyncio.sleep(1)
            task = runs.supervised.stop()
            assert task is not None
            assert runs.supervised.stop() is None
            task.cancel()
            await asyncio.sleep(100)
            assert len(runs.began) == 1

        run(main())

    @pytest.mark.parametrize("step", [crash, cancel])
    def test_nor_does_one_that_waits_to_come_back(self, step: Callable[[], Awaitable[None]]) -> None:
        async def main() -> None:
            runs = Runs(step)
            runs.supervised.start(running_clock())
            await asyncio.sleep(0.001)
            runs.supervised.stop()
            await asyncio.sleep(100)
            assert len(runs.began) == 1

        run(main())

    def test_nor_does_one_that_was_never_begun(self) -> None:
        async def main() -> None:
            runs = Runs()
            runs.supervised.start(running_clock())
            assert runs.supervised.stop() is None
            await asyncio.sleep(1)
            assert not runs.began

        run(main())

    def test_it_may_be_started_on_another_loop(self) -> None:
        runs, first, second = Runs(crash), VirtualClockLoop(), VirtualClockLoop(1_000.0)
        runs.supervised.start(first)
        first.run_until_complete(asyncio.sleep(0.05))
        runs.supervised.stop()
        runs.supervised.start(second)
        second.run_until_complete(asyncio.sleep(1))
        # The restart that the first loop still has does nothing.
        first.run_until_complete(asyncio.sleep(1))
        second.run_until_complete(asyncio.sleep(1))
        assert runs.began == [0, 1_000.0]
        task = runs.supervised.stop()
        assert task is not None
        assert task.get_loop() is second
        task.cancel()
        second.run_until_complete(asyncio.sleep(0))
        first.close()
        second.close()

    def test_what_is_bound_around_the_start_is_not_bound_in_it(self) -> None:
        variable: ContextVar[str] = ContextVar("variable", default="nothing")
        seen: list[str] = []

        async def note() -> None:
            seen.append(variable.get())
            await cancel()

        async def main() -> None:
            variable.set("something")
            runs = Runs(note, note)
            runs.supervised.start(running_clock())
            await asyncio.sleep(1)
            stopped = runs.supervised.stop()
            assert stopped is not None
            stopped.cancel()

        run(main())
        assert seen == ["nothing", "nothing"]


def test_a_signal_handler_that_raises_at_any_step_does_not_end_it() -> None:
    """Under uvloop it comes at the first step after the loop has waited: as the callbacks begin that start it again."""

    def interrupt() -> None:
        raise Interrupted

    async def main(runs: Runs, points: Points) -> None:
        running_clock().set_exception_handler(lambda *_: None)
        runs.supervised.start(running_clock())
        with points:
            await asyncio.sleep(60)
        task = runs.supervised.stop()
        assert task is not None
        task.cancel()
        await asyncio.wait((task,))

    at, points = 0, Points()
    while points.where or at == 0:
        runs = Runs(after(2, crash))
        points = Points("_lifecycle/tasks.py", act=interrupt, at=at)
        run(main(runs, points))
        assert len(runs.began) == 2, points.where
        at += 1
    assert at > 10
