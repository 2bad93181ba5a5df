"""The client with a spool: on disk when the call returns, in memory as there is room, there again after a crash."""

import asyncio
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from segment_async import Client, Response, RetryPolicy, SpoolUnavailable, Status, TransportError, messages
from segment_async.spool import SpoolInspector, SQLiteSpool
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


TAKEN = Response(200, {"Content-Type": "application/json"}, b'{"success":true}')


def _down(batch: dict[str, object]) -> Response:
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
            deliveries = [await client.track("user-1", "Order Completed", {"n": number}) for number in range(500)]
            assert await client.flush(timeout=60) == 0
            outcomes = [await delivery for delivery in deliveries]
        assert {outcome.status for outcome in outcomes} == {Status.DELIVERED}
        assert [message["properties"]["n"] for message in transport.messages] == list(range(500))

    asyncio.run(main())


def test_what_an_earlier_process_left_comes_in_its_order_through_a_small_window(tmp_path: Path) -> None:
    path = tmp_path / "analytics.db"

    async def leave() -> None:
        async with Client("key", transport=RecordingTransport(_down), spool=path, close_timeout=0) as client:
            for number in range(1_000):
                client.enqueue_nowait(messages.track("user-1", "Order Completed", {"n": number}))

    async def send() -> None:
        transport = RecordingTransport()
        options = {"max_queue_size": 30, "max_in_flight": 1}
        async with Client("key", transport=transport, spool=path, **options) as client:
            assert await client.flush(timeout=60) == 0
            counts = client.statistics()
        assert [message["properties"]["n"] for message in transport.messages] == list(range(1_000))
        assert max(len(batch["batch"]) for batch in transport.batches) <= 30
        assert (counts.accepted, counts.recovered, counts.delivered) == (1_000, 1_000, 1_000)

    asyncio.run(leave())
    asyncio.run(send())


def test_what_was_given_before_any_loop_ran_is_sent_by_a_close(tmp_path: Path) -> None:
    transport = RecordingTransport()
    client = Client("key", transport=transport, spool=tmp_path / "analytics.db", close_timeout=30)
    client.enqueue_nowait(messages.track("user-1", "Order Completed", message_id="order-1"))
    asyncio.run(client.aclose())
    assert [message["messageId"] for message in transport.messages] == ["order-1"]
    assert client.statistics().reasons == {}


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


def test_the_newest_nine_tenths_stay_in_a_small_spool_that_makes_room(tmp_path: Path) -> None:
    """Also where all of the spool would fit into memory, and whether a call waits or not."""

    async def main() -> None:
        path = tmp_path / "analytics.db"
        spool = SQLiteSpool(path, max_bytes=200_000)
        down, size = RecordingTransport(_down), 1_000
        async with Client("key", transport=down, spool=spool, overflow="drop_oldest", close_timeout=0) as client:
            for number in range(1_000):
                fields = {"n": number, "fill": "x" * size}
                if number % 2:
                    await client.track("user-1", "Order Completed", fields)
                else:
                    client.nowait.track("user-1", "Order Completed", fields)
            statistics = client.statistics()
            assert statistics.reasons == {"queue_full": 1_000 - statistics.pending}
        transport = RecordingTransport()
        async with Client("key", transport=transport, spool=path) as successor:
            assert await successor.flush(timeout=30) == 0
        numbers = [message["properties"]["n"] for message in transport.messages]
        fitting = 200_000 // (size + 300)
        assert len(numbers) == statistics.pending >= fitting
        newest = range(1_000 - fitting * 9 // 10, 1_000)
        assert set(numbers) >= set(newest)

    asyncio.run(main())


def test_a_refused_message_is_a_dead_letter(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "analytics.db"
        async with Client("key", transport=RecordingTransport(lambda _: Response(403)), spool=path) as client:
            outcome = await (await client.track("user-1", "Order Completed"))
            assert (outcome.status, outcome.reason) == (Status.FAILED, "unauthorized")

    asyncio.run(main())
    [dead] = SpoolInspector(tmp_path / "analytics.db").dead()
    assert (dead.reason, dead.status_code, dead.attempts) == ("unauthorized", 403, 1)


def test_a_disk_that_refuses_is_told_at_the_call(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"

    async def main() -> None:
        client = Client("key", transport=RecordingTransport(), spool=path, close_timeout=0)
        path.write_text("another program's notes, and no spool")
        with pytest.raises(SpoolUnavailable):
            await client.track("user-1", "Order Completed")
        assert client.statistics().accepted == 0
        await client.aclose()

    asyncio.run(main())
    assert path.read_text() == "another program's notes, and no spool"


def from_outside(path: Path, change: str) -> None:
    """As the command line does it: in a process of its own."""
    program = (
        f"import sys; from segment_async.spool import SpoolInspector; visitor = SpoolInspector(sys.argv[1]); {change}"
    )
    subprocess.run([sys.executable, "-c", program, str(path)], check=True, timeout=60)


def check_law(client: Client) -> None:
    counts = client.statistics()
    assert counts.accepted == counts.delivered + counts.failed + counts.dropped + counts.pending, counts
    assert min(counts.pending, counts.queued, counts.queued_bytes, counts.in_flight) >= 0, counts


def test_a_dead_letter_put_back_in_line_is_sent_and_the_books_balance(tmp_path: Path) -> None:
    async def main() -> None:
        answers = [Response(403), Response(403)]
        transport = RecordingTransport(lambda _: answers.pop() if answers else TAKEN)
        spool = SQLiteSpool(tmp_path / "analytics.db", check_interval=0.01)
        async with Client("key", transport=transport, spool=spool, flush_at=1) as client:
            for number in range(2):
                outcome = await (await client.track("user-1", "Order Completed", message_id=f"order-{number}"))
                assert outcome.status is Status.FAILED
            await asyncio.to_thread(from_outside, tmp_path / "analytics.db", "visitor.retry(lambda _: True)")
            while client.statistics().delivered < 2:
                check_law(client)
                await asyncio.sleep(0)
            check_law(client)
            counts = client.statistics()
            assert (counts.accepted, counts.recovered, counts.failed, counts.pending) == (4, 2, 2, 0)

    asyncio.run(main())


def test_what_is_erased_from_outside_is_dropped_once_wherever_it_waits(tmp_path: Path) -> None:
    async def main() -> None:
        up = False
        transport = RecordingTransport(lambda batch: TAKEN if up else _down(batch))
        spool = SQLiteSpool(tmp_path / "analytics.db", check_interval=0.01)
        retry = RetryPolicy(backoff=0.01, max_backoff=0.01)
        async with Client("key", transport=transport, spool=spool, max_queue_size=3, retry=retry) as client:
            deliveries = [await client.track(f"user-{n % 2}", "Order Completed", {"n": n}) for n in range(10)]
            while client.statistics().retries == 0:  # noqa: ASYNC110  # a client has no event for this
                await asyncio.sleep(0)
            # Some are in memory, some on disk only.
            await asyncio.to_thread(from_outside, tmp_path / "analytics.db", "visitor.purge('user-1')")
            up = True
            assert await client.flush(timeout=30) == 0
            check_law(client)
            assert [(await each).status for each in deliveries[::2]] == [Status.DELIVERED] * 5
            assert {(await each).status for each in deliveries[1::2]} <= {Status.DELIVERED, Status.DROPPED}
            assert {(await each).reason for each in deliveries[5::2]} == {"purged"}

    asyncio.run(main())


class Late(SQLiteSpool):
    """Writes what it is given a little later."""

    def append_nowait(self, given: Any, done: Any, **options: Any) -> None:
        write = partial(super().append_nowait, given, done, **options)
        asyncio.get_running_loop().call_later(0.05, write)


@pytest.mark.parametrize("disk_works", [True, False])
def test_what_was_just_handed_over_is_on_disk_before_it_is_called_kept(
    tmp_path: Path, disk_works: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        path = tmp_path / "analytics.db"
        client = Client("key", transport=RecordingTransport(_down), spool=Late(path), close_timeout=0)
        if not disk_works:
            path.write_text("another program's notes, and no spool")
        delivery = client.enqueue_nowait(messages.track("user-1", "Order Completed"))
        await client.aclose()
        outcome, counts = await delivery, client.statistics()
        if disk_works:
            assert (outcome.status, outcome.reason) == (Status.KEPT, None)
            assert (counts.accepted, counts.dropped, counts.pending) == (1, 0, 1)
            assert SpoolInspector(path).status()[0].statistics.pending == 1
        else:
            assert (outcome.status, outcome.reason) == (Status.DROPPED, "spool_unavailable")
            assert (counts.accepted, counts.dropped, counts.pending) == (1, 1, 0)

    asyncio.run(main())
    assert ("Closed with 1 message unsent; kept in the spool for the next process." in caplog.messages) is disk_works


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


def test_what_is_lost_to_damage_is_dropped_and_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "analytics.db"

    async def leave() -> None:
        async with Client("key", transport=RecordingTransport(_down), spool=path, close_timeout=0) as client:
            for number in range(3):
                await client.track("user-1", "Order Completed", message_id=f"order-{number}")

    async def send() -> None:
        transport = RecordingTransport()
        async with Client("key", transport=transport, spool=path) as client:
            assert await client.flush(timeout=10) == 0
            counts = client.statistics()
            check_law(client)
        assert {message["messageId"] for message in transport.messages} == {"order-0", "order-2"}
        assert (counts.accepted, counts.delivered, counts.dropped, counts.pending) == (3, 2, 1, 0)
        assert counts.reasons == {"damaged": 1}

    asyncio.run(leave())
    path.write_bytes(path.read_bytes().replace(b'"messageId":"order-1"', b'"messageId":"order-9"'))
    asyncio.run(send())
