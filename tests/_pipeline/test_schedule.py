"""The schedule: which batch goes next, when one is due, when to look again; `now` is an argument.

`AnyOrder` does anything that the consumer and the settlement do, in any order, and holds the backlog and its schedule
against a plain model. What single rules mean is in the classes before it.
"""

import sys
from collections.abc import Iterator
from itertools import count, takewhile
from types import FrameType
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from segment_async import Response, RetryPolicy, Status
from segment_async._outcome import BatchResult
from segment_async._pipeline.backlog import Backlog
from segment_async._pipeline.batch import Batch, OpenBatch
from segment_async._pipeline.circuit import CircuitBreaker
from segment_async._pipeline.retry import Finish, History, Retry
from segment_async._pipeline.schedule import LONGEST_SLEEP, WAKE_EVERY
from tests.support.batches import put, seal, waiting
from tests.support.stations import backlog_with, schedule_with

DELIVERED = BatchResult(Status.DELIVERED)
GIVE_UP_AFTER = 100.0
INTERVAL = 0.5


def closed() -> CircuitBreaker:
    return CircuitBreaker(RetryPolicy(backoff=2.0, max_backoff=8.0), lambda: 0.0)


def half_open(until: float = 0.0) -> CircuitBreaker:
    circuit = closed()
    circuit.note_retry(Retry(until, pause=True), History(), 0.0)
    return circuit


class TestDue:
    """When the open batch goes."""

    def test_when_it_is_large_enough(self) -> None:
        backlog = backlog_with()
        schedule = schedule_with(backlog, flush_at=10)
        put(backlog, 9)
        assert schedule.next(0.0, is_full=False) is None
        put(backlog, 1)
        assert schedule.next(0.0, is_full=False) is backlog.open

    def test_when_its_first_message_has_waited_for_the_interval(self) -> None:
        backlog = backlog_with()
        schedule = schedule_with(backlog, flush_interval=INTERVAL)
        put(backlog, 1, now=7.0)
        assert schedule.next(7.0 + INTERVAL - 0.001, is_full=False) is None
        assert schedule.next_look(7.0, is_full=False) == 7.0 + INTERVAL
        assert schedule.next(7.0 + INTERVAL, is_full=False) is backlog.open

    def test_when_the_queue_is_full(self) -> None:
        backlog = backlog_with()
        schedule = schedule_with(backlog)
        put(backlog, 1)
        assert schedule.next(0.0, is_full=True) is backlog.open
        assert schedule.next_look(0.0, is_full=True) == 0.0

    def test_when_no_more_may_join(self) -> None:
        backlog = backlog_with(max_messages=5)
        schedule = schedule_with(backlog)
        put(backlog, 5)
        assert schedule.next(0.0, is_full=False) is backlog.open

    def test_when_a_flush_wants_it(self) -> None:
        backlog = backlog_with()
        schedule = schedule_with(backlog)
        put(backlog, 2, start=10)
        backlog.flush_before = 10
        assert schedule.next(0.0, is_full=False) is None
        backlog.flush_before = 11
        assert schedule.next(0.0, is_full=False) is backlog.open

    def test_only_where_a_request_may_begin(self) -> None:
        backlog = backlog_with()
        schedule = schedule_with(backlog, flush_at=1, max_in_flight=1)
        backlog.mark_in_flight(waiting(backlog, 0))
        put(backlog, 5, start=1)
        assert schedule.next(99.0, is_full=True) is None
        assert schedule.next_look(99.0, is_full=True) == 99.0 + LONGEST_SLEEP

    def test_one_more_look_after_messages_came_and_then_none(self) -> None:
        backlog = backlog_with()
        schedule = schedule_with(backlog, flush_interval=INTERVAL)
        opened = put(backlog, 1)
        schedule.next_look(0.0, is_full=False)
        backlog.remove(opened)
        assert schedule.next_look(1.0, is_full=False) == 1.0 + INTERVAL
        assert schedule.next_look(2.0, is_full=False) is None

    @pytest.mark.parametrize(("flush_at", "waits"), [(1, False), (2, True)])
    def test_a_message_that_makes_a_batch_waits_for_no_company(self, flush_at: int, waits: bool) -> None:
        schedule = schedule_with(backlog_with(), flush_at=flush_at, flush_interval=INTERVAL)
        schedule.looks_at = INTERVAL
        assert schedule.waits_for_more(0.0) is waits


class TestTurns:
    def test_the_oldest_that_is_ready_goes_before_the_open_one(self) -> None:
        backlog = backlog_with()
        schedule = schedule_with(backlog, flush_at=1)
        put(backlog, 1, start=30)
        second, first = waiting(backlog, 20), waiting(backlog, 10)
        assert schedule.next(0.0, is_full=False) is first
        first.not_before = 5.0
        assert schedule.next(0.0, is_full=False) is second
        second.not_before = 5.0
        assert schedule.next(0.0, is_full=False) is backlog.open

    def test_nothing_goes_before_the_circuit_lets_it(self) -> None:
        backlog = backlog_with()
        schedule = schedule_with(backlog, half_open(until=4.0), flush_at=1)
        waiting(backlog, 0)
        put(backlog, 1, start=1)
        assert schedule.next(3.9, is_full=False) is None
        assert schedule.next_look(0.0, is_full=False) == 4.0
        assert schedule.next(4.0, is_full=False) is not None

    def test_while_the_circuit_is_half_open_one_goes_at_a_time(self) -> None:
        backlog = backlog_with()
        schedule = schedule_with(backlog, half_open())
        first, second = waiting(backlog, 0), waiting(backlog, 1)
        assert schedule.next(0.0, is_full=False) is first
        backlog.mark_in_flight(first)
        assert schedule.next(0.0, is_full=False) is None
        backlog.remove(first)
        assert schedule.next(0.0, is_full=False) is second

    def test_and_what_was_tried_least_goes_first(self) -> None:
        backlog = backlog_with()
        schedule = schedule_with(backlog, half_open(), flush_at=1)
        waiting(backlog, 0, sends=3)
        tried_once = waiting(backlog, 1, sends=1)
        assert schedule.next(0.0, is_full=False) is tried_once
        put(backlog, 1, start=2)
        assert schedule.next(0.0, is_full=False) is backlog.open
        untried = waiting(backlog, 3)
        assert schedule.next(0.0, is_full=False) is untried

    def test_retrying_now_takes_all_back_offs(self) -> None:
        backlog = backlog_with()
        schedule = schedule_with(backlog)
        batch = waiting(backlog, 0, not_before=50.0)
        assert schedule.next(0.0, is_full=False) is None
        backlog.retry_now()
        assert schedule.next(0.0, is_full=False) is batch

    def test_what_has_failed_for_too_long_is_overdue(self) -> None:
        backlog = backlog_with()
        schedule = schedule_with(backlog, give_up_after=GIVE_UP_AFTER)
        batch = waiting(backlog, 0, not_before=1_000.0, first_failure=3.0)
        waiting(backlog, 1)
        assert schedule.overdue(3.0 + GIVE_UP_AFTER - 0.001) == []
        assert schedule.overdue(3.0 + GIVE_UP_AFTER) == [batch]


class TestOrder:
    """With one request at a time."""

    def test_nothing_overtakes_what_waits_for_a_back_off(self) -> None:
        backlog = backlog_with()
        schedule = schedule_with(backlog, flush_at=1, max_in_flight=1)
        first = waiting(backlog, 0, not_before=9.0)
        waiting(backlog, 1)
        put(backlog, 1, start=2)
        assert schedule.next(8.9, is_full=True) is None
        assert schedule.next_look(0.0, is_full=True) == 9.0
        assert schedule.next(9.0, is_full=True) is first

    def test_but_a_single_message_that_fails_again_and_again_holds_up_nothing(self) -> None:
        backlog = backlog_with()
        schedule = schedule_with(backlog, flush_at=1, max_in_flight=1)
        stuck = waiting(backlog, 0, not_before=9.0, server_faults=10)
        put(backlog, 1, start=1)
        assert schedule.next(0.0, is_full=False) is backlog.open
        second = seal(backlog)
        assert schedule.next(0.0, is_full=False) is second
        # One other, and not all of them.
        second.not_before = 9.0
        waiting(backlog, 2)
        assert schedule.next(0.0, is_full=False) is None
        assert schedule.next(9.0, is_full=False) is stuck

    def test_nor_do_two_of_them(self) -> None:
        """They would pass each other for ever."""
        backlog = backlog_with()
        schedule = schedule_with(backlog, flush_at=1, max_in_flight=1)
        for place in range(2):
            waiting(backlog, place, not_before=9.0, server_faults=10)
        third = waiting(backlog, 2)
        waiting(backlog, 3)
        assert schedule.next(0.0, is_full=False) is third
        third.not_before = 9.0
        assert schedule.next(0.0, is_full=False) is None

    @pytest.mark.parametrize(("count", "faults"), [(1, 9), (2, 10)])
    def test_neither_one_that_failed_less_nor_one_of_several(self, count: int, faults: int) -> None:
        backlog = backlog_with()
        schedule = schedule_with(backlog, flush_at=1, max_in_flight=1)
        waiting(backlog, 0, count, not_before=9.0, server_faults=faults)
        put(backlog, 1, start=count)
        assert schedule.next(0.0, is_full=False) is None


class TestSizes:
    def test_a_batch_may_be_larger_the_more_is_in_flight_or_unread(self) -> None:
        backlog = backlog_with()
        schedule = schedule_with(backlog, flush_at=10)
        assert schedule.room_for_more(unread=10) == 10
        assert schedule.room_for_more(unread=11) == 50
        backlog.mark_in_flight(waiting(backlog, 0))
        assert schedule.room_for_more(unread=10) == 20
        put(backlog, 15, start=1)
        assert schedule.room_for_more(unread=10) == 5
        assert schedule.room_for_more(unread=11) == 85

    def test_how_many_unread_messages_are_worth_a_look(self) -> None:
        backlog = backlog_with()
        schedule = schedule_with(backlog, flush_at=10, max_in_flight=1)
        assert schedule.wake_at(0.0) == 1
        put(backlog, 4)
        assert schedule.wake_at(0.0) == 6
        backlog.mark_in_flight(waiting(backlog, 20))
        # No request may begin: a look would be for compressing alone.
        assert schedule.wake_at(0.0) == WAKE_EVERY

    def test_never_so_many_that_there_is_much_to_compress(self) -> None:
        backlog = backlog_with()
        schedule = schedule_with(backlog, flush_at=5_000)
        put(backlog, 1)
        assert schedule.wake_at(0.0) == WAKE_EVERY


class TestOtherThreads:
    """They drop batches to make room while the consumer, without the lock, looks when to go on."""

    @pytest.mark.parametrize("look", ["next_look", "room_for_more"])
    def test_the_open_batch_goes_at_any_step_of_a_look(self, look: str) -> None:
        for moment in count():
            backlog = backlog_with()
            schedule = schedule_with(backlog, max_in_flight=1)
            opened = put(backlog, 1)
            steps = 0

            def step(
                frame: FrameType,
                event: str,
                _: object,
                backlog: Backlog = backlog,
                opened: OpenBatch = opened,
                moment: int = moment,
            ) -> Any:
                nonlocal steps
                frame.f_trace_opcodes = True
                if event == "opcode":
                    if steps == moment:
                        backlog.remove(opened)
                    steps += 1
                return step

            # In Python 3.12, `settrace` asks for these events only if a frame wanted them before.
            sys._getframe().f_trace_opcodes = True
            before = sys.gettrace()
            sys.settrace(step)
            try:
                seen = schedule.next_look(0.0, False) if look == "next_look" else schedule.room_for_more(0)
            finally:
                sys.settrace(before)
            assert seen in ((INTERVAL, None) if look == "next_look" else (99, 100))
            if steps <= moment:
                break
        assert moment > 5


class AnyOrder(RuleBasedStateMachine):
    """Any sequence of what the consumer and the settlement do."""

    @initialize(
        max_in_flight=st.integers(1, 3),
        flush_at=st.integers(1, 6),
        max_messages=st.sampled_from([3, 8, 2_500]),
        max_bytes=st.sampled_from([60, 400]),
    )
    def begin(self, max_in_flight: int, flush_at: int, max_messages: int, max_bytes: int) -> None:
        self.now = 0.0
        self.circuit = closed()
        self.max_in_flight = max_in_flight
        self.max_bytes = max_bytes
        self.is_full = False
        self.backlog = backlog_with(max_bytes=max_bytes, max_messages=max_messages)
        self.schedule = schedule_with(
            self.backlog,
            self.circuit,
            flush_at=flush_at,
            flush_interval=INTERVAL,
            max_in_flight=max_in_flight,
            give_up_after=GIVE_UP_AFTER,
        )
        self.put_count = 0
        self.unsettled: set[int] = set()
        self.requests = 0

    # -- what happens

    @rule(count=st.integers(1, 4), size=st.integers(2, 40))
    def read(self, count: int, size: int) -> None:
        """Messages come; the open batch is sealed where one does not fit."""
        for _ in range(count):
            opened = self.backlog.open
            if opened is not None and not opened.fits(size):
                seal(self.backlog)
            limit = self.backlog.limit(self.now)
            opened = put(self.backlog, 1, start=self.put_count, now=self.now, size=size)
            assert opened.count == 1 or opened.size + opened.count - 1 <= max(limit, self.max_bytes)
            self.unsettled.add(self.put_count)
            self.put_count += 1

    @rule()
    def start_requests(self) -> None:
        """All that may go now goes."""
        while True:
            for batch in self.schedule.overdue(self.now):
                assert batch in self.backlog.waiting
                self.settle(batch)
            batch = self.schedule.next(self.now, self.is_full)
            if batch is None:
                break
            self.check_turn(batch)
            if isinstance(batch, OpenBatch):
                batch = seal(self.backlog)
            if self.backlog.exceeds_limit(batch, self.now):
                self.replace(batch)
                continue
            assert self.backlog.mark_in_flight(batch)
            batch.history = batch.history._replace(sends=batch.history.sends + 1)
            self.requests += 1
            assert len(self.backlog.in_flight) <= self.circuit.places(self.max_in_flight)

    def check_turn(self, batch: Batch | OpenBatch) -> None:
        assert self.now >= self.circuit.not_before
        assert len(self.backlog.in_flight) < self.max_in_flight
        assert isinstance(batch, OpenBatch) or batch.not_before <= self.now
        if self.max_in_flight == 1:
            stuck = takewhile(lambda each: each.count == 1 and each.history.server_faults >= 10, self.backlog.waiting)
            overtaken = {place for place in self.unsettled if place < batch.start}
            assert overtaken <= {each.start for each in stuck}

    @precondition(lambda self: self.backlog.in_flight)
    @rule(which=st.integers(0, 5))
    def deliver(self, which: int) -> None:
        batch = self.in_flight(which)
        if self.circuit.note_end(Finish(Status.DELIVERED), Response(200), batch.count, self.now):
            self.backlog.retry_now()
        self.settle(batch)

    @precondition(lambda self: self.backlog.in_flight)
    @rule(which=st.integers(0, 5), delay=st.sampled_from([0.0, 1.0, 30.0]), pause=st.booleans(), fault=st.booleans())
    def fail(self, which: int, delay: float, *, pause: bool, fault: bool) -> None:
        batch = self.in_flight(which)
        history = batch.history
        batch.history = history._replace(
            failures=history.failures + 1,
            server_faults=history.server_faults + 1 if fault else 0,
            first_failure=self.now if history.first_failure is None else history.first_failure,
        )
        self.circuit.note_retry(Retry(delay, pause=pause), batch.history, self.now)
        batch.not_before = self.now + delay
        self.backlog.wait(batch)

    @precondition(lambda self: any(batch.count > 1 for batch in self.backlog.in_flight))
    @rule(which=st.integers(0, 5), too_large=st.booleans())
    def split(self, which: int, *, too_large: bool) -> None:
        candidates = [batch for batch in self.backlog.in_flight if batch.count > 1]
        batch = candidates[which % len(candidates)]
        if too_large:
            self.backlog.learn_limit(batch, self.now)
        self.replace(batch)

    @rule(seconds=st.sampled_from([0.1, INTERVAL, 5.0, 40.0, 400.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def pass_time_until_the_next_look(self) -> None:
        moment = self.schedule.next_look(self.now, self.is_full)
        if moment is not None:
            self.now = max(self.now, moment)

    @rule(is_full=st.booleans())
    def fill(self, *, is_full: bool) -> None:
        self.is_full = is_full

    @rule()
    def flush(self) -> None:
        self.backlog.flush_before = self.put_count

    @rule()
    def retry_now(self) -> None:
        self.backlog.retry_now()
        self.circuit.probe_now()

    @rule(which=st.integers(0, 4), index=st.integers(0, 9))
    def interrupt_and_repair(self, which: int, index: int) -> None:
        """A change is torn by an exception, and repaired."""
        backlog = self.backlog
        batches = [*backlog.waiting, *backlog.in_flight]
        if which == 0 and backlog.open is not None:
            backlog.wait(backlog.open.seal())
        elif batches:
            batch = batches[index % len(batches)]
            if which == 1:
                backlog.in_flight[batch] = None
            elif which == 2 and batch.count > 1:
                backlog.wait(batch.split()[index % 2])
            elif which == 3:
                batch.record.settle(batch.offset, batch.offset + batch.count, DELIVERED)
                self.unsettled -= set(range(batch.start, batch.stop))
            elif which == 4 and batch in backlog.in_flight:
                backlog.waiting.append(batch)
        backlog.repair()

    # -- helpers

    def in_flight(self, which: int) -> Batch:
        batches = list(self.backlog.in_flight)
        return batches[which % len(batches)]

    def settle(self, batch: Batch) -> None:
        batch.record.settle(batch.offset, batch.offset + batch.count, DELIVERED)
        self.backlog.remove(batch)
        self.unsettled -= set(range(batch.start, batch.stop))

    def replace(self, batch: Batch) -> None:
        for part in batch.split():
            self.backlog.wait(part)
        self.backlog.remove(batch)

    def moments(self) -> Iterator[float]:
        """Every moment at which something could become possible."""
        yield self.circuit.not_before
        yield self.now + 1_000_000
        if self.backlog.open is not None:
            yield self.backlog.open.opened_at + INTERVAL
        for batch in (*self.backlog.waiting, *self.backlog.in_flight):
            yield batch.not_before
            if batch.history.first_failure is not None:
                yield batch.history.first_failure + GIVE_UP_AFTER

    # -- what always holds

    @invariant()
    def every_message_is_in_exactly_one_place(self) -> None:
        places = [place for batch in self.backlog.batches() for place in range(batch.start, batch.stop)]
        assert sorted(places) == sorted(self.unsettled)
        starts = [batch.start for batch in self.backlog.waiting]
        assert starts == sorted(starts)

    @invariant()
    def never_more_in_flight_than_allowed(self) -> None:
        assert len(self.backlog.in_flight) <= self.max_in_flight

    @invariant()
    def no_moment_is_missed(self) -> None:
        """Nothing becomes possible before the moment that `next_look` names; and it names none where nothing is to do."""
        schedule, now = self.schedule, self.now
        if schedule.overdue(now) or schedule.next(now, self.is_full) is not None:
            return
        look = schedule.next_look(now, self.is_full)
        assert look is None or look > now
        for moment in self.moments():
            if moment > now and (look is None or moment < look):
                assert not schedule.overdue(moment)
                assert schedule.next(moment, self.is_full) is None

    @invariant()
    def few_enough_unread_messages_make_nothing_due(self) -> None:
        backlog, schedule = self.backlog, self.schedule
        wake_at = schedule.wake_at(self.now)
        assert 1 <= wake_at <= WAKE_EVERY
        if backlog.open is not None and wake_at > 1 and schedule.may_send_open(self.now):
            assert backlog.open.count + wake_at - 1 < schedule._flush_at or backlog.open.count >= schedule._flush_at

    @invariant()
    def looks_agree(self) -> None:
        backlog = self.backlog
        for place in (0, self.put_count // 2, self.put_count):
            assert backlog.left(place) == sum(number < place for number in self.unsettled)
        assert backlog.in_flight_totals() == (
            sum(batch.count for batch in backlog.in_flight),
            sum(batch.size for batch in backlog.in_flight),
        )
        ages = [batch.opened_at for batch in backlog.batches()]
        assert backlog.opened_at() == min(ages, default=None)

    def teardown(self) -> None:
        """Whatever happened, the time comes at which everything is sent or given up."""
        if not hasattr(self, "backlog"):
            return
        for _ in range(1_000):
            self.start_requests()
            for batch in list(self.backlog.in_flight):
                self.circuit.note_end(Finish(Status.DELIVERED), Response(200), batch.count, self.now)
                self.settle(batch)
            moment = self.schedule.next_look(self.now, self.is_full)
            if moment is None:
                break
            self.now = max(self.now, moment)
        assert not self.unsettled


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=250, stateful_step_count=40)
