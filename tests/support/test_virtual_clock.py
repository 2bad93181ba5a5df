"""The virtual clock keeps its word: hours pass at once, in order, and a dead program is told so."""

import asyncio
import math
import sys
import threading

import pytest

from tests.support.virtual_clock import Deadlock, Spinning, VirtualClockLoop, run, running_clock


def test_hours_pass_at_once() -> None:
    async def main() -> float:
        await asyncio.sleep(13 * 3600)
        return running_clock().time()

    assert run(main(), start=1000.0) == pytest.approx(1000 + 13 * 3600)


def test_timers_fire_in_order_and_at_their_time() -> None:
    async def main() -> list[tuple[str, float]]:
        seen: list[tuple[str, float]] = []

        async def note(name: str, delay: float) -> None:
            await asyncio.sleep(delay)
            seen.append((name, running_clock().time()))

        await asyncio.gather(note("day", 86_400.5), note("second", 1), note("year", 366 * 86_400), note("none", 0))
        return seen

    assert run(main()) == [("none", 0), ("second", 1), ("day", 86_400.5), ("year", pytest.approx(366 * 86_400))]


def test_timers_still_fire_where_floats_are_coarse() -> None:
    async def main() -> float:
        for _ in range(50):
            await asyncio.sleep(0.1)
        return running_clock().time()

    assert run(main(), start=1.7e9) == pytest.approx(1.7e9 + 5, abs=1e-3)


def test_time_limits_are_virtual() -> None:
    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(30):
                await asyncio.Event().wait()
        return running_clock().time()

    assert run(main()) == pytest.approx(30)


def test_a_machine_asleep_wakes_with_every_timer_due() -> None:
    async def main() -> list[float]:
        clock = running_clock()
        woken: list[float] = []
        for delay in (1, 2, 3):
            clock.call_later(delay, lambda: woken.append(clock.time()))
        clock.advance(8 * 3600)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return woken

    assert run(main()) == [8 * 3600] * 3


def test_time_does_not_go_back() -> None:
    async def main() -> None:
        running_clock().advance(-1)

    with pytest.raises(ValueError, match="does not go back"):
        run(main())


def test_a_deadlock_is_an_error_that_names_the_task() -> None:
    async def wait_for_ever() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        await asyncio.create_task(wait_for_ever(), name="the forgotten one")

    with pytest.raises(Deadlock, match="the forgotten one"):
        run(main())


def test_a_timer_that_never_fires_hides_no_deadlock() -> None:
    async def main() -> None:
        cancelled = asyncio.get_running_loop().call_later(math.inf, print)
        cancelled.cancel()
        await asyncio.sleep(math.inf)

    with pytest.raises(Deadlock):
        run(main())


def test_what_a_deadlocked_program_holds_is_closed() -> None:
    closed: list[str] = []

    async def main() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            closed.append("main")

    with pytest.raises(Deadlock):
        run(main())
    assert closed == ["main"]


@pytest.mark.parametrize("seconds", [0, 1e-5])
def test_a_program_that_never_waits_is_an_error_that_names_the_task(seconds: float) -> None:
    async def spin() -> None:
        while True:  # noqa: ASYNC110  # it waits for nothing
            await asyncio.sleep(seconds)

    async def main() -> None:
        await asyncio.create_task(spin(), name="the spinning one")

    with pytest.raises(Spinning, match="the spinning one"):
        run(main())


def test_another_thread_can_call_in() -> None:
    async def main() -> str:
        loop = running_clock()
        answer: asyncio.Future[str] = loop.create_future()
        thread = threading.Thread(target=lambda: loop.call_soon_threadsafe(answer.set_result, "hello"))
        thread.start()
        try:
            return await answer
        finally:
            thread.join()

    assert run(main()) == "hello"


def test_the_clock_stands_still_while_an_executor_works() -> None:
    release = threading.Event()

    async def main() -> float:
        clock = running_clock()
        async with asyncio.timeout(10):
            work = asyncio.ensure_future(asyncio.to_thread(release.wait, 5))
            await asyncio.sleep(0)
            release.set()
            assert await work
        return clock.time()

    assert run(main()) == 0


def test_real_file_descriptors_are_waited_for() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        writer.close()

    async def main() -> bytes:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"ping\n")
        answer = await reader.read()
        writer.close()
        server.close()
        return answer

    assert run(main()) == b"ping\n"


def test_it_works_in_debug_mode() -> None:
    async def main() -> float:
        running_clock().set_debug(True)
        await asyncio.gather(*(asyncio.sleep(delay) for delay in range(100)))
        return running_clock().time()

    assert run(main()) == 99


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
def test_it_works_with_eager_tasks() -> None:
    async def main() -> list[str]:
        running_clock().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined,unused-ignore]
        seen: list[str] = []

        async def work() -> None:
            seen.append("started")
            await asyncio.sleep(3600)
            seen.append("ended")

        task = asyncio.create_task(work())
        seen.append("created")
        await task
        return seen

    assert run(main()) == ["started", "created", "ended"]


def test_the_shutdown_is_that_of_asyncio_run() -> None:
    seen: list[str] = []

    async def linger() -> None:
        try:
            await asyncio.sleep(1e6)
        finally:
            await asyncio.sleep(5)
            seen.append("cancelled and closed")

    async def main() -> str:
        seen.append(asyncio.create_task(linger()).get_name())
        await asyncio.sleep(0)
        return "result"

    assert run(main()) == "result"
    assert seen[1:] == ["cancelled and closed"]
    with pytest.raises(RuntimeError, match="no running event loop"):
        asyncio.get_running_loop()


def test_other_loops_are_refused() -> None:
    async def main() -> VirtualClockLoop:
        return running_clock()

    with pytest.raises(TypeError, match="virtual clock"):
        asyncio.run(main())
