"""What every spool must keep, whatever it is made of: the promises of `segment_async.spool.Spool`, call by call.

To try an engine, derive a class named `Test…` from `SpoolContract` and set `open`, a factory: it is given a folder, and
called several times with the same folder within a test. The later calls are restarts: what an earlier spool kept must
be there again.

    class TestMine(SpoolContract):
        open = staticmethod(lambda folder: MySpool(folder / "mine"))

An engine whose messages several processes deliver says so with `shared = True`, as in the protocol. It differs in this:

- It does not compare ids: a message with the id of a pending one is stored like any other.
- What is appended is handed over; a process counts as pending what it holds, and as accepted what it appended or read.
- It never holds what is appended, and what it appended has no key yet; nothing is counted as recovered.
- Messages of several write keys live side by side.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from segment_async.spool import (
    Appended,
    AppendResult,
    BatchResult,
    NewMessage,
    Spool,
    SpoolUnavailable,
    Status,
    StoredMessage,
    Window,
)

DELIVERED = BatchResult(Status.DELIVERED)
REFUSED = BatchResult(Status.FAILED, "refused", 400, attempts=2)
SOON = 10.0


def body_of(message_id: str) -> bytes:
    return b'{"messageId":"%s"}' % message_id.encode()


def call_append(spool: Spool, messages: Iterable[tuple[str, bytes]], **options: Any) -> "asyncio.Future[AppendResult]":
    """Append as one group; the future has the result, or raises."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[AppendResult] = loop.create_future()

    def resolve(result: AppendResult | SpoolUnavailable) -> None:
        if isinstance(result, SpoolUnavailable):
            future.set_exception(result)
        else:
            future.set_result(result)

    spool.append_nowait(
        [NewMessage(*each) for each in messages], lambda result: loop.call_soon_threadsafe(resolve, result), **options
    )
    return future


async def append(spool: Spool, *message_ids: str, **options: Any) -> list[Appended]:
    result = await asyncio.wait_for(
        call_append(spool, [(each, body_of(each)) for each in message_ids], **options), SOON
    )
    return list(result.answers)


async def append_one(spool: Spool, message_id: str, body: bytes, **options: Any) -> Appended:
    [answer] = (await call_append(spool, [(message_id, body)], **options)).answers
    return answer


def statuses(answers: Iterable[Appended]) -> list[str]:
    return [each.status for each in answers]


async def read(spool: Spool, count: int = 1000, size: int = 1_000_000) -> Window:
    """The next window with something in it; the first one of a process may be empty."""
    while True:
        window = await asyncio.wait_for(spool.read(count, size), SOON)
        if window.messages or window.dropped:
            return window


async def read_ids(spool: Spool, count: int = 1000, size: int = 1_000_000) -> list[str]:
    return [each.message_id for each in (await read(spool, count, size)).messages]


async def read_in_all(spool: Spool, count: int) -> list[StoredMessage]:
    """So many messages, in as many windows as it takes."""
    found: list[StoredMessage] = []
    while len(found) < count:
        found += (await read(spool)).messages
    return found


async def ids_in_all(spool: Spool, count: int) -> list[str]:
    return [each.message_id for each in await read_in_all(spool, count)]


async def settle_all(spool: Spool, count: int, fate: BatchResult = DELIVERED) -> None:
    while count:
        messages = (await read(spool)).messages
        await spool.settle([each.key for each in messages], fate)
        count -= len(messages)


async def first_read(spool: Spool) -> list[StoredMessage]:
    """What a process finds; returns at once."""
    return list((await asyncio.wait_for(spool.read(1000, 1_000_000), SOON)).messages)


async def has_nothing_to_read(spool: Spool) -> bool:
    """A call that comes after a read, and is answered, shows that the read was looked at."""
    waiting = asyncio.ensure_future(spool.read(1, 1))
    await asyncio.sleep(0)
    await spool.settle([], DELIVERED)
    await asyncio.sleep(0)
    if waiting.done() and not waiting.result().messages:
        return await has_nothing_to_read(spool)
    found = waiting.done()
    waiting.cancel()
    return not found


def check_law(spool: Spool) -> None:
    counts = spool.statistics()
    ended = counts.delivered + counts.failed + counts.dropped + counts.handed_over
    assert counts.accepted == ended + counts.pending


class SpoolContract:
    open: Callable[[Path], Spool]
    shared = False
    """Whether several processes deliver from it."""

    def accepted(self, spool: Spool) -> int:
        """Messages that were taken; from a shared engine, those that were read."""
        counts = spool.statistics()
        return counts.accepted - counts.handed_over

    async def has_nothing_to_read(self, spool: Spool) -> bool:
        return await has_nothing_to_read(spool)

    def run(self, folder: Path, *parts: Callable[[Spool], Awaitable[None]]) -> None:
        """Each part with a spool of its own and a loop of its own: one process after the other."""
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
            answers = await append(spool, "a", "b", "c")
            assert statuses(answers) == ["stored"] * 3
            assert not any(each.held for each in answers)
            window = await read(spool)
            assert [(each.message_id, each.body) for each in window.messages] == [(i, body_of(i)) for i in "abc"]
            assert self.shared or [each.key for each in window.messages] == [each.key for each in answers]
            assert all(each.attempts == 0 for each in window.messages)
            assert not window.dropped
            assert not await spool.sending([each.key for each in window.messages], 1)
            await spool.settle([each.key for each in window.messages], DELIVERED)
            counts = spool.statistics()
            assert (self.accepted(spool), counts.delivered, counts.pending, counts.pending_bytes) == (3, 3, 0, 0)

        self.run(tmp_path, part)

    def test_what_was_read_is_held_and_never_read_again(self, tmp_path):
        async def part(spool):
            await append(spool, "a", "b")
            assert await read_ids(spool, count=1) == ["a"]
            assert await read_ids(spool) == ["b"]
            assert await self.has_nothing_to_read(spool)
            await append(spool, "c")
            assert await read_ids(spool) == ["c"]

        self.run(tmp_path, part)

    def test_the_first_read_returns_at_once_and_then_what_was_left_is_known(self, tmp_path):
        async def first(spool):
            assert await first_read(spool) == []
            assert spool.statistics().recovered == 0
            await append(spool, "a", "b")

        async def second(spool):
            found = await first_read(spool)
            assert spool.statistics().recovered == (0 if self.shared else 2)
            assert [each.message_id for each in found] in ([], ["a", "b"])

        self.run(tmp_path, first, second)

    def test_a_reader_waits_for_the_next_message(self, tmp_path):
        async def part(spool):
            await first_read(spool)
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
            await call_append(spool, zip(message_ids, bodies, strict=True))

        async def second(spool):
            messages = (await read(spool)).messages
            assert [(each.message_id, each.body) for each in messages] == list(zip(message_ids, bodies, strict=True))

        self.run(tmp_path, first, second)

    def test_a_long_backlog_comes_out_in_order_of_acceptance(self, tmp_path):
        names = [f"{number:05}" for number in range(3_000)]

        async def first(spool):
            await asyncio.gather(*(append_one(spool, each, body_of(each) * 20) for each in names[:1_000]))
            await call_append(spool, [(each, body_of(each) * 20) for each in names[1_000:]])

        async def second(spool):
            found = []
            while len(found) < len(names):
                found += await read_ids(spool, count=700)
            assert found == names
            assert spool.statistics().recovered == (0 if self.shared else 3_000)

        self.run(tmp_path, first, second)

    # -- groups, and what is held at once

    def test_groups_are_answered_in_the_order_of_their_messages(self, tmp_path):
        async def part(spool):
            results = await asyncio.gather(*(append(spool, f"{n}a", f"{n}b") for n in range(20)))
            assert all(statuses(answers) == ["stored", "stored"] for answers in results)
            assert await read_ids(spool) == [f"{n}{letter}" for n in range(20) for letter in "ab"]

        self.run(tmp_path, part)

    def test_an_empty_group_is_answered(self, tmp_path):
        async def part(spool):
            assert await append(spool) == []

        self.run(tmp_path, part)

    def test_what_is_held_at_once_is_not_read_and_is_settled_like_anything_else(self, tmp_path):
        async def part(spool):
            await first_read(spool)
            answers = await append(spool, "a", "b", "c", hold=2)
            held = [each for each in answers if each.held]
            # An engine may hold none; those that it holds are the first ones.
            assert [each.held for each in answers] == [True] * len(held) + [False] * (3 - len(held))
            assert len(held) <= 2
            rest = await read_in_all(spool, 3 - len(held))
            assert [each.message_id for each in rest] == [*"abc"][len(held) :]
            keys = [each.key for each in (*held, *rest)]
            await spool.sending(keys, 1)
            await spool.settle(keys, DELIVERED)
            assert spool.statistics().pending == 0

        self.run(tmp_path, part)

    def test_nothing_is_held_while_an_older_message_waits(self, tmp_path):
        async def part(spool):
            await append(spool, "a", "b")
            assert not any(each.held for each in await append(spool, "c", hold=5))
            assert await read_ids(spool, count=2) == ["a", "b"]
            assert not any(each.held for each in await append(spool, "d", hold=5))
            assert await read_ids(spool) == ["c", "d"]

        self.run(tmp_path, part)

    def test_nothing_is_held_until_the_last_window_was_put_away(self, tmp_path):
        """It would be sent before what the reader was just given."""

        async def part(spool):
            await append(spool, "a")
            assert await read_ids(spool) == ["a"]
            assert not any(each.held for each in await append(spool, "b", hold=5))
            assert await read_ids(spool) == ["b"]

        self.run(tmp_path, part)

    def test_what_was_held_at_once_is_there_after_a_restart(self, tmp_path):
        async def first(spool):
            await first_read(spool)
            await append(spool, *"abc", hold=2)

        async def second(spool):
            assert await read_ids(spool) == [*"abc"]

        self.run(tmp_path, first, second)

    # -- the same message, the same id

    def test_a_pending_id_is_known_with_its_key_and_not_counted_again(self, tmp_path):
        async def part(spool):
            both = (await call_append(spool, [("a", b"1"), ("a", b"2")])).answers
            if self.shared:
                assert statuses(both) == ["stored", "stored"]
                assert [each.body for each in await read_in_all(spool, 2)] == [b"1", b"2"]
                return
            assert statuses(both) == ["stored", "known"]
            assert both[0].key == both[1].key
            assert await append_one(spool, "a", b"3") == both[1]
            messages = (await read(spool)).messages
            assert [(each.key, each.body) for each in messages] == [(both[0].key, b"1")]
            assert await append_one(spool, "a", b"4") == both[1]
            assert spool.statistics().accepted == 1

        self.run(tmp_path, part)

    @pytest.mark.parametrize("result", [DELIVERED, REFUSED, BatchResult(Status.DROPPED, "before_send")])
    def test_an_id_that_was_settled_is_stored_as_a_new_message(self, tmp_path, result):
        """Even if it was settled right before, and though a dead letter has the id."""

        async def part(spool):
            await append(spool, "a")
            [first] = (await read(spool)).messages
            settling = asyncio.ensure_future(spool.settle([first.key], result))
            await asyncio.sleep(0)
            again = await append_one(spool, "a", b"again")
            await settling
            assert again.status == "stored"
            [second] = (await read(spool)).messages
            assert second.key != first.key
            assert second.body == b"again"
            assert self.shared or again.key == second.key
            assert (self.accepted(spool), spool.statistics().pending) == (2, 1)

        self.run(tmp_path, part)

    def test_calls_take_effect_in_their_order(self, tmp_path):
        async def part(spool):
            await append(spool, "a")
            [message] = (await read(spool)).messages
            known = call_append(spool, [("a", b"2")])
            settling = asyncio.ensure_future(spool.settle([message.key], DELIVERED))
            await asyncio.sleep(0)
            new = call_append(spool, [("a", b"3")])
            assert statuses((await known).answers) == ["stored" if self.shared else "known"]
            assert statuses((await new).answers) == ["stored"]
            await settling

        self.run(tmp_path, part)

    def test_a_known_id_among_new_ones_takes_nothing_from_them(self, tmp_path):
        async def part(spool):
            await append(spool, "a", "b")
            known = "stored" if self.shared else "known"
            assert statuses(await append(spool, *"xaybz")) == ["stored", known, "stored", known, "stored"]
            expected = [*"abxaybz"] if self.shared else [*"abxyz"]
            assert await ids_in_all(spool, len(expected)) == expected
            assert self.accepted(spool) == len(expected)

        self.run(tmp_path, part)

    # -- how it ends

    def test_what_failed_is_kept_as_a_dead_letter(self, tmp_path):
        async def part(spool):
            await append(spool, "a", "b")
            await spool.settle([(await read(spool)).messages[0].key], REFUSED, "invalid payload")
            counts = spool.statistics()
            assert (counts.failed, counts.dead) == (1, 1)
            assert self.shared or counts.dead_bytes == len(body_of("a"))
            assert counts.reasons == {"refused": 1}

        async def later(spool):
            assert await read_ids(spool) == ["b"]
            if self.shared:
                return
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
            keys = [each.key for each in await read_in_all(spool, 2)]
            await spool.settle(keys[:1], DELIVERED)
            await spool.settle(keys, REFUSED)
            await spool.settle(keys, DELIVERED)
            counts = spool.statistics()
            assert (counts.delivered, counts.failed, counts.dead) == (1, 1, 1)

        self.run(tmp_path, part)

    def test_messages_are_settled_in_any_order_and_any_groups(self, tmp_path):
        async def part(spool):
            await append(spool, *"abcdefgh")
            keys = [each.key for each in await read_in_all(spool, 8)]
            await asyncio.gather(
                spool.settle(keys[1::2], DELIVERED), spool.settle(keys[6::-4], REFUSED), spool.settle([], DELIVERED)
            )
            assert spool.statistics().pending == 2

        async def later(spool):
            assert await ids_in_all(spool, 2) == ["a", "e"]

        self.run(tmp_path, part, later)

    # -- restarts

    def test_what_was_not_settled_is_there_again(self, tmp_path):
        async def first(spool):
            await append(spool, *"abc")
            await spool.settle([(await read(spool, count=2)).messages[0].key], DELIVERED)

        async def second(spool):
            assert await ids_in_all(spool, 2) == ["b", "c"]
            if self.shared:
                return
            counts = spool.statistics()
            assert (counts.accepted, counts.delivered, counts.recovered, counts.pending) == (3, 1, 2, 2)

        self.run(tmp_path, first, second)

    def test_attempts_are_remembered(self, tmp_path):
        async def first(spool):
            await append(spool, *"abcd")
            keys = [each.key for each in (await read(spool, count=3)).messages]
            await spool.sending(keys[:2], 1)
            await spool.sending(keys[:2], 2)
            await spool.sending(keys[2:], 1)

        async def second(spool):
            messages = await read_in_all(spool, 4)
            assert [each.attempts for each in messages] == [2, 2, 1, 0]
            # In other batches than before.
            await spool.sending([messages[0].key], 3)
            await spool.sending([each.key for each in messages[1:]], 3)

        async def third(spool):
            assert [each.attempts for each in await read_in_all(spool, 4)] == [3, 3, 3, 3]

        self.run(tmp_path, first, second, third)

    # -- waiting and not waiting

    def test_a_cancelled_read_holds_nothing(self, tmp_path):
        async def part(spool):
            for number in range(50):
                waiting = asyncio.ensure_future(spool.read(10, 1000))
                await asyncio.sleep(0)
                spool.append_nowait([NewMessage(f"{number:02}", b"{}")], lambda _: None)
                for _ in range(number % 5):
                    await spool.settle([], DELIVERED)
                waiting.cancel()
                await asyncio.wait([waiting])
                if not waiting.cancelled():
                    await spool.settle([each.key for each in waiting.result().messages], DELIVERED)
            await spool.settle([], DELIVERED)
            left = 50 - spool.statistics().delivered
            found = await ids_in_all(spool, left)
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

    def test_done_is_called_once_for_each_group_when_it_is_safe(self, tmp_path):
        async def part(spool):
            results = []
            told = threading.Event()
            spool.append_nowait([NewMessage("a", b"1"), NewMessage("c", b"3")], results.append)
            spool.append_nowait([NewMessage("a", b"1")], results.append)
            spool.append_nowait([NewMessage("b", b"2")], lambda result: (results.append(result), told.set()))
            assert told.wait(SOON)
            known = "stored" if self.shared else "known"
            assert [statuses(each.answers) for each in results] == [["stored", "stored"], [known], ["stored"]]
            assert self.shared or spool.statistics().accepted == 3

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
        assert len(asyncio.run(ids_in_all(spool, 85))) == 85
        assert self.accepted(spool) == 85
        asyncio.run(spool.aclose())

    # -- whose it is

    def test_messages_of_another_key_are_refused_and_those_of_the_same_are_not(self, tmp_path):
        def claimed_by(fingerprint):
            async def part(spool):
                spool.claim(fingerprint)
                await append(spool, fingerprint)

            return part

        def own_messages_of(fingerprint):
            async def part(spool):
                spool.claim(fingerprint)
                assert await read_ids(spool) == [fingerprint]

            return part

        self.run(tmp_path, claimed_by("1111"), claimed_by("1111"))
        if self.shared:
            self.run(tmp_path, claimed_by("2222"), own_messages_of("2222"))
            return
        with pytest.raises(ValueError, match="another"):
            self.run(tmp_path, claimed_by("2222"))

    # -- the end

    def test_after_aclose_all_is_refused_and_closing_again_is_fine(self, tmp_path):
        async def part(spool):
            await first_read(spool)
            waiting = asyncio.ensure_future(spool.read(1, 1))
            await asyncio.sleep(0)
            await asyncio.gather(spool.aclose(), spool.aclose())
            with pytest.raises(SpoolUnavailable):
                await waiting
            with pytest.raises(SpoolUnavailable):
                spool.append_nowait([NewMessage("a", b"")], lambda _: None)
            with pytest.raises(SpoolUnavailable):
                await spool.read(1, 1)
            with pytest.raises(SpoolUnavailable):
                await spool.settle([1], DELIVERED)

        self.run(tmp_path, part)

    def test_aclose_writes_what_was_appended_and_records_what_was_settled(self, tmp_path):
        async def first(spool):
            for number in range(1_000):
                spool.append_nowait([NewMessage(f"{number:04}", b"{}")], lambda _: None)
            [message] = (await read(spool, count=1)).messages
            settling = asyncio.ensure_future(spool.settle([message.key], DELIVERED))
            await asyncio.sleep(0)
            await spool.aclose()
            await settling

        async def second(spool):
            found = []
            while len(found) < 999:
                found += await read_ids(spool)
            assert found == [f"{number:04}" for number in range(1, 1_000)]

        self.run(tmp_path, first, second)
