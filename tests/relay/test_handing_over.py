"""A client that hands its messages over: what its deliveries say, what it counts, and how it waits while it cannot."""

import asyncio

import pytest

from segment_async import Client, ClientClosed, SpoolUnavailable, Statistics, Status
from segment_async.spool._protocol import StoredMessage, Window
from tests.support.law import check_counters
from tests.support.memory_spool import ScriptedDisk, SpoolStore
from tests.support.scripted_transport import ScriptedTransport
from tests.support.slow_spool import SlowSpool
from tests.support.virtual_clock import run


def accounts(statistics: Statistics) -> tuple[int, int, int, int]:
    check_counters(statistics)
    return statistics.accepted, statistics.handed_over, statistics.delivered, statistics.pending


async def emptied(store: SpoolStore) -> None:
    """In virtual time."""
    for _ in range(100):
        await asyncio.sleep(0.1)
        if not store.pending:
            return
    raise AssertionError(f"{store.pending} messages are pending after ten seconds")


class TestWithoutDelivering:
    @pytest.mark.parametrize("shared", [True, False])
    def test_a_message_is_handed_over_once_it_is_stored(self, shared: bool) -> None:
        async def main() -> None:
            store, transport = SpoolStore(), ScriptedTransport()
            async with Client(
                "key", spool=store.open(shared=shared), deliver=False, transport=transport, close_timeout=60
            ) as client:
                delivery = await client.track("user-1", "Order Completed")
                outcome = await delivery
                assert (outcome.status, outcome.reason, outcome.attempts) == (Status.HANDED_OVER, None, 0)
                outcome.raise_for_failure()
                assert await client.flush() == 0
                assert accounts(client.statistics()) == (1, 1, 0, 0)
            assert client.statistics().reasons == {}
            assert not transport.requests
            assert store.pending == 1

        run(main())

    def test_a_message_that_is_not_awaited_is_handed_over_as_well(self) -> None:
        async def main() -> None:
            store = SpoolStore()
            async with Client("key", spool=store.open(shared=True), deliver=False) as client:
                delivery = client.nowait.track("user-1", "Order Completed")
                assert delivery.outcome is None
                assert (await delivery).status is Status.HANDED_OVER
            assert store.pending == 1

        run(main())

    def test_an_id_that_waits_in_the_spool_already_is_handed_over_as_the_first_one_was(self) -> None:
        async def main() -> None:
            store = SpoolStore()
            async with Client("key", spool=store.open(), deliver=False) as client:
                await client.track("user-1", "Order Completed", message_id="m1")
                again = await client.track("user-1", "Order Completed", message_id="m1")
                assert (await again).status is Status.HANDED_OVER
                later = client.nowait.track("user-1", "Order Completed", message_id="m1")
                assert (await later).status is Status.HANDED_OVER
                assert accounts(client.statistics()) == (2, 2, 0, 0)
            assert store.pending == 1

        run(main())


class TestWithASharedSpool:
    def test_what_one_host_appends_another_delivers(self) -> None:
        async def main() -> None:
            store, here, there = SpoolStore(), ScriptedTransport(), ScriptedTransport()
            one = Client("key", spool=store.open(shared=True), deliver=False, transport=here)
            other = Client("key", spool=store.open(shared=True), transport=there)
            await other.flush()
            for number in range(10):
                await one.track("user-1", "Order Completed", {"n": number})
            await emptied(store)
            assert accounts(one.statistics()) == (10, 10, 0, 0)
            assert accounts(other.statistics()) == (10, 0, 10, 0)
            assert sum(len(request.ids) for request in there.requests) == 10
            await one.aclose()
            await other.aclose()

        run(main())

    def test_a_host_that_appends_and_delivers_counts_both(self) -> None:
        async def main() -> None:
            store = SpoolStore()
            async with Client("key", spool=store.open(shared=True), transport=ScriptedTransport()) as client:
                outcome = await (await client.track("user-1", "Order Completed"))
                assert outcome.status is Status.HANDED_OVER
                await emptied(store)
                assert accounts(client.statistics()) == (2, 1, 1, 0)

        run(main())

    def test_a_close_leaves_the_rest_to_the_others(self) -> None:
        """It does not go on reading for as long as others append."""

        async def main() -> None:
            store, transport = SpoolStore(), ScriptedTransport()
            writer = Client("key", spool=store.open(shared=True), deliver=False)
            for number in range(500):
                await writer.track("user-1", "Order Completed", {"n": number})
            reader = Client("key", spool=store.open(shared=True), transport=transport, max_queue_size=20, flush_at=10)
            await reader.track("user-1", "First")
            await asyncio.sleep(0.05)
            await reader.aclose()
            statistics = reader.statistics()
            check_counters(statistics)
            assert 0 < statistics.delivered < 500
            assert statistics.pending == 0
            assert store.pending == 501 - statistics.delivered
            await writer.aclose()

        run(main())


def test_what_is_read_before_its_append_is_answered_is_sent_as_it_was_stored() -> None:
    """The call's own delivery ends with the answer; what was read is another one, although the id is the same."""

    async def main() -> None:
        spool, transport = SlowSpool(shared=True), ScriptedTransport()
        async with Client("key", spool=spool, transport=transport) as client:
            delivery = client.nowait.track("user-1", "Order Completed", message_id="m1")
            [([stored], _)] = spool.groups
            spool.windows.put_nowait(Window([StoredMessage(7, stored.message_id, stored.body)]))
            await asyncio.sleep(0.01)
            assert client.statistics().pending == 2
            spool.answer(0)
            assert await client.flush() == 0
            assert (await delivery).status is Status.HANDED_OVER
            assert accounts(client.statistics()) == (2, 1, 1, 0)
        [request] = transport.requests
        assert request.ids == ["m1"]
        assert [(keys, result.status) for keys, result in spool.settled] == [([7], Status.DELIVERED)]

    run(main())


class TestASpoolThatAsksToWait:
    """It cannot store, and was configured to let the application go on."""

    def test_calls_go_on_and_what_they_left_is_handed_over_later(self) -> None:
        async def main() -> None:
            disk = ScriptedDisk(asks_to_wait=2.0)
            store = SpoolStore(disk)
            async with Client("key", spool=store.open(shared=True), deliver=False) as client:
                deliveries = [await client.track("user-1", "Order Completed", {"n": n}) for n in range(700)]
                assert accounts(client.statistics()) == (700, 0, 0, 700)
                assert deliveries[0].outcome is None
                disk.asks_to_wait = None
                assert await client.flush(timeout=5) == 0
                assert accounts(client.statistics()) == (700, 700, 0, 0)
                assert (await deliveries[699]).status is Status.HANDED_OVER
            assert [row.message_id for row in store.rows.values()] == [each.message_id for each in deliveries]

        run(main())

    def test_memory_is_bounded_by_the_queue(self) -> None:
        async def main() -> None:
            store = SpoolStore(ScriptedDisk(asks_to_wait=2.0))
            client = Client(
                "key",
                spool=store.open(shared=True),
                deliver=False,
                max_queue_size=5,
                overflow="drop_newest",
                close_timeout=0,
            )
            deliveries = [await client.track("user-1", "Order Completed", {"n": n}) for n in range(8)]
            outcomes = [each.outcome for each in deliveries]
            assert [each.reason if each else None for each in outcomes] == [None] * 5 + ["queue_full"] * 3
            await client.aclose()
            assert {(await each).reason for each in deliveries[:5]} == {"close_timeout"}
            assert client.statistics().dropped == 8

        run(main())

    def test_what_was_put_without_a_loop_is_stored_by_the_first_one(self) -> None:
        disk = ScriptedDisk(asks_to_wait=1.0)
        store = SpoolStore(disk)
        client = Client("key", spool=store.open(shared=True), deliver=False)
        client.nowait.track("user-1", "Order Completed")
        disk.asks_to_wait = None

        async def main() -> None:
            assert await client.flush(timeout=5) == 0
            await client.aclose()

        run(main())
        assert store.pending == 1

    def test_a_refusal_after_that_is_one_again(self) -> None:
        async def main() -> None:
            disk = ScriptedDisk(asks_to_wait=1.0)
            store = SpoolStore(disk)
            async with Client("key", spool=store.open(shared=True), deliver=False) as client:
                delivery = await client.track("user-1", "Order Completed")
                disk.asks_to_wait, disk.refuses = None, True
                assert (await delivery).reason == "spool_unavailable"
                with pytest.raises(SpoolUnavailable):
                    await client.track("user-1", "Order Completed")
                check_counters(client.statistics())
            with pytest.raises(ClientClosed):
                await client.track("user-1", "Order Completed")

        run(main())


class TestOptions:
    def test_without_a_spool_there_is_nothing_to_hand_over_to(self) -> None:
        with pytest.raises(ValueError, match="set spool="):
            Client("key", deliver=False)

    def test_the_oldest_messages_of_a_shared_spool_are_not_this_hosts_to_drop(self) -> None:
        with pytest.raises(ValueError, match="drop_oldest"):
            Client("key", spool=SpoolStore().open(shared=True), overflow="drop_oldest")

    def test_a_shared_spool_belongs_to_the_key_whatever_the_address(self) -> None:
        store = SpoolStore()
        Client("key", spool=store.open(shared=True), deliver=False)
        Client("key", spool=store.open(shared=True), host="http://127.0.0.1:9")
        with pytest.raises(ValueError, match="another"):
            Client("other", spool=store.open(shared=True))
