"""The counters: the law holds at every look by construction, and counters never fall."""

import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from types import FrameType
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from segment_async import Statistics, Status
from segment_async._outcome import REASONS, BatchResult
from segment_async._pipeline.accounts import Accounts

DELIVERED = BatchResult(Status.DELIVERED)
REFUSED = BatchResult(Status.FAILED, "refused")
HANDED_OVER = BatchResult(Status.HANDED_OVER)
ENDS = [DELIVERED, HANDED_OVER, *(BatchResult(reason.status, name) for name, reason in REASONS.items())]


def accounts(max_messages: int = 10, max_bytes: int = 100) -> Accounts:
    return Accounts(max_messages, max_bytes)


def put(one: Accounts, count: int, size: int) -> None:
    """As the queue does it."""
    one.pending, one.pending_bytes = one.pending + count, one.pending_bytes + size


def recover(one: Accounts, count: int) -> None:
    """As the order does it: messages of earlier processes, whose bytes are counted as they come into memory."""
    one.recovered, one.spooled = one.recovered + count, one.spooled + count


def look(one: Accounts) -> Statistics:
    return one.statistics(0, 0, 0.0)


class TestDropped:
    def test_it_is_counted_while_another_thread_counts_a_first_one_of_its_kind(self) -> None:
        one = accounts()
        one.refuse(BatchResult(Status.DROPPED, "queue_full"))
        one.refuse(BatchResult(Status.DROPPED, "invalid"))

        def as_another_thread(frame: FrameType, event: str, _: object) -> None:
            if event == "call" and frame.f_code.co_name == "<genexpr>" and "exit" not in one.reasons:
                one.refuse(BatchResult(Status.DROPPED, "exit"))

        sys.setprofile(as_another_thread)
        try:
            counted = one.dropped
        finally:
            sys.setprofile(None)
        assert (counted, one.dropped) == (2, 3)


class TestBounds:
    @pytest.mark.parametrize(("size", "fits"), [(0, True), (40, True), (41, False)])
    def test_to_the_byte(self, size: int, *, fits: bool) -> None:
        one = accounts()
        put(one, 1, 60)
        assert one.has_room(size) is fits

    @pytest.mark.parametrize(("pending", "fits"), [(9, True), (10, False), (11, False)])
    def test_to_the_message(self, pending: int, *, fits: bool) -> None:
        one = accounts()
        put(one, pending, 0)
        assert one.has_room(0) is fits

    def test_of_what_is_on_disk_nothing_counts(self) -> None:
        one = accounts()
        put(one, 10, 100)
        one.unload(10, 100)
        assert one.has_room(100)


class TestEnds:
    def test_of_no_message_no_reason_appears(self) -> None:
        one = accounts()
        one.settle(0, 0, REFUSED)
        assert look(one).reasons == {}

    @pytest.mark.parametrize("result", ENDS, ids=lambda result: result.reason or result.status.value)
    def test_each_is_counted_under_its_status_and_reason(self, result: BatchResult) -> None:
        one = accounts()
        put(one, 3, 30)
        one.settle(2, 20, result)
        now = look(one)
        counts = {
            Status.DELIVERED: now.delivered,
            Status.FAILED: now.failed,
            Status.DROPPED: now.dropped,
            Status.HANDED_OVER: now.handed_over,
        }
        assert counts == {status: 2 * (status is result.status) for status in counts}
        assert now.reasons == ({} if result.reason is None else {result.reason: 2})
        assert (now.accepted, now.pending, now.queued_bytes) == (3, 1, 10)

    def test_a_message_that_is_refused_was_accepted(self) -> None:
        one = accounts()
        one.refuse(BatchResult(Status.DROPPED, "disabled"))
        assert (look(one).accepted, look(one).dropped, look(one).pending) == (1, 1, 0)

    def test_a_look_is_a_value_that_later_ends_do_not_change(self) -> None:
        one = accounts()
        put(one, 2, 2)
        one.settle(1, 1, BatchResult(Status.FAILED, "refused"))
        before = look(one)
        one.settle(1, 1, BatchResult(Status.FAILED, "refused"))
        assert before.reasons == {"refused": 1}
        with pytest.raises(AttributeError):
            before.accepted = 1  # type: ignore[misc]
        with pytest.raises(TypeError):
            before.reasons["refused"] = 5  # type: ignore[index]

    def test_what_is_in_flight_is_not_queued(self) -> None:
        one = accounts()
        put(one, 5, 50)
        now = one.statistics(2, 20, 1.5)
        assert (now.pending, now.queued, now.queued_bytes, now.in_flight, now.oldest_age) == (5, 3, 30, 2, 1.5)


class TestSpool:
    def test_what_others_left_counts_from_the_start_and_its_bytes_as_they_come(self) -> None:
        one = accounts()
        recover(one, 2)
        assert (look(one).accepted, look(one).pending, look(one).recovered, look(one).queued_bytes) == (2, 2, 2, 0)
        one.load(10)
        assert (look(one).accepted, look(one).pending, look(one).queued_bytes) == (2, 2, 10)

    def test_what_was_put_back_from_outside_counts_as_recovered(self) -> None:
        one = accounts()
        one.load(10)
        assert (look(one).accepted, look(one).recovered, look(one).queued_bytes) == (1, 1, 10)

    def test_a_message_that_is_arriving_is_not_accepted(self) -> None:
        one = accounts()
        put(one, 1, 10)
        one.arriving += 1
        assert (look(one).accepted, look(one).pending) == (0, 0)
        one.arriving -= 1
        one.forget(1, 10)
        assert (look(one).accepted, one.pending, one.pending_bytes, one.arriving) == (0, 0, 0, 0)

    def test_what_the_spool_gives_up_is_dropped(self) -> None:
        one = accounts()
        put(one, 1, 10)
        one.unload(1, 10)
        one.lose(10, BatchResult(Status.DROPPED, "too_old"))
        assert (look(one).accepted, look(one).dropped, look(one).pending) == (1, 1, 0)
        assert look(one).queued_bytes == 0


class TestAnyInstant:
    """A signal handler may look at the counters between any two calls."""

    CHANGES: Sequence[Callable[[Accounts], object]] = [
        *(lambda one, result=result: one.settle(2, 20, result) for result in (DELIVERED, HANDED_OVER, REFUSED)),
        lambda one: one.refuse(BatchResult(Status.DROPPED, "disabled")),
        lambda one: one.load(10),
        lambda one: one.unload(2, 20),
        lambda one: one.lose(10, BatchResult(Status.DROPPED, "too_old")),
    ]

    @pytest.mark.parametrize("change", CHANGES)
    def test_the_law_holds_amid_a_change(self, change: Callable[[Accounts], object]) -> None:
        one = accounts()
        put(one, 5, 50)
        recover(one, 2)
        one.arriving = 1
        seen = [look(one)]

        def trace(frame: FrameType, event: str, _: object) -> Any:
            if frame.f_code.co_filename.endswith("_pipeline/accounts.py") and frame.f_code.co_name != "statistics":
                sys.settrace(None)
                # Before the first line, and after the last: that is where calls are.
                if event in ("call", "return"):
                    seen.append(look(one))
                sys.settrace(trace)
                return trace
            return None

        traced(change, one, trace)
        seen.append(look(one))
        assert len(seen) > 3
        for before, now in pairwise(seen):
            assert now.accepted == now.delivered + now.failed + now.dropped + now.handed_over + now.pending
            assert 0 <= before.accepted <= now.accepted
            assert 0 <= before.delivered <= now.delivered

    @pytest.mark.parametrize("change", CHANGES)
    def test_a_message_that_comes_amid_a_change_is_counted(self, change: Callable[[Accounts], object]) -> None:
        quiet, one = accounts(), accounts()
        came = 0

        def trace(frame: FrameType, event: str, _: object) -> Any:
            nonlocal came
            if not frame.f_code.co_filename.endswith("_pipeline/accounts.py"):
                return None
            if event in ("call", "return"):
                put(one, 1, 3)
                came += 1
            return trace

        for each in (quiet, one):
            put(each, 5, 50)
            recover(each, 2)
            each.arriving = 1
        change(quiet)
        traced(change, one, trace)
        assert came > 1
        assert (one.pending, one.pending_bytes) == (quiet.pending + came, quiet.pending_bytes + 3 * came)
        assert look(one).accepted == look(quiet).accepted + came

    def test_a_recount_begins_again_if_messages_came_meanwhile(self) -> None:
        one = accounts()
        put(one, 5, 50)
        seen = one.pending
        put(one, 1, 10)
        assert not one.recount(seen, 4, 40)
        assert (one.pending, one.pending_bytes) == (6, 60)
        assert one.recount(6, 4, 40)
        assert (one.pending, one.pending_bytes) == (4, 40)


def traced(change: Callable[[Accounts], object], one: Accounts, trace: Callable[..., Any]) -> None:
    tracer = sys.gettrace()
    sys.settrace(trace)
    try:
        change(one)
    finally:
        sys.settrace(tracer)


class LawOfAccounts(RuleBasedStateMachine):
    """Anything that the queue and the feed do, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.one = Accounts(1_000_000, 1_000_000)
        self.before: Mapping[str, int] = {}
        self.accepted = 0
        # Sizes, by where the messages are.
        self.memory: list[int] = []
        self.arriving: list[int] = []
        self.disk: list[int] = []

    @rule(size=st.integers(1, 100))
    def put(self, size: int) -> None:
        put(self.one, 1, size)
        self.memory.append(size)
        self.accepted += 1

    @rule(size=st.integers(1, 100))
    def arrive(self, size: int) -> None:
        self.one.arriving += 1
        put(self.one, 1, size)
        self.arriving.append(size)

    @precondition(lambda self: self.arriving)
    @rule(is_stored=st.booleans())
    def answer(self, is_stored: bool) -> None:
        size = self.arriving.pop()
        if is_stored:
            self.one.arriving -= 1
            self.memory.append(size)
            self.accepted += 1
        else:
            self.one.arriving -= 1
            self.one.forget(1, size)

    @precondition(lambda self: self.memory)
    @rule(count=st.integers(1, 5), result=st.sampled_from(ENDS))
    def settle(self, count: int, result: BatchResult) -> None:
        taken, self.memory = self.memory[:count], self.memory[count:]
        self.one.settle(len(taken), sum(taken), result)

    @rule(result=st.sampled_from(ENDS[2:]))
    def refuse(self, result: BatchResult) -> None:
        self.one.refuse(result)
        self.accepted += 1

    @precondition(lambda self: self.memory)
    @rule(count=st.integers(1, 5))
    def unload(self, count: int) -> None:
        taken, self.memory = self.memory[:count], self.memory[count:]
        self.one.unload(len(taken), sum(taken))
        self.disk += taken

    @rule(count=st.integers(1, 3), size=st.integers(1, 100))
    def recover(self, count: int, size: int) -> None:
        recover(self.one, count)
        self.disk += [size] * count
        self.accepted += count

    @rule(size=st.integers(1, 100))
    def load(self, size: int) -> None:
        if self.disk:
            size = self.disk.pop(0)
        else:
            self.accepted += 1
        self.one.load(size)
        self.memory.append(size)

    @precondition(lambda self: self.disk)
    @rule(reason=st.sampled_from(["too_old", "purged", "damaged", "queue_full"]))
    def lose(self, reason: str) -> None:
        self.one.lose(self.disk.pop(), BatchResult(Status.DROPPED, reason))

    @rule(seen=st.booleans())
    def look(self, seen: bool) -> None:
        """Nothing is changed by it."""
        first = look(self.one)
        assert first == look(self.one)

    @invariant()
    def the_law_holds(self) -> None:
        now = look(self.one)
        assert now.accepted == now.delivered + now.failed + now.dropped + now.handed_over + now.pending
        assert now.accepted == self.accepted
        assert now.pending == len(self.memory) + len(self.disk)
        assert sum(now.reasons.values()) == now.failed + now.dropped
        assert self.one.pending == len(self.memory) + len(self.arriving)
        assert self.one.pending_bytes == sum(self.memory) + sum(self.arriving)
        assert now.queued_bytes >= self.one.pending_bytes

    @invariant()
    def counters_never_fall(self) -> None:
        now = look(self.one)
        counts = {
            name: getattr(now, name)
            for name in ("accepted", "delivered", "failed", "dropped", "handed_over", "recovered")
        } | dict(now.reasons)
        assert all(counts[name] >= count >= 0 for name, count in self.before.items())
        self.before = counts


TestLaw = LawOfAccounts.TestCase
TestLaw.settings = settings(max_examples=200, stateful_step_count=30)
