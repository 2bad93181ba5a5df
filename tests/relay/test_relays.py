"""Relays as processes: what is handed over arrives, one takes over from another, and an end leaves nothing behind."""

import asyncio
import signal
import sys
from collections.abc import Coroutine
from typing import Any

from segment_async import Client
from segment_async.relay import RedisSpool, RelayInspector

from .servers import RealServer
from .stage import ROOT, SOON, relay, sink, until

# A lease for tests: what takes 75 seconds with a lease of 60 takes 2.5 with one of 2.
LEASE = 2.0
SHORT = ("--lease", str(LEASE))

WEB_HOST = """
import asyncio, sys
from segment_async import Client
from segment_async.relay import RedisSpool

async def main():
    client = Client("key", spool=RedisSpool(sys.argv[1]), deliver=False)
    number = 0
    while True:
        delivery = await client.track("user-1", "Order Completed", {"n": number})
        print(delivery.message_id, flush=True)
        number += 1

asyncio.run(main())
"""


def run(main: Coroutine[Any, Any, None]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(100):
            await main

    asyncio.run(limited())


def host(server: RealServer, key: str = "key") -> Client:
    """A client that only hands over, with the limits of a busy machine."""
    spool = RedisSpool(server.url, append_timeout=10.0)
    return Client(key, spool=spool, deliver=False, overflow_timeout=20.0)


def inspector(server: RealServer) -> RelayInspector:
    return RelayInspector(server.url, "key", lease=LEASE)


def is_empty(server: RealServer) -> bool:
    with inspector(server) as looking:
        return looking.status().backlog == 0


async def hand_over(client: Client, count: int) -> list[str]:
    return [(await client.track("user-1", "Order Completed", {"n": n})).message_id for n in range(count)]


def test_what_a_killed_host_handed_over_is_delivered(server: RealServer) -> None:
    async def main() -> None:
        async with sink() as segment, relay(server.url, segment.url, *SHORT):
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", WEB_HOST, server.url, stdout=asyncio.subprocess.PIPE, cwd=ROOT
            )
            assert process.stdout is not None
            acknowledged = [(await process.stdout.readline()).decode().strip() for _ in range(50)]
            process.kill()
            acknowledged += (await process.stdout.read()).decode().split()
            await process.wait()
            await until(lambda: set(acknowledged) <= set(segment.ids), "all of it arrives")
            assert not segment.repeated

    run(main())


def test_a_relay_that_was_killed_in_a_request_is_taken_over_from(server: RealServer) -> None:
    async def main() -> None:
        async with sink() as segment:
            is_up = asyncio.Event()

            async def answer(_arrival: object) -> int:
                await is_up.wait()
                return 400

            segment.answer = answer
            client = host(server)
            async with relay(server.url, segment.url, *SHORT) as first:
                [message_id] = await hand_over(client, 1)
                await until(lambda: segment.arrivals, "the first request is under way")
                await first.end(signal.SIGKILL)
            is_up.set()
            async with relay(server.url, segment.url, *SHORT) as second:
                await second.until_ready()
                took = await until(lambda: len(segment.arrivals) == 2, "another relay sends it")
                assert took < 1.25 * LEASE + SOON / 3
                assert segment.last_of(message_id).retry_count == 1
                with inspector(server) as looking:
                    await until(lambda: list(looking.dead()), "the refusal is recorded")
                    [letter] = looking.dead()
            assert (letter.message_id, letter.attempts, letter.possibly_delivered) == (message_id, 2, True)
            await client.aclose()

    run(main())


def test_a_relay_that_was_stopped_sends_nothing_more_of_what_it_held(server: RealServer) -> None:
    async def main() -> None:
        async with sink() as before, sink() as after:
            is_up = asyncio.Event()

            async def hang(_arrival: object) -> int:
                await is_up.wait()
                return 500

            before.answer = hang
            client = host(server)
            async with relay(server.url, before.url, *SHORT) as stopped:
                message_ids = await hand_over(client, 400)
                # Not amid the sending of one, which would arrive later.
                await until(
                    lambda: len(before.arrivals) == 4 or set(message_ids) <= set(before.ids),
                    "all requests are under way",
                )
                with inspector(server) as looking:
                    await until(lambda: looking.status().unread == 0, "it holds all of them")
                stopped.send(signal.SIGSTOP)
                async with relay(server.url, after.url, *SHORT):
                    await until(lambda: set(message_ids) <= set(after.ids), "the other one sends them")
                    sent_before = len(before.arrivals)
                    is_up.set()
                    stopped.send(signal.SIGCONT)
                    await until(lambda: "Holds on messages have ended" in stopped.log, "it notices")
                    # It is at work again, and sends what is new.
                    other = await hand_over(client, 200)
                    await until(lambda: set(other) <= {*before.ids, *after.ids}, "what is new arrives")
                    of_old = [arrival for arrival in before.arrivals[sent_before:] if {*arrival.ids} & {*message_ids}]
                    assert not of_old
            await client.aclose()

    run(main())


def test_a_rolling_deploy_loses_and_repeats_nothing_and_leaves_no_consumer(server: RealServer) -> None:
    """Within one process; `faults` does it with processes and SIGTERM."""

    async def main() -> None:
        async with sink() as segment:
            client = host(server)
            message_ids: list[str] = []

            async def load() -> None:
                while True:
                    message_ids.extend(await hand_over(client, 20))

            loading = asyncio.create_task(load())

            def start() -> Client:
                spool = RedisSpool(server.url, lease=LEASE)
                return Client("key", spool=spool, host=segment.url, flush_interval=0.01)

            relays = [start() for _ in range(3)]
            for each in relays:
                await each.__aenter__()
            for old in list(relays):
                delivered = len(segment.ids)
                await until(lambda: len(segment.ids) > delivered + 200, "relays are at work")  # noqa: B023  # at once
                relays.append(start())
                await relays[-1].__aenter__()
                await old.aclose()
            loading.cancel()
            await asyncio.wait([loading])
            await client.flush()
            await until(lambda: is_empty(server), "everything is delivered")
            for each in relays:
                await each.aclose()
            with inspector(server) as looking:
                assert [each for each in looking.status().consumers if each.name != "released" or each.held] == []
            assert {*message_ids} <= {*segment.ids}
            assert not segment.repeated
            await client.aclose()

    run(main())


def test_two_write_keys_on_one_server_do_not_meet(server: RealServer) -> None:
    async def main() -> None:
        async with sink() as one, sink() as two:
            hosts = [host(server, key) for key in ("key", "other")]
            async with relay(server.url, one.url), relay(server.url, two.url, key="other"):
                ids = [await hand_over(client, 30) for client in hosts]
                await until(lambda: len(one.ids) == len(two.ids) == 30, "both arrive")
                assert [sorted(segment.ids) for segment in (one, two)] == [sorted(each) for each in ids]
            for client in hosts:
                await client.aclose()

    run(main())


def test_a_poison_message_becomes_a_dead_letter_and_can_be_retried(server: RealServer) -> None:
    async def main() -> None:
        async with sink() as segment:

            async def answer(arrival: Any) -> int:
                return 400 if "Poison" in arrival.events else 200

            segment.answer = answer
            client = host(server)
            neighbours = await hand_over(client, 20)
            poison = (await client.track("user-1", "Poison")).message_id
            neighbours += await hand_over(client, 20)
            async with relay(server.url, segment.url, *SHORT):
                await until(lambda: is_empty(server), "all of them end")
                with inspector(server) as looking:
                    assert [each.message_id for each in looking.dead()] == [poison]
                    segment.answer = None
                    assert looking.retry(lambda letter: letter.reason == "refused") == 1
                    await until(lambda: is_empty(server), "the poison is delivered")
                    assert not list(looking.dead())
            taken = {message_id for each in segment.arrivals if "Poison" not in each.events for message_id in each.ids}
            assert set(neighbours) <= taken
            await client.aclose()

    run(main())
