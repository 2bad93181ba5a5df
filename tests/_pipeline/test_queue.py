"""The queue: its bounds, its policies, the line of those who wait, and the law of accounts at every step.

The sender is played by a few functions here; what goes through the whole client stands at the end.
"""

import asyncio
import threading
from collections import Counter
from collections.abc import Mapping

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from segment_async import Client, ClientClosed, QueueFull, Response, Statistics, Status, TransportError, messages
from segment_async._outcome import BatchResult
from segment_async._pipeline.delivery import Delivery
from segment_async._pipeline.queue import Overflow, Queue, _Waiter
from tests.support.law import check_counters
from tests.support.virtual_clock import VirtualClockLoop, run, running_clock

POLICIES: tuple[Overflow, ...] = ("wait", "drop_newest", "drop_oldest", "raise")
DELIVERED = BatchResult(Status.DELIVERED)
QUEUE_FULL = BatchResult(Status.DROPPED, "queue_full")
MANY = 1_000_000


class Office:
    """The host of a queue whose owner always runs."""

    def ensure_served(self) -> None:
        return None


def make(
    max_messages: int = 3, max_bytes: int = MANY, overflow: Overflow = "wait", timeout: float | None = None
) -> Queue:
    queue = Queue(max_messages, max_bytes, overflow, timeout, Office())
    queue.drop_oldest = lambda: drop_oldest(queue)
    return queue


def message(queue: Queue, name: str = "") -> Delivery:
    return Delivery(name, b"", queue.unread)


def offer(queue: Queue, size: int = 1, name: str = "") -> bool:
    return queue.put_nowait(message(queue, name), size)


async def put(queue: Queue, size: int = 1, name: str = "", *, paced: bool = True) -> bool:
    return await queue.put(message(queue, name), size, paced=paced)


def read(queue: Queue) -> list[str]:
    names = []
    with queue.lock:
        while deliveries := queue.read():
            names += [delivery.message_id for delivery in deliveries]
        queue.was_read()
    return names


def read_one(queue: Queue) -> Delivery | None:
    return next(iter(queue.read()), None)


def settle(queue: Queue, count: int, size: int, fate: BatchResult = DELIVERED) -> None:
    with queue.lock:
        queue.settle(count, size, fate)


def drop_oldest(queue: Queue) -> bool:
    """As the sender does it, for messages of one byte."""
    if not queue.read():
        return False
    queue.settle(1, 1, QUEUE_FULL)
    return True


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def filled(overflow: Overflow = "wait", timeout: float | None = None) -> Queue:
    queue = make(3, overflow=overflow, timeout=timeout)
    queue.clock = running_clock().time
    for number in range(3):
        assert await put(queue, name=f"old-{number}")
    return queue


class TestBounds:
    @pytest.mark.parametrize(("size", "fits"), [(39, True), (40, True), (41, False)])
    def test_bytes_are_bounded_to_the_byte(self, size: int, fits: bool) -> None:
        queue = make(max_bytes=100, overflow="drop_newest")
        assert offer(queue, 60)
        assert offer(queue, size) is fits

    def test_the_count_is_bounded_to_the_message(self) -> None:
        queue = make(3, overflow="drop_newest")
        assert [offer(queue) for _ in range(4)] == [True, True, True, False]

    def test_what_is_read_and_what_flies_counts_until_it_is_settled(self) -> None:
        queue = make(3, max_bytes=30, overflow="drop_newest")
        for _ in range(3):
            offer(queue, 10)
        read(queue)
        assert not offer(queue, 1)
        queue.lift_off(3, 30)
        assert not offer(queue, 1)
        queue.land(3, 30)
        settle(queue, 1, 10)
        assert not offer(queue, 11)
        assert offer(queue, 10)

    def test_room_held_for_one_who_was_called_is_not_given_to_another(self) -> None:
        async def main() -> None:
            queue = await filled()
            waiting = asyncio.create_task(put(queue))
            await turns()
            settle(queue, 1, 1)
            assert not offer(queue)
            assert await waiting
            assert queue.statistics().pending == 3

        run(main())

    def test_the_fast_way_in_refuses_whatever_needs_a_look(self) -> None:
        queue = make(2)
        assert [queue.offer(message(queue), 1, paced=True) for _ in range(3)] == [True, True, False]
        settle(queue, 2, 2)
        queue.close()
        assert not queue.offer(message(queue), 1, paced=True)


class TestPolicies:
    def test_raise_raises_and_takes_nothing(self) -> None:
        async def main() -> None:
            queue = await filled("raise")
            with pytest.raises(QueueFull):
                await put(queue)
            with pytest.raises(QueueFull):
                offer(queue)
            assert queue.statistics().accepted == 3

        run(main())

    def test_drop_newest_tells_that_the_message_is_to_be_dropped(self) -> None:
        async def main() -> None:
            queue = await filled("drop_newest")
            assert not await put(queue)
            assert not offer(queue)
            assert queue.statistics().accepted == 3

        run(main())

    def test_drop_oldest_makes_room_from_the_front(self) -> None:
        async def main() -> None:
            queue = await filled("drop_oldest")
            assert await put(queue, name="new-1")
            assert offer(queue, name="new-2")
            assert read(queue) == ["old-2", "new-1", "new-2"]
            assert queue.statistics().reasons == {"queue_full": 2}

        run(main())

    def test_drop_oldest_drops_the_new_one_where_nothing_old_can_be_dropped(self) -> None:
        async def main() -> None:
            queue = await filled("drop_oldest")
            read(queue)
            assert not await put(queue)
            assert not offer(queue)

        run(main())

    def test_wait_waits_and_its_twin_that_cannot_is_told_to_drop(self) -> None:
        async def main() -> None:
            queue = await filled("wait")
            waiting = asyncio.create_task(put(queue))
            await turns()
            assert not waiting.done()
            assert not offer(queue)
            settle(queue, 1, 1)
            assert await waiting

        run(main())

    def test_a_message_counted_as_refused_is_accepted_and_ended(self) -> None:
        queue = make()
        queue.refuse(QUEUE_FULL)
        counters = queue.statistics()
        assert (counters.accepted, counters.dropped, counters.pending) == (1, 1, 0)
        check_counters(counters)


class TestOverflowTimeout:
    def test_it_is_one_wait_in_all_and_not_one_a_call(self) -> None:
        async def main() -> list[float]:
            queue = await filled(timeout=1.0)
            clock, waits = running_clock().time, []
            for pause in (0.0, 0.4, 5.0):
                await asyncio.sleep(pause)
                began = clock()
                assert not await put(queue)
                waits.append(clock() - began)
            return waits

        assert run(main()) == [1.0, 0.0, 0.0]

    def test_it_is_measured_from_when_the_queue_became_full(self) -> None:
        async def main() -> None:
            queue = await filled(timeout=1.0)
            await asyncio.sleep(0.75)
            began = running_clock().time()
            assert not await put(queue)
            assert running_clock().time() - began == 0.25

        run(main())

    def test_all_who_wait_leave_at_the_same_moment(self) -> None:
        async def main() -> None:
            queue = await filled(timeout=1.0)
            waiting = []
            for _ in range(4):
                waiting.append(asyncio.create_task(put(queue)))
                await asyncio.sleep(0.1)
            assert await asyncio.gather(*waiting) == [False] * 4
            assert running_clock().time() == 1.0

        run(main())

    def test_it_begins_anew_once_there_was_room(self) -> None:
        async def main() -> None:
            queue = await filled(timeout=1.0)
            await asyncio.sleep(10)
            settle(queue, 1, 1)
            assert await put(queue)
            began = running_clock().time()
            assert not await put(queue)
            assert running_clock().time() - began == 1.0

        run(main())

    def test_a_queue_full_by_bytes_is_full_too(self) -> None:
        async def main() -> None:
            queue = make(MANY, max_bytes=10, timeout=1.0)
            queue.clock = running_clock().time
            assert await put(queue, 8)
            began = running_clock().time()
            assert not await put(queue, 3)
            assert running_clock().time() - began == 1.0

        run(main())

    def test_none_waits_as_long_as_it_takes(self) -> None:
        async def main() -> None:
            queue = await filled(timeout=None)
            waiting = asyncio.create_task(put(queue))
            await asyncio.sleep(100_000)
            assert not waiting.done()
            settle(queue, 1, 1)
            assert await waiting

        run(main())

    def test_zero_does_not_wait_for_room_but_for_the_reader(self) -> None:
        async def main() -> None:
            queue = make(2_000, timeout=0.0)
            queue.clock = running_clock().time
            for _ in range(500):
                assert await put(queue)
            waiting = asyncio.create_task(put(queue))
            await turns()
            assert not waiting.done()
            read(queue)
            assert await waiting

        run(main())


class TestPiledUp:
    """Callers on the sender's own loop pause while it has five hundred messages to read."""

    async def stand_in_line(self, overflow: Overflow, timeout: float | None = 1.0) -> tuple[Queue, list[asyncio.Task]]:
        """A queue with room for 500 more, and 800 who stand in line only because the reader is behind."""
        queue = make(1_000, overflow=overflow, timeout=timeout)
        queue.clock = running_clock().time
        for _ in range(500):
            await put(queue)
        tasks = [asyncio.create_task(put(queue, name="late")) for _ in range(800)]
        await turns()
        assert not any(task.done() for task in tasks)
        return queue, tasks

    @staticmethod
    def results(tasks: list[asyncio.Task]) -> Mapping[object, int]:
        return Counter(task.result() if task.exception() is None else type(task.exception()) for task in tasks)

    def test_whoever_shares_the_loop_pauses_and_whoever_does_not_goes_on(self) -> None:
        async def main() -> None:
            queue = make(5_000)
            for _ in range(500):
                await put(queue)
            assert await put(queue, paced=False)
            waiting = asyncio.create_task(put(queue))
            await turns()
            assert not waiting.done()
            with queue.lock:
                # One more than those at which it goes on.
                for _ in range(400):
                    queue.read()
                queue.was_read()
            await turns()
            assert not waiting.done()
            with queue.lock:
                queue.read()
                queue.was_read()
            assert await waiting

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
            queue, tasks = await self.stand_in_line(overflow)
            read(queue)
            await asyncio.wait(tasks)
            assert self.results(tasks) == expected
            assert running_clock().time() == (1.0 if overflow == "wait" else 0.0)

        run(main())

    def test_the_queue_fills_up_meanwhile_and_the_oldest_go(self) -> None:
        async def main() -> None:
            queue, tasks = await self.stand_in_line("drop_oldest")
            # One is left unread: it goes for the first of the late ones, and they for each other.
            with queue.lock:
                for _ in range(499):
                    queue.read()
                queue.was_read()
            await asyncio.wait(tasks)
            assert self.results(tasks) == {True: 800}
            # The last to make room finds it offered to the line in which it still stands itself.
            assert 999 <= queue.statistics().pending <= 1_000

        run(main())

    def test_without_a_limit_they_wait_for_room(self) -> None:
        async def main() -> None:
            queue, tasks = await self.stand_in_line("wait", timeout=None)
            read(queue)
            await asyncio.sleep(1_000)
            assert sum(task.done() for task in tasks) == 500
            read(queue)
            settle(queue, 300, 300)
            await asyncio.wait(tasks)
            assert self.results(tasks) == {True: 800}

        run(main())

    @pytest.mark.parametrize("overflow", POLICIES)
    def test_a_line_that_waits_for_the_reader_alone_fills_no_queue(self, overflow: Overflow) -> None:
        async def main() -> None:
            queue, tasks = await self.stand_in_line(overflow)
            assert offer(queue)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

        run(main())


class TestTheLine:
    def test_first_come_first_served(self) -> None:
        async def main() -> None:
            queue = await filled()
            tasks = []
            for number in range(10):
                tasks.append(asyncio.create_task(put(queue, name=f"new-{number}")))
                await turns(1)
            settle(queue, 2, 2)
            late = asyncio.create_task(put(queue, name="late"))
            for _ in range(12):
                settle(queue, 1, 1) if queue.statistics().pending else None
                await turns()
            await asyncio.gather(*tasks, late)
            assert read(queue) == [*(f"old-{n}" for n in range(3)), *(f"new-{n}" for n in range(10)), "late"]

        run(main())

    def test_a_small_message_does_not_overtake_a_large_one(self) -> None:
        async def main() -> None:
            queue = make(MANY, max_bytes=100)
            await put(queue, 50, "first")
            large = asyncio.create_task(put(queue, 60, "large"))
            await turns()
            small = asyncio.create_task(put(queue, 1, "small"))
            await turns()
            assert not small.done()
            settle(queue, 1, 50)
            await asyncio.gather(large, small)
            assert read(queue) == ["first", "large", "small"]

        run(main())

    @pytest.mark.parametrize("cancelled_after", range(6))
    @pytest.mark.parametrize("room_after", range(6))
    def test_cancelled_at_any_moment_it_has_taken_nothing_or_all(self, cancelled_after: int, room_after: int) -> None:
        async def main() -> None:
            queue = await filled()
            waiting = asyncio.create_task(put(queue, name="waiting"))
            for turn in range(8):
                if turn == room_after:
                    settle(queue, 1, 1)
                if turn == cancelled_after:
                    waiting.cancel()
                await asyncio.sleep(0)
            took = not waiting.cancelled() and waiting.result()
            assert queue.statistics().accepted == 3 + took
            assert ("waiting" in read(queue)) is took
            # Room that was held for it is free again.
            assert offer(queue) is not took

        run(main())

    def test_the_room_of_a_cancelled_one_goes_to_the_next(self) -> None:
        async def main() -> None:
            queue = await filled()
            first, second = (asyncio.create_task(put(queue)) for _ in range(2))
            await turns()
            settle(queue, 1, 1)
            first.cancel()
            assert await second
            assert first.cancelled()

        run(main())

    def test_close_sends_everybody_home(self) -> None:
        async def main() -> None:
            queue = await filled()
            granted, waiting = (asyncio.create_task(put(queue)) for _ in range(2))
            await turns()
            settle(queue, 1, 1)
            queue.close()
            for task in (granted, waiting):
                with pytest.raises(ClientClosed):
                    await task
            with pytest.raises(ClientClosed):
                offer(queue)
            with pytest.raises(ClientClosed):
                queue.refuse(QUEUE_FULL)
            assert queue.statistics().accepted == 3

        run(main())

    def test_ten_thousand_wait_and_half_of_them_leave_without_a_search(self, monkeypatch: pytest.MonkeyPatch) -> None:
        compared = 0

        def count(waiter: object, other: object) -> bool:
            nonlocal compared
            compared += 1
            return waiter is other

        # A line that is searched for each who leaves compares millions of times: it holds up the loop.
        monkeypatch.setattr(_Waiter, "__eq__", count)

        async def main() -> None:
            queue = await filled()
            tasks = [asyncio.create_task(put(queue, paced=False)) for _ in range(10_000)]
            await turns()
            for task in tasks[5_000:]:
                task.cancel()
            await turns()
            while pending := queue.statistics().pending:
                settle(queue, pending, pending)
                await turns()
            assert queue.statistics().delivered == 5_003

        run(main())
        assert compared < 10_000


class TestThreads:
    def test_callers_on_four_loops_and_a_reader_on_a_fifth(self) -> None:
        queue = make(50, max_bytes=500, overflow="wait", timeout=None)
        checks: list[Statistics] = []

        def call() -> None:
            async def calls() -> None:
                await asyncio.gather(*(put(queue, 10, paced=False) for _ in range(500)))

            asyncio.run(calls())

        callers = [threading.Thread(target=call) for _ in range(4)]
        for caller in callers:
            caller.start()
        left = 2_000
        while left:
            count = len(read(queue))
            checks.append(queue.statistics())
            settle(queue, count, 10 * count)
            left -= count
        for caller in callers:
            caller.join()
        for counters in checks:
            check_counters(counters)
        assert max(counters.pending for counters in checks) <= 50
        assert queue.statistics().delivered == 2_000
        assert queue.statistics().queued_bytes == 0

    def test_a_snapshot_is_consistent_at_any_instant(self) -> None:
        queue = make(MANY)
        over = threading.Event()

        def work() -> None:
            for _ in range(3_000):
                offer(queue)
                read(queue)
                queue.lift_off(1, 1)
                queue.land(1, 1)
                settle(queue, 1, 1)
            over.set()

        worker = threading.Thread(target=work)
        worker.start()
        while not over.is_set():
            counters = queue.statistics()
            check_counters(counters)
            assert counters.pending == counters.queued + counters.in_flight
        worker.join()


class TestReading:
    def test_order_and_places(self) -> None:
        queue = make(5)
        for name in "abc":
            offer(queue, name=name)
        assert queue.put_count == 3
        first = queue.read()
        assert [delivery.message_id for delivery in first] == ["a"]
        assert queue.read_count == 1
        queue.put_back(first)
        assert queue.read_count == 0
        assert read(queue) == ["a", "b", "c"]
        assert queue.read() == []

    @pytest.mark.parametrize(
        ("most", "room", "expected"),
        [
            (10, 1_000, "abcd"),
            (10, 104, "abcd"),  # each with its comma: as many bytes as there is room for
            (10, 103, "abc"),
            (3, 1_000, "abc"),
            (10, 22, "ab"),
            (10, 21, "a"),
            (10, 0, "a"),  # the first one in any case
        ],
    )
    def test_as_many_as_fit(self, most: int, room: int, expected: str) -> None:
        queue = make(10)
        for name, size in zip("abcd", (10, 10, 10, 70), strict=True):
            assert queue.put_nowait(Delivery(name, b"x" * size, queue.unread), size)
        taken = queue.read(most, room)
        assert [delivery.message_id for delivery in taken] == list(expected)
        queue.put_back(taken)
        assert queue.read(most, room) == taken
        assert read(queue) == list("abcd"[len(expected) :])

    def test_of_many_that_fit_the_oldest(self) -> None:
        queue = make(1_000)
        for number in range(200):
            queue.put_nowait(Delivery(str(number), b"x", queue.unread), 1)
        taken = [delivery.message_id for delivery in queue.read(150, 10_000)]
        assert taken == [str(number) for number in range(len(taken))]
        assert 0 < len(taken) <= 150
        assert taken + read(queue) == [str(number) for number in range(200)]

    def test_it_says_when_it_is_full(self) -> None:
        queue = make(2)
        offer(queue)
        assert not queue.is_full
        offer(queue)
        assert queue.is_full
        settle(queue, 1, 1)
        assert not queue.is_full

    def test_it_announces_messages_from_the_one_on_that_it_was_told(self) -> None:
        queue = make(5)
        rings = []
        queue.announce = lambda: rings.append(queue.put_count)
        offer(queue)
        queue.announce_at = 3
        for _ in range(3):
            offer(queue)
        assert rings == [1, 3, 4]

    def test_it_rings_when_it_is_full(self) -> None:
        queue = make(2)
        rings = []
        queue.ring = lambda: rings.append(queue.put_count)
        queue.announce_at = 100
        offer(queue)
        offer(queue)
        assert rings == [2]

    def test_statistics_are_frozen(self) -> None:
        counters = make().statistics()
        with pytest.raises(AttributeError):
            counters.accepted = 1  # type: ignore[misc]
        with pytest.raises(TypeError):
            counters.reasons["x"] = 1  # type: ignore[index]


class TestSpooled:
    """With a spool: what is accepted and waits on disk is counted here, and bounded there."""

    def counts(self, queue: Queue) -> tuple[int, int, int, int]:
        counters = queue.statistics()
        check_counters(counters)
        return counters.accepted, counters.pending, counters.recovered, counters.queued_bytes

    def test_on_disk_into_memory_and_back(self) -> None:
        queue = make(2)
        for _ in range(3):
            queue.accept_spooled(10)
        assert self.counts(queue) == (3, 3, 0, 30)
        assert queue.window() == (2, MANY)
        with queue.lock:
            queue.load(message(queue, "a"), 10)
            queue.load(message(queue, "b"), 10)
        assert queue.window() is None
        assert self.counts(queue) == (3, 3, 0, 30)
        assert read(queue) == ["a", "b"]
        with queue.lock:
            queue.keep(1, 10)
            assert queue.place_to_reach() == 4
        settle(queue, 1, 10)
        assert self.counts(queue) == (3, 2, 0, 20)
        assert queue.window() == (2, MANY)

    def test_the_disk_refused(self) -> None:
        queue = make()
        queue.accept_spooled(10)
        queue.take_back_spooled(10)
        assert self.counts(queue) == (0, 0, 0, 0)

    def test_found_on_disk(self) -> None:
        queue = make()
        queue.recover(5)
        assert self.counts(queue) == (5, 5, 5, 0)
        with queue.lock:
            queue.load(message(queue), 10)
        assert self.counts(queue) == (5, 5, 5, 10)

    def test_given_up_by_the_spool_itself(self) -> None:
        queue = make()
        queue.accept_spooled(10)
        queue.lose_spooled(10, BatchResult(Status.FAILED, "lost"))
        assert self.counts(queue) == (1, 0, 0, 0)
        assert queue.statistics().reasons == {"lost": 1}

    def test_nothing_is_accepted_once_closed(self) -> None:
        queue = make()
        queue.close()
        with pytest.raises(ClientClosed):
            queue.accept_spooled(10)
        queue.refuse(QUEUE_FULL, even_closed=True)
        assert self.counts(queue) == (1, 0, 0, 0)

    def test_callers_are_held_up_once_in_all(self) -> None:
        async def main() -> None:
            queue = make(timeout=1.0)
            queue.clock = running_clock().time
            assert not queue.patience_is_over()
            await asyncio.sleep(0.9)
            assert not queue.patience_is_over()
            await asyncio.sleep(0.1)
            assert queue.patience_is_over()
            assert not make(timeout=None).patience_is_over()

        run(main())


class LawOfTheQueue(RuleBasedStateMachine):
    """Anything in any order: the law holds, the bounds hold, and nobody waits who need not."""

    @initialize(
        most=st.integers(1, 5),
        most_bytes=st.integers(10, 40),
        overflow=st.sampled_from(POLICIES),
        timeout=st.sampled_from([None, 0.0, 1.0]),
    )
    def open(self, most: int, most_bytes: int, overflow: Overflow, timeout: float | None) -> None:
        self.loop = VirtualClockLoop()
        self.most, self.most_bytes, self.overflow, self.timeout = most, most_bytes, overflow, timeout
        self.queue = Queue(most, most_bytes, overflow, timeout, Office())
        self.queue.clock = self.loop.time
        self.queue.drop_oldest = self.drop_oldest
        self.sizes: dict[str, int] = {}
        self.read: list[str] = []
        self.flying: list[str] = []
        self.waiting: list[tuple[asyncio.Task[None], int]] = []
        self.taken = self.refused = self.ended = 0
        self.closed = False

    def turn(self) -> None:
        self.loop.run_until_complete(turns())
        self.waiting = [(task, size) for task, size in self.waiting if not task.done()]

    def drop_oldest(self) -> bool:
        delivery = read_one(self.queue)
        name = delivery.message_id if delivery is not None else self.read.pop(0) if self.read else None
        if name is None:
            return False
        self.queue.settle(1, self.sizes[name], QUEUE_FULL)
        self.ended += 1
        return True

    def make(self, size: int) -> Delivery:
        name = str(len(self.sizes))
        self.sizes[name] = size
        return Delivery(name, b"", self.queue.unread)

    def book(self, took: bool) -> None:
        """As the client does it."""
        if took:
            self.taken += 1
        else:
            self.queue.refuse(QUEUE_FULL)
            self.refused += 1

    async def call(self, size: int) -> None:
        try:
            self.book(await self.queue.put(self.make(size), size, paced=True))
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
            self.book(self.queue.put_nowait(self.make(size), size))
        except QueueFull:
            assert self.overflow == "raise"
        except ClientClosed:
            assert self.closed
        self.turn()

    @rule()
    def read_one(self) -> None:
        if (delivery := read_one(self.queue)) is not None:
            self.read.append(delivery.message_id)
            with self.queue.lock:
                self.queue.was_read()
        self.turn()

    @rule()
    def read_and_put_back(self) -> None:
        if deliveries := self.queue.read():
            self.queue.put_back(deliveries)

    @precondition(lambda self: self.read)
    @rule()
    def launch(self) -> None:
        self.flying.append(self.read.pop(0))
        self.queue.lift_off(1, self.sizes[self.flying[-1]])

    @precondition(lambda self: self.flying)
    @rule(fate=st.sampled_from([DELIVERED, BatchResult(Status.FAILED, "refused")]))
    def conclude(self, fate: BatchResult) -> None:
        name = self.flying.pop(0)
        with self.queue.lock:
            self.queue.land(1, self.sizes[name])
            self.queue.settle(1, self.sizes[name], fate)
        self.ended += 1
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

    @precondition(lambda self: len(self.sizes) > 8)
    @rule()
    def close(self) -> None:
        self.closed = True
        self.queue.close()
        self.turn()

    @invariant()
    def accounts_agree(self) -> None:
        counters = self.queue.statistics()
        check_counters(counters)
        assert counters.accepted == self.taken + self.refused
        assert counters.pending == self.taken - self.ended
        assert counters.in_flight == len(self.flying)
        assert counters.queued_bytes <= self.most_bytes
        assert counters.pending <= self.most

    @invariant()
    def nobody_waits_who_need_not(self) -> None:
        if self.waiting:
            assert self.overflow == "wait"
            assert self.timeout != 0
            assert not self.closed
            counters = self.queue.statistics()
            in_flight_bytes = sum(self.sizes[name] for name in self.flying)
            pending_bytes = counters.queued_bytes + in_flight_bytes
            assert counters.pending == self.most or pending_bytes + self.waiting[0][1] > self.most_bytes

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

    def test_drop_oldest_keeps_the_newest(self) -> None:
        ends, waited, counters = self.outage("drop_oldest")
        # What is in flight is not dropped: a call that finds all that is pending under way finds nothing older.
        assert ends.keys() <= {None, "queue_full"}
        assert ends[None] >= 2_990
        assert waited == 0.0
        assert 0 < counters.pending <= 1_500
        assert counters.reasons == {"queue_full": 3_000 - counters.pending}

    def test_a_twin_that_cannot_wait_is_not_dropped_for_a_line_at_the_reader(self) -> None:
        async def main() -> None:
            client = Client("key", transport=Dead(), max_queue_size=5_000, close_timeout=0)
            callers = [asyncio.create_task(client.track("user", "Event")) for _ in range(1_200)]
            await asyncio.sleep(0)
            assert client.enqueue_nowait(messages.track("user", "Event")).outcome is None
            await asyncio.gather(*callers)
            await client.aclose()

        run(main())
