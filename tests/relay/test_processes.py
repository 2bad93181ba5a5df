"""One `RedisSpool` in several processes, threads and loops: each process has an engine of its own."""

import asyncio
import subprocess
import sys
import threading
import time

import pytest

from segment_async import Client
from segment_async.relay import RedisSpool, RelayInspector

from .servers import SOON, RealServer, binaries, cluster_node
from .stage import ROOT

FORKS = """
import asyncio, os, sys
from segment_async import Client
from segment_async.relay import RedisSpool

spool = RedisSpool(sys.argv[1])
client = Client("key", spool=spool, deliver=False)

async def hand_over(name, count):
    for number in range(count):
        await client.track("user-1", "Order Completed", message_id=f"{name}-{number}")

async def main():
    await hand_over("before", 5)
    child = os.fork()
    if child == 0:
        # A loop of its own, as a worker of a pre-forking server has it.
        from asyncio import events
        events._set_running_loop(None)
        asyncio.run(hand_over("child", 5))
        asyncio.run(client.aclose())
        os._exit(0)
    await hand_over("parent", 5)
    _, status = await asyncio.to_thread(os.waitpid, child, 0)
    await hand_over("after", 5)
    await client.aclose()
    return os.waitstatus_to_exitcode(status)

sys.exit(asyncio.run(main()))
"""

EXITS = """
import sys
from segment_async import Client
from segment_async.relay import RedisSpool

client = Client("key", spool=RedisSpool(sys.argv[1]), deliver=False)
for number in range(5):
    client.nowait.track("user-1", "Order Completed", message_id=f"exit-{number}")
"""


def run_program(text: str, server: RealServer) -> None:
    # From Python 3.12 on, which warns of any fork with threads.
    fork = ("-W", "ignore:This process:DeprecationWarning")
    done = subprocess.run(
        [sys.executable, *fork, "-c", text, server.url],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def ids_in(server: RealServer) -> list[str]:
    with RelayInspector(server.url, "key") as inspector:
        return sorted(each.message_id for each in inspector.pending())


def test_a_forked_child_appends_by_itself_and_leaves_the_parent_alone(server: RealServer) -> None:
    run_program(FORKS, server)
    assert ids_in(server) == sorted(
        f"{name}-{number}" for name in ("before", "child", "parent", "after") for number in range(5)
    )


@pytest.mark.parametrize("options", ["", ", single_connection_client=True"])
def test_a_forked_child_leaves_the_connections_of_a_ready_client_alone(server: RealServer, options: str) -> None:
    """Its commands would go through them, and the parent would take the replies for those to its own."""
    ready = f"RedisSpool(__import__('redis.asyncio').asyncio.from_url(sys.argv[1]{options}))"
    run_program(FORKS.replace("RedisSpool(sys.argv[1])", ready), server)
    assert len(ids_in(server)) == 20


def test_a_forked_child_leaves_the_connections_of_a_cluster_alone() -> None:
    with cluster_node(binaries()["valkey"]) as node:
        node.ask("CLUSTER", "ADDSLOTSRANGE", 0, 16_383)
        end = time.monotonic() + SOON
        while b"cluster_state:ok" not in node.ask("CLUSTER", "INFO"):
            assert time.monotonic() < end
        ready = f"RedisSpool(__import__('redis.asyncio').asyncio.RedisCluster('127.0.0.1', {node.port}))"
        run_program(FORKS.replace("RedisSpool(sys.argv[1])", ready), node)
        assert len(ids_in(node)) == 20


def test_what_was_queued_without_a_loop_is_handed_over_at_exit(server: RealServer) -> None:
    run_program(EXITS, server)
    assert ids_in(server) == [f"exit-{number}" for number in range(5)]


def test_loops_in_turn_and_threads_at_once(server: RealServer) -> None:
    # Not the limits of a busy machine.
    spool = RedisSpool(server.url, append_timeout=10.0)
    client = Client("key", spool=spool, deliver=False, overflow_timeout=20.0)

    async def hand_over(name: str) -> None:
        for number in range(10):
            await client.track("user-1", "Order Completed", message_id=f"{name}-{number}")

    for name in ("one", "two"):
        asyncio.run(hand_over(name))
    threads = [threading.Thread(target=lambda name=name: asyncio.run(hand_over(name))) for name in ("three", "four")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    asyncio.run(client.aclose())
    assert len(ids_in(server)) == 40
