"""A disk that refuses: full, read-only, gone. What was accepted stays, the error is clear, and it ends when it ends."""

import asyncio
import contextlib
import itertools
import logging
import shutil

import pytest

from segment_async.spool import SpoolUnavailable, SQLiteSpool, TryLater

from .contract import DELIVERED, REFUSED, append, append_one, body_of, call_append, check_law, read, read_ids
from .process import reader_without_end

BIG = b"x" * 32_000


def run(path, part, **options):
    async def life():
        spool = SQLiteSpool(path, check_interval=0.05, **options)
        try:
            await part(spool)
            check_law(spool)
            return spool.statistics()
        finally:
            await spool.aclose()

    return asyncio.run(life())


async def append_until_refused(spool, prefix="m"):
    taken = []
    with pytest.raises(SpoolUnavailable) as caught:
        while True:
            message_id = f"{prefix}{len(taken):05}"
            await append_one(spool, message_id, BIG)
            taken.append(message_id)
    return taken, str(caught.value)


async def read_everything(spool, count):
    found = []
    while len(found) < count:
        found += (await read(spool, size=10**8)).messages
    return found


# -- full


def test_a_full_disk_refuses_messages_and_still_records_outcomes(disk):
    path = disk.folder / "analytics.db"

    async def part(spool):
        taken, reason = await append_until_refused(spool)
        assert len(taken) > 150
        assert "full" in reason
        disk.fill()
        messages = await read_everything(spool, len(taken))
        assert [each.message_id for each in messages] == taken
        for start in range(0, len(messages), 50):
            keys = [each.key for each in messages[start : start + 50]]
            await spool.sending(keys, 1)
            await spool.settle(keys, DELIVERED)
            assert spool.statistics().unrecorded == 0
        assert spool.statistics().pending == 0
        # What was delivered is given back to the disk, and so there is room again.
        while spool.statistics().pending == 0:
            with contextlib.suppress(SpoolUnavailable):
                await append_one(spool, "one more", BIG)

    counts = run(path, part)
    assert (counts.pending, counts.delivered) == (1, counts.accepted - 1)


def test_messages_are_taken_again_when_there_is_room_again(disk):
    path = disk.folder / "analytics.db"

    async def part(spool):
        await append(spool, "before")
        stuffing = disk.fill()
        taken, _ = await append_until_refused(spool)
        stuffing.unlink()
        await append(spool, "after")
        assert [each.message_id for each in await read_everything(spool, len(taken) + 2)] == ["before", *taken, "after"]

    run(path, part)


def test_a_disk_that_is_full_from_the_start(disk):
    stuffing = disk.fill()

    async def part(spool):
        for _ in range(3):
            with pytest.raises(SpoolUnavailable):
                await append_one(spool, "a", b"{}")
        stuffing.unlink()
        await append(spool, "b")
        assert await read_ids(spool) == ["b"]

    run(disk.folder / "analytics.db", part)


def test_a_disk_that_was_full_takes_messages_again_as_soon_as_it_has_room(disk):
    """What was delivered leaves free pages in the file, and that is room enough, at once and every time."""
    path = disk.folder / "analytics.db"

    async def part(spool):
        for cycle in range(4):
            taken, _ = await append_until_refused(spool, f"m{cycle}-")
            assert len(taken) > 150
            messages = await read_everything(spool, len(taken))
            for start in range(0, len(messages), 100):
                await spool.settle([each.key for each in messages[start : start + 100]], DELIVERED)
            counts = spool.statistics()
            assert (counts.pending, counts.unrecorded) == (0, 0)
            # Without a wait, without a second try.
            await append_one(spool, f"again-{cycle}", BIG)
            [again] = (await read(spool)).messages
            await spool.settle([again.key], DELIVERED)

    run(path, part)


def test_a_disk_filled_by_others_keeps_outcomes_in_memory_until_there_is_room(disk):
    path = disk.folder / "analytics.db"

    async def part(spool):
        await call_append(spool, [(f"{n}", BIG) for n in range(50)])
        held = await read_everything(spool, 50)
        stuffing = disk.fill()
        # The log cannot be copied into the database, nor grow.
        for message in held:
            await spool.sending([message.key], 1)
            await spool.settle([message.key], DELIVERED)
            check_law(spool)
        counts = spool.statistics()
        assert (counts.delivered, counts.pending) == (50, 0)
        with pytest.raises(SpoolUnavailable, match="full"):
            await append_one(spool, "refused", BIG)
        stuffing.unlink()
        await append_one(spool, "taken", BIG)
        assert spool.statistics().unrecorded == 0

    counts = run(path, part)
    assert (counts.accepted, counts.delivered, counts.pending) == (51, 50, 1)

    async def later(spool):
        assert await read_ids(spool) == ["taken"]

    run(path, later)


# -- a log that cannot be emptied


def test_the_log_stays_bounded_while_another_process_reads(path):
    async def part(spool):
        await append_one(spool, "first", BIG)
        reader = reader_without_end(path)
        taken, reason = await append_until_refused(spool)
        assert "has grown to" in reason
        assert "another process has been reading the spool for long: end that process" in reason
        log = path.with_name(path.name + "-wal")
        assert 32 * 2**20 < log.stat().st_size < 36 * 2**20
        # Outcomes are recorded for a while longer, and then kept in memory.
        messages = await read_everything(spool, len(taken) + 1)
        for message in messages:
            await spool.sending([message.key], 1)
        assert log.stat().st_size < 44 * 2**20
        await spool.settle([each.key for each in messages], DELIVERED)
        assert spool.statistics().pending == 0
        reader.end()
        await append_one(spool, "last", BIG)
        counts = spool.statistics()
        assert (counts.pending, counts.unrecorded) == (1, 0)
        # The log is written over from its start, and cut.
        assert log.stat().st_size < 8 * 2**20

    run(path, part, durability="process")


@pytest.mark.parametrize("outcome", [DELIVERED, REFUSED])
def test_outcomes_pass_the_bound_of_the_log_by_one_transaction_at_most(path, outcome):
    async def part(spool):
        await append_one(spool, "first", BIG)
        reader = reader_without_end(path)
        pages = 20
        for page in range(pages):
            await call_append(spool, [(f"{page}-{n}", b"x" * 1_000) for n in range(1_000)])
        held = await read_everything(spool, 1_000 * pages + 1)
        log = path.with_name(path.name + "-wal")
        for start in range(0, len(held), 500):
            await spool.settle([each.key for each in held[start : start + 500]], outcome)
        assert spool.statistics().unrecorded > 0
        assert 40 * 2**20 < log.stat().st_size < 43 * 2**20
        reader.end()
        await append_one(spool, "last", BIG)
        counts = spool.statistics()
        assert (counts.pending, counts.unrecorded) == (1, 0)

    run(path, part, durability="process")


def test_the_log_is_emptied_when_there_is_time(path):
    async def part(spool):
        await append_one(spool, "a", BIG)
        log = path.with_name(path.name + "-wal")
        assert log.stat().st_size > 0
        while log.stat().st_size:
            await spool.settle([], DELIVERED)

    run(path, part)


# -- read-only


def test_a_disk_that_becomes_read_only(disk):
    path = disk.folder / "analytics.db"

    async def part(spool):
        await append(spool, "a", "b")
        messages = (await read(spool, count=1)).messages
        # What is open for writing keeps a disk from becoming read-only, as a real fault does not.
        await spool.aclose()
        assert messages

    run(path, part)
    disk.remount("ro")

    async def refused(spool):
        for _ in range(2):
            with pytest.raises(SpoolUnavailable, match=r"[Rr]ead-only"):
                await append_one(spool, "c", b"{}")
        disk.remount("rw")
        await append(spool, "d")
        assert await read_ids(spool) == ["a", "b", "d"]

    run(path, refused)


# -- gone


@pytest.fixture
def path(tmp_path):
    return tmp_path / "spool" / "analytics.db"


def test_a_removed_folder_is_an_error_until_it_is_back_and_then_nothing_is_lost(path):
    async def part(spool):
        await append(spool, "a", "b", "c")
        [held] = (await read(spool, count=1)).messages
        shutil.rmtree(path.parent)
        for _ in range(2):
            with pytest.raises(SpoolUnavailable, match="was removed"):
                await append_one(spool, "d", b"{}")
        # What is there can be sent all the while.
        assert await read_ids(spool, count=1) == ["b"]
        path.parent.mkdir(mode=0o700)
        await append(spool, "e")
        await spool.settle([held.key], DELIVERED)
        assert spool.statistics().unrecorded == 0

    counts = run(path, part)
    assert (counts.accepted, counts.delivered, counts.pending) == (4, 1, 3)

    async def later(spool):
        assert await read_ids(spool) == ["b", "c", "e"]

    run(path, later)


def test_removed_files_are_made_again_with_all_that_was_in_them(path):
    async def part(spool):
        await append(spool, "a", "b")
        for each in path.parent.iterdir():
            each.unlink()
        await append(spool, "c")
        assert path.exists()

    run(path, part)

    async def later(spool):
        assert await read_ids(spool) == ["a", "b", "c"]

    run(path, later)


def test_removed_files_are_not_given_up_because_none_can_be_made_for_a_while(path):
    lock = path.with_name(path.name + ".lock")

    async def part(spool):
        await append(spool, "a", "b")
        for each in path.parent.iterdir():
            each.unlink()
        # Stands for a folder in which this user may make no file.
        lock.mkdir()
        for _ in range(2):
            with pytest.raises(SpoolUnavailable, match="Is a directory"):
                await append_one(spool, "c", b"{}")
        lock.rmdir()
        await append(spool, "d")
        assert await read_ids(spool) == ["a", "b", "d"]

    run(path, part)


def test_another_file_in_the_place_is_not_written_to(path):
    async def part(spool):
        await append(spool, "a")
        path.rename(path.with_name("moved.db"))
        path.write_bytes(b"something else")
        with pytest.raises(SpoolUnavailable, match="another file has taken the place"):
            await append_one(spool, "b", b"{}")
        path.unlink()
        await append(spool, "c")
        assert await read_ids(spool) == ["a", "c"]

    run(path, part)


def test_closing_while_another_file_is_in_the_place_removes_nothing_of_it(path):
    other = path.parent / "other.db"

    async def part(spool):
        await append(spool, "a")
        path.rename(path.with_name("moved.db"))
        path.write_bytes(b"something else")
        path.with_name(path.name + "-wal").unlink()
        path.with_name(path.name + "-wal").write_bytes(b"its log")

    run(path, part)
    assert path.with_name(path.name + "-wal").read_bytes() == b"its log"
    assert not other.exists()


def test_a_lock_whose_file_was_removed_is_taken_again(path):
    async def part(spool):
        await append(spool, "a")
        path.with_name(path.name + ".lock").unlink()
        await append(spool, "b")
        assert path.with_name(path.name + ".lock").exists()

    # It is looked for once a second.
    run(path, part, monotonic=itertools.count(step=2).__next__)


# -- memory instead


def refuse(path):
    """No file can be made in what is no folder."""
    path.parent.write_bytes(b"no folder")


def test_callers_are_asked_to_keep_messages_until_the_disk_is_back(path, caplog):
    async def part(spool):
        await append(spool, "a")
        shutil.rmtree(path.parent)
        for _ in range(2):
            assert isinstance(await call_append(spool, [("b", body_of("b"))]), TryLater)
        assert spool.statistics().pending == 1
        path.parent.mkdir(mode=0o700)
        assert [each.status for each in await append(spool, "b")] == ["stored"]
        assert await read_ids(spool) == ["a", "b"]

    counts = run(path, part, on_failure="memory")
    assert (counts.accepted, counts.pending) == (2, 2)
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 2
    assert "kept in memory" in warnings[0]
    assert "again" in warnings[1]


def test_without_a_fall_back_the_call_raises_and_the_log_says_it_once(path, caplog):
    async def part(spool):
        refuse(path)
        results = await asyncio.gather(
            *(append_one(spool, each, body_of(each)) for each in "abc"), return_exceptions=True
        )
        assert [type(each) for each in results] == [SpoolUnavailable] * 3
        assert len({id(each) for each in results}) == 3
        assert spool.statistics().accepted == 0

    run(path, part)
    assert len(caplog.records) == 1
    assert path.parent.read_bytes() == b"no folder"
