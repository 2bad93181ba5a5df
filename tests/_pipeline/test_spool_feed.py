"""The queue as a window on a spool: what it does on the client's loop, and at the close."""

import asyncio
import math
from collections import deque
from typing import Any

import pytest

from segment_async import Client, Delivery, Response, SpoolUnavailable, TransportError
from segment_async._outcome import BatchResult
from segment_async.spool._protocol import SpoolStatistics, StoredMessage, Window
from tests.support.memory_spool import ScriptedDisk, SpoolStore
from tests.support.scripted_transport import ScriptedTransport, Slow
from tests.support.slow_spool import SlowSpool
from tests.support.token_server import TokenServer, oauth
from tests.support.virtual_clock import run


def test_a_close_that_is_cut_off_closes_the_spool() -> None:
    """Else no other spool of this process could send what it keeps."""

    class Stalled(SlowSpool):
        closes = 0

        async def settle(self, keys: Any, result: BatchResult, answer: str = "") -> None:
            await asyncio.get_running_loop().create_future()

        async def aclose(self) -> None:
            self.closes += 1

    async def main() -> None:
        spool = Stalled()
        client = Client("key", spool=spool, transport=ScriptedTransport(), close_timeout=1)
        call = asyncio.create_task(client.track("user-1", "Order Completed"))
        await asyncio.sleep(0.01)
        spool.answer(0, held=True)
        await (await call)
        await client.aclose()
        await asyncio.sleep(0.01)
        assert spool.closes == 1

    run(main())


def test_a_message_for_which_memory_is_refused_is_read_from_the_spool_again() -> None:
    class Refusing(deque[Delivery]):
        refusals = 1

        def append(self, delivery: Delivery, /) -> None:
            if self.refusals:
                self.refusals -= 1
                raise MemoryError
            super().append(delivery)

    async def main() -> None:
        spool, transport = SlowSpool(), ScriptedTransport()
        spool.windows.put_nowait(Window([StoredMessage(1, "left", b'{"type":"track","messageId":"left"}', 0)]))
        async with Client("key", spool=spool, transport=transport, close_timeout=1) as client:
            queue = client._owner.pipeline.queue
            queue.ready = queue.order._ready = Refusing()
            assert await client.flush(timeout=10) == 0
            await asyncio.sleep(10)
            assert transport.taken == ["left"]
            counters = client.statistics()
            assert (counters.accepted, counters.delivered, counters.pending) == (1, 1, 0)

    run(main())


def _no_answer() -> ScriptedTransport:
    return ScriptedTransport(lambda _: TransportError("no connection", maybe_sent=False))


@pytest.mark.parametrize("size", [2, 5, 50, 300])
def test_many_calls_at_once_in_an_outage_leave_memory_for_the_ones_after_them(size: int) -> None:
    """What waits on disk is not read back into all of it: the disk has room, and later calls only need to be stored."""

    async def main() -> None:
        store = SpoolStore()
        client = Client("key", spool=store.open(), transport=_no_answer(), max_queue_size=size)
        async with client:
            # From now on a read waits for what comes.
            await client.flush()
            await asyncio.gather(*(client.track("user-1", "Order Completed") for _ in range(size)))
            await asyncio.sleep(2)
            for _ in range(5):
                delivery = await client.track("user-1", "Order Completed")
                assert delivery.outcome is None
                await asyncio.sleep(0.5)
            statistics = client.statistics()
            assert (statistics.pending, statistics.dropped) == (size + 5, 0)

    run(main())


@pytest.mark.parametrize("max_bytes", [10_000, 60_000, 200_000])
def test_one_message_that_never_goes_through_holds_up_no_others_on_disk(max_bytes: int) -> None:
    async def main() -> None:
        store = SpoolStore()
        transport = ScriptedTransport(lambda request: Response(503) if "poison" in request.ids else None)
        client = Client("key", spool=store.open(), transport=transport, max_queue_bytes=max_bytes, close_timeout=0)
        async with client:
            await client.track("user-1", "Order Completed", message_id="poison")
            for _ in range(100):
                await client.track("user-1", "Order Completed")
            await asyncio.sleep(600)
            assert client.statistics().delivered == 100

    run(main())


@pytest.mark.parametrize(("capacity", "most"), [(2**30, 25_000), (200_000, 10_000)])
def test_a_spool_that_makes_room_has_a_share_of_memory_within_both_bounds(capacity: int, most: int) -> None:
    """Half of the queue's, and a tenth of its own. A read that waits for what comes asks for half of the share."""

    class Sized(SlowSpool):
        asked = 0

        async def read(self, max_count: int, max_bytes: int) -> Window:
            self.asked = max(self.asked, max_bytes)
            return await super().read(max_count, max_bytes)

        def statistics(self) -> SpoolStatistics:
            return SpoolStatistics(capacity=capacity)

    async def main() -> None:
        spool = Sized()
        options: dict[str, Any] = {"overflow": "drop_oldest", "max_queue_bytes": 100_000, "close_timeout": 0}
        async with Client("key", spool=spool, transport=ScriptedTransport(), **options) as client:
            await client.flush(timeout=1)
            assert spool.asked == most

    run(main())


# An engine whose own task was cancelled raises the last one.
FAULTS = (SpoolUnavailable("the disk refuses"), OSError("a bug of the engine's"), asyncio.CancelledError())


class Refusing(SlowSpool):
    def __init__(self, refusals: float, fault: BaseException | None = None) -> None:
        super().__init__()
        self.refusals = refusals
        self.fault = fault or SpoolUnavailable("the folder cannot be read")

    async def read(self, max_count: int, max_bytes: int) -> Window:
        if self.refusals > 0:
            self.refusals -= 1
            raise self.fault
        return await super().read(max_count, max_bytes)


@pytest.mark.parametrize("refusals", [1, 3])
def test_a_flush_waits_for_what_is_left_although_it_cannot_be_read_at_once(refusals: int) -> None:
    async def main() -> None:
        spool, transport = Refusing(refusals), ScriptedTransport()
        spool.windows.put_nowait(Window([StoredMessage(1, "left", b'{"type":"track","messageId":"left"}', 0)]))
        async with Client("key", spool=spool, transport=transport) as client:
            assert await client.flush(timeout=60) == 0
            assert client.statistics().delivered == 1

    run(main())


@pytest.mark.parametrize("fault", FAULTS)
def test_a_flush_does_not_wait_for_a_spool_that_cannot_be_opened(fault: BaseException) -> None:
    """None of its messages is there. Once the spool can be opened, what earlier processes left is sent."""

    async def main() -> None:
        spool, transport = Refusing(math.inf, fault), ScriptedTransport()
        async with Client("key", spool=spool, transport=transport) as client:
            async with asyncio.timeout(60):
                assert await client.flush() == 0
            spool.windows.put_nowait(Window([StoredMessage(1, "left", b'{"type":"track","messageId":"left"}', 0)]))
            spool.refusals = 0
            await asyncio.sleep(1)
            assert await client.flush() == 0
            assert client.statistics().delivered == 1

    run(main())


def test_a_flush_waits_for_its_messages_although_others_are_adopted_and_read_first() -> None:
    """Those that a process left which ended meanwhile; they are sent without waiting for company as well."""

    class Adopting(SlowSpool):
        recovered = 0

        def statistics(self) -> SpoolStatistics:
            return SpoolStatistics(recovered=self.recovered)

    async def main() -> None:
        spool, transport, loop = Adopting(), ScriptedTransport(), asyncio.get_running_loop()
        async with Client("key", spool=spool, transport=transport, flush_interval=60) as client:
            await client.flush()
            delivery = client.nowait.track("user-1", "Order Completed", message_id="own")
            body = spool.groups[0][0][0].body
            spool.answer(0)
            flush = asyncio.create_task(client.flush())
            await asyncio.sleep(0.01)
            spool.recovered = 2
            spool.windows.put_nowait(Window([StoredMessage(number, f"left-{number}", body) for number in (2, 3)]))
            await asyncio.sleep(0.01)
            assert not flush.done()
            spool.windows.put_nowait(Window([StoredMessage(1, "own", body)]))
            assert await flush == 0
            assert delivery.outcome is not None
            assert client.statistics().delivered == 3
            assert loop.time() < 1

    run(main())


def test_a_flush_that_only_waits_for_the_disk_does_not_count_what_is_adopted_then() -> None:
    """It has no time limit, and returns 0."""

    class Adopting(SlowSpool):
        recovered = 0

        def __init__(self) -> None:
            super().__init__()
            self.records = asyncio.Event()

        async def settle(self, keys: Any, result: BatchResult, answer: str = "") -> None:
            await self.records.wait()

        def statistics(self) -> SpoolStatistics:
            return SpoolStatistics(recovered=self.recovered)

    async def main() -> None:
        spool, transport = Adopting(), ScriptedTransport([Slow(0), Slow(5)])
        async with Client("key", spool=spool, transport=transport) as client:
            await client.flush()
            delivery = client.nowait.track("user-1", "Order Completed", message_id="own")
            body = spool.groups[0][0][0].body
            spool.answer(0, held=True)
            flush = asyncio.create_task(client.flush())
            await delivery
            spool.recovered = 1
            spool.windows.put_nowait(Window([StoredMessage(2, "left", body)]))
            await asyncio.sleep(0.01)
            spool.records.set()
            assert await flush == 0
            assert client.statistics().delivered == 1

    run(main())


@pytest.mark.parametrize("max_queue_size", [2, 10_000])
def test_no_flush_waits_for_what_a_close_has_kept(max_queue_size: int) -> None:
    async def main() -> None:
        store, loop = SpoolStore(), asyncio.get_running_loop()
        down = ScriptedTransport(lambda _: TransportError("down", maybe_sent=False))
        client = Client(
            "key", spool=store.open(), transport=down, max_queue_size=max_queue_size, flush_at=1, close_timeout=1
        )
        async with client:
            for _ in range(10):
                await client.track("user-1", "Order Completed")
            flush = asyncio.create_task(client.flush())
            await asyncio.sleep(1)
        closed_at = loop.time()
        async with asyncio.timeout(10):
            assert (await flush, await client.flush()) == (0, 0)
        assert (loop.time(), client.statistics().pending) == (closed_at, 10)

    run(main())


def test_a_flush_of_a_client_that_was_closed_before_anything_was_read_returns() -> None:
    async def main() -> None:
        client = Client("key", spool=SpoolStore().open(), transport=ScriptedTransport())
        await client.aclose()
        async with asyncio.timeout(10):
            assert await client.flush() == 0

    run(main())


def test_a_request_that_is_not_made_because_a_hold_has_ended_counts_as_no_attempt() -> None:
    """The rest of the batch goes out for the first time after that, and says so."""

    class Taken(SlowSpool):
        async def sending(self, keys: Any, attempt: int) -> list[int]:
            return [key for key in keys if key == 1]

    async def main() -> None:
        spool, transport = Taken(shared=True), ScriptedTransport()
        left = [StoredMessage(key, f"id-{key}", b'{"type":"track","messageId":"id-%d"}' % key, 0) for key in (1, 2)]
        spool.windows.put_nowait(Window(left))
        async with Client("key", spool=spool, transport=transport) as client:
            await client.flush()
            await asyncio.sleep(2)
            statistics = client.statistics()
        assert [(request.ids, request.retry_count) for request in transport.requests] == [(["id-2"], None)]
        assert (statistics.requests, statistics.retries) == (1, 0)
        assert [(keys, result.attempts) for keys, result in spool.settled] == [([2], 1)]

    run(main())


def test_a_flush_does_not_wait_for_a_spool_whose_statistics_raise() -> None:
    class Broken(SlowSpool):
        is_broken = False

        def statistics(self) -> SpoolStatistics:
            if self.is_broken:
                raise OSError("a bug of the engine's")
            return super().statistics()

    async def main() -> None:
        spool = Broken()
        async with Client("key", spool=spool, transport=ScriptedTransport()) as client:
            spool.is_broken = True
            async with asyncio.timeout(60):
                assert await client.flush() == 0

    run(main())


@pytest.mark.parametrize("fault", FAULTS)
def test_a_flush_does_not_wait_for_outcomes_that_the_spool_cannot_record(fault: BaseException) -> None:
    class Failing(SlowSpool):
        async def settle(self, keys: Any, result: BatchResult, answer: str = "") -> None:
            raise fault

    async def main() -> None:
        spool = Failing()
        spool.windows.put_nowait(Window([StoredMessage(1, "left", b'{"type":"track","messageId":"left"}', 0)]))
        async with Client("key", spool=spool, transport=ScriptedTransport(), flush_at=1) as client:
            await asyncio.sleep(1)
            assert client.statistics().delivered == 1
            async with asyncio.timeout(10):
                assert await client.flush() == 0

    run(main())


@pytest.mark.parametrize("fault", FAULTS)
def test_an_attempt_that_the_spool_cannot_note_is_made_all_the_same(fault: BaseException) -> None:
    class Failing(SlowSpool):
        async def sending(self, keys: Any, attempt: int) -> list[int]:
            raise fault

    async def main() -> None:
        spool, transport = Failing(), ScriptedTransport()
        spool.windows.put_nowait(Window([StoredMessage(1, "left", b'{"type":"track","messageId":"left"}', 0)]))
        async with Client("key", spool=spool, transport=transport) as client:
            await client.flush(timeout=10)
            await asyncio.sleep(1)
            assert client.statistics().delivered == 1

    run(main())


def test_a_client_is_closed_although_its_spool_cannot_say_what_it_has() -> None:
    class Gone(SlowSpool):
        is_gone = False

        def statistics(self) -> SpoolStatistics:
            if self.is_gone:
                raise SpoolUnavailable("the folder is gone")
            return super().statistics()

    async def main() -> None:
        spool, transport = Gone(), ScriptedTransport()
        client = Client("key", spool=spool, transport=transport)
        client.nowait.track("user-1", "Order Completed")
        await client.flush(timeout=1)
        spool.is_gone = True
        await client.aclose()
        assert transport.closed

    run(main())


def test_a_flush_waits_for_what_is_on_disk_although_later_calls_come_with_ids_that_are_there() -> None:
    """Such a message is not stored, and must not be taken for one of those that the flush waits for."""

    async def main() -> None:
        transport = ScriptedTransport(lambda _: Slow(5))
        client = Client("key", spool=SpoolStore().open(), transport=transport, max_queue_size=20, max_in_flight=1)
        async with client:
            for number in range(200):
                await client.track("user-1", "Order Completed", message_id=f"m{number}")
            flush = asyncio.create_task(client.flush())
            await asyncio.sleep(0.1)
            for _ in range(190):
                await client.track("user-1", "Order Completed", message_id="m199")
            assert await flush == 0
            assert client.statistics().delivered == 200

    run(main())


def test_a_flush_waits_for_messages_that_are_not_stored_yet_and_not_for_those_that_never_are() -> None:
    async def main() -> None:
        spool, transport = SlowSpool(), ScriptedTransport()
        async with Client("key", spool=spool, transport=transport) as client:
            client.nowait.track("user-1", "Order Completed")
            client.nowait.track("user-1", "Order Completed")
            flush = asyncio.create_task(client.flush())
            await asyncio.sleep(0.1)
            assert await client.flush(timeout=0) == 2
            spool.groups[0][1](SpoolUnavailable("the disk refuses"))  # type: ignore[arg-type]
            await asyncio.sleep(0.1)
            assert not flush.done()
            assert await client.flush(timeout=0) == 1
            spool.answer(1, held=True)
            assert await flush == 0
            assert (client.statistics().dropped, client.statistics().delivered) == (1, 1)

    run(main())


def test_a_spool_that_says_at_once_that_there_is_nothing_does_not_hold_the_loop() -> None:
    class Hasty(SlowSpool):
        reads = 0

        async def read(self, max_count: int, max_bytes: int) -> Window:
            self.reads += 1
            if self.reads > 1_000:
                raise SpoolUnavailable("it was read a thousand times")
            return Window(())

    async def main() -> None:
        spool, transport = Hasty(), ScriptedTransport()
        async with Client("key", spool=spool, transport=transport) as client:
            client.nowait.track("user-1", "Order Completed")
            spool.answer(0, held=True)
            assert await client.flush() == 0
            await asyncio.sleep(10)
        assert 10 < spool.reads < 30

    run(main())


def test_messages_wait_for_company_after_a_flush_whose_own_were_never_stored() -> None:
    async def main() -> None:
        disk, transport = ScriptedDisk(refuses=True), ScriptedTransport()
        client = Client("key", spool=SpoolStore(disk).open(), transport=transport, flush_interval=10)
        async with client:
            for _ in range(50):
                client.nowait.track("user-1", "Order Completed")
            assert await client.flush() == 0
            disk.refuses = False
            for _ in range(20):
                await client.track("user-1", "Order Completed")
                await asyncio.sleep(0.1)
            assert len(transport.requests) == 0
        assert len(transport.requests) == 1

    run(main())


def test_two_loops_that_work_for_an_instant_record_each_outcome_and_read_each_message_once() -> None:
    """One that stood still may run again just as another one takes the client over."""

    class TwiceAtOnce(SlowSpool):
        """What it is asked for the first time, the other loop's task does as well, and is faster."""

        async def settle(self, keys: Any, result: BatchResult, answer: str = "") -> None:
            first = not self.settled
            await super().settle(keys, result, answer)
            if first:
                # The other outcomes come meanwhile.
                await asyncio.sleep(1)
                assert client._owner.pipeline.feed is not None
                await client._owner.pipeline.feed.recorder._record_one()

        def statistics(self) -> SpoolStatistics:
            if self.twice_read:
                self.twice_read = False
                assert client._owner.pipeline.feed is not None
                client._owner.pipeline.feed._load_rest()
            return super().statistics()

        twice_read = False

    async def main() -> None:
        nonlocal client
        spool = TwiceAtOnce()
        answers = [Response(200), Response(400), Response(200)]
        client = Client("key", spool=spool, transport=ScriptedTransport(answers), flush_at=1, close_timeout=1)
        async with client:
            await client.flush()
            spool.twice_read = True
            for key in (1, 2, 3):
                spool.windows.put_nowait(Window([StoredMessage(key, f"m{key}", b"{}")]))
                await asyncio.sleep(0.1)
            await asyncio.sleep(5)
            assert client.statistics().pending == 0
            assert {key for keys, _ in spool.settled for key in keys} == {1, 2, 3}
            assert client.statistics().accepted == 3

    client: Client = None  # type: ignore[assignment]
    run(main())


def test_a_token_that_came_while_the_spool_noted_an_attempt_is_not_renewed() -> None:
    """The request goes out with the one before, which the server refuses: that says nothing of the new one."""

    class Watched(SlowSpool):
        def __init__(self) -> None:
            super().__init__()
            self.asked, self.may_go_on = asyncio.Event(), asyncio.Event()
            self.ended: asyncio.Queue[int] = asyncio.Queue()

        async def sending(self, keys: Any, attempt: int) -> tuple[()]:
            if keys[0] == 2 and attempt == 1:
                self.asked.set()
                await self.may_go_on.wait()
            return ()

        async def settle(self, keys: Any, result: BatchResult, answer: str = "") -> None:
            self.ended.put_nowait(keys[0])

        def give(self, key: int) -> None:
            body = b'{"type":"track","messageId":"id-%d"}' % key
            self.windows.put_nowait(Window([StoredMessage(key, f"id-{key}", body, 0)]))

    async def main() -> None:
        async with TokenServer() as server:
            credentials = oauth(auth_server=server.url)
            spool = Watched()
            transport = ScriptedTransport(
                lambda request: Response(200 if server.accepts(request.arrival.headers["Authorization"]) else 401)
            )
            async with Client("key", oauth=credentials, spool=spool, transport=transport, flush_at=1):
                spool.give(1)
                assert await spool.ended.get() == 1
                spool.give(2)
                await spool.asked.wait()
                server.revoke()
                spool.give(3)
                assert await spool.ended.get() == 3
                spool.may_go_on.set()
                assert await spool.ended.get() == 2
            assert server.refreshes == 2

    asyncio.run(main())
