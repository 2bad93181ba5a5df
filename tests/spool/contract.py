"""What every spool must keep, whatever it is made of: the promises of `segment_async.spool.Spool`, call by call.

To try an engine, derive a class named `Test…` from `SpoolContract` and say in `open` how one is made. `open` is called
several times with the same path within a test: the later ones are restarts.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from segment_async.spool import Appended, BatchResult, Spool, SpoolUnavailable, Status, Window

DELIVERED = BatchResult(Status.DELIVERED)
REFUSED = BatchResult(Status.FAILED, "refused", 400, attempts=2)
SOON = 10.0


def body_of(message_id: str) -> bytes:
    return b'{"messageId":"%s"}' % message_id.encode()


async def append(spool: Spool, *message_ids: str) -> list[Appended]:
    return [await spool.append(each, body_of(each)) for each in message_ids]


async def read(spool: Spool, count: int = 1000, size: int = 1_000_000) -> Window:
    return await asyncio.wait_for(spool.read(count, size), SOON)


async def read_ids(spool: Spool, count: int = 1000, size: int = 1_000_000) -> list[str]:
    return [each.message_id for each in (await read(spool, count, size)).messages]


async def settle_all(spool: Spool, count: int, fate: BatchResult = DELIVERED) -> None:
    while count:
        messages = (await read(spool)).messages
        await spool.settle([each.key for each in messages], fate)
        count -= len(messages)


async def has_nothing_to_read(spool: Spool) -> bool:
    """A call that comes after a read, and is answered, shows that the read was looked at."""
    waiting = asyncio.ensure_future(spool.read(1, 1))
    await asyncio.sleep(0)
    await spool.settle([], DELIVERED)
    await asyncio.sleep(0)
    found = waiting.done()
    waiting.cancel()
    return not found


def check_law(spool: Spool) -> None:
    counts = spool.statistics()
    assert counts.accepted == counts.delivered + counts.failed + counts.dropped + counts.pending


class SpoolContract:
    def open(self, folder: Path) -> Spool:
        raise NotImplementedError

    def run(self, folder: Path, *parts: Callable[[Spool], Awaitable[None]]) -> None:
        """Each part with a spool of its own and a loop of its own: a process after the other."""
        for part in parts:

            async def life(part: Callable[[Spool], Awaitable[None]] = part) -> None:
                spool = self.open(folder)
                try:
                    await part(spool)
                    check_law(spool)
                finally:
                    await spool.aclose()

            asyncio.run(life())

    # -- a message's way

    def test_what_is_appended_is_read_in_order_and_settled(self, tmp_path):
        async def part(spool):
            assert await append(spool, "a", "b", "c") == [Appended("stored")] * 3
            window = await read(spool)
            assert [(each.message_id, each.body) for each in window.messages] == [(i, body_of(i)) for i in "abc"]
            assert all(each.attempts == 0 and each.first_attempt is None for each in window.messages)
            assert window.dropped == []
            await spool.settle([each.key for each in window.messages], DELIVERED)
            counts = spool.statistics()
            assert (counts.accepted, counts.delivered, counts.pending, counts.pending_bytes) == (3, 3, 0, 0)

        self.run(tmp_path, part)

    def test_what_was_read_is_held_and_never_read_again(self, tmp_path):
        async def part(spool):
            await append(spool, "a", "b")
            assert await read_ids(spool, count=1) == ["a"]
            assert await read_ids(spool) == ["b"]
            assert await has_nothing_to_read(spool)
            await append(spool, "c")
            assert await read_ids(spool) == ["c"]

        self.run(tmp_path, part)

    def test_a_reader_waits_for_the_next_message(self, tmp_path):
        async def part(spool):
            waiting = asyncio.ensure_future(read_ids(spool))
            await append(spool, "a")
            assert await waiting == ["a"]

        self.run(tmp_path, part)

    def test_a_window_is_bounded_by_count_and_bytes_but_never_empty(self, tmp_path):
        async def part(spool):
            await append(spool, *"abcdef")
            size = len(body_of("a"))
            assert await read_ids(spool, count=2) == ["a", "b"]
            assert await read_ids(spool, size=2 * size) == ["c", "d"]
            assert await read_ids(spool, size=1) == ["e"]
            assert await read_ids(spool, size=2 * size - 1) == ["f"]

        self.run(tmp_path, part)

    def test_any_bytes_come_back_as_they_were(self, tmp_path):
        bodies = [b"", b"\0", b"\x1e,'\"%", bytes(range(256)), "ü€😀".encode(), b"x" * 32_768]
        message_ids = ["", "\0", "\x1e,'\"%", "ü€😀", "x" * 99, "a b"]

        async def first(spool):
            for message_id, body in zip(message_ids, bodies, strict=True):
                await spool.append(message_id, body)

        async def second(spool):
            messages = (await read(spool)).messages
            assert [(each.message_id, each.body) for each in messages] == list(zip(message_ids, bodies, strict=True))

        self.run(tmp_path, first, second)

    def test_a_long_backlog_comes_out_in_order_of_acceptance(self, tmp_path):
        names = [f"{number:05}" for number in range(3_000)]

        async def first(spool):
            await asyncio.gather(*(spool.append(each, body_of(each) * 20) for each in names))

        async def second(spool):
            assert spool.statistics().pending == 0 or spool.statistics().pending == 3_000
            found = []
            while len(found) < len(names):
                found += await read_ids(spool, count=700)
            assert found == names
            assert spool.statistics().recovered == 3_000

        self.run(tmp_path, first, second)

    # -- the same message, the same id

    def test_a_pending_id_is_known_and_not_counted_again(self, tmp_path):
        async def part(spool):
            both = await asyncio.gather(spool.append("a", b"1"), spool.append("a", b"2"))
            assert [each.status for each in both] == ["stored", "known"]
            assert (await spool.append("a", b"3")).status == "known"
            messages = (await read(spool)).messages
            assert [each.body for each in messages] == [b"1"]
            assert (await spool.append("a", b"4")).status == "known"
            await spool.settle([messages[0].key], DELIVERED)
            assert spool.statistics().accepted == 1
            assert (await spool.append("a", b"5")).status == "stored"

        self.run(tmp_path, part)

    def test_a_known_id_among_new_ones_takes_nothing_from_them(self, tmp_path):
        async def part(spool):
            await append(spool, "a", "b")
            results = await asyncio.gather(*(spool.append(each, body_of(each)) for each in "xaybz"))
            assert [each.status for each in results] == ["stored", "known", "stored", "known", "stored"]
            assert await read_ids(spool) == ["a", "b", "x", "y", "z"]
            assert spool.statistics().accepted == 5

        self.run(tmp_path, part)

    # -- how it ends

    def test_what_failed_is_kept_as_a_dead_letter(self, tmp_path):
        async def part(spool):
            await append(spool, "a", "b")
            await spool.settle([(await read(spool)).messages[0].key], REFUSED)
            counts = spool.statistics()
            assert (counts.failed, counts.dead, counts.dead_bytes) == (1, 1, len(body_of("a")))
            assert counts.reasons == {"refused": 1}

        async def later(spool):
            assert await read_ids(spool) == ["b"]
            counts = spool.statistics()
            assert (counts.accepted, counts.failed, counts.dead, counts.pending) == (2, 1, 1, 1)
            assert counts.reasons == {"refused": 1}

        self.run(tmp_path, part, later)

    def test_what_was_dropped_is_gone_and_counted_with_its_reason(self, tmp_path):
        async def part(spool):
            await append(spool, "a")
            await settle_all(spool, 1, BatchResult(Status.DROPPED, "before_send"))
            counts = spool.statistics()
            assert (counts.dropped, counts.dead, counts.reasons) == (1, 0, {"before_send": 1})

        self.run(tmp_path, part)

    def test_settling_twice_counts_once(self, tmp_path):
        async def part(spool):
            await append(spool, "a", "b")
            keys = [each.key for each in (await read(spool)).messages]
            await spool.settle(keys[:1], DELIVERED)
            await spool.settle(keys, REFUSED)
            await spool.settle(keys, DELIVERED)
            counts = spool.statistics()
            assert (counts.delivered, counts.failed, counts.dead) == (1, 1, 1)

        self.run(tmp_path, part)

    def test_messages_are_settled_in_any_order_and_any_groups(self, tmp_path):
        async def part(spool):
            await append(spool, *"abcdefgh")
            keys = [each.key for each in (await read(spool)).messages]
            await asyncio.gather(
                spool.settle(keys[1::2], DELIVERED), spool.settle(keys[6::-4], REFUSED), spool.settle([], DELIVERED)
            )
            assert spool.statistics().pending == 2

        async def later(spool):
            assert await read_ids(spool) == ["a", "e"]

        self.run(tmp_path, part, later)

    # -- restarts

    def test_what_was_not_settled_is_there_again(self, tmp_path):
        async def first(spool):
            await append(spool, *"abc")
            await spool.settle([(await read(spool, count=2)).messages[0].key], DELIVERED)

        async def second(spool):
            assert await read_ids(spool) == ["b", "c"]
            counts = spool.statistics()
            assert (counts.accepted, counts.delivered, counts.recovered, counts.pending) == (3, 1, 2, 2)

        self.run(tmp_path, first, second)

    def test_attempts_are_remembered_with_the_time_of_the_first(self, tmp_path):
        async def first(spool):
            await append(spool, *"abcd")
            keys = [each.key for each in (await read(spool, count=3)).messages]
            await spool.sending(keys[:2], 1)
            await spool.sending(keys[:2], 2)
            await spool.sending(keys[2:], 1)

        async def second(spool):
            messages = (await read(spool)).messages
            assert [each.attempts for each in messages] == [2, 2, 1, 0]
            assert [each.first_attempt is None for each in messages] == [False, False, False, True]
            # In other batches than before.
            await spool.sending([messages[0].key], 3)
            await spool.sending([each.key for each in messages[1:]], 3)
            self.first_attempt = messages[0].first_attempt

        async def third(spool):
            messages = (await read(spool)).messages
            assert [each.attempts for each in messages] == [3, 3, 3, 3]
            assert messages[0].first_attempt == self.first_attempt

        self.run(tmp_path, first, second, third)

    # -- waiting and not waiting

    def test_a_cancelled_append_is_accepted_all_the_same(self, tmp_path):
        async def part(spool):
            call = asyncio.ensure_future(spool.append("a", body_of("a")))
            await asyncio.sleep(0)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert (await spool.append("a", b"")).status == "known"

        self.run(tmp_path, part)

    def test_a_cancelled_read_holds_nothing(self, tmp_path):
        async def part(spool):
            for number in range(50):
                waiting = asyncio.ensure_future(spool.read(10, 1000))
                await asyncio.sleep(0)
                spool.append_nowait(f"{number:02}", b"{}", lambda _: None)
                for _ in range(number % 5):
                    await spool.settle([], DELIVERED)
                waiting.cancel()
                await asyncio.wait([waiting])
                if not waiting.cancelled():
                    await spool.settle([each.key for each in waiting.result().messages], DELIVERED)
            left = spool.statistics().pending
            found = []
            while len(found) < left:
                found += await read_ids(spool)
            assert found == sorted(found)
            assert left == spool.statistics().pending

        self.run(tmp_path, part)

    def test_a_cancelled_settle_settles(self, tmp_path):
        async def part(spool):
            await append(spool, "a")
            call = asyncio.ensure_future(spool.settle([(await read(spool)).messages[0].key], DELIVERED))
            await asyncio.sleep(0)
            call.cancel()
            await spool.settle([], DELIVERED)
            assert spool.statistics().delivered == 1

        self.run(tmp_path, part)

    def test_append_nowait_tells_when_it_is_safe(self, tmp_path):
        async def part(spool):
            results = []
            told = threading.Event()
            spool.append_nowait("a", body_of("a"), results.append)
            spool.append_nowait("a", body_of("a"), results.append)
            spool.append_nowait("b", body_of("b"), lambda result: (results.append(result), told.set()))
            assert told.wait(SOON)
            assert [each.status for each in results] == ["stored", "known", "stored"]

        self.run(tmp_path, part)

    def test_loops_in_turn_and_loops_at_once(self, tmp_path):
        spool = self.open(tmp_path)
        for number in range(5):
            asyncio.run(append(spool, f"{number}"))
        threads = [
            threading.Thread(target=lambda name=name: asyncio.run(append(spool, *(f"{name}{i}" for i in range(20)))))
            for name in "abcd"
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(asyncio.run(read_ids(spool))) == 85
        assert spool.statistics().accepted == 85
        asyncio.run(spool.aclose())

    # -- the end

    def test_after_aclose_all_is_refused_and_closing_again_is_fine(self, tmp_path):
        async def part(spool):
            waiting = asyncio.ensure_future(spool.read(1, 1))
            await asyncio.sleep(0)
            await asyncio.gather(spool.aclose(), spool.aclose())
            with pytest.raises(SpoolUnavailable):
                await waiting
            with pytest.raises(SpoolUnavailable):
                await spool.append("a", b"")
            with pytest.raises(SpoolUnavailable):
                spool.append_nowait("a", b"", lambda _: None)
            with pytest.raises(SpoolUnavailable):
                await spool.read(1, 1)

        self.run(tmp_path, part)

    def test_aclose_writes_what_was_handed_over(self, tmp_path):
        async def first(spool):
            for number in range(1_000):
                spool.append_nowait(f"{number:04}", b"{}", lambda _: None)

        async def second(spool):
            found = []
            while len(found) < 1_000:
                found += await read_ids(spool)
            assert found == [f"{number:04}" for number in range(1_000)]

        self.run(tmp_path, first, second)
