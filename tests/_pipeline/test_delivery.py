"""Deliveries and what they become: written once for many, read by whoever looks, from any loop, any number of times."""

import asyncio
import pickle
import threading
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segment_async import Delivery, DeliveryError, Outcome, Status
from segment_async._outcome import BatchResult
from segment_async._pipeline.delivery import History, Record, Signal, Unread, shorter, until, wake
from tests.support.virtual_clock import Deadlock, run, running_clock

DELIVERED = BatchResult(Status.DELIVERED, None, 200, 1)
REFUSED = BatchResult(Status.FAILED, "refused", 400, 3, possibly_delivered=True)


class Office:
    """The host, whose owner may be another loop; counts how often it is asked to look."""

    def __init__(self, watch: float | None = None) -> None:
        self.watch = watch
        self.looks = 0

    def ensure_served(self) -> float | None:
        self.looks += 1
        return self.watch


def pending(name: str = "id-1") -> tuple[Delivery, Unread]:
    unread = Unread(Office())
    return Delivery(name, b"{}", unread), unread


def placed(count: int = 1) -> tuple[list[Delivery], Record]:
    """Deliveries that lie in one batch."""
    unread, record = Unread(Office()), Record(Office())
    deliveries = [Delivery(f"id-{index}", b"{}", unread) for index in range(count)]
    for index, delivery in enumerate(deliveries):
        delivery.place(record, index)
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

    @pytest.mark.parametrize("status", [Status.DELIVERED, Status.KEPT])
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
        assert history.fate(Status.FAILED, "gave_up") == BatchResult(Status.FAILED, "gave_up", 503, 3, True)


class TestDelivery:
    def test_pending(self) -> None:
        delivery, _ = pending()
        assert delivery.outcome is None
        assert delivery.body == b"{}"
        assert repr(delivery) == "<Delivery id-1 pending>"

    def test_in_a_batch_its_bytes_are_the_batch_s(self) -> None:
        (delivery,), _ = placed()
        assert delivery.outcome is None
        assert delivery.body == b""

    def test_back_from_the_disk(self) -> None:
        (delivery,), _ = placed()
        delivery.load(b'{"a":1}', Unread(Office()))
        assert delivery.body == b'{"a":1}'
        assert delivery.outcome is None

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
            delivery, unread = pending()
            waiting = asyncio.create_task(wait_for(delivery))
            await turns()
            record = Record(Office())
            delivery.place(record, 0)
            unread.signal.notify()
            await turns()
            assert not waiting.done()
            record.settle(0, 1, DELIVERED)
            assert (await waiting).status is Status.DELIVERED

        run(main())

    def test_read_by_others_it_waits_on(self) -> None:
        async def main() -> None:
            delivery, unread = pending()
            waiting = asyncio.create_task(wait_for(delivery))
            await turns()
            unread.signal.notify()
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

    def test_a_loop_that_ended_while_it_waited_harms_nobody(self) -> None:
        (delivery,), record = placed()

        async def leave() -> None:
            waiting.append(asyncio.ensure_future(wait_for(delivery)))
            await turns()

        waiting: list[asyncio.Future[Outcome]] = []
        asyncio.run(leave())
        record.settle(0, 1, DELIVERED)
        assert asyncio.run(wait_for(delivery)).status is Status.DELIVERED

    def test_where_another_loop_serves_it_looks_again_from_time_to_time(self) -> None:
        async def main() -> int:
            office = Office(watch=0.05)
            record = Record(office)
            delivery = Delivery("id-1", b"", record)
            waiting = asyncio.create_task(wait_for(delivery))
            await asyncio.sleep(0.99)
            record.settle(0, 1, DELIVERED)
            await waiting
            return office.looks

        assert run(main()) == 20

    def test_what_another_thread_does_before_it_stands_in_line_is_seen(self) -> None:
        class Overtaken(Record):
            def register(self, index: int) -> asyncio.Future[None]:
                self.settle(index, index + 1, DELIVERED)
                return super().register(index)

        class Read(Unread):
            def register(self, index: int) -> asyncio.Future[None]:
                delivery.place(Overtaken(Office()), 3)
                return super().register(index)

        delivery = Delivery("id-1", b"{}", Read(Office()))
        assert run(wait_for(delivery)).status is Status.DELIVERED

    def test_without_anything_to_wake_it_the_loop_says_so(self) -> None:
        (delivery,), _ = placed()
        with pytest.raises(Deadlock):
            run(wait_for(delivery))


class TestRecord:
    @given(st.lists(st.integers(1, 20), min_size=1, max_size=15), st.randoms())
    def test_parts_may_be_settled_in_any_order(self, lengths: list[int], chance) -> None:
        edges = [sum(lengths[:end]) for end in range(len(lengths) + 1)]
        parts = list(pairwise(edges))
        fates = {part: BatchResult(Status.FAILED, f"part {part}") for part in parts}
        chance.shuffle(parts)
        record, settled = Record(Office()), set()
        for start, stop in parts:
            record.settle(start, stop, fates[start, stop])
            settled.update(range(start, stop))
            for index in range(edges[-1] + 1):
                part = next((part for part in parts if part[0] <= index < part[1]), None)
                expected = fates[part] if part is not None and index in settled else None
                assert record.fate(index) == expected

    def test_only_those_are_woken_whose_message_it_is(self) -> None:
        async def main() -> None:
            deliveries, record = placed(300)
            waiting = [asyncio.create_task(wait_for(delivery)) for delivery in deliveries]
            await turns()
            for index in range(300):
                record.settle(index, index + 1, REFUSED)
                await turns(2)
            await asyncio.gather(*waiting)
            # One look each. All woken by each, there would be 45,000.
            assert isinstance(record.host, Office)
            assert record.host.looks == 300

        run(main())

    def test_nothing_is_kept_of_those_who_left(self) -> None:
        async def main() -> None:
            record, unread = Record(Office()), Unread(Office())
            for registry in (record, unread):
                waiter = registry.register(0)
                registry.forget(waiter)
                registry.forget(waiter)
            record.settle(0, 1, DELIVERED)
            unread.signal.notify()
            await turns()
            assert not waiter.done()

        run(main())


class TestSignal:
    def test_it_wakes_all_and_remembers_nothing(self) -> None:
        async def main() -> None:
            signal = Signal()
            waiters = [signal.register() for _ in range(3)]
            signal.notify()
            assert all(waiter.done() for waiter in waiters)
            late = signal.register()
            await turns()
            assert not late.done()

        run(main())

    def test_a_waiter_that_was_cancelled_is_no_harm(self) -> None:
        async def main() -> None:
            signal = Signal()
            signal.register().cancel()
            signal.notify()

        run(main())

    def test_two_threads_may_notify_at_once(self) -> None:
        async def main() -> None:
            signal = Signal()
            waiters = [signal.register() for _ in range(2_000)]
            threads = [threading.Thread(target=signal.notify) for _ in range(4)]
            for thread in threads:
                thread.start()
            await asyncio.wait(waiters, timeout=10)
            for thread in threads:
                thread.join()
            assert all(waiter.done() for waiter in waiters)

        asyncio.run(main())

    def test_a_future_of_a_loop_that_is_gone(self) -> None:
        async def leave() -> asyncio.Future[None]:
            return asyncio.get_running_loop().create_future()

        future = asyncio.run(leave())
        wake(future)
        assert not future.done()


class TestUntil:
    def wait(self, *, seconds: float | None = None, notify_at: float | None = None, done_at: float = 1e9) -> bool:
        async def main() -> bool:
            clock, signal = running_clock().time, Signal()
            if notify_at is not None:
                running_clock().call_later(notify_at, signal.notify)
            return await until(
                lambda: clock() >= done_at,
                lambda: signal,
                Office(),
                lambda: None if seconds is None else seconds - clock(),
            )

        return run(main())

    def test_done_at_once(self) -> None:
        assert self.wait(done_at=0)

    def test_done_in_time(self) -> None:
        assert self.wait(notify_at=5, done_at=5, seconds=6)

    def test_out_of_time(self) -> None:
        assert not self.wait(seconds=6)

    def test_no_time_at_all(self) -> None:
        assert not self.wait(seconds=0)

    def test_notified_and_not_done(self) -> None:
        assert not self.wait(notify_at=5, seconds=6)

    def test_it_looks_again_when_its_signal_is_replaced(self) -> None:
        async def main() -> None:
            signals = [Signal(), Signal()]
            state = {"signal": 0, "done": 0}
            waiting = asyncio.create_task(
                until(lambda: bool(state["done"]), lambda: signals[state["signal"]], Office())
            )
            await turns()
            state["signal"] = 1
            signals[0].notify()
            await turns()
            state["done"] = 1
            signals[1].notify()
            assert await waiting

        run(main())

    def test_done_between_the_look_and_the_line(self) -> None:
        async def main() -> None:
            looks = iter([False, True, True])
            assert await until(lambda: next(looks), lambda: signal, Office())

        signal = Signal()
        run(main())

    @pytest.mark.parametrize(
        ("one", "other", "expected"), [(None, None, None), (1, None, 1), (None, 2, 2), (1, 2, 1), (0, 2, 0)]
    )
    def test_the_shorter_limit(self, one: float | None, other: float | None, expected: float | None) -> None:
        assert shorter(one, other) == expected
