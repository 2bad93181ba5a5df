"""The life of a client: loops that come and go, threads, flush, and cancellation at every suspension.

Under the virtual clock wherever one loop is enough; in real threads where several are.
"""

import asyncio
import gc
import logging
import math
import re
import sys
import threading
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import Any

import anyio
import pytest

from segment_async import Client, Response, Status, messages
from segment_async.instrumentation import Request
from tests.support.law import check_counters
from tests.support.lives import OK, PATIENCE, Net, OtherLoop, enqueue, refuse, silence, slowly, turns
from tests.support.simulated_segment import Arrival
from tests.support.virtual_clock import VirtualClockLoop, run, running_clock


class TestLoops:
    def test_a_hundred_runs_in_a_row(self) -> None:
        net = Net()
        client = Client("KEY", transport=net)

        async def main(number: int) -> None:
            await client.track("u", "E", message_id=str(number))

        for number in range(100):
            asyncio.run(main(number))
        asyncio.run(client.aclose())
        assert sorted(set(net.ids), key=int) == [str(number) for number in range(100)]
        assert client.statistics().delivered == 100

    def test_what_a_loop_left_is_carried_over(self) -> None:
        net = Net(refuse)
        client = Client("KEY", transport=net)

        async def first() -> None:
            await client.track("u", "E", message_id="a")
            assert await client.flush(timeout=3) == 1

        async def second() -> Status:
            net.answer = None
            delivery = await client.track("u", "E", message_id="b")
            assert await client.flush() == 0
            return (await delivery).status

        run(first())
        assert client.statistics().pending == 1
        assert run(second()) is Status.DELIVERED
        assert client.statistics().delivered == 2

    def test_a_delivery_of_an_ended_loop_may_be_awaited_in_the_next(self) -> None:
        client = Client("KEY", transport=Net())

        async def first() -> Any:
            return await client.track("u", "E")

        async def second(delivery: Any) -> Status:
            return (await delivery).status

        assert run(second(run(first()))) is Status.DELIVERED

    def test_a_loop_that_stands_still_is_not_waited_for(self) -> None:
        """Mangum drives one with `run_until_complete`, and another may run meanwhile."""
        net = Net()
        client = Client("KEY", transport=net)
        standing = VirtualClockLoop()
        standing.run_until_complete(client.track("u", "E", message_id="a"))

        async def main() -> int:
            await client.track("u", "E", message_id="b")
            return await client.flush()

        assert run(main()) == 0
        assert sorted(net.ids) == ["a", "b"]
        standing.run_until_complete(client.track("u", "E", message_id="c"))
        assert standing.run_until_complete(client.flush()) == 0
        standing.run_until_complete(client.aclose())
        standing.run_until_complete(standing.shutdown_asyncgens())
        standing.close()
        assert sorted(net.ids) == ["a", "b", "c"]

    def test_a_loop_that_lost_the_client_while_it_stood_still_does_nothing_more_for_it(self) -> None:
        """Not even what was due there when it stopped: the other one does that, at the same time."""
        loops: list[object] = []

        async def note(arrival: Arrival) -> Response:
            loops.append(asyncio.get_running_loop())
            return OK

        client = Client("KEY", transport=Net(note), flush_at=1)
        standing, is_taken, may_go_on = asyncio.new_event_loop(), threading.Event(), threading.Event()
        assert standing.run_until_complete(client.flush()) == 0
        # So large that the consumer lets others have their turn, and the loop stops.
        standing.run_until_complete(client.track("u", "E", {"notes": "x" * 5_000}))

        async def take_it_over() -> None:
            await client.track("u", "E")
            is_taken.set()
            may_go_on.wait(PATIENCE)

        with OtherLoop() as other:
            taking = asyncio.run_coroutine_threadsafe(take_it_over(), other.loop)
            assert is_taken.wait(PATIENCE)
            standing.run_until_complete(turns())
            assert loops == []
            may_go_on.set()
            taking.result(PATIENCE)
            assert other(client.flush()) == 0
            assert set(loops) == {other.loop}
            other(client.aclose())
        standing.run_until_complete(standing.shutdown_asyncgens())
        standing.close()

    def test_a_loop_that_runs_again_as_it_loses_the_client_sends_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Its tasks are cancelled a moment later: what it sent would be sent twice, and no outcome would say so."""
        loops: list[object] = []
        late: list[asyncio.Task[Any]] = []

        async def note(arrival: Arrival) -> Response:
            loops.append(asyncio.get_running_loop())
            return OK

        client = Client("KEY", transport=Net(note), flush_at=1)
        standing = asyncio.new_event_loop()
        assert standing.run_until_complete(client.flush()) == 0
        enqueue(client, "a")
        while not client.statistics().in_flight:
            # One turn: the request does not take its first step yet.
            standing.call_soon(standing.stop)
            standing.run_forever()
        monkeypatch.setattr("segment_async._lifecycle.owner.end", late.extend)
        with OtherLoop() as other:
            assert other(client.flush()) == 0
            standing.run_until_complete(turns())
            assert loops == [other.loop]
            assert client.statistics().requests == 1
            other(client.aclose())
        for task in late:
            if task.get_loop() is standing:
                task.cancel()
        standing.run_until_complete(standing.shutdown_asyncgens())
        standing.close()

    def test_a_loop_that_runs_again_as_it_loses_the_client_reads_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Two consumers at once send bodies that are no JSON, and lose messages."""
        late: list[asyncio.Task[Any]] = []
        net = Net()
        client = Client("KEY", transport=net)
        standing = asyncio.new_event_loop()
        assert standing.run_until_complete(client.flush()) == 0
        monkeypatch.setattr("segment_async._lifecycle.owner.end", late.extend)

        async def take_it_over() -> None:
            await client.flush()
            enqueue(client, "a")

        # A loop that does not read what comes last: it has stopped.
        taken = asyncio.new_event_loop()
        taken.run_until_complete(take_it_over())
        client._owner.pipeline.queue.notify()
        standing.run_until_complete(turns())
        assert client._owner.pipeline.queue.order.read_count == 0
        assert taken.run_until_complete(client.flush()) == 0
        taken.run_until_complete(client.aclose())
        assert net.ids == ["a"]
        for task in late:
            if task.get_loop() is standing:
                task.cancel()
        for loop in (standing, taken):
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

    def test_what_is_ended_of_a_closed_loop_runs_without_the_lock(self) -> None:
        """The observers of its requests, and the transport's own clean-up, may wait for other threads' calls."""
        client = Client("KEY", transport=Net(silence), flush_interval=0, close_timeout=0)
        seen: list[bool] = []

        def observe(request: Request) -> None:
            thread = threading.Thread(target=lambda: seen.append(client.statistics().accepted == 1))
            thread.start()
            thread.join(1)
            seen.append(thread.is_alive())

        client.observe(observe)
        closed = VirtualClockLoop()

        async def first() -> None:
            await client.track("u", "E")
            await turns()

        closed.run_until_complete(first())
        closed.close()
        assert not seen
        run(client.aclose())
        assert seen == [True, False]

    def test_nothing_before_the_first_loop_is_lost(self) -> None:
        net = Net()
        client = Client("KEY", transport=net)
        enqueue(client, "early")

        async def main() -> None:
            async with client:
                assert await client.flush() == 0

        run(main())
        assert net.ids == ["early"]

    def test_a_machine_asleep_for_eight_hours(self) -> None:
        """What was in flight gets its chance, and what waited is sent once: neither storm nor stall."""
        net = Net()

        async def main() -> None:
            client = Client("KEY", transport=net, flush_interval=1)
            for number in range(5):
                await client.track("u", "E", message_id=str(number))
                await turns()
                running_clock().advance(8 * 3600)
            assert await client.flush() == 0
            await client.aclose()
            assert client.statistics().delivered == 5
            assert len(net.arrivals) <= 5

        run(main())

    @pytest.mark.parametrize("has_run", [False, True])
    def test_a_close_makes_all_reports_on_a_loop_of_its_own(self, *, has_run: bool) -> None:
        """They have up to `close_timeout`; hooks that wait are run side by side."""
        told = 0

        async def on_error(*_: object) -> None:
            nonlocal told
            await asyncio.sleep(0.2)
            told += 1

        client = Client("KEY", transport=Net(), on_error=on_error, on_invalid="drop", close_timeout=10)

        async def main() -> None:
            if has_run:
                await (await client.track("user", "Event"))

        async def close() -> None:
            for _ in range(350):
                await client.track("user", "")
            await client.aclose()

        run(main())
        run(close())
        assert told == 350


class TestOtherLoops:
    def test_hand_their_calls_to_the_owner(self) -> None:
        loops: set[object] = set()

        async def note(arrival: Arrival) -> Response:
            loops.add(asyncio.get_running_loop())
            return OK

        net = Net(note)
        client = Client("KEY", transport=net, flush_interval=0)
        with OtherLoop() as owner, OtherLoop() as guest:
            owner(client.track("u", "E"))

            async def from_afar() -> Status:
                delivery = await client.track("u", "E")
                assert await client.flush() == 0
                return (await delivery).status

            assert guest(from_afar()) is Status.DELIVERED
            assert loops == {owner.loop}
            guest(client.aclose())
        check_counters(client.statistics())
        assert client.statistics().delivered == 2

    @pytest.mark.parametrize("wait", ["flush", "delivery"])
    def test_take_over_when_the_owner_goes_away_amid_a_wait(self, wait: str) -> None:
        asked = threading.Event()

        async def only_later(arrival: Arrival) -> Response:
            if not asked.is_set():
                asked.set()
                await asyncio.Event().wait()
            return OK

        client = Client("KEY", transport=Net(only_later), flush_interval=0)
        with OtherLoop() as guest:
            with OtherLoop() as owner:
                delivery = owner(client.track("u", "E"))
                assert asked.wait(PATIENCE)

                async def settled() -> Any:
                    return await (client.flush() if wait == "flush" else delivery)

                waiting = asyncio.run_coroutine_threadsafe(settled(), guest.loop)
                assert not waiting.done()
            waiting.result(PATIENCE)
            guest(client.aclose())
        assert delivery.outcome.status is Status.DELIVERED
        assert delivery.outcome.possibly_delivered


class TestFlush:
    def test_does_not_wait_for_a_batch_to_fill(self) -> None:
        async def main() -> None:
            client = Client("KEY", transport=Net(), flush_interval=3600)
            delivery = await client.track("u", "E")
            assert await client.flush() == 0
            assert running_clock().time() < 1
            assert delivery.outcome is not None
            await client.aclose()

        run(main())

    def test_says_what_is_left_when_the_time_is_up(self) -> None:
        async def main() -> None:
            client = Client("KEY", transport=Net(silence), max_in_flight=1, close_timeout=0)
            for _ in range(3):
                await client.track("u", "E")
            assert await client.flush(timeout=2) == 3
            assert running_clock().time() == pytest.approx(2, abs=0.1)
            for none_at_all in (0, -1, math.nan):
                assert await client.flush(timeout=none_at_all) == 3
            await client.aclose()
            assert await client.flush() == 0

        run(main())

    def test_does_not_wait_for_what_came_after_it(self) -> None:
        async def main() -> None:
            client = Client("KEY", transport=Net(), flush_interval=60)
            await client.track("u", "E")
            flushing = asyncio.create_task(client.flush())
            await asyncio.sleep(0)
            net_is_down = Client("KEY", transport=Net(silence), close_timeout=0)
            await net_is_down.track("u", "E")
            assert await flushing == 0
            await client.aclose()
            await net_is_down.aclose()

        run(main())


class TestEverySuspension:
    """Each call is cancelled after one turn of the loop, after two, and so on, until it is through."""

    MOST = 60

    def each(
        self, doing: Callable[[Client, list[str]], Awaitable[None]], *, by_scope: bool, **options: Any
    ) -> set[str]:
        ends: set[str] = set()
        for after in range(self.MOST):
            ends.add(run(self.once(doing, after, by_scope, options)))
        return ends

    async def once(self, doing: Any, after: int, by_scope: bool, options: dict[str, Any]) -> str:
        net = Net()
        client = Client("KEY", transport=net, **{"max_queue_size": 1, "overflow_timeout": None, **options})
        told: list[str] = []

        async def one() -> None:
            first = await client.track("u", "E")
            told.append(first.message_id)
            await doing(client, told)

        end = await (self.in_scope if by_scope else self.in_task)(one, after)
        if doing is not aclose:
            assert await client.flush() == 0
        await client.aclose()
        now = client.statistics()
        check_counters(now)
        assert now.accepted == len(told)
        assert (now.pending, now.delivered) == (0, len(told))
        assert set(net.ids) == set(told)
        return end

    async def in_task(self, work: Any, after: int) -> str:
        task = asyncio.create_task(work())
        await turns(after)
        task.cancel()
        await asyncio.wait((task,))
        if task.cancelled():
            return "cancelled"
        task.result()
        return "through"

    async def in_scope(self, work: Any, after: int) -> str:
        async with anyio.create_task_group() as group:
            with anyio.CancelScope() as scope:

                async def cancel() -> None:
                    await turns(after)
                    scope.cancel()

                group.start_soon(cancel)
                await work()
            group.cancel_scope.cancel()
        return "cancelled" if scope.cancelled_caught else "through"

    @pytest.mark.parametrize("by_scope", [False, True], ids=["task", "scope"])
    @pytest.mark.parametrize("name", ["track", "enqueue", "flush", "aclose", "delivery"])
    def test_of(self, name: str, by_scope: bool) -> None:
        assert self.each(SUSPENDING[name], by_scope=by_scope, flush_interval=0) == {"cancelled", "through"}


async def track(client: Client, told: list[str]) -> None:
    told.append((await client.track("u", "E")).message_id)


async def enqueue_second(client: Client, told: list[str]) -> None:
    told.append((await client.enqueue(messages.track("u", "E"))).message_id)


async def flush(client: Client, told: list[str]) -> None:
    await client.flush()


async def aclose(client: Client, told: list[str]) -> None:
    await client.aclose()


async def await_delivery(client: Client, told: list[str]) -> None:
    delivery = await client.track("u", "E")
    told.append(delivery.message_id)
    await delivery


SUSPENDING = {
    "track": track,
    "enqueue": enqueue_second,
    "flush": flush,
    "aclose": aclose,
    "delivery": await_delivery,
}


class TestTheConsumer:
    def test_survives_that_all_tasks_are_cancelled(self) -> None:
        async def main() -> None:
            net = Net(slowly)
            client = Client("KEY", transport=net)
            delivery = await client.track("u", "E", message_id="a")
            for _ in range(5):
                await asyncio.sleep(0.4)
                for task in asyncio.all_tasks() - {asyncio.current_task()}:
                    task.cancel()
            second = await client.track("u", "E", message_id="b")
            assert await client.flush() == 0
            assert (await delivery).status is Status.DELIVERED
            assert (await second).status is Status.DELIVERED
            await client.aclose()

        run(main())

    def test_is_restarted_after_a_crash_which_is_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        crashes = 0

        def factory(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> Any:
            """One of the application's, with a bug that only a request brings out."""
            nonlocal crashes
            if "RequestSender.send" in work.__qualname__ and crashes < 3:
                crashes += 1
                raise ZeroDivisionError
            return asyncio.Task(work, loop=loop, **options)

        async def main() -> None:
            running_clock().set_task_factory(factory)
            client = Client("KEY", transport=Net())
            delivery = await client.track("u", "E")
            assert await client.flush() == 0
            assert (await delivery).status is Status.DELIVERED
            await client.aclose()

        run(main())
        crashed = [record for record in caplog.records if "The consumer task crashed" in record.getMessage()]
        assert crashes == 3
        assert len(crashed) == 1

    def test_rests_on_a_loop_that_an_exception_has_kept_from_taking_the_client(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Else it would begin again a hundred times a second, until the next call."""
        begun = 0

        def factory(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> Any:
            nonlocal begun
            begun += "Consumer._run" in work.__qualname__
            return asyncio.Task(work, loop=loop, **options)

        def interrupt(_: object) -> None:
            raise Interrupted

        async def main() -> None:
            running_clock().set_task_factory(factory)
            client = Client("KEY", transport=Net())
            with monkeypatch.context() as context:
                context.setattr(client._owner.clock, "attach", interrupt)
                with pytest.raises(Interrupted):
                    await client.flush()
            await asyncio.sleep(60)
            assert begun <= 1
            delivery = await client.track("u", "E")
            assert await client.flush() == 0
            assert (await delivery).status is Status.DELIVERED
            await client.aclose()

        run(main())


class Interrupted(BaseException):
    """As from a signal handler."""


class TestAnExceptionAtAnyCall:
    """Of the consumer, in all that it calls of the pipeline: it costs a pass, and no message."""

    @pytest.mark.parametrize("first", range(4))
    def test_costs_no_message(self, first: int) -> None:
        moment = first
        while run(self.once(moment)):
            moment += 4
        assert moment > 500

    async def once(self, moment: int) -> bool:
        """A batch is refused and taken apart, another is retried; `False`: there are not so many moments."""
        answers = [Response(400), Response(503)]

        async def answer(arrival: Arrival) -> Response:
            await asyncio.sleep(0.01)
            response = answers.pop() if answers else OK
            arrival.status = response.status
            return response

        net = Net(answer)
        client = Client("KEY", transport=net, flush_at=4, max_in_flight=2)
        left = moment

        def profile(frame: FrameType, event: str, _: object) -> None:
            nonlocal left
            code = frame.f_code
            # What is called has not begun at a "c_call"; the end of a generator that is collected concerns no caller.
            if event == "c_call" or code.co_name == "<genexpr>" or not FILES.search(code.co_filename):
                return
            if not is_consumer():
                return
            left -= 1
            if left == -1:
                sys.setprofile(None)
                raise Interrupted

        profiler = sys.getprofile()
        sys.setprofile(profile)
        try:
            calls = [await client.track("u", "E", message_id=str(number)) for number in range(8)]
            waits = asyncio.gather(*map(asyncio.ensure_future, calls))
            assert await client.flush(timeout=300) == 0
        finally:
            sys.setprofile(profiler)
        assert {outcome.status for outcome in await asyncio.wait_for(waits, 1)} == {Status.DELIVERED}
        counters = client.statistics()
        check_counters(counters)
        assert (counters.accepted, counters.delivered) == (8, 8)
        delivered = [name for arrival in net.arrivals if arrival.taken for name in arrival.ids]
        assert sorted(delivered) == [str(number) for number in range(8)]
        await client.aclose()
        return left < 0


FILES = re.compile(r"_pipeline.\w+\.py$|_lifecycle.waiting\.py$")


def is_consumer() -> bool:
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return False
    return task is not None and task.get_name() == "segment_async consumer"


def test_hooks_that_enqueue_and_close() -> None:
    """on_error may do to the client what it likes; nothing hangs."""

    async def main() -> None:
        told: list[str] = []
        over = asyncio.Event()

        async def on_error(error: Exception, failed: list[dict[str, Any]]) -> None:
            told.extend(message["messageId"] for message in failed)
            if len(told) == 1:
                enqueue(client, "from the hook")
                await client.flush(timeout=1)
                await client.aclose()
                over.set()

        async def refuse_once(arrival: Arrival) -> Response:
            return Response(403, {}, b"")

        client = Client("KEY", transport=Net(refuse_once), on_error=on_error)
        await client.track("u", "E", message_id="a")
        async with asyncio.timeout(60):
            await over.wait()
            await client.aclose()
        assert client.statistics().failed == 2
        assert len(told) == 2

    run(main())


def test_a_flush_does_not_wait_for_reports_that_hooks_cause() -> None:
    async def main() -> None:
        told: list[str] = []

        def on_error(error: Exception, dropped: list[dict[str, Any]]) -> None:
            told.append(dropped[0]["messageId"])
            if len(told) < 1_000:
                enqueue(client, str(len(told)))

        client = Client("KEY", send=False, on_error=on_error)
        enqueue(client, "first")
        enqueue(client, "second")
        assert await client.flush() == 0
        assert told[:2] == ["first", "second"]
        assert len(told) < 10
        await client.aclose()

    run(main())


def test_hooks_on_loops_that_are_closed_give_their_places_to_others(caplog: pytest.LogCaptureFixture) -> None:
    began, ended = [], []

    async def on_error(error: Exception, dropped: list[dict[str, Any]]) -> None:
        began.append(name := dropped[0]["messageId"])
        if name != "next":
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(name)

    client = Client("KEY", send=False, on_error=on_error)
    names = [str(number) for number in range(100)]

    async def first() -> None:
        for name in names:
            enqueue(client, name)
        await client.flush()
        await turns()

    async def second() -> None:
        await client.track("u", "E", message_id="next")
        await client.flush()
        await turns()
        await client.aclose()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(first())
    # Not as `asyncio.run` does, which ends all tasks first.
    loop.close()
    run(second())
    assert began == [*names, "next"]
    assert sorted(ended) == sorted(names)
    gc.collect()
    assert not caplog.records


def test_a_logging_function_that_tracks_does_not_recurse() -> None:
    async def main() -> None:
        client = Client("KEY", transport=Net(lambda arrival: failing()), close_timeout=1)

        class Tracking(logging.Handler):
            records = 0

            def emit(self, record: logging.LogRecord) -> None:
                Tracking.records += 1
                client.enqueue_nowait(messages.track("u", "Logged"))

        logger = logging.getLogger("segment_async")
        tracking = Tracking()
        logger.addHandler(tracking)
        try:
            await client.track("u", "E")
            await asyncio.sleep(300)
        finally:
            logger.removeHandler(tracking)
        assert Tracking.records
        assert client.statistics().accepted == 1 + Tracking.records < 100
        await client.aclose()

    async def failing() -> Response:
        raise ZeroDivisionError

    run(main())
