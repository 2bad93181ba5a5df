"""Redis and Segment in trouble: what callers are told, what is lost (nothing), and how it goes on by itself."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import hiredis
import pytest
from redis.asyncio import Redis, RedisCluster
from redis.exceptions import ResponseError

from segment_async import Client, QueueFull, Response, SpoolUnavailable, Status, TransportError
from segment_async.relay import RedisSpool, RelayInspector
from segment_async.relay._entries import info_of, keys_for
from segment_async.relay._server import code_of, make_client
from segment_async.spool import BatchResult, NewMessage, SpoolInspector, SQLiteSpool, TryLater
from segment_async.testing import RecordingTransport
from tests.support.law import check_counters

from .servers import RealServer, binaries, cluster_node
from .stage import Proxy, proxy, until

Start = Callable[..., RealServer]
LEASE = 2.0
OK = Response(200, {"Content-Type": "application/json"}, b'{"success":true}')


def run(main: Any) -> None:
    async def limited() -> None:
        async with asyncio.timeout(60):
            await main

    asyncio.run(limited())


# With "everysec", a server that is killed while it syncs has written nothing of what was appended meanwhile.
ON_DISK = ("--appendonly", "yes", "--appendfsync", "always")


def stream_of(server: RealServer) -> bytes:
    [name] = [name for name in server.ask("KEYS", "*") if name.endswith(b":m")]
    return bytes(name)


def calls_of(server: RealServer, command: str) -> int:
    text = server.ask("INFO", "commandstats").decode()
    found = [line for line in text.splitlines() if line.startswith(f"cmdstat_{command}:")]
    return int(found[0].partition("calls=")[2].partition(",")[0]) if found else 0


@asynccontextmanager
async def handing_over(url: str | RedisCluster, **options: Any) -> AsyncIterator[Client]:
    of_client = {name: options.pop(name) for name in ("overflow", "close_timeout") if name in options}
    # Not the limits of a busy machine, but where they are what is tried.
    spool = RedisSpool(url, **{"append_timeout": 10.0, **options})
    client = Client("key", spool=spool, deliver=False, overflow_timeout=20.0, **of_client)
    try:
        yield client
    finally:
        await client.aclose()


@asynccontextmanager
async def delivering(
    url: str | RedisCluster, answer: Any = lambda _batch: OK, *, max_queue_size: int = 10_000, **options: Any
) -> AsyncIterator[tuple[Client, RecordingTransport]]:
    transport = RecordingTransport(answer)
    spool = RedisSpool(url, lease=LEASE, **options)
    client = Client(
        "key",
        spool=spool,
        transport=transport,
        flush_interval=0.05,
        close_timeout=0.2,
        max_queue_size=max_queue_size,
    )
    async with client:
        yield client, transport
    check_counters(client.statistics())


def ids_of(transport: RecordingTransport) -> list[str]:
    return [message["messageId"] for message in transport.messages]


def noting_sizes() -> tuple[list[int], Callable[[Any], Response]]:
    """An answer for a transport, and how many messages each request had."""
    sizes: list[int] = []

    def answer(batch: Any) -> Response:
        sizes.append(len(batch["batch"]))
        return OK

    return sizes, answer


async def hand_over(client: Client, count: int, first: int = 0) -> list[str]:
    calls = [client.track("user-1", "Order Completed", message_id=f"order-{n}") for n in range(first, first + count)]
    return [each.message_id for each in await asyncio.gather(*calls)]


async def until_taken(client: Client) -> None:
    """Hand a message over, once that works."""
    async with asyncio.timeout(20):
        while True:
            with suppress(SpoolUnavailable):
                await client.track("user-1", "Order Completed")
                return
            await asyncio.sleep(0.01)


class TestALostReply:
    """The connection is cut between an append and its reply."""

    @pytest.fixture
    def cut_appends(self) -> Callable[[Proxy], None]:
        def cut(between: Proxy) -> None:
            between.swallows = lambda request: b"XADD" in request and between.swallowed == 0

        return cut

    def test_the_caller_is_told_that_it_may_be_stored(self, server: RealServer, cut_appends: Any) -> None:
        async def main() -> None:
            async with proxy(server.socket) as between, handing_over(between.url) as client:
                await hand_over(client, 1)
                cut_appends(between)
                with pytest.raises(SpoolUnavailable) as refused:
                    await client.track("user-1", "Order Completed", message_id="order-1")
                assert refused.value.maybe_stored
                # Again, as a caller may.
                await client.track("user-1", "Order Completed", message_id="order-1")
                assert client.statistics().accepted == 2
            async with delivering(server.url) as (_, transport):
                await until(lambda: len(ids_of(transport)) == 3, "they arrive")
            assert sorted(ids_of(transport)) == ["order-0", "order-1", "order-1"]

        run(main())

    def test_what_waited_in_memory_is_repeated_once_at_most_and_marked(
        self, server: RealServer, cut_appends: Any
    ) -> None:
        async def main() -> None:
            async with proxy(server.socket) as between, handing_over(between.url, on_failure="memory") as client:
                await hand_over(client, 1)
                cut_appends(between)
                ids = await hand_over(client, 20, first=1)
                await client.flush()
                assert client.statistics().handed_over == 21
            entries = server.ask("XRANGE", stream_of(server), "-", "+")
            marked = [fields[1] for _, fields in entries if b"r" in fields[::2]]
            assert 0 < len(marked) <= 20
            async with delivering(server.url) as (_, transport):
                await until(lambda: len(ids_of(transport)) == len(entries), "they arrive")
            assert {*ids_of(transport)} == {"order-0", *ids}
            repeated = [each for each in {*ids} if ids_of(transport).count(each) > 1]
            assert {each.encode() for each in repeated} == {*marked}
            assert all(ids_of(transport).count(each) == 2 for each in repeated)

        run(main())

    def test_large_messages_are_appended_in_several_exchanges(self, server: RealServer) -> None:
        """All at once, they would never be answered in time by a server far away. Each may be lost."""

        async def append(spool: RedisSpool, count: int) -> Any:
            loop = asyncio.get_running_loop()
            answer: asyncio.Future[Any] = loop.create_future()

            def done(result: Any) -> None:
                loop.call_soon_threadsafe(answer.set_result, result)

            spool.append_nowait([NewMessage(f"order-{number}", b"x" * 30_000) for number in range(count)], done)
            return await answer

        async def main() -> None:
            async with proxy(server.socket) as between:
                spool = RedisSpool(between.url, append_timeout=10.0)
                Client("key", spool=spool, deliver=False)
                await append(spool, 1)
                appends = calls_of(server, "eval")
                # One behind the first 34 messages, which are a little less than 1 MiB.
                between.swallows = lambda _request: between.swallowed == 0 and server.ask("XLEN", stream) > 35
                stream = stream_of(server)
                refused = await append(spool, 100)
                assert isinstance(refused, SpoolUnavailable)
                assert refused.maybe_stored
                assert calls_of(server, "eval") == appends + 2
                result = await append(spool, 100)
                assert [answer.status for answer in result.answers] == ["stored"] * 100
                assert calls_of(server, "eval") == appends + 5
                await spool.aclose()
            again = server.ask("XREVRANGE", stream, "+", "-", "COUNT", 100)
            assert sum(b"r" in fields[::2] for _, fields in again) == 68

        run(main())

    def test_of_large_messages_in_memory_only_what_may_be_missing_is_appended_again(self, server: RealServer) -> None:
        """Else they would never be stored if one in so many replies is lost."""

        async def append(spool: RedisSpool) -> Any:
            loop = asyncio.get_running_loop()
            answer: asyncio.Future[Any] = loop.create_future()

            def done(result: Any) -> None:
                loop.call_soon_threadsafe(answer.set_result, result)

            spool.append_nowait([NewMessage(f"order-{number}", b"x" * 30_000) for number in range(100)], done)
            return await answer

        async def main() -> None:
            async with proxy(server.socket) as between:
                spool = RedisSpool(between.url, append_timeout=10.0, on_failure="memory")
                Client("key", spool=spool, deliver=False)
                await spool.connect()
                # One behind the first 34 messages, which are a little less than 1 MiB.
                between.swallows = lambda _request: (
                    between.swallowed == 0 and server.ask("XLEN", stream_of(server)) > 35
                )
                assert isinstance(await append(spool), TryLater)
                result = await append(spool)
                assert [answer.status for answer in result.answers] == ["stored"] * 100
                assert spool.counts()["stored"] == 100
                result = await append(spool)
                assert [answer.status for answer in result.answers] == ["stored"] * 100
                await spool.aclose()
            entries = server.ask("XRANGE", stream_of(server), "-", "+")
            assert len(entries) == 100 + 34 + 100
            assert sum(b"r" in fields[::2] for _, fields in entries) == 34

        run(main())

    def test_large_messages_in_a_file_are_moved_in_one_exchange_each_time(
        self, server: RealServer, tmp_path: Path
    ) -> None:
        """Else what came before a lost reply would be repeated with it, and with each further one again."""
        path = tmp_path / "redis.db"

        async def main() -> None:
            async with handing_over("redis://127.0.0.1:1", on_failure=path) as client:
                for number in range(100):
                    await client.track("user-1", "Order Completed", {"x": "x" * 30_000}, message_id=f"order-{number}")
            async with proxy(server.socket) as between:
                # One behind the first messages, which are a little less than 1 MiB.
                between.swallows = lambda _request: (
                    between.swallowed == 0 and server.ask("DBSIZE") > 0 and server.ask("XLEN", stream_of(server)) > 35
                )
                spool = RedisSpool(between.url, on_failure=path, append_timeout=10.0)
                Client("key", spool=spool, deliver=False)
                await spool.connect()
                await until(lambda: spool.counts()["moved"] == 100, "all are moved")
                await spool.aclose()
            entries = server.ask("XRANGE", stream_of(server), "-", "+")
            repeated = [fields[1] for _, fields in entries if b"r" in fields[::2]]
            assert len(entries) == 100 + len(repeated)
            assert len({*repeated}) == len(repeated) <= 34

        run(main())

    def test_a_call_that_is_made_again_is_marked_whatever_was_stored_meanwhile(
        self, server: RealServer, cut_appends: Any
    ) -> None:
        async def main() -> None:
            async with proxy(server.socket) as between, handing_over(between.url) as client:
                await hand_over(client, 1)
                cut_appends(between)
                with pytest.raises(SpoolUnavailable):
                    await client.track("user-1", "Order Completed", message_id="order-1")
                await hand_over(client, 1, first=2)
                await client.track("user-1", "Order Completed", message_id="order-1")
                await hand_over(client, 1, first=1)
            entries = [fields for _, fields in server.ask("XRANGE", stream_of(server), "-", "+")]
            assert [fields[1] for fields in entries] == [b"order-0", b"order-1", b"order-2", b"order-1", b"order-1"]
            assert [b"r" in fields[::2] for fields in entries] == [False, False, False, True, False]

        run(main())

    def test_calls_that_are_made_again_are_marked_although_replies_were_lost_one_after_the_other(
        self, server: RealServer, cut_appends: Any
    ) -> None:
        async def main() -> None:
            async with proxy(server.socket) as between, handing_over(between.url) as client:
                await hand_over(client, 1)
                for number in (1, 2):
                    between.swallowed = 0
                    cut_appends(between)
                    with pytest.raises(SpoolUnavailable):
                        await client.track("user-1", "Order Completed", message_id=f"order-{number}")
                await hand_over(client, 2, first=1)
            entries = [fields for _, fields in server.ask("XRANGE", stream_of(server), "-", "+")]
            assert [fields[1] for fields in entries] == [b"order-0", *(b"order-1", b"order-2") * 2]
            assert [b"r" in fields[::2] for fields in entries] == [False, False, False, True, True]

        run(main())

    def test_a_caller_is_told_so_also_if_the_file_takes_nothing(
        self, server: RealServer, cut_appends: Any, tmp_path: Path
    ) -> None:
        async def main() -> None:
            file = SQLiteSpool(tmp_path / "spool.db")
            async with proxy(server.socket) as between, handing_over(between.url, on_failure=file) as client:
                await hand_over(client, 1)
                await file.aclose()
                cut_appends(between)
                with pytest.raises(SpoolUnavailable) as refused:
                    await client.track("user-1", "Order Completed")
                assert refused.value.maybe_stored
            assert server.ask("XLEN", stream_of(server)) == 2

        run(main())


def test_what_is_held_no_more_when_the_reply_comes_is_not_sent(server: RealServer) -> None:
    """The machine slept meanwhile, and another relay may have taken it over."""

    async def main() -> None:
        slept = 0.0

        def sleep(request: bytes) -> bool:
            nonlocal slept
            if b"RETRYCOUNT" in request:
                slept = 2 * LEASE
            return False

        async with proxy(server.socket) as between, handing_over(server.url) as client:
            await hand_over(client, 1)
            spool = RedisSpool(between.url, lease=LEASE, clock=lambda: time.monotonic() + slept)
            Client("key", spool=spool, deliver=False)
            await spool.read(1, 1)
            [message] = (await spool.read(1, 1_000)).messages
            between.swallows = sleep
            assert await spool.sending([message.key], 1) == {message.key}
            assert slept
            await spool.aclose()

    run(main())


def test_a_hold_that_ended_is_counted_once(server: RealServer) -> None:
    """It is noticed when it was not renewed in time, and again when its message is to be sent."""

    async def main() -> None:
        slept = 0.0
        async with handing_over(server.url) as client:
            await hand_over(client, 2)
            spool = RedisSpool(server.url, lease=LEASE, clock=lambda: time.monotonic() + slept)
            Client("key", spool=spool, deliver=False)
            await spool.read(1, 1)
            messages = (await spool.read(2, 1_000)).messages
            slept = 0.9 * LEASE
            await until(lambda: spool.counts()["lost"], "the holds have ended")
            keys = {message.key for message in messages}
            assert await spool.sending(sorted(keys), 1) == keys
            assert (spool.counts()["lost"], len(keys)) == (2, 2)
            await spool.aclose()

    run(main())


def test_a_read_that_comes_late_strands_nothing_at_the_close(server: RealServer) -> None:
    """The server carries it out as the consumer is being removed, which would take what it holds along."""

    async def main() -> None:
        async with proxy(server.socket) as between, handing_over(server.url) as client:
            spool = RedisSpool(between.url, lease=LEASE)
            Client("key", spool=spool, deliver=False)
            await hand_over(client, 1)
            await spool.read(1, 1)
            [message] = (await spool.read(1, 1_000)).messages
            await spool.settle([message.key], BatchResult(Status.DELIVERED))
            await hand_over(client, 1, first=1)
            stream, closing = stream_of(server), list[bytes]()
            [consumer] = [info_of(each)[b"name"] for each in server.ask("XINFO", "CONSUMERS", stream, "relays")]

            def read_late(request: bytes) -> bool:
                closing.append(request)
                if len(closing) == 2:
                    server.ask("XREADGROUP", "GROUP", "relays", consumer, "STREAMS", stream, ">")
                return False

            between.swallows = read_late
            await spool.aclose()
            assert len(closing) >= 2
            with RelayInspector(server.url, "key", lease=LEASE) as inspector:
                assert inspector.repair() == 0

    run(main())


class TestAServerThatIsGone:
    def test_killed_and_restarted_nothing_is_missing(self, start_server: Start) -> None:
        server = start_server(*ON_DISK)

        async def main() -> None:
            async with handing_over(server.url) as client, delivering(server.url) as (_, transport):
                told: list[str] = []
                refused = 0

                async def load() -> None:
                    nonlocal refused
                    number = 0
                    while True:
                        number += 1
                        try:
                            told.append((await client.track("u", "e", message_id=f"order-{number}")).message_id)
                        except SpoolUnavailable:
                            refused += 1
                            await asyncio.sleep(0.01)

                loading = asyncio.create_task(load())
                await until(lambda: len(told) > 200, "some are handed over")
                await asyncio.to_thread(server.kill)
                await until(lambda: refused > 2, "appends are refused")
                before = len(told)
                await asyncio.to_thread(server.start)
                await until(lambda: len(told) > before + 200, "appends go on by themselves")
                loading.cancel()
                await until(lambda: {*told} <= {*ids_of(transport)}, "all of them arrive")

        run(main())

    def test_each_caller_gets_an_error_of_its_own(self) -> None:
        """One for all would grow with each frame that it passes, and keep all of them."""

        async def main() -> None:
            async with handing_over("redis://127.0.0.1:1/0") as client:
                calls = [client.track("user-1", "Order Completed") for _ in range(20)]
                errors = await asyncio.gather(*calls, return_exceptions=True)
                assert {type(each) for each in errors} == {SpoolUnavailable}
                assert len({id(each) for each in errors}) == 20

        run(main())

    def test_calls_never_wait_for_longer_than_their_limit(self, start_server: Start) -> None:
        """It stands still: no connection is refused, and no reply comes."""
        server = start_server()

        async def main() -> None:
            async with handing_over(server.url, append_timeout=0.3) as client:
                await hand_over(client, 1)
                server.signal(signal.SIGSTOP)
                waits: list[float] = []
                for _ in range(20):
                    began = time.perf_counter()
                    with pytest.raises(SpoolUnavailable):
                        await client.track("user-1", "Order Completed")
                    waits.append(time.perf_counter() - began)
                server.signal(signal.SIGCONT)
                # The limit, and what a busy machine adds.
                assert max(waits) < 0.3 + 1.0

                await until_taken(client)

        run(main())

    def test_with_a_file_messages_are_stored_there_and_moved_later(self, start_server: Start, tmp_path: Path) -> None:
        server = start_server(*ON_DISK)
        path = tmp_path / "spool" / "redis.db"

        async def main() -> None:
            await asyncio.to_thread(server.kill)
            async with handing_over(server.url, on_failure=path) as client:
                # More than are moved at once.
                ids = await hand_over(client, 1_200)
                assert client.statistics().handed_over == 1_200
            # Another process of the host.
            async with handing_over(server.url, on_failure=path) as client, delivering(server.url) as (_, transport):
                ids += await hand_over(client, 50, first=1_200)
                assert client.statistics().handed_over == 50
                await asyncio.to_thread(server.start)
                await until(lambda: len(ids_of(transport)) == 1_250, "all of them arrive")
            assert sorted(ids_of(transport)) == sorted(ids)
            assert list(SpoolInspector(path).pending()) == []

        run(main())

    def test_a_restarted_server_may_have_forgotten_attempts(self, start_server: Start) -> None:
        """What it had before counts as attempted, what comes afterwards does not."""
        server = start_server(*ON_DISK)

        async def main() -> None:
            async with handing_over(server.url) as client:
                async with delivering(server.url) as (_, transport):
                    await hand_over(client, 1)
                    await until(lambda: len(ids_of(transport)) == 1, "a relay has worked here")
                await hand_over(client, 1, first=1)
                await asyncio.to_thread(server.restart)
                spool = RedisSpool(server.url)
                client_of_relay = Client("key", spool=spool, transport=RecordingTransport())
                await spool.connect()
                await spool.read(10, 10_000)
                [old] = (await spool.read(10, 10_000)).messages
                while client.statistics().handed_over < 3:
                    try:
                        await hand_over(client, 1, first=2)
                    except SpoolUnavailable:
                        await asyncio.sleep(0.01)
                [new] = (await spool.read(10, 10_000)).messages
                assert [(each.message_id, each.attempts) for each in (old, new)] == [("order-1", 1), ("order-2", 0)]
                await client_of_relay.aclose()

        run(main())


class TestACluster:
    """Of one node; `make relay-faults` loses one of several."""

    def test_messages_pass_and_a_lost_reply_may_have_been_an_append(self) -> None:
        async def main() -> None:
            with cluster_node(binaries()["valkey"]) as node:
                node.ask("CLUSTER", "ADDSLOTSRANGE", 0, 16_383)
                await until(lambda: b"cluster_state:ok" in node.ask("CLUSTER", "INFO"), "the cluster is whole")

                def cluster() -> RedisCluster:
                    return RedisCluster(host="127.0.0.1", port=node.port)

                async with handing_over(cluster()) as client:
                    ids = await hand_over(client, 20)
                    async with delivering(cluster()) as (_, transport):
                        await until(lambda: {*ids} == {*ids_of(transport)}, "they arrive")
                    node.signal(signal.SIGSTOP)
                    waiting = asyncio.create_task(client.track("user-1", "Order Completed"))
                    await asyncio.sleep(0)
                    await asyncio.to_thread(node.kill)
                    with pytest.raises(SpoolUnavailable) as refused:
                        await waiting
                    assert refused.value.maybe_stored
                    await asyncio.to_thread(node.start)
                    await until_taken(client)

        run(main())

    def test_what_confirms_is_the_node_that_has_the_messages(self) -> None:
        async def main() -> None:
            with cluster_node(binaries()["valkey"]) as owner, cluster_node(binaries()["valkey"]) as other:
                slot = owner.ask("CLUSTER", "KEYSLOT", keys_for(sha256(b"key").hexdigest()[:16]).messages)
                owner.ask("CLUSTER", "ADDSLOTSRANGE", slot, slot)
                other.ask("CLUSTER", "ADDSLOTSRANGE", 0, slot - 1, slot + 1, 16_383)
                other.ask("CLUSTER", "MEET", "127.0.0.1", owner.port, owner.bus)
                nodes = (owner, other)
                await until(lambda: all(b"_state:ok" in each.ask("CLUSTER", "INFO") for each in nodes), "it is whole")
                spool = RedisSpool(RedisCluster(host="127.0.0.1", port=other.port), confirm="replica")
                async with Client("key", spool=spool, deliver=False) as client:
                    # It has no replica.
                    with pytest.raises(SpoolUnavailable, match="not as safely as confirm asks") as refused:
                        await client.track("user-1", "Order Completed")
                    assert refused.value.maybe_stored
                assert calls_of(other, "wait") == 0 < calls_of(owner, "wait")

        run(main())


class TestARestOfTheStream:
    def test_without_its_group_all_that_is_left_is_sent(self, server: RealServer) -> None:
        async def main() -> None:
            async with handing_over(server.url) as client, delivering(server.url) as (_, transport):
                await hand_over(client, 10)
                await until(lambda: len(ids_of(transport)) == 10, "they arrive")
                await until(lambda: server.ask("XLEN", stream_of(server)) == 0, "they are settled")
                server.ask("XGROUP", "DESTROY", stream_of(server), "relays")
                ids = await hand_over(client, 10, first=10)
                await until(lambda: {*ids} <= {*ids_of(transport)}, "the next ones arrive")
                assert len(ids_of(transport)) == 20

        run(main())

    def test_after_a_flushall_it_goes_on_without_a_hot_loop(self, server: RealServer) -> None:
        async def main() -> None:
            async with handing_over(server.url) as client, delivering(server.url) as (_, transport):
                await hand_over(client, 10)
                await until(lambda: len(ids_of(transport)) == 10, "they arrive")
                server.ask("FLUSHALL")
                server.ask("CONFIG", "RESETSTAT")
                began = time.perf_counter()
                ids = await hand_over(client, 10, first=10)
                await until(lambda: {*ids} <= {*ids_of(transport)}, "the next ones arrive")
                await until(lambda: time.perf_counter() > began + 0.5, "some time passes")
                seconds = time.perf_counter() - began
                assert calls_of(server, "xreadgroup") < 30 + 10 * seconds
                assert calls_of(server, "xgroup|create") <= 3

        run(main())


class TestFull:
    def test_what_a_server_may_have_forgotten_counts_as_attempted(self, start_server: Start) -> None:
        """A relay cannot note there that it is another run of the server, and keeps it in mind."""
        server = start_server(*ON_DISK)

        async def read_all(count: int) -> list[int]:
            spool = RedisSpool(server.url)
            Client("key", spool=spool, deliver=False)
            attempts: list[int] = []
            await spool.read(1, 1)
            while len(attempts) < count:
                attempts += [message.attempts for message in (await spool.read(count, 100_000)).messages]
            await spool.aclose()
            return attempts

        async def main() -> None:
            async with handing_over(server.url) as client:
                await hand_over(client, 1)
                assert await read_all(1) == [0]
                await hand_over(client, 2, first=1)
            server.restart()
            server.ask("CONFIG", "SET", "maxmemory", 1)
            assert await read_all(3) == [1, 1, 1]

        run(main())

    def test_a_server_without_memory_is_full_and_still_drained(self, start_server: Start) -> None:
        server = start_server("--maxmemory", "4mb", "--maxmemory-policy", "noeviction")

        async def main() -> None:
            is_up = False

            def answer(_batch: object) -> Response:
                if not is_up:
                    raise TransportError("no connection", maybe_sent=False)
                return OK

            # The group is made while there is room.
            async with delivering(server.url, answer, max_queue_size=100) as (relay, transport):
                await until(lambda: server.ask("KEYS", "*"), "the relay has begun")
                async with handing_over(server.url, overflow="raise") as client:
                    told: list[str] = []
                    with pytest.raises(QueueFull):
                        while True:
                            delivery = await client.track("user-1", "Order Completed", {"text": "x" * 20_000})
                            told.append(delivery.message_id)
                    is_up = True
                    await until(lambda: {*told} <= {*ids_of(transport)}, "all of them arrive")
                    await client.track("user-1", "Order Completed")
                await until(lambda: server.ask("XLEN", stream_of(server)) == 0, "nothing is left")
                assert relay.statistics().failed == 0

        run(main())

    def test_while_segment_is_down_the_stream_grows_to_its_bound_and_the_relay_does_not(
        self, server: RealServer
    ) -> None:
        async def main() -> None:
            is_up = False

            def answer(_batch: object) -> Response:
                if not is_up:
                    raise TransportError("no connection", maybe_sent=False)
                return OK

            async with delivering(server.url, answer, max_queue_size=200) as (relay, transport):
                async with handing_over(server.url, max_messages=3_000, overflow="drop_newest") as client:
                    outcomes = []
                    for _ in range(8):
                        calls = [client.track("user-1", "Order Completed") for _ in range(500)]
                        outcomes += await asyncio.gather(*[asyncio.ensure_future(call) for call in calls])
                    ended = [await each for each in outcomes]
                    full = [each for each in ended if each.reason == "queue_full"]
                    assert len(full) == 1_000
                    assert server.ask("XLEN", stream_of(server)) == 3_000
                    assert relay.statistics().pending <= 200
                    is_up = True
                    handed = {each.message_id for each in ended if each.status is Status.HANDED_OVER}
                    await until(lambda: handed <= {*ids_of(transport)}, "the rest arrives")

        run(main())

    def test_hosts_that_append_at_once_do_not_exceed_the_bound(self, server: RealServer) -> None:
        async def main() -> None:
            options: dict[str, Any] = {"max_messages": 30, "overflow": "drop_newest"}
            async with handing_over(server.url, **options) as one, handing_over(server.url, **options) as other:
                # Each has seen the stream while it was short.
                await asyncio.gather(hand_over(one, 1), hand_over(other, 1))
                await asyncio.gather(hand_over(one, 20), hand_over(other, 20))
                assert server.ask("XLEN", stream_of(server)) == 30
                handed_over = [client.statistics().handed_over for client in (one, other)]
                assert sum(handed_over) == 30

        run(main())


class TestARefusal:
    def test_a_server_that_takes_no_writes_for_now_is_out_of_reach_until_it_does(self, server: RealServer) -> None:
        """Its reply has the code, by which a server that is not ready is told from others."""

        async def main() -> None:
            async with handing_over(server.url) as client:
                await hand_over(client, 1)
                server.ask("CONFIG", "SET", "min-replicas-to-write", 1)
                try:
                    with pytest.raises(SpoolUnavailable, match="Not enough good replicas") as refused:
                        await client.track("user-1", "Order Completed")
                    with pytest.raises(SpoolUnavailable, match="Not enough good replicas"):
                        await client.track("user-1", "Order Completed")
                    assert not refused.value.maybe_stored
                finally:
                    server.ask("CONFIG", "SET", "min-replicas-to-write", 0)
                await until_taken(client)
                assert server.ask("XLEN", stream_of(server)) == 2

        run(main())

    def test_what_is_to_be_sent_waits_for_a_server_that_takes_no_writes(self, server: RealServer) -> None:
        """Its hold is not given up, which would leave the message to a relay that takes over a lease later."""

        async def main() -> None:
            async with handing_over(server.url) as client:
                await hand_over(client, 1)
                spool = RedisSpool(server.url)
                Client("key", spool=spool, deliver=False)
                await spool.read(1, 1)
                [message] = (await spool.read(1, 1_000)).messages
                before = calls_of(server, "eval")
                server.ask("CONFIG", "SET", "min-replicas-to-write", 1)
                try:
                    sending = asyncio.create_task(spool.sending([message.key], 1))
                    await until(lambda: calls_of(server, "eval") > before, "it was refused")
                finally:
                    server.ask("CONFIG", "SET", "min-replicas-to-write", 0)
                assert [*await sending] == []
                assert spool.counts()["lost"] == 0
                await spool.aclose()

        run(main())

    @pytest.mark.parametrize("loading", [b"0", b"1"])
    def test_a_server_that_loads_its_data_has_stored_nothing(self, loading: bytes) -> None:
        """It says what it does, but it may also begin to after it was asked."""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            commands: Any = hiredis.Reader()
            while data := await reader.read(2**16):
                commands.feed(data)
                while command := commands.gets():
                    if command[0] == b"INFO":
                        writer.write(b"$9\r\nloading:%b\r\n" % loading)
                    else:
                        is_append = command[0] == b"EVAL"
                        writer.write(b"-LOADING the dataset in memory\r\n" if is_append else b"+OK\r\n")
            writer.close()

        async def main() -> None:
            listening = await asyncio.start_server(serve, "127.0.0.1", 0)
            port = listening.sockets[0].getsockname()[1]
            async with listening, handing_over(f"redis://127.0.0.1:{port}") as client:
                with pytest.raises(SpoolUnavailable, match="data") as refused:
                    await client.track("user-1", "Order Completed")
                assert not refused.value.maybe_stored

        run(main())

    @pytest.mark.parametrize(
        ("text", "code"),
        [
            ("NOGROUP No such key", "NOGROUP"),
            ("@user_script: 10: -READONLY You can't write against a read only replica.", "READONLY"),
            ("The user executing the script can't run this command", ""),
        ],
    )
    def test_its_code_is_also_found_in_what_a_script_returns(self, text: str, code: str) -> None:
        """As Redis 6.2 words it."""
        assert code_of(ResponseError(text)) == code


class TestWhatIsNotOurs:
    def test_entries_of_a_newer_version_are_left_to_it_and_counted(self, server: RealServer) -> None:
        async def main() -> None:
            async with handing_over(server.url) as client:
                await hand_over(client, 5)
                stream = stream_of(server)
                newer = server.ask("XADD", stream, "*", "i", "order-9", "b", "squeezed", "z", "1")
                await hand_over(client, 5, first=5)
                async with delivering(server.url) as (_, transport):
                    await until(lambda: len(ids_of(transport)) == 10, "the others arrive")
                    with RelayInspector(server.url, "key") as inspector:
                        await until(lambda: inspector.status().unknown == 1, "it is counted")
                        assert [text for text in inspector.problems() if "newer version" in text]
                    await until(lambda: server.ask("XLEN", stream) == 1, "the others are settled")
            [[entry_id, fields]] = server.ask("XRANGE", stream, "-", "+")
            assert (entry_id, fields[-2:]) == (newer, [b"z", b"1"])
            assert len(ids_of(transport)) == 10

        run(main())

    @pytest.mark.parametrize(
        "fields", [("i", b"\xff", "b", "{}"), ("i", "1", "b", "x" * 32_769), ("x", "y"), ("i", "1")]
    )
    def test_entries_that_nothing_of_ours_wrote_hold_nothing_up(self, server: RealServer, fields: Any) -> None:
        async def main() -> None:
            async with handing_over(server.url) as client:
                await hand_over(client, 1)
                server.ask("XADD", stream_of(server), "*", *fields)
                await hand_over(client, 1, first=1)
                async with delivering(server.url) as (_, transport):
                    await until(lambda: len(ids_of(transport)) == 2, "the others arrive")
                    await until(lambda: server.ask("XLEN", stream_of(server)) == 1, "the others are settled")

        run(main())

    def test_what_belongs_to_a_removed_consumer_is_found_and_repaired(self, server: RealServer) -> None:
        async def main() -> None:
            async with handing_over(server.url) as client:
                async with delivering(server.url) as (_, transport):
                    await hand_over(client, 1)
                    await until(lambda: len(ids_of(transport)) == 1, "a relay has worked here")
                stream = stream_of(server)
                await hand_over(client, 5, first=1)
                server.ask("XREADGROUP", "GROUP", "relays", "by-hand", "COUNT", 3, "STREAMS", stream, ">")
                server.ask("XGROUP", "DELCONSUMER", stream, "relays", "by-hand")
                with RelayInspector(server.url, "key", lease=LEASE) as inspector:
                    assert [text for text in inspector.problems() if text.startswith("3 messages belong")]
                    assert inspector.repair() == 3
                    assert inspector.repair() == 0
                async with delivering(server.url) as (_, transport):
                    await until(lambda: len({*ids_of(transport)}) == 5, "they arrive")

        run(main())

    @pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-random"])
    def test_a_server_that_would_evict_the_stream_is_refused(self, start_server: Start, policy: str) -> None:
        server = start_server("--maxmemory-policy", policy)

        async def main() -> None:
            async with handing_over(server.url) as client:
                with pytest.raises(SpoolUnavailable, match="maxmemory-policy"):
                    await client.track("user-1", "Order Completed")
            spool = RedisSpool(server.url)
            client = Client("key", spool=spool, deliver=False)
            with pytest.raises(ValueError, match="maxmemory-policy"):
                await spool.connect()
            await client.aclose()

        run(main())

    def test_a_replica_is_used_once_it_is_promoted(self, start_server: Start) -> None:
        server = start_server("--replicaof", "127.0.0.1", "1")

        async def main() -> None:
            spool = RedisSpool(server.url, append_timeout=10.0)
            client = Client("key", spool=spool, deliver=False, overflow_timeout=20.0)
            with pytest.raises(SpoolUnavailable, match="replica"):
                await spool.connect()
            server.ask("REPLICAOF", "NO", "ONE")
            await until(spool.is_reachable, "it goes on by itself")
            await hand_over(client, 1)
            await client.aclose()

        run(main())


class TestEndingsThatCannotBeRecorded:
    """The server refuses a command, as an administrator may have it do."""

    @asynccontextmanager
    async def holding(self, server: RealServer, lease: float) -> AsyncIterator[tuple[RedisSpool, int]]:
        """A spool that holds a message, and the message's key."""
        spool = RedisSpool(server.url, lease=lease)
        client = Client("key", spool=spool, deliver=False, overflow_timeout=20.0)
        await hand_over(client, 1)
        await spool.read(1, 1)
        [message] = (await spool.read(1, 1_000)).messages
        yield spool, message.key
        await client.aclose()

    def test_other_relays_do_not_send_them_meanwhile(self, start_server: Start) -> None:
        server = start_server("--rename-command", "XDEL", "", "--rename-command", "XACK", "")

        async def main() -> None:
            other = RedisSpool(server.url, lease=LEASE)
            client = Client("key", spool=other, deliver=False)
            async with self.holding(server, LEASE) as (spool, key):
                await spool.settle([key], BatchResult(Status.DELIVERED))
                assert spool.statistics().unrecorded == 1
                await other.read(1, 1)
                reading = asyncio.create_task(other.read(1, 1_000))
                # Each looks once a quarter of a lease, so this is one and a half of them.
                await until(lambda: calls_of(server, "xpending") > 12, "it has looked for abandoned messages")
                assert not reading.done()
                reading.cancel()
                await client.aclose()

        run(main())

    def test_a_dead_letter_is_written_once_however_often_its_entry_cannot_be_removed(self, start_server: Start) -> None:
        server = start_server("--rename-command", "XDEL", "")

        async def main() -> None:
            async with self.holding(server, LEASE) as (spool, key):
                await spool.settle([key], BatchResult(Status.FAILED, "refused", 400))
                # Each call tries again to record what is not recorded yet.
                await spool.settle([], BatchResult(Status.DELIVERED))
                assert spool.statistics().unrecorded == 1
                with RelayInspector(server.url, "key") as inspector:
                    assert [letter.message_id for letter in inspector.dead()] == ["order-0"]

        run(main())

    def test_dead_letters_move_as_far_as_there_is_room_and_make_more_of_it(self, start_server: Start) -> None:
        server = start_server("--maxmemory-policy", "noeviction")

        async def main() -> None:
            spool = RedisSpool(server.url)
            client = Client("key", spool=spool, deliver=False, overflow_timeout=20.0)
            text = {"text": "x" * 8_000}
            calls = [client.track("u", "Order Completed", text, message_id=f"order-{n}") for n in range(100)]
            await asyncio.gather(*calls)
            await spool.read(1, 1)
            keys = [message.key for message in (await spool.read(100, 2**20)).messages]
            assert len(keys) == 100
            used = int(server.ask("INFO", "memory").decode().partition("used_memory:")[2].split()[0])
            # Not enough for all of the dead letters beside their messages.
            server.ask("CONFIG", "SET", "maxmemory", used + 300_000)
            await spool.settle(keys, BatchResult(Status.FAILED, "refused", 400))
            await until(lambda: server.ask("XLEN", stream_of(server)) == 0, "all of them are dead letters")
            with RelayInspector(server.url, "key") as inspector:
                assert sorted(letter.message_id for letter in inspector.dead()) == sorted(
                    f"order-{n}" for n in range(100)
                )
            await client.aclose()

        run(main())

    def test_no_dead_letter_is_lost(self, start_server: Start) -> None:
        server = start_server("--rename-command", "XRANGE", "")

        async def main() -> None:
            async with self.holding(server, LEASE) as (spool, key):
                await spool.settle([key], BatchResult(Status.FAILED, "refused", 400))
                assert (spool.statistics().failed, spool.statistics().unrecorded) == (1, 1)
                assert server.ask("XLEN", stream_of(server)) == 1

        run(main())


class TestConfirm:
    def test_without_a_replica_it_is_stored_and_not_as_safe_as_was_asked(self, server: RealServer) -> None:
        async def main() -> None:
            async with handing_over(server.url, confirm="replica", append_timeout=1.0) as client:
                with pytest.raises(SpoolUnavailable, match="confirm") as refused:
                    await client.track("user-1", "Order Completed")
                assert refused.value.maybe_stored
            assert server.ask("XLEN", stream_of(server)) == 1

        run(main())

    @pytest.mark.parametrize("has_file", [False, True])
    def test_what_is_not_confirmed_is_not_appended_over_and_over(
        self, server: RealServer, tmp_path: Path, has_file: bool
    ) -> None:
        on_failure = tmp_path / "spool" / "redis.db" if has_file else "memory"

        async def main() -> None:
            options = {"confirm": "replica", "append_timeout": 1.0, "on_failure": on_failure}
            async with handing_over(server.url, close_timeout=0.1, **options) as client:
                server.ask("CONFIG", "RESETSTAT")
                await client.track("user-1", "Order Completed")
                # As the message is kept here, in the file it may be moved from there once.
                await until(lambda: calls_of(server, "wait") >= 5, "it was tried again and again")
                assert server.ask("XLEN", stream_of(server)) <= 1 + has_file

        run(main())

    def test_once_it_is_in_the_append_only_file(self) -> None:
        async def main() -> None:
            with RealServer(binaries()["valkey"], "--appendonly", "yes") as server:
                async with handing_over(server.url, confirm="aof") as client:
                    await hand_over(client, 5)
                assert server.ask("XLEN", stream_of(server)) == 5

        run(main())


class TestOptions:
    @pytest.mark.parametrize(
        "options",
        [{"confirm": "all"}, {"max_messages": 0}, {"rate": 0}, {"lease": 0}, {"append_timeout": 0}, {"max_dead": 0}],
    )
    def test_what_is_out_of_range(self, options: Any) -> None:
        with pytest.raises(ValueError, match="must be"):
            RedisSpool("redis://localhost", **options)

    @pytest.mark.parametrize("option", ["max_messages", "max_dead"])
    @pytest.mark.parametrize("value", [1.5, True, "900", None])
    def test_what_is_no_count(self, option: str, value: Any) -> None:
        with pytest.raises(ValueError, match=f"{option} must be an integer"):
            RedisSpool("redis://localhost", **{option: value})

    @pytest.mark.parametrize("option", ["append_timeout", "rate", "lease"])
    @pytest.mark.parametrize("value", [True, "900", [1]])
    def test_what_is_no_number(self, option: str, value: Any) -> None:
        with pytest.raises(ValueError, match=f"{option} must be a number"):
            RedisSpool("redis://localhost", **{option: value})

    @pytest.mark.parametrize("option", ["append_timeout", "rate"])
    @pytest.mark.parametrize("value", [float("inf"), 10**400])
    def test_what_is_not_finite(self, option: str, value: Any) -> None:
        with pytest.raises(ValueError, match=f"{option} must be finite"):
            RedisSpool("redis://localhost", **{option: value})

    def test_a_misspelt_word_is_no_path(self) -> None:
        with pytest.raises(ValueError, match=r'write "\./memry"'):
            RedisSpool("redis://localhost", on_failure="memry")

    @pytest.mark.parametrize("option", ["clock", "wall_clock"])
    def test_what_is_no_clock(self, option: str) -> None:
        options: dict[str, Any] = {option: 5}
        with pytest.raises(ValueError, match=f"{option} must be a function"):
            RedisSpool("redis://localhost", **options)

    @pytest.mark.parametrize("path", ["abc", "-1", "1.5", "1/2", "%61"])
    def test_a_database_that_is_no_number(self, path: str) -> None:
        """The library would use database 0, or one of a number that is not there."""
        for made in (RedisSpool, lambda url: RelayInspector(url, "key")):
            with pytest.raises(ValueError, match="a number as the database"):
                made(f"redis://localhost/{path}")

    @pytest.mark.parametrize("path", ["", "/", "/3", "/3/", "//3", "?db=3", "/abc?db=3"])
    def test_a_database(self, path: str) -> None:
        RedisSpool(f"redis://localhost{path}")

    def test_a_url_or_client_that_cannot_be_used(self) -> None:
        url = "redis://localhost?decode_responses=True"
        for redis in ("localhost:6379", 5, url, Redis(decode_responses=True)):
            with pytest.raises(ValueError, match="edis"):
                RedisSpool(redis)  # type: ignore[arg-type]

    def test_the_librarys_time_limit_does_not_cut_ours_short(self) -> None:
        """Its newer versions wait for five seconds, and with a timer for each reply."""
        assert make_client("redis://localhost").get_connection_kwargs()["socket_timeout"] is None

    def test_the_password_is_in_no_repr_and_no_error(self) -> None:
        spool = RedisSpool("redis://user:hunter2@127.0.0.1:1/0")
        assert "hunter2" not in repr(spool)

        async def main() -> None:
            client = Client("key", spool=spool, deliver=False)
            with pytest.raises(SpoolUnavailable) as refused:
                await spool.connect()
            assert "hunter2" not in str(refused.value)
            await client.aclose()

        run(main())

    @pytest.mark.parametrize("write_key", ["key", "other"])
    def test_one_spool_is_for_one_client(self, write_key: str) -> None:
        spool = RedisSpool("redis://localhost")
        Client("key", spool=spool, deliver=False)
        with pytest.raises(ValueError, match="another client"):
            Client(write_key, spool=spool, deliver=False)

    def test_a_spool_without_a_client_does_not_connect(self) -> None:
        """It would not know yet in which stream the messages go."""

        async def main() -> None:
            with pytest.raises(RuntimeError, match="make the client"):
                await RedisSpool("redis://localhost").connect()

        run(main())


class TestStatistics:
    def test_a_host_that_delivers_as_well_counts_both(self, server: RealServer) -> None:
        async def main() -> None:
            async with delivering(server.url) as (client, transport):
                await hand_over(client, 10)
                await until(lambda: len(ids_of(transport)) == 10, "they arrive")
                await until(lambda: client.statistics().delivered == 10, "they are counted")
                found = client.statistics()
                assert (found.accepted, found.handed_over, found.delivered, found.recovered) == (20, 10, 10, 10)

        run(main())


class TestPace:
    def test_all_relays_keep_one_pace(self, server: RealServer) -> None:
        async def main() -> None:
            async with handing_over(server.url) as client:
                await hand_over(client, 400)
                began = time.perf_counter()
                async with (
                    delivering(server.url, rate=200.0, max_queue_size=50) as (_, one),
                    delivering(server.url, rate=200.0, max_queue_size=50) as (_, other),
                ):
                    await until(lambda: len(one.messages) + len(other.messages) == 400, "they arrive")
                    seconds = time.perf_counter() - began
            # A second's worth is there from the start.
            assert seconds > 0.8 * (400 - 200) / 200

        run(main())

    def test_a_request_has_no_more_than_a_second_of_the_pace(self, server: RealServer) -> None:
        """Otherwise a large one would wait for all its tokens, and then go out as a burst."""

        async def main() -> None:
            async with handing_over(server.url) as client:
                await hand_over(client, 300)
                sizes, answer = noting_sizes()
                async with delivering(server.url, answer, rate=40.0):
                    await until(lambda: sum(sizes) >= 120, "three seconds' worth arrive", 15.0)
                assert max(sizes) <= 40

        run(main())

    @pytest.mark.parametrize("rate", [0.5, 1.0, 1.9])
    def test_a_slow_pace_sends_one_by_one(self, server: RealServer, rate: float) -> None:
        async def main() -> None:
            async with handing_over(server.url) as client:
                await hand_over(client, 5)
                sizes, answer = noting_sizes()
                async with delivering(server.url, answer, rate=rate):
                    await until(lambda: len(sizes) >= 2, "two requests are made", 15.0)
                assert set(sizes) == {1}

        run(main())

    def test_a_clock_that_was_set_back_holds_nothing_up(self, server: RealServer) -> None:
        async def main() -> None:
            async with handing_over(server.url) as client:
                await hand_over(client, 10)
                # What a relay would have noted when the clock was an hour ahead.
                ahead = 1000 * (int(server.ask("TIME")[0]) + 3600)
                server.ask("SET", stream_of(server).removesuffix(b":m") + b":pace", f"{ahead}.000 {ahead}.000")
                async with delivering(server.url, rate=200.0) as (_, transport):
                    await until(lambda: len(ids_of(transport)) == 10, "they arrive")

        run(main())
