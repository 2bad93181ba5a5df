"""The counters as an application sees them: they only rise, they can be stored and compared, and the log repeats them."""

import asyncio
import copy
import logging
import pickle
import re
from contextlib import nullcontext, suppress
from typing import Literal

import pytest

from segment_async import Client, MessageError, MessageTooLarge, QueueFull, SpoolUnavailable, Statistics, messages
from tests.support.law import check_counters
from tests.support.memory_spool import ScriptedDisk, SpoolStore
from tests.support.scripted_transport import ScriptedTransport, Slow, refused
from tests.support.virtual_clock import run, running_clock

RISING = ("accepted", "delivered", "failed", "dropped", "handed_over", "requests", "retries", "recovered")


class Watch:
    """Looks at the counters again and again, and sees that the law holds and that none of them falls."""

    def __init__(self, client: Client) -> None:
        self.looks = 0
        self._client = client
        self._last = client.statistics()

    def look(self) -> Statistics:
        now = self._client.statistics()
        check_counters(now)
        for name in RISING:
            assert getattr(now, name) >= getattr(self._last, name), f"{name} fell: {self._last} became {now}"
        for reason, count in self._last.reasons.items():
            assert now.reasons[reason] >= count
        self._last = now
        self.looks += 1
        return now

    async def look_often(self) -> None:
        while True:
            self.look()
            await asyncio.sleep(0.0005)


class TestTheyOnlyRise:
    @pytest.mark.parametrize("seconds", [0.0, 0.01], ids=["at once", "slow"])
    @pytest.mark.parametrize("nowait", [False, True], ids=["track", "enqueue_nowait"])
    def test_while_a_spool_refuses(self, nowait: bool, seconds: float) -> None:
        async def main() -> None:
            disk = ScriptedDisk(seconds=seconds, refuses=True)
            client = Client("key", transport=ScriptedTransport(), spool=SpoolStore(disk).open(), close_timeout=0)
            watch = Watch(client)
            watching = asyncio.create_task(watch.look_often())
            for number in range(60):
                disk.refuses = number % 3 != 0
                if nowait:
                    client.enqueue_nowait(messages.track("u", "E", {"n": number}))
                    await asyncio.sleep(0.003)
                else:
                    with suppress(SpoolUnavailable):
                        await client.track("u", "E", {"n": number})
                watch.look()
            await asyncio.sleep(1)
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching
            counts = watch.look()
            assert counts.accepted == (60 if nowait else 20)
            assert watch.looks > 100
            await client.aclose()

        run(main())

    @pytest.mark.parametrize("overflow", ["wait", "drop_newest", "drop_oldest", "raise"])
    def test_while_a_spool_is_full(self, overflow: str) -> None:
        async def main() -> None:
            store = SpoolStore(max_messages=10)
            client = Client(
                "key",
                transport=ScriptedTransport(lambda _: refused()),
                spool=store.open(),
                overflow=overflow,  # type: ignore[arg-type]
                close_timeout=0,
            )
            watch = Watch(client)
            for _ in range(40):
                with suppress(QueueFull):
                    await client.track("u", "E")
                watch.look()
                await asyncio.sleep(0.1)
                watch.look()
            await client.aclose()

        run(main())

    def test_while_the_same_id_comes_again_and_again(self) -> None:
        async def main() -> None:
            store = SpoolStore(ScriptedDisk(seconds=0.01))
            client = Client("key", transport=ScriptedTransport(), spool=store.open(), close_timeout=0)
            watch = Watch(client)
            calls = [asyncio.create_task(client.track("u", "E", message_id=f"m{n % 5}")) for n in range(50)]
            for _ in range(50):
                watch.look()
                await asyncio.sleep(0.001)
            await asyncio.wait(calls)
            assert watch.look().accepted == 5
            await client.aclose()

        run(main())


class TestRejected:
    """Calls that raise are counted, and their messages are not."""

    def test_wrong_calls(self) -> None:
        async def main() -> None:
            client = Client("key", transport=ScriptedTransport())
            for call in (client.track("u"), client.identify(), client.enqueue({"type": "track", "userId": "u"})):
                with pytest.raises(MessageError):
                    await call
            with pytest.raises(MessageTooLarge):
                await client.track("u", "E", {"text": "x" * 40_000})
            with pytest.raises(MessageError):
                client.enqueue_nowait({})
            with pytest.raises(MessageError):
                client.nowait.track("u")
            await client.aclose()
            assert (client.statistics().rejected, client.statistics().accepted) == (6, 0)

        run(main())

    def test_wrong_calls_that_are_dropped(self) -> None:
        client = Client("key", send=False, on_invalid="drop")
        client.nowait.track("u")
        assert (client.statistics().rejected, client.statistics().accepted) == (0, 1)

    def test_a_full_queue(self) -> None:
        async def main() -> None:
            client = Client("key", transport=ScriptedTransport(), overflow="raise", max_queue_size=1, flush_interval=60)
            await client.track("u", "E")
            with pytest.raises(QueueFull):
                await client.track("u", "E")
            with pytest.raises(QueueFull):
                client.nowait.track("u", "E")
            await client.aclose()
            assert (client.statistics().rejected, client.statistics().accepted) == (2, 1)

        run(main())

    @pytest.mark.parametrize(("on_invalid", "rejected"), [("raise", 1), ("drop", 0)])
    def test_a_disk_that_refuses(self, on_invalid: Literal["raise", "drop"], rejected: int) -> None:
        async def main() -> None:
            store = SpoolStore(ScriptedDisk(refuses=True))
            client = Client("key", transport=ScriptedTransport(), spool=store.open(), on_invalid=on_invalid)
            with pytest.raises(SpoolUnavailable) if rejected else nullcontext():
                await client.track("u", "E")
            await client.aclose()
            assert (client.statistics().rejected, client.statistics().accepted) == (rejected, 1 - rejected)

        run(main())


@pytest.fixture
def statistics() -> Statistics:
    async def main() -> Statistics:
        client = Client("key", transport=ScriptedTransport(), overflow="drop_newest", max_queue_size=1)
        for _ in range(3):
            client.enqueue_nowait(messages.track("u", "E"))
        await client.aclose()
        return client.statistics()

    return run(main())


class TestAValue:
    def test_it_can_be_pickled(self, statistics: Statistics) -> None:
        assert statistics.reasons == {"queue_full": 2}
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
            again = pickle.loads(pickle.dumps(statistics, protocol))
            assert again == statistics
            assert dict(again.reasons) == {"queue_full": 2}

    def test_it_can_be_copied(self, statistics: Statistics) -> None:
        assert copy.copy(statistics) == copy.deepcopy(statistics) == statistics

    def test_it_can_be_hashed(self, statistics: Statistics) -> None:
        assert len({statistics, copy.deepcopy(statistics)}) == 1

    def test_it_cannot_be_changed(self, statistics: Statistics) -> None:
        with pytest.raises(TypeError):
            statistics.reasons["queue_full"] = 0  # type: ignore[index]


class TestWhatTheCloseSays:
    @staticmethod
    def seconds_said(caplog: pytest.LogCaptureFixture) -> float:
        (text,) = [
            record.getMessage()
            for record in caplog.records
            if record.levelno == logging.WARNING and record.getMessage().startswith("Closed with")
        ]
        found = re.search(r"([\d.]+) s\b", text)
        assert found is not None, text
        return float(found[1])

    @pytest.mark.parametrize("shortened_after", [0.3, 2.0, None])
    def test_how_long_it_took(self, caplog: pytest.LogCaptureFixture, shortened_after: float | None) -> None:
        async def main() -> None:
            client = Client("key", transport=ScriptedTransport(lambda _: Slow(1_000)), close_timeout=5.0)
            for _ in range(500):
                client.enqueue_nowait(messages.track("u", "E"))
            await asyncio.sleep(1)
            began = running_clock().time()
            closing = asyncio.create_task(client.aclose())
            if shortened_after is not None:
                await asyncio.sleep(shortened_after)
                closing.cancel()
                await asyncio.sleep(0)
                closing.cancel()
            await asyncio.wait((closing,))
            assert client.statistics().dropped == 500
            assert running_clock().time() - began <= (shortened_after or 5.0) + 1

        run(main())
        assert self.seconds_said(caplog) == pytest.approx(shortened_after or 5.0, abs=0.1)
