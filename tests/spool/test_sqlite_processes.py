"""Several processes on one path: who has what, what becomes of the dead, forks, and the end of the interpreter."""

import asyncio
import os
import threading
import warnings
import weakref
from types import SimpleNamespace

import pytest

from segment_async.spool import SpoolInspector, SQLiteSpool, _files
from segment_async.spool._files import open_files

from .contract import DELIVERED, SOON, append, ids_in_all, read, read_ids
from .process import HOLDER, Process


@pytest.fixture
def path(tmp_path):
    return tmp_path / "spool" / "analytics.db"


def run(path, part, **options):
    async def life():
        spool = SQLiteSpool(path, check_interval=0.05, **options)
        await part(spool)
        counts = spool.statistics()
        await spool.aclose()
        return counts

    return asyncio.run(life())


WORKER = """
# Everything that is appended by this process or left behind by another, until it is told that all have appended.
async def main():
    spool = SQLiteSpool(path, check_interval=0.05)
    name, count = sys.argv[2], int(sys.argv[3])
    await call_append(spool, [(f"{name}-{n}", b"{}") for n in range(count)])
    print("ready", flush=True)
    async def deliver():
        while True:
            window = await spool.read(20, 10_000)
            keys = [each.key for each in window.messages]
            await spool.sending(keys, 1)
            for each in window.messages:
                print(each.message_id)
            await spool.settle(keys, DELIVERED)
    delivering = asyncio.ensure_future(deliver())
    await asyncio.to_thread(sys.stdin.read)
    while spool.statistics().pending:
        await spool.settle([], DELIVERED)
    delivering.cancel()
    await spool.aclose()
asyncio.run(main())
"""


def shards(path):
    return sorted(each.name for each in path.parent.iterdir() if not each.name.endswith((".lock", "-wal", "-shm")))


def test_each_process_has_a_shard_of_its_own_and_leaves_the_others_alone(path):
    with_one = Process(HOLDER, path, "theirs")
    assert with_one.line() == "ready"

    async def part(spool):
        await append(spool, "ours")
        assert shards(path) == ["analytics.db", "analytics.db.1"]
        assert await read_ids(spool) == ["ours"]
        assert spool.statistics().pending == 1

    run(path, part)
    with_one.end()
    assert shards(path) == ["analytics.db", "analytics.db.1"]


def test_the_shard_of_a_killed_process_is_taken_over(path):
    victim = Process(HOLDER, path, "a", "b")
    assert victim.line() == "ready"

    async def part(spool):
        await append(spool, "c")
        assert await read_ids(spool) == ["c"]
        victim.kill()
        messages = (await read(spool)).messages
        assert [each.message_id for each in messages] == ["a", "b"]
        assert spool.statistics().recovered == 2
        await spool.sending([each.key for each in messages], 1)
        await spool.settle([each.key for each in messages], DELIVERED)
        # Empty, it is let go, and what comes next finds it free.
        while len(await_locked(path)) > 1:
            await spool.settle([], DELIVERED)

    run(path, part)


def test_a_shard_whose_salvage_was_killed_between_its_last_steps_is_adopted_and_shown(path):
    """The damaged file was set aside, and the salvaged one has not taken its place yet."""

    async def leave(main):
        other = SQLiteSpool(path)
        await append(main, "ours")
        await append(other, "theirs")
        await other.aclose()

    run(path, leave)
    shard = path.with_name("analytics.db.1")
    shard.rename(path.with_name("analytics.db.1.salvaged"))

    async def part(spool):
        assert await ids_in_all(spool, 2) == ["ours", "theirs"]
        assert spool.statistics().recovered == 2

    run(path, part)
    shard.rename(path.with_name("analytics.db.1.salvaged"))
    assert [each.message_id for each in SpoolInspector(path).pending()] == ["ours", "theirs"]
    assert shards(path) == ["analytics.db", "analytics.db.1"]


def await_locked(path):
    """The shards whose lock is taken, as another process sees it."""
    program = """
    import fcntl
    for name in sorted(os.listdir(os.path.dirname(path))):
        if name.endswith(".lock"):
            with open(os.path.join(os.path.dirname(path), name), "r+b") as file:
                try:
                    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    print(name)
    """
    return Process(program, path).end()[0].split()


def test_an_id_that_is_pending_in_an_adopted_shard_is_known(path):
    victim = Process(HOLDER, path, "a")
    assert victim.line() == "ready"

    async def part(spool):
        await append(spool, "b")
        assert await read_ids(spool) == ["b"]
        victim.kill()
        [adopted] = (await read(spool)).messages
        [known, new] = await append(spool, "a", "c", hold=2)
        assert (known.status, known.key) == ("known", adopted.key)
        # Not held, as the window that was just read has not been put away.
        assert (new.status, new.held) == ("stored", False)
        await spool.settle([adopted.key, new.key], DELIVERED)
        assert [each.status for each in await append(spool, "a")] == ["stored"]

    run(path, part)


def test_nothing_new_is_held_while_an_adopted_message_waits(path):
    victim = Process(HOLDER, path, "a", "b")
    assert victim.line() == "ready"

    async def part(spool):
        await append(spool, "c")
        assert await read_ids(spool) == ["c"]
        victim.kill()
        assert await read_ids(spool, count=1) == ["a"]
        assert not (await append(spool, "d", hold=1))[0].held
        assert await read_ids(spool, count=1) == ["b"]

    run(path, part)


def test_who_starts_next_goes_on_with_what_the_dead_left(path):
    victim = Process(HOLDER, path, "a")
    assert victim.line() == "ready"
    victim.kill()

    async def part(spool):
        assert await read_ids(spool) == ["a"]
        assert shards(path) == ["analytics.db"]

    run(path, part)


def test_two_spools_of_one_process_do_not_meet(path):
    async def main():
        one, two = SQLiteSpool(path), SQLiteSpool(path)
        await append(one, "a")
        await append(two, "b")
        assert await read_ids(one) == ["a"]
        assert await read_ids(two) == ["b"]
        await one.aclose()
        three = SQLiteSpool(path)
        assert await read_ids(three) == ["a"]
        await two.aclose()
        await three.aclose()

    asyncio.run(main())


@pytest.mark.parametrize("count", [2, 6])
def test_of_many_processes_each_message_is_read_once(path, count):
    """Some are killed right after they appended; the others go on with theirs."""
    workers = [Process(WORKER, path, f"worker{number}", 50) for number in range(count)]
    doomed = [Process(HOLDER, path, *(f"doomed{number}-{n}" for n in range(20))) for number in range(count // 2)]
    for process in (*workers, *doomed):
        assert process.line() == "ready"
    for process in doomed:
        process.kill()
    found = [line for worker in workers for line in worker.end()[0].split()]
    wanted = {f"worker{number}-{n}" for number in range(count) for n in range(50)}
    wanted |= {f"doomed{number}-{n}" for number in range(count // 2) for n in range(20)}

    async def part(spool):
        while len(found) < len(wanted):
            messages = (await read(spool)).messages
            found.extend(each.message_id for each in messages)
            await spool.settle([each.key for each in messages], DELIVERED)

    run(path, part)
    assert sorted(found) == sorted(wanted)


def test_a_forked_child_begins_with_nothing_and_the_parent_goes_on(path):
    async def main():
        spool = SQLiteSpool(path)
        await append(spool, "parent-1", "parent-2")
        [held, _] = (await read(spool)).messages
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if not child:
            os._exit(in_child(spool))
        assert os.waitpid(child, 0)[1] == 0  # noqa: ASYNC222 -- nothing else is to happen meanwhile
        await spool.settle([held.key], DELIVERED)
        await append(spool, "parent-3")
        assert await read_ids(spool) == ["parent-3"]
        counts = spool.statistics()
        assert (counts.accepted, counts.delivered, counts.pending) == (3, 1, 2)
        await spool.aclose()

    asyncio.run(main())
    assert shards(path) == ["analytics.db", "analytics.db.1"]


def in_child(spool):
    """In a thread with a loop of its own: the parent's is still running here, and means nothing."""
    statuses = []

    async def main():
        assert spool.statistics().accepted == 0
        await append(spool, "child-1")
        assert await read_ids(spool) == ["child-1"]
        await spool.aclose()
        statuses.append(0)

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    thread.join(SOON)
    return 0 if statuses else 1


def test_a_spool_that_another_thread_makes_amid_a_fork_leaves_no_turn_of_the_others_under_way(path, monkeypatch):
    made = []

    class Turn:
        """A turn that another thread makes a spool in, while a fork waits for it to end."""

        def acquire(self, timeout):
            made.append(SQLiteSpool(path.with_name("other.db"))._engine())
            stopped.add(self)
            return True

        def release(self):
            stopped.discard(self)

        def _is_owned(self):
            return self in stopped

    turns, stopped = [Turn() for _ in range(2)], set()
    monkeypatch.setattr(open_files, "turns", weakref.WeakValueDictionary(enumerate(turns)))
    _files._before_fork()
    assert len(stopped) == 2
    _files._after_fork_in_parent()
    assert (stopped, len(made)) == (set(), 2)


def test_a_thread_of_a_child_that_forks_waits_for_nothing_of_the_parents(path):
    program = """
    import threading, time, warnings
    warnings.simplefilter("ignore")
    spool = SQLiteSpool(path)
    asyncio.run(append(spool, "a"))

    def fork():
        began = time.monotonic()
        child = os.fork()
        if not child:
            os._exit(0)
        os.waitpid(child, 0)
        print("soon" if time.monotonic() - began < 2.5 else "late", flush=True)

    child = os.fork()
    if not child:
        thread = threading.Thread(target=fork)
        thread.start()
        thread.join()
        os._exit(0)
    os.waitpid(child, 0)
    os._exit(0)
    """
    assert Process(program, path).end() == ("soon\n", "")


@pytest.mark.parametrize(
    "call",
    [
        "SQLiteSpool(path)",
        "spool.claim('1')",
        "refused(SpoolInspector(path).status)",
        "asyncio.run(append(spool, 'b'))",
    ],
)
def test_a_child_of_a_fork_without_hooks_waits_for_nothing_of_the_parents(path, call):
    """As under uWSGI. What the parent has open is the parent's."""
    program = f"""
    import ctypes, signal, threading
    from segment_async.spool import SpoolInspector, SpoolUnavailable
    from segment_async.spool._files import open_files

    def refused(call):
        try:
            call()
        except SpoolUnavailable:
            return
        os._exit(1)

    spool = SQLiteSpool(path)
    asyncio.run(append(spool, "a"))
    parents = [*open_files.databases]
    is_held, is_over = threading.Event(), threading.Event()

    def hold():
        with open_files.guard:
            is_held.set()
            is_over.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    is_held.wait()
    child = ctypes.PyDLL(None).fork()
    if not child:
        signal.alarm({int(SOON)})
        {call}
        assert open_files.inherited.issuperset(parents)
        os._exit(0)
    is_over.set()
    print(os.waitpid(child, 0)[1], flush=True)
    os._exit(0)
    """
    assert Process(program, path).end() == ("0\n", "")


def test_threads_that_fork_at_once_leave_no_turn_under_way(monkeypatch):
    class Turn:
        """A turn that the other thread takes as soon as the first one has freed it."""

        def __init__(self):
            self.lock = threading.RLock()

        def acquire(self, timeout):
            has_begun.set()
            return self.lock.acquire(timeout=timeout)

        def release(self):
            self.lock.release()
            has_taken.wait(SOON)

        def _is_owned(self):
            return self.lock._is_owned()

    def fork():
        _files._before_fork()
        has_taken.set()
        _files._after_fork_in_parent()

    has_begun, has_taken = threading.Event(), threading.Event()
    turn = Turn()
    monkeypatch.setattr(open_files, "turns", weakref.WeakValueDictionary({0: turn}))
    free = SimpleNamespace(acquire=lambda timeout: True, _is_owned=lambda: False)
    monkeypatch.setattr(open_files, "inspecting", free)
    _files._before_fork()
    other = threading.Thread(target=fork)
    has_begun.clear()
    other.start()
    assert has_begun.wait(SOON)
    _files._after_fork_in_parent()
    other.join(SOON)
    assert turn.lock.acquire(timeout=0)


def test_a_child_that_ends_in_the_ordinary_way_touches_nothing_of_its_parents(path):
    """Its interpreter tidies up; an inherited connection that it closed would empty the log and remove it."""
    program = """
    import warnings
    warnings.simplefilter("ignore")
    parent_is_there, parent = os.pipe()
    async def main():
        spool = SQLiteSpool(path)
        await append(spool, "a", "b")
        return spool
    spool = asyncio.run(main())
    if os.fork():
        os._exit(0)
    os.close(parent)
    os.read(parent_is_there, 1)
    print("the parent is gone", flush=True)
    """
    out, err = Process(program, path).end()
    assert (out.split(), err) == (["the", "parent", "is", "gone"], "")
    assert path.with_name(path.name + "-wal").stat().st_size > 0


@pytest.mark.parametrize("close", ["messages.close()", "asyncio.run(asyncio.to_thread(messages.close))"])
def test_a_forked_child_leaves_what_an_inspector_is_reading_to_its_parent(path, close):
    program = f"""
    from segment_async.spool import SpoolInspector
    messages = SpoolInspector(path).pending()
    print(next(messages).message_id, flush=True)
    child = os.fork()
    {close}
    if child:
        print("child:", os.waitpid(child, 0)[1])
    else:
        print("left to the parent", flush=True)
    """

    async def part(spool):
        await append(spool, "a", "b")

    run(path, part)
    out, err = Process(program, path).end()
    assert (out.splitlines(), err) == (["a", "left to the parent", "child: 0"], "")


def test_a_connection_left_open_stays_open_however_the_interpreter_ends(path):
    program = """
    import sqlite3
    from segment_async.spool._database import leave_open
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE something (id)")
    leave_open(connection)
    """
    path.parent.mkdir()
    Process(program, path).end()
    assert path.with_name(path.name + "-wal").exists()


def test_an_interpreter_that_ends_without_aclose_loses_nothing_that_was_accepted(path):
    program = """
    spool = SQLiteSpool(path)
    asyncio.run(append(spool, "a", "b"))
    """
    assert Process(program, path).end() == ("", "")

    async def part(spool):
        assert await read_ids(spool) == ["a", "b"]

    run(path, part)


@pytest.mark.parametrize("opened", [True, False])
@pytest.mark.parametrize("closed", [True, False])
def test_a_spool_works_when_threads_cannot_be_started_any_more(path, opened, closed):
    program = f"""
    import atexit
    spool = SQLiteSpool(path)
    if {opened}:
        asyncio.run(append(spool, "before"))
    async def at_exit():
        await append(spool, "at exit")
        assert "at exit" in await read_ids(spool)
        if {closed}:
            await spool.aclose()
    atexit.register(lambda: asyncio.run(at_exit()))
    """
    assert Process(program, path).end() == ("", "")

    async def part(spool):
        assert await read_ids(spool) == (["before", "at exit"] if opened else ["at exit"])

    run(path, part)


def test_closing_with_nothing_opened_makes_no_file(path):
    run(path, lambda spool: asyncio.sleep(0))
    assert not path.exists()
