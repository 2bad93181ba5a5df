"""The client with a spool: on disk when the call returns, in memory as there is room, there again after a crash."""

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from segment_async import Client, Status, TransportError, messages
from segment_async.testing import RecordingTransport

CRASH = """
import asyncio, os, signal, sys
from segment_async import Client, TransportError
from segment_async.testing import RecordingTransport


def down(batch):
    raise TransportError("no connection", maybe_sent=False)


async def main():
    client = Client("key", transport=RecordingTransport(down), spool=sys.argv[1])
    for number in range(50):
        await client.track("user-1", "Order Completed", {"n": number}, message_id=f"order-{number}")
        print(number, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


asyncio.run(main())
"""


def _down(batch: dict[str, object]) -> None:
    raise TransportError("no connection", maybe_sent=False)


def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "spool" / "analytics.db"
    child = subprocess.run([sys.executable, "-c", CRASH, str(path)], capture_output=True, text=True, timeout=60)
    assert child.returncode == -signal.SIGKILL, child.stderr
    acknowledged = {f"order-{number}" for number in child.stdout.split()}
    assert len(acknowledged) == 50

    async def main() -> None:
        transport = RecordingTransport()
        async with Client("key", transport=transport, spool=path) as client:
            assert await client.flush(timeout=30) == 0
            statistics = client.statistics()
        assert {message["messageId"] for message in transport.messages} == acknowledged
        assert (statistics.recovered, statistics.accepted, statistics.delivered) == (50, 50, 50)

    asyncio.run(main())


def test_a_close_keeps_what_it_could_not_send_and_the_next_client_sends_it(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "analytics.db"
        async with Client("key", transport=RecordingTransport(_down), spool=path, close_timeout=0) as client:
            deliveries = [await client.track("user-1", "Order Completed", {"n": number}) for number in range(3)]
        outcome = await deliveries[0]
        assert outcome.status is Status.KEPT
        outcome.raise_for_failure()
        assert client.statistics().pending == 3
        transport = RecordingTransport()
        async with Client("key", transport=transport, spool=path) as successor:
            assert await successor.flush(timeout=30) == 0
        assert [message["properties"]["n"] for message in transport.messages] == [0, 1, 2]

    asyncio.run(main())


def test_a_backlog_larger_than_memory_passes_in_order(tmp_path: Path) -> None:
    async def main() -> None:
        transport = RecordingTransport()
        options = {"max_queue_size": 20, "max_in_flight": 1, "flush_at": 10}
        async with Client("key", transport=transport, spool=tmp_path / "analytics.db", **options) as client:
            deliveries = [
                client.enqueue_nowait(messages.track("user-1", "Order Completed", {"n": number}))
                for number in range(500)
            ]
            assert await client.flush(timeout=60) == 0
            outcomes = [await delivery for delivery in deliveries]
        assert {outcome.status for outcome in outcomes} == {Status.DELIVERED}
        assert [message["properties"]["n"] for message in transport.messages] == list(range(500))

    asyncio.run(main())


def test_the_same_id_twice_is_the_same_message(tmp_path: Path) -> None:
    async def main() -> None:
        transport = RecordingTransport()
        async with Client("key", transport=transport, spool=tmp_path / "analytics.db", flush_interval=60) as client:
            first = await client.track("user-1", "Order Completed", message_id="order-1")
            again = await client.track("user-1", "Order Completed", message_id="order-1")
            await client.flush(timeout=30)
            assert (await first).status is (await again).status is Status.DELIVERED
            assert client.statistics().accepted == 1
        assert len(transport.messages) == 1

    asyncio.run(main())


def test_a_refused_message_is_a_dead_letter(tmp_path: Path) -> None:
    from segment_async import Response

    async def main() -> None:
        path = tmp_path / "analytics.db"
        async with Client("key", transport=RecordingTransport(lambda _: Response(403)), spool=path) as client:
            outcome = await (await client.track("user-1", "Order Completed"))
            assert (outcome.status, outcome.reason) == (Status.FAILED, "unauthorized")

    asyncio.run(main())
    listed = subprocess.run(
        [sys.executable, "-m", "segment_async.cli", "spool", "status", str(tmp_path / "analytics.db"), "--json"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    if listed.returncode == 0:
        assert "1" in json.dumps(listed.stdout)


def test_a_disk_that_refuses_is_told_at_the_call(tmp_path: Path) -> None:
    from segment_async import SpoolUnavailable

    path = tmp_path / "notes.txt"
    path.write_text("somebody's notes, and no spool")

    async def main() -> None:
        client = Client("key", transport=RecordingTransport(), spool=path, close_timeout=0)
        with pytest.raises(SpoolUnavailable):
            await client.track("user-1", "Order Completed")
        assert client.statistics().accepted == 0
        await client.aclose()

    asyncio.run(main())
    assert path.read_text() == "somebody's notes, and no spool"


def test_a_cancelled_call_leaves_its_message_accepted(tmp_path: Path) -> None:
    async def main() -> None:
        transport = RecordingTransport()
        async with Client("key", transport=transport, spool=tmp_path / "analytics.db") as client:
            call = asyncio.ensure_future(client.track("user-1", "Order Completed", message_id="order-1"))
            await asyncio.sleep(0)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert client.statistics().accepted == 1
            assert await client.flush(timeout=30) == 0
        assert [message["messageId"] for message in transport.messages] == ["order-1"]

    asyncio.run(main())
