"""Which files the SQLite engine makes, which it refuses, and what it does with broken ones."""

import asyncio
import contextlib
import itertools
import logging
import os
import sqlite3
import stat
import zlib
from datetime import timedelta

import pytest

from segment_async import blocking
from segment_async.spool import SpoolInspector, SpoolUnavailable, SQLiteSpool
from segment_async.spool._files import FORMAT
from segment_async.spool._tables import SCHEMA, Counters
from segment_async.testing import RecordingTransport

from .contract import (
    REFUSED,
    append,
    append_one,
    body_of,
    check_law,
    first_read,
    has_nothing_to_read,
    read,
    read_ids,
    settle_all,
)
from .crash.witness import open_writer, read_all


@pytest.fixture
def path(tmp_path):
    return tmp_path / "spool" / "analytics.db"


def run(path, part):
    async def life():
        spool = SQLiteSpool(path)
        try:
            await part(spool)
            check_law(spool)
            return spool.statistics()
        finally:
            await spool.aclose()

    return asyncio.run(life())


def fill(path, *message_ids):
    async def part(spool):
        await append(spool, *message_ids)

    run(path, part)


def refusal(path):
    """Why a spool cannot be here: said at construction."""
    with pytest.raises(ValueError) as caught:
        SQLiteSpool(path)
    return str(caught.value)


def late_refusal(path, spoil):
    """The same if it came between construction and the first call; and twice, since an application goes on calling."""
    texts = set()

    async def part(spool):
        spoil()
        for _ in range(2):
            with pytest.raises(SpoolUnavailable) as caught:
                await append_one(spool, "a", b"{}")
            texts.add(str(caught.value))

    run(path, part)
    [text] = texts
    return text


def names(path):
    return sorted(each.name for each in path.parent.iterdir())


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


# -- whose they are


def test_files_are_for_their_owner_alone_and_so_is_a_folder_that_is_made(tmp_path):
    path = tmp_path / "some" / "analytics.db"

    async def part(spool):
        await append(spool, "a")
        assert names(path) == ["analytics.db", "analytics.db-shm", "analytics.db-wal", "analytics.db.lock"]
        assert {mode(each) for each in path.parent.iterdir()} == {0o600}
        assert mode(path.parent) == 0o700

    before = os.umask(0)
    try:
        run(path, part)
    finally:
        os.umask(before)


def test_the_size_on_disk_is_known_from_the_first_read_on(path):
    fill(path, *"abc")

    async def part(spool):
        await first_read(spool)
        assert spool.statistics().disk_bytes >= path.stat().st_size > 0

    run(path, part)


def test_an_open_file_is_closed_to_others(path):
    fill(path, "a")
    path.chmod(0o644)
    fill(path, "b")
    assert mode(path) == 0o600


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o707, 0o702])
def test_a_folder_that_others_may_write_to_is_refused_and_the_way_out_works(path, mode):
    """Such as the emptyDir of Kubernetes."""
    path.parent.mkdir()
    path.parent.chmod(mode)
    text = refusal(path)
    assert f"other users may write to the spool's folder {path.parent} (mode {mode:04o})" in text
    assert names(path) == []
    inside = path.parent / "spool" / path.name
    assert str(inside) in text
    fill(inside, "a")
    assert stat.S_IMODE(inside.parent.stat().st_mode) == 0o700


def test_a_folder_that_another_group_may_write_to_is_refused_and_the_own_group_is_fine(path):
    path.parent.mkdir()
    path.parent.chmod(0o770)
    fill(path, "a")
    if os.geteuid() != 0:
        pytest.skip("only root may give a folder to any group")
    os.chown(path.parent, -1, os.getegid() + 1)
    assert "other users may write" in refusal(path)


def test_a_folder_that_is_opened_to_others_later_is_refused_at_the_call(path):
    path.parent.mkdir()
    assert "other users may write" in late_refusal(path, lambda: path.parent.chmod(0o777))


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", ".lock"])
def test_symbolic_links_are_refused_and_what_they_point_to_is_left_alone(path, tmp_path, suffix):
    target = tmp_path / "target"
    target.write_bytes(b"precious")
    path.parent.mkdir(mode=0o700)
    link = path.with_name(path.name + suffix)
    assert "symbolic link" in late_refusal(path, lambda: link.symlink_to(target))
    assert "symbolic link" in refusal(path)
    assert target.read_bytes() == b"precious"


@pytest.mark.parametrize(
    "option",
    [
        {"max_bytes": "1GB"},
        {"max_age": timedelta(days=1)},
        {"check_interval": None},
        {"max_bytes": 0},
        {"max_age": True},
    ],
)
def test_limits_are_checked_at_construction(path, option):
    with pytest.raises(ValueError, match="must be numbers above zero: bytes, and seconds"):
        SQLiteSpool(path, **option)


def test_a_spool_of_a_closed_client_says_that_each_client_needs_its_own(path):
    spool = SQLiteSpool(path)
    with blocking.Client("KEY", spool=spool, transport=RecordingTransport()):
        pass
    with (
        blocking.Client("KEY", spool=spool, transport=RecordingTransport()) as client,
        pytest.raises(SpoolUnavailable, match="make a new one for each client"),
    ):
        client.track("user-1", "Seen")


def test_a_path_is_checked_at_construction(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    fill("~/x.db", "a")
    assert (tmp_path / "x.db").exists()
    assert "is a folder: give the path of a file" in refusal(tmp_path)
    assert "is a folder: give the path of a file" in refusal("~")
    assert refusal("sqlite:///spool.db") == "the spool's path must be that of a file, not a URL"
    assert "does not exist, and neither does" in refusal(tmp_path / "no" / "where" / "x.db")
    assert "is not a folder" in refusal(tmp_path / "x.db" / "y.db")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["x.db", "x.db.lock"]


def test_a_folder_reached_through_a_link_is_fine(tmp_path):
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    fill(tmp_path / "link" / "analytics.db", "a")
    assert (tmp_path / "real" / "analytics.db").exists()


def test_a_relative_path_stays_where_it_was_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spool = SQLiteSpool("analytics.db")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    async def part():
        await append(spool, "a")
        await spool.aclose()

    asyncio.run(part())
    assert (tmp_path / "analytics.db").exists()


@pytest.mark.parametrize("name", ["with space?and#more%20.db", "ünïcode.db", "'quoted'", "[brackets]*.db"])
def test_any_name_will_do(tmp_path, name):
    fill(tmp_path / name, "a")
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted([name, name + ".lock"])


def test_the_tables_are_made_with_the_words_of_their_format():
    """Other words, or other white space, would have every file out there set aside: that takes another `FORMAT`."""
    assert (FORMAT, zlib.crc32("\n".join(SCHEMA).encode())) == (3, 1159675722)


def test_the_counters_have_the_fields_of_their_format():
    """They are stored without names: a field more would be read as another one."""
    names = "revision position accepted delivered failed dropped pending_bytes dead dead_bytes clock wall fingerprint reasons"
    assert (FORMAT, " ".join(Counters._fields)) == (3, names)


# -- what is no spool


def sqlite_file(path, *statements):
    path.parent.mkdir(mode=0o700, exist_ok=True)
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def test_a_foreign_database_is_refused_and_left_as_it_is(path):
    sqlite_file(path, "CREATE TABLE orders (id)", "INSERT INTO orders VALUES (1)")
    before = path.read_bytes()
    assert "is not a spool" in refusal(path)
    assert path.read_bytes() == before
    assert names(path) == ["analytics.db"]


@pytest.mark.parametrize("content", [b"{}\n", b"x" * 10_000, bytes(8192)])
def test_any_other_file_is_refused_and_left_as_it_is(path, content):
    path.parent.mkdir(mode=0o700)
    path.write_bytes(content)
    assert "is not a spool" in refusal(path)
    assert path.read_bytes() == content
    assert names(path) == ["analytics.db"]


def test_a_foreign_database_in_the_place_of_a_spool_is_refused_and_left_as_it_is(path):
    """Though the lock file beside it is ours."""
    fill(path, "a")
    path.unlink()
    sqlite_file(path, "CREATE TABLE orders (id)", "INSERT INTO orders VALUES (1)")
    before, there = path.read_bytes(), names(path)
    assert path.name + ".lock" in there
    assert "is not a spool" in refusal(path)
    assert (path.read_bytes(), names(path)) == (before, there)


@pytest.mark.parametrize(("first", "content"), [(68, b"\0"), (68, b"\x8c"), (64, bytes(32))])
def test_a_spool_whose_mark_is_damaged_is_none_of_another_program(path, first, content):
    fill(path, "a", "b")
    with path.open("r+b") as file:
        file.seek(first)
        file.write(content)

    async def part(spool):
        assert await read_ids(spool) == ["a", "b"]

    assert run(path, part).damages == 1


def test_a_folder_in_the_place_is_refused(path):
    path.mkdir(parents=True)
    assert "is a folder" in refusal(path)


def test_a_newer_format_is_refused_and_left_as_it_is(path):
    fill(path, "a")
    sqlite_file(path, f"PRAGMA user_version = {9 << 16 | ~9 & 0xFFFF}")
    before = path.read_bytes()
    assert "newer version of segment_async (format 9)" in refusal(path)
    assert path.read_bytes() == before


def test_a_file_that_comes_after_construction_is_left_as_it_is(path):
    path.parent.mkdir(mode=0o700)
    assert "is not a spool" in late_refusal(path, lambda: path.write_bytes(b"x" * 10_000))
    assert path.read_bytes() == b"x" * 10_000
    assert names(path) == ["analytics.db"]


def test_a_path_that_the_system_refuses_is_refused_at_construction(path):
    path.parent.mkdir(mode=0o700)
    assert "File name too long" in refusal(path.with_name("x" * 300))


def test_a_name_may_have_any_bytes(path):
    odd = path.with_name(os.fsdecode(b"a?b#c%20\xff.db"))
    fill(odd, "a")
    assert run(odd, first_read).recovered == 1
    assert names(path) == [odd.name, odd.name + ".lock"]


def test_an_empty_file_is_a_new_spool(path):
    path.parent.mkdir(mode=0o700)
    path.touch()
    assert run(path, lambda spool: append(spool, "a")).accepted == 1
    assert names(path) == ["analytics.db", "analytics.db.lock"]


# -- what is broken


@pytest.mark.parametrize("size", [50, 99, 512, 4096, 6000, 20_000])
def test_a_truncated_file_is_set_aside_and_what_is_lost_is_counted(path, size, caplog):
    fill(path, *(f"{number:04}" for number in range(300)))
    os.truncate(path, size)
    assert len(path.read_bytes()) == size

    async def part(spool):
        await append(spool, "fresh")
        left = spool.statistics().pending
        assert (await read_ids(spool))[-1] == "fresh"
        await settle_rest(spool, left)

    counts = run(path, part)
    assert counts.damages == 1
    assert counts.accepted == 301
    assert counts.reasons == {"damaged": counts.dropped}
    assert 0 < counts.dropped <= 300
    [aside] = [each for each in names(path) if ".corrupt-" in each]
    assert path.with_name(aside).stat().st_size == size
    assert mode(path.with_name(aside)) == 0o600
    damage, lost = caplog.records
    assert (damage.levelno, lost.levelno) == (logging.WARNING, logging.WARNING)
    assert lost.getMessage() == f"Messages lost by the damage: {counts.dropped}: {path}"


@pytest.mark.parametrize("size", [99, 6_000])
def test_what_is_lost_when_a_spool_is_opened_is_reported_to_its_reader(path, size):
    fill(path, *(f"{number:04}" for number in range(300)))
    os.truncate(path, size)

    async def part(spool):
        window = await spool.read(1_000, 10**9)
        found = spool.statistics()
        assert found.recovered == 300
        assert len(window.messages) == found.pending
        assert [each.reason for each in window.dropped] == ["damaged"] * found.dropped
        assert found.dropped > 0

    run(path, part)


async def settle_rest(spool, left):
    assert left == spool.statistics().pending


def test_a_file_cut_to_nothing_is_counted_too(path):
    fill(path, "a", "b")
    os.truncate(path, 0)
    counts = run(path, lambda spool: append(spool, "c"))
    assert (counts.accepted, counts.dropped, counts.pending, counts.damages) == (3, 2, 1, 1)


def test_a_removed_file_is_counted_too(path):
    fill(path, "a", "b")
    path.unlink()
    counts = run(path, lambda spool: append(spool, "c"))
    assert (counts.accepted, counts.dropped, counts.pending, counts.damages) == (3, 2, 1, 1)


def test_a_removed_file_that_held_nothing_is_just_made_again(path):
    fill(path, "a")
    run(path, lambda spool: settle_all(spool, 1))
    path.unlink()
    counts = run(path, lambda spool: append(spool, "b"))
    assert (counts.accepted, counts.delivered, counts.dropped, counts.damages) == (2, 1, 0, 0)


def test_garbage_after_the_header_is_set_aside(path):
    fill(path, "a", "b")
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(100)
        file.write(os.urandom(size - 100))
    counts = run(path, lambda spool: append(spool, "c"))
    assert (counts.accepted, counts.dropped, counts.pending, counts.damages) == (3, 2, 1, 1)
    assert sum(".corrupt-" in each for each in names(path)) == 1


def test_damage_is_no_crash_loop(path):
    fill(path, "a")
    for life in range(3):
        with path.open("r+b") as file:
            file.seek(100)
            file.write(os.urandom(4000))
        counts = run(path, lambda spool, life=life: append(spool, f"{life}"))
        assert (counts.accepted, counts.pending) == (2 + life, 1)


def overwrite(path, old, new):
    content = path.read_bytes()
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, new))


def test_a_changed_body_is_never_read(path):
    fill(path, *"abcde")
    overwrite(path, body_of("c"), body_of("x"))

    async def part(spool):
        assert await read_ids(spool) == ["a", "b", "d", "e"]

    counts = run(path, part)
    assert (counts.dropped, counts.pending, counts.damages) == (1, 4, 1)


def test_messages_saved_from_a_damaged_file_are_marked_as_possibly_sent(path):
    fill(path, *"ab")
    overwrite(path, body_of("a"), body_of("x"))

    async def part(spool):
        [message] = (await spool.read(10, 1000)).messages
        assert (message.message_id, message.attempts) == ("b", 1)

    run(path, part)


@pytest.mark.parametrize(
    ("at", "bit"),
    [(0, 3), (16, 0), (18, 0), (18, 1), (19, 7), (21, 3), (47, 0), (59, 1), (69, 2), (b"CREATE", 7), (b"counters", 7)],
)
def test_a_bit_of_the_first_page_is_noticed_and_what_it_costs_is_counted(path, at, bit):
    """Some of them make SQLite think of other versions, others make its errors no text, and some no longer our mark."""
    fill(path, *"ab")
    content = bytearray(path.read_bytes())
    content[at if isinstance(at, int) else content.index(at)] ^= 1 << bit
    path.write_bytes(content)

    async def part(spool):
        await append(spool, "c")
        found = await read_ids(spool)
        assert found in (["c"], ["a", "b", "c"])

    counts = run(path, part)
    assert counts.damages == 1
    assert counts.accepted == 3
    assert counts.reasons == ({"damaged": 2} if counts.dropped else {})
    assert sum(".corrupt-" in each for each in names(path)) == 1


def test_a_page_whose_order_is_damaged_hides_nothing(path):
    """A search for the next message jumps within a page: one that is out of its order may be passed by."""
    fill(path, *(f"{number:04}" for number in range(600)))
    content = path.read_bytes()
    leaves = [
        at
        for at in range(0, len(content), 4096)
        if content[at] == 0x0D and body_of("0300")[:9] in content[at : at + 4096]
    ]
    for leaf, cell, bit in itertools.product(leaves[::4], (2, 5, 9), (1, 3)):
        damaged = bytearray(content)
        damaged[leaf + 8 + 2 * cell + 1] ^= 1 << bit
        path.write_bytes(damaged)
        writer = open_writer(path)
        try:
            read = len(read_all(writer))
            counts = writer.look()()
        finally:
            writer.close()
        assert counts.pending == read, (leaf, cell, bit)
        assert counts.pending + counts.dropped == 600


def test_a_table_that_is_read_from_its_middle_is_noticed_and_what_that_costs_is_counted(path):
    """The first page says where a table begins: with another bit, at a part of it."""
    ids = [f"{number:04}" for number in range(600)]
    fill(path, *ids)
    content = bytearray(path.read_bytes())
    leaf = next(
        at for at in range(0, len(content), 4096) if content[at] == 0x0D and body_of("0300") in content[at : at + 4096]
    )
    content[content.index(b"messagesmessages") + 16] = leaf // 4096 + 1
    path.write_bytes(content)

    async def part(spool):
        found = await read_ids(spool)
        assert 0 < len(found) < 600
        assert set(found) < set(ids)
        # All that can be read is read, and the others are missed.
        assert await has_nothing_to_read(spool)

    counts = run(path, part)
    assert counts.damages == 1
    assert (counts.accepted, counts.reasons) == (600, {"damaged": 600 - counts.pending})


def test_a_position_that_is_damaged_costs_no_other_message(path):
    ids = [f"{number:04}" for number in range(600)]
    fill(path, *ids)
    content = bytearray(path.read_bytes())
    # The 201st: its position as SQLite writes it stands before its id; with another bit it comes after all others.
    at = content.rindex(bytes([0x81, 0x49]), 0, content.index(body_of("0200")))
    content[at] ^= 0x20
    path.write_bytes(content)

    async def part(spool):
        found = []
        while len(found) < 599:
            found += await read_ids(spool, count=600)
        assert found == ids[:200] + ids[201:]

    counts = run(path, part)
    assert (counts.dropped, counts.reasons, counts.pending) == (1, {"damaged": 1}, 599)


def test_a_text_that_is_no_text_any_more_is_damage_as_any_other(path):
    async def part(spool):
        await append(spool, *"ab")
        await spool.settle([(await read(spool, count=1)).messages[0].key], REFUSED)

    run(path, part)
    overwrite(path, b'{"refused":1}', b'{"\xf2efused":1}')

    async def later(spool):
        assert await read_ids(spool) == ["b"]

    assert run(path, later).damages == 1


def test_a_dead_letter_keeps_its_place_though_only_its_row_is_left(path):
    async def part(spool):
        await append(spool, "a")
        await settle_all(spool, 1, REFUSED)

    run(path, part)
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE counters SET content = x'00'")
    path.with_name(path.name + ".lock").unlink()

    async def later(spool):
        await append(spool, "b")
        await settle_all(spool, 1, REFUSED)

    assert run(path, later).dead == 2
    assert [each.message_id for each in SpoolInspector(path).dead()] == ["a", "b"]


def test_an_interrupted_exchange_is_finished(path):
    fill(path, "good")
    path.rename(path.with_name(path.name + ".salvaged"))
    path.write_bytes(b"SQLite format 3\0 but not for long")
    path.with_name(path.name + "-wal").write_bytes(b"the log of the damaged one")
    path.with_name(path.name + ".new").write_bytes(b"half made")

    async def part(spool):
        assert await read_ids(spool) == ["good"]

    run(path, part)
    assert sum(".corrupt-" in each for each in names(path)) == 2
    assert not path.with_name(path.name + ".new").exists()


def test_a_log_without_its_database_is_not_taken_for_the_new_ones(path):
    path.parent.mkdir(mode=0o700)
    path.with_name(path.name + "-wal").write_bytes(os.urandom(5000))
    assert run(path, lambda spool: append(spool, "a")).pending == 1
    assert sum(".corrupt-" in each for each in names(path)) == 1
