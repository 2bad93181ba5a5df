"""The pipeline as a whole: which loop it works on, what it leaves there, and how everything in it ends."""

import asyncio
import gc
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import pytest

from segment_async import Client, DeliveryError, Response, RetryPolicy, Status
from segment_async._lifecycle.loop_end import end
from segment_async._outcome import BatchResult
from segment_async._pipeline.admission import Overflow
from segment_async._pipeline.auth import Basic
from segment_async._pipeline.clock import LoopClock
from segment_async._pipeline.delivery import Delivery
from segment_async._pipeline.pipeline import Pipeline, PipelineOptions
from segment_async.spool._protocol import (
    Appended,
    AppendResult,
    NewMessage,
    SpoolStatistics,
    SpoolUnavailable,
    StoredMessage,
    Window,
)
from tests.support.law import check_counters
from tests.support.scripted_transport import ScriptedTransport, Slow
from tests.support.stations import AlwaysRunning
from tests.support.virtual_clock import VirtualClockLoop, run, running_clock

SILENT = Slow(1_000_000)


def make(
    transport: ScriptedTransport | None = None,
    *,
    flush_at: int = 1,
    max_in_flight: int = 1,
    overflow: Overflow = "wait",
    max_queue_size: int = 100,
    on_error: Any = None,
    spool: Any = None,
) -> Pipeline:
    options = PipelineOptions(
        write_key="key",
        flush_at=flush_at,
        flush_interval=0.5,
        max_queue_size=max_queue_size,
        max_queue_bytes=1_000_000,
        overflow=overflow,
        overflow_timeout=1.0,
        max_in_flight=max_in_flight,
        gzip=True,
        timeout=None,
        retry=RetryPolicy(),
        on_error=on_error,
        deliver=True,
        observers=[],
    )
    return Pipeline(options, transport or ScriptedTransport(), Basic("key"), spool, LoopClock(), AlwaysRunning())


def body(name: str) -> bytes:
    return b'{"messageId":"%s"}' % name.encode()


def put(pipeline: Pipeline, name: str) -> Delivery:
    return pipeline.put_nowait(Delivery(name, body(name), pipeline.queue.queued), body(name))


def leave(pipeline: Pipeline) -> list[asyncio.Task[Any]]:
    tasks = pipeline.detach()
    end(tasks)
    return tasks


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def in_each_place(pipeline: Pipeline) -> list[Delivery]:
    """Messages in flight, in a batch that waits, in the open batch, and unread, before a server that says nothing."""
    pipeline.attach(running_clock())
    made = [put(pipeline, "in-flight")]
    await asyncio.sleep(0.1)
    made.append(put(pipeline, "waits"))
    await asyncio.sleep(0.1)
    opened = pipeline.queue.backlog.open
    assert opened is not None
    sealed = opened.seal()
    backlog = pipeline.queue.backlog
    with pipeline.queue.lock:
        backlog.wait(sealed)
        backlog.open = None
    pipeline.queue.place(sealed)
    made.append(put(pipeline, "open"))
    await asyncio.sleep(0.1)
    assert pipeline.queue.backlog.open is not None
    made.append(put(pipeline, "unread"))
    backlog = pipeline.queue.backlog
    assert (len(backlog.in_flight), len(backlog.waiting), len(pipeline.queue.ready)) == (1, 1, 1)
    return made


class TestLoops:
    def test_what_came_before_the_first_loop_is_sent_on_it(self) -> None:
        pipeline = make(transport := ScriptedTransport())
        early = put(pipeline, "early")

        async def main() -> None:
            pipeline.attach(running_clock())
            assert (await early).status is Status.DELIVERED
            leave(pipeline)

        run(main())
        assert transport.taken == ["early"]

    def test_detached_it_leaves_nothing_on_the_loop_and_loses_nothing(self) -> None:
        pipeline = make(transport := ScriptedTransport([SILENT]))

        async def first() -> list[Delivery]:
            made = await in_each_place(pipeline)
            tasks = leave(pipeline)
            assert pipeline.clock.loop is None
            assert leave(pipeline) == []
            await asyncio.wait(tasks)
            assert asyncio.all_tasks() == {asyncio.current_task()}
            return made

        async def second() -> None:
            pipeline.attach(running_clock())
            outcomes = [await one for one in made]
            assert [outcome.status for outcome in outcomes] == [Status.DELIVERED] * 4
            # The first may have arrived: its request was under way.
            assert [outcome.possibly_delivered for outcome in outcomes] == [True, False, False, False]
            leave(pipeline)

        made = run(first())
        assert not pipeline.queue.backlog.in_flight
        assert [one.outcome for one in made] == [None] * 4
        assert pipeline.statistics().pending == 4
        run(second())
        assert transport.taken == ["in-flight", "waits", "open", "unread"]
        check_counters(pipeline.statistics())

    def test_a_batch_that_was_never_sent_is_not_marked_for_a_change_of_loops(self) -> None:
        pipeline = make(ScriptedTransport([SILENT]))

        async def main() -> None:
            pipeline.attach(running_clock())
            delivery = put(pipeline, "a")
            # The request's task exists and has not run.
            for _ in range(10):
                if not pipeline.queue.backlog.in_flight:
                    await asyncio.sleep(0)
            assert pipeline.queue.backlog.in_flight
            leave(pipeline)
            assert pipeline.statistics().requests == 0
            await turns()
            pipeline.attach(running_clock())
            await asyncio.sleep(0.1)
            assert pipeline.statistics().requests == 1
            pipeline.drop_all("exit")
            assert delivery.outcome is not None
            assert delivery.outcome.attempts == 1

        run(main())

    def test_its_clock_goes_on(self) -> None:
        pipeline = make()
        pipeline.clock.monotonic = lambda: 0.0
        for start in (5_000.0, 7.0):
            loop = VirtualClockLoop(start)
            pipeline.attach(loop)
            before = pipeline.clock.now()
            loop.run_until_complete(asyncio.sleep(10))
            assert pipeline.clock.now() == pytest.approx(before + 10)
            leave(pipeline)
            loop.run_until_complete(asyncio.sleep(0))
            loop.close()
        assert pipeline.clock.now() == pytest.approx(20)

    def test_reports_that_had_no_loop_are_made_on_the_next(self) -> None:
        reported: list[str] = []
        pipeline = make(
            overflow="drop_newest",
            max_queue_size=1,
            on_error=lambda error, _: reported.append(error.outcome.message_id),
        )
        put(pipeline, "taken")
        assert put(pipeline, "dropped").outcome is not None

        async def main() -> None:
            pipeline.attach(running_clock())
            await turns()
            leave(pipeline)

        run(main())
        assert reported == ["dropped"]


class TestDropAll:
    def test_everything_ends_wherever_it_is(self) -> None:
        reported: list[tuple[str, list[str]]] = []

        def on_error(error: DeliveryError, dropped: list[dict[str, Any]]) -> None:
            reported.append((str(error.outcome.reason), [message["messageId"] for message in dropped]))

        async def main() -> None:
            pipeline = make(ScriptedTransport([SILENT]), on_error=on_error)
            made = await in_each_place(pipeline)
            waits = [asyncio.ensure_future(one) for one in made]
            await turns()
            # The consumer has read the last one meanwhile.
            assert pipeline.drop_all("close_timeout") == 4
            outcomes = await asyncio.wait_for(asyncio.gather(*waits), 1)
            assert [outcome.reason for outcome in outcomes] == ["close_timeout"] * 4
            assert [outcome.possibly_delivered for outcome in outcomes] == [True, False, False, False]
            assert [outcome.attempts for outcome in outcomes] == [1, 0, 0, 0]
            pipeline.reports.make(1.0)
            counters = pipeline.statistics()
            check_counters(counters)
            assert (counters.dropped, counters.pending, counters.queued_bytes) == (4, 0, 0)
            assert pipeline.clock.loop is None
            assert pipeline.drop_all("close_timeout") == 0

        run(main())
        assert {reason for reason, _ in reported} == {"close_timeout"}
        assert sorted(name for _, names in reported for name in names) == ["in-flight", "open", "unread", "waits"]

    def test_more_than_a_batch_takes_and_without_a_loop(self) -> None:
        pipeline = make(max_queue_size=6_000)
        made = [put(pipeline, str(number)) for number in range(6_000)]
        assert pipeline.drop_all("exit") == 6_000
        assert {one.outcome.reason for one in made if one.outcome is not None} == {"exit"}
        check_counters(pipeline.statistics())
        assert not pipeline.has_pending()


class TestFlush:
    def test_it_sends_without_waiting_for_company(self) -> None:
        async def main() -> None:
            pipeline = make(flush_at=100)
            pipeline.attach(running_clock())
            for name in "abc":
                put(pipeline, name)
            place = pipeline.flush_now()
            later = put(pipeline, "later")
            assert pipeline.queue.order.left(place) == 3
            await asyncio.sleep(0.05)
            assert pipeline.queue.order.left(place) == 0
            pipeline.drop_all("exit")
            assert later.outcome is not None

        run(main())

    def test_an_earlier_flush_is_not_taken_back_by_a_later_one(self) -> None:
        pipeline = make()
        put(pipeline, "a")
        assert pipeline.flush_now() == 1
        pipeline.drop_all("exit")
        assert pipeline.flush_now() == 1
        assert pipeline.queue.backlog.flush_before == 1

    def test_it_ends_as_soon_as_what_it_waits_for_has_made_room_for_newer_messages(self) -> None:
        """Also if the newer message rests on the consumer's next look, in half a second."""

        async def main() -> None:
            transport = ScriptedTransport(lambda _: Response(429, {"Retry-After": "300"}))
            client = Client("key", transport=transport, overflow="drop_oldest", max_queue_bytes=20_000)
            async with client:
                delivery = await client.track("user-1", "Order Completed")
                flush = asyncio.create_task(client.flush())
                # The consumer looks every ten seconds.
                await asyncio.sleep(9.8)
                for _ in range(2):
                    await client.track("user-1", "Order Completed", {"notes": "x" * 18_000})
                assert delivery.outcome is not None
                await asyncio.sleep(0.01)
                assert flush.done()

        run(main())

    def test_at_the_close_nothing_waits_out_its_back_off(self) -> None:
        async def main() -> None:
            transport = ScriptedTransport([Response(503)] * 5)
            pipeline = make(transport)
            pipeline.attach(running_clock())
            delivery = put(pipeline, "a")
            await asyncio.sleep(12)
            before = running_clock().time()
            while delivery.outcome is None:
                pipeline.retry_now()
                await asyncio.sleep(0.1)
            assert running_clock().time() - before < 0.5
            leave(pipeline)

        run(main())


class TestFork:
    def test_in_the_child_the_lock_may_be_held_for_ever(self) -> None:
        pipeline = make()
        held, over = threading.Event(), threading.Event()

        def hold() -> None:
            with pipeline.queue.lock:
                held.set()
                over.wait(10)

        holder = threading.Thread(target=hold)
        holder.start()
        held.wait(10)
        abandoning = threading.Thread(target=pipeline.abandon_after_fork)
        abandoning.start()
        abandoning.join(5)
        assert not abandoning.is_alive()
        over.set()
        holder.join(10)

    def test_the_tasks_are_left_to_the_parent_without_a_complaint(self, caplog: pytest.LogCaptureFixture) -> None:
        loop = VirtualClockLoop()

        async def begin() -> None:
            await in_each_place(pipeline)

        pipeline = make(ScriptedTransport([SILENT]), on_error=lambda *_: asyncio.sleep(1_000))
        loop.run_until_complete(begin())
        tasks = asyncio.all_tasks(loop)
        assert len(tasks) == 2
        pipeline.abandon_after_fork()
        assert not any(task.cancelling() for task in tasks)
        # The consumer does not come back in the child.
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.sleep(1))
        assert not asyncio.all_tasks(loop)
        loop.close()
        del tasks
        gc.collect()
        assert not caplog.records


class Memory:
    """A spool in memory that stores at once and holds everything for this process."""

    def __init__(self) -> None:
        self.stored: dict[int, NewMessage] = {}
        self.settled: list[tuple[list[int], BatchResult]] = []
        self.answers = True

    def claim(self, fingerprint: str) -> None:
        """Whose messages it holds does not matter here."""

    def append_nowait(
        self,
        messages: Sequence[NewMessage],
        done: Callable[[AppendResult | SpoolUnavailable], None],
        *,
        hold: int = 0,
        make_room: bool = False,
    ) -> None:
        if not self.answers:
            return
        answers = []
        for index, message in enumerate(messages):
            key = len(self.stored) + 1
            self.stored[key] = message
            answers.append(Appended("stored", key, held=index < hold))
        done(AppendResult(answers))

    def statistics(self) -> SpoolStatistics:
        return SpoolStatistics()

    async def read(self, max_count: int, max_bytes: int) -> Window:
        await asyncio.Event().wait()
        return Window([StoredMessage(0, "", b"")])

    async def sending(self, keys: Sequence[int], attempt: int) -> Collection[int]:
        return ()

    async def settle(self, keys: Sequence[int], result: BatchResult, answer: str = "") -> None:
        self.settled.append((list(keys), result))

    async def aclose(self) -> None:
        """Nothing is held."""


class TestWithASpool:
    def test_what_is_delivered_is_recorded(self) -> None:
        async def main() -> None:
            spool = Memory()
            pipeline = make(spool=spool)
            pipeline.attach(running_clock())
            assert (await put(pipeline, "a")).status is Status.DELIVERED
            await turns()
            assert [(keys, result.status) for keys, result in spool.settled] == [([1], Status.DELIVERED)]
            assert not pipeline.has_pending()
            leave(pipeline)

        run(main())

    @pytest.mark.parametrize("reason", ["close_timeout", "exit"])
    def test_what_is_stored_is_kept_and_the_rest_dropped(self, reason: str) -> None:
        async def main() -> None:
            spool = Memory()
            pipeline = make(ScriptedTransport([SILENT]), spool=spool)
            made = await in_each_place_of_a_spool(pipeline)
            spool.answers = False
            made.append(put(pipeline, "unstored"))
            waits = [asyncio.ensure_future(one) for one in made]
            await turns()
            assert pipeline.drop_all(reason) == 1
            outcomes = await asyncio.wait_for(asyncio.gather(*waits), 1)
            assert [outcome.reason for outcome in outcomes if outcome.reason is not None] == [reason]
            statuses: Mapping[str, Status] = {outcome.message_id: outcome.status for outcome in outcomes}
            assert statuses.pop("unstored") is Status.DROPPED
            assert set(statuses.values()) == {Status.KEPT}
            # The spool has the last one, and had not answered.
            unstored = outcomes.pop()
            assert (unstored.attempts, unstored.possibly_delivered) == (0, True)
            assert {(outcome.attempts, outcome.possibly_delivered) for outcome in outcomes} == {(0, False), (1, True)}
            counters = pipeline.statistics()
            check_counters(counters)
            assert (counters.pending, counters.dropped, counters.accepted) == (3, 1, 4)
            assert not spool.settled

        run(main())


async def in_each_place_of_a_spool(pipeline: Pipeline) -> list[Delivery]:
    """Messages in flight, in the open batch, and ready to be read."""
    pipeline.attach(running_clock())
    made = []
    for name in ("in-flight", "open"):
        made.append(put(pipeline, name))
        await asyncio.sleep(0.1)
    made.append(put(pipeline, "ready"))
    return made
