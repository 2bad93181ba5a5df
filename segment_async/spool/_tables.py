"""The tables of one shard, and every statement that the pipeline runs on them.

The interpreter's lock is given up and won back at each *step* of a statement, and beside a busy event loop winning it
back takes up to five milliseconds. So what is done per message is done in one step for many: rows are inserted by
statements with many rows, and read as one value that holds a whole page of them.

Nothing here begins or ends a transaction, decides, or repairs.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from segment_async._exceptions import SpoolUnavailable
from segment_async._outcome import BatchResult

from ._files import APPLICATION_ID, FORMAT, user_version
from ._ledger import Attempts, Ledger, Range, dead_checksum, message_checksum, ranges

Row = tuple[int, bytes, int, bytes]
"""A message as stored: position, id, milliseconds of its acceptance, body. Checked against its checksum when read."""

DeadRow = tuple[int, str, int, bytes, str, int | None, int, int, int]
"""Position, id, accepted at, body, reason, status code, attempts, possibly delivered, failed at."""

# To the letter a part of the format: a file whose tables were made with other words counts as damaged.
SCHEMA: Final = [
    """CREATE TABLE ledger (
        id INTEGER PRIMARY KEY, revision INTEGER NOT NULL, position INTEGER NOT NULL, accepted INTEGER NOT NULL,
        delivered INTEGER NOT NULL, failed INTEGER NOT NULL, dropped INTEGER NOT NULL, pending_bytes INTEGER NOT NULL,
        dead INTEGER NOT NULL, dead_bytes INTEGER NOT NULL, reasons TEXT NOT NULL, checksum INTEGER NOT NULL)""",
    """CREATE TABLE messages (
        position INTEGER PRIMARY KEY, message_id TEXT NOT NULL UNIQUE, accepted_at INTEGER NOT NULL,
        checksum INTEGER NOT NULL, body BLOB NOT NULL)""",
    """CREATE TABLE attempts (
        first INTEGER NOT NULL, last INTEGER NOT NULL, number INTEGER NOT NULL, since INTEGER NOT NULL,
        checksum INTEGER NOT NULL, PRIMARY KEY (first, last)) WITHOUT ROWID""",
    """CREATE TABLE dead (
        position INTEGER PRIMARY KEY, message_id TEXT NOT NULL, accepted_at INTEGER NOT NULL, body BLOB NOT NULL,
        reason TEXT NOT NULL, status_code INTEGER, attempts INTEGER NOT NULL, possibly_delivered INTEGER NOT NULL,
        failed_at INTEGER NOT NULL, checksum INTEGER NOT NULL)""",
    # Ids of messages that somebody erased from outside, until the running process has heard of it.
    "CREATE TABLE purged (message_id TEXT PRIMARY KEY) WITHOUT ROWID",
]

PAGE_SIZE: Final = 4096

# Below the 999 parameters that old versions of SQLite take.
_ROWS_A_STATEMENT: Final = 128
# SQLite's own tables aside, which the analysis tools of a curious visitor may have added.
_SCHEMA_QUERY: Final = "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%' ORDER BY rowid"
_BURIED_AT_ONCE: Final = 256


class Damaged(Exception):
    """What the file says cannot be."""


# SQLite quotes a damaged file in its errors, and Python fails where that is no text.
ERRORS: Final = (sqlite3.Error, UnicodeDecodeError)


def connect(database: Path | None, *, power_safe: bool, read_only: bool = False) -> sqlite3.Connection:
    """Open a database that exists; `None`: one in memory.

    Raises:
        SpoolUnavailable: it cannot be written as safely as it has to be.
    """
    if sqlite3.sqlite_version_info < (3, 24):
        raise SpoolUnavailable(f"the spool needs SQLite 3.24 or later; this is {sqlite3.sqlite_version}")
    mode = "ro" if read_only else "rw"
    uri = ":memory:" if database is None else f"file:{quote(str(database))}?mode={mode}"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
    try:
        _configure(connection, power_safe, read_only)
    except BaseException:
        connection.close()
        raise
    return connection


def _configure(connection: sqlite3.Connection, power_safe: bool, read_only: bool) -> None:
    # What is no text any more becomes another text, which fits no checksum; by itself Python would raise.
    connection.text_factory = _text
    connection.execute("PRAGMA busy_timeout = 5000")
    connection.execute("PRAGMA cache_size = -4000")
    if read_only:
        return
    # As by default almost everywhere; the layout of the first page depends on it, and it can only be said first.
    connection.execute("PRAGMA auto_vacuum = 0")
    connection.execute(f"PRAGMA page_size = {PAGE_SIZE}")
    mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode not in ("wal", "memory"):
        raise SpoolUnavailable("this file system does not let SQLite write ahead; a network's often do not")
    connection.execute(f"PRAGMA synchronous = {'FULL' if power_safe else 'NORMAL'}")
    # Systems where a plain sync stops at the disk's own cache; elsewhere without effect.
    connection.execute(f"PRAGMA fullfsync = {power_safe:d}")
    connection.execute("PRAGMA wal_autocheckpoint = 500")
    # On in some builds of SQLite; whoever erases messages for good rewrites the file instead.
    connection.execute("PRAGMA secure_delete = 0")


def _text(content: bytes) -> str:
    return content.decode(errors="replace")


def create(database: Path | None) -> sqlite3.Connection:
    """Make the tables in an empty file, or in memory. Nothing is synced."""
    connection = connect(database, power_safe=False)
    try:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {user_version(FORMAT)}")
        connection.execute("BEGIN")
        for statement in SCHEMA:
            connection.execute(statement)
        store_ledger(connection, Ledger())
        connection.execute("COMMIT")
    except BaseException:
        connection.close()
        raise
    return connection


def check_schema(connection: sqlite3.Connection) -> None:
    """Checked: raises `Damaged` where the tables are not as this version makes them."""
    if [sql for (sql,) in connection.execute(_SCHEMA_QUERY)] != SCHEMA:
        raise Damaged("the tables are not as they were made")


def check_pages(connection: sqlite3.Connection) -> None:
    """Read the file from end to end.

    Raises:
        Damaged: its pages do not fit together.
    """
    if [row[0] for row in connection.execute("PRAGMA quick_check(1)")] != ["ok"]:
        raise Damaged("its pages do not fit together")


# -- the ledger


def load_ledger(connection: sqlite3.Connection) -> Ledger:
    """Checked: raises `Damaged` where its checksum does not match."""
    return _ledger_of(connection.execute("SELECT * FROM ledger WHERE id = 1").fetchone())


def load_ledger_and_counts(connection: sqlite3.Connection, position: int) -> tuple[Ledger, int, int]:
    """The ledger, how many messages there are, and how many of them after a position, all at the same moment."""
    query = """
        SELECT *, (SELECT count(*) FROM messages), (SELECT count(*) FROM messages WHERE position > ?)
        FROM ledger WHERE id = 1
    """
    row = connection.execute(query, (position,)).fetchone()
    return _ledger_of(row and row[:-2]), row[-2], row[-1]


def _ledger_of(row: tuple[Any, ...] | None) -> Ledger:
    if row is None:
        raise Damaged("the ledger is missing")
    ledger, checksum = Ledger(*row[1:-1]), row[-1]
    if not _are_integers(ledger[:9]) or not isinstance(ledger.reasons, str) or ledger.checksum != checksum:
        raise Damaged("the ledger does not match its checksum")
    return ledger


def store_ledger(connection: sqlite3.Connection, ledger: Ledger) -> None:
    row = (1, *ledger, ledger.checksum)
    connection.execute("INSERT OR REPLACE INTO ledger VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)


_REPLACE_LEDGER: Final = """
    UPDATE ledger SET revision = ?, position = ?, accepted = ?, delivered = ?, failed = ?, dropped = ?,
        pending_bytes = ?, dead = ?, dead_bytes = ?, reasons = ?, checksum = ?
    WHERE id = 1 AND revision = ? AND checksum = ?
"""


def replace_ledger(connection: sqlite3.Connection, known: Ledger, ledger: Ledger) -> bool:
    """Whether the known one was there, and the other one is now."""
    row = (*ledger, ledger.checksum, known.revision, known.checksum)
    return connection.execute(_REPLACE_LEDGER, row).rowcount == 1


# -- messages


def insert_messages(connection: sqlite3.Connection, rows: Sequence[Row]) -> int:
    """Add those whose id is not there yet; returns how many."""
    inserted = start = 0
    while start < len(rows):
        # Powers of two, so that few statements serve any number of rows.
        size = min(_ROWS_A_STATEMENT, 1 << (len(rows) - start).bit_length() - 1)
        values = ", ".join(["(?, CAST(? AS TEXT), ?, ?, ?)"] * size)
        statement = f"INSERT INTO messages VALUES {values} ON CONFLICT (message_id) DO NOTHING"  # noqa: S608 -- question marks only
        part = rows[start : start + size]
        fields = chain.from_iterable((p, i, at, message_checksum(p, i, at, body), body) for p, i, at, body in part)
        inserted += connection.execute(statement, tuple(fields)).rowcount
        start += size
    return inserted


def count_messages(connection: sqlite3.Connection, where: Range) -> int:
    count: int = connection.execute("SELECT count(*) FROM messages WHERE position BETWEEN ? AND ?", where).fetchone()[0]
    return count


def positions_after(connection: sqlite3.Connection, position: int) -> set[int]:
    return {row[0] for row in connection.execute("SELECT position FROM messages WHERE position > ?", (position,))}


_PAGE: Final = """
    SELECT group_concat(position || ' ' || accepted_at || ' ' || checksum || ' ' || id_size || ' ' || body_size),
           CAST(group_concat(message_id, '') AS BLOB),
           CAST(group_concat(body, '') AS BLOB)
    FROM (SELECT position, accepted_at, checksum, message_id, body,
                 length(CAST(message_id AS BLOB)) AS id_size, length(body) AS body_size
          FROM messages WHERE position > ? ORDER BY position LIMIT ?)
"""


def read_messages(connection: sqlite3.Connection, after: int, count: int) -> list[Row]:
    """The next messages after a position, each checked.

    Raises:
        Damaged: one of them is not what was written.
    """
    heads, ids, bodies = connection.execute(_PAGE, (after, count)).fetchone()
    if heads is None:
        return []
    rows: list[Row] = []
    id_start = body_start = 0
    for head in heads.split(","):
        position, accepted_at, checksum, id_size, body_size = _numbers(head)
        id_end, body_end = id_start + id_size, body_start + body_size
        row = (position, ids[id_start:id_end], accepted_at, bodies[body_start:body_end])
        if position <= after or message_checksum(*row) != checksum:
            raise Damaged(f"the message at {position} does not match its checksum")
        rows.append(row)
        after, id_start, body_start = position, id_end, body_end
    return rows


def _numbers(head: str) -> tuple[int, int, int, int, int]:
    try:
        position, accepted_at, checksum, id_size, body_size = map(int, head.split())
    except ValueError:
        raise Damaged("a message's numbers are no numbers") from None
    return position, accepted_at, checksum, id_size, body_size


def remove_messages(connection: sqlite3.Connection, where: Range) -> tuple[int, int]:
    """Returns how many there were, and their bytes."""
    sums = "SELECT count(*), coalesce(sum(length(body)), 0) FROM messages WHERE position BETWEEN ? AND ?"
    count, size = connection.execute(sums, where).fetchone()
    connection.execute("DELETE FROM messages WHERE position BETWEEN ? AND ?", where)
    connection.execute(
        "DELETE FROM attempts WHERE last >= ? AND first <= ? "
        "AND NOT EXISTS (SELECT 1 FROM messages WHERE position BETWEEN first AND last)",
        where,
    )
    return count, size


def remove_by_id(connection: sqlite3.Connection, where: Range, message_ids: Iterable[bytes]) -> tuple[int, int]:
    """Remove what has one of these ids within the range; returns how many there were, and their bytes."""
    found = [
        position
        for message_id in message_ids
        for (position,) in connection.execute(
            "SELECT position FROM messages WHERE position BETWEEN ? AND ? AND message_id = CAST(? AS TEXT)",
            (*where, message_id),
        )
    ]
    removed = [remove_messages(connection, each) for each in ranges(found)]
    return sum(count for count, _ in removed), sum(size for _, size in removed)


# -- attempts


def store_attempts(connection: sqlite3.Connection, where: Range, number: int, now: int) -> None:
    """Note the `number`-th request with these messages; the time of the first one stays."""
    overlapping = "SELECT min(since) FROM attempts WHERE last >= ? AND first <= ?"
    since = connection.execute(overlapping, where).fetchone()[0]
    noted = Attempts(*where, number, now if since is None else min(since, now))
    connection.execute("INSERT OR REPLACE INTO attempts VALUES (?, ?, ?, ?, ?)", (*noted, noted.checksum))


def load_attempts(connection: sqlite3.Connection) -> list[Attempts]:
    """Checked: raises `Damaged` where a row does not match its checksum."""
    found = []
    for row in connection.execute("SELECT first, last, number, since, checksum FROM attempts"):
        if not _are_integers(row) or Attempts(*row[:4]).checksum != row[4]:
            raise Damaged("an attempt does not match its checksum")
        found.append(Attempts(*row[:4]))
    return found


# -- dead letters


def bury(connection: sqlite3.Connection, where: Range, fate: BatchResult, now: int) -> tuple[int, int]:
    """Copy messages to the dead letters; returns how many, and their bytes."""
    first, last = where
    count = size = 0
    more = (fate.reason or "", fate.status_code, fate.attempts, int(fate.possibly_delivered), now)
    while rows := [row for row in read_messages(connection, first - 1, _BURIED_AT_ONCE) if row[0] <= last]:
        insert_dead(connection, [(position, mid.decode(), at, body, *more) for position, mid, at, body in rows])
        first = rows[-1][0] + 1
        count += len(rows)
        size += sum(len(row[3]) for row in rows)
    return count, size


def insert_dead(connection: sqlite3.Connection, rows: Iterable[DeadRow]) -> None:
    connection.executemany(
        "INSERT OR REPLACE INTO dead VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [(*row, dead_checksum(row)) for row in rows],
    )


def read_dead(connection: sqlite3.Connection, after: int, count: int) -> list[DeadRow]:
    """Checked: raises `Damaged` where one of them is not what was written."""
    rows: list[DeadRow] = []
    for row in connection.execute("SELECT * FROM dead WHERE position > ? ORDER BY position LIMIT ?", (after, count)):
        if dead_checksum(row[:-1]) != row[-1]:
            raise Damaged("a dead letter does not match its checksum")
        rows.append(row[:-1])
    return rows


def oldest_dead(connection: sqlite3.Connection) -> int | None:
    """The position of the oldest dead letter."""
    position: int | None = connection.execute("SELECT min(position) FROM dead").fetchone()[0]
    return position


def remove_dead(connection: sqlite3.Connection, position: int) -> tuple[int, int]:
    """Returns how many there were, and their bytes."""
    found = connection.execute("SELECT length(body) FROM dead WHERE position = ?", (position,)).fetchone()
    connection.execute("DELETE FROM dead WHERE position = ?", (position,))
    return (0, 0) if found is None else (1, found[0])


# -- the file


def free_bytes(connection: sqlite3.Connection) -> int:
    """Room in the file that nothing is in."""
    pages: int = connection.execute("PRAGMA freelist_count").fetchone()[0]
    return pages * PAGE_SIZE


def shrink(connection: sqlite3.Connection) -> None:
    """Write the file anew with nothing but what is in the tables, and empty the log."""
    connection.execute("VACUUM")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


# -- what happens from outside


def outside_version(connection: sqlite3.Connection) -> int:
    """Changes when another connection has changed the file."""
    version: int = connection.execute("PRAGMA data_version").fetchone()[0]
    return version


def add_purged(connection: sqlite3.Connection, message_id: bytes) -> None:
    connection.execute("INSERT OR IGNORE INTO purged VALUES (CAST(? AS TEXT))", (message_id,))


def take_purged(connection: sqlite3.Connection) -> list[str]:
    found = [row[0] for row in connection.execute("SELECT message_id FROM purged")]
    if found:
        connection.execute("DELETE FROM purged")
    return found


def _are_integers(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int) for value in values)
