"""The backlog: where each batch is, and how large a batch may be; `now` is an argument."""

import pytest

from segment_async import Status
from segment_async._outcome import BatchResult
from tests.support.batches import put, waiting
from tests.support.stations import backlog_with, sealed

DELIVERED = BatchResult(Status.DELIVERED)


class TestLimits:
    def test_after_a_413_batches_are_smaller_for_five_minutes(self) -> None:
        backlog = backlog_with(max_bytes=1_000)
        large = sealed([b"x" * 100] * 8)
        assert not backlog.exceeds_limit(large, 0.0)
        backlog.learn_limit(large, now=0.0)
        assert backlog.limit(0.0) == 400
        assert backlog.exceeds_limit(large, 0.0)
        put(backlog, 4, size=90, now=1.0)
        assert backlog.open is not None
        assert not backlog.open.fits(90)
        assert backlog.limit(299.9) == 400
        assert backlog.limit(300.0) == 1_000
        assert not backlog.exceeds_limit(large, 300.0)

    def test_limits_only_become_smaller_meanwhile(self) -> None:
        backlog = backlog_with(max_bytes=1_000)
        backlog.learn_limit(sealed([b"x" * 100] * 4), now=0.0)
        backlog.learn_limit(sealed([b"x" * 100] * 8), now=10.0)
        assert backlog.limit(10.0) == 200
        assert backlog.limit(309.9) == 200

    def test_the_largest_size_that_was_delivered_lately(self) -> None:
        """It is known for five minutes at least, whatever came after it, and for ten at most."""
        backlog = backlog_with()
        assert backlog.body_size_delivered(0.0) == 0
        for size, now in ((500, 1_000.0), (700, 1_200.0), (300, 1_250.0)):
            backlog.note_delivered(size, now)
        assert backlog.body_size_delivered(1_250.0) == 700
        backlog.note_delivered(400, 1_400.0)
        assert backlog.body_size_delivered(1_699.0) == 700
        assert backlog.body_size_delivered(1_700.0) == 400
        assert backlog.body_size_delivered(2_300.0) == 0

    def test_a_single_message_is_never_too_large_to_try(self) -> None:
        backlog = backlog_with(max_bytes=1_000)
        one = sealed([b"x" * 1_000])
        backlog.learn_limit(one, now=0.0)
        assert backlog.limit(0.0) == 500
        assert not backlog.exceeds_limit(one, 0.0)


class TestRepair:
    """An exception may come at any call amid a change."""

    def test_a_batch_in_two_places(self) -> None:
        backlog = backlog_with()
        batch = waiting(backlog, 0, 3)
        backlog.in_flight[batch] = None
        backlog.waiting.append(batch)
        backlog.repair()
        assert list(backlog.batches()) == [batch]
        assert backlog.waiting == [batch]

    def test_one_that_was_settled(self) -> None:
        backlog = backlog_with()
        first, second, third = (waiting(backlog, start) for start in range(3))
        backlog.mark_in_flight(second)
        for batch in (first, second):
            batch.record.settle(0, 1, DELIVERED)
        backlog.repair()
        assert list(backlog.batches()) == [third]

    @pytest.mark.parametrize("in_flight", [False, True])
    @pytest.mark.parametrize("made", [0, 1, 2])
    def test_some_of_its_parts_beside_a_batch(self, made: int, *, in_flight: bool) -> None:
        backlog = backlog_with()
        before, batch, behind = waiting(backlog, 0), waiting(backlog, 1, 6), waiting(backlog, 7)
        if in_flight:
            backlog.mark_in_flight(batch)
        for part in batch.split()[:made]:
            backlog.wait(part)
        backlog.repair()
        assert sorted(backlog.batches(), key=lambda one: one.start) == [before, batch, behind]
        assert (batch in backlog.in_flight) is in_flight

    def test_parts_without_the_whole_stay(self) -> None:
        backlog = backlog_with()
        batch = waiting(backlog, 0, 6)
        parts = batch.split()
        for part in parts:
            backlog.wait(part)
        backlog.remove(batch)
        backlog.repair()
        assert backlog.waiting == parts

    def test_sealed_and_still_open(self) -> None:
        backlog = backlog_with()
        opened = put(backlog, 3)
        batch = opened.seal()
        backlog.wait(batch)
        backlog.repair()
        assert list(backlog.batches()) == [batch]

    def test_an_open_batch_stays(self) -> None:
        backlog = backlog_with()
        waiting(backlog, 0)
        opened = put(backlog, 3, start=1)
        backlog.repair()
        assert backlog.open is opened
