"""A damaged write-ahead log: what SQLite alone would cut off without a word is noticed, and mostly saved."""

import asyncio
import os

import pytest

from segment_async.spool import SQLiteSpool

from .contract import check_law, first_read
from .process import HOLDER, Process

IDS = [f"{number:03}" for number in range(40)]


@pytest.fixture
def path(tmp_path):
    """A spool whose process was killed: all of it is in the log, a transaction for each message."""
    path = tmp_path / "spool" / "analytics.db"
    process = Process(HOLDER, path, *IDS)
    assert process.line() == "ready"
    process.kill()
    return path


def log_of(path):
    return path.with_name(path.name + "-wal")


def flip(path, at):
    with path.open("r+b") as file:
        byte = os.pread(file.fileno(), 1, at)[0]
        os.pwrite(file.fileno(), bytes([byte ^ 4]), at)


def read_all(path):
    async def main():
        spool = SQLiteSpool(path)
        found = [each.message_id for each in await first_read(spool)]
        check_law(spool)
        counts = spool.statistics()
        await spool.aclose()
        return found, counts

    return asyncio.run(main())


def test_a_sound_log_is_read_to_its_end(path):
    found, counts = read_all(path)
    assert found == IDS
    assert (counts.pending, counts.damages) == (40, 0)


# The header's mark, its salts, its sums; the first frame's page number, its salts; a page early on, and one late.
@pytest.mark.parametrize("at", [0, 17, 26, 36, 42, 9_000, 300_000])
def test_a_flipped_bit_is_noticed_and_what_comes_after_it_is_counted(path, at):
    """SQLite reads a log up to its first frame that does not fit, and says nothing."""
    flip(log_of(path), at)
    found, counts = read_all(path)
    assert found == IDS[: len(found)]
    assert counts.damages > 0
    assert (counts.accepted, counts.dropped, counts.pending) == (40, 40 - len(found), len(found))
    assert counts.reasons == {"damaged": 40 - len(found)}


def test_a_flipped_bit_in_the_last_frames_costs_what_it_hit_and_is_counted(path):
    log = log_of(path).read_bytes()
    flip(log_of(path), log.rindex(b'{"messageId":"039"}') + 15)
    found, counts = read_all(path)
    assert found == IDS[:-1]
    assert (counts.dropped, counts.reasons, counts.damages > 0) == (1, {"damaged": 1}, True)


def test_a_lost_log_is_noticed_and_counted(path):
    log_of(path).unlink()
    found, counts = read_all(path)
    assert found == []
    assert (counts.accepted, counts.dropped, counts.damages > 0) == (40, 40, True)


def test_a_log_cut_off_is_noticed_and_counted(path):
    os.truncate(log_of(path), log_of(path).stat().st_size // 2)
    found, counts = read_all(path)
    assert found == IDS[: len(found)]
    assert 0 < len(found) < 40
    assert (counts.accepted, counts.dropped, counts.pending) == (40, 40 - len(found), len(found))


def test_what_may_have_been_sent_is_marked_when_the_end_is_lost(path):
    os.truncate(log_of(path), log_of(path).stat().st_size // 2)

    async def main():
        spool = SQLiteSpool(path)
        messages = await first_read(spool)
        assert messages
        assert all(each.attempts == 1 for each in messages)
        await spool.aclose()

    asyncio.run(main())
