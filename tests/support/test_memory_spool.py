"""The model of a spool keeps the protocol's promises, one message at a time and in groups."""

import asyncio
from typing import Any

import pytest

from segment_async.spool import BatchResult, SpoolUnavailable, Status

from .memory_spool import MemorySpool, ScriptedDisk, SpoolStore
from .virtual_clock import run, running_clock

DELIVERED = BatchResult(Status.DELIVERED, attempts=1)
MANY = 1_000_000


async def append(spool: MemorySpool, *message_ids: str, hold: int = 0, make_room: bool = False) -> Any:
    """A group, and its answer; raises what the disk says."""
    done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    group = [(message_id, message_id.encode()) for message_id in message_ids]
    spool.append_nowait(group, done.set_result, hold=hold, make_room=make_room)
    result = await done
    if isinstance(result, SpoolUnavailable):
        raise result
    return result


async def read_ids(spool: MemorySpool, count: int = 10, size: int = MANY) -> list[str]:
    return [message.message_id for message in (await spool.read(count, size)).messages]


def statuses(result: Any) -> list[str]:
    return [answer.status for answer in result.answers]


class TestAppend:
    def test_one_message_is_answered_by_itself(self) -> None:
        async def main() -> None:
            spool, answers = SpoolStore().open(), []
            spool.append_nowait("a", b"a", answers.append)
            assert answers == []
            await asyncio.sleep(0.1)
            assert [answer[:2] for answer in answers] == [("stored", 1)]

        run(main())

    def test_a_group_is_answered_in_its_order(self) -> None:
        async def main() -> None:
            spool = SpoolStore(max_messages=3).open()
            assert statuses(await append(spool, "a", "b", "a")) == ["stored", "stored", "known"]
            result = await append(spool, "b", "c", "d")
            assert statuses(result) == ["known", "stored", "full"]
            assert [answer.key for answer in result.answers] == [2, 3, None]

        run(main())

    def test_room_is_made_of_the_oldest_that_is_not_held(self) -> None:
        async def main() -> None:
            store = SpoolStore(max_messages=2)
            spool = store.open()
            await append(spool, "a", "b")
            assert await read_ids(spool, 1) == ["a"]
            result = await append(spool, "c", make_room=True)
            assert [(each.message_id, each.reason) for each in result.dropped] == [("b", "queue_full")]
            assert store.pending_ids == {"a", "c"}
            assert statuses(await append(spool, "d", "e", make_room=True)) == ["stored", "stored"]
            assert await read_ids(spool) == ["e"]
            assert statuses(await append(spool, "f", make_room=True)) == ["full"]

        run(main())

    def test_what_is_held_at_once_is_never_read(self) -> None:
        async def main() -> None:
            spool = SpoolStore().open()
            result = await append(spool, "a", "b", "c", hold=2)
            assert [answer.held for answer in result.answers] == [True, True, False]
            assert await read_ids(spool) == ["c"]
            await append(spool, "d")
            # An older one waits to be read.
            assert not (await append(spool, "e", hold=1)).answers[0].held

        run(main())

    def test_without_a_loop_the_answer_comes_at_once(self) -> None:
        answers: list[Any] = []
        SpoolStore().open().append_nowait("a", b"a", answers.append)
        assert [answer[:2] for answer in answers] == [("stored", 1)]

    @pytest.mark.parametrize("hold", [0, 1])
    def test_a_disk_that_refuses_takes_nothing(self, hold: int) -> None:
        async def main() -> None:
            store = SpoolStore(ScriptedDisk(refuses=True))
            with pytest.raises(SpoolUnavailable):
                await append(store.open(), "a", hold=hold)
            assert store.accepted == 0

        run(main())


class TestRead:
    def test_the_first_one_returns_at_once_and_the_next_one_waits(self) -> None:
        async def main() -> None:
            spool = SpoolStore().open()
            assert await read_ids(spool) == []
            waiting = asyncio.create_task(read_ids(spool))
            await asyncio.sleep(10)
            assert not waiting.done()
            await append(spool, "a")
            assert await waiting == ["a"]

        run(main())

    def test_it_is_bounded_by_count_and_bytes_and_never_empty(self) -> None:
        async def main() -> None:
            spool = SpoolStore().open()
            await append(spool, "aa", "bb", "cc", "dd")
            assert await read_ids(spool, 1) == ["aa"]
            assert await read_ids(spool, size=1) == ["bb"]
            assert await read_ids(spool, size=4) == ["cc", "dd"]

        run(main())

    def test_cancelled_it_holds_nothing(self) -> None:
        async def main() -> None:
            spool = SpoolStore().open()
            await append(spool, "a")
            for steps in range(4):
                reading = asyncio.create_task(spool.read(1, MANY))
                for _ in range(steps):
                    await asyncio.sleep(0)
                reading.cancel()
                await asyncio.wait((reading,))
                if not reading.cancelled():
                    pytest.fail(f"it was not cancelled after {steps} steps")
            assert await read_ids(spool) == ["a"]

        run(main())


class TestHolds:
    def test_attempts_survive_the_process_that_made_them(self) -> None:
        async def main() -> None:
            store = SpoolStore()
            spool = store.open()
            await append(spool, "a", "b")
            messages = (await spool.read(10, MANY)).messages
            assert list(await spool.sending([messages[0].key], 1)) == []
            spool.crash()
            with pytest.raises(SpoolUnavailable):
                await append(spool, "c")
            successor = store.open()
            messages = (await successor.read(10, MANY)).messages
            assert [(each.message_id, each.attempts) for each in messages] == [("a", 1), ("b", 0)]
            assert successor.statistics().recovered == 2

        run(main())

    def test_what_was_not_written_is_gone_with_a_crash(self) -> None:
        async def main() -> None:
            store, answers = SpoolStore(ScriptedDisk(seconds=1.0)), []
            spool = store.open()
            spool.append_nowait("a", b"a", answers.append)
            await asyncio.sleep(0.5)
            spool.crash()
            await asyncio.sleep(10)
            assert (answers, store.accepted) == ([], 0)

        run(main())

    def test_a_hold_that_ended_is_told_before_the_request(self) -> None:
        async def main() -> None:
            disk = ScriptedDisk(ending_holds={1})
            store = SpoolStore(disk)
            spool = store.open(shared=True)
            spool.claim("owner")
            await append(spool, "a", "b")
            keys = [each.key for each in (await spool.read(10, MANY)).messages]
            assert set(await spool.sending(keys, 1)) == {1}
            store.release_elsewhere()
            assert await read_ids(spool) == ["a"]

        run(main())


class TestSettle:
    def test_counters_go_on_across_processes(self) -> None:
        async def main() -> None:
            store = SpoolStore()
            spool = store.open()
            await append(spool, "a", "b", "c")
            keys = [each.key for each in (await spool.read(2, MANY)).messages]
            await spool.settle(keys[:1], DELIVERED)
            await spool.settle(keys, BatchResult(Status.FAILED, "refused", 400, attempts=1))
            await spool.aclose()
            counts = store.open().statistics()
            assert (counts.accepted, counts.delivered, counts.failed, counts.pending) == (3, 1, 1, 1)
            assert counts.reasons == {"refused": 1}

        run(main())

    def test_in_the_order_of_the_calls(self) -> None:
        async def main() -> None:
            disk = ScriptedDisk(seconds=1.0)
            spool, answers = SpoolStore(disk).open(), []
            await append(spool, "a")
            (message,) = (await spool.read(1, MANY)).messages
            settling = asyncio.create_task(spool.settle([message.key], DELIVERED))
            await asyncio.sleep(0)
            spool.append_nowait("a", b"a", answers.append)
            await settling
            await asyncio.sleep(2)
            assert [answer.status for answer in answers] == ["stored"]

        run(main())


def test_a_disk_that_stands_still_answers_once_it_moves() -> None:
    async def main() -> None:
        disk = ScriptedDisk(stands_still=True)
        spool = SpoolStore(disk).open()
        appending = asyncio.create_task(append(spool, "a"))
        await asyncio.sleep(1_000)
        assert not appending.done()
        disk.stands_still = False
        await appending
        assert running_clock().time() < 1_002

    run(main())


def test_after_the_close_it_refuses_and_what_was_held_is_free() -> None:
    async def main() -> None:
        store = SpoolStore()
        spool = store.open()
        await append(spool, "a")
        await read_ids(spool)
        waiting = asyncio.create_task(spool.read(1, MANY))
        await asyncio.sleep(0)
        await spool.aclose()
        await spool.aclose()
        with pytest.raises(SpoolUnavailable):
            await waiting
        with pytest.raises(SpoolUnavailable):
            await spool.read(1, MANY)
        assert await read_ids(store.open()) == ["a"]

    run(main())


def test_it_belongs_to_one_owner() -> None:
    store = SpoolStore()
    store.open().claim("one")
    store.open().claim("one")
    with pytest.raises(ValueError, match="another write key"):
        store.open().claim("other")
