"""Nothing stands still for good: after a fault ends, everything settles by itself, within a bounded time.

No test here calls `flush` or `track` once the fault is over: the virtual clock runs on, and the client has to go on
without being asked.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from segment_async import Client, Response, RetryPolicy, TransportError, messages
from segment_async.spool import SpoolUnavailable
from segment_async.testing import RecordingTransport
from tests.support.law import check_counters
from tests.support.memory_spool import ScriptedDisk, SpoolStore
from tests.support.scripted_transport import Request, ScriptedTransport, Step, refused
from tests.support.virtual_clock import run

QUICK = RetryPolicy(backoff=0.02, max_backoff=0.2)
OUTAGE = 5.0
# Virtual seconds after the fault in which everything settles. The longest back-off here takes a fifth of a second.
BOUND = 60.0


def until(seconds: float) -> Callable[[Request], Step]:
    """No connection before this moment of the virtual clock."""
    return lambda request: refused() if request.began < seconds else None


class TestAnOutageBeforeASmallWindow:
    """A spool keeps more than memory holds, the endpoint refuses, then it is back."""

    @staticmethod
    def outage(count: int, **options: Any) -> None:
        async def main() -> None:
            transport = ScriptedTransport(until(OUTAGE))
            options.setdefault("flush_interval", 0.02)
            options["overflow_timeout"] = None
            client = Client("key", transport=transport, spool=SpoolStore().open(), retry=QUICK, **options)
            fill = "x" * 200
            for first in range(0, count, 20):
                await asyncio.gather(*(client.track("u", "E", {"n": first + n, "fill": fill}) for n in range(20)))
            await asyncio.sleep(OUTAGE)
            await asyncio.sleep(BOUND)
            left = client.statistics()
            check_counters(left)
            assert (left.accepted, left.delivered, left.pending, left.oldest_age) == (count, count, 0, 0.0)
            assert len(transport.taken) == len(set(transport.taken)) == count
            await client.aclose()

        run(main())

    @pytest.mark.parametrize("max_queue_size", [5, 50, 200, 1_000])
    def test_bounded_by_a_count(self, max_queue_size: int) -> None:
        self.outage(3_000, max_queue_size=max_queue_size, flush_at=20)

    @pytest.mark.parametrize("max_queue_bytes", [40_000, 262_144, 524_288])
    def test_bounded_by_bytes(self, max_queue_bytes: int) -> None:
        self.outage(3_000, max_queue_bytes=max_queue_bytes)

    @pytest.mark.parametrize("max_in_flight", [1, 4, 32])
    def test_with_that_many_requests_at_once(self, max_in_flight: int) -> None:
        self.outage(3_000, max_queue_size=500, max_in_flight=max_in_flight)

    def test_with_the_default_window(self) -> None:
        self.outage(12_000)

    def test_with_files(self, tmp_path: Path) -> None:
        async def main() -> None:
            is_up = False

            def answer(_batch: object) -> Response:
                if not is_up:
                    raise TransportError("no connection", maybe_sent=False)
                return Response(200, {"Content-Type": "application/json"}, b'{"success":true}')

            transport = RecordingTransport(answer)
            client = Client(
                "key",
                transport=transport,
                spool=tmp_path / "analytics.db",
                retry=QUICK,
                flush_interval=0.02,
                max_queue_size=100,
                close_timeout=0,
            )
            for number in range(4_000):
                await client.track("u", "E", {"n": number})
            while client.statistics().retries < 3:  # noqa: ASYNC110  # a client has no event for this
                await asyncio.sleep(0)
            is_up = True
            # What the files need is real time: this asks for the end, and for nothing to be sent.
            left = await client.flush(timeout=10)
            assert (left, client.statistics().delivered) == (0, 4_000)
            await client.aclose()

        asyncio.run(main())


class TestAllTasksCancelled:
    """An application that cancels all tasks of its loop, once, and goes on."""

    @pytest.mark.parametrize("with_spool", [False, True], ids=["memory", "spool"])
    @pytest.mark.parametrize("moment", [0.0, 0.005, 0.3, 2.0], ids=["at once", "writing", "sending", "idle"])
    @pytest.mark.parametrize("times", [1, 5])
    def test_the_client_goes_on(self, times: int, moment: float, with_spool: bool) -> None:
        async def main() -> None:
            transport = ScriptedTransport()
            spool = SpoolStore(ScriptedDisk(seconds=0.01)).open() if with_spool else None
            client = Client("key", transport=transport, spool=spool, flush_at=10)
            for number in range(100 if with_spool else 15):
                client.enqueue_nowait(messages.track("u", "E", message_id=f"before-{number}"))
            for _ in range(times):
                await asyncio.sleep(moment)
                for task in asyncio.all_tasks():
                    if task is not asyncio.current_task():
                        task.cancel()
            await asyncio.sleep(BOUND)
            assert client.statistics().pending == 0
            delivery = client.enqueue_nowait(messages.track("u", "E", message_id="after"))
            await asyncio.sleep(BOUND)
            assert delivery.outcome is not None
            assert "after" in transport.taken
            assert client.statistics().pending == 0
            await client.aclose()

        run(main())


class TestASpoolThatRaises:
    """A spool of the application's own, which raises what the protocol does not know."""

    @pytest.mark.parametrize("fault", [RuntimeError, OSError, ZeroDivisionError, SpoolUnavailable])
    @pytest.mark.parametrize("times", [1, 3])
    def test_read(self, times: int, fault: type[Exception]) -> None:
        async def main() -> None:
            transport = ScriptedTransport()
            disk = ScriptedDisk()
            client = Client("key", transport=transport, spool=SpoolStore(disk).open())
            await client.track("u", "E")
            await asyncio.sleep(BOUND)
            disk.read_faults.extend(fault("a bug of the spool's") for _ in range(times))
            for _ in range(100):
                await client.track("u", "E")
            await asyncio.sleep(BOUND)
            assert client.statistics().delivered == 101
            await client.aclose()

        run(main())

    @pytest.mark.parametrize("fault", [RuntimeError, SpoolUnavailable])
    def test_the_first_read(self, fault: type[Exception]) -> None:
        async def main() -> None:
            disk = ScriptedDisk()
            disk.read_faults.append(fault("a bug of the spool's"))
            client = Client("key", transport=ScriptedTransport(), spool=SpoolStore(disk).open())
            await client.track("u", "E")
            await asyncio.sleep(BOUND)
            assert client.statistics().delivered == 1
            await client.aclose()

        run(main())

    def test_one_that_cannot_be_read_for_an_hour_is_asked_at_a_measured_pace(self) -> None:
        async def main() -> None:
            disk = ScriptedDisk()
            client = Client("key", transport=ScriptedTransport(), spool=SpoolStore(disk).open())
            disk.read_faults.extend(RuntimeError("a bug of the spool's") for _ in range(100_000))
            await client.track("u", "E")
            await asyncio.sleep(3_600)
            asked = 100_000 - len(disk.read_faults)
            assert 10 <= asked <= 10 * 3_600
            disk.read_faults.clear()
            await asyncio.sleep(BOUND)
            assert client.statistics().delivered == 1
            await client.aclose()

        run(main())


class TestADiskThatWasFull:
    def test_takes_messages_again_and_delivers_all(self) -> None:
        async def main() -> None:
            disk = ScriptedDisk()
            transport = ScriptedTransport(until(OUTAGE))
            client = Client("key", transport=transport, spool=SpoolStore(disk).open(), retry=QUICK, max_queue_size=50)
            taken = 0
            for _ in range(300):
                await client.track("u", "E")
                taken += 1
            disk.refuses = True
            for _ in range(5):
                with pytest.raises(SpoolUnavailable):
                    await client.track("u", "E")
            disk.refuses = False
            for _ in range(5):
                await client.track("u", "E")
                taken += 1
            await asyncio.sleep(OUTAGE + BOUND)
            counts = client.statistics()
            check_counters(counts)
            assert (counts.accepted, counts.delivered, counts.pending) == (taken, taken, 0)
            await client.aclose()

        run(main())

    def test_a_slow_one_only_takes_longer(self) -> None:
        async def main() -> None:
            disk = ScriptedDisk(seconds=2.0)
            spool = SpoolStore(disk).open()
            options = {"max_queue_size": 10, "overflow_timeout": None}
            client = Client("key", transport=ScriptedTransport(), spool=spool, **options)  # type: ignore[arg-type]
            await asyncio.gather(*(client.track("u", "E", {"n": number}) for number in range(100)))
            await asyncio.sleep(20 * BOUND)
            assert client.statistics().delivered == 100
            await client.aclose()

        run(main())


class TestAHoldThatEnds:
    """Another process has the message from then on: this one sends nothing more of it, and waits for nothing."""

    def test_the_rest_of_the_batch_is_sent(self) -> None:
        async def main() -> None:
            disk = ScriptedDisk()
            store = SpoolStore(disk)
            spool = store.open(shared=True)
            transport = ScriptedTransport()
            client = Client("key", transport=transport, spool=spool, flush_interval=1.0)
            deliveries = [await client.track("u", "E", message_id=f"m{number}") for number in range(10)]
            await asyncio.sleep(0)
            disk.ending_holds.update(key for key in store.rows if key % 3 == 0)
            await asyncio.sleep(BOUND)
            elsewhere = store.taken_over
            assert len(elsewhere) == 3
            assert set(transport.taken) == {delivery.message_id for delivery in deliveries} - elsewhere
            counts = client.statistics()
            check_counters(counts)
            # Each was handed over when it was stored, and came back by a read.
            assert (counts.accepted, counts.delivered, counts.handed_over, counts.pending) == (20, 7, 13, 0)
            assert await client.flush(timeout=1) == 0
            assert None not in [delivery.outcome for delivery in deliveries]
            await client.aclose()

        run(main())
