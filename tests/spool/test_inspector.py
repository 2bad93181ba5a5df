"""Looking at a spool and changing it from outside, beside a running process and without one."""

import asyncio
import os
import random
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from segment_async.spool import BatchResult, DroppedMessage, SpoolInspector, SpoolUnavailable, SQLiteSpool, Status
from segment_async.spool._database import Options
from segment_async.spool._files import base_path
from segment_async.spool._writer import Append, Note, Writer

from .contract import DELIVERED, REFUSED, append, append_one, body_of, check_law, read, read_ids
from .process import reader_without_end

ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "spool" / "analytics.db"


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


def visit(path, program):
    """From another process, as an inspector comes; within one process locks would not tell the two apart."""
    head = f"from segment_async.spool import *\ninspector = SpoolInspector({str(path)!r})\n"
    done = subprocess.run([sys.executable, "-c", head + program], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def message(message_id, **fields):
    return orjson.dumps({"messageId": message_id, **fields})


def leave(path, *message_ids, failed=()):
    async def part(spool):
        await append(spool, *failed, *message_ids)
        if failed:
            keys = [each.key for each in (await read(spool, count=len(failed))).messages]
            await spool.sending(keys, 1)
            await spool.settle(keys, REFUSED)

    run(path, part)


@pytest.mark.parametrize("call", [SpoolInspector.status, lambda inspector: list(inspector.dead())])
def test_what_the_system_refuses_makes_the_spool_unavailable(path, call):
    leave(path, "a")
    lock = path.with_name(path.name + ".lock")
    lock.unlink()
    lock.mkdir()
    with pytest.raises(SpoolUnavailable, match=r"the spool cannot be read: .*analytics\.db\.lock"):
        call(SpoolInspector(path))


def test_where_there_is_no_spool_the_inspector_makes_none(path):
    with pytest.raises(SpoolUnavailable, match="there is no spool at"):
        SpoolInspector(path)
    assert not path.parent.exists()


@pytest.mark.parametrize(
    "call",
    [
        SpoolInspector.status,
        lambda inspector: list(inspector.pending()),
        lambda inspector: list(inspector.dead()),
        lambda inspector: inspector.retry(lambda _: True),
        lambda inspector: inspector.count_of_user("u1"),
        lambda inspector: inspector.purge("u1"),
        SpoolInspector.rotate_key,
        SpoolInspector.set_aside,
    ],
)
def test_each_call_says_that_the_spool_has_gone(path, call):
    leave(path, "a")
    inspector = SpoolInspector(path)
    for file in path.parent.iterdir():
        file.unlink()
    with pytest.raises(SpoolUnavailable, match="there is no spool at"):
        call(inspector)


def test_what_is_no_spool_is_no_place_to_visit(path):
    path.parent.mkdir()
    path.write_bytes(b"something else" * 100)
    with pytest.raises(SpoolUnavailable, match="not a spool"):
        SpoolInspector(path).status()


def test_status_tells_what_is_there(path):
    leave(path, "a", "b", failed="x")
    [shard] = SpoolInspector(path).status()
    assert (shard.path, shard.in_use) == (path, False)
    counts = shard.statistics
    assert (counts.accepted, counts.pending, counts.failed, counts.dead) == (3, 2, 1, 1)
    assert counts.reasons == {"refused": 1}
    assert shard.oldest is not None


def test_a_shard_in_use_is_said_to_be(path):
    async def part(spool):
        await append(spool, "a")
        assert visit(path, "print(*(each.in_use for each in inspector.status()))") == ["True"]

    run(path, part)
    assert visit(path, "print(*(each.in_use for each in inspector.status()))") == ["False"]


def test_an_inspector_that_is_still_giving_messages_out_uses_the_shard(path):
    leave(path, "a")
    pending = SpoolInspector(path).pending()
    next(pending)
    assert visit(path, "print(*(each.in_use for each in inspector.status()))") == ["True"]
    pending.close()
    assert visit(path, "print(*(each.in_use for each in inspector.status()))") == ["False"]


def test_looking_changes_nothing(path):
    leave(path, "a", failed="x")
    before = path.read_bytes()
    inspector = SpoolInspector(path)
    assert [(each.message_id, each.body, each.attempts) for each in inspector.pending()] == [("a", body_of("a"), 0)]
    [dead] = inspector.dead()
    assert (dead.message_id, dead.body, dead.reason, dead.status_code) == ("x", body_of("x"), "refused", 400)
    assert (dead.attempts, dead.possibly_delivered) == (2, False)
    assert inspector.set_aside() == []
    assert path.read_bytes() == before


def test_dead_letters_are_put_back_in_line(path):
    leave(path, "a", failed="xyz")
    assert SpoolInspector(path).retry(lambda letter: letter.message_id != "y") == 2

    async def part(spool):
        assert await read_ids(spool) == ["a", "x", "z"]
        counts = spool.statistics()
        assert (counts.accepted, counts.failed, counts.pending, counts.dead) == (4, 1, 3, 1)
        assert counts.reasons == {"refused": 1}

    run(path, part)


def test_a_running_process_sends_what_is_put_back(path):
    async def part(spool):
        await append(spool, "x")
        await spool.settle([(await read(spool)).messages[0].key], BatchResult(Status.FAILED, "gave_up", None, 5, True))
        reading = asyncio.ensure_future(read(spool))
        assert await asyncio.to_thread(visit, path, "print(inspector.retry(lambda _: True))") == ["1"]
        [back] = (await reading).messages
        assert (back.message_id, back.body, back.attempts) == ("x", body_of("x"), 5)
        await append(spool, "y")
        assert await read_ids(spool) == ["y"]

    run(path, part)


def test_what_another_process_put_back_is_not_taken_for_damage(path):
    """It has the position that this process would have used next, by the counters that it knows."""

    async def part(spool):
        await append(spool, "x", "y")
        keys = [each.key for each in (await read(spool)).messages]
        await spool.settle([keys[0]], BatchResult(Status.FAILED, "gave_up", None, 5, True))
        await asyncio.to_thread(visit, path, "print(inspector.retry(lambda _: True))")
        assert [answer.status for answer in await append(spool, "x", "z")] == ["known", "stored"]
        assert (await append_one(spool, "x", body_of("x"))).status == "known"
        assert await read_ids(spool) == ["x", "z"]
        assert spool.statistics().damages == 0

    counts = run(path, part)
    assert (counts.accepted, counts.failed, counts.pending) == (3, 0, 3)


def test_a_message_that_fails_meanwhile_hides_no_dead_letter(path):
    """The letters are looked at page by page, without a lock, and then changed; a new one may come among them."""

    async def part(spool):
        loop = asyncio.get_running_loop()
        await append(spool, *(f"m{n}" for n in range(300)))
        [first, second, *others] = [each.key for each in (await read(spool)).messages]
        await spool.settle([first, *others], REFUSED)
        fails: list[int] = [second]

        def is_wanted(letter):
            if fails:
                asyncio.run_coroutine_threadsafe(spool.settle([fails.pop()], REFUSED), loop).result(10)
            return True

        assert await asyncio.to_thread(SpoolInspector(path).retry, is_wanted) == 299
        await spool.settle([], DELIVERED)

    counts = run(path, part)
    assert (counts.pending, counts.dead) == (299, 1)


def test_what_is_pending_again_already_stays_a_dead_letter(path):
    leave(path, failed="x")
    leave(path, "x")
    assert SpoolInspector(path).retry(lambda _: True) == 0
    counts = SpoolInspector(path).status()[0].statistics
    assert (counts.accepted, counts.pending, counts.dead) == (2, 1, 1)


def test_all_of_a_user_is_erased(path):
    bodies = [
        message("1", userId="u1", secret="gone-1"),
        message("2", userId="u2"),
        message("3", anonymousId="u1", secret="gone-2"),
        message("4", previousId="u1", userId="u3", secret="gone-3"),
        message("5", userId="u2", properties={"userId": "u1"}),
        b"[]",
        b"not even JSON",
    ]

    async def part(spool):
        for number, body in enumerate(bodies):
            await append_one(spool, f"{number + 1}", body)
        [first] = (await read(spool, count=1)).messages
        await spool.settle([first.key], REFUSED)

    run(path, part)
    assert SpoolInspector(path).purge("u1") == 3
    assert b"gone-" not in path.read_bytes()

    async def later(spool):
        assert await read_ids(spool) == ["2", "5", "6", "7"]
        counts = spool.statistics()
        assert (counts.accepted, counts.failed, counts.dropped, counts.dead) == (7, 1, 2, 0)
        assert counts.reasons == {"refused": 1, "purged": 2}

    run(path, later)


@pytest.mark.parametrize("identity", [None, 42, b"u1"])
def test_a_user_is_named_by_text(path, identity):
    run(path, lambda spool: append(spool, "1", "2"))
    inspector = SpoolInspector(path)
    for method in (inspector.count_of_user, inspector.purge):
        with pytest.raises(ValueError, match=r"identity must be text, as ids are sent: str\(user_id\)"):
            method(identity)
    assert len(list(inspector.pending())) == 2


def test_a_running_process_hears_of_what_was_erased(path):
    async def part(spool):
        await append_one(spool, "1", message("1", userId="u1"))
        [held] = (await read(spool)).messages
        second = await append_one(spool, "2", message("2", userId="u1", secret="gone"))
        await append_one(spool, "3", message("3", userId="u2"))
        assert await asyncio.to_thread(visit, path, "print(inspector.purge('u1'))") == ["2"]
        window = await read(spool)
        assert [each.message_id for each in window.messages] == ["3"]
        # The first one is held, and may be on its way already.
        assert window.dropped == [DroppedMessage("2", b"", "purged", second.key)]
        await spool.settle([held.key], DELIVERED)
        counts = spool.statistics()
        assert (counts.delivered, counts.dropped, counts.pending) == (0, 2, 1)
        files = path.read_bytes() + path.with_name(path.name + "-wal").read_bytes()
        assert b"gone" not in files

    run(path, part)


def test_erasing_writes_what_is_erased_and_not_the_whole_file(path):
    """Nor does it wait for a reader, as SQLite does for five seconds at each try: nothing can be written meanwhile."""

    async def part(spool):
        await append_one(spool, "1", message("1", userId="u1"))
        for number in range(20):
            await append_one(spool, f"large-{number}", message("x", userId="u2", text="x" * 500_000))
        # All of it is in the database, and the log is empty.
        assert SpoolInspector(path).purge("u3") == 0
        log = path.with_name(path.name + "-wal")
        assert (path.stat().st_size > 10_000_000, log.stat().st_size) == (True, 0)
        reader = reader_without_end(path)
        # The log cannot be emptied now, and has every page that is written.
        assert await asyncio.to_thread(SpoolInspector(path).purge, "u1") == 1
        assert log.stat().st_size < 500_000
        await append_one(spool, "2", b"{}")
        reader.end()

    run(path, part)


def test_erasing_beside_a_process_puts_no_messages_into_a_temporary_file(path, tmp_path, monkeypatch):
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("SQLITE_TMPDIR", str(folder))
    # It changes with each file that is made in the folder, also with one that is gone by then.
    os.utime(folder, (0, 0))

    async def part(spool):
        await append_one(spool, "1", message("1", userId="u1"))
        for number in range(20):
            await append_one(spool, f"large-{number}", message("x", userId="u2", text="x" * 500_000))
        assert await asyncio.to_thread(visit, path, "print(inspector.purge('u1'))") == ["1"]
        assert folder.stat().st_mtime == 0

    run(path, part)


def test_the_shards_of_all_processes_are_visited(path):
    async def part(spool):
        other = SQLiteSpool(path)
        await append(spool, "a")
        await append(other, "b")
        out = await asyncio.to_thread(visit, path, "print(*(each.message_id for each in inspector.pending()))")
        assert out == ["a", "b"]
        await other.aclose()

    run(path, part)


def test_an_inspector_mends_what_no_process_uses(path):
    leave(path, *(f"{number:04}" for number in range(200)))
    content = path.read_bytes()
    path.write_bytes(content.replace(body_of("0050"), body_of("9999")))
    with pytest.raises(SpoolUnavailable, match="checksum"):
        list(SpoolInspector(path).pending())
    assert SpoolInspector(path).purge("nobody") == 0
    assert len(list(SpoolInspector(path).pending())) == 199
    assert len(SpoolInspector(path).set_aside()) == 1


def test_what_is_put_back_counts_as_recovered(path):
    """A client counts what it reads against what it stored: the rest would seem to be nothing."""

    async def part(spool):
        await append(spool, "x", "y", "z")
        keys = [each.key for each in (await read(spool)).messages]
        failed = BatchResult(Status.FAILED, "refused", 400, 1, False)
        await spool.settle(keys[:2], failed)
        await asyncio.to_thread(visit, path, "print(inspector.retry(lambda letter: letter.message_id == 'x'))")
        # Another failure, in between.
        await spool.settle(keys[2:], failed)
        assert await read_ids(spool) == ["x"]
        assert (spool.statistics().recovered, spool.statistics().failed) == (1, 2)

    run(path, part)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_a_file_that_an_administrator_has_mended_still_belongs_to_its_user(path):
    """Else the application could not start any more."""
    leave(path, *(f"{number:04}" for number in range(200)))
    content = path.read_bytes()
    path.write_bytes(content.replace(body_of("0050"), body_of("9999")))
    os.chown(path, 65534, 65533)
    assert SpoolInspector(path).purge("nobody") == 0
    assert (path.stat().st_uid, path.stat().st_gid) == (65534, 65533)
    assert len(list(SpoolInspector(path).pending())) == 199


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_an_administrator_gives_away_nothing_else(path, tmp_path, monkeypatch):
    """The user owns the folder, and may put a link to any file in the place of the new one."""
    leave(path, *(f"{number:04}" for number in range(200)))
    content = path.read_bytes()
    path.write_bytes(content.replace(body_of("0050"), body_of("9999")))
    os.chown(path, 65534, 65533)
    other, new = tmp_path / "other", path.with_name(path.name + ".new")
    other.touch()
    sync = os.fsync

    def exchange(descriptor):
        sync(descriptor)
        if new.exists() and not new.is_symlink():
            new.unlink()
            new.symlink_to(other)

    monkeypatch.setattr("os.fsync", exchange)
    with pytest.raises(SpoolUnavailable, match="symbolic link"):
        SpoolInspector(path).purge("nobody")
    assert other.stat().st_uid == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_a_lock_that_an_administrator_has_made_belongs_to_the_user_as_well(path):
    """A copy of the database alone has none."""
    leave(path, "1")
    lock = path.with_name(path.name + ".lock")
    lock.unlink()
    os.chown(path, 65534, 65533)
    assert [each.statistics.pending for each in SpoolInspector(path).status()] == [1]
    assert (lock.stat().st_uid, lock.stat().st_gid) == (65534, 65533)


def test_a_file_is_mended_by_root_that_may_not_give_files_away(path, monkeypatch):
    """As in a container without that capability."""

    def refuse(*_):
        raise PermissionError

    leave(path, *(f"{number:04}" for number in range(200)))
    content = path.read_bytes()
    path.write_bytes(content.replace(body_of("0050"), body_of("9999")))
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("os.fchown", refuse)
    assert SpoolInspector(path).purge("nobody") == 0
    assert len(list(SpoolInspector(path).pending())) == 199


@pytest.mark.parametrize("number", range(12))
def test_nothing_of_a_user_remains_in_the_gaps_of_pages(path, number):
    """SQLite moves rows within a page and between pages, and leaves copies where they were."""
    chance = random.Random(number)
    writer = Writer(base_path(path), Options(power_safe=False))
    keys = []
    for step in range(30):
        if chance.random() < 0.6:
            users = [chance.choice(("gone", "kept", "others")) for _ in range(chance.randint(1, 60))]
            fill = chance.choice((1, 3, 30, 120, 400))
            messages = [
                (f"{step}-{index}".encode(), message("x", userId=user, text=user * fill))
                for index, user in enumerate(users)
            ]
            writer.commit([Append(messages)])
        elif (window := writer.read(chance.randint(1, 200), 10_000_000)) is not None:
            keys += [each.key for each in window.messages]
            chance.shuffle(keys)
            settled, keys = keys[::2], keys[1::2]
            writer.commit([Note(settled, chance.choice((DELIVERED, REFUSED)))])
    writer.close()
    SpoolInspector(path).purge("gone")
    assert b"gone" not in path.read_bytes()
