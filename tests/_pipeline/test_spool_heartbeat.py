"""Loops that a spool's thread cannot wake any more, in a process that has forked."""

import asyncio
from typing import Any

import pytest

from segment_async import Client
from segment_async._pipeline import spool_heartbeat
from tests.support.scripted_transport import ScriptedTransport
from tests.support.slow_spool import SlowSpool
from tests.support.virtual_clock import run


def counted_beats(loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Gets the moment of each heartbeat from now on."""
    beats: list[float] = []
    call_later = loop.call_later

    def count_beats(delay: float, *arguments: Any, **options: Any) -> asyncio.TimerHandle:
        if delay == spool_heartbeat._HEARTBEAT:
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
                feed._heartbeat.after_fork_in_parent()
                if starts_again:
                    feed.stop()
                    feed.start(loop)
                await asyncio.sleep(0.001)
            beats = counted_beats(loop, monkeypatch)
            await asyncio.sleep(1)
            assert len(beats) == pytest.approx(1 / spool_heartbeat._HEARTBEAT, abs=2)

    run(main())


def test_a_loop_that_only_calls_the_client_is_looked_at_too_if_it_has_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if the client's loop has forked later. It ends when the client is closed."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        client = Client("key", spool=SlowSpool(), transport=ScriptedTransport())
        feed = client._owner.pipeline.feed
        assert feed is not None
        feed._heartbeat.after_fork_in_parent()
        beats = counted_beats(loop, monkeypatch)
        await asyncio.sleep(1)
        assert len(beats) == pytest.approx(1 / spool_heartbeat._HEARTBEAT, abs=2)
        await asyncio.to_thread(feed._heartbeat.after_fork_in_parent)
        await asyncio.sleep(1)
        assert len(beats) == pytest.approx(2 / spool_heartbeat._HEARTBEAT, abs=4)
        await client.aclose()
        spool_heartbeat._after_fork_in_parent()
        await asyncio.sleep(0.1)
        beats.clear()
        await asyncio.sleep(1)
        assert not beats

    run(main())


def test_a_client_that_another_thread_makes_amid_a_fork_costs_no_other_client_its_wake_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = [Client("key", spool=SlowSpool(), transport=ScriptedTransport()) for _ in range(2)]
    feeds = [client._owner.pipeline.feed for client in made]
    heartbeats = [feed._heartbeat for feed in feeds if feed is not None]
    looked_after: list[object] = []

    def make_another(heartbeat: spool_heartbeat.Heartbeat) -> None:
        looked_after.append(heartbeat)
        if len(looked_after) == 1:
            # The other thread gets a turn.
            made.append(Client("key", spool=SlowSpool(), transport=ScriptedTransport()))

    monkeypatch.setattr(spool_heartbeat.Heartbeat, "after_fork_in_parent", make_another)
    spool_heartbeat._after_fork_in_parent()
    assert all(heartbeat in looked_after for heartbeat in heartbeats)
    assert len(heartbeats) == 2
