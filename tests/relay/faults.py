"""Faults that take their time: with processes, with the lease as it is, and with Sentinel. `make relay-faults` runs them.

The same faults run in seconds, with a lease of two, in `test_relays` and `test_faults`.
"""

import asyncio
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import RedisCluster
from redis.asyncio.sentinel import Sentinel

from segment_async import Client, SpoolUnavailable
from segment_async.relay import RedisSpool, RelayInspector
from segment_async.relay._entries import keys_for

from .servers import RealServer, binaries, cluster_node, free_ports
from .stage import ROOT, relay, sink, until
from .test_relays import LEASE, SHORT, hand_over, host, inspector, is_empty


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
            client = host(server)
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
            client = host(server)
            async with relay(server.url, before.url) as stopped:
                message_ids = await hand_over(client, 400)
                # Not amid the sending of one, which would arrive later.
                await until(
                    lambda: len(before.arrivals) == 4 or {*message_ids} <= {*before.ids}, "all requests are under way"
                )
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


@contextmanager
def replicated(kind: str) -> Iterator[tuple[RealServer, int]]:
    """A primary with a replica and a Sentinel: the primary, and the Sentinel's port."""
    binary = binaries()[kind]
    first, second, sentinel = free_ports(3)
    with (
        RealServer(binary, "--port", str(first)) as primary,
        RealServer(binary, "--port", str(second), "--replicaof", "127.0.0.1", str(first)),
        tempfile.TemporaryDirectory() as folder,
    ):
        file = Path(folder) / "sentinel.conf"
        file.write_text(
            f"port {sentinel}\ndir {folder}\nsentinel monitor main 127.0.0.1 {first} 1\n"
            "sentinel down-after-milliseconds main 1000\nsentinel failover-timeout main 5000\n"
        )
        process = subprocess.Popen([str(binary), str(file), "--sentinel"], stdout=subprocess.DEVNULL)
        try:
            yield primary, sentinel
        finally:
            process.kill()
            process.wait()


@pytest.mark.parametrize("kind", list(binaries()))
def test_a_failover_under_load_loses_the_unreplicated_tail_at_most(kind: str) -> None:
    async def main() -> None:
        with replicated(kind) as (primary, port):

            def spool() -> RedisSpool:
                return RedisSpool(Sentinel([("127.0.0.1", port)]).master_for("main"), lease=LEASE)

            await until(lambda: b"state=online" in primary.ask("INFO", "replication"), "the replica follows")
            async with sink() as segment:
                client = Client("key", spool=spool(), deliver=False)
                relays = [Client("key", spool=spool(), host=segment.url, flush_interval=0.05) for _ in range(2)]
                for each in relays:
                    await each.__aenter__()
                loop = asyncio.get_running_loop()
                told: dict[str, float] = {}
                refused = 0

                async def load() -> None:
                    nonlocal refused
                    while True:
                        try:
                            told[(await client.track("user-1", "Order Completed")).message_id] = loop.time()
                        except SpoolUnavailable:
                            refused += 1
                            await asyncio.sleep(0.01)

                loading = [asyncio.create_task(load()) for _ in range(5)]
                await until(lambda: len(told) > 1_000, "the load is on")
                killed = loop.time()
                await asyncio.to_thread(primary.kill)
                before = len(told)
                took = await until(lambda: len(told) > before + 1_000, "appends go on at the new primary", 60)
                for each in loading:
                    each.cancel()
                await asyncio.wait(loading)
                missing = [each for each in told if each not in segment.ids]
                loop_end = loop.time() + 20
                while missing and loop.time() < loop_end:
                    await asyncio.sleep(0.1)
                    arrived = set(segment.ids)
                    missing = [each for each in told if each not in arrived]
                print(f"{kind}: {len(told):,} told, {refused:,} refused, back after {took:.1f} s,", end=" ")
                print(f"{len(missing)} lost, {len(segment.repeated)} twice")
                # What was told longer than a second before has been replicated.
                assert all(killed - 1 < told[each] for each in missing)
                unmarked = [each for each in segment.repeated if segment.last_of(each).retry_count == 0]
                assert not unmarked
                for each in (*relays, client):
                    await each.aclose()

    run(main())


@pytest.mark.parametrize("kind", list(binaries()))
def test_a_cluster_goes_on_after_the_loss_of_a_node(kind: str) -> None:
    """Three nodes, and a replica of the one that has the messages."""

    async def main() -> None:
        stream = keys_for(sha256(b"key").hexdigest()[:16]).messages
        with ExitStack() as stack:
            nodes = [stack.enter_context(cluster_node(binaries()[kind])) for _ in range(4)]
            owner, replica = nodes[0], nodes[3]
            slot = owner.ask("CLUSTER", "KEYSLOT", stream)
            for node, low, high in zip(nodes, (slot, 0, slot + 1), (slot, slot - 1, 16_383), strict=False):
                node.ask("CLUSTER", "ADDSLOTSRANGE", low, high)
            for node in nodes[1:]:
                node.ask("CLUSTER", "MEET", "127.0.0.1", owner.port, owner.bus)
            await until(lambda: all(b"_state:ok" in each.ask("CLUSTER", "INFO") for each in nodes), "it is whole")
            await until(lambda: owner.ask("CLUSTER", "MYID") in replica.ask("CLUSTER", "NODES"), "all are known")
            replica.ask("CLUSTER", "REPLICATE", owner.ask("CLUSTER", "MYID"))
            await until(lambda: b"state=online" in owner.ask("INFO", "replication"), "the replica follows")

            def spool() -> RedisSpool:
                return RedisSpool(RedisCluster(host="127.0.0.1", port=nodes[1].port), lease=LEASE, append_timeout=10.0)

            async with sink() as segment:
                client = Client("key", spool=spool(), deliver=False, overflow_timeout=20.0)
                async with client, Client("key", spool=spool(), host=segment.url, flush_interval=0.05):
                    told = await hand_over(client, 100)
                    await until(lambda: {*told} <= {*segment.ids}, "they arrive")
                    waiting = asyncio.create_task(hand_over(client, 1_000))
                    await asyncio.to_thread(owner.kill)
                    with pytest.raises(SpoolUnavailable):
                        await waiting

                    async def is_back() -> bool:
                        try:
                            told.extend(await hand_over(client, 100))
                        except SpoolUnavailable:
                            await asyncio.sleep(0.1)
                            return False
                        return True

                    async with asyncio.timeout(60):
                        while not await is_back():
                            pass
                    await until(lambda: {*told} <= {*segment.ids}, "the next ones arrive")

    run(main())


def test_the_demo_loses_nothing() -> None:
    command = [sys.executable, "examples/demo_relay.py", "--seconds", "10"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^lost +0$", done.stdout, re.MULTILINE)
