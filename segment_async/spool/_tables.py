"""The tables of one shard: their schema, their statements, a checksum for each row, and the counters.

    counters    one row, replaced in the transaction that changes the rows it counts
    messages    pending messages; `position` is their order of acceptance, and is never used twice
    attempts    requests noted for pending messages
    dead        messages that failed
    purged      pending messages erased by another process, until the process that uses the file has noticed

Python's sqlite3 releases the interpreter's lock at each step of a statement, and beside a busy event loop it takes up
to five milliseconds to get it back. So every statement here does in one step what it does for many messages.

Nothing here begins or ends a transaction, opens a file, or decides anything.
"""

from __future__ import annotations

import json
import sqlite3
import struct
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, Final, NamedTuple
from zlib import crc32

from segment_async._outcome import BatchResult, Status

PAGE_SIZE: Final = 4096
PAGE: Final = 512
"""Rows that one statement reads, and parameters that one takes; old versions of SQLite take 999."""
_ROWS_A_STATEMENT: Final = 128

# A file whose tables were made with other words, or other white space, counts as damaged: that takes another FORMAT.
SCHEMA: Final = [
    """CREATE TABLE counters (
        id INTEGER PRIMARY KEY, revision INTEGER NOT NULL, position INTEGER NOT NULL, accepted INTEGER NOT NULL,
        delivered INTEGER NOT NULL, failed INTEGER NOT NULL, dropped INTEGER NOT NULL, pending_bytes INTEGER NOT NULL,
        dead INTEGER NOT NULL, dead_bytes INTEGER NOT NULL, clock INTEGER NOT NULL, wall INTEGER NOT NULL,
        reasons TEXT NOT NULL, fingerprint TEXT NOT NULL, checksum INTEGER NOT NULL)""",
    """CREATE TABLE messages (
        position INTEGER PRIMARY KEY, message_id BLOB NOT NULL UNIQUE, accepted_at INTEGER NOT NULL,
        checksum INTEGER NOT NULL, body BLOB NOT NULL)""",
    """CREATE TABLE attempts (
        position INTEGER PRIMARY KEY, number INTEGER NOT NULL, checksum INTEGER NOT NULL)""",
    """CREATE TABLE dead (
        position INTEGER PRIMARY KEY, message_id BLOB NOT NULL, accepted_at INTEGER NOT NULL,
        checksum INTEGER NOT NULL, body BLOB NOT NULL, reason TEXT NOT NULL, status_code INTEGER,
        attempts INTEGER NOT NULL, possibly_delivered INTEGER NOT NULL, failed_at INTEGER NOT NULL,
        answer TEXT NOT NULL, result_checksum INTEGER NOT NULL)""",
    "CREATE TABLE purged (position INTEGER PRIMARY KEY, message_id BLOB NOT NULL)",
]
# Without SQLite's own tables, which analysis tools may have added.
_SCHEMA_QUERY: Final = "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%' ORDER BY rowid"

# SQLite quotes a damaged file in its errors, and Python fails if the quote is not UTF-8.
ERRORS: Final = (sqlite3.Error, UnicodeDecodeError)


class Damaged(Exception):
    """The file says something that cannot be true."""


def create(connection: sqlite3.Connection) -> None:
    for statement in SCHEMA:
        connection.execute(statement)
    store_counters(connection, Counters())


def check_schema(connection: sqlite3.Connection) -> None:
    """Raise `Damaged` unless the tables are as this version creates them."""
    if [sql for (sql,) in connection.execute(_SCHEMA_QUERY).fetchall()] != SCHEMA:
        raise Damaged("the tables are not as they were created")


# -- the counters


class Counters(NamedTuple):
    """The counters of a shard: `accepted == delivered + failed + dropped + pending`.

    Attributes:
        revision: number of transactions.
        position: the last one given out.
        clock, wall: the clock that messages age by and the wall clock at the last transaction, in milliseconds.
        reasons: JSON of how many messages failed or were dropped, by reason.
        fingerprint: of the write key and host that the spool belongs to; empty until a client has written.
    """

    revision: int = 0
    position: int = 0
    accepted: int = 0
    delivered: int = 0
    failed: int = 0
    dropped: int = 0
    pending_bytes: int = 0
    dead: int = 0
    dead_bytes: int = 0
    clock: int = 0
    wall: int = 0
    reasons: str = "{}"
    fingerprint: str = ""

    @property
    def pending(self) -> int:
        return self.accepted - self.delivered - self.failed - self.dropped

    @property
    def damaged(self) -> int:
        count: int = json.loads(self.reasons).get("damaged", 0)
        return count

    @property
    def checksum(self) -> int:
        text = f"{self.reasons}\n{self.fingerprint}".encode(errors="replace")
        return crc32(text, crc32(_NUMBERS.pack(*self[:_NUMBER_COUNT])))

    def plus(self, **changes: int) -> Counters:
        return self._replace(**{name: getattr(self, name) + change for name, change in changes.items()})

    def settled(self, count: int, size: int, result: BatchResult) -> Counters:
        """The counters after this many pending messages, of this many bytes together, ended like this."""
        counters = self.plus(**{result.status.value: count}, pending_bytes=-size)
        return counters if result.reason is None else counters._with_reason(result.reason, count)

    def revived(self, count: int, size: int, reason: str) -> Counters:
        """The counters after this many messages that had failed with this reason became pending again."""
        return self.plus(failed=-count, pending_bytes=size)._with_reason(reason, -count)

    def _with_reason(self, reason: str, change: int) -> Counters:
        reasons = json.loads(self.reasons)
        reasons[reason] = reasons.get(reason, 0) + change
        return self._replace(reasons=json.dumps({word: count for word, count in reasons.items() if count}))

    def caught_up(self, watermark: Counters | None) -> Counters:
        """The counters with what the file has lost since its watermark was set counted as damaged.

        Which of the lost transactions were appends and which were outcomes is not known: what was appended is lost,
        what was settled is pending again.
        """
        if watermark is None or watermark.revision <= self.revision:
            return self
        lost = max(0, watermark.accepted - self.accepted)
        later = self.plus(accepted=lost).settled(lost, 0, _DAMAGED) if lost else self
        return later._replace(revision=watermark.revision, position=max(self.position, watermark.position))

    def salvaged(self, found: int) -> Counters:
        """The counters after so many pending messages were found in a damaged file."""
        lost = self.pending - found
        if lost > 0:
            return self.settled(lost, 0, _DAMAGED)
        return self.plus(accepted=-lost)

    def pack(self) -> bytes:
        """What is kept beside the file as its watermark: everything but the reasons."""
        content = _NUMBERS.pack(*self[:_NUMBER_COUNT]) + self.fingerprint.encode()
        return content + crc32(content).to_bytes(4, "big")

    @classmethod
    def unpack(cls, packed: bytes) -> Counters | None:
        content = packed[:-4]
        if len(content) < _NUMBERS.size or crc32(content) != int.from_bytes(packed[-4:], "big"):
            return None
        numbers = _NUMBERS.unpack(content[: _NUMBERS.size])
        return cls(*numbers, fingerprint=content[_NUMBERS.size :].decode(errors="replace"))


_NUMBER_COUNT: Final = 11
_NUMBERS: Final = struct.Struct(f">{_NUMBER_COUNT}q")
_DAMAGED: Final = BatchResult(Status.DROPPED, "damaged")


def load_counters(connection: sqlite3.Connection) -> Counters:
    """Raises `Damaged` if the row does not match its checksum."""
    row = connection.execute("SELECT * FROM counters WHERE id = 1").fetchone()
    if row is None:
        raise Damaged("the counters are missing")
    counters = Counters(*row[1:-1])
    texts = (counters.reasons, counters.fingerprint)
    if not _are_integers(row[1 : 1 + _NUMBER_COUNT]) or not all(isinstance(text, str) for text in texts):
        raise Damaged("the counters are not numbers")
    if counters.checksum != row[-1]:
        raise Damaged("the counters do not match their checksum")
    return counters


def store_counters(connection: sqlite3.Connection, counters: Counters) -> None:
    values = ", ".join("?" * (len(counters) + 2))
    connection.execute(f"INSERT OR REPLACE INTO counters VALUES ({values})", (1, *counters, counters.checksum))  # noqa: S608 -- question marks only


# -- messages


class Row(NamedTuple):
    """A message as stored."""

    position: int
    message_id: bytes
    accepted_at: int
    body: bytes


class Head(NamedTuple):
    """What is known of a message without reading its body."""

    position: int
    accepted_at: int
    checksum: int
    id_size: int
    size: int


_POSITION_AND_TIME: Final = struct.Struct(">qq")


def checksum_of(position: int, message_id: bytes, accepted_at: int, body: bytes) -> int:
    return crc32(body, crc32(message_id, crc32(_POSITION_AND_TIME.pack(position, accepted_at))))


def insert_messages(connection: sqlite3.Connection, rows: Sequence[Row]) -> None:
    fields = [(position, mid, at, checksum_of(position, mid, at, body), body) for position, mid, at, body in rows]
    _insert(connection, "INSERT INTO messages", fields)


def find_positions(connection: sqlite3.Connection, positions: Sequence[int]) -> set[int]:
    """Those of the positions where a message is pending."""
    found: set[int] = set()
    for statement, values in _chunks("SELECT group_concat(position) FROM messages WHERE position IN ({})", positions):
        [text] = connection.execute(statement, values).fetchone()
        found.update(map(int, str(text).split(",")) if text is not None else ())
    return found


def salvage_message(connection: sqlite3.Connection, row: Row) -> bool:
    """Insert a message unless there is one with its id; returns whether it was."""
    statement = "INSERT OR IGNORE INTO messages VALUES (?, ?, ?, ?, ?)"
    position, message_id, accepted_at, body = row
    return connection.execute(statement, (position, message_id, accepted_at, checksum_of(*row), body)).rowcount == 1


def is_sound_message(row: tuple[Any, ...]) -> bool:
    """Whether position, id, time and body match the checksum after them."""
    try:
        return bool(checksum_of(*row[:4]) == row[4])
    except (struct.error, TypeError):
        return False


def find_ids(connection: sqlite3.Connection, message_ids: Sequence[bytes]) -> dict[bytes, int]:
    """The positions of those of the ids that are pending."""
    query = "SELECT message_id, position FROM messages WHERE message_id IN ({})"
    found: dict[bytes, int] = {}
    for statement, values in _chunks(query, message_ids):
        found.update(connection.execute(statement, values).fetchall())
    return found


_HEADS: Final = """
    SELECT group_concat(position || ' ' || accepted_at || ' ' || checksum || ' ' || id_size || ' ' || body_size)
    FROM (SELECT position, accepted_at, checksum, length(message_id) AS id_size, length(body) AS body_size
          FROM {} WHERE position > ? ORDER BY position LIMIT ?)
"""


def read_heads(connection: sqlite3.Connection, after: int, count: int = PAGE, table: str = "messages") -> list[Head]:
    """The next messages after a position, without their bodies. Raises `Damaged` if they are not in order."""
    [text] = connection.execute(_HEADS.format(table), (after, count)).fetchone()
    if text is None:
        return []
    try:
        heads = [Head(*map(int, head.split())) for head in text.split(",")]
    except (ValueError, TypeError):
        raise Damaged("the numbers of a message are not numbers") from None
    for head in heads:
        if head.position <= after:
            raise Damaged(f"the message at {head.position} is out of order")
        after = head.position
    return heads


_BODIES: Final = """
    SELECT CAST(group_concat(message_id, '') AS BLOB), CAST(group_concat(body, '') AS BLOB)
    FROM (SELECT message_id, body FROM messages WHERE position IN ({}) ORDER BY position)
"""


def read_rows(connection: sqlite3.Connection, heads: Sequence[Head]) -> list[Row]:
    """These messages with their bodies. Raises `Damaged` if one is not what was written."""
    rows: list[Row] = []
    for start in range(0, len(heads), PAGE):
        part = heads[start : start + PAGE]
        [(statement, values)] = _chunks(_BODIES, [head.position for head in part])
        ids, bodies = (content or b"" for content in connection.execute(statement, values).fetchone())
        id_start = body_start = 0
        for position, accepted_at, checksum, id_size, body_size in part:
            id_end, body_end = id_start + id_size, body_start + body_size
            row = Row(position, ids[id_start:id_end], accepted_at, bodies[body_start:body_end])
            if checksum_of(*row) != checksum:
                raise Damaged(f"the message at {position} does not match its checksum")
            rows.append(row)
            id_start, body_start = id_end, body_end
    return rows


def remove_messages(connection: sqlite3.Connection, positions: Sequence[int]) -> tuple[int, int]:
    """Remove those of the messages that are there; returns how many there were, and their bytes."""
    count = size = 0
    query = "SELECT count(*), coalesce(sum(length(body)), 0) FROM messages WHERE position IN ({})"
    for statement, values in _chunks(query, positions):
        some, some_bytes = connection.execute(statement, values).fetchone()
        count += some
        size += some_bytes
    for table in ("messages", "attempts"):
        for statement, values in _chunks(f"DELETE FROM {table} WHERE position IN ({{}})", positions):  # noqa: S608 -- two constants
            connection.execute(statement, values)
    return count, size


# -- attempts


def store_attempts(connection: sqlite3.Connection, positions: Sequence[int], number: int) -> None:
    """Note the `number`-th request with these messages."""
    rows = [(position, number, _attempt_checksum(position, number)) for position in positions]
    _insert(connection, "INSERT OR REPLACE INTO attempts", rows)


def load_attempts(connection: sqlite3.Connection, positions: Sequence[int]) -> dict[int, int]:
    """Requests noted for these messages. Raises `Damaged` if a row does not match its checksum."""
    found: dict[int, int] = {}
    for statement, values in _chunks("SELECT * FROM attempts WHERE position IN ({})", positions):
        found.update(_checked_attempts(connection.execute(statement, values).fetchall()))
    return found


def load_all_attempts(connection: sqlite3.Connection) -> dict[int, int]:
    """Raises `Damaged` if a row does not match its checksum."""
    return _checked_attempts(connection.execute("SELECT * FROM attempts").fetchall())


def _checked_attempts(rows: Sequence[tuple[Any, ...]]) -> dict[int, int]:
    if not all(_are_integers(row) and _attempt_checksum(*row[:2]) == row[2] for row in rows):
        raise Damaged("an attempt does not match its checksum")
    return {row[0]: row[1] for row in rows}


def _attempt_checksum(position: int, number: int) -> int:
    return crc32(b"%d %d" % (position, number))


# -- dead letters


class DeadRow(NamedTuple):
    """A dead letter as stored; its outcome has a checksum of its own, the same for all of a batch."""

    position: int
    message_id: bytes
    accepted_at: int
    checksum: int
    body: bytes
    reason: str
    status_code: int | None
    attempts: int
    possibly_delivered: int
    failed_at: int
    answer: str
    result_checksum: int

    @property
    def is_sound(self) -> bool:
        try:
            is_sound = checksum_of(self.position, self.message_id, self.accepted_at, self.body) == self.checksum
        except (struct.error, TypeError):
            return False
        return is_sound and _result_checksum(self[5:11]) == self.result_checksum


_MOVE: Final = """
    INSERT OR REPLACE INTO dead
    SELECT position, message_id, accepted_at, checksum, body, ?, ?, ?, ?, ?, ?, ?
    FROM messages WHERE position IN ({})
"""


def move_to_dead_letters(
    connection: sqlite3.Connection, positions: Sequence[int], result: BatchResult, answer: str, now: int
) -> None:
    """Copy these messages to the dead letters; the caller removes them."""
    outcome = (result.reason or "", result.status_code, result.attempts, int(result.possibly_delivered), now, answer)
    outcome += (_result_checksum(outcome),)
    for statement, values in _chunks(_MOVE, positions):
        connection.execute(statement, (*outcome, *values))


def _result_checksum(outcome: Sequence[object]) -> int:
    return crc32(repr(tuple(outcome)).encode(errors="replace"))


def read_dead(connection: sqlite3.Connection, after: int, count: int) -> list[DeadRow]:
    """Raises `Damaged` if one of them is not what was written."""
    query = "SELECT * FROM dead WHERE position > ? ORDER BY position LIMIT ?"
    rows = [DeadRow(*row) for row in connection.execute(query, (after, count)).fetchall()]
    if not all(row.is_sound for row in rows):
        raise Damaged("a dead letter does not match its checksum")
    return rows


def insert_dead(connection: sqlite3.Connection, rows: Sequence[DeadRow]) -> None:
    _insert(connection, "INSERT OR REPLACE INTO dead", rows)


def is_dead(connection: sqlite3.Connection, position: int) -> bool:
    return connection.execute("SELECT 1 FROM dead WHERE position = ?", (position,)).fetchone() is not None


def remove_dead(connection: sqlite3.Connection, positions: Sequence[int]) -> None:
    for statement, values in _chunks("DELETE FROM dead WHERE position IN ({})", positions):
        connection.execute(statement, values)


# -- messages erased by another process


def add_purged(connection: sqlite3.Connection, rows: Sequence[Row]) -> None:
    _insert(connection, "INSERT OR REPLACE INTO purged", [row[:2] for row in rows])


def read_purged(connection: sqlite3.Connection) -> dict[int, bytes]:
    return dict(connection.execute("SELECT position, message_id FROM purged").fetchall())


def remove_purged(connection: sqlite3.Connection, positions: Sequence[int]) -> None:
    for statement, values in _chunks("DELETE FROM purged WHERE position IN ({})", positions):
        connection.execute(statement, values)


# -- statements for many rows


def _insert(connection: sqlite3.Connection, insert: str, rows: Sequence[tuple[Any, ...]]) -> None:
    start = 0
    while start < len(rows):
        # Powers of two, so that few statements serve any number of rows.
        size = min(_ROWS_A_STATEMENT if len(rows[0]) <= 7 else 64, 1 << (len(rows) - start).bit_length() - 1)
        row = f"({', '.join('?' * len(rows[0]))})"
        values = tuple(chain.from_iterable(rows[start : start + size]))
        connection.execute(f"{insert} VALUES {', '.join([row] * size)}", values)
        start += size


def _chunks(query: str, values: Sequence[Any]) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """The query for some of the values at a time, each filled up to a power of two by repeating its last value."""
    for start in range(0, len(values), PAGE):
        part = tuple(values[start : start + PAGE])
        size = 1 << (len(part) - 1).bit_length()
        yield query.format(", ".join("?" * size)), part + part[-1:] * (size - len(part))


def _are_integers(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int) for value in values)
