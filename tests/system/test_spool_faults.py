"""The client and its spool in trouble: full disks, processes that are killed, and the same id again.

Real files where the fault is one of files, else the model in memory and the virtual clock.
"""

import asyncio
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from segment_async import Client, Delivery, Outcome, Response, RetryPolicy, SpoolUnavailable, Status, TransportError
from segment_async.spool import SQLiteSpool
from segment_async.testing import RecordingTransport
from tests.spool.conftest import Disk
from tests.support.law import check_counters
from tests.support.memory_spool import ScriptedDisk, SpoolStore
from tests.support.programs import PROGRAMS, finished
from tests.support.scripted_transport import ScriptedTransport, refused
from tests.support.virtual_clock import run

OK = Response(200, {"Content-Type": "application/json"}, b'{"success":true}')
# Virtual seconds that a message needs at most, without a fault.
SOON = 30.0


class Network:
    """Refuses connections until it `is_up`."""

    is_up = False

    def __call__(self, _batch: object) -> Response:
        if not self.is_up:
            raise TransportError("no connection", maybe_sent=False)
        return OK


class TestADiskThatWasFullOnce:
    @pytest.mark.parametrize("size", [200, 5_000, 30_000])
    def test_takes_messages_again_as_soon_as_there_is_room(self, disk: Disk, size: int) -> None:
        async def main() -> None:
            network = Network()
            path = disk.folder / "spool" / "analytics.db"
            client = Client("key", transport=RecordingTransport(network), spool=path, close_timeout=0)
            taken = 0
            # Large ones fill the disk sooner; what comes afterwards has the size that is tried.
            with pytest.raises(SpoolUnavailable):
                while True:
                    await client.track("user-1", "Filled", {"text": "x" * 30_000})
                    taken += 1
            network.is_up = True
            assert await client.flush(timeout=60) == 0
            for _ in range(20):
                await client.track("user-1", "Taken", {"text": "x" * size})
            assert await client.flush(timeout=30) == 0
            assert client.statistics().delivered == taken + 20
            check_counters(client.statistics())
            await client.aclose()

        asyncio.run(main())


class TestKilledAfterTheCallReturned:
    @pytest.mark.parametrize("beside", ["a_second_client", "an_inspector"])
    def test_nothing_is_lost_whatever_else_works_with_the_spool(self, tmp_path: Path, beside: str) -> None:
        path = tmp_path / "spool" / "analytics.db"

        async def main() -> None:
            said = await finished(
                PROGRAMS / "shares_a_spool.py", beside, host="http://127.0.0.1:9", SPOOL=str(path), PYTHONPATH="."
            )
            assert said.code == -signal.SIGKILL, said.err
            acknowledged = set(said.out.split())
            assert len(acknowledged) >= 30
            transport = RecordingTransport()
            # The file of the second client is adopted at one of the checks for what dead processes left.
            spool = SQLiteSpool(path, check_interval=0.01)
            async with Client("KEY", transport=transport, spool=spool) as client, asyncio.timeout(30):
                while len(transport.messages) < len(acknowledged):
                    assert await client.flush() == 0
                    await asyncio.sleep(0)
            assert acknowledged <= {message["messageId"] for message in transport.messages}

        asyncio.run(main())


class TestAFlushMeanwhile:
    """Messages that leave before they are read are not waited for."""

    def flushes(self, offer: Callable[[Client, ScriptedDisk], Coroutine[Any, Any, None]], **options: Any) -> None:
        async def main() -> None:
            disk = ScriptedDisk(seconds=1.0)
            transport = ScriptedTransport()
            async with Client("key", transport=transport, spool=SpoolStore(disk).open(), **options) as client:
                await client.track("u", "E", message_id="first")
                assert await client.flush(timeout=SOON) == 0
                await offer(client, disk)
                async with asyncio.timeout(SOON):
                    assert await client.flush() == 0
                check_counters(client.statistics())
                assert client.statistics().pending == 0

        run(main())

    def test_what_the_disk_refuses(self) -> None:
        async def offer(client: Client, disk: ScriptedDisk) -> None:
            disk.refuses = True
            for _ in range(3):
                client.nowait.track("u", "E")

        self.flushes(offer)

    def test_what_finds_the_disk_full(self) -> None:
        async def offer(client: Client, disk: ScriptedDisk) -> None:
            disk.is_full = True
            client.nowait.track("u", "E")

        self.flushes(offer)

    def test_a_call_that_is_refused(self) -> None:
        async def offer(client: Client, disk: ScriptedDisk) -> None:
            disk.refuses = True
            call = asyncio.create_task(client.track("u", "E"))
            await asyncio.sleep(0.1)
            left = asyncio.create_task(client.flush())
            with pytest.raises(SpoolUnavailable):
                await call
            async with asyncio.timeout(SOON):
                assert await left == 0

        self.flushes(offer)

    def test_the_same_id_again(self) -> None:
        async def offer(client: Client, disk: ScriptedDisk) -> None:
            await client.track("u", "E", message_id="twice")
            client.nowait.track("u", "E")
            again = asyncio.create_task(client.track("u", "E", message_id="twice"))
            await asyncio.sleep(0.1)
            async with asyncio.timeout(SOON):
                assert await client.flush() == 0
                await again

        self.flushes(offer, flush_interval=5)


Body = Callable[[Client, ScriptedTransport, SpoolStore], Coroutine[Any, Any, None]]


def with_spool(body: Body, *script: Any, **options: Any) -> None:
    async def main() -> None:
        store, transport = SpoolStore(ScriptedDisk(seconds=0.01)), ScriptedTransport(script)
        client = Client("key", transport=transport, spool=store.open(), close_timeout=0, **options)
        await body(client, transport, store)
        check_counters(client.statistics())
        await client.aclose()

    run(main())


async def settled(delivery: Delivery) -> Outcome:
    async with asyncio.timeout(SOON):
        return await delivery


class TestTheSameIdAgain:
    """While a message is pending, another one with its id is the same message and shares its outcome."""

    def test_while_the_first_waits_for_its_batch(self) -> None:
        async def body(client: Client, transport: ScriptedTransport, store: SpoolStore) -> None:
            first = await client.track("u", "E", message_id="m")
            again = await client.track("u", "E", message_id="m")
            assert (await settled(first)) == (await settled(again))
            assert (client.statistics().accepted, transport.taken) == (1, ["m"])

        with_spool(body)

    def test_when_both_calls_are_made_at_once(self) -> None:
        async def body(client: Client, transport: ScriptedTransport, store: SpoolStore) -> None:
            calls = [client.track("u", "E", message_id="m") for _ in range(5)]
            deliveries = await asyncio.gather(*calls)
            outcomes = {await settled(delivery) for delivery in deliveries}
            assert [outcome.status for outcome in outcomes] == [Status.DELIVERED]
            assert (client.statistics().accepted, transport.taken) == (1, ["m"])

        with_spool(body)

    def test_when_nothing_is_kept_of_the_first_call(self) -> None:
        async def body(client: Client, transport: ScriptedTransport, store: SpoolStore) -> None:
            await client.track("u", "E", message_id="m")
            await asyncio.sleep(1.0)
            again = await client.track("u", "E", message_id="m")
            transport.script = ()
            assert (await settled(again)).status is Status.DELIVERED
            assert await client.flush(timeout=SOON) == 0
            assert (client.statistics().accepted, transport.taken) == (1, ["m"])

        with_spool(body, *[refused()] * 100)

    def test_in_a_batch_that_is_being_retried(self) -> None:
        async def body(client: Client, transport: ScriptedTransport, store: SpoolStore) -> None:
            first = await client.track("u", "E", message_id="m")
            await asyncio.sleep(2.0)
            again = await client.track("u", "E", message_id="m")
            assert again.outcome is None
            transport.script = ()
            assert (await settled(again)) == (await settled(first))
            assert (client.statistics().accepted, transport.taken) == (1, ["m"])

        with_spool(body, *[refused()] * 100)

    def test_as_one_that_another_process_left(self) -> None:
        async def body(client: Client, transport: ScriptedTransport, store: SpoolStore) -> None:
            await client.track("u", "E", message_id="m")
            await client.aclose()
            successor = Client("key", transport=ScriptedTransport(), spool=store.open(), close_timeout=0)
            again = await successor.track("u", "E", message_id="m")
            assert (await settled(again)).status is Status.DELIVERED
            counts = successor.statistics()
            check_counters(counts)
            assert (counts.accepted, counts.recovered, counts.delivered, counts.pending) == (1, 1, 1, 0)
            await successor.aclose()

        with_spool(body, *[refused()] * 100)

    def test_enqueued_without_waiting(self) -> None:
        async def body(client: Client, transport: ScriptedTransport, store: SpoolStore) -> None:
            message = {"type": "track", "userId": "u", "event": "E", "messageId": "m"}
            deliveries = [client.enqueue_nowait(dict(message)) for _ in range(3)]
            assert {(await settled(delivery)).status for delivery in deliveries} == {Status.DELIVERED}
            assert await client.flush(timeout=SOON) == 0
            assert (client.statistics().pending, transport.taken, store.accepted) == (0, ["m"], 1)

        with_spool(body)

    def test_enqueued_after_an_awaited_one(self) -> None:
        async def body(client: Client, transport: ScriptedTransport, store: SpoolStore) -> None:
            first = await client.track("u", "E", message_id="m")
            second = client.nowait.track("u", "E", message_id="m")
            assert [(await settled(delivery)).status for delivery in (first, second)] == [Status.DELIVERED] * 2
            assert await client.flush(timeout=SOON) == 0
            assert (client.statistics().pending, transport.taken, store.accepted) == (0, ["m"], 1)

        with_spool(body)

    def test_when_the_first_makes_room_for_the_second_ones_group(self) -> None:
        """Both have an outcome, and each its own."""

        async def main() -> None:
            network = Network()
            store = SpoolStore(max_messages=6)
            transport = RecordingTransport(network)
            async with Client("key", spool=store.open(), transport=transport, deliver=False) as earlier:
                for number in range(5):
                    await earlier.track("user-1", "Earlier", message_id=f"p{number}")
            options: Any = {"max_queue_size": 8, "overflow": "drop_oldest", "retry": RetryPolicy(max_backoff=1)}
            async with Client("key", spool=store.open(), transport=transport, **options) as client:
                first = client.nowait.track("user-1", "Order Completed", message_id="m1")
                others = [client.nowait.track("user-1", "Other", message_id=f"o{number}") for number in range(6)]
                second = await client.track("user-1", "Order Completed", message_id="m1")
                network.is_up = True
                assert await client.flush(timeout=SOON) == 0
                outcomes = [(await settled(delivery)).status for delivery in (first, *others[:2], second)]
                assert outcomes == [Status.DROPPED, Status.DROPPED, Status.DELIVERED, Status.DELIVERED]
                check_counters(client.statistics())

        run(main())

    def test_at_the_close_both_are_kept(self) -> None:
        async def body(client: Client, transport: ScriptedTransport, store: SpoolStore) -> None:
            first = await client.track("u", "E", message_id="m")
            again = await client.track("u", "E", message_id="m")
            await client.aclose()
            assert (await settled(first)).status is (await settled(again)).status is Status.KEPT
            assert store.pending_ids == {"m"}

        with_spool(body, *[refused()] * 100)

    def test_what_is_called_kept_is_stored(self) -> None:
        async def body(client: Client, transport: ScriptedTransport, store: SpoolStore) -> None:
            await client.track("u", "E", message_id="m")
            again = await client.track("u", "E", message_id="m")
            assert await client.flush(timeout=SOON) == 0
            outcome = again.outcome
            await client.aclose()
            assert outcome is not None
            assert again.outcome == outcome
            assert (outcome.status, store.pending_ids) == (Status.DELIVERED, set())

        with_spool(body)


class TestTheSameIdAfterAnOutcome:
    """An outcome is final; the id that comes again is a new message, which is sent."""

    @pytest.mark.parametrize("status", [403, 404, 422])
    def test_after_a_failure_it_is_sent_again(self, status: int) -> None:
        async def body(client: Client, transport: ScriptedTransport, store: SpoolStore) -> None:
            first = await client.track("u", "E", message_id="m")
            failed = await settled(first)
            assert (failed.status, failed.status_code) == (Status.FAILED, status)
            assert await client.flush(timeout=SOON) == 0
            again = await client.track("u", "E", message_id="m")
            assert first.outcome == failed
            assert (await settled(again)).status is Status.DELIVERED
            assert first.outcome == failed
            assert await client.flush(timeout=SOON) == 0
            counts = client.statistics()
            assert (counts.accepted, counts.failed, counts.delivered, counts.pending) == (2, 1, 1, 0)
            # An outcome is recorded once it is told.
            assert await client.flush(timeout=SOON) == 0
            assert [result.status for result in store.ended["m"]] == [Status.FAILED, Status.DELIVERED]

        with_spool(body, Response(status))

    def test_after_a_delivery_it_is_sent_again_and_the_first_stays_delivered(self) -> None:
        async def body(client: Client, transport: ScriptedTransport, store: SpoolStore) -> None:
            first = await client.track("u", "E", message_id="m")
            delivered = await settled(first)
            assert await client.flush(timeout=SOON) == 0
            again = await client.track("u", "E", message_id="m")
            assert first.outcome == delivered
            assert (await settled(again)).status is Status.DELIVERED
            assert first.outcome == delivered
            assert client.statistics().accepted == 2

        with_spool(body)

    def test_while_the_outcome_is_being_recorded(self) -> None:
        """The answer is there, the disk has not taken it, and the id comes again."""

        async def body(client: Client, transport: ScriptedTransport, store: SpoolStore) -> None:
            assert isinstance(store.disk, ScriptedDisk)
            first = await client.track("u", "E", message_id="m")
            while not transport.requests:  # noqa: ASYNC110  # the transport has no event for this
                await asyncio.sleep(0.01)
            store.disk.seconds = 1.0
            failed = await settled(first)
            assert failed.status is Status.FAILED
            again = await client.track("u", "E", message_id="m")
            outcome = await settled(again)
            assert first.outcome == failed
            assert await client.flush(timeout=SOON) == 0
            assert client.statistics().pending == len(store.rows) == 0
            # Either the first one's outcome, or sent by itself: never without one.
            assert outcome == failed or outcome.status is Status.DELIVERED

        with_spool(body, Response(403))
