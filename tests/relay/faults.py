"""Faults that take their time: with processes, with the lease as it is, and with Sentinel. `make relay-faults` runs them.

The same faults run in seconds, with a lease of two, in `test_relays` and `test_faults`.
"""

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any

from segment_async import Client
from segment_async.relay import RedisSpool, RelayInspector

from .servers import RealServer
from .stage import relay, sink, until
from .test_relays import SHORT, hand_over, host, inspector, is_empty


def run(main: Coroutine[Any, Any, None]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(500):
            await main

    asyncio.run(limited())


def test_a_rolling_deploy_of_processes(server: RealServer) -> None:
    async def main() -> None:
        async with sink() as segment:
            client = host(server)
            message_ids: list[str] = []

            async def load() -> None:
                while True:
                    message_ids.extend(await hand_over(client, 20))
                    await asyncio.sleep(0.01)

            loading = asyncio.create_task(load())
            old = [relay(server.url, segment.url, *SHORT) for _ in range(3)]
            running = [await each.__aenter__() for each in old]
            for each in running:
                await each.until_ready()
            new = []
            for each in running:
                new.append(relay(server.url, segment.url, *SHORT))
                started = await new[-1].__aenter__()
                await started.until_ready()
                assert await each.end() == 0
                running = [*running, started]
            loading.cancel()
            await asyncio.wait([loading])
            await client.flush()
            await until(lambda: is_empty(server), "everything is delivered")
            for each in running[3:]:
                assert await each.end() == 0
            with inspector(server) as looking:
                assert [each for each in looking.status().consumers if each.name != "released" or each.held] == []
            assert set(message_ids) <= set(segment.ids)
            assert not segment.repeated
            for context in (*old, *new):
                await context.__aexit__(None, None, None)
            await client.aclose()

    run(main())


def test_a_killed_relay_is_taken_over_from_within_75_seconds(server: RealServer) -> None:
    """With the lease as it is."""

    async def main() -> None:
        async with sink() as segment:
            is_up = asyncio.Event()

            async def answer(_arrival: object) -> int:
                await is_up.wait()
                return 400

            segment.answer = answer
            client = Client("key", spool=RedisSpool(server.url), deliver=False)
            async with relay(server.url, segment.url) as one, relay(server.url, segment.url) as other:
                relays = (one, other)
                [message_id] = await hand_over(client, 1)
                await until(lambda: segment.arrivals, "the first request is under way")
                with RelayInspector(server.url, "key") as looking:
                    [holder] = [each.name for each in looking.status().consumers if each.held]
                # A consumer's name has the id of its process.
                next(each for each in relays if f"-{each.process.pid}-" in holder).send(signal.SIGKILL)
                is_up.set()
                took = await until(lambda: len(segment.arrivals) == 2, "another relay sends it", 90)
                print(f"taken over after {took:.1f} s")
                assert took < 75
                assert segment.last_of(message_id).retry_count == 1
                with RelayInspector(server.url, "key") as looking:
                    await until(lambda: list(looking.dead()), "the refusal is recorded")
                    [letter] = looking.dead()
            assert (letter.message_id, letter.attempts, letter.possibly_delivered) == (message_id, 2, True)
            await client.aclose()

    run(main())


def test_a_relay_stopped_for_two_minutes_sends_nothing_more_of_what_it_held(server: RealServer) -> None:
    """With the lease as it is."""

    async def main() -> None:
        async with sink() as before, sink() as after:
            is_up = asyncio.Event()

            async def hang(_arrival: object) -> int:
                await is_up.wait()
                return 500

            before.answer = hang
            client = Client("key", spool=RedisSpool(server.url), deliver=False)
            async with relay(server.url, before.url) as stopped:
                message_ids = await hand_over(client, 400)
                await until(lambda: before.arrivals, "the first request is under way")
                with RelayInspector(server.url, "key") as looking:
                    await until(lambda: looking.status().unread == 0, "it holds all of them")
                stopped.send(signal.SIGSTOP)
                loop = asyncio.get_running_loop()
                began = loop.time()
                async with relay(server.url, after.url):
                    took = await until(lambda: {*message_ids} <= {*after.ids}, "the other one sends them", 100)
                    print(f"all 400 were taken over after {took:.1f} s")
                    await until(lambda: loop.time() > began + 120, "two minutes are over", 130)
                    sent_before = len(before.arrivals)
                    is_up.set()
                    stopped.send(signal.SIGCONT)
                    await until(lambda: "Holds on messages have ended" in stopped.log, "it notices")
                    other = await hand_over(client, 200)
                    await until(lambda: {*other} <= {*before.ids, *after.ids}, "what is new arrives")
                    of_old = [each for each in before.arrivals[sent_before:] if {*each.ids} & {*message_ids}]
                    assert not of_old
            await client.aclose()

    run(main())
