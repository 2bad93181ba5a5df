"""Deliveries and their outcomes: written once for a batch, read from any loop, any number of times."""

import asyncio
import pickle
import threading
from collections import deque
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segment_async import Delivery, DeliveryError, Outcome, Status
from segment_async._outcome import BatchResult, outcome_of
from segment_async._pipeline.delivery import (
    QueuedRecord,
    Record,
    SharedRecord,
    bodies_of,
    bring_back,
    forget_bodies,
    keys_of,
    move,
    place_all,
    place_one,
    settle_alone,
    settle_together,
    stored_as,
)
from segment_async._pipeline.retry import History
from tests.support.stations import AlwaysRunning
from tests.support.virtual_clock import Deadlock, run, running_clock

DELIVERED = BatchResult(Status.DELIVERED, None, 200, 1)
REFUSED = BatchResult(Status.FAILED, "refused", 400, 3, possibly_delivered=True)


def test_an_outcome_has_all_of_its_batch_s_result():
    result = BatchResult(Status.FAILED, "redirected", 301, 3, possibly_delivered=True, location="example.com")
    outcome = outcome_of("id-1", result)
    assert outcome == Outcome(
        Status.FAILED, "id-1", "redirected", 301, 3, possibly_delivered=True, location="example.com"
    )
    assert pickle.loads(pickle.dumps(outcome)) == outcome


def pending(name: str = "id-1") -> tuple[Delivery, QueuedRecord]:
    queued = QueuedRecord(AlwaysRunning())
    return Delivery(name, b"{}", queued), queued


def placed(count: int = 1) -> tuple[list[Delivery], Record]:
    """Deliveries that lie in one batch."""
    queued, record = QueuedRecord(AlwaysRunning()), Record(AlwaysRunning())
    deliveries = [Delivery(f"id-{index}", b"{}", queued) for index in range(count)]
    place_all(deliveries, record)
    return deliveries, record


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def wait_for(delivery: Delivery) -> Outcome:
    return await delivery


class TestOutcome:
    @pytest.mark.parametrize("status", [Status.FAILED, Status.DROPPED])
    def test_raising_is_opt_in(self, status: Status) -> None:
        outcome = Outcome(status, "id-1", "refused", 400, 2)
        with pytest.raises(DeliveryError) as caught:
            outcome.raise_for_failure()
        assert caught.value.outcome is outcome

    @pytest.mark.parametrize("status", [Status.DELIVERED, Status.HANDED_OVER, Status.KEPT])
    def test_what_is_safe_does_not_raise(self, status: Status) -> None:
        Outcome(status, "id-1").raise_for_failure()

    def test_it_is_a_value(self) -> None:
        outcome = Outcome(Status.DELIVERED, "id-1")
        assert outcome == Outcome(Status.DELIVERED, "id-1")
        assert pickle.loads(pickle.dumps(outcome)) == outcome
        with pytest.raises(AttributeError):
            outcome.reason = "x"  # type: ignore[misc]

    def test_it_is_made_of_a_history(self) -> None:
        history = History(sends=3, status_code=503, maybe_sent=True)
        assert history.result(Status.FAILED, "gave_up") == BatchResult(Status.FAILED, "gave_up", 503, 3, True)


class TestDelivery:
    def test_pending(self) -> None:
        delivery, _ = pending()
        assert delivery.outcome is None
        assert bodies_of([delivery]) == [b"{}"]
        assert keys_of([delivery]) == [0]
        assert repr(delivery) == "<Delivery id-1 pending>"

    def test_in_a_batch_its_bytes_are_the_batch_s(self) -> None:
        (delivery,), _ = placed()
        assert delivery.outcome is None
        assert bodies_of([delivery]) == [b""]

    def test_stored_and_back_from_the_disk(self) -> None:
        (first, second), record = placed(2)
        record.settle(0, 2, DELIVERED)
        stored_as([first, second], [7, 8])
        assert keys_of([first, second]) == [7, 8]
        forget_bodies([second])
        bring_back(second, b'{"a":1}', 9, QueuedRecord(AlwaysRunning()))
        assert (bodies_of([second]), keys_of([second])) == ([b'{"a":1}'], [9])
        assert second.outcome is None

    def test_settled_alone(self) -> None:
        delivery, queued = pending()
        settle_alone(delivery, queued.host, REFUSED)
        assert delivery.outcome is not None
        assert delivery.outcome.reason == "refused"
        assert bodies_of([delivery]) == [b""]

    def test_settled_together_before_their_bytes_go(self) -> None:
        (first, queued), (second, _) = pending(), pending()
        settle_together([first, second], queued.host, REFUSED)
        assert [each.outcome and each.outcome.reason for each in (first, second)] == ["refused", "refused"]
        assert bodies_of([first]) != [b""]

    def test_a_result_is_final(self) -> None:
        (delivery,), record = placed()
        record.settle(0, 1, DELIVERED)
        before = delivery.outcome
        record.settle(0, 1, REFUSED)
        assert delivery.outcome == before

    def test_settled(self) -> None:
        (first, second), record = placed(2)
        record.settle(0, 1, DELIVERED)
        record.settle(1, 2, REFUSED)
        assert first.outcome == Outcome(Status.DELIVERED, "id-0", None, 200, 1)
        assert second.outcome == Outcome(Status.FAILED, "id-1", "refused", 400, 3, possibly_delivered=True)
        assert repr(second) == "<Delivery id-1 failed>"

    def test_awaited_any_number_of_times(self) -> None:
        async def main() -> None:
            (delivery,), record = placed()
            waiting = [asyncio.create_task(wait_for(delivery)) for _ in range(3)]
            await turns()
            record.settle(0, 1, DELIVERED)
            outcomes = await asyncio.gather(*waiting, delivery, delivery)
            assert outcomes == [delivery.outcome] * 5

        run(main())

    def test_awaited_before_it_is_read(self) -> None:
        async def main() -> None:
            delivery, queued = pending()
            waiting = asyncio.create_task(wait_for(delivery))
            await turns()
            record = Record(AlwaysRunning())
            place_all([delivery], record)
            queued.moved.notify()
            await turns()
            assert not waiting.done()
            record.settle(0, 1, DELIVERED)
            assert (await waiting).status is Status.DELIVERED

        run(main())

    def test_read_into_other_batches_it_waits_on(self) -> None:
        async def main() -> None:
            delivery, queued = pending()
            waiting = asyncio.create_task(wait_for(delivery))
            await turns()
            queued.moved.notify()
            await turns()
            assert not waiting.done()
            waiting.cancel()

        run(main())

    def test_cancelling_the_wait_leaves_the_message_alone(self) -> None:
        async def main() -> None:
            (delivery,), record = placed()
            waiting = asyncio.create_task(wait_for(delivery))
            await turns()
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert delivery.outcome is None
            record.settle(0, 1, DELIVERED)
            assert (await delivery).status is Status.DELIVERED

        run(main())

    def test_with_a_time_limit_of_the_caller_s(self) -> None:
        async def main() -> None:
            (delivery,), _ = placed()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(delivery, 5)
            assert running_clock().time() == 5

        run(main())

    def test_from_several_loops_at_once(self) -> None:
        (delivery,), record = placed()
        waiting, outcomes = threading.Barrier(5), []

        def wait() -> None:
            async def main() -> None:
                task = asyncio.create_task(wait_for(delivery))
                await turns()
                await asyncio.to_thread(waiting.wait, 10)
                outcomes.append(await task)

            asyncio.run(main())

        threads = [threading.Thread(target=wait) for _ in range(4)]
        for thread in threads:
            thread.start()
        waiting.wait(10)
        record.settle(0, 1, DELIVERED)
        for thread in threads:
            thread.join(10)
        assert outcomes == [delivery.outcome] * 4

    def test_a_loop_that_ended_while_it_waited_does_no_harm(self) -> None:
        (delivery,), record = placed()

        async def leave() -> None:
            waiting.append(asyncio.ensure_future(wait_for(delivery)))
            await turns()

        waiting: list[asyncio.Future[Outcome]] = []
        asyncio.run(leave())
        record.settle(0, 1, DELIVERED)
        assert asyncio.run(wait_for(delivery)).status is Status.DELIVERED

    def test_where_another_loop_is_the_owner_it_looks_again_from_time_to_time(self) -> None:
        async def main() -> int:
            office = AlwaysRunning(watch=0.05)
            record = Record(office)
            delivery = Delivery("id-1", b"", record)
            waiting = asyncio.create_task(wait_for(delivery))
            await asyncio.sleep(0.99)
            record.settle(0, 1, DELIVERED)
            await waiting
            return office.looks

        assert run(main()) == 20

    def test_what_another_thread_does_before_it_has_registered_is_seen(self) -> None:
        class Overtaken(Record):
            def register(self, index: int) -> asyncio.Future[None]:
                self.settle(index, index + 1, DELIVERED)
                return super().register(index)

        class Read(QueuedRecord):
            def register(self, index: int) -> asyncio.Future[None]:
                place_one(delivery, Overtaken(AlwaysRunning()), 3)
                return super().register(index)

        delivery = Delivery("id-1", b"{}", Read(AlwaysRunning()))
        assert run(wait_for(delivery)).status is Status.DELIVERED

    def test_without_anything_to_wake_it_the_loop_says_so(self) -> None:
        (delivery,), _ = placed()
        with pytest.raises(Deadlock):
            run(wait_for(delivery))


@pytest.mark.parametrize("there", [0, 40])
def test_no_message_is_lost_on_its_way_whatever_memory_is_refused(there: int) -> None:
    memory = pytest.importorskip("_testcapi")
    refusals = 0
    for number in range(20):
        messages = [pending(f"id-{index}")[0] for index in range(300)]
        source, target = deque(messages[there:]), deque(messages[:there])
        try:
            memory.set_nomemory(number, number + 1)
            move(messages[there : there + 200], source, target)
        except MemoryError:
            refusals += 1
        finally:
            memory.remove_mem_hooks()
        assert [*target, *source] == messages
    assert refusals


class TestRecord:
    @given(st.lists(st.integers(1, 20), min_size=1, max_size=15), st.randoms())
    def test_parts_may_be_settled_in_any_order(self, lengths: list[int], random) -> None:
        edges = [sum(lengths[:end]) for end in range(len(lengths) + 1)]
        parts = list(pairwise(edges))
        results = {part: BatchResult(Status.FAILED, f"part {part}") for part in parts}
        random.shuffle(parts)
        record, settled = Record(AlwaysRunning()), set()
        for start, stop in parts:
            record.settle(start, stop, results[start, stop])
            settled.update(range(start, stop))
            for index in range(edges[-1] + 1):
                part = next((part for part in parts if part[0] <= index < part[1]), None)
                expected = results[part] if part is not None and index in settled else None
                assert record.result(index) == expected

    def test_only_waits_for_these_messages_are_woken(self) -> None:
        async def main() -> None:
            deliveries, record = placed(300)
            waiting = [asyncio.create_task(wait_for(delivery)) for delivery in deliveries]
            await turns()
            for index in range(300):
                record.settle(index, index + 1, REFUSED)
                await turns(2)
            await asyncio.gather(*waiting)
            # One look each. All woken by each, there would be 45,000.
            assert isinstance(record.host, AlwaysRunning)
            assert record.host.looks == 300

        run(main())

    def test_what_an_exception_kept_from_being_woken_is_woken_later(self) -> None:
        async def main() -> None:
            deliveries, record = placed(3)
            waits = [asyncio.create_task(wait_for(delivery)) for delivery in deliveries]
            await turns()
            record._results = [(0, 2, REFUSED)]
            await turns()
            assert not any(wait.done() for wait in waits)
            record.wake_settled()
            await turns()
            assert [wait.done() for wait in waits] == [True, True, False]
            waits[2].cancel()

        run(main())

    def test_nothing_is_kept_of_waits_that_ended(self) -> None:
        async def main() -> None:
            record, queued = Record(AlwaysRunning()), QueuedRecord(AlwaysRunning())
            for registry in (record, queued):
                waiter = registry.register(0)
                registry.forget(waiter)
                registry.forget(waiter)
            record.settle(0, 1, DELIVERED)
            queued.moved.notify()
            await turns()
            assert not waiter.done()

        run(main())


class TestSharedRecord:
    """Of a message whose id another one had before."""

    @staticmethod
    def shared(first: Delivery) -> Delivery:
        second = Delivery("id-1", b"{}", QueuedRecord(AlwaysRunning()))
        place_all([second], SharedRecord(AlwaysRunning(), first))
        return second

    def test_it_ends_as_the_first_one_does(self) -> None:
        first, _ = pending()
        second = self.shared(first)
        third = self.shared(second)
        assert second.outcome is None
        record = Record(AlwaysRunning())
        place_one(first, record, 5)
        record.settle(5, 6, REFUSED)
        assert first.outcome == second.outcome == third.outcome
        assert second.outcome is not None

    def test_waits_for_it_are_woken_wherever_the_first_one_is(self) -> None:
        async def main() -> None:
            first, queued = pending()
            second = self.shared(first)
            waiting = asyncio.create_task(wait_for(second))
            await turns()
            record = Record(AlwaysRunning())
            place_all([first], record)
            queued.moved.notify()
            await turns()
            assert not waiting.done()
            record.settle(0, 1, DELIVERED)
            assert (await waiting).status is Status.DELIVERED

        run(main())

    def test_nothing_is_kept_of_a_wait_that_was_cancelled(self) -> None:
        async def main() -> None:
            (first,), record = placed()
            second = self.shared(first)
            waiting = asyncio.create_task(wait_for(second))
            await turns()
            waiting.cancel()
            await turns()
            assert not record._waiters

        run(main())
