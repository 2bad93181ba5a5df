"""Appends of a few messages, which are one statement: what is noticed when they are not as ordinary as they look."""

import asyncio
import sqlite3
from contextlib import contextmanager

import pytest

from segment_async.spool import (
    BatchResult,
    SpoolInspector,
    SpoolUnavailable,
    SQLiteSpool,
    Status,
    TryLater,
    Window,
    _writer,
)
from segment_async.spool import _tables as tables
from segment_async.spool._database import Options
from segment_async.spool._files import base_path
from segment_async.spool._writer import Append, Note, Writer

from .contract import SOON, read_ids
from .contract import append as append_to
from .process import Process


@pytest.fixture
def path(tmp_path):
    return tmp_path / "spool" / "analytics.db"


@pytest.fixture
def writer(path):
    writer = Writer(base_path(path), Options())
    yield writer
    writer.close()


def append(writer, *ids, hold=0):
    [result] = writer.commit([Append([(each.encode(), each.encode() * 10) for each in ids], hold)])
    return result


def statuses(result):
    return [answer.status for answer in result.answers]


def ids(writer):
    window = writer.read(100, 1_000_000)
    return [] if window is None else [message.message_id for message in window.messages]


def check(writer, pending):
    counts = writer.look()()
    assert (counts.accepted, counts.pending, counts.pending_bytes) == (pending, pending, 10 * pending)


def test_what_was_sent_is_recorded_in_the_turn_in_which_messages_are_refused(path):
    """Calls may go on and be refused; the outcomes of what was delivered meanwhile survive the process."""
    free = 2**30
    options = Options(free_bytes=lambda folder: free)
    writer = Writer(base_path(path), options)
    append(writer, "a", "b")
    first, second = writer.read(100, 1_000_000).messages
    free = 0
    for message in (first, second):
        [refusal] = writer.commit([Append([(b"new", b"{}")]), Note([message.key], BatchResult(Status.DELIVERED))])
        assert isinstance(refusal, SpoolUnavailable)
        assert not refusal.maybe_stored
        counts = writer.look()()
        assert counts.unrecorded == 0
    assert (counts.accepted, counts.delivered, counts.pending) == (2, 2, 0)
    revision = writer._own.counters.revision
    writer.commit([Append([(name, b"{}")]) for name in (b"c", b"d")])
    # Nothing is written if there is nothing to record.
    assert writer._own.counters.revision == revision
    # That the spool can be written again is said once it takes messages.
    options.logs.clear()
    writer.commit([Note([first.key], 1)])
    assert options.logs == []
    writer.close()
    again = Writer(base_path(path), Options())
    assert ids(again) == []
    again.close()


def test_an_ordinary_append_is_one_statement(writer):
    append(writer, "a")
    statements = []
    writer._own.database.file.connection.set_trace_callback(statements.append)
    append(writer, "b", "c", hold=2)
    # A statement comes once more with each step of a trigger.
    assert len(set(statements)) == 1
    assert ids(writer) == ["a", "b", "c"]
    check(writer, 3)
    statements.clear()
    # A reader waits, and is asked for with each turn.
    assert (ids(writer), statements) == ([], [])


def test_what_is_held_is_not_looked_at_again(writer, monkeypatch):
    """A client may hold 10,000 messages, and read a few at a time as room is made."""
    read_heads, starts = tables.read_heads, []

    def note_start(connection, after, *count):
        starts.append(after)
        return read_heads(connection, after, *count)

    monkeypatch.setattr(tables, "read_heads", note_start)
    append(writer, "a", "b", hold=2)
    append(writer, "c")
    append(writer, "d")
    assert [each.message_id for _ in range(2) for each in writer.read(1, 1_000_000).messages] == ["c", "d"]
    assert starts == [2, 3]


@pytest.mark.parametrize("count", [tables.FEW, tables.FEW + 1])
def test_many_are_stored_as_few_are(writer, count):
    names = [f"{number:02}"[-1] for number in range(10)]
    assert statuses(append(writer, *names)) == ["stored"] * 10
    more = [chr(ord("A") + number) for number in range(count)]
    assert statuses(append(writer, *more)) == ["stored"] * count
    assert ids(writer) == names + more
    check(writer, 10 + count)


def test_a_known_id_is_stored_once(writer):
    append(writer, "a")
    assert statuses(append(writer, "b", "a", "c", "c")) == ["stored", "known", "stored", "known"]
    assert ids(writer) == ["a", "b", "c"]
    check(writer, 3)


def test_what_another_process_has_changed_meanwhile_is_kept(writer):
    append(writer, "a")
    database = writer._own.database
    seen = database.counters
    database.transact(lambda _, counters: (counters._replace(fingerprint="theirs"), None))
    database.counters = seen
    assert statuses(append(writer, "b")) == ["stored"]
    assert database.counters.fingerprint == "theirs"
    assert ids(writer) == ["a", "b"]
    check(writer, 2)


@pytest.mark.parametrize("count", [1, tables.FEW + 1])
def test_what_an_inspector_changes_right_after_a_commit_is_noticed(writer, path, monkeypatch, count):
    """One of this process, in another thread, has the same database."""
    writer.commit([Append([(b"gone", b'{"userId":"gone"}')])])
    commit = writer._own._committed
    purged = []

    def purge_and_note(change):
        purged.append(SpoolInspector(path).purge("gone"))
        commit(change)

    monkeypatch.setattr(writer._own, "_committed", purge_and_note)
    append(writer, *(chr(ord("A") + number) for number in range(count)))
    assert purged == [1]
    assert [(each.message_id, each.reason) for each in writer.read(100, 1_000_000).dropped] == [("gone", "purged")]


def refuse(*_):
    raise SpoolUnavailable("a bad sector")


WRITES = """
import sqlite3
connection = sqlite3.connect(path, isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("ready", flush=True)
sys.stdin.read()
"""


def test_nothing_is_in_doubt_while_another_process_writes(writer, path):
    append(writer, "a")
    writer._own.database.file.connection.execute("PRAGMA busy_timeout = 0")
    other = Process(WRITES, path)
    assert other.line() == "ready"
    refusal = append(writer, "b")
    other.end()
    assert (str(refusal).endswith("(SQLITE_BUSY)"), refusal.maybe_stored) == (True, False)
    assert not writer._own.doubts
    assert statuses(append(writer, "b")) == ["stored"]
    check(writer, 2)


def test_what_was_sent_waits_only_once_while_another_process_writes(writer, path, monkeypatch):
    append(writer, "a")
    [message] = writer.read(100, 1_000_000).messages
    database, tries = writer._own.database, []
    transact = database.transact

    def count(*arguments):
        tries.append(arguments)
        return transact(*arguments)

    database.file.connection.execute("PRAGMA busy_timeout = 0")
    monkeypatch.setattr(database, "transact", count)
    other = Process(WRITES, path)
    assert other.line() == "ready"
    outcome = Note([message.key], BatchResult(Status.DELIVERED))
    [refusal] = writer.commit([outcome, Append([(b"b", b"b" * 10)])])
    other.end()
    assert (str(refusal).endswith("(SQLITE_BUSY)"), len(tries)) == (True, 1)
    assert statuses(append(writer, "b")) == ["stored"]
    counts = writer.look()()
    assert (counts.delivered, counts.pending, counts.unrecorded) == (1, 1, 0)


@pytest.mark.parametrize("is_stored", [True, False])
def test_a_commit_that_fails_is_repeated_without_storing_anything_twice(writer, monkeypatch, is_stored):
    """Whether or not the disk has it in the end."""
    append(writer, "a")
    store, tries = tables.append, 0

    def fail_once(*arguments):
        nonlocal tries
        tries += 1
        if tries == 1:
            if is_stored:
                store(*arguments)
            raise sqlite3.OperationalError("disk I/O error")
        return store(*arguments)

    monkeypatch.setattr(tables, "append", fail_once)
    assert statuses(append(writer, "b")) == ["stored"]
    assert not writer._own.doubts
    assert ids(writer) == ["a", "b"]
    check(writer, 2)


@pytest.fixture
def stores_and_fails(monkeypatch):
    """A disk that has what it says it could not store."""
    store = tables.append

    def store_and_fail(*arguments):
        store(*arguments)
        raise sqlite3.OperationalError("disk I/O error")

    @contextmanager
    def patched():
        with monkeypatch.context() as context:
            context.setattr(tables, "append", store_and_fail)
            context.setattr(tables, "insert_messages", store_and_fail)
            yield

    return patched


def test_a_refused_append_that_turns_up_is_taken_back(writer, stores_and_fails):
    append(writer, "a")
    with stores_and_fails():
        assert append(writer, "b").maybe_stored
    assert statuses(append(writer, "c")) == ["stored"]
    assert ids(writer) == ["a", "c"]
    check(writer, 2)


def test_a_refused_append_that_turns_up_and_is_on_its_way_counts_as_accepted(writer, stores_and_fails):
    append(writer, "a")
    with stores_and_fails():
        assert append(writer, "b").maybe_stored
    messages = writer.read(100, 1_000_000).messages
    assert [each.message_id for each in messages] == ["a", "b"]
    writer.commit([Note([each.key for each in messages], BatchResult(Status.DELIVERED))])
    counts = writer.look()()
    assert (counts.accepted, counts.delivered, counts.pending) == (2, 2, 0)


def test_a_refused_append_that_turns_up_is_not_read_if_its_caller_keeps_it(path, stores_and_fails):
    """It is appended again: read as well, it would be sent twice."""
    writer = Writer(base_path(path), Options(callers_keep=True))
    append(writer, "a")
    with stores_and_fails():
        assert isinstance(append(writer, "b"), TryLater)
    assert ids(writer) == ["a"]
    assert writer.read(100, 1_000_000) is None
    assert statuses(append(writer, "b")) == ["stored"]
    assert ids(writer) == ["b"]
    check(writer, 2)
    writer.close()


def test_what_made_room_for_a_message_of_two_failed_commits_is_reported_once(path, monkeypatch):
    """The first is rolled back; the second, the same once more, is on disk after all."""
    writer = Writer(base_path(path), Options(max_bytes=20))
    append(writer, "a", "b")
    store_counters, tries = tables.store_counters, 0

    def fail_twice(connection, counters):
        nonlocal tries
        tries += 1
        if tries <= 2:
            if tries == 2:
                store_counters(connection, counters)
                connection.execute("COMMIT")
            raise sqlite3.OperationalError("disk I/O error")
        store_counters(connection, counters)

    monkeypatch.setattr(tables, "store_counters", fail_twice)
    [result] = writer.commit([Append([(b"c", b"c" * 10)], make_room=True)])
    assert statuses(result) == ["stored"]
    window = writer.read(100, 1_000_000)
    assert [each.message_id for each in window.messages] == ["b", "c"]
    assert [each.message_id for each in (*result.dropped, *window.dropped)] == ["a"]
    assert writer.look()().reasons == {"queue_full": 1}
    writer.close()


def test_what_is_held_since_this_turn_makes_no_room_in_it(path):
    writer = Writer(base_path(path), Options(max_bytes=20))
    held, result = writer.commit(
        [Append([(b"a", b"a" * 10)], hold=1), Append([(b"b", b"b" * 10), (b"c", b"c" * 10)], make_room=True)]
    )
    assert (held.answers[0].held, statuses(result), result.dropped) == (True, ["stored", "full"], ())
    writer.close()


def test_a_dead_letter_that_is_put_back_is_not_taken_for_a_refused_append(writer, path, monkeypatch):
    append(writer, "a")
    [message] = writer.read(100, 1_000_000).messages
    writer.commit([Note([message.key], BatchResult(Status.FAILED, "refused", 400))])

    def fail(*_):
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as context:
        context.setattr(tables, "append", fail)
        context.setattr(tables, "insert_messages", fail)
        # The same message once more.
        assert append(writer, "a").maybe_stored
    assert SpoolInspector(path).retry(lambda _: True) == 1
    append(writer, "b")
    assert ids(writer) == ["a", "b"]
    check(writer, 2)


def test_a_dead_letter_that_fails_again_meanwhile_is_put_back_once(writer, path):
    asked = []

    def fail_all():
        window = writer.read(1_000, 1_000_000)
        keys = [message.key for message in window.messages] if window is not None else []
        writer.commit([Note(keys, BatchResult(Status.FAILED, "refused"))])

    def is_wanted(letter):
        """Those that were put back have failed by the time that the next ones are looked at."""
        asked.append(letter.message_id)
        assert len(asked) <= 300
        fail_all()
        return True

    append(writer, *map(str, range(300)))
    fail_all()
    assert SpoolInspector(path).retry(is_wanted) == 300
    assert asked == list(map(str, range(300)))


def test_an_outcome_that_comes_twice_while_the_disk_refuses_counts_once(path, monkeypatch):
    earlier = Writer(base_path(path), Options())
    append(earlier, "a")
    earlier.close()
    writer = Writer(base_path(path), Options())
    [message] = writer.read(100, 1_000_000).messages

    def fail(*_):
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(tables, "store_counters", fail)
    for _ in range(2):
        writer.commit([Note([message.key], BatchResult(Status.DELIVERED))])
    counts = writer.look()()
    assert (counts.delivered, counts.pending, counts.pending_bytes) == (1, 0, 0)
    monkeypatch.undo()
    writer.close()


def test_damage_in_a_removed_file_costs_no_sound_message(writer, path):
    """The connection still has them."""
    append(writer, "a", "b", "c")
    database = writer._own.database
    database.file.connection.execute("UPDATE messages SET body = 'x' WHERE message_id = CAST('b' AS BLOB)")
    for each in path.parent.iterdir():
        each.unlink()
    window = writer.read(100, 1_000_000)
    assert [each.message_id for each in window.messages] == ["a", "c"]
    assert [each.reason for each in window.dropped] == ["damaged"]
    counts = writer.look()()
    assert (counts.accepted, counts.pending, counts.reasons, counts.damages) == (3, 2, {"damaged": 1}, 1)
    assert path.exists()


def test_damage_of_what_is_held_is_left_to_its_holder(writer):
    """It has the message, and says how it ends."""
    append(writer, "a", "b", hold=2)
    append(writer, "c")
    connection = writer._own.database.file.connection
    connection.execute("UPDATE messages SET body = 'x' WHERE message_id = CAST('b' AS BLOB)")
    connection.execute("UPDATE messages SET body = 'x' WHERE message_id = CAST('c' AS BLOB)")
    window = writer.read(100, 1_000_000)
    assert ([*window.messages], [each.reason for each in window.dropped]) == ([], ["damaged"])
    counts = writer.look()()
    assert (counts.accepted, counts.pending, counts.reasons) == (3, 1, {"damaged": 2})


def small_writer(path):
    """With the messages a and b, and room for one more."""
    writer = Writer(base_path(path), Options(max_bytes=30))
    append(writer, "a", "b")
    return writer


def test_a_message_at_a_position_that_is_not_given_out_yet_is_lost_alone(path):
    writer = small_writer(path)
    writer._own.database.file.connection.execute("UPDATE messages SET position = 3 WHERE position = 2")
    assert statuses(append(writer, "c", "d")) == ["stored", "stored"]
    assert ids(writer) == ["a", "c", "d"]
    counts = writer.look()()
    assert (counts.accepted, counts.pending, counts.reasons) == (4, 3, {"damaged": 1})
    writer.close()


def test_dead_letters_that_are_only_counted_make_no_room_and_are_not_waited_for(path):
    writer = small_writer(path)
    [message] = writer.read(1, 1_000_000).messages
    writer.commit([Note([message.key], BatchResult(Status.FAILED, "refused", 400))])
    writer._own.database.file.connection.execute("DELETE FROM dead")
    assert statuses(append(writer, "c", "d", "e")) == ["stored", "stored", "full"]
    counts = writer.look()()
    assert (counts.accepted, counts.failed, counts.dead, counts.pending) == (4, 1, 0, 3)
    writer.close()


def test_outcomes_that_the_disk_has_refused_are_recorded_at_the_close(path, monkeypatch):
    writer = small_writer(path)
    messages = writer.read(100, 1_000_000).messages

    with monkeypatch.context() as context:
        context.setattr(writer._own.database, "transact", refuse)
        writer.commit([Note([each.key for each in messages], BatchResult(Status.DELIVERED))])
    writer.close()
    counts = writer.look()()
    assert (counts.delivered, counts.pending, counts.unrecorded) == (2, 0, 0)
    again = Writer(base_path(path), Options())
    assert ids(again) == []
    again.close()


# -- shards of other processes, and inspectors


@pytest.fixture
def left(writer, path):
    """A process has ended and left one message of a user."""
    append(writer, "own")
    other = Writer(base_path(path), Options())
    other.commit([Append([(b"left", b'{"userId":"u1"}')])])
    other.close()


@pytest.fixture
def adopted(writer, left):
    """Its shard."""
    writer.release(writer.read(1, 1))
    writer.look_after()
    [shard] = writer._adopted
    return shard


def test_what_others_left_is_read_as_soon_as_there_is_nothing_of_its_own(writer, left):
    """A process may end before its next look."""
    assert ids(writer) == ["own"]
    assert ids(writer) == ["left"]
    assert writer.look()().recovered == 1


def test_a_turn_opens_no_more_of_what_others_left_than_there_is_time_for(path, monkeypatch):
    """Callers wait for the end of a turn, and each file may need syncs of a slow disk."""
    others = [Writer(base_path(path), Options()) for _ in range(4)]
    for number, other in enumerate(others):
        other.commit([Append([(b"%d" % number, b"{}")])])
    for other in (others[0], others[2]):
        [message] = other.read(1, 100).messages
        other.commit([Note([message.key], BatchResult(Status.DELIVERED))])
    for other in others:
        other.close()
    now = [0.0]
    writer = Writer(base_path(path), Options(monotonic=lambda: now[0]))
    adopt = writer._adopt

    def slowly(place):
        now[0] += 1.0
        adopt(place)

    monkeypatch.setattr(writer, "_adopt", slowly)
    for turns in (1, 2):
        # Nothing is given out before all is known, as a flush waits for all of it.
        assert (writer.read(100, 1_000_000), writer.is_looking, now[0]) == (None, True, turns)
    assert (ids(writer), writer.look()().recovered) == (["1"], 2)
    assert not writer.is_looking
    assert ids(writer) == ["3"]
    writer.close()


def test_a_read_is_answered_once_all_that_others_left_was_looked_at(path, monkeypatch):
    others = [Writer(base_path(path), Options()) for _ in range(3)]
    for number, other in enumerate(others):
        other.commit([Append([(b"%d" % number, b"{}")])])
    for other in others:
        other.close()
    monkeypatch.setattr(_writer, "_ADOPT_SECONDS", 1e-9)

    async def main():
        spool = SQLiteSpool(path)
        windows = [await spool.read(1_000, 1_000_000) for _ in range(3)]
        assert spool.statistics().recovered == 3
        await spool.aclose()
        return [([message.message_id for message in window.messages], window.knows_all) for window in windows]

    assert asyncio.run(main()) == [(["0"], False), (["1"], True), (["2"], True)]


def test_a_read_says_at_once_that_earlier_processes_left_no_more_than_was_read(path):
    earlier = Writer(base_path(path), Options())
    append(earlier, "left")
    earlier.close()

    async def main():
        spool = SQLiteSpool(path)
        assert await read_ids(spool) == ["left"]
        assert await asyncio.wait_for(spool.read(1_000, 1_000_000), SOON) == Window(())
        await spool.aclose()

    asyncio.run(main())


def test_a_later_look_at_what_others_left_is_no_matter_of_reads(path, monkeypatch):
    """Else a waiting reader would get nothing until it is over, and begin the next one at once."""
    others = [Writer(base_path(path), Options()) for _ in range(3)]
    for number, other in enumerate(others):
        other.commit([Append([(b"%d" % number, b"{}")])])
    for other in others:
        other.close()
    writer = Writer(base_path(path), Options())
    tried = []
    monkeypatch.setattr(writer, "_adopt", lambda place: tried.append(place.slot))
    assert ids(writer) == ["0"]
    assert (writer.read(1, 100), tried) == (None, [1, 2])
    monkeypatch.setattr(_writer, "_ADOPT_SECONDS", 0.0)
    assert writer.look_after()
    writer.commit([Append([(b"own", b"{}")])])
    assert (ids(writer), writer.is_looking) == (["own"], False)
    assert (writer.read(1, 100), tried) == (None, [1, 2])
    assert [writer.look_after(), writer.look_after()] == [True, False]
    assert tried == [1, 2, 1, 2]
    writer.close()


def test_an_empty_shard_is_opened_once(writer, left, path, monkeypatch):
    other = Writer(base_path(path), Options())
    other.commit([Note([message.key for message in other.read(1, 1_000_000).messages], BatchResult(Status.DELIVERED))])
    other.close()
    assert ids(writer) == ["own"]
    opened = []
    open_shard = writer._open
    monkeypatch.setattr(writer, "_open", lambda place: opened.append(place.slot) or open_shard(place))
    for _ in range(3):
        writer.look_after()
    assert opened == [1]


def test_a_dead_letter_that_is_put_back_while_its_shard_is_found_empty_is_read(writer, left, path, monkeypatch):
    other = Writer(base_path(path), Options())
    [message] = other.read(1, 1_000_000).messages
    other.commit([Note([message.key], BatchResult(Status.FAILED, "refused", 400))])
    other.close()
    assert ids(writer) == ["own"]
    program = """
    from segment_async.spool import SpoolInspector
    print(SpoolInspector(path).retry(lambda _: True))
    """
    close = writer._close

    def put_back_and_close(shard):
        assert Process(program, path).end() == ("1\n", "")
        close(shard)

    with monkeypatch.context() as context:
        context.setattr(writer, "_close", put_back_and_close)
        writer.look_after()
    assert writer._adopted == []
    writer.look_after()
    assert ids(writer) == ["left"]


def test_what_was_left_at_the_path_is_this_processs_own_once_it_can_be_opened(path, monkeypatch):
    earlier = Writer(base_path(path), Options())
    append(earlier, "left")
    earlier.close()
    writer = Writer(base_path(path), Options())

    with monkeypatch.context() as context:
        context.setattr(_writer, "is_others", refuse)
        with pytest.raises(SpoolUnavailable):
            writer.read(100, 1_000_000)
    assert ids(writer) == ["left"]
    assert not path.with_name(f"{path.name}.1").exists()
    writer.close()


def purged(window):
    return [(message.message_id, message.reason) for message in window.dropped]


def test_a_process_that_reads_nothing_leaves_the_messages_of_others_to_those_that_do(writer, left, path):
    writer.look_after()
    assert writer.look()().recovered == 0
    other = Writer(base_path(path), Options())
    assert ids(other) == ["left"]
    other.close()
    assert ids(writer) == ["own"]
    writer.look_after()
    assert ids(writer) == ["left"]


def test_what_was_erased_is_reported_once(writer, path):
    append(writer, "first")
    writer.commit([Append([(user, b'{"userId":"%b"}' % user) for user in (b"u1", b"u2")])])
    for user in ("u1", "u2"):
        assert SpoolInspector(path).purge(user) == 1
        writer.look_after()
        window = writer.read(1, 1)
        assert purged(window) == [(user, "purged")]
        writer.release(window._replace(dropped=()))
        append(writer, "more")
    statements = []
    writer._own.database.file.connection.set_trace_callback(statements.append)
    append(writer, "ordinary")
    assert len(set(statements)) == 1


def test_what_was_erased_from_a_shard_that_is_empty_then_is_reported(writer, adopted, path):
    assert SpoolInspector(path).purge("u1") == 1
    writer.look_after()
    assert writer._adopted == []
    assert purged(writer.read(100, 1_000_000)) == [("left", "purged")]


def test_an_adopted_shard_that_is_given_back_empty_is_still_counted(writer, adopted, path):
    def counts():
        return [*map(writer.look()().__getattribute__, ("accepted", "delivered", "failed", "pending", "dead"))]

    [left] = writer.read(1, 1_000_000).messages
    [own] = writer.read(1, 1_000_000).messages
    writer.commit([Note([own.key], BatchResult(Status.DELIVERED)), Note([left.key], BatchResult(Status.FAILED))])
    assert counts() == [2, 1, 1, 0, 1]
    writer.look_after()
    assert writer._adopted == []
    # A dead letter stays in its shard, which another process may have now.
    assert counts() == [2, 1, 1, 0, 0]
    other = Writer(base_path(path), Options())
    append(other, "again")
    other.close()
    # Once, if it is adopted again.
    writer.look_after()
    assert counts() == [3, 1, 1, 1, 1]


def test_what_was_found_in_a_shard_that_is_given_back_is_still_counted(writer, adopted, path):
    messages = [*writer.read(1, 1_000_000).messages, *writer.read(1, 1_000_000).messages]
    writer.commit([Note([each.key for each in messages], BatchResult(Status.FAILED))])
    assert SpoolInspector(path).retry(lambda letter: letter.message_id == "left") == 1
    [message] = writer.read(1, 1_000_000).messages
    adopted.database.file.connection.execute("DELETE FROM counters")
    writer.commit([Note([message.key], BatchResult(Status.DELIVERED))])
    writer.look_after()
    assert writer._adopted == []
    counts = writer.look()()
    assert (counts.recovered, counts.damages) == (2, 1)


def test_a_window_that_is_taken_back_after_it_was_erased_is_reported(writer, adopted, path):
    window = writer.read(100, 1_000_000)
    assert [message.message_id for message in window.messages] == ["left"]
    assert SpoolInspector(path).purge("u1") == 1
    writer.look_after()
    for _ in range(2):
        writer.release(window)
        window = writer.read(100, 1_000_000)
        assert purged(window) == [("left", "purged")]


def test_a_message_of_a_window_that_was_erased_in_this_processs_shard_is_reported(writer, path):
    writer.commit([Append([(b"a", b'{"userId":"u1"}'), (b"b", b"{}")])])
    window = writer.read(100, 1_000_000)
    assert SpoolInspector(path).purge("u1") == 1
    writer.look_after()
    writer.release(window)
    window = writer.read(100, 1_000_000)
    assert [message.message_id for message in window.messages] == ["b"]
    assert purged(window) == [("a", "purged")]


def test_nothing_is_held_while_an_older_message_of_another_shard_waits(writer, adopted):
    left = writer.read(1, 1_000_000)
    [own] = writer.read(1, 1_000_000).messages
    writer.commit([Note([own.key], BatchResult(Status.DELIVERED))])
    writer.release(left)
    assert [answer.held for answer in append(writer, "later", hold=1).answers] == [False]
    assert [*ids(writer), *ids(writer)] == ["left", "later"]


def test_a_spool_that_is_closed_as_a_look_is_due_adopts_nothing_more(path):
    now = 1_000.0

    async def main():
        nonlocal now
        spool, other = SQLiteSpool(path, monotonic=lambda: now), SQLiteSpool(path)
        await append_to(spool, "own")
        await append_to(other, "left")
        assert await read_ids(spool) == ["own"]
        await other.aclose()
        now += 60
        await spool.aclose()

    asyncio.run(main())
    again = Writer(base_path(path), Options())
    assert [*ids(again), *ids(again)] == ["own", "left"]
    again.close()


def test_an_outcome_is_kept_if_another_shard_cannot_be_read_in_its_turn(writer, adopted, monkeypatch):
    messages = [*writer.read(1, 1_000_000).messages, *writer.read(1, 1_000_000).messages]
    [own] = [message for message in messages if message.message_id == "own"]

    with monkeypatch.context() as context:
        context.setattr(adopted.database, "read", refuse)
        [refusal] = writer.commit([Append([(b"new", b"{}")]), Note([own.key], BatchResult(Status.DELIVERED))])
        assert isinstance(refusal, SpoolUnavailable)
        counts = writer.look()()
        assert (counts.delivered, counts.unrecorded) == (1, 1)
    assert statuses(append(writer, "new")) == ["stored"]
    counts = writer.look()()
    assert (counts.delivered, counts.unrecorded) == (1, 0)


def test_what_one_shard_refuses_is_not_tried_with_each_outcome_of_another(writer, adopted, monkeypatch):
    tries = []

    def note_and_refuse(*arguments):
        tries.append(arguments)
        refuse()

    monkeypatch.setattr(adopted.database, "transact", note_and_refuse)
    for _ in range(2):
        [message] = writer.read(1, 1_000_000).messages
        writer.commit([Note([message.key], BatchResult(Status.DELIVERED))])
    counts = writer.look()()
    assert (len(tries), counts.delivered, counts.unrecorded) == (1, 2, 1)
    monkeypatch.undo()


def test_outcomes_that_the_disk_refuses_are_tried_again_after_a_while(writer, monkeypatch):
    """All that are unrecorded are tried together: with each new one, 30,000 messages took two minutes."""
    append(writer, *map(str, range(100)))
    messages = writer.read(100, 1_000_000).messages
    shard, tried, now = writer._own, 0, 1_000.0
    monkeypatch.setattr(shard.options, "monotonic", lambda: now)
    settled_once, counted = tables.Counters.settled, []

    def count(*arguments):
        counted.append(arguments)
        return settled_once(*arguments)

    def refuse(*_):
        nonlocal tried
        tried += len(shard.unrecorded)
        raise SpoolUnavailable("a bad sector")

    with monkeypatch.context() as context:
        context.setattr(shard.database, "transact", refuse)
        context.setattr(tables.Counters, "settled", count)
        for settled, message in enumerate(messages, 1):
            # A second outcome of a message does not count.
            writer.commit([Note([messages[0].key, message.key], BatchResult(Status.DELIVERED))])
            # A reader waits all the while.
            assert writer.read(100, 1_000_000) is None
            counts = writer.look()()
            assert (counts.delivered, counts.pending, counts.unrecorded) == (settled, 100 - settled, settled)
        assert (tried, len(counted)) == (1, 100)
        now += 0.5
        writer.commit([Note([messages[0].key], BatchResult(Status.DELIVERED))])
        assert tried == 1 + 101
        # Each message takes them along; by themselves they are tried no more often.
        for tries in (1, 1, 2):
            tried, now = 0, now + 0.2
            writer.commit([Append([(b"new", b"{}")]), Note([messages[0].key], BatchResult(Status.DELIVERED))])
            assert tried == tries * len(shard.unrecorded)
    now += 0.5
    writer.commit([Note([messages[0].key], BatchResult(Status.DELIVERED))])
    counts = writer.look()()
    assert (counts.delivered, counts.pending, counts.pending_bytes, counts.unrecorded) == (100, 0, 0, 0)


def test_what_is_too_old_holds_up_nothing_while_the_disk_refuses(path, monkeypatch):
    now = 1_000.0
    writer = Writer(base_path(path), Options(max_age=10, wall_clock=lambda: now, monotonic=lambda: now))
    append(writer, "a")
    now += 11
    append(writer, "b")
    with monkeypatch.context() as context:
        context.setattr(writer._own.database, "transact", refuse)
        window = writer.read(100, 1_000_000)
    assert [(each.message_id, each.reason) for each in window.dropped] == [("a", "too_old")]
    assert [each.message_id for each in window.messages] == ["b"]
    writer.look_after()
    counts = writer.look()()
    assert (counts.dropped, counts.pending, counts.unrecorded) == (1, 1, 0)
    writer.close()


def test_what_was_erased_meanwhile_counts_as_the_inspector_says(writer, path, monkeypatch):
    writer.commit([Append([(b"a", b'{"userId":"u1"}'), (b"b", b'{"userId":"u2"}')])])
    messages = writer.read(100, 1_000_000).messages

    with monkeypatch.context() as context:
        context.setattr(writer._own.database, "transact", refuse)
        writer.commit([Note([each.key for each in messages], BatchResult(Status.DELIVERED))])
        assert writer.look()().delivered == 2
    assert SpoolInspector(path).purge("u1") == 1
    with monkeypatch.context() as context:
        context.setattr(writer._own.database, "transact", refuse)
        writer.look_after()
        counts = writer.look()()
        assert (counts.delivered, counts.dropped, counts.pending) == (1, 1, 0)
    writer.look_after()
    counts = writer.look()()
    assert (counts.delivered, counts.dropped, counts.pending, counts.unrecorded) == (1, 1, 0, 0)
