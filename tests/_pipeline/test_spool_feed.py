"""The queue as a window on a spool: what it does on the client's loop, after forks, and at the close."""

import asyncio
import math
from typing import Any

import pytest

from segment_async import Client, SpoolUnavailable
from segment_async._outcome import BatchResult
from segment_async._pipeline import spool_feed
from segment_async.spool._protocol import SpoolStatistics, StoredMessage, Window
from tests.support.scripted_transport import ScriptedTransport, Slow
from tests.support.slow_spool import SlowSpool
from tests.support.virtual_clock import run


def counted_beats(loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Gets the moment of each heartbeat from now on."""
    beats: list[float] = []
    call_later = loop.call_later

    def count_beats(delay: float, *arguments: Any, **options: Any) -> asyncio.TimerHandle:
        if delay == spool_feed._HEARTBEAT:
            beats.append(loop.time())
        return call_later(delay, *arguments, **options)

    monkeypatch.setattr(loop, "call_later", count_beats)
    return beats


@pytest.mark.parametrize("starts_again", [False, True])
def test_a_process_that_has_forked_looks_at_its_loop_at_one_interval(
    monkeypatch: pytest.MonkeyPatch, starts_again: bool
) -> None:
    """However often it forks, and although the client leaves its loop and comes back in between."""

    async def main() -> None:
        spool, loop = SlowSpool(), asyncio.get_running_loop()
        async with Client("key", spool=spool, transport=ScriptedTransport()) as client:
            await client.flush()
            feed = client._owner.pipeline.feed
            assert feed is not None
            for _ in range(100):
                feed.after_fork_in_parent()
                if starts_again:
                    feed.stop()
                    feed.start(loop)
                await asyncio.sleep(0.001)
            beats = counted_beats(loop, monkeypatch)
            await asyncio.sleep(1)
            assert len(beats) == pytest.approx(1 / spool_feed._HEARTBEAT, abs=2)

    run(main())


def test_a_loop_that_only_calls_the_client_is_looked_at_too_if_it_has_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if the client's loop has forked later. It ends when the client is closed."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        client = Client("key", spool=SlowSpool(), transport=ScriptedTransport())
        feed = client._owner.pipeline.feed
        assert feed is not None
        feed.after_fork_in_parent()
        beats = counted_beats(loop, monkeypatch)
        await asyncio.sleep(1)
        assert len(beats) == pytest.approx(1 / spool_feed._HEARTBEAT, abs=2)
        await asyncio.to_thread(feed.after_fork_in_parent)
        await asyncio.sleep(1)
        assert len(beats) == pytest.approx(2 / spool_feed._HEARTBEAT, abs=4)
        await client.aclose()
        spool_feed._after_fork_in_parent()
        await asyncio.sleep(0.1)
        beats.clear()
        await asyncio.sleep(1)
        assert not beats

    run(main())


def test_a_close_that_is_cut_off_closes_the_spool() -> None:
    """Else no other spool of this process could send what it keeps."""

    class Stalled(SlowSpool):
        closes = 0

        async def settle(self, keys: Any, result: BatchResult, answer: str = "") -> None:
            await asyncio.get_running_loop().create_future()

        async def aclose(self) -> None:
            self.closes += 1

    async def main() -> None:
        spool = Stalled()
        client = Client("key", spool=spool, transport=ScriptedTransport(), close_timeout=1)
        call = asyncio.create_task(client.track("user-1", "Order Completed"))
        await asyncio.sleep(0.01)
        spool.answer(0, held=True)
        await (await call)
        await client.aclose()
        await asyncio.sleep(0.01)
        assert spool.closes == 1

    run(main())


class Refusing(SlowSpool):
    def __init__(self, refusals: float) -> None:
        super().__init__()
        self.refusals = refusals

    async def read(self, max_count: int, max_bytes: int) -> Window:
        if self.refusals > 0:
            self.refusals -= 1
            raise SpoolUnavailable("the folder cannot be read")
        return await super().read(max_count, max_bytes)


@pytest.mark.parametrize("refusals", [1, 3])
def test_a_flush_waits_for_what_is_left_although_it_cannot_be_read_at_once(refusals: int) -> None:
    async def main() -> None:
        spool, transport = Refusing(refusals), ScriptedTransport()
        spool.windows.put_nowait(Window([StoredMessage(1, "left", b'{"type":"track","messageId":"left"}', 0)]))
        async with Client("key", spool=spool, transport=transport) as client:
            assert await client.flush(timeout=60) == 0
            assert client.statistics().delivered == 1

    run(main())


def test_a_flush_does_not_wait_for_a_spool_that_cannot_be_opened() -> None:
    """None of its messages is there. Once the spool can be opened, what earlier processes left is sent."""

    async def main() -> None:
        spool, transport = Refusing(math.inf), ScriptedTransport()
        async with Client("key", spool=spool, transport=transport) as client:
            async with asyncio.timeout(60):
                assert await client.flush() == 0
            spool.windows.put_nowait(Window([StoredMessage(1, "left", b'{"type":"track","messageId":"left"}', 0)]))
            spool.refusals = 0
            await asyncio.sleep(1)
            assert await client.flush() == 0
            assert client.statistics().delivered == 1

    run(main())


def test_a_flush_waits_for_its_messages_although_others_are_adopted_and_read_first() -> None:
    """Those that a process left which ended meanwhile; they are sent without waiting for company as well."""

    class Adopting(SlowSpool):
        recovered = 0

        def statistics(self) -> SpoolStatistics:
            return SpoolStatistics(recovered=self.recovered)

    async def main() -> None:
        spool, transport, loop = Adopting(), ScriptedTransport(), asyncio.get_running_loop()
        async with Client("key", spool=spool, transport=transport, flush_interval=60) as client:
            await client.flush()
            delivery = client.nowait.track("user-1", "Order Completed", message_id="own")
            body = spool.groups[0][0][0].body
            spool.answer(0)
            flush = asyncio.create_task(client.flush())
            await asyncio.sleep(0.01)
            spool.recovered = 2
            spool.windows.put_nowait(Window([StoredMessage(number, f"left-{number}", body) for number in (2, 3)]))
            await asyncio.sleep(0.01)
            assert not flush.done()
            spool.windows.put_nowait(Window([StoredMessage(1, "own", body)]))
            assert await flush == 0
            assert delivery.outcome is not None
            assert client.statistics().delivered == 3
            assert loop.time() < 1

    run(main())


def test_a_flush_that_only_waits_for_the_disk_does_not_count_what_is_adopted_then() -> None:
    """It has no time limit, and returns 0."""

    class Adopting(SlowSpool):
        recovered = 0

        def __init__(self) -> None:
            super().__init__()
            self.records = asyncio.Event()

        async def settle(self, keys: Any, result: BatchResult, answer: str = "") -> None:
            await self.records.wait()

        def statistics(self) -> SpoolStatistics:
            return SpoolStatistics(recovered=self.recovered)

    async def main() -> None:
        spool, transport = Adopting(), ScriptedTransport([Slow(0), Slow(5)])
        async with Client("key", spool=spool, transport=transport) as client:
            await client.flush()
            delivery = client.nowait.track("user-1", "Order Completed", message_id="own")
            body = spool.groups[0][0][0].body
            spool.answer(0, held=True)
            flush = asyncio.create_task(client.flush())
            await delivery
            spool.recovered = 1
            spool.windows.put_nowait(Window([StoredMessage(2, "left", body)]))
            await asyncio.sleep(0.01)
            spool.records.set()
            assert await flush == 0
            assert client.statistics().delivered == 1

    run(main())


def test_a_client_that_another_thread_makes_amid_a_fork_costs_no_other_client_its_wake_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = [Client("key", spool=SlowSpool(), transport=ScriptedTransport()) for _ in range(2)]
    feeds = [client._owner.pipeline.feed for client in made]
    looked_after: list[object] = []

    def make_another(feed: spool_feed.SpoolFeed) -> None:
        looked_after.append(feed)
        if len(looked_after) == 1:
            # The other thread gets a turn.
            made.append(Client("key", spool=SlowSpool(), transport=ScriptedTransport()))

    monkeypatch.setattr(spool_feed.SpoolFeed, "after_fork_in_parent", make_another)
    spool_feed._after_fork_in_parent()
    assert all(feed in looked_after for feed in feeds)
