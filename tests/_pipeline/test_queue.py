"""The queue: what is read when, when the consumer wakes, what an exception costs, and what counts with a spool.

The callers and the consumer are played by a few functions of `queue_steps`.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Mapping

import pytest

from segment_async import Status
from segment_async._outcome import BatchResult
from segment_async._pipeline.admission import Admission, Overflow
from segment_async._pipeline.delivery import Delivery, bring_back, stored_as
from segment_async._pipeline.queue import Queue
from segment_async._pipeline.spool_share import SpoolShare
from segment_async.messages import MAX_MESSAGE_BYTES
from tests.support.law import check_counters
from tests.support.queue_steps import (
    CHANGES,
    DELIVERED,
    PUTS,
    end_batch,
    hold_to_the_law,
    is_free,
    made_ready,
    make,
    message,
    offer,
    read,
    seal,
    settle,
    settle_all,
    traced,
)
from tests.support.stations import MANY, Station, queue_with, station_with
from tests.support.virtual_clock import VirtualClockLoop, run, running_clock


class TestThreads:
    def test_a_snapshot_is_consistent_at_any_instant(self) -> None:
        queue, admission = make(MANY)
        over = threading.Event()

        def work() -> None:
            for _ in range(2_000):
                offer(admission)
                read(queue)
                assert queue.backlog.open is not None
                batch = seal(queue, queue.backlog.open)
                backlog = queue.backlog
                with queue.lock:
                    backlog.mark_in_flight(batch)
                end_batch(queue, batch, DELIVERED)
            over.set()

        worker = threading.Thread(target=work)
        worker.start()
        while not over.is_set():
            counters = queue.statistics()
            check_counters(counters)
            assert counters.pending == counters.queued + counters.in_flight
        worker.join()

    def test_that_it_is_full_is_noted_before_another_one_can_make_room(self) -> None:
        queue, admission = make(1)
        held: list[bool] = []

        class Loop(VirtualClockLoop):
            def time(self) -> float:
                held.append(not is_free(queue))
                return super().time()

        async def main() -> None:
            queue.clock.attach(asyncio.get_running_loop())
            held.clear()
            assert offer(admission)
            # Its time is taken last.
            assert held[-1]

        with asyncio.Runner(loop_factory=Loop) as runner:
            runner.run(main())


class TestReading:
    def filled(self, *sizes: int, batch_of: int = 2_500) -> Station:
        queue, admission = station_with(1_000, batch_of=batch_of)
        for number, size in enumerate(sizes):
            assert offer(admission, size, str(number))
        return Station(queue, admission)

    def test_order_and_places(self) -> None:
        queue, admission = self.filled(1, 1, 1)
        assert (queue.order.read_count, queue.order.place_to_reach()) == (0, 3)
        assert read(queue, 1) == ["0"]
        assert (queue.order.read_count, len(queue.ready), queue.order.place_to_reach()) == (1, 2, 3)
        assert read(queue) == ["1", "2"]
        assert queue.read(1_000) == (0, None)
        opened = queue.backlog.open
        assert opened is not None
        assert (opened.start, opened.stop) == (0, 3)
        assert [one.message_id for one in opened.deliveries] == ["0", "1", "2"]
        seal(queue, opened)
        offer(admission)
        read(queue)
        assert queue.backlog.open is not None
        assert queue.backlog.open.start == 3

    @pytest.mark.parametrize(
        ("room", "expected"),
        [
            (1_000, 4),
            (104, 4),  # each with its comma: as many bytes as there is room for
            (103, 3),
            (22, 2),
            (21, 1),
            (0, 1),  # the first one in any case
        ],
    )
    def test_as_many_as_fit(self, room: int, expected: int) -> None:
        queue = self.filled(10, 10, 10, 70).queue
        sizes = (10, 10, 10, 70)[:expected]
        assert queue.read(room, all_of_it=True) == (sum(sizes) + expected, None)
        assert len(queue.ready) == 4 - expected
        assert queue.backlog.open is not None
        assert (queue.backlog.open.count, queue.backlog.open.size) == (expected, sum(sizes))

    def test_at_most_sixty_four_in_one_step_of_the_lock(self) -> None:
        queue = self.filled(*[1] * 200).queue
        assert queue.read(10_000, all_of_it=True) == (128, None)

    def test_an_open_batch_that_takes_no_more_is_to_be_sealed_first(self) -> None:
        queue = self.filled(1, 1, 1, batch_of=2).queue
        assert queue.read(1_000, all_of_it=True) == (4, None)
        opened = queue.backlog.open
        assert opened is not None
        assert queue.read(1_000, all_of_it=True) == (0, opened)
        assert len(queue.ready) == 1
        seal(queue, opened)
        assert queue.read(1_000, all_of_it=True) == (2, None)

    def test_a_batch_that_is_large_enough_to_be_sent_is_not_made_larger(self) -> None:
        queue = self.filled(*[1] * 450).queue
        while queue.read(1_000)[0]:
            pass
        assert queue.backlog.open is not None
        # It would be, up to four times, if more than another batch were unread.
        assert 100 <= queue.backlog.open.count < 400
        assert 0 < len(queue.ready) <= 100

    def test_messages_that_earlier_processes_tried_go_by_themselves(self) -> None:
        queue = queue_with(10, has_spool=True)
        made = [message(queue, 5, name) for name in "abcd"]
        stored_as(made, [7, 8, 9, 10])
        queue.ready.extend(made)
        queue.attempts[8] = 3
        assert queue.read(1_000, all_of_it=True) == (6, None)
        opened = queue.backlog.open
        assert opened is not None
        assert queue.read(1_000, all_of_it=True) == (0, opened)
        seal(queue, opened)
        assert queue.read(1_000, all_of_it=True) == (6, None)
        opened = queue.backlog.open
        assert opened is not None
        assert opened.history.sends == 3
        assert queue.read(1_000, all_of_it=True) == (0, opened)
        batch = seal(queue, opened)
        assert (batch.history.sends, batch.history.maybe_sent, list(batch.keys)) == (3, True, [8])
        assert queue.read(1_000, all_of_it=True) == (12, None)
        assert not queue.attempts

    def test_it_says_when_it_is_full(self) -> None:
        queue, admission = make(2)
        offer(admission)
        assert not queue.room.is_full
        offer(admission)
        assert queue.room.is_full
        settle(queue)
        assert not queue.room.is_full

    def test_left_before_a_place(self) -> None:
        queue, admission = make(10)
        for _ in range(5):
            offer(admission)
        place = queue.order.place_to_reach()
        assert (place, queue.order.left(place)) == (5, 5)
        offer(admission)
        assert queue.order.left(place) == 5
        read(queue, 3)
        assert (queue.order.left(place), queue.order.left(2)) == (5, 2)
        settle(queue, 2)
        assert (queue.order.left(place), queue.order.left(2)) == (3, 0)
        settle_all(queue)
        assert queue.order.left(place) == 0


class TestWaking:
    """The consumer sleeps until there is enough to read, or anything else has changed."""

    def test_from_as_many_unread_messages_as_are_worth_a_look(self) -> None:
        async def main() -> None:
            queue, admission = station_with(1_000)
            offer(admission)
            read(queue)
            sleeper = queue.sleep_until_unread(queue.changed.mark, None)
            assert sleeper is not None
            for _ in range(98):
                assert admission.offer(message(queue), 1)
            assert not sleeper.done()
            admission.offer(message(queue), 1)
            assert sleeper.done()

        run(main())

    def test_from_the_first_one_where_no_batch_is_open(self) -> None:
        async def main() -> None:
            queue, admission = make(5)
            sleeper = queue.sleep_until_unread(queue.changed.mark, None)
            assert sleeper is not None
            assert admission.offer(message(queue), 1)
            assert sleeper.done()

        run(main())

    def test_when_the_queue_is_full(self) -> None:
        async def main() -> None:
            queue, admission = station_with(3)
            offer(admission)
            read(queue)
            sleeper = queue.sleep_until_unread(queue.changed.mark, None)
            assert sleeper is not None
            admission.offer(message(queue), 1)
            assert not sleeper.done()
            admission.offer(message(queue), 1)
            assert sleeper.done()
            assert queue.room.is_full

        run(main())

    def test_not_at_all_if_something_has_changed_before(self) -> None:
        async def main() -> None:
            queue, admission = make(5)
            seen = queue.changed.mark
            queue.notify()
            assert queue.sleep_until_unread(seen, None) is None
            seen = queue.changed.mark
            offer(admission)
            assert queue.sleep_until_unread(queue.changed.mark, None) is None

        run(main())

    def test_a_consumer_that_slept_again_before_the_waking_thread_came_back_is_woken_again(self) -> None:
        async def main() -> None:
            queue, admission = make(5)
            sleepers: list[asyncio.Future[None] | None] = []
            is_awake = False

            def as_a_consumer_in_another_thread() -> bool:
                nonlocal is_awake
                if not is_awake:
                    is_awake = True
                    settle_all(queue)
                    sleepers.append(queue.sleep_until_unread(queue.changed.mark, None))
                return True

            assert queue.sleep_until_unread(queue.changed.mark, None) is not None
            queue.changed.register(as_a_consumer_in_another_thread)
            assert admission.offer(message(queue), 1)
            (sleeper,) = sleepers
            assert sleeper is not None
            assert not sleeper.done()
            assert admission.offer(message(queue), 1)
            assert sleeper.done()

        run(main())

    def test_with_a_spool_messages_are_unread_once_they_are_stored(self) -> None:
        async def main() -> None:
            queue, admission = station_with(50, has_spool=True)
            assert not admission.offer(message(queue), 1, paced=False)
            assert offer(admission)
            assert len(queue.ready) == 0

        run(main())

    def store(self, queue: Queue, count: int = 1) -> None:
        """As the spool intake does it, with messages that are ready to be sent."""
        for _ in range(count):
            queue.accounts.pending += 1
            queue.ready.append(message(queue))
        queue.notify_stored(count)

    def test_with_a_spool_as_many_stored_messages_are_worth_a_look_as_put_ones_are_without(self) -> None:
        async def main() -> None:
            queue = queue_with(1_000, has_spool=True)
            self.store(queue)
            read(queue)
            sleeper = queue.sleep_until_unread(queue.changed.mark, None)
            assert sleeper is not None
            for _ in range(49):
                self.store(queue, 2)
            assert not sleeper.done()
            self.store(queue)
            assert sleeper.done()

        run(main())

    def test_with_a_spool_the_first_stored_ones_wait_for_company_if_the_consumer_looks_in_time(self) -> None:
        async def main() -> None:
            queue = queue_with(1_000, has_spool=True)
            queue.clock.attach(running_clock())
            now = queue.clock.now()
            sleeper = queue.sleep_until_unread(queue.changed.mark, now)
            assert sleeper is not None
            self.store(queue, 2)
            assert not sleeper.done()
            assert queue.backlog.unread_since == now
            self.store(queue, 97)
            assert not sleeper.done()
            self.store(queue)
            assert sleeper.done()

        run(main())

    def test_with_a_spool_what_a_flush_waits_for_is_looked_at_as_soon_as_it_is_stored(self) -> None:
        async def main() -> None:
            queue, admission = station_with(1_000, has_spool=True)
            queue.clock.attach(running_clock())
            offer(admission)
            queue.backlog.flush_before = queue.order.place_to_reach()
            sleeper = queue.sleep_until_unread(queue.changed.mark, queue.clock.now())
            assert sleeper is not None
            queue.ready.append(queue.incoming.popleft())
            queue.notify_stored(1)
            assert sleeper.done()

        run(main())

    def test_with_a_spool_conditions_are_looked_at_whatever_was_stored(self) -> None:
        async def main() -> None:
            queue, admission = station_with(1_000, has_spool=True)
            sleeper = queue.sleep_until_unread(queue.changed.mark, None)
            assert sleeper is not None
            waiter = queue.changed.register(lambda: not queue.incoming)
            offer(admission)
            sleeper = queue.sleep_until_unread(queue.changed.mark, None)
            assert sleeper is not None
            assert not waiter.done()
            queue.incoming.popleft()
            queue.notify_stored(0)
            assert (waiter.done(), sleeper.done()) == (True, False)

        run(main())


class Interrupted(BaseException):
    """As KeyboardInterrupt, which may come at any call."""


class TestInterrupted:
    @pytest.mark.parametrize("overflow", ["wait", "drop_oldest"])
    @pytest.mark.parametrize("name", ["read", "settle", "seal", "split", "drop", "repair", "sleep"])
    def test_an_exception_at_any_call_costs_no_message(self, name: str, overflow: Overflow) -> None:
        """Once everything was repaired, as the consumer does when it comes back."""
        moment, is_over = 0, False
        while not is_over:
            is_over = run(self.once(name, overflow, moment))
            moment += 1
        assert moment > 5

    def test_an_exception_amid_an_outcome_makes_no_queued_message_disappear_until_the_repair(self) -> None:
        moment, is_over = 0, False
        while not is_over:
            is_over = run(self.interrupted_settle(moment))
            moment += 1
        assert moment > 5

    async def interrupted_settle(self, moment: int) -> bool:
        queue, admission = made_ready("wait")
        before = queue.statistics()

        def handler() -> None:
            raise Interrupted

        try:
            is_over = traced(lambda: CHANGES["settle"](queue, admission), moment, handler)
        except Interrupted:
            is_over = False
        now = queue.statistics()
        check_counters(now)
        assert now.queued >= before.queued
        assert now.queued_bytes >= before.queued_bytes
        return is_over

    async def once(self, name: str, overflow: Overflow, moment: int) -> bool:
        queue, admission = made_ready(overflow)
        before = queue.statistics()

        def handler() -> None:
            raise Interrupted

        try:
            is_over = traced(lambda: CHANGES[name](queue, admission), moment, handler)
        except Interrupted:
            is_over = False
        assert is_free(queue)
        # A flush may begin before the repair; it waits for everything, and not for more than that.
        place = queue.order.place_to_reach()
        queue.repair()
        now = queue.statistics()
        assert queue.order.left(place) == now.pending
        taken = now.accepted - before.accepted
        assert taken in ((0, 1) if name in PUTS else (0,))
        hold_to_the_law(queue, expected=6 + taken)
        return is_over


class NoMemory(deque[Delivery]):
    """A deque needs memory for every 64 elements."""

    def append(self, item: Delivery, /) -> None:
        raise MemoryError


@pytest.mark.parametrize("name", ["offer", "offer_arriving", "put_nowait", "put"])
def test_a_message_that_memory_is_refused_for_is_not_counted(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = queue_with(MANY, has_spool=name == "offer_arriving")
    admission = Admission(queue, "wait")
    calls: Mapping[str, Callable[[Delivery], object]] = {
        "offer": lambda delivery: admission.offer(delivery, 1),
        "offer_arriving": lambda delivery: admission.offer_arriving(delivery, 1),
        "put_nowait": lambda delivery: admission.put_nowait(delivery, 1),
        "put": lambda delivery: run(admission.put(delivery, 1, paced=True)),
    }
    monkeypatch.setattr(queue, "incoming", NoMemory())
    monkeypatch.setattr(admission, "_incoming", NoMemory())
    with pytest.raises(MemoryError):
        calls[name](message(queue))
    counters = queue.statistics()
    assert (counters.accepted, counters.pending, counters.queued_bytes) == (0, 0, 0)
    accounts = queue.accounts
    assert (accounts.arriving, accounts.pending, accounts.pending_bytes) == (0, 0, 0)


class TestSpooled:
    """With a spool: what is accepted and waits on disk is counted here, and bounded there."""

    def counts(self, queue: Queue) -> tuple[int, int, int, int]:
        counters = queue.statistics()
        check_counters(counters)
        return counters.accepted, counters.pending, counters.recovered, counters.queued_bytes

    def load(self, queue: Queue, name: str, key: int) -> None:
        """As the feed does it."""
        delivery = message(queue, 10, name)
        bring_back(delivery, b"x" * 10, key, queue.queued)
        queue.accounts.load(10)
        queue.ready.append(delivery)

    def test_put_stored_sent(self) -> None:
        queue, admission = make(4, has_spool=True)
        assert offer(admission, 10, "a")
        assert (len(queue.ready), len(queue.incoming)) == (0, 1)
        assert self.counts(queue) == (1, 1, 0, 10)
        assert queue.order.place_to_reach() == 1
        assert queue.order.left(1) == 1
        queue.ready.append(queue.incoming.popleft())
        assert read(queue) == ["a"]
        settle_all(queue)
        assert self.counts(queue) == (1, 0, 0, 0)
        assert queue.order.left(1) == 0

    def test_on_disk_into_memory_and_back(self) -> None:
        queue = make(4, has_spool=True).queue
        queue.order.note_recovered(3)
        assert self.counts(queue) == (3, 3, 3, 0)
        # Half of the bounds is for messages from the disk.
        share = SpoolShare(queue)
        assert share.left() == (2, MANY // 2)
        self.load(queue, "a", 7)
        self.load(queue, "b", 8)
        assert share.left() == (0, 0)
        assert self.counts(queue) == (3, 3, 3, 20)
        assert queue.order.left(queue.order.place_to_reach()) == 3
        assert read(queue) == ["a", "b"]
        settle(queue)
        assert share.left()[0] == 1
        assert queue.backlog.open is not None
        end_batch(queue, queue.backlog.open, BatchResult(Status.KEPT))
        assert self.counts(queue) == (3, 2, 3, 10)
        assert queue.accounts.pending == 0

    def test_what_is_read_and_what_is_held_leave_room_for_each_other(self) -> None:
        queue = make(20, has_spool=True).queue
        share = SpoolShare(queue)
        half = MANY // 4
        assert (share.to_read(), share.to_hold()) == ((5, half), (5, MANY // 2 - half))
        share.reading = (7, 0)
        assert share.to_hold()[0] == 3
        # What is on disk already is read at once.
        queue.order.note_recovered(1)
        assert share.to_read() == (10, MANY // 2)
        # Never nothing to read: a file would seem damaged that gives none.
        for _ in range(10):
            queue.accounts.load(1)
        assert (share.left(), share.to_read()[0]) == ((0, 0), 1)
        share = SpoolShare(make(2, has_spool=True).queue)
        assert (share.to_read()[0], share.to_hold()[0]) == (1, 0)

    def test_the_largest_message_that_a_read_may_bring_has_its_place(self) -> None:
        queue = make(100, max_bytes=200_000, has_spool=True).queue
        share = SpoolShare(queue)
        for size in (32_768, 32_768, 100_000 - 3 * 32_768):
            queue.accounts.load(size)
        assert share.left() == (47, 32_768)
        queue.accounts.load(2)
        assert share.left() == (0, 0)

    def test_large_messages_from_the_disk_are_not_taken_for_small_ones(self) -> None:
        queue, admission = make(1_000, max_bytes=200_000, has_spool=True)
        share = SpoolShare(queue)
        for _ in range(5):
            queue.accounts.load(20_000)
        assert share.left() == (0, 0)
        for _ in range(400):
            offer(admission, 100)
        assert share.left() == (0, 0)

    def test_new_messages_that_the_disk_refuses_do_not_stop_the_reading(self) -> None:
        queue, admission = make(1_000, max_bytes=10 * 2**20, has_spool=True)
        for _ in range(9):
            offer(admission, 2**20)
        # One that waits long for its next try.
        queue.accounts.load(1_000)
        assert SpoolShare(queue).left() == (499, 5 * 2**20 - MAX_MESSAGE_BYTES)

    def test_new_messages_leave_the_window_alone(self) -> None:
        queue, admission = make(4, has_spool=True)
        for _ in range(3):
            offer(admission, 10)
        assert SpoolShare(queue).left()[0] == 2

    def test_a_repair_counts_what_is_being_stored(self) -> None:
        queue, admission = make(5, has_spool=True)
        for _ in range(3):
            offer(admission, 10)
        queue.appending = [queue.incoming.popleft()]
        self.load(queue, "d", 9)
        read(queue)
        queue.accounts.pending, queue.accounts.pending_bytes = 77, 1
        queue.repair()
        assert (queue.accounts.pending, queue.accounts.pending_bytes) == (4, 40)
