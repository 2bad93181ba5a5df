"""What the client may use is bounded: tasks, memory, requests, retries a second, and the time that a call is held.

Virtual time, but for the memory, which is measured.
"""

import asyncio
import gc
import logging
import tracemalloc
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from segment_async import Client, Delivery, DeliveryError, QueueFull, Response, SpoolUnavailable, Status, messages
from tests.support.law import check_counters
from tests.support.memory_spool import ScriptedDisk, SpoolStore
from tests.support.scripted_transport import LATENCY, Request, ScriptedTransport, Slow, refused
from tests.support.virtual_clock import run, running_clock

MIB = 1024 * 1024


class Silent:
    """A transport that never answers."""

    async def send(self, body: bytes, headers: Mapping[str, str]) -> Response:
        await asyncio.Event().wait()
        raise AssertionError("an event that is never set was set")

    async def aclose(self) -> None:
        pass


class TestASlowHook:
    """`on_error` takes a minute, in an outage in which every call drops a message."""

    @staticmethod
    def outage(size: int, count: int) -> tuple[int, int, int]:
        """The most tasks and bytes that there were, and the messages that the hook was told of."""
        told = 0

        async def hook(error: DeliveryError, failed: list[dict[str, Any]]) -> None:
            nonlocal told
            told += len(failed)
            await asyncio.sleep(60)

        async def main() -> tuple[int, int]:
            client = Client(
                "key",
                transport=ScriptedTransport(lambda _: refused()),
                overflow="drop_newest",
                on_error=hook,
                max_queue_size=100,
                max_queue_bytes=MIB,
                close_timeout=0,
            )
            most_tasks = most_bytes = 0
            fill = "x" * size
            gc.collect()
            tracemalloc.start()
            try:
                for number in range(count):
                    await client.track("u", "E", {"n": number, "fill": fill + str(number)})
                    if number % 100 == 0:
                        await asyncio.sleep(0.001)
                        most_tasks = max(most_tasks, len(asyncio.all_tasks()))
                        most_bytes = max(most_bytes, tracemalloc.get_traced_memory()[0])
            finally:
                tracemalloc.stop()
            check_counters(client.statistics())
            assert client.statistics().dropped >= count - 200
            await client.aclose()
            return most_tasks, most_bytes

        return *run(main()), told

    def test_does_not_make_a_task_for_each_message(self) -> None:
        most_tasks, _, told = self.outage(size=10, count=5_000)
        assert most_tasks <= 200
        assert told > 0

    def test_does_not_keep_what_is_dropped(self) -> None:
        _, most_bytes, _ = self.outage(size=20_000, count=3_000)
        # 60 MB were dropped.
        assert most_bytes <= 32 * MIB


class TestADiskThatStandsStill:
    """A spool that never answers: what waits for it is bounded as the queue is, and so is the wait of a call."""

    BYTES = 100_000

    @staticmethod
    def client(overflow: Any = "wait", overflow_timeout: float | None = 1.0, **options: Any) -> Client:
        options.setdefault("max_queue_bytes", TestADiskThatStandsStill.BYTES)
        spool = SpoolStore(ScriptedDisk(stands_still=True)).open()
        return Client(
            "key",
            transport=ScriptedTransport(),
            spool=spool,
            overflow=overflow,
            overflow_timeout=overflow_timeout,
            close_timeout=0,
            **options,
        )

    @staticmethod
    def fill(client: Client, count: int = 2_000) -> list[Delivery]:
        message = {"fill": "x" * 500}
        deliveries = []
        for _ in range(count):
            try:
                deliveries.append(client.enqueue_nowait(messages.track("u", "E", message)))
            except QueueFull:
                break
        return deliveries

    @pytest.mark.parametrize("overflow", ["wait", "drop_newest", "drop_oldest", "raise"])
    @pytest.mark.parametrize("in_a_loop", [False, True], ids=["before any loop", "in a loop"])
    def test_enqueue_nowait_keeps_no_more_than_fits_into_the_queue(self, in_a_loop: bool, overflow: str) -> None:
        async def main() -> None:
            if in_a_loop:
                self.fill(client)
            counts = client.statistics()
            check_counters(counts)
            assert counts.queued_bytes <= self.BYTES
            assert counts.pending <= self.BYTES // 500
            if overflow != "raise":
                assert counts.accepted == 2_000
                assert set(counts.reasons) <= {"queue_full", "spool_unavailable"}
            await client.aclose()

        client = self.client(overflow)
        if not in_a_loop:
            self.fill(client)
        run(main())

    def test_memory_stays_bounded(self) -> None:
        async def main() -> int:
            client = self.client(max_queue_bytes=MIB)
            gc.collect()
            tracemalloc.start()
            try:
                for number in range(2_000):
                    client.enqueue_nowait(messages.track("u", "E", {"fill": "x" * 20_000 + str(number)}))
                used = tracemalloc.get_traced_memory()[0]
            finally:
                tracemalloc.stop()
            await client.aclose()
            return used

        assert run(main()) <= 8 * MIB

    @pytest.mark.parametrize(("overflow_timeout", "is_full"), [(0.0, True), (1.0, True), (3.0, True), (1.0, False)])
    def test_an_awaited_call_is_held_no_longer_than_the_queue_may_hold_it(
        self, overflow_timeout: float, is_full: bool
    ) -> None:
        async def main() -> None:
            client = self.client(overflow_timeout=overflow_timeout)
            if is_full:
                self.fill(client)
            for _ in range(3):
                began = running_clock().time()
                try:
                    async with asyncio.timeout(100):
                        await client.track("u", "E")
                except SpoolUnavailable:
                    pass
                # A disk gets a second at least: a call that is not to wait for room in the queue waits for it, too.
                assert running_clock().time() - began <= max(overflow_timeout, 1.0) + 0.1
                check_counters(client.statistics())
            await client.aclose()

        run(main())

    def test_calls_that_come_while_others_wait_are_held_no_longer(self) -> None:
        """One timer ends them all; once it has, a call is refused at once and nothing of it can be stored."""

        async def main() -> None:
            client = self.client(overflow_timeout=1.0)

            async def call(delay: float) -> tuple[bool, float]:
                await asyncio.sleep(delay)
                with pytest.raises(SpoolUnavailable) as caught:
                    await client.track("u", "E")
                return caught.value.maybe_stored, round(running_clock().time() - began, 2)

            began = running_clock().time()
            ends = await asyncio.gather(*(call(number / 10) for number in range(20)))
            assert ends == [(True, 1.0)] * 10 + [(False, number / 10) for number in range(10, 20)]
            check_counters(client.statistics())
            await client.aclose()

        run(main())

    def test_a_loop_that_stood_still_takes_no_answer_of_the_disk_for_late(self) -> None:
        async def main() -> None:
            spool = SpoolStore(ScriptedDisk(seconds=1.5)).open()
            async with Client("key", transport=ScriptedTransport(), spool=spool, overflow_timeout=1.0) as client:
                call = asyncio.create_task(client.track("u", "E"))
                await asyncio.sleep(0.5)
                running_clock().advance(30)
                assert (await (await call)).status is Status.DELIVERED

        run(main())

    def test_once_it_moves_again_everything_is_stored_and_delivered(self) -> None:
        async def main() -> None:
            disk = ScriptedDisk(stands_still=True)
            transport = ScriptedTransport()
            client = Client("key", transport=transport, spool=SpoolStore(disk).open(), max_queue_bytes=self.BYTES)
            deliveries = self.fill(client)
            await asyncio.sleep(10)
            disk.stands_still = False
            await asyncio.sleep(60)
            counts = client.statistics()
            check_counters(counts)
            assert counts.pending == 0
            assert counts.delivered == len(set(transport.taken)) > 0
            assert None not in [delivery.outcome for delivery in deliveries]
            await client.aclose()

        run(main())


class TestAServerThatRefusesEverything:
    @staticmethod
    def refusals(count: int, answer: Callable[[Request], Response | None]) -> ScriptedTransport:
        async def main() -> ScriptedTransport:
            transport = ScriptedTransport(answer)
            async with Client("key", transport=transport, close_timeout=600) as client:
                deliveries = [await client.track("u", "E", message_id=f"m{number}") for number in range(count)]
                assert await client.flush() == 0
                check_counters(client.statistics())
                reasons = {delivery.message_id: delivery.outcome for delivery in deliveries}
                assert None not in reasons.values()
                assert client.statistics().failed == count - len(transport.taken)
                assert set(client.statistics().reasons) <= {"refused"}
            return transport

        return run(main())

    def test_costs_a_few_hundred_requests(self, caplog: pytest.LogCaptureFixture) -> None:
        transport = self.refusals(10_000, lambda _: Response(400))
        assert len(transport.requests) <= 500
        alone = [request for request in transport.requests if len(request.ids) == 1]
        # Fifty are refused alone before it is taken for the server's doing.
        assert len(alone) >= 50
        warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert 1 <= len(warnings) <= 3

    def test_a_few_bad_messages_are_still_found_one_by_one(self) -> None:
        bad = {f"m{number}" for number in range(0, 2_000, 37)}
        transport = self.refusals(2_000, lambda request: Response(400) if bad & set(request.ids) else None)
        assert len(bad) > 50
        assert set(transport.taken) == {f"m{number}" for number in range(2_000)} - bad

    def test_once_it_takes_messages_again_they_are_delivered(self) -> None:
        async def main() -> None:
            transport = ScriptedTransport(lambda _: Response(400))
            async with Client("key", transport=transport) as client:
                for _ in range(1_000):
                    await client.track("u", "E")
                await client.flush()
                transport.script = ()
                deliveries = [await client.track("u", "E") for _ in range(100)]
                assert {(await delivery).status for delivery in deliveries} == {Status.DELIVERED}

        run(main())


class Ended(BaseException):
    """What a library raises that is not to be caught by accident."""


class TestRetries:
    """Whatever a transport or an observer raises, the next request comes after a back-off."""

    @staticmethod
    async def requests_in_a_minute(client: Client, transport: ScriptedTransport) -> int:
        client.enqueue_nowait(messages.track("u", "E", message_id="m"))
        await asyncio.sleep(60)
        return len(transport.requests)

    @pytest.mark.parametrize("fault", [asyncio.CancelledError, Ended, GeneratorExit], ids=lambda fault: fault.__name__)
    def test_after_a_transport_that_raises(self, fault: type[BaseException]) -> None:
        class Raising(ScriptedTransport):
            async def send(self, body: bytes, headers: Mapping[str, str]) -> Response:
                response = await super().send(body, headers)
                if running_clock().time() < 60:
                    raise fault
                return response

        async def main() -> None:
            running_clock().set_exception_handler(lambda _loop, _context: None)
            transport = Raising()
            client = Client("key", transport=transport, close_timeout=0)
            assert 2 <= await self.requests_in_a_minute(client, transport) <= 20
            await asyncio.sleep(120)
            counts = client.statistics()
            check_counters(counts)
            assert (counts.pending, counts.delivered) == (0, 1)
            await client.aclose()

        run(main())

    @pytest.mark.parametrize("fault", [asyncio.CancelledError, Ended], ids=lambda fault: fault.__name__)
    def test_after_an_observer_that_raises(self, fault: type[BaseException]) -> None:
        async def main() -> None:
            running_clock().set_exception_handler(lambda _loop, _context: None)
            transport = ScriptedTransport()
            client = Client("key", transport=transport, close_timeout=0)

            def observe(_request: object) -> None:
                raise fault

            client.observe(observe)
            assert await self.requests_in_a_minute(client, transport) <= 20
            check_counters(client.statistics())
            await client.aclose()

        run(main())


class TestDropOldest:
    """Under ``overflow="drop_oldest"`` at most a tenth of the bound goes at a time, and the newest nine tenths stay."""

    SIZE = 50

    @pytest.mark.parametrize("flush_at", [1, 5, 20, 50, 100])
    @pytest.mark.parametrize("max_in_flight", [1, 4])
    def test_keeps_the_newest_nine_tenths(self, max_in_flight: int, flush_at: int) -> None:
        async def main() -> None:
            client = Client(
                "key",
                transport=Silent(),
                overflow="drop_oldest",
                max_queue_size=self.SIZE,
                max_in_flight=max_in_flight,
                flush_at=flush_at,
                timeout=10_000,
                close_timeout=0,
            )
            deliveries: list[Delivery] = []
            for number in range(6 * self.SIZE):
                before = client.statistics().dropped
                deliveries.append(await client.track("u", "E", {"n": number}))
                counts = client.statistics()
                check_counters(counts)
                assert counts.dropped - before <= self.SIZE // 10
                assert counts.pending <= self.SIZE
                # What is in flight cannot be dropped, and takes its room.
                kept = max(1, self.SIZE - self.SIZE // 10 - counts.in_flight)
                if counts.in_flight < self.SIZE:
                    assert {delivery.outcome for delivery in deliveries[-kept:]} == {None}
                if number % 7 == 0:
                    await asyncio.sleep(LATENCY)
            await client.aclose()

        run(main())

    def test_by_bytes(self) -> None:
        async def main() -> None:
            client = Client(
                "key",
                transport=ScriptedTransport(lambda _: Slow(10_000)),
                overflow="drop_oldest",
                max_queue_bytes=100_000,
                max_in_flight=1,
                flush_at=5,
                close_timeout=0,
            )
            for number in range(500):
                before = client.statistics()
                await client.track("u", "E", {"n": number, "fill": "x" * 800})
                after = client.statistics()
                check_counters(after)
                # About a thousand bytes each: a tenth, and the one that makes the room just short.
                assert after.dropped - before.dropped <= 11
                assert after.queued_bytes <= 100_000
                if number % 7 == 0:
                    await asyncio.sleep(LATENCY)
            await client.aclose()

        run(main())
