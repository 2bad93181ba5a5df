"""A process opens each file of a spool once: closing a second descriptor would drop SQLite's locks, and with them what
was acknowledged.
"""

import asyncio
import os

import pytest

from segment_async.spool import BatchResult, SpoolInspector, SQLiteSpool, Status

from .contract import append, call_append, first_read, read, read_ids
from .process import Process


@pytest.fixture
def path(tmp_path):
    return tmp_path / "spool" / "analytics.db"


# It appends ten messages, does something in the same process, lets an outsider read the file, appends twenty more, and
# is killed.
VICTIM = """
from segment_async.spool import SpoolInspector
async def main():
    spool = SQLiteSpool(path)
    await append(spool, *(f"before-{n}" for n in range(10)))
    MEANWHILE
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    for n in range(20):
        await append(spool, f"after-{n}")
    print("appended", flush=True)
    await asyncio.to_thread(sys.stdin.read)
asyncio.run(main())
"""
MEANWHILE = {
    "nothing": "",
    "a second spool": "other = SQLiteSpool(path); await append(other, 'other')",
    "a second spool, claimed": "other = SQLiteSpool(path); other.claim('1'); await append(other, 'other')",
    "a second spool, closed": "other = SQLiteSpool(path); await append(other, 'other'); await other.aclose()",
    "an inspector": "inspector = SpoolInspector(path); inspector.status(); list(inspector.pending()); list(inspector.dead())",
    "an inspector that writes": "assert SpoolInspector(path).purge('u1') == SpoolInspector(path).retry(lambda _: True) == 0",
    "a spool that reopens its file beside an inspector": (
        "spool._engine()._writer._own.database.file.give_up_connection(); "  # As after a fault of the disk.
        "pending = SpoolInspector(path).pending(); next(pending); await first_read(spool)"
    ),
    "a path that is checked": "SQLiteSpool(path); os.link(path, path + '.link'); SQLiteSpool(path + '.link')",
}


@pytest.mark.parametrize("meanwhile", MEANWHILE.values(), ids=MEANWHILE)
def test_what_was_acknowledged_survives_whatever_else_the_process_does_with_the_file(path, meanwhile):
    victim = Process(VICTIM.replace("MEANWHILE", meanwhile), path)
    assert victim.line() == "ready"
    # Any other process may read the file; SQLite empties the log when the last reader closes it, unless it is locked.
    outsider = Process(
        """
        import sqlite3
        connection = sqlite3.connect(path)
        print(connection.execute("SELECT count(*) FROM messages").fetchone()[0])
        connection.close()
        """,
        path,
    )
    assert outsider.end()[0] == "10\n"
    victim.process.stdin.write("go on\n")
    victim.process.stdin.flush()
    assert victim.line() == "appended"
    victim.kill()

    async def main():
        spool = SQLiteSpool(path, check_interval=0.01)
        found = []
        wanted = {f"before-{n}" for n in range(10)} | {f"after-{n}" for n in range(20)}
        while not wanted <= set(found):
            found += await read_ids(spool)
        assert spool.statistics().damages == 0
        await spool.aclose()

    asyncio.run(main())


def descriptors_of(path):
    """Open descriptors of this process, by file."""
    names = [
        os.readlink(f"/proc/self/fd/{each}")
        for each in os.listdir("/proc/self/fd")
        if os.path.exists(f"/proc/self/fd/{each}")
    ]
    return [name for name in names if name.startswith(str(path))]


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="this system does not list descriptors")
def test_each_file_is_open_once(path):
    async def main():
        one, two = SQLiteSpool(path), SQLiteSpool(path)
        await append(one, "a")
        await append(two, "b")
        inspector = SpoolInspector(path)
        # Between two pages of an inspection.
        pending = inspector.pending()
        next(pending)
        assert sorted(descriptors_of(path)) == sorted(
            f"{path}{slot}{suffix}" for slot in ("", ".1") for suffix in ("", "-wal", "-shm", ".lock")
        )
        assert [each.in_use for each in inspector.status()] == [True, True]
        assert [each.message_id for each in inspector.pending()] == ["a", "b"]
        await one.aclose()
        await two.aclose()
        pending.close()
        assert descriptors_of(path) == []

    asyncio.run(main())


def test_an_inspector_in_the_same_process_puts_back_and_erases(path):
    async def main():
        spool = SQLiteSpool(path, check_interval=0.02)
        await append(spool, "a", "b")
        keys = [each.key for each in (await read(spool)).messages]
        await spool.settle(keys, BatchResult(Status.FAILED, "refused", 400))
        await call_append(spool, [("c", b'{"userId":"u1"}'), ("d", b"{}")])
        inspector = SpoolInspector(path)
        assert await asyncio.to_thread(inspector.retry, lambda letter: letter.message_id == "b") == 1
        assert await asyncio.to_thread(inspector.purge, "u1") == 1
        messages, dropped = [], []
        while len(messages) + len(dropped) < 3:
            window = await read(spool)
            messages += [each.message_id for each in window.messages]
            dropped += [(each.message_id, each.reason) for each in window.dropped]
        assert (messages, dropped) == (["d", "b"], [("c", "purged")])
        counts = spool.statistics()
        assert (counts.accepted, counts.failed, counts.dropped, counts.pending, counts.dead) == (4, 1, 1, 2, 1)
        await spool.aclose()

    asyncio.run(main())


def test_a_file_that_an_inspector_reads_is_not_opened_once_more(path):
    async def main():
        first = SQLiteSpool(path)
        await append(first, "a")
        await first.aclose()
        pending = SpoolInspector(path).pending()
        assert next(pending).message_id == "a"
        spool = SQLiteSpool(path, check_interval=0.02)
        assert await first_read(spool) == []
        assert [each.name for each in path.parent.glob("*.db*") if each.suffix == ".1"] == ["analytics.db.1"]
        pending.close()
        assert await read_ids(spool) == ["a"]
        await spool.aclose()

    asyncio.run(main())


FORKED = """
import warnings
warnings.simplefilter("ignore")
from segment_async.spool import SpoolInspector, SpoolUnavailable
parent_is_gone, parent = os.pipe()
async def in_parent():
    spool = SQLiteSpool(path)
    await append(spool, "a", "b")
    return spool
spool = asyncio.run(in_parent())
if os.fork():
    os._exit(0)
os.close(parent)
os.read(parent_is_gone, 1)
async def in_child(spool):
    await append(spool, "c")
    for _ in range(20):
        await spool.settle([], DELIVERED)
        await asyncio.sleep(0.01)
    print(*(await read_ids(spool)), spool.statistics().pending)
    await spool.aclose()
    try:
        list(SpoolInspector(path).pending())
    except SpoolUnavailable as refusal:
        print(refusal)
asyncio.run(in_child(SPOOL))
"""


@pytest.mark.parametrize("spool", ["spool", "SQLiteSpool(path, check_interval=0.01)"])
def test_a_child_never_opens_what_its_parent_had_open_not_even_when_the_parent_is_dead(path, spool):
    """SQLite in the child would believe that it holds its parent's locks. The next process that is no child adopts it."""
    out, err = Process(FORKED.replace("SPOOL", spool), path).end()
    assert err == ""
    assert out.splitlines()[0] == "c 1"
    assert "was open in the process that this one was forked from" in out

    async def main():
        spool = SQLiteSpool(path)
        assert await read_ids(spool) == ["a", "b"]
        await spool.aclose()

    asyncio.run(main())


def test_a_child_without_a_spool_does_not_wait_for_a_thread_of_its_parents(path):
    """A thread of the parent looks for files at the moment of the fork. The parent has no spool."""
    program = """
    import threading, warnings
    warnings.simplefilter("ignore")
    from segment_async.spool._files import open_files
    looks, end = threading.Event(), threading.Event()
    def look():
        with open_files.guard:
            looks.set()
            end.wait()
    thread = threading.Thread(target=look)
    thread.start()
    looks.wait()
    if child := os.fork():
        end.set()
        thread.join()
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    else:
        if not open_files.guard.acquire(blocking=False):
            os._exit(1)
        SQLiteSpool(path)
        os._exit(0)
    """
    assert Process(program, path).end() == ("0\n", "")


@pytest.mark.parametrize("is_used", [True, False])
def test_a_fork_waits_until_an_inspector_does_nothing(path, is_used):
    """SQLite has locks of its own, and a child would wait for ever for one that a thread of its parent had."""
    program = f"""
    import threading, warnings
    warnings.simplefilter("ignore")
    from segment_async.spool import SpoolInspector, _tables as tables
    async def leave():
        spool = SQLiteSpool(path)
        await append(spool, "a")
        if not {is_used}:
            await spool.aclose()
        return spool
    spool = asyncio.run(leave())
    reads, forks, end = threading.Event(), threading.Event(), threading.Event()
    # The last one that is registered is called first.
    os.register_at_fork(before=forks.set)
    read_heads = tables.read_heads
    def read(*arguments):
        reads.set()
        forks.wait()
        rows = read_heads(*arguments)
        end.set()
        return rows
    tables.read_heads = read
    thread = threading.Thread(target=SpoolInspector(path).status)
    thread.start()
    reads.wait()
    if child := os.fork():
        thread.join()
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    else:
        os._exit(0 if end.is_set() else 1)
    """
    assert Process(program, path).end() == ("0\n", "")


def test_a_lock_file_takes_no_room(path):
    async def main():
        spool = SQLiteSpool(path)
        await append(spool, "a")
        status = path.with_name(path.name + ".lock").stat()
        assert status.st_size < 512
        assert status.st_blocks * 512 <= 4096
        await spool.aclose()

    asyncio.run(main())
