"""The way into the queue: its bounds, its policies, the callers that wait for room, and the law of accounts at every step.

The consumer is played by a few functions of `queue_steps`; what goes through the whole client is at the end.
"""

import asyncio
import threading
from collections import Counter, OrderedDict
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from segment_async import (
    Client,
    ClientClosed,
    Delivery,
    DeliveryError,
    QueueFull,
    Response,
    Statistics,
    Status,
    TransportError,
    messages,
)
from segment_async._outcome import BatchResult
from segment_async._pipeline.admission import Admission, Overflow
from segment_async._pipeline.batch import MAX_BODY_BYTES
from segment_async._pipeline.queue import Queue
from segment_async._pipeline.room import Waiter
from tests.support.law import check_counters
from tests.support.queue_steps import (
    CHANGES,
    DELIVERED,
    PUTS,
    QUEUE_FULL,
    REFUSED,
    end_batch,
    hold_to_the_law,
    is_free,
    made_ready,
    make,
    message,
    offer,
    put,
    read,
    seal,
    settle,
    settle_all,
    traced,
    turns,
)
from tests.support.scripted_transport import ScriptedTransport, Slow
from tests.support.stations import MANY, Station, queue_with, station_with
from tests.support.virtual_clock import VirtualClockLoop, run, running_clock

POLICIES: tuple[Overflow, ...] = ("wait", "drop_newest", "drop_oldest", "raise")


async def filled(overflow: Overflow = "wait", timeout: float | None = None) -> Station:
    queue, admission = make(3, overflow=overflow, timeout=timeout)
    queue.clock.attach(running_clock())
    for number in range(3):
        assert await put(admission, name=f"old-{number}")
    return Station(queue, admission)


class TestBounds:
    @pytest.mark.parametrize(("size", "fits"), [(39, True), (40, True), (41, False)])
    def test_bytes_are_bounded_to_the_byte(self, size: int, fits: bool) -> None:
        admission = make(max_bytes=100, overflow="drop_newest").admission
        assert offer(admission, 60)
        assert offer(admission, size) is fits

    def test_the_count_is_bounded_to_the_message(self) -> None:
        admission = make(3, overflow="drop_newest").admission
        assert [offer(admission) for _ in range(4)] == [True, True, True, False]

    def test_what_is_read_and_what_is_in_flight_counts_until_it_is_settled(self) -> None:
        queue, admission = make(3, max_bytes=30, overflow="drop_newest")
        for _ in range(3):
            offer(admission, 10)
        read(queue)
        assert not offer(admission, 1)
        first = queue.backlog.waiting[0]
        backlog = queue.backlog
        with queue.lock:
            backlog.mark_in_flight(first)
        assert not offer(admission, 1)
        assert queue.statistics().in_flight == 1
        end_batch(queue, first, DELIVERED)
        assert not offer(admission, 11)
        assert offer(admission, 10)

    def test_the_room_of_a_caller_that_was_woken_is_not_given_to_another(self) -> None:
        async def main() -> None:
            queue, admission = await filled()
            waiting = asyncio.create_task(put(admission))
            await turns()
            settle(queue)
            assert not offer(admission)
            assert await waiting
            assert queue.statistics().pending == 3

        run(main())

    def test_the_fast_way_in_refuses_what_needs_a_look(self) -> None:
        queue, admission = make(2)
        assert [admission.offer(message(queue), 1) for _ in range(3)] == [True, True, False]
        settle(queue, 2)
        admission.close()
        assert not admission.offer(message(queue), 1)


class TestPolicies:
    def test_raise_raises_and_takes_nothing(self) -> None:
        async def main() -> None:
            queue, admission = await filled("raise")
            with pytest.raises(QueueFull):
                await put(admission)
            with pytest.raises(QueueFull):
                offer(admission)
            assert queue.statistics().accepted == 3

        run(main())

    def test_drop_newest_tells_that_the_message_is_to_be_dropped(self) -> None:
        async def main() -> None:
            queue, admission = await filled("drop_newest")
            assert not await put(admission)
            assert not offer(admission)
            assert queue.statistics().accepted == 3

        run(main())

    def test_drop_oldest_makes_room_from_the_front(self) -> None:
        async def main() -> None:
            queue, admission = await filled("drop_oldest")
            assert await put(admission, name="new-1")
            assert offer(admission, name="new-2")
            assert read(queue) == ["old-2", "new-1", "new-2"]
            assert queue.statistics().reasons == {"queue_full": 2}

        run(main())

    def test_drop_oldest_drops_the_new_one_where_all_the_old_ones_are_in_flight(self) -> None:
        async def main() -> None:
            queue, admission = await filled("drop_oldest")
            read(queue)
            assert queue.backlog.open is not None
            seal(queue, queue.backlog.open)
            backlog = queue.backlog
            with queue.lock:
                for batch in list(backlog.waiting):
                    backlog.mark_in_flight(batch)
            assert not await put(admission)
            assert not offer(admission)
            assert not admission.evicted

        run(main())

    def test_wait_waits_and_its_twin_that_cannot_is_told_to_drop(self) -> None:
        async def main() -> None:
            queue, admission = await filled("wait")
            waiting = asyncio.create_task(put(admission))
            await turns()
            assert not waiting.done()
            assert not offer(admission)
            settle(queue)
            assert await waiting

        run(main())

    def test_a_message_counted_as_refused_is_accepted_and_ended(self) -> None:
        queue, admission = make()
        admission.refuse(QUEUE_FULL)
        counters = queue.statistics()
        assert (counters.accepted, counters.dropped, counters.pending) == (1, 1, 0)
        check_counters(counters)


class TestOverflowTimeout:
    def test_it_is_one_wait_in_all_and_not_one_a_call(self) -> None:
        async def main() -> list[float]:
            admission = (await filled(timeout=1.0)).admission
            clock, waits = running_clock().time, []
            for pause in (0.0, 0.4, 5.0):
                await asyncio.sleep(pause)
                began = clock()
                assert not await put(admission)
                waits.append(clock() - began)
            return waits

        assert run(main()) == [1.0, 0.0, 0.0]

    def test_it_is_measured_from_when_the_queue_became_full(self) -> None:
        async def main() -> None:
            admission = (await filled(timeout=1.0)).admission
            await asyncio.sleep(0.75)
            began = running_clock().time()
            assert not await put(admission)
            assert running_clock().time() - began == 0.25

        run(main())

    def test_all_who_wait_leave_at_the_same_moment(self) -> None:
        async def main() -> None:
            admission = (await filled(timeout=1.0)).admission
            waiting = []
            for _ in range(4):
                waiting.append(asyncio.create_task(put(admission)))
                await asyncio.sleep(0.1)
            assert await asyncio.gather(*waiting) == [False] * 4
            assert running_clock().time() == 1.0

        run(main())

    def test_it_begins_anew_once_there_was_room(self) -> None:
        async def main() -> None:
            queue, admission = await filled(timeout=1.0)
            await asyncio.sleep(10)
            settle(queue)
            assert await put(admission)
            began = running_clock().time()
            assert not await put(admission)
            assert running_clock().time() - began == 1.0

        run(main())

    def test_a_queue_full_by_bytes_is_full_too(self) -> None:
        async def main() -> None:
            queue, admission = make(MANY, max_bytes=10, timeout=1.0)
            queue.clock.attach(running_clock())
            assert await put(admission, 8)
            began = running_clock().time()
            assert not await put(admission, 3)
            assert running_clock().time() - began == 1.0

        run(main())

    def test_none_waits_as_long_as_it_takes(self) -> None:
        async def main() -> None:
            queue, admission = await filled(timeout=None)
            waiting = asyncio.create_task(put(admission))
            await asyncio.sleep(100_000)
            assert not waiting.done()
            settle(queue)
            assert await waiting

        run(main())

    def test_zero_does_not_wait_for_room_but_for_the_reader(self) -> None:
        async def main() -> None:
            queue, admission = make(2_000, timeout=0.0)
            queue.clock.attach(running_clock())
            for _ in range(500):
                assert await put(admission)
            waiting = asyncio.create_task(put(admission))
            await turns()
            assert not waiting.done()
            read(queue)
            assert await waiting

        run(main())


class TestPiledUp:
    """Callers on the consumer's own loop pause while it has five hundred messages to read."""

    async def waiting_callers(
        self, overflow: Overflow, timeout: float | None = 1.0
    ) -> tuple[Station, list[asyncio.Task]]:
        """A queue with room for 500 more, and 800 callers that wait only because the consumer is behind."""
        queue, admission = make(1_000, overflow=overflow, timeout=timeout)
        queue.clock.attach(running_clock())
        for _ in range(500):
            await put(admission)
        tasks = [asyncio.create_task(put(admission, name="late")) for _ in range(800)]
        await turns()
        assert not any(task.done() for task in tasks)
        return Station(queue, admission), tasks

    @staticmethod
    def results(tasks: list[asyncio.Task]) -> Mapping[object, int]:
        return Counter(task.result() if task.exception() is None else type(task.exception()) for task in tasks)

    def test_who_shares_the_loop_pauses_and_others_go_on(self) -> None:
        async def main() -> None:
            queue, admission = make(5_000)
            for _ in range(500):
                await put(admission)
            assert await put(admission, paced=False)
            waiting = asyncio.create_task(put(admission))
            await turns()
            assert not waiting.done()
            # One more than those at which it goes on.
            assert len(read(queue, 400)) == 400
            await turns()
            assert not waiting.done()
            read(queue, 1)
            assert await waiting

        run(main())

    def test_a_caller_waits_behind_those_that_wait_and_not_behind_those_that_are_about_to_go(self) -> None:
        async def main() -> None:
            queue, admission = make(5_000)
            for _ in range(500):
                await put(admission)
            waiting = [asyncio.create_task(put(admission)) for _ in range(20)]
            await turns()
            read(queue, 100)
            behind = put(admission, name="behind")
            assert isinstance(behind.send(None), asyncio.Future)
            behind.close()
            # They are woken, and have not run yet.
            read(queue)
            assert not any(task.done() for task in waiting)
            for _ in range(480):
                with pytest.raises(StopIteration):
                    put(admission, name="beside").send(None)
            # As many unread messages as a caller may leave, theirs included.
            last = put(admission, name="too many")
            assert isinstance(last.send(None), asyncio.Future)
            last.close()
            assert all(await asyncio.gather(*waiting))

        run(main())

    @pytest.mark.parametrize(
        ("overflow", "expected"),
        [
            ("wait", {True: 500, False: 300}),
            ("drop_newest", {True: 500, False: 300}),
            ("raise", {True: 500, QueueFull: 300}),
        ],
    )
    def test_the_queue_fills_up_meanwhile(self, overflow: Overflow, expected: Mapping[object, int]) -> None:
        async def main() -> None:
            (queue, _), tasks = await self.waiting_callers(overflow)
            read(queue)
            await asyncio.wait(tasks)
            assert self.results(tasks) == expected
            assert running_clock().time() == (1.0 if overflow == "wait" else 0.0)

        run(main())

    def test_the_queue_fills_up_meanwhile_and_the_oldest_go(self) -> None:
        async def main() -> None:
            (queue, _), tasks = await self.waiting_callers("drop_oldest")
            read(queue)
            await asyncio.wait(tasks)
            assert self.results(tasks) == {True: 800}
            assert queue.statistics().pending == 1_000
            assert queue.statistics().reasons == {"queue_full": 300}

        run(main())

    def test_without_a_limit_they_wait_for_room(self) -> None:
        async def main() -> None:
            (queue, _), tasks = await self.waiting_callers("wait", timeout=None)
            read(queue)
            await asyncio.sleep(1_000)
            assert sum(task.done() for task in tasks) == 500
            read(queue)
            settle(queue, 300)
            await asyncio.wait(tasks)
            assert self.results(tasks) == {True: 800}

        run(main())

    @pytest.mark.parametrize("overflow", POLICIES)
    def test_callers_that_wait_for_the_reader_alone_fill_no_queue(self, overflow: Overflow) -> None:
        async def main() -> None:
            (_, admission), tasks = await self.waiting_callers(overflow)
            assert offer(admission)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

        run(main())


class TestWaiters:
    def test_first_come_first_served(self) -> None:
        async def main() -> None:
            queue, admission = await filled()
            tasks = []
            for number in range(10):
                tasks.append(asyncio.create_task(put(admission, name=f"new-{number}")))
                await turns(1)
            settle(queue, 2)
            late = asyncio.create_task(put(admission, name="late"))
            order: list[str] = []
            while len(order) < 12:
                await turns()
                order += read(queue)
                settle(queue)
            await asyncio.gather(*tasks, late)
            assert order == ["old-2", *(f"new-{number}" for number in range(10)), "late"]

        run(main())

    def test_a_small_message_does_not_overtake_a_large_one(self) -> None:
        async def main() -> None:
            queue, admission = make(MANY, max_bytes=100)
            await put(admission, 50, "first")
            large = asyncio.create_task(put(admission, 60, "large"))
            await turns()
            small = asyncio.create_task(put(admission, 1, "small"))
            await turns()
            assert not small.done()
            assert read(queue) == ["first"]
            settle(queue)
            await asyncio.gather(large, small)
            assert read(queue) == ["large", "small"]

        run(main())

    @pytest.mark.parametrize("cancelled_after", range(6))
    @pytest.mark.parametrize("room_after", range(6))
    def test_cancelled_at_any_moment_it_has_taken_nothing_or_all(self, cancelled_after: int, room_after: int) -> None:
        async def main() -> None:
            queue, admission = await filled()
            waiting = asyncio.create_task(put(admission, name="waiting"))
            for turn in range(8):
                if turn == room_after:
                    settle(queue)
                if turn == cancelled_after:
                    waiting.cancel()
                await asyncio.sleep(0)
            took = not waiting.cancelled() and waiting.result()
            assert queue.statistics().accepted == 3 + took
            assert ("waiting" in read(queue)) is took
            # Room that was held for it is free again.
            assert offer(admission) is not took

        run(main())

    def test_the_room_of_a_cancelled_one_goes_to_the_next(self) -> None:
        async def main() -> None:
            queue, admission = await filled()
            first, second = (asyncio.create_task(put(admission)) for _ in range(2))
            await turns()
            settle(queue)
            first.cancel()
            assert await second
            assert first.cancelled()

        run(main())

    def test_close_ends_every_wait(self) -> None:
        async def main() -> None:
            queue, admission = await filled()
            granted, waiting = (asyncio.create_task(put(admission)) for _ in range(2))
            await turns()
            settle(queue)
            admission.close()
            for task in (granted, waiting):
                with pytest.raises(ClientClosed):
                    await task
            with pytest.raises(ClientClosed):
                offer(admission)
            assert queue.statistics().accepted == 3
            # A message that was given up before is still counted.
            admission.refuse(QUEUE_FULL)
            assert queue.statistics().accepted == 4

        run(main())

    def test_ten_thousand_wait_and_half_of_them_leave_without_a_search(self, monkeypatch: pytest.MonkeyPatch) -> None:
        compared = 0

        def count(waiter: object, other: object) -> bool:
            nonlocal compared
            compared += 1
            return waiter is other

        # A search for each that leaves would compare millions of times: it would hold up the loop.
        monkeypatch.setattr(Waiter, "__eq__", count)

        async def main() -> None:
            queue, admission = station_with(3)
            queue.clock.attach(running_clock())
            for _ in range(3):
                await put(admission)
            tasks = [asyncio.create_task(put(admission, paced=False)) for _ in range(10_000)]
            await turns()
            for task in tasks[5_000:]:
                task.cancel()
            await turns()
            while queue.statistics().pending:
                settle_all(queue)
                await turns()
            assert queue.statistics().delivered == 5_003

        run(main())
        assert compared < 10_000

    def test_waiters_change_under_the_lock_alone(self) -> None:
        """Other threads go through them with the lock held."""

        class Checked(OrderedDict[Waiter, None]):
            def __setitem__(self, waiter: Waiter, value: None) -> None:
                assert not is_free(queue)
                super().__setitem__(waiter, value)

            def pop(self, *arguments: Any) -> Any:
                assert not is_free(queue)
                return super().pop(*arguments)

        queue = queue_with(1, batch_of=1)
        queue.room.waiters = Checked()
        admission = Admission(queue, "wait")

        async def main() -> None:
            queue.clock.attach(running_clock())
            await put(admission)
            waiting = asyncio.create_task(put(admission))
            await turns()
            assert len(queue.room.waiters) == 1
            settle(queue)
            assert await waiting
            assert not queue.room.waiters

        run(main())


class TestLoopsThatStand:
    """An application that starts calls and does not wait for them, on a loop that stops, or is closed."""

    def test_its_callers_go_once_it_runs_again_or_wait_again(self) -> None:
        queue, admission = make(1)
        loop = VirtualClockLoop()

        async def begin() -> list[asyncio.Task[bool]]:
            queue.clock.attach(running_clock())
            calls = [asyncio.create_task(put(admission, name=f"call-{number}", paced=False)) for number in range(3)]
            await turns()
            return calls

        calls = loop.run_until_complete(begin())
        # The loop stands: two calls wait, and room for one is made.
        settle(queue)
        assert not queue.room.waiters
        assert offer(admission, name="other")
        loop.run_until_complete(turns())
        assert [call.done() for call in calls] == [True, False, False]
        assert len(queue.room.waiters) == 2
        order: list[str] = []
        while queue.statistics().pending:
            order += read(queue)
            settle(queue)
            loop.run_until_complete(turns())
            queue.notify()
            loop.run_until_complete(turns())
        assert order == ["other", "call-1", "call-2"]
        assert all(call.result() for call in calls)
        loop.close()


class TestThreads:
    def test_callers_on_four_loops_and_a_reader_on_a_fifth(self) -> None:
        queue, admission = station_with(50, 500, timeout=None)
        checks: list[Statistics] = []

        def call() -> None:
            async def calls() -> None:
                await asyncio.gather(*(put(admission, 10, paced=False) for _ in range(500)))

            asyncio.run(calls())

        callers = [threading.Thread(target=call) for _ in range(4)]
        for caller in callers:
            caller.start()
        while queue.statistics().delivered < 2_000:
            queue.read(MAX_BODY_BYTES, all_of_it=True)
            checks.append(queue.statistics())
            if queue.backlog.open is not None:
                end_batch(queue, seal(queue, queue.backlog.open), DELIVERED)
        for caller in callers:
            caller.join()
        for counters in checks:
            check_counters(counters)
        assert max(counters.pending for counters in checks) <= 50
        assert queue.statistics().delivered == 2_000
        assert queue.statistics().queued_bytes == 0


class TestDropOldest:
    def test_a_whole_batch_goes_the_oldest_that_is_not_in_flight(self) -> None:
        queue, admission = station_with(6, overflow="drop_oldest", batch_of=2)
        for number in range(6):
            offer(admission, name=str(number))
        read(queue)
        first = queue.backlog.waiting[0]
        backlog = queue.backlog
        with queue.lock:
            backlog.mark_in_flight(first)
        assert offer(admission)
        assert queue.statistics().reasons == {"queue_full": 2}
        assert [batch.start for batch in queue.backlog.batches()] == [4, 0]
        assert queue.statistics().pending == 5

    def test_it_is_reported_with_its_history_and_its_bytes(self) -> None:
        queue, admission = station_with(2, overflow="drop_oldest", batch_of=1)
        made = [message(queue, 10, name) for name in "ab"]
        for one in made:
            admission.put_nowait(one, 10)
        read(queue)
        first = queue.backlog.waiting[0]
        first.history = first.history._replace(sends=3, maybe_sent=True, status_code=503)
        assert offer(admission, 10)
        # The second is in the open batch.
        assert offer(admission, 10)
        expected = [BatchResult(Status.DROPPED, "queue_full", 503, 3, True), QUEUE_FULL]
        assert [(result, list(bodies()), size) for result, bodies, size in admission.evicted] == [
            (result, [b"x" * 10], 10) for result in expected
        ]
        assert [one.outcome and one.outcome.attempts for one in made] == [3, 0]

    def test_what_waits_for_a_message_of_the_open_batch_is_woken(self) -> None:
        async def main() -> None:
            queue, admission = make(1, overflow="drop_oldest")
            queue.clock.attach(running_clock())
            old = message(queue)
            admission.put_nowait(old, 1)
            read(queue)
            waiting = asyncio.ensure_future(old)
            await turns()
            assert offer(admission)
            outcome = await waiting
            assert (outcome.status, outcome.reason) == (Status.DROPPED, "queue_full")

        run(main())

    def test_for_a_message_that_is_larger_than_the_oldest_several_go(self) -> None:
        queue, admission = make(100, max_bytes=100, overflow="drop_oldest")
        for _ in range(10):
            offer(admission, 10)
        assert offer(admission, 25)
        assert queue.statistics().reasons == {"queue_full": 3}
        assert queue.statistics().pending == 8


class TestReentry:
    """A signal handler or a finalizer may put a message at any call, in the middle of anything."""

    def test_amid_a_change_of_batches_nothing_is_dropped_to_make_room(self) -> None:
        queue, admission = make(2, overflow="drop_oldest")
        offer(admission)
        offer(admission)
        with queue.lock:
            assert not offer(admission)
        assert not admission.evicted
        assert offer(admission)
        assert len(admission.evicted) == 1

    def test_amid_a_change_a_message_that_finds_room_is_taken(self) -> None:
        queue, admission = make(3)
        with queue.lock:
            assert offer(admission)
            assert admission.offer(message(queue), 1)
        assert len(queue.ready) == 2

    @pytest.mark.parametrize("overflow", ["wait", "drop_oldest"])
    @pytest.mark.parametrize("name", ["offer", "put_nowait", "read", "settle", "drop", "repair", "sleep"])
    def test_a_put_at_any_call_finds_whole_state(self, name: str, overflow: Overflow) -> None:
        """And whatever was going on ends as it would have."""
        moment, is_over = 0, False
        while not is_over:
            is_over = run(self.once(name, overflow, moment))
            moment += 1
        assert moment > 5

    async def once(self, name: str, overflow: Overflow, moment: int) -> bool:
        queue, admission = made_ready(overflow)
        came: list[bool] = []

        def handler() -> None:
            came.append(offer(admission, 10, "handler's"))

        is_over = traced(lambda: CHANGES[name](queue, admission), moment, handler)
        assert is_over == (not came)
        hold_to_the_law(queue, expected=6 + (name in PUTS) + sum(came))
        return is_over


class TestSpooled:
    """With a spool: what is accepted and waits on disk is counted here, and bounded there."""

    def counts(self, queue: Queue) -> tuple[int, int, int, int]:
        counters = queue.statistics()
        check_counters(counters)
        return counters.accepted, counters.pending, counters.recovered, counters.queued_bytes

    def test_a_call_that_waits_for_the_disk_has_not_accepted_its_message(self) -> None:
        async def main() -> None:
            queue, admission = make(4, has_spool=True)
            queue.clock.attach(running_clock())
            assert await admission.put(message(queue, 10), 10, paced=False, arriving=True)
            assert self.counts(queue) == (0, 0, 0, 10)
            # But it takes room, and a flush waits for it.
            assert queue.accounts.pending == 1
            assert queue.order.place_to_reach() == 1
            queue.accounts.arriving -= 1
            assert self.counts(queue) == (1, 1, 0, 10)

        run(main())

    def test_its_fast_way_in_refuses_what_needs_a_look(self) -> None:
        async def main() -> None:
            queue, admission = make(4, max_bytes=30, has_spool=True)
            queue.clock.attach(running_clock())
            assert admission.offer_arriving(message(queue, 10), 10)
            assert (self.counts(queue), len(queue.incoming)) == ((0, 0, 0, 10), 1)
            assert not admission.offer_arriving(message(queue, 21), 21)
            assert admission.offer_arriving(message(queue, 10), 10)
            assert admission.offer_arriving(message(queue, 10), 10)
            # The last one for which there is room: from then on callers wait for a limited time.
            assert not admission.offer_arriving(message(queue, 0), 0)
            queue.leave(2, 20)
            admission.close()
            assert not admission.offer_arriving(message(queue, 10), 10)

        run(main())


class LawOfTheQueue(RuleBasedStateMachine):
    """Anything in any order: the law holds, the bounds hold, and no caller waits that need not."""

    @initialize(
        most=st.integers(1, 5),
        most_bytes=st.integers(10, 40),
        overflow=st.sampled_from(POLICIES),
        timeout=st.sampled_from([None, 0.0, 1.0]),
        batch_of=st.integers(1, 3),
    )
    def open(self, most: int, most_bytes: int, overflow: Overflow, timeout: float | None, batch_of: int) -> None:
        self.loop = VirtualClockLoop()
        self.most, self.most_bytes, self.overflow, self.timeout = most, most_bytes, overflow, timeout
        self.queue, self.admission = station_with(most, most_bytes, overflow, timeout, batch_of=batch_of)
        self.queue.clock.attach(self.loop)
        self.waiting: list[tuple[asyncio.Task[None], int]] = []
        self.taken = self.refused = self.ended = 0
        self.closed = False

    def turn(self) -> None:
        self.loop.run_until_complete(turns())
        self.waiting = [(task, size) for task, size in self.waiting if not task.done()]

    def book(self, took: bool) -> None:
        """As the client does it."""
        while self.admission.evicted:
            result, bodies, size = self.admission.evicted.popleft()
            assert result == QUEUE_FULL
            evicted = list(bodies())
            assert sum(map(len, evicted)) == size
            self.ended += len(evicted)
        if took:
            self.taken += 1
        else:
            self.admission.refuse(QUEUE_FULL)
            self.refused += 1

    async def call(self, size: int) -> None:
        try:
            self.book(await put(self.admission, size))
        except QueueFull:
            assert self.overflow == "raise"
        except ClientClosed:
            assert self.closed

    @rule(size=st.integers(1, 10))
    def put(self, size: int) -> None:
        self.waiting.append((self.loop.create_task(self.call(size)), size))
        self.turn()

    @rule(size=st.integers(1, 10))
    def put_nowait(self, size: int) -> None:
        try:
            self.book(offer(self.admission, size))
        except QueueFull:
            assert self.overflow == "raise"
        except ClientClosed:
            assert self.closed
        self.turn()

    @rule()
    def read_one(self) -> None:
        read(self.queue, 1)
        self.turn()

    @rule()
    def seal(self) -> None:
        if self.queue.backlog.open is not None:
            seal(self.queue, self.queue.backlog.open)

    @precondition(lambda self: self.queue.backlog.waiting)
    @rule()
    def launch(self) -> None:
        backlog = self.queue.backlog
        with self.queue.lock:
            backlog.mark_in_flight(backlog.waiting[0])

    @precondition(lambda self: self.queue.backlog.in_flight)
    @rule()
    def retry(self) -> None:
        backlog = self.queue.backlog
        with self.queue.lock:
            backlog.wait(next(iter(backlog.in_flight)))
        self.queue.notify()

    @precondition(lambda self: self.queue.backlog.in_flight)
    @rule(result=st.sampled_from([DELIVERED, REFUSED]))
    def conclude(self, result: BatchResult) -> None:
        batch = next(iter(self.queue.backlog.in_flight))
        end_batch(self.queue, batch, result)
        self.ended += batch.count
        self.turn()

    @precondition(lambda self: self.waiting)
    @rule(which=st.integers(0, 20))
    def cancel(self, which: int) -> None:
        self.waiting[which % len(self.waiting)][0].cancel()
        self.turn()

    @rule(seconds=st.sampled_from([0.5, 2.0]))
    def pass_time(self, seconds: float) -> None:
        self.loop.advance(seconds)
        self.turn()

    @rule()
    def repair(self) -> None:
        self.queue.repair()

    @precondition(lambda self: self.taken > 8)
    @rule()
    def close(self) -> None:
        self.closed = True
        self.admission.close()
        self.turn()

    @invariant()
    def accounts_agree(self) -> None:
        counters = self.queue.statistics()
        check_counters(counters)
        assert counters.accepted == self.taken + self.refused
        assert counters.pending == self.taken - self.ended
        assert counters.in_flight == sum(batch.count for batch in self.queue.backlog.in_flight)
        assert self.queue.accounts.pending_bytes <= self.most_bytes
        assert counters.pending <= self.most

    @invariant()
    def no_caller_waits_that_need_not(self) -> None:
        if self.waiting:
            assert self.overflow == "wait"
            assert self.timeout != 0
            assert not self.closed
            assert not self.queue.accounts.has_room(self.waiting[0][1])

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            for task, _ in self.waiting:
                task.cancel()
            self.turn()
            self.loop.close()


TestLaw = LawOfTheQueue.TestCase
TestLaw.settings = settings(max_examples=150, stateful_step_count=40)


class Dead:
    """A transport to nowhere."""

    async def send(self, body: bytes, headers: Mapping[str, str]) -> Response:
        raise TransportError("down", maybe_sent=False)

    async def aclose(self) -> None:
        """Nothing is held."""


class Silent(Dead):
    """One that never answers."""

    async def send(self, body: bytes, headers: Mapping[str, str]) -> Response:
        await asyncio.Event().wait()
        raise AssertionError


def left_alone(calls: list[asyncio.Task[Delivery]]) -> None:
    """Tasks of a loop that does not run again, which would be reported as destroyed."""
    for call in calls:
        call._log_destroy_pending = False  # type: ignore[attr-defined]
        coroutine = call.get_coro()
        if not call.done() and coroutine is not None:
            coroutine.close()


class TestThroughTheClient:
    def outage(self, overflow: Overflow) -> tuple[Mapping[object, int], float, Statistics]:
        """Three thousand callers at once, room for 1,500, and nothing gets out."""

        async def main() -> tuple[Mapping[object, int], float, Statistics]:
            clock = running_clock().time
            client = Client("key", transport=Dead(), overflow=overflow, max_queue_size=1_500, close_timeout=0)

            async def call() -> object:
                try:
                    delivery = await client.track("user", "Event")
                except QueueFull:
                    return QueueFull
                return delivery.outcome and delivery.outcome.reason

            ends = Counter(await asyncio.gather(*(call() for _ in range(3_000))))
            waited, counters = clock(), client.statistics()
            await client.aclose()
            return ends, waited, counters

        return run(main())

    @pytest.mark.parametrize(
        ("overflow", "expected"),
        [("wait", "queue_full"), ("drop_newest", "queue_full"), ("raise", QueueFull)],
    )
    def test_an_outage_holds_callers_up_once_if_at_all(self, overflow: Overflow, expected: object) -> None:
        ends, waited, counters = self.outage(overflow)
        assert ends == {None: 1_500, expected: 1_500}
        assert waited <= (1.0 if overflow == "wait" else 0.0)
        assert counters.pending == 1_500
        check_counters(counters)

    @pytest.mark.parametrize("is_closed", [True, False], ids=["closed", "standing"])
    @pytest.mark.parametrize(("count", "size"), [(1_000, 10_000), (3_000, 10_000), (3, 1)])
    def test_calls_left_on_a_loop_that_ended_hold_up_no_later_one(
        self, count: int, size: int, *, is_closed: bool
    ) -> None:
        client = Client("key", transport=ScriptedTransport(), max_queue_size=size, overflow_timeout=None)
        calls: list[asyncio.Task[Delivery]] = []

        async def leave() -> None:
            calls.extend(asyncio.create_task(client.track("user", "Left")) for _ in range(count))
            await asyncio.sleep(0)

        async def later() -> None:
            async with asyncio.timeout(60):
                assert await client.flush() == 0
                assert client.nowait.track("user", "Later").outcome is None
                assert (await (await client.track("user", "Later"))).status is Status.DELIVERED

        ended = VirtualClockLoop()
        ended.run_until_complete(leave())
        if is_closed:
            ended.close()
        run(later())
        left_alone(calls)
        ended.close()
        run(client.aclose())

    def test_nor_one_that_waits_already_when_their_loop_stops(self) -> None:
        class Other(asyncio.SelectorEventLoop):
            runs = False

            def is_running(self) -> bool:
                return self.runs

        async def main() -> None:
            async with Client("key", transport=ScriptedTransport()) as client:
                await (await client.track("user", "First"))
                await asyncio.sleep(100)
                queue = client._owner.pipeline.queue
                for _ in range(1_000):
                    # Woken, and it has not gone yet.
                    waiter = Waiter(1, paced=True)
                    waiter.future, waiter.woken = other.create_future(), True
                    with queue.lock:
                        queue.room.waiters[waiter] = None
                waiting = asyncio.create_task(client.track("user", "Live"))
                await asyncio.sleep(100)
                assert not waiting.done()
                # Nothing is pending, and nothing announces it.
                other.runs = False
                async with asyncio.timeout(10):
                    assert (await (await waiting)).status is Status.DELIVERED

        other = Other()
        other.runs = True
        try:
            run(main())
        finally:
            other.runs = False
            other.close()

    @pytest.mark.parametrize("seconds", [1.5, 30.0])
    def test_callers_are_not_given_up_because_the_loop_stood_still(self, seconds: float) -> None:
        class Slow(Dead):
            async def send(self, body: bytes, headers: Mapping[str, str]) -> Response:
                await asyncio.sleep(0.01)
                return Response(200)

        async def main() -> Statistics:
            async with Client("key", transport=Slow(), max_queue_size=20) as client:
                calls = [asyncio.create_task(client.track("user", "Event")) for _ in range(200)]
                await asyncio.sleep(0.005)
                running_clock().advance(seconds)
                await asyncio.gather(*calls)
            return client.statistics()

        counters = run(main())
        assert (counters.delivered, counters.reasons) == (200, {})

    def test_drop_oldest_keeps_the_newest(self) -> None:
        ends, waited, counters = self.outage("drop_oldest")
        # What is in flight is not dropped: a call that finds all that is pending under way finds nothing older.
        assert ends.keys() <= {None, "queue_full"}
        assert ends[None] >= 2_990
        assert waited == 0.0
        assert 0 < counters.pending <= 1_500
        assert counters.reasons == {"queue_full": 3_000 - counters.pending}

    @pytest.mark.parametrize(
        ("size", "most", "options"),
        [
            (0, 200, {"max_queue_size": 200}),
            (0, 1_500, {"max_queue_size": 1_500}),
            (0, 1_500, {"max_queue_size": 1_500, "max_in_flight": 1}),
            (20_000, 98, {"max_queue_bytes": 2_000_000}),
            (20_000, 98, {"max_queue_bytes": 2_000_000, "max_in_flight": 1}),
        ],
    )
    def test_drop_oldest_keeps_the_newest_nine_tenths(self, size: int, most: int, options: Mapping[str, int]) -> None:
        async def main() -> None:
            client = Client("key", transport=Silent(), overflow="drop_oldest", close_timeout=0, **options)
            deliveries: list[Delivery] = []
            for number in range(2_000):
                deliveries.append(await client.track("user", "Event", {"fill": "x" * size}))
                if number % 10 == 0:
                    await asyncio.sleep(0)
                if number % 7:
                    continue
                kept = deliveries[-(most * 9 // 10) :]
                assert all(delivery.outcome is None for delivery in kept), number
            assert client.statistics().dropped > 400
            await client.aclose()

        run(main())

    def test_what_was_dropped_from_the_open_batch_is_reported(self) -> None:
        reported: list[str] = []

        def on_error(error: DeliveryError, dropped: list[dict[str, Any]]) -> None:
            assert error.outcome.reason == "queue_full"
            reported.extend(message["messageId"] for message in dropped)

        async def main() -> None:
            client = Client(
                "key",
                transport=Silent(),
                overflow="drop_oldest",
                max_queue_size=5,
                max_in_flight=1,
                close_timeout=0,
                on_error=on_error,
            )
            for number in range(20):
                await client.track("user", "Event", message_id=str(number))
                await turns(2)
            # Calls of `on_error` that take long give the loop its turn, as on a busy machine.
            await asyncio.sleep(1)
            dropped = client.statistics().dropped
            assert dropped >= 10
            assert len(reported) == len(set(reported)) == dropped
            await client.aclose()

        run(main())

    def test_enqueue_nowait_is_not_dropped_for_callers_that_wait_for_the_reader(self) -> None:
        async def main() -> None:
            client = Client("key", transport=Dead(), max_queue_size=5_000, close_timeout=0)
            callers = [asyncio.create_task(client.track("user", "Event")) for _ in range(1_200)]
            await asyncio.sleep(0)
            assert client.enqueue_nowait(messages.track("user", "Event")).outcome is None
            await asyncio.gather(*callers)
            await client.aclose()

        run(main())


def test_a_queue_that_one_turn_fills_is_full_from_then_on() -> None:
    """The next call waits for the rest of the limit, whenever it comes."""

    async def main() -> None:
        transport = ScriptedTransport(lambda _: Slow(60))
        client = Client("key", transport=transport, max_queue_size=10, overflow_timeout=1.0, close_timeout=0)
        for _ in range(10):
            await client.track("user-1", "Order Completed")
        for elapsed, wait in ((0.75, 0.25), (1.0, 0.0)):
            await asyncio.sleep(elapsed)
            began = asyncio.get_running_loop().time()
            delivery = await client.track("user-1", "Order Completed")
            assert asyncio.get_running_loop().time() - began == pytest.approx(wait, abs=0.01)
            assert delivery.outcome is not None
        await client.aclose()

    run(main())
