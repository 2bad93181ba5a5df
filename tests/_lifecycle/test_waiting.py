"""Waiting: signals across threads and loops, predicates, time limits, and the owner's going away."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from segment_async._lifecycle.waiting import (
    MOMENT,
    Signal,
    resolved,
    settle_all,
    settle_from_thread,
    shorter,
    wait_until,
    wake,
)
from segment_async.spool import NewMessage, SQLiteSpool
from tests.support.interruptions import Interrupted, Points
from tests.support.stations import AlwaysRunning
from tests.support.virtual_clock import Deadlock, run, running_clock


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


class TestSignal:
    def test_it_wakes_all_and_remembers_nothing(self) -> None:
        async def main() -> None:
            signal = Signal()
            waiters = [signal.register() for _ in range(3)]
            signal.notify()
            assert all(waiter.done() for waiter in waiters)
            late = signal.register()
            await turns()
            assert not late.done()

        run(main())

    def test_its_mark_changes_also_when_nothing_is_woken(self) -> None:
        signal = Signal()
        marks = [signal.mark]
        for _ in range(3):
            signal.notify()
            marks.append(signal.mark)
        assert len(set(marks)) == len(marks)

    def test_a_waiter_with_a_condition_is_woken_once_it_is_true(self) -> None:
        async def main() -> None:
            signal, state = Signal(), {"done": False}
            picky, other = signal.register(lambda: state["done"]), signal.register()
            signal.notify()
            assert (picky.done(), other.done()) == (False, True)
            state["done"] = True
            await turns()
            assert not picky.done()
            signal.notify()
            assert picky.done()

        run(main())

    def test_a_recheck_wakes_only_what_waits_for_a_condition_that_is_true(self) -> None:
        async def main() -> None:
            signal, state = Signal(), {"done": False}
            picky, other = signal.register(lambda: state["done"]), signal.register()
            mark = signal.mark
            signal.recheck()
            assert (picky.done(), other.done()) == (False, False)
            state["done"] = True
            signal.recheck()
            assert (picky.done(), other.done()) == (True, False)
            assert signal.mark is mark

        run(main())

    def test_a_condition_is_not_asked_again_after_it_was_true(self) -> None:
        async def main() -> None:
            signal, asked = Signal(), []
            signal.register(lambda: bool(asked.append(1)) or True)
            signal.notify()
            signal.notify()
            assert asked == [1]

        run(main())

    def test_a_waiter_for_a_place_is_woken_once_it_is_reached(self) -> None:
        async def main() -> None:
            reached = 0
            signal = Signal(lambda: reached)
            waiters = [signal.register(place=place) for place in (3, 1, 2)]
            signal.notify()
            assert [waiter.done() for waiter in waiters] == [False, False, False]
            reached = 2
            signal.recheck()
            assert [waiter.done() for waiter in waiters] == [False, True, True]
            signal.forget(waiters[0])
            reached = 3
            signal.notify()
            assert not waiters[0].done()

        run(main())

    def test_one_look_serves_all_that_wait_for_places(self) -> None:
        async def main() -> None:
            looks = 0

            def reached() -> int:
                nonlocal looks
                looks += 1
                return 0

            signal = Signal(reached)
            signal.notify()
            assert looks == 0
            for _ in range(2_000):
                signal.register(place=1)
            signal.notify()
            assert looks == 1

        run(main())

    def test_a_condition_may_register_and_forget_others(self) -> None:
        async def main() -> None:
            signal = Signal()
            later: list[asyncio.Future[None]] = []

            def done() -> bool:
                later.append(signal.register())
                signal.forget(second)
                return True

            first = signal.register(done)
            second = signal.register()
            signal.notify()
            assert first.done()
            assert not later[0].done()
            signal.notify()
            assert later[0].done()

        run(main())

    def test_what_was_forgotten_is_not_woken(self) -> None:
        async def main() -> None:
            signal = Signal()
            waiter = signal.register()
            signal.forget(waiter)
            signal.forget(waiter)
            signal.notify()
            await turns()
            assert not waiter.done()

        run(main())

    def test_a_waiter_that_was_cancelled_is_no_harm(self) -> None:
        async def main() -> None:
            signal = Signal()
            signal.register().cancel()
            signal.notify()

        run(main())

    def test_from_another_thread_the_loop_is_woken(self) -> None:
        async def main() -> None:
            signal = Signal()
            waiter = signal.register()
            thread = threading.Thread(target=signal.notify)
            thread.start()
            async with asyncio.timeout(10):
                await waiter
            thread.join()

        asyncio.run(main())

    def test_two_threads_may_notify_at_once(self) -> None:
        async def main() -> None:
            signal = Signal()
            waiters = [signal.register() for _ in range(2_000)]
            threads = [threading.Thread(target=signal.notify) for _ in range(4)]
            for thread in threads:
                thread.start()
            await asyncio.wait(waiters, timeout=10)
            for thread in threads:
                thread.join()
            assert all(waiter.done() for waiter in waiters)

        asyncio.run(main())

    def test_it_wakes_waiters_of_several_loops(self) -> None:
        signal, ready, woken = Signal(), threading.Barrier(4), []

        def wait() -> None:
            async def main() -> None:
                waiter = signal.register()
                await asyncio.to_thread(ready.wait, 10)
                async with asyncio.timeout(10):
                    await waiter
                woken.append(1)

            asyncio.run(main())

        threads = [threading.Thread(target=wait) for _ in range(3)]
        for thread in threads:
            thread.start()
        ready.wait(10)
        signal.notify()
        for thread in threads:
            thread.join(10)
        assert len(woken) == 3


class CountingLoop(asyncio.SelectorEventLoop):
    calls = 0

    def call_soon_threadsafe(self, *arguments: object, **options: object) -> asyncio.Handle:
        self.calls += 1
        return super().call_soon_threadsafe(*arguments, **options)  # type: ignore[arg-type]


class TestWake:
    def test_two_calls_a_loop_however_many_wait_there(self) -> None:
        """The second one in case that a signal handler raises in the loop's own code amid the first."""
        loops = [CountingLoop() for _ in range(2)]
        futures = [loop.create_future() for loop in loops for _ in range(100)]
        wake(futures)
        one = CountingLoop()
        wake([one.create_future()])
        assert one.calls == 1
        one.close()
        for loop in loops:
            assert loop.calls == 2
            loop.run_until_complete(asyncio.sleep(0))
            loop.close()
        assert all(future.done() for future in futures)

    def test_of_a_loop_that_is_closed(self) -> None:
        async def leave() -> asyncio.Future[None]:
            return asyncio.get_running_loop().create_future()

        async def main() -> None:
            here = asyncio.get_running_loop().create_future()
            wake([gone, here])
            assert here.done()

        gone = asyncio.run(leave())
        run(main())
        assert not gone.done()


class TestResolved:
    def test_it_goes_on_in_the_next_turn(self) -> None:
        async def main() -> None:
            loop = asyncio.get_running_loop()
            waiter: asyncio.Future[None] = loop.create_future()
            waiting = loop.create_task(resolved(waiter, 1_000.0))
            await turns()
            waiter.set_result(None)
            await turns(1)
            assert waiting.done()

        run(main())

    def test_its_timer_ends_with_it(self) -> None:
        async def main() -> None:
            # The virtual clock would move on to the time of a timer that is left.
            loop = asyncio.get_running_loop()
            waiter: asyncio.Future[None] = loop.create_future()
            loop.call_later(2.0, waiter.set_result, None)
            await resolved(waiter, 1_000.0)
            assert loop.time() == pytest.approx(2.0, abs=0.1)
            assert not any(not timer.cancelled() for timer in loop._scheduled)  # type: ignore[attr-defined]

        run(main())

    def test_at_the_end_of_the_time_the_future_is_resolved(self) -> None:
        async def main() -> None:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            await resolved(waiter, 3.0)
            assert waiter.done()
            assert not waiter.cancelled()

        run(main())

    def test_a_cancellation_passes_through(self) -> None:
        async def main() -> None:
            loop = asyncio.get_running_loop()
            waiter: asyncio.Future[None] = loop.create_future()
            waiting = loop.create_task(resolved(waiter, 3.0))
            await turns()
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            # What resolves it later does no harm.
            wake([waiter])

        run(main())


class TestWaitUntil:
    def wait(self, *, seconds: float | None = None, notify_at: float | None = None, done_at: float = 1e9) -> bool:
        async def main() -> bool:
            clock, signal = running_clock().time, Signal()
            if notify_at is not None:
                running_clock().call_later(notify_at, signal.notify)
            return await wait_until(
                lambda: clock() >= done_at,
                lambda: signal,
                AlwaysRunning(),
                lambda: None if seconds is None else seconds - clock(),
            )

        return run(main())

    def test_done_at_once(self) -> None:
        assert self.wait(done_at=0)

    def test_done_in_time(self) -> None:
        assert self.wait(notify_at=5, done_at=5, seconds=6)

    def test_out_of_time(self) -> None:
        assert not self.wait(seconds=6)

    @pytest.mark.parametrize("seconds", [0, -1, MOMENT])
    def test_no_time_at_all(self, seconds: float) -> None:
        assert not self.wait(seconds=seconds)

    def test_notified_and_not_done(self) -> None:
        assert not self.wait(notify_at=5, seconds=6)

    def test_done_without_a_notification_is_seen_when_the_time_is_over(self) -> None:
        assert self.wait(done_at=5, seconds=6)

    def test_without_a_limit_and_a_notification_it_waits_for_ever(self) -> None:
        with pytest.raises(Deadlock):
            self.wait()

    def test_it_looks_again_when_its_signal_is_replaced(self) -> None:
        async def main() -> None:
            signals = [Signal(), Signal()]
            state = {"signal": 0, "done": 0}
            waiting = asyncio.create_task(
                wait_until(lambda: bool(state["done"]), lambda: signals[state["signal"]], AlwaysRunning(watch=0.05))
            )
            await turns()
            state["signal"] = 1
            await asyncio.sleep(0.06)
            state["done"] = 1
            signals[1].notify()
            assert await waiting
            assert running_clock().time() < 0.1

        run(main())

    def test_done_between_the_look_and_the_registration(self) -> None:
        async def main() -> None:
            looks = iter([False, True, True])
            signal = Signal()
            assert await wait_until(lambda: next(looks), lambda: signal, AlwaysRunning())

        run(main())

    def test_where_another_loop_is_the_owner_it_asks_the_host_again_and_again(self) -> None:
        async def main() -> int:
            host, signal = AlwaysRunning(watch=0.05), Signal()
            clock = running_clock().time
            waiting = asyncio.create_task(wait_until(lambda: clock() >= 0.99, lambda: signal, host))
            await asyncio.sleep(0.99)
            signal.notify()
            assert await waiting
            return host.looks

        assert run(main()) == 20

    def test_a_wait_that_is_cancelled_leaves_nothing_behind(self) -> None:
        async def main() -> None:
            signal = Signal()
            waiting = asyncio.create_task(wait_until(lambda: False, lambda: signal, AlwaysRunning()))
            await turns()
            assert len(signal._waiters) == 1
            waiting.cancel()
            await asyncio.wait((waiting,))
            assert not signal._waiters

        run(main())

    def test_a_condition_that_another_thread_makes_true(self) -> None:
        async def main() -> None:
            signal, state = Signal(), {"done": 0}

            def work() -> None:
                for _ in range(2_000):
                    state["done"] += 1
                    signal.notify()

            threads = [threading.Thread(target=work)]
            waits = [
                asyncio.create_task(wait_until(reaches(state, number), lambda: signal, AlwaysRunning()))
                for number in range(1, 2_001, 50)
            ]
            await turns()
            threads[0].start()
            async with asyncio.timeout(20):
                assert await asyncio.gather(*waits) == [True] * 40
            threads[0].join()

        asyncio.run(main())


def reaches(state: dict[str, int], number: int) -> Callable[[], bool]:
    return lambda: state["done"] >= number


@pytest.mark.parametrize(
    ("one", "other", "expected"), [(None, None, None), (1, None, 1), (None, 2, 2), (1, 2, 1), (0, 2, 0)]
)
def test_the_shorter_limit(one: float | None, other: float | None, expected: float | None) -> None:
    assert shorter(one, other) == expected


def test_a_future_that_is_done_keeps_its_result() -> None:
    """A signal handler may have settled it a moment ago."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        settled, cancelled, open_one = loop.create_future(), loop.create_future(), loop.create_future()
        settled.set_result(1)
        cancelled.cancel()
        settle_all((future, 2) for future in (settled, cancelled, open_one))
        assert (settled.result(), cancelled.cancelled(), open_one.result()) == (1, True, 2)

    run(main())


def test_a_signal_handler_that_raises_finds_all_of_them_settled_or_none() -> None:
    """What is left would wait for ever; where none is, who called goes on."""

    async def main() -> None:
        loop, count = asyncio.get_running_loop(), 5
        places, at = 0, 0
        points = Points()
        while points.where or at == 0:
            futures = [loop.create_future() for _ in range(count)]
            points = Points("_lifecycle/waiting.py", act=interrupt, at=at)
            with points, suppress(Interrupted):
                settle_all([(future, number) for number, future in enumerate(futures)])
            await turns()
            at += 1
            if any(future.done() for future in futures):
                places += 1
                assert [future.result() for future in futures] == list(range(count)), points.where
        assert places

    run(main())


def test_a_signal_handler_that_raises_at_once_leaves_all_for_the_second_call() -> None:
    """Under uvloop signals are handled at the first step after it has waited."""

    class Interrupting(asyncio.SelectorEventLoop):
        first = True

        def call_soon_threadsafe(self, callback: Any, *arguments: Any, **options: Any) -> asyncio.Handle:
            callback, self.first = (interrupt if self.first else callback), False
            return super().call_soon_threadsafe(callback, *(arguments if callback is not interrupt else ()), **options)

    loop = Interrupting()
    loop.set_exception_handler(lambda *_: None)
    futures = [loop.create_future() for _ in range(3)]
    settle_all([(future, number) for number, future in enumerate(futures)])
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    assert [future.result() for future in futures] == [0, 1, 2]


def interrupt() -> None:
    raise Interrupted


class Handler:
    """A signal handler that raises at each step of a file's code that the loop's callbacks pass from now on."""

    def __init__(self, *parts: str) -> None:
        self._points = Points(*parts, act=interrupt, at=0, every=1)
        # What raises ends the watch.
        asyncio.get_running_loop().set_exception_handler(lambda *_: self._points.resume())

    def __enter__(self) -> None:
        self._points.__enter__()

    def __exit__(self, *_: object) -> None:
        self._points.__exit__()


class TestASignalHandlerThatAlwaysRaises:
    """What another thread or a timer calls on a loop has no step of ours that it could take with it."""

    @pytest.mark.parametrize("module", ["asyncio", "uvloop"])
    def test_another_thread_wakes_all(self, module: str) -> None:
        new_loop = pytest.importorskip(module).new_event_loop

        async def main() -> None:
            loop = asyncio.get_running_loop()
            woken, settled, failed = loop.create_future(), loop.create_future(), loop.create_future()

            def work() -> None:
                wake([woken])
                settle_from_thread(settled, 1)
                settle_from_thread(failed, error=OSError())

            thread = threading.Thread(target=work)
            with Handler("_lifecycle"):
                thread.start()
                await asyncio.wait((woken, settled, failed), timeout=10)
            thread.join()
            assert woken.done()
            assert settled.result() == 1
            assert isinstance(failed.exception(), OSError)

        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(main())

    def test_a_time_limit_is_kept(self) -> None:
        async def main() -> None:
            waiting = asyncio.create_task(resolved(asyncio.get_running_loop().create_future(), 1.0))
            await turns()
            with Handler("_lifecycle"):
                await asyncio.sleep(2)
            assert waiting.done()

        run(main())

    def test_a_spool_answers(self, tmp_path: Path) -> None:
        async def main() -> None:
            spool = SQLiteSpool(tmp_path / "a.db")
            await spool.read(1, 1)
            reading = asyncio.create_task(spool.read(10, 1_000))
            await turns()
            done = threading.Event()
            thread = threading.Thread(
                target=lambda: (spool.append_nowait([NewMessage("a", b"{}")], lambda _: done.set()), done.wait(10))
            )
            with Handler("spool", "_lifecycle"):
                thread.start()
                await asyncio.wait((reading,), timeout=10)
            thread.join()
            assert [each.message_id for each in reading.result().messages] == ["a"]
            await spool.aclose()

        asyncio.run(main())
